//! JoinGroup: who is let in.

use super::*;

fn refused(world: &mut World, join: JoinRequest) -> GroupError {
    let response = world.join_now(join);
    assert_eq!((response.generation, response.members.len()), (-1, 0));
    response.error
}

#[test]
fn requests_that_no_group_could_accept() {
    use GroupError::*;
    let base = newcomer;
    let long: Arc<str> = "x".repeat(config().max_id_bytes + 1).into();
    let table = [
        ("no group id", JoinRequest { group_id: "".into(), ..base() }, InvalidGroupId),
        ("long group id", JoinRequest { group_id: long.clone(), ..base() }, InvalidGroupId),
        ("session too short", JoinRequest { session_timeout_ms: 5_999, ..base() }, InvalidSessionTimeout),
        ("session too long", JoinRequest { session_timeout_ms: 1_800_001, ..base() }, InvalidSessionTimeout),
        ("negative session", JoinRequest { session_timeout_ms: -1, ..base() }, InvalidSessionTimeout),
        ("member of no group", JoinRequest { member_id: "m".into(), ..base() }, UnknownMemberId),
        ("no protocols", JoinRequest { protocols: vec![], ..base() }, InconsistentGroupProtocol),
        ("no protocol type", JoinRequest { protocol_type: "".into(), ..base() }, InconsistentGroupProtocol),
        ("empty instance id", JoinRequest { instance_id: Some("".into()), ..base() }, InvalidRequest),
        ("long instance id", JoinRequest { instance_id: Some(long.clone()), ..base() }, InvalidRequest),
        ("long protocol type", JoinRequest { protocol_type: long, ..base() }, InvalidRequest),
        ("many protocols", JoinRequest { protocols: protocols(&["p"; 65]), ..base() }, InvalidRequest),
    ];
    for (what, join, expected) in table {
        let mut world = World::new();
        assert_eq!(refused(&mut world, join), expected, "{what}");
        assert_eq!(world.groups.groups.len(), 0, "{what} leaves a group behind");
    }
}

#[test]
fn a_first_member_leads_its_generation() {
    let mut world = World::new();
    let response = world.join_now(newcomer());
    assert_eq!(response.error, GroupError::None);
    assert_eq!((response.generation, response.protocol_name.as_deref()), (1, Some("range")));
    assert_eq!(response.leader, response.member_id);
    assert!(response.member_id.starts_with("client-"));
    assert_eq!(response.members.len(), 1);
    assert_eq!(response.members[0].metadata, subscription(&["t"], b""));
    assert_eq!(world.state(), StateName::CompletingRebalance);
}

#[test]
fn an_id_is_required_first() {
    let mut world = World::new();
    let join = JoinRequest { known_member_id_required: true, ..newcomer() };
    let first = world.join_now(join.clone());
    assert_eq!(first.error, GroupError::MemberIdRequired);
    assert_eq!(world.state(), StateName::Empty, "an id is no member");
    let second = world.join_now(JoinRequest { member_id: first.member_id.clone(), ..join });
    assert_eq!((second.error, &second.member_id), (GroupError::None, &first.member_id));
}

#[test]
fn an_id_that_is_not_used_is_forgotten() {
    let mut world = World::new();
    let join = JoinRequest { known_member_id_required: true, ..newcomer() };
    let first = world.join_now(join.clone());
    world.advance(10_000);
    assert_eq!(world.groups.groups.len(), 0, "the group that was only an id is gone");
    let second = world.join_now(JoinRequest { member_id: first.member_id, ..join });
    assert_eq!(second.error, GroupError::UnknownMemberId);
}

#[test]
fn a_rebalance_waits_for_ids_given_out_but_not_for_ever() {
    let mut world = World::new();
    let join = JoinRequest { known_member_id_required: true, ..newcomer() };
    let given = world.join_now(join.clone());
    let other = world.send(Request::Join(newcomer()));
    assert_eq!(world.join_reply(other), None);
    let third = world.send(Request::Join(JoinRequest { member_id: given.member_id, ..join.clone() }));
    let (other, third) = (world.join_reply(other).unwrap(), world.join_reply(third).unwrap());
    assert_eq!((other.generation, third.generation), (1, 1));

    let mut world = World::new();
    world.join_now(join);
    let other = world.send(Request::Join(newcomer()));
    world.advance(10_000);
    assert_eq!(world.join_reply(other).map(|r| r.error), Some(GroupError::None), "the id expired");
}

#[test]
fn an_empty_group_waits_for_company_within_limits() {
    let mut world = World::with(GroupsConfig { initial_rebalance_delay_ms: 3_000, ..config() });
    let first = world.send(Request::Join(newcomer()));
    world.advance(2_999);
    let second = world.send(Request::Join(newcomer()));
    world.advance(3_000);
    assert_eq!(world.join_reply(first), None, "the second prolonged the wait");
    world.advance(1);
    let (first, second) = (world.join_reply(first).unwrap(), world.join_reply(second).unwrap());
    assert_eq!((first.generation, second.generation), (1, 1));
    assert_eq!(first.members.len() + second.members.len(), 2, "one of them leads two");

    let mut world = World::with(GroupsConfig { initial_rebalance_delay_ms: 3_000, ..config() });
    let short = JoinRequest { rebalance_timeout_ms: 7_000, ..newcomer() };
    let mut requests = vec![world.send(Request::Join(short.clone()))];
    for _ in 0..3 {
        world.advance(2_000);
        requests.push(world.send(Request::Join(short.clone())));
    }
    world.advance(999);
    assert_eq!(world.join_reply(requests[0]), None);
    world.advance(1);
    assert!(world.join_reply(requests[0]).is_some(), "no longer than the rebalance timeout");
}

