//! What a new process knows: what was durable, and nothing else.

use super::super::ReplayError;
use super::*;

#[test]
fn while_loading_everyone_is_told_to_come_again() {
    let mut groups = Groups::new(config(), 1).unwrap();
    let now = Now { monotonic_ns: 0, wall_ms: 0 };
    let member = JoinResponse { member_id: "m".into(), ..World::new().join_now(newcomer()) };
    let loading = GroupError::CoordinatorLoadInProgress;
    type ErrorOf = fn(&Response) -> GroupError;
    let cases: [(Request, ErrorOf, GroupError); 6] = [
        (Request::Join(newcomer()), |r| if let Response::Join(r) = r { r.error } else { panic!() }, loading),
        (
            Request::Sync(follow(&member)),
            |r| if let Response::Sync(r) = r { r.error } else { panic!() },
            GroupError::RebalanceInProgress,
        ),
        (
            Request::Heartbeat(HeartbeatRequest {
                group_id: GROUP.into(),
                generation: 1,
                member_id: "m".into(),
                instance_id: None,
            }),
            |r| if let Response::Heartbeat(r) = r { r.error } else { panic!() },
            GroupError::None,
        ),
        (
            commit(None, "t", 1),
            |r| if let Response::OffsetCommit(r) = r { r.topics[0].partitions[0].1 } else { panic!() },
            loading,
        ),
        (
            Request::List(ListRequest::default()),
            |r| if let Response::List(r) = r { r.error } else { panic!() },
            loading,
        ),
        (
            Request::Describe(DescribeRequest { groups: vec![GROUP.into()] }),
            |r| if let Response::Describe(r) = r { r.groups[0].error } else { panic!() },
            loading,
        ),
    ];
    for (at, (body, error, expected)) in cases.into_iter().enumerate() {
        let effects = groups.step(now, &TestCluster::default(), Input::Request { request: RequestRef(7), body });
        let [Effect::Reply { response, .. }] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!(error(response), expected, "case {at}");
    }
    assert_eq!(groups.next_deadline(), None);
}

#[test]
fn a_stable_group_goes_on_where_it_was() {
    let mut world = World::new();
    let members = world.stable(2);
    world.commit(Some(&members[1]), "t", 33);
    let before = world.describe();
    world.restart();
    assert_eq!(world.describe(), before);
    assert_eq!(world.committed("t"), 33);
    for member in &members {
        assert_eq!(world.heartbeat(member), GroupError::None);
        assert_eq!(world.commit(Some(member), "t", 34), GroupError::None);
        let sync = world.send(Request::Sync(follow(member)));
        assert_eq!(&world.sync_reply(sync).unwrap().1[..], member.member_id.as_bytes());
    }
    world.advance(10_000);
    assert_eq!(world.heartbeat(&members[0]), GroupError::UnknownMemberId, "sessions run again");
}

#[test]
fn a_group_left_empty_stays_empty_with_its_generation() {
    let mut world = World::new();
    let members = world.stable(1);
    world.commit(Some(&members[0]), "t", 1);
    world.leave(&members[0].member_id, None);
    world.restart();
    assert_eq!(world.state(), StateName::Empty);
    assert!(world.join_now(newcomer()).generation > members[0].generation);
}

#[test]
fn what_was_not_durable_never_was() {
    let mut world = World::new();
    let members = world.stable(1);
    world.commit(Some(&members[0]), "t", 1);
    world.prompt = false;
    let request = world.send(commit(Some(&members[0]), "t", 2));
    world.restart();
    assert_eq!((world.commit_reply(request), world.committed("t")), (None, 1));
    assert_eq!(world.heartbeat(&members[0]), GroupError::None);
}

#[test]
fn a_rebalance_that_was_not_durable_starts_again_from_the_last_generation() {
    let mut world = World::new();
    let members = world.stable(1);
    world.prompt = false;
    let second = world.send(Request::Join(newcomer()));
    let first = world.join_now(rejoin(&members[0]));
    let second = world.join_reply(second).unwrap();
    world.send(Request::Sync(assign(&first, &[first.clone(), second.clone()])));
    world.restart();
    assert_eq!(world.heartbeat(&first), GroupError::IllegalGeneration);
    assert_eq!(world.heartbeat(&second), GroupError::UnknownMemberId);
    assert_eq!(world.heartbeat(&members[0]), GroupError::None, "the last durable generation stands");
}

#[test]
fn a_static_member_keeps_its_place_over_a_restart_of_the_coordinator() {
    let mut world = World::new();
    let member = world.join_now(static_newcomer("i"));
    world.synced(std::slice::from_ref(&member));
    world.restart();
    let back = world.join_now(static_newcomer("i"));
    assert_eq!((back.error, back.generation), (GroupError::None, member.generation));
    assert_eq!(world.heartbeat_as(&member.member_id, Some("i"), 1), GroupError::FencedInstanceId);
    world.restart();
    assert_eq!(world.heartbeat_as(&back.member_id, Some("i"), 1), GroupError::None);
}

#[test]
fn ids_are_not_given_twice() {
    let mut world = World::new();
    let first = world.join_now(newcomer()).member_id;
    world.restart();
    assert_ne!(world.join_now(newcomer()).member_id, first);
}

#[test]
fn a_group_that_has_become_too_large_rebalances() {
    let mut world = World::new();
    let members = world.stable(3);
    world.config.max_group_size = 2;
    world.restart();
    assert_eq!(world.heartbeat(&members[0]), GroupError::RebalanceInProgress);
}

#[test]
fn records_that_cannot_be_read_change_nothing_and_are_named() {
    let mut groups = Groups::new(config(), 1).unwrap();
    assert_eq!(groups.replay(&[9, 0], None), Err(ReplayError::UnknownKind { kind: 9 }));
    assert_eq!(groups.replay(&[1, 4], None), Err(ReplayError::UnknownVersion { kind: 1, version: 4 }));
    assert!(matches!(groups.replay(&[], None), Err(ReplayError::Malformed { .. })));
    let key = super::super::record::group_record("g", None).key;
    assert_eq!(groups.replay(&key, Some(&[3])), Err(ReplayError::UnknownVersion { kind: 2, version: 3 }));
    assert_eq!(groups.replay(&key, None), Ok(()), "a tombstone of what is not there");
    assert_eq!(groups.groups.len(), 0);
    groups.loaded(Now { monotonic_ns: 0, wall_ms: 0 }, |_| None);
    assert_eq!(groups.replay(&key, None), Err(ReplayError::NotLoading));
}
