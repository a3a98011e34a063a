//! The state machine against its rules: refusals change nothing, snapshot and replay give the same state.

use proptest::prelude::*;

use super::*;
use crate::{Record, decode, encode};

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn create(name: &str, n: u128, partitions: i32) -> Command {
    Command::CreateTopic {
        name: name.into(),
        id: id(n),
        partitions,
        replication_factor: 1,
        configs: BTreeMap::new(),
        internal: false,
    }
}

fn with_config(name: &str, n: u128, key: &str, value: &str) -> Command {
    Command::CreateTopic {
        name: name.into(),
        id: id(n),
        partitions: 1,
        replication_factor: 1,
        configs: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        internal: false,
    }
}

fn register(incarnation: u128) -> Command {
    Command::RegisterBroker { node_id: 0, incarnation: id(incarnation), host: "h".into(), port: 1, rack: None }
}

#[track_caller]
fn refused(state: &mut Metadata, command: Command) -> MetadataError {
    let before = state.clone();
    let checked = state.check(&command).unwrap_err();
    let error = state.apply(command).unwrap_err();
    assert_eq!(checked, error);
    assert_eq!(*state, before, "a refused command changed the state");
    error
}

#[test]
fn create_lookup_delete() {
    let mut state = Metadata::default();
    assert_eq!(state.apply(create("a", 1, 3)), Ok(Change::TopicCreated { id: id(1) }));
    assert_eq!(state.topic("a").unwrap().id, id(1));
    assert_eq!(&*state.topic_by_id(id(1)).unwrap().name, "a");
    assert_eq!(state.partition_count(), 3);
    assert!(matches!(refused(&mut state, create("a", 2, 1)), MetadataError::TopicExists(_)));
    assert!(matches!(refused(&mut state, create("b", 1, 1)), MetadataError::TopicIdExists(_)));
    assert!(matches!(refused(&mut state, create("b", 0, 1)), MetadataError::TopicIdExists(_)));
    assert!(matches!(state.apply(Command::DeleteTopic { id: id(1) }), Ok(Change::TopicDeleted { .. })));
    assert!(state.topic("a").is_none());
    assert_eq!(state.partition_count(), 0);
    assert!(matches!(refused(&mut state, Command::DeleteTopic { id: id(1) }), MetadataError::UnknownTopic(_)));
    // The same name again is another topic.
    assert!(state.apply(create("a", 3, 1)).is_ok());
    assert!(state.topic_by_id(id(1)).is_none());
}

#[test]
fn names_that_collide_are_refused_until_the_other_is_gone() {
    let mut state = Metadata::default();
    state.apply(create("a.b", 1, 1)).unwrap();
    let error = refused(&mut state, create("a_b", 2, 1));
    assert!(error.to_string().contains("'a.b'"), "{error}");
    state.apply(Command::DeleteTopic { id: id(1) }).unwrap();
    state.apply(create("a_b", 2, 1)).unwrap();
}

#[test]
fn partitions_only_grow() {
    let mut state = Metadata::default();
    assert!(matches!(refused(&mut state, create("a", 1, 0)), MetadataError::InvalidPartitions(_)));
    assert!(matches!(refused(&mut state, create("a", 1, i32::MAX)), MetadataError::InvalidPartitions(_)));
    state.apply(create("a", 1, 2)).unwrap();
    let grow = |partitions| Command::GrowTopic { id: id(1), partitions };
    for bad in [-1, 0, 1, 2, i32::MAX] {
        assert!(matches!(refused(&mut state, grow(bad)), MetadataError::InvalidPartitions(_)));
    }
    assert_eq!(state.apply(grow(5)), Ok(Change::TopicGrown { id: id(1), from: 2, to: 5 }));
    assert_eq!((state.partition_count(), state.topic("a").unwrap().partitions), (5, 5));
}

#[test]
fn replicas_need_nodes() {
    let mut state = Metadata::default();
    for factor in [-1, 0, 2] {
        let Command::CreateTopic { name, id, partitions, configs, internal, .. } = create("a", 1, 1) else { panic!() };
        let command = Command::CreateTopic { name, id, partitions, configs, internal, replication_factor: factor };
        assert!(matches!(refused(&mut state, command), MetadataError::InvalidReplicationFactor(_)));
    }
}

#[test]
fn configs() {
    let mut state = Metadata::default();
    assert!(matches!(refused(&mut state, with_config("a", 1, "no.such.key", "1")), MetadataError::InvalidConfig(_)));
    assert!(matches!(refused(&mut state, with_config("a", 1, "retention.ms", "x")), MetadataError::InvalidConfig(_)));
    state.apply(with_config("a", 1, "retention.ms", "1000")).unwrap();
    assert_eq!(state.topic("a").unwrap().config.retention_ms, Some(1000));
    let alter = |key: &str, value: Option<&str>| Command::AlterTopicConfigs {
        id: id(1),
        set: BTreeMap::from([(key.to_owned(), value.map(str::to_owned))]),
    };
    state.apply(alter("cleanup.policy", Some("compact"))).unwrap();
    assert!(state.topic("a").unwrap().config.is_compacted());
    state.apply(alter("retention.ms", None)).unwrap();
    assert_eq!(state.topic("a").unwrap().config.retention_ms, Some(604_800_000));
    assert!(matches!(refused(&mut state, alter("nope", None)), MetadataError::InvalidConfig(_)));
}

