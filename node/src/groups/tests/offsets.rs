//! Committed offsets: who may commit, when they are seen, when they go.

use super::*;

const HOUR_MS: u64 = 3_600_000;

/// A commit of several partitions of the topic `t`.
fn commit_many(partitions: Vec<CommitPartition>) -> Request {
    let Request::OffsetCommit(mut request) = commit(None, "t", 0) else { unreachable!() };
    request.topics[0].partitions = partitions;
    Request::OffsetCommit(request)
}

fn partition(partition: i32, metadata: &str, refused: Option<GroupError>) -> CommitPartition {
    CommitPartition { partition, offset: 7, leader_epoch: -1, metadata: metadata.into(), refused }
}

fn errors(response: Response) -> Vec<GroupError> {
    match response {
        Response::OffsetCommit(response) => response.topics[0].partitions.iter().map(|p| p.1).collect(),
        other => panic!("{other:?}"),
    }
}

fn fetch_all(world: &mut World, group: &str) -> Vec<FetchedTopic> {
    let groups = vec![FetchGroup { group_id: group.into(), member: None, topics: None }];
    match world.ask(Request::OffsetFetch(OffsetFetchRequest { groups, require_stable: false })) {
        Response::OffsetFetch(mut response) => response.groups.remove(0).topics,
        other => panic!("{other:?}"),
    }
}

fn delete_offsets(topic: &str, refused: Option<GroupError>) -> Request {
    let topics = vec![DeleteTopicOffsets { name: topic.into(), partitions: vec![(0, refused)] }];
    Request::OffsetDelete(OffsetDeleteRequest { group_id: GROUP.into(), topics })
}

