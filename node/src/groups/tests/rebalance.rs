//! From one generation to the next: SyncGroup, Heartbeat, LeaveGroup, and the clock.

use super::*;

/// Brings a group of two to a state; the members are of the last generation that they were told.
fn world_in(state: StateName) -> (World, Vec<JoinResponse>) {
    let mut world = World::new();
    let members = match state {
        StateName::CompletingRebalance => world.joined(2),
        StateName::Stable | StateName::PreparingRebalance | StateName::Empty | StateName::Dead => world.stable(2),
        StateName::Assigning | StateName::Reconciling => panic!("{state} is of consumer groups"),
    };
    match state {
        StateName::CompletingRebalance | StateName::Stable | StateName::Assigning | StateName::Reconciling => {}
        StateName::PreparingRebalance => {
            world.send(Request::Join(newcomer()));
        }
        StateName::Empty => {
            // Offsets keep the group's memory of itself alive.
            world.commit(Some(&members[0]), "t", 1);
            for member in &members {
                assert_eq!(world.leave(&member.member_id, None), GroupError::None);
            }
        }
        StateName::Dead => {
            for member in &members {
                world.leave(&member.member_id, None);
            }
            world.prompt = false;
            world.send(Request::Delete(DeleteRequest { groups: vec![GROUP.into()] }));
        }
    }
    (world, members)
}

const STATES: [StateName; 5] = [
    StateName::Empty,
    StateName::PreparingRebalance,
    StateName::CompletingRebalance,
    StateName::Stable,
    StateName::Dead,
];

#[test]
fn every_state_answers_members_as_clients_expect() {
    use GroupError::*;
    // heartbeat, sync of a follower (None: waits), commit of a member, leave
    let table = |state| match state {
        StateName::Empty => (UnknownMemberId, Some(UnknownMemberId), UnknownMemberId, UnknownMemberId),
        StateName::PreparingRebalance => (RebalanceInProgress, Some(RebalanceInProgress), None, None),
        StateName::CompletingRebalance => (None, Option::None, RebalanceInProgress, None),
        StateName::Stable => (None, Some(None), None, None),
        StateName::Dead => {
            (CoordinatorNotAvailable, Some(CoordinatorNotAvailable), CoordinatorNotAvailable, CoordinatorNotAvailable)
        }
        StateName::Assigning | StateName::Reconciling => panic!("{state} is of consumer groups"),
    };
    for state in STATES {
        let (heartbeat, sync, commit, leave) = table(state);
        let (mut world, members) = world_in(state);
        assert_eq!(world.state(), state);
        assert_eq!(world.heartbeat(&members[1]), heartbeat, "heartbeat in {state}");
        let (mut world, members) = world_in(state);
        let request = world.send(Request::Sync(follow(&members[1])));
        assert_eq!(world.sync_reply(request).map(|(error, _)| error), sync, "sync in {state}");
        let (mut world, members) = world_in(state);
        assert_eq!(world.commit(Some(&members[1]), "t", 1), commit, "commit in {state}");
        let (mut world, members) = world_in(state);
        assert_eq!(world.leave(&members[1].member_id, Option::None), leave, "leave in {state}");
    }
}

#[test]
fn strangers_and_old_generations_are_told_apart() {
    use GroupError::*;
    for state in [StateName::PreparingRebalance, StateName::CompletingRebalance, StateName::Stable] {
        let (mut world, members) = world_in(state);
        let stranger = JoinResponse { member_id: "nobody".into(), ..members[1].clone() };
        let old = JoinResponse { generation: members[1].generation - 1, ..members[1].clone() };
        for (member, expected) in [(&stranger, UnknownMemberId), (&old, IllegalGeneration)] {
            assert_eq!(world.heartbeat(member), expected, "heartbeat in {state}");
            assert_eq!(world.commit(Some(member), "t", 1), expected, "commit in {state}");
            let request = world.send(Request::Sync(follow(member)));
            assert_eq!(world.sync_reply(request).unwrap().0, expected, "sync in {state}");
        }
        assert_eq!(world.leave("nobody", Option::None), UnknownMemberId);
    }
}

