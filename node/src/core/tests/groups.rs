//! Consumer groups through the wire: join, sync, heartbeat, commit, and what is durable of it.

use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::join_group_request::JoinGroupRequestProtocol;
use wherry_wire::codec::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use wherry_wire::codec::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use wherry_wire::codec::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use wherry_wire::codec::messages::sync_group_request::SyncGroupRequestAssignment;
use wherry_wire::codec::messages::{
    DeleteGroupsRequest, DeleteTopicsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest, leave_group_request,
};

use super::*;

/// A node that has met groups before: the topic that keeps them is there.
pub(super) fn node() -> Node {
    ready(super::node())
}

pub(super) fn ready(mut node: Node) -> Node {
    let conn = node.connect();
    let found = node.ask(conn, 2, &FindCoordinatorRequest::default().with_key(text("g")));
    assert_eq!(found.error_code, 0);
    node
}

pub(super) fn group(id: &str) -> GroupId {
    GroupId(text(id))
}

pub(super) fn join(member: &str) -> JoinGroupRequest {
    let protocol =
        JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"meta"));
    JoinGroupRequest::default()
        .with_group_id(group("g"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(20_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

pub(super) fn sync(member: &str, generation: i32, assignment: Option<&'static [u8]>) -> SyncGroupRequest {
    let assignments = assignment.map(|bytes| {
        SyncGroupRequestAssignment::default().with_member_id(text(member)).with_assignment(Bytes::from_static(bytes))
    });
    SyncGroupRequest::default()
        .with_group_id(group("g"))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_assignments(assignments.into_iter().collect())
}

pub(super) fn heartbeat(member: &str, generation: i32) -> HeartbeatRequest {
    HeartbeatRequest::default().with_group_id(group("g")).with_generation_id(generation).with_member_id(text(member))
}

pub(super) fn commit(id: &str, member: &str, generation: i32, topic: &str, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("note")));
    let topic = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group(id))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member))
        .with_retention_time_ms(-1)
        .with_topics(vec![topic])
}

pub(super) fn commit_code(node: &mut Node, conn: ConnId, version: i16, request: &OffsetCommitRequest) -> i16 {
    node.ask(conn, version, request).topics[0].partitions[0].error_code
}

pub(super) fn fetched(node: &mut Node, conn: ConnId, id: &str, topic: &str) -> (i64, String) {
    let topics = vec![OffsetFetchRequestTopic::default().with_name(name(topic)).with_partition_indexes(vec![0])];
    let request = OffsetFetchRequest::default().with_group_id(group(id)).with_topics(Some(topics));
    let response = node.ask(conn, 5, &request);
    let partition = &response.topics[0].partitions[0];
    (partition.committed_offset, partition.metadata.clone().unwrap_or_default().to_string())
}

/// One member in a stable group; gives its id.
pub(super) fn stable(node: &mut Node, conn: ConnId) -> String {
    let first = node.ask(conn, 4, &join(""));
    assert_eq!(first.error_code, ResponseError::MemberIdRequired.code());
    let member = first.member_id.to_string();
    let joined: JoinGroupResponse = node.ask(conn, 4, &join(&member));
    assert_eq!((joined.error_code, joined.generation_id, joined.leader.to_string()), (0, 1, member.clone()));
    assert_eq!(joined.members[0].metadata, Bytes::from_static(b"meta"));
    let synced = node.ask(conn, 3, &sync(&member, 1, Some(b"mine")));
    assert_eq!((synced.error_code, synced.assignment), (0, Bytes::from_static(b"mine")));
    member
}

#[test]
fn one_member_through_its_life() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let member = stable(&mut node, conn);
    for version in 0..=4 {
        assert_eq!(node.ask(conn, version, &heartbeat(&member, 1)).error_code, 0);
    }
    for version in 2..=9 {
        assert_eq!(commit_code(&mut node, conn, version, &commit("g", &member, 1, "t", i64::from(version))), 0);
    }
    assert_eq!(fetched(&mut node, conn, "g", "t"), (9, "note".to_owned()));
    let leave = LeaveGroupRequest::default().with_group_id(group("g")).with_member_id(text(&member));
    assert_eq!(node.ask(conn, 1, &leave).error_code, 0);
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, ResponseError::UnknownMemberId.code());
    assert_eq!(fetched(&mut node, conn, "g", "t").0, 9, "offsets stay when members go");
}

