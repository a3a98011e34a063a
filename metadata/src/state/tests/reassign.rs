//! Moving partitions.

use super::*;

#[test]
fn a_move_ends_when_the_target_is_in_sync() {
    let mut state = cluster(5, 1, &[0, 1, 2]);
    state.move_to(Some(&[3, 4, 2])).unwrap();
    let p = state.first();
    assert_eq!(
        (p.replicas.as_slice(), p.adding.as_slice(), p.removing.as_slice()),
        (&[3, 4, 2, 0, 1][..], &[3, 4][..], &[0, 1][..])
    );
    assert_eq!((p.target().as_slice(), p.leader_epoch), (&[3, 4, 2][..], 0));
    assert_eq!(state.roles(), (Some(0), vec![0, 1, 2], vec![]));
    state.ask_isr(&[0, 1, 2, 3]).unwrap();
    assert!(state.first().is_reassigning());
    let epoch = state.first().leader_epoch;
    state.ask_isr(&[0, 1, 2, 3, 4]).unwrap();
    let p = state.first();
    assert!(!p.is_reassigning());
    assert_eq!(p.replicas.as_slice(), [3, 4, 2]);
    assert_eq!(state.roles(), (Some(3), vec![2, 3, 4], vec![]));
    assert_eq!(state.first().leader_epoch, epoch + 1);
}

#[test]
fn what_needs_no_copy_is_done_at_once() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    state.move_to(Some(&[2, 0, 1])).unwrap();
    assert!(!state.first().is_reassigning());
    assert_eq!(state.roles().0, Some(0), "an order is no reason to move the leadership");
    assert_eq!(state.preferred_leader_moves(), [pid(1, 0)]);
    state.move_to(Some(&[2, 1])).unwrap();
    assert_eq!(state.roles(), (Some(2), vec![1, 2], vec![]));
    assert_eq!(state.topic("topic-1").unwrap().replication_factor, 2);
    let before = state.clone();
    state.move_to(Some(&[2, 1])).unwrap();
    assert_eq!(state, before);
}

#[test]
fn fewer_replicas_wait_for_those_that_stay() {
    let mut state = cluster(3, 1, &[0, 1, 2]);
    state.ask_isr(&[0, 1]).unwrap();
    state.move_to(Some(&[2])).unwrap();
    assert_eq!(state.first().replicas.as_slice(), [2, 0, 1]);
    state.ask_isr(&[0, 1, 2]).unwrap();
    assert_eq!((state.first().replicas.as_slice(), state.roles().0), (&[2][..], Some(2)));
}

#[test]
fn cancelled() {
    let mut state = cluster(4, 1, &[0, 1]);
    assert_eq!(state.move_to(None), Err(MetadataError::NoReassignment(pid(1, 0))));
    let before = state.first().clone();
    state.move_to(Some(&[2, 3])).unwrap();
    state.ask_isr(&[0, 1, 2]).unwrap();
    state.move_to(None).unwrap();
    let p = state.first();
    assert_eq!((&p.replicas, &p.isr, p.leader), (&before.replicas, &before.isr, Some(0)));
    assert!(!p.is_reassigning() && p.blank.is_empty());
}

#[test]
fn a_cancellation_that_would_lose_data_is_refused() {
    let mut state = cluster(3, 1, &[0]);
    state.move_to(Some(&[1, 2])).unwrap();
    state.ask_isr(&[0, 1]).unwrap();
    state.done(fence(0));
    assert_eq!(state.roles(), (Some(1), vec![1], vec![]));
    let before = state.clone();
    assert!(matches!(state.move_to(None), Err(MetadataError::InvalidRequest(_))));
    assert_eq!(state, before);
}

#[test]
fn another_target_under_way() {
    let mut state = cluster(5, 1, &[0, 1]);
    state.move_to(Some(&[2, 3])).unwrap();
    state.ask_isr(&[0, 1, 2]).unwrap();
    // 3 has nothing yet and is dropped; 2 is in sync and stays until the end.
    state.move_to(Some(&[0, 4])).unwrap();
    let p = state.first();
    assert_eq!((p.replicas.as_slice(), p.target().as_slice()), (&[0, 4, 2, 1][..], &[0, 4][..]));
    assert_eq!(p.adding.as_slice(), [4, 2]);
    let mut cancelled = state.clone();
    cancelled.move_to(None).unwrap();
    assert_eq!(cancelled.first().replicas.as_slice(), [0, 1], "as it was before both");
    state.ask_isr(&[0, 1, 2, 4]).unwrap();
    assert_eq!(state.first().replicas.as_slice(), [0, 4]);
}

#[test]
fn targets_that_cannot_be() {
    let mut state = cluster(2, 1, &[0]);
    let before = state.clone();
    for bad in [&[][..], &[0, 0], &[0, 9], &[0; 17]] {
        assert!(matches!(state.move_to(Some(bad)), Err(MetadataError::InvalidReplicaAssignment(_))));
    }
    assert_eq!(state, before);
    let Change::Reassigned(outcomes) = state.done(Command::Reassign { partitions: vec![(pid(7, 0), None)] }) else {
        panic!()
    };
    assert_eq!(outcomes, [(pid(7, 0), Err(MetadataError::UnknownPartition(pid(7, 0))))]);
}

#[test]
fn an_empty_newcomer_is_the_last_choice_of_an_unclean_election() {
    let mut state = cluster(3, 1, &[0, 1]);
    state.ask_isr(&[0]).unwrap();
    state.move_to(Some(&[2, 1])).unwrap();
    state.done(fence(0));
    assert_eq!(state.elect(true).unwrap().leader, 1);
}

#[test]
fn a_node_of_a_running_move_is_not_forgotten() {
    let mut state = cluster(2, 1, &[0]);
    state.move_to(Some(&[1])).unwrap();
    state.done(fence(1));
    assert!(matches!(state.refused(Command::UnregisterBroker { node_id: 1 }), MetadataError::BrokerInUse(_)));
}