fn delete_verdict(response: Response) -> (GroupError, Vec<GroupError>) {
    match response {
        Response::OffsetDelete(response) => {
            (response.error, response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.1).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_commit_is_seen_when_it_is_durable_and_not_before() {
    let mut world = World::new();
    assert_eq!(world.commit(None, "t", 10), GroupError::None);
    world.prompt = false;
    let request = world.send(commit(None, "t", 20));
    assert_eq!((world.commit_reply(request), world.committed("t")), (None, 10));
    world.append_done(Ok(()));
    assert_eq!((world.commit_reply(request), world.committed("t")), (Some(GroupError::None), 20));
}

#[test]
fn a_commit_that_fails_leaves_what_was() {
    for (failure, expected) in [
        (PersistError::NotAvailable, GroupError::CoordinatorNotAvailable),
        (PersistError::TooLarge, GroupError::InvalidCommitOffsetSize),
    ] {
        let mut world = World::new();
        world.commit(None, "t", 10);
        world.prompt = false;
        let (known, new) = (world.send(commit(None, "t", 20)), world.send(commit(None, "u", 20)));
        world.append_done(Err(failure));
        world.append_done(Err(failure));
        assert_eq!((world.commit_reply(known), world.commit_reply(new)), (Some(expected), Some(expected)));
        assert_eq!((world.committed("t"), world.committed("u")), (10, -1));
        assert_eq!(world.groups.stats().offsets, 1, "the slot that was never filled is gone");
    }
}

#[test]
fn a_group_that_only_a_failed_commit_made_is_gone() {
    let mut world = World::new();
    world.prompt = false;
    world.send(commit(None, "t", 1));
    world.append_done(Err(PersistError::NotAvailable));
    assert_eq!(world.groups.groups.len(), 0);
}

#[test]
fn what_was_committed_comes_back_whole() {
    let mut world = World::new();
    world.commit(None, "t", 10);
    let request = commit_many(vec![partition(3, "three", None), partition(1, "", None)]);
    assert_eq!(errors(world.ask(request)), [GroupError::None; 2]);
    let offset = |partition, offset, leader_epoch, metadata: &str| FetchedOffset {
        partition,
        offset,
        leader_epoch,
        metadata: metadata.into(),
        error: GroupError::None,
    };
    let partitions = vec![offset(0, 10, 5, "note"), offset(1, 7, -1, ""), offset(3, 7, -1, "three")];
    let expected = vec![FetchedTopic { name: "t".into(), partitions }];
    assert_eq!(fetch_all(&mut world, GROUP), expected);
    assert_eq!(fetch_all(&mut world, "other"), vec![]);
    assert_eq!(world.committed("unknown"), -1);
}

#[test]
fn partitions_are_judged_one_by_one() {
    let mut world = World::with(GroupsConfig { max_offset_metadata_bytes: 4, max_offsets_per_group: 2, ..config() });
    let request = commit_many(vec![
        partition(0, "four", None),
        partition(1, "five5", None),
        partition(2, "", Some(GroupError::UnknownTopicOrPartition)),
        partition(3, "", None),
        partition(4, "", None),
        partition(0, "", None),
    ]);
    let expected = [
        GroupError::None,
        GroupError::OffsetMetadataTooLarge,
        GroupError::UnknownTopicOrPartition,
        GroupError::None,
        GroupError::InvalidCommitOffsetSize,
        GroupError::None,
    ];
    assert_eq!(errors(world.ask(request)), expected);
    assert_eq!(world.groups.stats().offsets, 2);
    let request = commit_many(vec![partition(9, "", Some(GroupError::TopicAuthorizationFailed))]);
    assert_eq!(errors(world.ask(request)), [GroupError::TopicAuthorizationFailed], "nothing to write: no wait");
}

#[test]
fn only_members_commit_to_a_group_that_has_some() {
    let mut world = World::new();
    let members = world.stable(1);
    assert_eq!(world.commit(None, "t", 1), GroupError::UnknownMemberId);
    assert_eq!(world.commit(Some(&members[0]), "t", 1), GroupError::None);
    assert_eq!(world.leave(&members[0].member_id, None), GroupError::None);
    assert_eq!(world.commit(None, "t", 2), GroupError::None, "tools reset offsets of empty groups");
    assert_eq!(world.committed("t"), 2);
}

#[test]
fn a_commit_keeps_its_member_alive() {
    let mut world = World::new();
    let members = world.stable(1);
    for _ in 0..5 {
        world.advance(9_000);
        assert_eq!(world.commit(Some(&members[0]), "t", 1), GroupError::None);
    }
}

#[test]
fn too_many_writes_on_their_way_slow_clients_down() {
    let mut world = World::with(GroupsConfig { max_pending_persists: 2, ..config() });
    world.prompt = false;
    let requests: Vec<_> = (0..3).map(|offset| world.send(commit(None, "t", offset))).collect();
    assert_eq!(world.commit_reply(requests[2]), Some(GroupError::CoordinatorNotAvailable));
    world.append_done(Ok(()));
    world.append_done(Ok(()));
    assert_eq!(world.committed("t"), 1);
}

#[test]
fn groups_of_commits_are_bounded() {
    let mut world = World::with(GroupsConfig { max_groups: 1, ..config() });
    world.commit(None, "t", 1);
    let Request::OffsetCommit(mut other) = commit(None, "t", 1) else { unreachable!() };
    other.group_id = "other".into();
    assert_eq!(errors(world.ask(Request::OffsetCommit(other))), [GroupError::InvalidCommitOffsetSize]);
}

#[test]
fn the_empty_group_id_is_for_offsets_only() {
    let mut world = World::new();
    let Request::OffsetCommit(mut request) = commit(None, "t", 1) else { unreachable!() };
    request.group_id = "".into();
    assert_eq!(errors(world.ask(Request::OffsetCommit(request))), [GroupError::None]);
    assert_eq!(fetch_all(&mut world, "").len(), 1);
}

#[test]
fn offsets_are_deleted_unless_the_group_reads_the_topic() {
    let mut world = World::new();
    let absent = delete_verdict(world.ask(delete_offsets("t", None)));
    assert_eq!(absent, (GroupError::GroupIdNotFound, vec![]));
    let members = world.stable(1);
    for topic in ["t", "u"] {
        world.commit(Some(&members[0]), topic, 1);
    }
    let read = delete_verdict(world.ask(delete_offsets("t", None)));
    assert_eq!(read, (GroupError::None, vec![GroupError::GroupSubscribedToTopic]));
    let refused = Some(GroupError::UnknownTopicOrPartition);
    let unknown = delete_verdict(world.ask(delete_offsets("x", refused)));
    assert_eq!(unknown, (GroupError::None, vec![GroupError::UnknownTopicOrPartition]));
    let other = delete_verdict(world.ask(delete_offsets("u", None)));
    assert_eq!(other, (GroupError::None, vec![GroupError::None]));
    assert_eq!((world.committed("t"), world.committed("u")), (1, -1));
    world.leave(&members[0].member_id, None);
    world.prompt = false;
    let request = world.send(delete_offsets("t", None));
    assert_eq!(world.committed("t"), 1, "not before it is durable");
    world.append_done(Err(PersistError::NotAvailable));
    let failed = delete_verdict(world.replies.remove(&request).unwrap());
    assert_eq!(failed, (GroupError::CoordinatorNotAvailable, vec![]));
    assert_eq!(world.committed("t"), 1);
}

#[test]
fn a_delete_and_a_commit_take_effect_in_the_order_of_the_log() {
    let mut world = World::new();
    world.commit(None, "t", 1);
    world.prompt = false;
    world.send(commit(None, "t", 2));
    world.send(delete_offsets("t", None));
    world.send(commit(None, "t", 3));
    let mut seen = Vec::new();
    for _ in 0..3 {
        world.append_done(Ok(()));
        seen.push(world.committed("t"));
    }
    assert_eq!(seen, [2, -1, 3]);
}

#[test]
fn other_protocols_do_not_say_what_they_read() {
    let mut world = World::new();
    world.join_now(JoinRequest { protocol_type: "connect".into(), ..newcomer() });
    assert_eq!(delete_verdict(world.ask(delete_offsets("t", None))).0, GroupError::NonEmptyGroup);
    let mut world = World::new();
    let garbled = vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"?") }];
    world.join_now(JoinRequest { protocols: garbled, ..newcomer() });
    let verdict = delete_verdict(world.ask(delete_offsets("t", None)));
    assert_eq!(verdict, (GroupError::None, vec![GroupError::GroupSubscribedToTopic]), "in doubt, it is read");
}

