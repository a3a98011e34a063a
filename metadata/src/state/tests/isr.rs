//! In-sync replicas: who may ask for which.

use super::*;

fn change(state: &Metadata, isr: &[(i32, u128)]) -> PartitionChange {
    let Partition { leader_epoch, partition_epoch, .. } = *state.first();
    let isr = isr.iter().map(|(n, start)| (*n, incarnation(*n, *start))).collect();
    PartitionChange { id: pid(1, 0), leader_epoch, partition_epoch, isr }
}

#[test]
fn a_leader_shrinks_and_expands() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    state.ask_isr(&[0, 2]).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0, 2], vec![]));
    assert_eq!((state.first().leader_epoch, state.first().partition_epoch), (0, 1));
    state.ask_isr(&[2, 1, 0]).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0, 1, 2], vec![]));
    state.ask_isr(&[2, 1, 0]).unwrap();
    assert_eq!(state.first().partition_epoch, 2, "nothing changed");
}

#[test]
fn epochs_are_compared() {
    let mut state = cluster(2, 1, &[0, 1]);
    let good = change(&state, &[(0, 0)]);
    for (leader_epoch, partition_epoch) in [(-1, 0), (1, 0), (0, -1), (0, 1)] {
        let stale = PartitionChange { leader_epoch, partition_epoch, ..good.clone() };
        let error = state.ask(0, stale).unwrap_err();
        assert_eq!(error, MetadataError::StaleEpoch { id: pid(1, 0), leader_epoch: 0, partition_epoch: 0 });
    }
    state.ask(0, good.clone()).unwrap();
    assert!(matches!(state.ask(0, good), Err(MetadataError::StaleEpoch { partition_epoch: 1, .. })));
    let unknown = PartitionChange { id: pid(1, 9), ..change(&state, &[(0, 0)]) };
    assert_eq!(state.ask(0, unknown), Err(MetadataError::UnknownPartition(pid(1, 9))));
}

#[test]
fn members_must_be_able_to_be_in_sync() {
    let mut state = cluster(5, 1, &[0, 1, 2, 3]);
    state.ask_isr(&[0]).unwrap();
    state.done(fence(1));
    state.done(register(2, 7));
    state.done(Command::Unfence { node_id: 2, incarnation: incarnation(2, 7) });
    state.done(stop(3));
    type Case<'a> = (&'a [(i32, u128)], i32, &'a str);
    let bad: [Case<'_>; 7] = [
        (&[], 0, "can't leave"),
        (&[(2, 7)], 0, "can't leave"),
        (&[(0, 0), (0, 0)], 0, "twice"),
        (&[(0, 0), (4, 0)], 4, "no replica"),
        (&[(0, 0), (1, 0)], 1, "fenced"),
        (&[(0, 0), (2, 0)], 2, "restarted"),
        (&[(0, 0), (3, 0)], 3, "shutting down"),
    ];
    let before = state.clone();
    for (isr, node, why) in bad {
        let change = change(&state, isr);
        let error = state.ask(0, change).unwrap_err();
        assert!(matches!(error, MetadataError::IneligibleReplica { node_id, .. } if node_id == node), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let not_leader = change(&state, &[(2, 7), (0, 0)]);
    assert!(matches!(state.ask(2, not_leader), Err(MetadataError::NotLeader { node_id: 2, .. })));
    assert_eq!(state, before);
    let good = change(&state, &[(0, 0), (2, 7)]);
    state.ask(0, good).unwrap();
    assert_eq!(state.roles().1, [0, 2]);
}

#[test]
fn each_partition_is_decided_alone() {
    let mut state = running(2);
    state.done(create_on(1, 1, &[&[0, 1], &[0, 1]]));
    let good = change(&state, &[(0, 0)]);
    let changes = vec![
        PartitionChange { partition_epoch: 9, ..good.clone() },
        PartitionChange { id: pid(1, 1), ..good.clone() },
        good,
    ];
    let applied =
        state.apply(payload(Command::AlterPartitions { node_id: 0, incarnation: incarnation(0, 0), changes }));
    let Ok(Change::PartitionsAltered(outcomes)) = &applied.results[0] else { panic!() };
    assert_eq!(
        outcomes.iter().map(|(id, r)| (*id, r.is_ok())).collect::<Vec<_>>(),
        [(pid(1, 0), false), (pid(1, 1), true), (pid(1, 0), true)]
    );
    assert_eq!(applied.touched, [pid(1, 0), pid(1, 1)]);
}

#[test]
fn all_that_leave_at_once_below_the_minimum_stay_eligible() {
    let mut state = cluster(3, 2, &[0, 1, 2]);
    state.ask_isr(&[0]).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0], vec![1, 2]));
    state.ask_isr(&[0, 2]).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0, 2], vec![]));
}

#[test]
fn a_damaged_copy_neither_leads_nor_counts() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    state.lose(0, pid(1, 0)).unwrap();
    assert_eq!(state.roles(), (Some(1), vec![1, 2], vec![]));
    assert_eq!(state.first().damaged.as_slice(), [0]);
    assert_eq!(state.lose(0, pid(9, 0)), Err(MetadataError::UnknownPartition(pid(9, 0))));
    // Caught up from the leader, it is as good as any.
    state.ask_isr(&[0, 1, 2]).unwrap();
    assert_eq!(state.roles().1, [0, 1, 2]);
    assert!(state.first().damaged.is_empty());
    // One that is no replica has nothing to lose.
    let mut state = cluster(2, 1, &[0]);
    assert!(matches!(state.lose(1, pid(1, 0)), Err(MetadataError::IneligibleReplica { .. })));
}

#[test]
fn the_last_copy_and_an_eligible_one_can_be_lost_too() {
    let mut state = cluster(2, 2, &[0, 1]);
    state.ask_isr(&[0]).unwrap();
    state.lose(1, pid(1, 0)).unwrap();
    assert_eq!(state.roles(), (Some(0), vec![0], vec![]));
    state.lose(0, pid(1, 0)).unwrap();
    assert_eq!(state.roles(), (None, vec![], vec![]));
    for node in [0, 1] {
        state.done(fence(node));
        state.done(unfence(node));
        assert_eq!(state.roles().0, None);
    }
}