#[test]
fn producer_ids_are_given_once() {
    let mut state = Metadata::default();
    let reserve = |first, count| Command::ReserveProducerIds { first, count };
    state.apply(reserve(0, 1000)).unwrap();
    assert!(matches!(refused(&mut state, reserve(0, 1000)), MetadataError::StaleProducerIds { expected: 1000, .. }));
    assert!(matches!(refused(&mut state, reserve(1000, 0)), MetadataError::InvalidRequest(_)));
    assert!(matches!(refused(&mut state, reserve(1000, i64::MAX)), MetadataError::InvalidRequest(_)));
    assert_eq!(state.next_producer_id(), 1000);
}

#[test]
fn one_cluster_id() {
    let mut state = Metadata::default();
    let name = |s: &str| Command::SetClusterId { cluster_id: s.into() };
    state.apply(name("one")).unwrap();
    state.apply(name("one")).unwrap();
    assert!(matches!(refused(&mut state, name("two")), MetadataError::ClusterIdMismatch { .. }));
}

#[test]
fn a_new_incarnation_raises_leader_epochs_of_older_topics_only() {
    let mut state = Metadata::default();
    state.apply(register(1)).unwrap();
    state.apply(create("old", 1, 1)).unwrap();
    let epoch = |state: &Metadata, name: &str| state.leader_epoch(state.topic(name).unwrap());
    assert_eq!(epoch(&state, "old"), 0);
    state.apply(register(1)).unwrap();
    assert_eq!(epoch(&state, "old"), 0, "the same process registered again");
    state.apply(register(2)).unwrap();
    state.apply(create("new", 2, 1)).unwrap();
    assert_eq!((epoch(&state, "old"), epoch(&state, "new")), (1, 0));
}

#[test]
fn listing_is_by_name() {
    let mut state = Metadata::default();
    for (n, name) in ["c", "a", "b"].into_iter().enumerate() {
        state.apply(create(name, n as u128 + 1, 1)).unwrap();
    }
    let names = |from| state.topics_from(from).map(|t| t.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(""), ["a", "b", "c"]);
    assert_eq!(names("aa"), ["b", "c"]);
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let n = 1..6u128;
    let one = prop_oneof![
        (0..6usize, n.clone(), 1..4i32).prop_map(|(name, n, p)| create(["a", "b", "a.b", "a_b", "c", "!"][name], n, p)),
        n.clone().prop_map(|n| Command::DeleteTopic { id: id(n) }),
        (n.clone(), 0..6i32).prop_map(|(n, partitions)| Command::GrowTopic { id: id(n), partitions }),
        (n.clone(), prop_oneof![Just(None), Just(Some("5")), Just(Some("x"))]).prop_map(|(n, v)| {
            let set = BTreeMap::from([("retention.ms".to_owned(), v.map(str::to_owned))]);
            Command::AlterTopicConfigs { id: id(n), set }
        }),
        (0..3i64).prop_map(|n| Command::ReserveProducerIds { first: n * 10, count: 10 }),
        n.prop_map(register),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// Log alone, and snapshot plus the rest of the log, give what applying gave; every record survives its encoding.
    #[test]
    fn replay_equals_apply(commands in commands(), cut in 0..60usize, torn in any::<bool>()) {
        let mut live = Metadata::default();
        let mut log: Vec<Record> = Vec::new();
        let mut compacted: Vec<Record> = Vec::new();
        for (n, command) in commands.into_iter().enumerate() {
            if n == cut {
                let mut snapshot = live.snapshot();
                if torn {
                    // A crash before the end: nothing before it was deleted, and it must count for nothing.
                    snapshot.pop();
                    compacted.extend(snapshot);
                } else {
                    compacted = snapshot;
                }
            }
            let _ = live.apply(command.clone());
            log.push(Record::Command(command.clone()));
            compacted.push(Record::Command(command));
        }
        for records in [log, compacted] {
            let mut replayed = Metadata::default();
            for record in records {
                replayed.replay(decode(&encode(&record).unwrap()).unwrap()).unwrap();
            }
            prop_assert_eq!(&replayed, &live);
            prop_assert_eq!(replayed.partition_count(), live.partition_count());
            prop_assert_eq!(replayed.snapshot(), live.snapshot());
        }
    }
}

#[test]
fn ten_thousand_topics_in_a_few_records() {
    let mut state = Metadata::default();
    for n in 0..10_000u128 {
        state.apply(create(&format!("topic-{n:05}"), n + 1, 1)).unwrap();
    }
    let records = state.snapshot();
    assert_eq!(records.len(), 12);
    let mut bytes = 0;
    let mut restored = Metadata::default();
    for record in records {
        let encoded = encode(&record).unwrap();
        bytes += encoded.len();
        restored.replay(decode(&encoded).unwrap()).unwrap();
    }
    assert!(bytes < 2_000_000, "{bytes}");
    assert_eq!(restored, state);
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let mut state = Metadata::default();
    state.apply(create("a", 1, 1)).unwrap();
    let records = state.snapshot();
    let mut fresh = Metadata::default();
    assert!(fresh.replay(records[1].clone()).is_err(), "topics without a start");
    fresh.replay(records[0].clone()).unwrap();
    assert!(fresh.replay(records[2].clone()).is_err(), "fewer topics than it says");
    assert_eq!(fresh.topic_count(), 0);
}