#[test]
fn two_members_rebalance_and_wait_for_each_other() {
    let mut node = node();
    let (a, b) = (node.connect(), node.connect());
    let first = stable(&mut node, a);
    let second = node.ask(b, 4, &join("")).member_id.to_string();
    node.send(b, 4, &join(&second));
    node.settle();
    assert!(node.try_receive::<JoinGroupRequest>(b, 4).is_none(), "it waits for the other member");
    assert_eq!(node.ask(a, 3, &heartbeat(&first, 1)).error_code, ResponseError::RebalanceInProgress.code());
    node.send(a, 4, &join(&first));
    node.settle();
    let joined_a = node.receive::<JoinGroupRequest>(a, 4);
    let joined_b = node.receive::<JoinGroupRequest>(b, 4);
    assert_eq!((joined_a.generation_id, joined_b.generation_id), (2, 2));
    assert_eq!(joined_a.members.len() + joined_b.members.len(), 2, "the leader alone learns who the members are");
    node.send(b, 3, &sync(&second, 2, None));
    node.settle();
    assert!(node.try_receive::<SyncGroupRequest>(b, 3).is_none());
    node.send(a, 3, &sync(&first, 2, Some(b"both")));
    node.settle();
    assert_eq!(node.receive::<SyncGroupRequest>(a, 3).assignment, Bytes::from_static(b"both"));
    assert_eq!(node.receive::<SyncGroupRequest>(b, 3).error_code, 0);
}

#[test]
fn a_silent_member_is_out_after_its_session() {
    let mut node = node();
    let conn = node.connect();
    let member = stable(&mut node, conn);
    node.advance_ms(9_000);
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0);
    node.advance_ms(9_000);
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0);
    let deadline = node.core.next_deadline().unwrap();
    assert!(deadline <= node.now.monotonic_ns + 10_000_000_000);
    node.advance_ms(10_001);
    node.settle();
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, ResponseError::UnknownMemberId.code());
}

#[test]
fn a_commit_is_answered_when_it_is_durable_and_survives_a_crash() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("solo", "", -1, "t", 5)), 0);
    node.store().hold = true;
    node.send(conn, 7, &commit("solo", "", -1, "t", 6));
    node.settle();
    assert!(node.try_receive::<OffsetCommitRequest>(conn, 7).is_none());
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(fetched(&mut node, conn, "solo", "t").0, 5, "what was not acknowledged is not there");
}

#[test]
fn a_stable_group_survives_a_restart() {
    let mut node = node();
    let conn = node.connect();
    let member = stable(&mut node, conn);
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0);
}

#[test]
fn commits_that_are_refused() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let member = stable(&mut node, conn);
    let code = |node: &mut Node, request: &OffsetCommitRequest| commit_code(node, conn, 7, request);
    assert_eq!(code(&mut node, &commit("g", &member, 7, "t", 1)), ResponseError::IllegalGeneration.code());
    assert_eq!(code(&mut node, &commit("g", "stranger", 1, "t", 1)), ResponseError::UnknownMemberId.code());
    assert_eq!(code(&mut node, &commit("g", &member, 1, "nope", 1)), ResponseError::UnknownTopicOrPartition.code());
    let mut beyond = commit("g", &member, 1, "t", 1);
    beyond.topics[0].partitions[0].partition_index = 9;
    assert_eq!(code(&mut node, &beyond), ResponseError::UnknownTopicOrPartition.code());
    let mut long = commit("g", &member, 1, "t", 1);
    long.topics[0].partitions[0].committed_metadata = Some(text(&"x".repeat(10_000)));
    assert_eq!(code(&mut node, &long), ResponseError::OffsetMetadataTooLarge.code());
    assert_eq!(fetched(&mut node, conn, "g", "t").0, -1);
}

#[test]
fn a_full_disk_takes_commits_and_a_slow_one_has_them_asked_again() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.store().full = true;
    assert_eq!(commit_code(&mut node, conn, 7, &commit("solo", "", -1, "t", 4)), 0, "the reserve is for these");
    node.store().busy = true;
    let code = commit_code(&mut node, conn, 7, &commit("solo", "", -1, "t", 5));
    assert_eq!(code, ResponseError::CoordinatorNotAvailable.code());
    node.store().make_room();
    assert_eq!(fetched(&mut node, conn, "solo", "t").0, 4);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("solo", "", -1, "t", 6)), 0);
    assert_eq!(fetched(&mut node, conn, "solo", "t").0, 6);
}

