//! Nodes come, go and come back; proposals are applied once.

use super::*;
use crate::Origin;

#[test]
fn a_node_starts_fenced_and_gets_its_session() {
    let mut state = Metadata::default();
    let change = state.done(register(0, 0));
    assert_eq!(change, Change::BrokerRegistered { node_id: 0, new_incarnation: true, new_directory: false });
    assert!(state.broker(0).unwrap().fenced);
    assert_eq!(state.unfenced_brokers().count(), 0);
    state.done(unfence(0));
    assert_eq!(state.unfenced_brokers().map(|b| b.node_id).collect::<Vec<_>>(), [0]);
    // The same process again keeps its standing.
    let change = state.done(register(0, 0));
    assert_eq!(change, Change::BrokerRegistered { node_id: 0, new_incarnation: false, new_directory: false });
    assert!(!state.broker(0).unwrap().fenced);
}

#[test]
fn registrations_that_cannot_be() {
    let mut state = running(1);
    let error = state.refused(register_as(0, 0, 1, None));
    assert!(error.to_string().contains("without a restart"), "{error}");
    let long = "x".repeat(256);
    assert!(matches!(state.refused(register_as(1, 0, 0, Some(&long))), MetadataError::InvalidRequest(_)));
    let negative = Command::RegisterBroker {
        node_id: -1,
        incarnation: id(1),
        directory: id(1),
        host: "h".into(),
        port: 1,
        rack: None,
        endpoints: BTreeMap::new(),
    };
    assert!(matches!(state.refused(negative), MetadataError::InvalidRequest(_)));
}

#[test]
fn another_process_is_told_so() {
    let mut state = running(2);
    state.done(register(1, 5));
    for command in [fence(1), unfence(1), stop(1)] {
        assert!(matches!(state.refused(command), MetadataError::StaleIncarnation { node_id: 1, .. }));
    }
    for command in [fence(7), unfence(7), stop(7), Command::UnregisterBroker { node_id: 7 }] {
        assert_eq!(state.refused(command), MetadataError::UnknownBroker(7));
    }
    let incarnation = incarnation(1, 0);
    let stale = Command::AlterPartitions { node_id: 1, incarnation, changes: vec![] };
    assert!(matches!(state.refused(stale), MetadataError::StaleIncarnation { .. }));
    let stale = Command::LoseReplica { node_id: 1, incarnation, partitions: vec![] };
    assert!(matches!(state.refused(stale), MetadataError::StaleIncarnation { .. }));
}

#[test]
fn a_fenced_leader_is_replaced_in_a_new_epoch() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    let applied = state.apply(payload(fence(0)));
    assert_eq!(applied.touched, [pid(1, 0)]);
    assert_eq!(state.roles(), (Some(1), vec![1, 2], vec![]));
    assert_eq!((state.first().leader_epoch, state.first().partition_epoch), (1, 1));
    // A follower: the same epoch of the leader, another of the partition.
    state.done(fence(2));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![]));
    assert_eq!((state.first().leader_epoch, state.first().partition_epoch), (1, 2));
    // Fencing again changes nothing.
    assert!(state.apply(payload(fence(2))).touched.is_empty());
    assert_eq!(state.partitions_led_by(1).count(), 1);
    assert_eq!(state.partitions_led_by(0).count(), 0);
    assert_eq!(state.partitions_on(0).count(), 1);
}

#[test]
fn the_last_in_sync_replica_waits_for_its_return() {
    let mut state = cluster(2, 1, &[0, 1]);
    state.done(fence(1));
    state.done(fence(0));
    assert_eq!(state.roles(), (None, vec![0], vec![]));
    let epoch = state.first().leader_epoch;
    // Node 1 may miss what node 0 committed alone.
    state.done(unfence(1));
    assert_eq!(state.roles(), (None, vec![0], vec![]));
    state.done(unfence(0));
    assert_eq!(state.roles(), (Some(0), vec![0], vec![]));
    assert_eq!(state.first().leader_epoch, epoch + 1);
}

#[test]
fn a_restart_never_resumes_an_epoch() {
    let mut state = cluster(1, 1, &[0]);
    assert_eq!((state.first().leader, state.first().leader_epoch), (Some(0), 0));
    state.done(register(0, 1));
    assert_eq!((state.first().leader, state.first().leader_epoch), (None, 1));
    state.done(Command::Unfence { node_id: 0, incarnation: incarnation(0, 1) });
    assert_eq!((state.first().leader, state.first().leader_epoch), (Some(0), 2));
}

#[test]
fn a_restart_faster_than_the_session_moves_leaderships() {
    let mut state = cluster(2, 1, &[0, 1]);
    state.done(register(0, 1));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![]));
}

#[test]
fn a_new_disk_is_in_sync_with_nothing() {
    // Even the last one.
    let mut state = cluster(2, 1, &[0, 1]);
    state.ask_isr(&[0]).unwrap();
    let change = state.done(register_as(0, 1, 1, None));
    assert_eq!(change, Change::BrokerRegistered { node_id: 0, new_incarnation: true, new_directory: true });
    assert_eq!(state.roles(), (None, vec![], vec![]));
    state.done(Command::Unfence { node_id: 0, incarnation: incarnation(0, 1) });
    assert_eq!(state.roles(), (None, vec![], vec![]));
    // And one that was only eligible.
    let mut state = cluster(2, 2, &[0, 1]);
    state.done(fence(0));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![0]));
    state.done(register_as(0, 1, 1, None));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![]));
}

