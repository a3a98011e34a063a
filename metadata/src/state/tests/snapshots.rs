//! Snapshots round trip, are the same for the same state, and are refused when they contradict themselves.

use super::*;
use crate::Origin;

fn rich() -> Metadata {
    let mut state = running(4);
    state.done(Command::SetClusterId { cluster_id: "c".into() });
    state.done(Command::ReserveProducerIds { first: 0, count: 1000 });
    state.done(create_on(1, 2, &[&[0, 1], &[2, 3]]));
    state.done(create("other", 2, 3, 3));
    state.ask_isr(&[0]).unwrap();
    state.move_to(Some(&[2, 1])).unwrap();
    state.lose(1, pid(1, 0)).unwrap();
    state.done(Command::CreateAcls { acls: vec![security::acl("t"), security::acl("u")] });
    state.done(security::set_scram("alice"));
    state.done(security::quota(Some(1.0 / 3.0)));
    state.done(fence(3));
    state.done(stop(2));
    for start in 1..4 {
        let origin = Some(Origin { node_id: 1, incarnation: incarnation(1, start), sequence: 1 });
        state.apply(Payload { origin, commands: vec![] });
    }
    state
}

#[test]
fn round_trip() {
    for state in [Metadata::default(), rich()] {
        let bytes = state.snapshot();
        let restored = Metadata::restore(&bytes).unwrap();
        assert_eq!(restored, state);
        assert_eq!(restored.snapshot(), bytes);
        assert_eq!(restored.partition_count(), state.partition_count());
        assert_eq!(restored.topic("other"), state.topic("other"));
    }
}

#[test]
fn wrong_snapshots_are_refused() {
    let good = String::from_utf8(rich().snapshot()).unwrap();
    let mut changed = Vec::new();
    for (from, to) in [
        (r#""next_producer_id""#, r#""next_id""#),
        (r#""l":0"#, r#""l":9"#),
        (r#""r":[2,1,0]"#, r#""r":[2,2,0]"#),
        (r#""r":[2,1,0]"#, r#""r":[]"#),
        (r#""i":[0]"#, r#""i":[8]"#),
        (r#""name":"other""#, r#""name":"topic-1""#),
        (r#""name":"other""#, r#""name":"/""#),
        (r#""min.insync.replicas":"2""#, r#""min.insync.replicas":"x""#),
        (r#""principal":"User:a""#, r#""principal":"a""#),
        (r#""iterations":4096"#, r#""iterations":0"#),
        (r#""salt":"0102""#, r#""salt":"010""#),
        (r#""consumer_byte_rate":"0.333"#, r#""consumer_byte_rate":"-0.333"#),
        (r#"}}"#, r#""#),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        changed.push(good.replacen(from, to, 1));
    }
    for bytes in changed {
        assert!(Metadata::restore(bytes.as_bytes()).is_err(), "{bytes}");
    }
    let newer = good.replacen(r#""v":2"#, r#""v":3"#, 1);
    assert_eq!(Metadata::restore(newer.as_bytes()), Err(MetadataError::UnknownVersion { found: 3, supported: 2 }));
    assert!(matches!(Metadata::restore(b""), Err(MetadataError::Malformed(_))));
}

/// What grows with the square of the topics would not end.
#[test]
fn a_hundred_thousand_topics_stay_cheap() {
    assert!(size_of::<Partition>() <= 192, "{}", size_of::<Partition>());
    let mut state = running(1);
    for n in 1..=100_000 {
        state.done(create(&format!("topic-{n:06}"), n, 1, -1));
    }
    assert!(matches!(state.refused(create("more", 100_001, 1, 1)), MetadataError::LimitReached(_)));
    assert_eq!(state.apply(payload(register(0, 1))).touched.len(), 100_000);
    state.done(Command::Unfence { node_id: 0, incarnation: incarnation(0, 1) });
    assert_eq!(state.partitions_led_by(0).count(), 100_000);
    assert!(state.preferred_leader_moves().is_empty() && state.rebalance_plan(10).is_empty());
    let bytes = state.snapshot();
    assert!(bytes.len() < 16_000_000, "{}", bytes.len());
    assert_eq!(Metadata::restore(&bytes).unwrap(), state);
}