#[test]
fn the_offsets_of_a_deleted_topic_are_not_inherited() {
    let mut world = World::new();
    for topic in ["t", "u"] {
        world.commit(None, topic, 10);
    }
    world.prompt = false;
    let late = world.send(commit(None, "t", 11));
    world.step(Input::TopicDeleted { topic: "t".into() });
    assert_eq!(world.committed("t"), -1, "at once");
    let of_the_new_topic = world.send(commit(None, "t", 3));
    world.append_done(Ok(()));
    assert_eq!((world.commit_reply(late), world.committed("t")), (Some(GroupError::None), -1));
    world.append_done(Ok(()));
    assert_eq!(world.committed("t"), -1);
    world.append_done(Ok(()));
    assert_eq!((world.commit_reply(of_the_new_topic), world.committed("t")), (Some(GroupError::None), 3));
    assert_eq!(world.committed("u"), 10);
    world.restart();
    assert_eq!((world.committed("t"), world.committed("u")), (3, 10));
}

#[test]
fn a_restart_removes_offsets_of_topics_that_are_not_what_they_were() {
    let mut world = World::new();
    for (topic, id) in [("kept", 1), ("recreated", 2), ("deleted", 3)] {
        let Request::OffsetCommit(mut request) = commit(None, topic, 5) else { unreachable!() };
        request.topics[0].topic_id = Uuid::from_u128(id);
        world.ask(Request::OffsetCommit(request));
    }
    let ids = |topic: &str| match topic {
        "kept" => Some(Uuid::from_u128(1)),
        "recreated" => Some(Uuid::from_u128(22)),
        _ => None,
    };
    world.restart_where(ids);
    let seen = ["kept", "recreated", "deleted"].map(|topic| world.committed(topic));
    assert_eq!(seen, [5, -1, -1]);
    assert_eq!(world.durable.len(), 1, "tombstones were written");
}

