//! Static members (KIP-345, KIP-814): a place in the group that outlives the process which holds it.

use super::*;

/// A stable group of one dynamic member and the static member `i`; says which of them leads.
fn stable_with_static(world: &mut World, static_leads: bool) -> (JoinResponse, JoinResponse) {
    let (first, second) =
        if static_leads { (static_newcomer("i"), newcomer()) } else { (newcomer(), static_newcomer("i")) };
    let leader = world.join_now(first.clone());
    let second = world.send(Request::Join(second));
    let again = JoinRequest { member_id: leader.member_id.clone(), ..first };
    let leader = world.send(Request::Join(again));
    let (leader, second) = (world.join_reply(leader).unwrap(), world.join_reply(second).unwrap());
    assert_eq!(leader.leader, leader.member_id);
    world.synced(&[leader.clone(), second.clone()]);
    if static_leads { (second, leader) } else { (leader, second) }
}

#[test]
fn a_static_member_is_let_in_without_being_given_an_id_first() {
    let mut world = World::new();
    let response = world.join_now(static_newcomer("i"));
    assert_eq!((response.error, response.generation), (GroupError::None, 1));
    assert_eq!(response.members[0].instance_id.as_deref(), Some("i"));
}

#[test]
fn a_static_follower_comes_back_without_a_rebalance_and_fences_its_old_self() {
    let mut world = World::new();
    let (dynamic, old) = stable_with_static(&mut world, false);
    let new = world.join_now(static_newcomer("i"));
    assert_eq!((new.error, new.generation), (GroupError::None, old.generation));
    assert_ne!(new.member_id, old.member_id);
    assert_eq!((new.leader.clone(), new.members.len()), (dynamic.member_id.clone(), 0));
    let sync = world.send(Request::Sync(SyncRequest { instance_id: Some("i".into()), ..follow(&new) }));
    let (error, assignment) = world.sync_reply(sync).unwrap();
    assert_eq!((error, &assignment[..]), (GroupError::None, old.member_id.as_bytes()), "the place's assignment");
    assert_eq!(world.heartbeat(&dynamic), GroupError::None, "nobody else notices");
    assert_eq!(world.heartbeat_as(&old.member_id, Some("i"), old.generation), GroupError::FencedInstanceId);
    assert_eq!(world.heartbeat_as(&old.member_id, None, old.generation), GroupError::UnknownMemberId);
    assert_eq!(world.heartbeat_as(&new.member_id, Some("i"), new.generation), GroupError::None);
    let rejoin_old = JoinRequest { member_id: old.member_id.clone(), ..static_newcomer("i") };
    assert_eq!(world.join_now(rejoin_old).error, GroupError::FencedInstanceId);
    assert_eq!(world.leave(&old.member_id, Some("i")), GroupError::FencedInstanceId);
}

#[test]
fn a_static_leader_comes_back_and_need_not_assign() {
    let mut world = World::new();
    let (dynamic, old) = stable_with_static(&mut world, true);
    let new = world.join_now(JoinRequest { skip_assignment: true, ..static_newcomer("i") });
    assert!(new.skip_assignment);
    assert_eq!((&new.leader, new.members.len()), (&new.member_id, 2));

    // Before v9 it is made to believe that it follows its old self.
    let new = world.join_now(static_newcomer("i"));
    assert!(!new.skip_assignment && new.members.is_empty());
    assert_ne!(new.leader, new.member_id);
    assert_eq!(world.heartbeat(&dynamic), GroupError::None);
    assert_eq!(old.generation, new.generation);
}

#[test]
fn a_static_member_with_another_subscription_rebalances() {
    let other_topics = vec![Protocol { name: "range".into(), metadata: subscription(&["t", "u"], b"") }];
    let other_user_data = vec![Protocol { name: "range".into(), metadata: subscription(&["t"], b"owned") }];
    let more_protocols = protocols(&["range", "sticky"]);
    for (protocols, rebalances) in [(other_topics, true), (other_user_data, false), (more_protocols, false)] {
        let mut world = World::new();
        let (dynamic, _) = stable_with_static(&mut world, false);
        let request = world.send(Request::Join(JoinRequest { protocols, ..static_newcomer("i") }));
        assert_eq!(world.join_reply(request).is_none(), rebalances);
        let expected = if rebalances { GroupError::RebalanceInProgress } else { GroupError::None };
        assert_eq!(world.heartbeat(&dynamic), expected);
    }
}