#[test]
fn offsets_of_a_deleted_topic_do_not_pass_to_its_successor() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("solo", "", -1, "t", 5)), 0);
    node.ask(conn, 4, &DeleteTopicsRequest::default().with_topic_names(vec![name("t")]));
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(fetched(&mut node, conn, "solo", "t").0, -1);
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(fetched(&mut node, conn, "solo", "t").0, -1);
}

#[test]
fn many_groups_in_one_offset_fetch() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    for (id, offset) in [("a", 1), ("b", 2)] {
        assert_eq!(commit_code(&mut node, conn, 9, &commit(id, "", -1, "t", offset)), 0);
    }
    let asked = |id: &str, topics: bool| {
        let topics = topics
            .then(|| vec![OffsetFetchRequestTopics::default().with_name(name("t")).with_partition_indexes(vec![0])]);
        OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(topics)
    };
    for version in [8, 9] {
        let request =
            OffsetFetchRequest::default().with_groups(vec![asked("a", true), asked("b", false), asked("c", false)]);
        let response = node.ask(conn, version, &request);
        let offsets: Vec<Vec<i64>> = response
            .groups
            .iter()
            .map(|g| g.topics.iter().flat_map(|t| &t.partitions).map(|p| p.committed_offset).collect())
            .collect();
        assert_eq!(offsets, [vec![1], vec![2], vec![]]);
    }
}

#[test]
fn list_describe_delete() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let member = stable(&mut node, conn);
    commit_code(&mut node, conn, 7, &commit("solo", "", -1, "t", 5));
    for version in 0..=5 {
        let listed = node.ask(conn, version, &ListGroupsRequest::default());
        let ids: Vec<&str> = listed.groups.iter().map(|g| g.group_id.as_str()).collect();
        assert_eq!(ids, ["g", "solo"]);
    }
    let stable_only = ListGroupsRequest::default().with_states_filter(vec![text("Stable")]);
    assert_eq!(node.ask(conn, 4, &stable_only).groups.len(), 1);
    for version in 0..=5 {
        let request = DescribeGroupsRequest::default().with_groups(vec![group("g"), group("nope")]);
        let described = node.ask(conn, version, &request);
        let found = &described.groups[0];
        assert_eq!(
            (found.error_code, found.group_state.as_str(), found.protocol_data.as_str()),
            (0, "Stable", "range")
        );
        assert_eq!(found.members[0].client_host.as_str(), "/10.1.2.3");
        assert_eq!(found.members[0].client_id.as_str(), "test");
        assert_eq!((described.groups[1].error_code, described.groups[1].group_state.as_str()), (0, "Dead"));
    }
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group("g"), group("solo"), group("nope")]);
    let deleted = node.ask(conn, 2, &delete);
    let codes: Vec<i16> = deleted.results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [ResponseError::NonEmptyGroup.code(), 0, ResponseError::GroupIdNotFound.code()]);
    let members = vec![leave_group_request::MemberIdentity::default().with_member_id(text(&member))];
    let leave = LeaveGroupRequest::default().with_group_id(group("g")).with_members(members);
    assert_eq!(node.ask(conn, 3, &leave).members[0].error_code, 0);
    commit_code(&mut node, conn, 7, &commit("g", "", -1, "t", 5));
    let partition = OffsetDeleteRequestPartition::default();
    let topic = OffsetDeleteRequestTopic::default().with_name(name("t")).with_partitions(vec![partition]);
    let request = OffsetDeleteRequest::default().with_group_id(group("g")).with_topics(vec![topic]);
    let response = node.ask(conn, 0, &request);
    assert_eq!((response.error_code, response.topics[0].partitions[0].error_code), (0, 0));
    assert_eq!(fetched(&mut node, conn, "g", "t").0, -1);
}

#[test]
fn a_member_that_hangs_up_does_not_hold_the_others() {
    let mut node = node();
    let (a, b) = (node.connect(), node.connect());
    let first = stable(&mut node, a);
    let second = node.ask(b, 4, &join("")).member_id.to_string();
    node.send(b, 4, &join(&second));
    node.core.disconnected(b);
    node.settle();
    node.send(a, 4, &join(&first));
    for _ in 0..30 {
        node.advance_ms(1_000);
        node.settle();
    }
    let joined = node.receive::<JoinGroupRequest>(a, 4);
    assert_eq!(joined.error_code, 0);
}