#[test]
fn offsets_of_an_empty_group_expire_and_the_group_with_them() {
    let mut world = World::with(GroupsConfig { offsets_retention_ms: 2 * HOUR_MS, ..config() });
    let members = world.stable(1);
    world.commit(Some(&members[0]), "t", 1);
    for _ in 0..3 * 360 {
        world.advance(9_999);
        assert_eq!(world.heartbeat(&members[0]), GroupError::None);
    }
    assert_eq!(world.committed("t"), 1, "the group reads the topic");
    world.leave(&members[0].member_id, None);
    world.advance(2 * HOUR_MS - 1_000_000);
    assert_eq!(world.committed("t"), 1, "the age counts from when the group was left");
    world.advance(2_000_000);
    assert_eq!((world.committed("t"), world.state()), (-1, StateName::Dead));
    assert_eq!((world.groups.groups.len(), world.durable.len()), (0, 0));
}

#[test]
fn offsets_of_groups_without_members_expire_by_their_own_age() {
    let mut world = World::with(GroupsConfig { offsets_retention_ms: 2 * HOUR_MS, ..config() });
    world.commit(None, "old", 1);
    world.advance(HOUR_MS + 1);
    world.commit(None, "new", 1);
    let Request::OffsetCommit(mut short) = commit(None, "short", 1) else { unreachable!() };
    short.retention_ms = Some(1_000);
    world.ask(Request::OffsetCommit(short));
    world.advance(HOUR_MS + 600_000);
    assert_eq!(["old", "new", "short"].map(|topic| world.committed(topic)), [-1, 1, -1]);
    assert_eq!(world.durable.len(), 1);
}

#[test]
fn offsets_of_topics_that_nobody_reads_any_more_expire() {
    let mut world = World::with(GroupsConfig { offsets_retention_ms: HOUR_MS, ..config() });
    let members = world.stable(1);
    for topic in ["t", "before"] {
        world.commit(Some(&members[0]), topic, 1);
    }
    for _ in 0..2 * 400 {
        world.advance(9_999);
        world.heartbeat(&members[0]);
    }
    assert_eq!((world.committed("t"), world.committed("before")), (1, -1));
}

#[test]
fn expiry_goes_in_small_steps_and_small_writes() {
    let bounds = GroupsConfig { expiry_groups_per_step: 2, max_tombstones_per_persist: 3, ..config() };
    let mut world = World::with(GroupsConfig { offsets_retention_ms: 1, ..bounds });
    for group in 0..7 {
        let Request::OffsetCommit(mut request) = commit_many((0..10).map(|p| partition(p, "", None)).collect()) else {
            unreachable!()
        };
        request.group_id = format!("g{group}").into();
        world.ask(Request::OffsetCommit(request));
    }
    world.prompt = false;
    world.advance(600_000);
    let sizes: Vec<_> = world.appends.iter().map(|(_, records)| records.len()).collect();
    assert_eq!(sizes, [3, 3, 3, 1].repeat(7));
    world.append_done(Err(PersistError::NotAvailable));
    world.prompt = true;
    world.append_done(Ok(()));
    assert_eq!((world.groups.groups.len(), world.groups.stats().offsets), (1, 3), "what failed is still there");
    world.advance(600_000);
    assert_eq!((world.groups.groups.len(), world.durable.len()), (0, 0));
}