#[test]
fn below_the_minimum_who_leaves_stays_eligible() {
    let mut state = cluster(3, 2, &[0, 1, 2]);
    state.done(fence(2));
    assert_eq!(state.roles(), (Some(0), vec![0, 1], vec![]), "the minimum is met, so node 2 will miss things");
    state.done(fence(1));
    assert_eq!(state.roles(), (Some(0), vec![0], vec![1]));
    state.done(fence(0));
    assert_eq!(state.roles(), (None, vec![], vec![0, 1]));
    state.done(unfence(2));
    assert_eq!(state.roles(), (None, vec![], vec![0, 1]));
    state.done(unfence(1));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![0]));
    state.done(unfence(0));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![0]), "back, but to be caught up first");
    state.ask_isr(&[0, 1]).unwrap();
    assert_eq!(state.roles(), (Some(1), vec![0, 1], vec![]));
}

#[test]
fn an_eligible_replica_that_runs_takes_over_at_once() {
    let mut state = cluster(2, 2, &[0, 1]);
    state.ask_isr(&[0]).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0], vec![1]));
    state.done(fence(0));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![0]));
}

#[test]
fn a_minimum_above_the_replicas_means_all_of_them() {
    let mut state = cluster(1, 3, &[0]);
    state.done(fence(0));
    assert_eq!(state.roles(), (None, vec![0], vec![]));
    state.done(unfence(0));
    assert_eq!(state.roles().0, Some(0));
}

#[test]
fn who_shuts_down_hands_over_and_leaves() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    state.done(stop(0));
    assert_eq!(state.roles(), (Some(1), vec![1, 2], vec![]));
    // At the minimum it stays in, so that acknowledgements go on until the end, but leads no more.
    let mut state = cluster(2, 2, &[0, 1]);
    state.done(stop(0));
    assert_eq!(state.roles(), (Some(1), vec![0, 1], vec![]));
    assert_eq!(state.first().leader_epoch, 1);
    assert!(state.ask_isr(&[0, 1]).is_ok(), "who is in may stay in");
    // Alone it leads on.
    let mut state = cluster(2, 1, &[0]);
    state.done(stop(0));
    assert_eq!(state.roles(), (Some(0), vec![0], vec![]));
    assert_eq!(state.first().leader_epoch, 0);
    assert!(state.apply(payload(stop(0))).touched.is_empty());
    // Between two that shut down there is no reason to move.
    let mut state = cluster(2, 2, &[0, 1]);
    state.done(stop(0));
    state.done(stop(1));
    assert_eq!(state.roles(), (Some(1), vec![0, 1], vec![]));
    state.done(fence(1));
    assert_eq!(state.roles(), (Some(0), vec![0], vec![1]), "better than nobody");
}

#[test]
fn a_node_is_forgotten_once_nothing_needs_it() {
    let mut state = cluster(2, 1, &[0]);
    let unregister = |node_id| Command::UnregisterBroker { node_id };
    let error = state.refused(unregister(1));
    assert!(error.to_string().contains("still runs"), "{error}");
    state.done(fence(0));
    let error = state.refused(unregister(0));
    assert!(error.to_string().contains("replicas of 1 partitions"), "{error}");
    state.done(fence(1));
    assert_eq!(state.done(unregister(1)), Change::BrokerUnregistered { node_id: 1 });
    assert!(state.broker(1).is_none());
}

fn from(node_id: i32, start: u128, sequence: u64) -> Payload {
    let origin = Some(Origin { node_id, incarnation: incarnation(node_id, start), sequence });
    Payload { origin, commands: vec![Command::ReserveProducerIds { first: -1, count: 0 }] }
}

#[test]
fn each_proposal_counts_once() {
    let mut state = Metadata::default();
    let mut step = |start, sequence| state.apply(from(0, start, sequence)).skipped;
    for (start, sequence, skipped, why) in [
        (1, 2, true, "it must begin at 1"),
        (1, 1, false, ""),
        (1, 1, true, "again"),
        (1, 3, true, "a gap"),
        (1, 2, false, "even after a refusal"),
        (2, 2, true, "a new process begins at 1"),
        (2, 1, false, ""),
        (1, 3, true, "late, from the process before"),
        (1, 1, true, "very late, and no new process"),
        (2, 2, false, ""),
        (2, u64::MAX, true, ""),
    ] {
        assert_eq!(step(start, sequence), skipped, "{start}/{sequence}: {why}");
    }
    assert_eq!(state.last_sequence(0, incarnation(0, 2)), 2);
    assert_eq!(state.last_sequence(0, incarnation(0, 1)), 0);
    assert!(!state.apply(from(1, 1, 1)).skipped, "each node counts for itself");
    let skipped = state.apply(from(0, 2, 1));
    assert!(skipped.results.is_empty() && skipped.touched.is_empty());
}

#[test]
fn remembered_proposers_are_bounded() {
    let mut state = running(2);
    for node in 0..3_000 {
        assert!(!state.apply(from(node, 1, 1)).skipped);
    }
    assert_eq!(state.origins.len(), limits::MAX_ORIGINS);
    assert!(state.apply(from(0, 1, 1)).skipped, "registered nodes are not forgotten");
    for start in 2..20 {
        assert!(!state.apply(from(0, start, 1)).skipped);
    }
    assert_eq!(state.origins[&0].past.len(), limits::MAX_PAST_INCARNATIONS);
}
