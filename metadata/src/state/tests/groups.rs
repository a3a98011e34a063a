//! Configurations of groups, levels of features.

use super::*;

fn set(group: &str, entries: &[(&str, Option<&str>)]) -> Command {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.map(ToOwned::to_owned)));
    Command::AlterGroupConfigs { group: group.into(), set: entries.collect() }
}

fn levels(levels: &[(&str, i16)]) -> Command {
    Command::UpdateFeatures { levels: levels.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect() }
}

const SESSION: &str = "consumer.session.timeout.ms";

#[test]
fn groups_are_configured_and_forgotten() {
    let mut state = Metadata::default();
    state.done(set("g", &[(SESSION, Some("50000"))]));
    state.done(set("h", &[("consumer.heartbeat.interval.ms", Some("6000"))]));
    assert_eq!(state.group_config("g", SESSION), Some("50000"));
    assert_eq!(state.configured_groups().collect::<Vec<_>>(), ["g", "h"]);
    let restored = Metadata::restore(&state.snapshot()).unwrap();
    assert_eq!(restored, state);
    state.done(set("g", &[(SESSION, None), ("unknown", None)]));
    assert_eq!((state.group_config("g", SESSION), state.configured_groups().count()), (None, 1));
}

#[test]
fn what_groups_do_not_have_is_refused() {
    let mut state = Metadata::default();
    let long = "g".repeat(limits::MAX_GROUP_ID + 1);
    for command in [
        set("g", &[(SESSION, Some("44999"))]),
        set("g", &[(SESSION, Some("soon"))]),
        set("g", &[("retention.ms", Some("1"))]),
        set("g", &[(SESSION, Some("50000")), ("nothing", Some("1"))]),
        set("", &[(SESSION, Some("50000"))]),
        set(&long, &[(SESSION, Some("50000"))]),
    ] {
        let checked = state.check(&command).unwrap_err();
        assert_eq!(state.refused(command), checked);
        assert_eq!(state, Metadata::default());
    }
}

#[test]
fn features_have_levels_within_bounds_all_or_none() {
    let mut state = Metadata::default();
    assert_eq!(state.feature_level("group.version"), Some(1));
    assert_eq!((state.feature_level("transaction.version"), state.feature_level("nothing")), (Some(2), None));
    state.done(levels(&[("group.version", 0), ("transaction.version", 1)]));
    assert_eq!((state.feature_level("group.version"), state.features_epoch()), (Some(0), 2));
    assert_eq!(Metadata::restore(&state.snapshot()).unwrap(), state);
    let before = state.clone();
    for wrong in [levels(&[("group.version", 1), ("nothing", 1)]), levels(&[("metadata.version", 7)])] {
        assert!(matches!(state.refused(wrong), MetadataError::InvalidFeature(_)));
        assert_eq!(state, before);
    }
    state.done(levels(&[("group.version", 0)]));
    assert_eq!(state.features_epoch(), 2, "nothing has changed");
}