#[test]
fn a_group_that_does_not_exist_knows_nobody() {
    let mut world = World::new();
    assert_eq!(world.heartbeat_as("m", None, 1), GroupError::UnknownMemberId);
    assert_eq!(world.leave("m", None), GroupError::UnknownMemberId);
    let member = JoinResponse { member_id: "m".into(), generation: 1, ..world.join_now(newcomer()) };
    world.advance(3_600_000);
    let request = world.send(Request::Sync(follow(&member)));
    assert_eq!(world.sync_reply(request).unwrap().0, GroupError::UnknownMemberId);
    assert_eq!(world.commit(Some(&member), "t", 1), GroupError::IllegalGeneration);
    assert_eq!(world.state(), StateName::Dead);
}

#[test]
fn nobody_gets_an_assignment_that_is_not_durable() {
    let mut world = World::new();
    let members = world.joined(2);
    world.prompt = false;
    let follower = world.send(Request::Sync(follow(&members[1])));
    let leader = world.send(Request::Sync(assign(&members[0], &members)));
    assert_eq!((world.sync_reply(follower), world.sync_reply(leader)), (None, None));
    assert_eq!(world.state(), StateName::CompletingRebalance);
    world.append_done(Ok(()));
    for (request, member) in [(follower, &members[1]), (leader, &members[0])] {
        let (error, assignment) = world.sync_reply(request).unwrap();
        assert_eq!((error, &assignment[..]), (GroupError::None, member.member_id.as_bytes()));
    }
    assert_eq!(world.state(), StateName::Stable);
}

#[test]
fn an_assignment_that_fails_to_persist_leads_to_another_rebalance() {
    for (failure, expected) in [
        (PersistError::NotAvailable, GroupError::CoordinatorNotAvailable),
        (PersistError::TooLarge, GroupError::GroupMaxSizeReached),
    ] {
        let mut world = World::new();
        let members = world.joined(2);
        world.prompt = false;
        let follower = world.send(Request::Sync(follow(&members[1])));
        let leader = world.send(Request::Sync(assign(&members[0], &members)));
        world.append_done(Err(failure));
        assert_eq!(world.sync_reply(follower).unwrap().0, expected);
        assert_eq!(world.sync_reply(leader).unwrap().0, expected);
        assert_eq!(world.state(), StateName::PreparingRebalance);
        assert!(world.durable.is_empty());
    }
}

#[test]
fn a_rebalance_overtakes_an_assignment_on_its_way() {
    let mut world = World::new();
    let members = world.joined(2);
    world.prompt = false;
    let leader = world.send(Request::Sync(assign(&members[0], &members)));
    world.send(Request::Join(newcomer()));
    assert_eq!(world.sync_reply(leader).unwrap().0, GroupError::RebalanceInProgress);
    world.append_done(Ok(()));
    assert_eq!(world.state(), StateName::PreparingRebalance, "what became durable is of a generation that is over");
    for member in &members {
        world.send(Request::Join(rejoin(member)));
    }
    assert_eq!(world.state(), StateName::CompletingRebalance);
}

#[test]
fn syncs_are_checked_against_the_chosen_protocol() {
    let mut world = World::new();
    let members = world.joined(2);
    for sync in [
        SyncRequest { protocol_type: Some("connect".into()), ..follow(&members[1]) },
        SyncRequest { protocol_name: Some("sticky".into()), ..follow(&members[1]) },
    ] {
        let request = world.send(Request::Sync(sync));
        assert_eq!(world.sync_reply(request).unwrap().0, GroupError::InconsistentGroupProtocol);
    }
    let old_client = SyncRequest { protocol_type: None, protocol_name: None, ..follow(&members[1]) };
    let request = world.send(Request::Sync(old_client));
    assert_eq!(world.sync_reply(request), None, "before v5 there is nothing to compare");
}