#[test]
fn a_return_that_fails_to_persist_is_undone() {
    let mut world = World::new();
    let (_, old) = stable_with_static(&mut world, true);
    world.prompt = false;
    let request = world.send(Request::Join(static_newcomer("i")));
    assert_eq!(world.join_reply(request), None, "not before the new id is durable");
    world.append_done(Err(PersistError::NotAvailable));
    let response = world.join_reply(request).unwrap();
    assert_eq!((response.error, &*response.member_id), (GroupError::CoordinatorNotAvailable, ""));
    assert_eq!(world.heartbeat_as(&old.member_id, Some("i"), old.generation), GroupError::None);
    assert!(world.groups.groups[GROUP].is_leader(&old.member_id));
}

#[test]
fn a_return_in_a_rebalance_fences_the_join_that_waits() {
    let mut world = World::new();
    let (dynamic, old) = stable_with_static(&mut world, true);
    let rejoin_old = JoinRequest { member_id: old.member_id.clone(), ..static_newcomer("i") };
    let waiting = world.send(Request::Join(rejoin_old));
    assert_eq!(world.join_reply(waiting), None);
    let new = world.send(Request::Join(static_newcomer("i")));
    assert_eq!(world.join_reply(waiting).map(|r| r.error), Some(GroupError::FencedInstanceId));
    let dynamic = world.send(Request::Join(rejoin(&dynamic)));
    let (new, dynamic) = (world.join_reply(new).unwrap(), world.join_reply(dynamic).unwrap());
    assert_eq!((new.generation, dynamic.generation), (old.generation + 1, old.generation + 1));
}

#[test]
fn a_return_before_the_assignment_rebalances_and_fences_the_sync_that_waits() {
    let mut world = World::new();
    let first = world.join_now(newcomer());
    let second = world.send(Request::Join(static_newcomer("i")));
    let first = world.send(Request::Join(rejoin(&first)));
    let (_, second) = (world.join_reply(first).unwrap(), world.join_reply(second).unwrap());
    let sync = world.send(Request::Sync(SyncRequest { instance_id: Some("i".into()), ..follow(&second) }));
    let new = world.send(Request::Join(static_newcomer("i")));
    assert_eq!(world.sync_reply(sync).map(|(error, _)| error), Some(GroupError::FencedInstanceId));
    assert_eq!(world.join_reply(new), None);
    assert_eq!(world.state(), StateName::PreparingRebalance);
}

#[test]
fn a_rebalance_goes_on_without_a_static_member_that_only_its_session_ends() {
    let mut world = World::new();
    let long = JoinRequest { session_timeout_ms: 600_000, ..static_newcomer("i") };
    let first = world.join_now(long);
    let second = world.send(Request::Join(JoinRequest { session_timeout_ms: 600_000, ..newcomer() }));
    world.advance(60_000);
    let second = world.join_reply(second).expect("the rebalance timeout ends the wait");
    assert_eq!(second.leader, second.member_id, "the leader must be there to assign");
    assert_eq!(second.members.len(), 2, "the absent static member keeps its place");
    assert_eq!(world.heartbeat_as(&first.member_id, Some("i"), first.generation), GroupError::IllegalGeneration);
}

#[test]
fn a_group_of_absent_static_members_waits_for_one_of_them() {
    let mut world = World::new();
    let long = JoinRequest { session_timeout_ms: 600_000, ..static_newcomer("i") };
    let first = world.join_now(long.clone());
    let second = world.send(Request::Join(newcomer()));
    assert_eq!(world.join_reply(second), None);
    world.step(Input::Abandoned { request: second });
    assert_eq!(world.state(), StateName::PreparingRebalance);
    world.advance(300_000);
    assert_eq!(world.state(), StateName::PreparingRebalance);
    let back = world.join_now(JoinRequest { member_id: first.member_id.clone(), ..long });
    assert_eq!((back.error, back.generation), (GroupError::None, 2));
}

#[test]
fn an_administrator_removes_static_members_by_name() {
    let mut world = World::new();
    let (dynamic, member) = stable_with_static(&mut world, false);
    let leaving = |member_id: &str, instance: &str| LeavingMember {
        member_id: member_id.into(),
        instance_id: Some(instance.into()),
    };
    let members = vec![leaving("", "i"), leaving("", "unknown"), leaving(&member.member_id, "i")];
    let Response::Leave(response) = world.ask(Request::Leave(LeaveRequest { group_id: GROUP.into(), members })) else {
        panic!()
    };
    let errors: Vec<_> = response.members.iter().map(|m| m.error).collect();
    let expected = [GroupError::None, GroupError::UnknownMemberId, GroupError::UnknownMemberId];
    assert_eq!((response.error, &errors[..]), (GroupError::None, &expected[..]));
    assert_eq!(world.heartbeat(&dynamic), GroupError::RebalanceInProgress);
    assert_eq!(world.describe().members.len(), 1);
}