#[test]
fn the_protocol_with_most_votes_wins_among_those_all_can_use() {
    let table: [(&[&[&str]], &str); 4] = [
        (&[&["range", "sticky"], &["sticky"]], "sticky"),
        (&[&["a", "b"], &["b", "a"], &["b", "a"]], "b"),
        (&[&["b", "a"], &["a", "b"]], "a"),
        (&[&["x", "a", "b"], &["y", "b", "a"], &["b", "a"]], "b"),
    ];
    for (members, expected) in table {
        let mut world = World::with(GroupsConfig { initial_rebalance_delay_ms: 10, ..config() });
        let join = |names: &&[&str]| Request::Join(JoinRequest { protocols: protocols(names), ..newcomer() });
        let requests: Vec<_> = members.iter().map(|names| world.send(join(names))).collect();
        world.advance(1_000);
        for request in requests {
            assert_eq!(world.join_reply(request).unwrap().protocol_name.as_deref(), Some(expected), "{members:?}");
        }
    }
}

#[test]
fn members_without_a_common_protocol_are_refused() {
    let mut world = World::new();
    let members = world.stable(2);
    let other = JoinRequest { protocols: protocols(&["sticky"]), ..newcomer() };
    assert_eq!(refused(&mut world, other), GroupError::InconsistentGroupProtocol);
    let connect = JoinRequest { protocol_type: "connect".into(), ..newcomer() };
    assert_eq!(refused(&mut world, connect), GroupError::InconsistentGroupProtocol);
    assert_eq!(world.heartbeat(&members[0]), GroupError::None, "the group does not notice");
}

#[test]
fn a_full_group_refuses_newcomers_and_keeps_its_own() {
    let mut world = World::with(GroupsConfig { max_group_size: 2, ..config() });
    let members = world.stable(2);
    assert_eq!(refused(&mut world, newcomer()), GroupError::GroupMaxSizeReached);
    let with_id = JoinRequest { known_member_id_required: true, ..newcomer() };
    assert_eq!(refused(&mut world, with_id), GroupError::GroupMaxSizeReached);
    let again = world.send(Request::Join(rejoin(&members[0])));
    assert_eq!(world.join_reply(again), None, "the leader's rejoin begins a rebalance");
}

#[test]
fn groups_and_their_metadata_are_bounded() {
    let mut world = World::with(GroupsConfig { max_groups: 1, max_group_metadata_bytes: 100, ..config() });
    let large = |bytes: usize| {
        let metadata = subscription(&["t"], &vec![0; bytes]);
        JoinRequest { protocols: vec![Protocol { name: "range".into(), metadata }], ..newcomer() }
    };
    assert_eq!(refused(&mut world, large(100)), GroupError::InvalidRequest);
    let first = world.join_now(large(60));
    assert_eq!(first.error, GroupError::None);
    assert_eq!(refused(&mut world, large(60)), GroupError::GroupMaxSizeReached);
    let again = world.join_now(JoinRequest { member_id: first.member_id, ..large(61) });
    assert_eq!(again.error, GroupError::None, "what a member had before does not count twice");
    let other = JoinRequest { group_id: "h".into(), ..newcomer() };
    assert_eq!(refused(&mut world, other), GroupError::GroupMaxSizeReached);
}

#[test]
fn rejoining_rebalances_only_where_something_is_new() {
    let changed = |member: &JoinResponse| JoinRequest { protocols: protocols(&["sticky", "range"]), ..rejoin(member) };
    let mut world = World::new();
    let members = world.stable(2);
    let same = world.join_now(rejoin(&members[1]));
    assert_eq!((same.generation, same.members.len()), (members[1].generation, 0), "a follower with nothing new");
    let request = world.send(Request::Join(changed(&members[1])));
    assert_eq!(world.join_reply(request), None, "a follower with other protocols");
    assert_eq!(world.heartbeat(&members[0]), GroupError::RebalanceInProgress);

    let mut world = World::new();
    let members = world.joined(2);
    let lost = world.join_now(rejoin(&members[0]));
    assert_eq!(lost, members[0], "the answer got lost: the leader gets it again");
    let request = world.send(Request::Join(changed(&members[1])));
    assert_eq!(world.join_reply(request), None);
    assert_eq!(world.state(), StateName::PreparingRebalance);
}

#[test]
fn a_second_join_takes_the_place_of_the_first() {
    let mut world = World::new();
    let members = world.stable(2);
    let first = world.send(Request::Join(rejoin(&members[0])));
    let second = world.send(Request::Join(rejoin(&members[0])));
    assert_eq!(world.join_reply(first).map(|r| r.error), Some(GroupError::RebalanceInProgress));
    let other = world.send(Request::Join(rejoin(&members[1])));
    assert_eq!(world.join_reply(second).map(|r| r.error), Some(GroupError::None));
    assert_eq!(world.join_reply(other).map(|r| r.error), Some(GroupError::None));
}

#[test]
fn clients_are_cut_to_size_in_member_ids() {
    let mut world = World::new();
    let client_id: Arc<str> = "ü".repeat(1_000).into();
    let response = world.join_now(JoinRequest { client_id, ..newcomer() });
    assert_eq!(response.error, GroupError::None);
    assert!(response.member_id.len() <= config().max_id_bytes + super::super::MEMBER_ID_SUFFIX_BYTES);
}