#[test]
fn members_that_the_leader_forgot_get_nothing_and_strangers_are_dropped() {
    let mut world = World::new();
    let members = world.joined(2);
    let mut sync = assign(&members[0], &members[..1]);
    sync.assignments.push(("nobody".into(), Bytes::from_static(b"x")));
    world.send(Request::Sync(sync));
    let request = world.send(Request::Sync(follow(&members[1])));
    assert_eq!(world.sync_reply(request), Some((GroupError::None, Bytes::new())));
    assert_eq!(world.describe().members.len(), 2);
}

#[test]
fn a_newcomer_gets_in_when_all_have_rejoined() {
    let mut world = World::new();
    let members = world.stable(2);
    let third = world.send(Request::Join(newcomer()));
    for member in &members {
        assert_eq!(world.heartbeat(member), GroupError::RebalanceInProgress);
    }
    let again: Vec<_> = members.iter().map(|m| world.send(Request::Join(rejoin(m)))).collect();
    let third = world.join_reply(third).unwrap();
    assert_eq!(third.generation, members[0].generation + 1);
    for request in again {
        assert_eq!(world.join_reply(request).unwrap().generation, third.generation);
    }
    assert_eq!(world.heartbeat(&members[0]), GroupError::IllegalGeneration);
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let mut world = World::new();
    let members = world.stable(2);
    let third = world.send(Request::Join(newcomer()));
    // Heartbeats keep the session, but do not answer the call.
    for _ in 0..11 {
        world.advance(5_000);
        for member in &members {
            assert_eq!(world.heartbeat(member), GroupError::RebalanceInProgress);
        }
    }
    assert_eq!(world.join_reply(third), None);
    world.advance(5_000);
    let third = world.join_reply(third).unwrap();
    assert_eq!((third.members.len(), &third.leader), (1, &third.member_id));
    assert_eq!(world.heartbeat(&members[0]), GroupError::UnknownMemberId);
}

#[test]
fn silence_ends_a_membership() {
    let mut world = World::new();
    let members = world.stable(2);
    world.advance(9_999);
    assert_eq!(world.heartbeat(&members[0]), GroupError::None);
    world.advance(1);
    assert_eq!(world.heartbeat(&members[1]), GroupError::UnknownMemberId, "its session was over");
    assert_eq!(world.heartbeat(&members[0]), GroupError::RebalanceInProgress);
    let alone = world.join_now(rejoin(&members[0]));
    assert_eq!((alone.generation, alone.members.len()), (members[0].generation + 1, 1));
}

#[test]
fn who_waits_for_an_answer_is_not_silent() {
    let mut world = World::new();
    let members = world.joined(2);
    let follower = world.send(Request::Sync(follow(&members[1])));
    for _ in 0..5 {
        world.advance(9_000);
        assert_eq!(world.heartbeat(&members[0]), GroupError::None);
    }
    assert_eq!(world.sync_reply(follower), None);
    assert_eq!(world.describe().members.len(), 2);
}

#[test]
fn a_leader_that_never_assigns_is_out() {
    let mut world = World::new();
    let members = world.joined(2);
    let follower = world.send(Request::Sync(follow(&members[1])));
    for _ in 0..12 {
        world.advance(5_000);
        world.heartbeat(&members[0]);
    }
    assert_eq!(world.sync_reply(follower).unwrap().0, GroupError::RebalanceInProgress);
    assert_eq!(world.heartbeat(&members[0]), GroupError::UnknownMemberId);
    let next = world.join_now(rejoin(&members[1]));
    assert_eq!(next.leader, next.member_id);
}

#[test]
fn a_follower_that_never_fetches_its_assignment_is_out() {
    let mut world = World::new();
    let members = world.joined(2);
    let leader = world.send(Request::Sync(assign(&members[0], &members)));
    assert_eq!(world.sync_reply(leader).unwrap().0, GroupError::None);
    for _ in 0..12 {
        world.advance(5_000);
        world.heartbeat(&members[0]);
        world.heartbeat(&members[1]);
    }
    assert_eq!(world.heartbeat(&members[1]), GroupError::UnknownMemberId);
    assert_eq!(world.heartbeat(&members[0]), GroupError::RebalanceInProgress);
}

#[test]
fn a_new_member_whose_client_is_gone_is_let_go_in_the_end() {
    let mut world = World::new();
    let members = world.stable(1);
    let gone = JoinRequest { session_timeout_ms: 1_000_000, rebalance_timeout_ms: 2_000_000, ..newcomer() };
    let gone = world.send(Request::Join(gone));
    for _ in 0..300 {
        world.advance(1_000);
        world.heartbeat(&members[0]);
    }
    assert_eq!(world.join_reply(gone).map(|r| r.error), Some(GroupError::UnknownMemberId));
}

#[test]
fn leaving_rebalances_the_rest_and_the_last_one_empties_the_group() {
    let mut world = World::new();
    let members = world.stable(2);
    assert_eq!(world.leave(&members[0].member_id, None), GroupError::None);
    assert_eq!(world.heartbeat(&members[1]), GroupError::RebalanceInProgress);
    let alone = world.join_now(rejoin(&members[1]));
    assert_eq!(alone.leader, alone.member_id, "somebody leads after the leader left");
    assert_eq!(world.leave(&alone.member_id, None), GroupError::None);
    assert_eq!(world.state(), StateName::Empty);
    let next = world.join_now(newcomer());
    assert!(next.generation > alone.generation, "generations go on");
}

#[test]
fn an_id_given_out_can_be_given_back() {
    let mut world = World::new();
    let members = world.stable(1);
    let given = world.join_now(JoinRequest { known_member_id_required: true, ..newcomer() });
    assert_eq!(world.leave(&given.member_id, None), GroupError::None);
    assert_eq!(world.heartbeat(&members[0]), GroupError::None, "nobody rebalances for that");
    assert_eq!(world.leave(&given.member_id, None), GroupError::UnknownMemberId);
}

#[test]
fn an_id_given_back_ends_the_wait_for_it() {
    let mut world = World::new();
    let given = world.join_now(JoinRequest { known_member_id_required: true, ..newcomer() });
    let other = world.send(Request::Join(newcomer()));
    assert_eq!(world.join_reply(other), None);
    world.leave(&given.member_id, None);
    assert_eq!(world.join_reply(other).map(|r| r.error), Some(GroupError::None));
}

#[test]
fn the_leave_of_a_member_that_waits_answers_it() {
    let mut world = World::new();
    let members = world.stable(2);
    let waiting = world.send(Request::Join(rejoin(&members[0])));
    assert_eq!(world.leave(&members[0].member_id, None), GroupError::None);
    assert_eq!(world.join_reply(waiting).map(|r| r.error), Some(GroupError::UnknownMemberId));
}

#[test]
fn a_newcomer_whose_connection_breaks_holds_nobody_up() {
    let mut world = World::new();
    let members = world.stable(1);
    let gone = world.send(Request::Join(newcomer()));
    assert_eq!(world.heartbeat(&members[0]), GroupError::RebalanceInProgress);
    world.step(Input::Abandoned { request: gone });
    let alone = world.join_now(rejoin(&members[0]));
    assert_eq!((alone.error, alone.members.len()), (GroupError::None, 1));
    world.step(Input::Abandoned { request: gone });
}

#[test]
fn a_member_whose_connection_breaks_has_its_session_to_come_back() {
    let mut world = World::new();
    let members = world.stable(2);
    let broken = world.send(Request::Join(rejoin(&members[0])));
    world.step(Input::Abandoned { request: broken });
    let other = world.send(Request::Join(rejoin(&members[1])));
    assert_eq!(world.join_reply(other), None, "the group waits for it");
    world.advance(10_000);
    let other = world.join_reply(other).unwrap();
    assert_eq!(other.members.len(), 1);
    assert_eq!(world.join_reply(broken), None);
}

#[test]
fn zero_and_negative_rebalance_timeouts_do_not_spin() {
    for rebalance_timeout_ms in [0, -1, i32::MIN] {
        let mut world = World::new();
        let members = world.stable(1);
        world.send(Request::Join(JoinRequest { rebalance_timeout_ms, ..static_newcomer("i") }));
        world.send(Request::Join(JoinRequest { rebalance_timeout_ms, ..rejoin(&members[0]) }));
        world.advance(100_000);
    }
}
