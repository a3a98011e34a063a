//! Coordinators of partitions: found, loaded, resigned, led again; requests that several of them answer.

use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::create_partitions_request::CreatePartitionsTopic;
use wherry_wire::codec::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use wherry_wire::codec::messages::offset_fetch_request::OffsetFetchRequestGroup;
use wherry_wire::codec::messages::{
    CreatePartitionsRequest, DeleteGroupsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    FindCoordinatorRequest, GroupId, IncrementalAlterConfigsRequest, JoinGroupRequest, ListGroupsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use wherry_wire::types::{LeaderEpoch, LogId};

use super::groups::{commit, commit_code, fetched, group, heartbeat, join, node, ready, stable, sync};
use super::*;
use crate::core::coordinators::OFFSETS_TOPIC;
use crate::groups::partition_of;
use crate::limits::{MAX_GROUP_LOADS, MAX_GROUPS};

const LOADING: i16 = 14;
const NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;

/// The partition of a group, its log, and the epoch in which it is led.
fn home(node: &Node, id: &str) -> (i32, LogId, LeaderEpoch) {
    let topic = node.core.offsets_topic().unwrap();
    let partition = partition_of(id, topic.partition_count());
    (partition, LogId { topic: topic.id, partition }, node.core.known_epoch(topic, partition))
}

fn resign(node: &mut Node, id: &str) {
    let (partition, ..) = home(node, id);
    node.core.resign_groups(partition);
    node.take_effects();
}

/// Leads the group's partition, so many epochs after the one that the metadata know.
fn lead(node: &mut Node, id: &str, later: i32) {
    let (partition, log, epoch) = home(node, id);
    node.core.lead_groups(partition, log, LeaderEpoch(epoch.0 + later));
}

/// What OffsetFetch says of a group: error and offset.
fn offset(node: &mut Node, conn: ConnId, id: &str) -> (i16, Option<i64>) {
    let one = OffsetFetchRequestGroup::default().with_group_id(group(id)).with_topics(None);
    let response = node.ask(conn, 8, &OffsetFetchRequest::default().with_groups(vec![one]));
    let found = &response.groups[0];
    (found.error_code, found.topics.first().map(|topic| topic.partitions[0].committed_offset))
}

fn listed(node: &mut Node, conn: ConnId) -> (i16, Vec<String>) {
    let response = node.ask(conn, 4, &ListGroupsRequest::default());
    (response.error_code, response.groups.iter().map(|g| g.group_id.to_string()).collect())
}

/// Group ids in this many partitions, one each.
fn spread(node: &Node, count: usize) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let ids = (0..).map(|n| format!("group-{n}")).filter(|id| seen.insert(home(node, id).0));
    ids.take(count).collect()
}

#[test]
fn the_first_who_looks_for_a_coordinator_has_the_topic_made() {
    let mut node = super::node();
    let conns: Vec<ConnId> = (0..3).map(|_| node.connect()).collect();
    assert_eq!(listed(&mut node, conns[0]), (0, vec![]), "nobody has groups");
    assert!(node.core.offsets_topic().is_none());
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a"), text("g")]);
    for conn in &conns {
        node.send(*conn, 4, &find);
        assert!(node.try_receive::<FindCoordinatorRequest>(*conn, 4).is_none(), "not before it is durable");
    }
    node.settle();
    for conn in &conns {
        let found = node.receive::<FindCoordinatorRequest>(*conn, 4);
        assert!(found.coordinators.iter().all(|c| c.error_code == 0 && c.port == 9092), "{found:?}");
    }
    let topic = node.core.offsets_topic().unwrap();
    assert_eq!(
        (topic.partition_count(), topic.internal, topic.config.cleanup),
        (16, true, wherry_metadata::Cleanup::Compact)
    );
    let told = node.ask(conns[0], 9, &MetadataRequest::default().with_topics(None));
    assert_eq!(told.topics.len(), 1);
    assert!(told.topics[0].is_internal);
    stable(&mut node, conns[0]);
}

#[test]
fn who_did_not_look_is_told_to_come_again() {
    let mut node = super::node();
    let conn = node.connect();
    assert_eq!(node.ask(conn, 4, &join("")).error_code, NOT_AVAILABLE);
    stable(&mut node, conn);
}

#[test]
fn a_busy_disk_puts_it_off() {
    let mut node = super::node();
    let conn = node.connect();
    let find = FindCoordinatorRequest::default().with_key(text("g"));
    node.store().busy = true;
    let asked = node.send(conn, 3, &find);
    node.settle();
    assert!(node.try_receive::<FindCoordinatorRequest>(conn, 3).is_none(), "the topic waits for the disk");
    node.store().make_room();
    node.settle();
    let (correlation, response) = node.try_receive::<FindCoordinatorRequest>(conn, 3).unwrap();
    assert_eq!((correlation, response.error_code), (asked, 0));
}

#[test]
fn clients_can_read_the_topic_and_nothing_else() {
    let mut node = node();
    let conn = node.connect();
    let invalid = ResponseError::InvalidTopicException.code();
    let delete = DeleteTopicsRequest::default().with_topic_names(vec![name(OFFSETS_TOPIC)]);
    let refused = node.ask(conn, 5, &delete).responses[0].clone();
    assert_eq!(refused.error_code, invalid);
    assert!(refused.error_message.unwrap().contains("deleting"));
    let more = CreatePartitionsTopic::default().with_name(name(OFFSETS_TOPIC)).with_count(32);
    let grow = CreatePartitionsRequest::default().with_topics(vec![more]);
    assert_eq!(node.ask(conn, 3, &grow).results[0].error_code, invalid);
    assert_eq!(node.produce(conn, OFFSETS_TOPIC, batch(&["x"])).error_code, invalid);
    for (key, value, code) in [("cleanup.policy", "delete", invalid), ("segment.bytes", "1048576", 0)] {
        let entry = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(OFFSETS_TOPIC))
            .with_configs(vec![entry]);
        let alter = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        assert_eq!(node.ask(conn, 1, &alter).responses[0].error_code, code, "{key}");
    }
    node.create_topic(conn, "t", 1, &[]);
    for id in spread(&node, 16) {
        assert_eq!(commit_code(&mut node, conn, 7, &commit(&id, "", -1, "t", 5)), 0);
    }
    let read = node.fetch(conn, OFFSETS_TOPIC, 0);
    assert_eq!(read.error_code, 0);
    assert!(read.records.is_some_and(|records| !records.is_empty()));
    node.ask(conn, 1, &DescribeConfigsRequest::default());
}

#[test]
fn while_groups_are_read_back_clients_wait_and_then_find_everything() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let ids = spread(&node, 8);
    for id in &ids {
        assert_eq!(commit_code(&mut node, conn, 7, &commit(id, "", -1, "t", 5)), 0);
    }
    let member = stable(&mut node, conn);
    node.store().cold_reads = true;
    let mut node = node.restart(config());
    let conn = node.connect();
    assert_eq!(node.store().waiting_reads(), MAX_GROUP_LOADS, "a few at once");
    let soon = node.core.next_deadline().is_some_and(|at| at <= node.now.monotonic_ns);
    assert!(!soon, "the disk is waited for, not asked again and again");
    assert_eq!(node.ask(conn, 4, &join(&member)).error_code, LOADING);
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0, "members are spared");
    assert_eq!(listed(&mut node, conn).0, LOADING);
    assert_eq!(offset(&mut node, conn, &ids[7]), (LOADING, None));
    assert_eq!(commit_code(&mut node, conn, 7, &commit(&ids[7], "", -1, "t", 6)), LOADING);
    for _ in 0..10 {
        node.store().finish_reads();
        assert!(node.store().waiting_reads() <= MAX_GROUP_LOADS);
        node.settle();
    }
    for id in &ids {
        assert_eq!(offset(&mut node, conn, id), (0, Some(5)));
    }
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0);
    assert_eq!(listed(&mut node, conn).1.len(), 9);
}

#[test]
fn who_waits_is_sent_elsewhere_when_the_partition_is_lost() {
    let mut node = node();
    let conns: Vec<ConnId> = (0..4).map(|_| node.connect()).collect();
    node.create_topic(conns[0], "t", 1, &[]);
    let first = stable(&mut node, conns[0]);
    let second = node.ask(conns[1], 4, &join("")).member_id.to_string();
    node.send(conns[1], 4, &join(&second));
    node.store().hold = true;
    node.send(conns[2], 7, &commit("g", &first, 1, "t", 6));
    node.settle();
    assert!(node.try_receive::<JoinGroupRequest>(conns[1], 4).is_none());
    assert!(node.try_receive::<OffsetCommitRequest>(conns[2], 7).is_none());
    resign(&mut node, "g");
    assert_eq!(node.receive::<JoinGroupRequest>(conns[1], 4).error_code, NOT_COORDINATOR);
    let refused = node.receive::<OffsetCommitRequest>(conns[2], 7);
    assert_eq!(refused.topics[0].partitions[0].error_code, NOT_COORDINATOR);
    assert_eq!(node.core.desk.waiting_requests(), 0);
    assert_eq!(node.ask(conns[0], 3, &heartbeat(&first, 1)).error_code, NOT_COORDINATOR);
    assert_eq!(offset(&mut node, conns[0], "g"), (NOT_COORDINATOR, None));
    node.store().hold = false;
    node.settle();
    // Nobody was told that it failed: it was written, and the next coordinator finds it.
    lead(&mut node, "g", 1);
    node.settle();
    assert_eq!(fetched(&mut node, conns[0], "g", "t").0, 6);
}

#[test]
fn a_member_that_waits_for_its_assignment_is_sent_elsewhere() {
    let mut node = node();
    let (a, b) = (node.connect(), node.connect());
    let first = stable(&mut node, a);
    let second = node.ask(b, 4, &join("")).member_id.to_string();
    node.send(b, 4, &join(&second));
    node.send(a, 4, &join(&first));
    node.settle();
    node.receive::<JoinGroupRequest>(a, 4);
    let follower =
        if node.receive::<JoinGroupRequest>(b, 4).leader.as_str() == second { (a, first) } else { (b, second) };
    node.send(follower.0, 3, &sync(&follower.1, 2, None));
    node.settle();
    assert!(node.try_receive::<SyncGroupRequest>(follower.0, 3).is_none());
    resign(&mut node, "g");
    assert_eq!(node.receive::<SyncGroupRequest>(follower.0, 3).error_code, NOT_COORDINATOR);
}

#[test]
fn offsets_and_generation_survive_a_change_of_leader() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let member = stable(&mut node, conn);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("g", &member, 1, "t", 5)), 0);
    let (.., log, epoch) = home(&node, "g");
    for later in 1..4 {
        if later < 3 {
            resign(&mut node, "g");
        }
        lead(&mut node, "g", later);
        node.settle();
        assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0);
        assert_eq!(fetched(&mut node, conn, "g", "t").0, 4 + i64::from(later));
        assert_eq!(commit_code(&mut node, conn, 7, &commit("g", &member, 1, "t", 5 + i64::from(later))), 0);
        let written = node.store().batches(log).last().unwrap().0.leader_epoch;
        assert_eq!(written.0, epoch.0 + later, "what it writes says in which epoch");
    }
    // Old news changes nothing.
    lead(&mut node, "g", 1);
    assert_eq!(node.ask(conn, 3, &heartbeat(&member, 1)).error_code, 0);
}

#[test]
fn what_is_not_committed_yet_is_not_served_and_an_old_report_is_not_a_new_one() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("g", "", -1, "t", 5)), 0);
    node.store().hold = true;
    node.send(conn, 7, &commit("g", "", -1, "t", 6));
    node.settle();
    resign(&mut node, "g");
    assert_eq!(node.receive::<OffsetCommitRequest>(conn, 7).topics[0].partitions[0].error_code, NOT_COORDINATOR);
    // In the same epoch: what the old leadership waits for has the numbers that the new one's first writes will have.
    lead(&mut node, "g", 0);
    node.settle();
    assert_eq!(offset(&mut node, conn, "g"), (LOADING, None), "6 may still be taken back");
    assert_eq!(node.core.next_deadline().filter(|at| *at <= node.now.monotonic_ns), None, "it does not spin");
    node.store().hold = false;
    node.settle();
    assert_eq!(offset(&mut node, conn, "g"), (0, Some(6)));
    assert_eq!(commit_code(&mut node, conn, 7, &commit("g", "", -1, "t", 7)), 0);
    assert_eq!(offset(&mut node, conn, "g"), (0, Some(7)));
}

#[test]
fn a_report_after_the_end_is_ignored() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    node.store().hold = true;
    node.send(conn, 7, &commit("g", "", -1, "t", 6));
    node.settle();
    resign(&mut node, "g");
    node.receive::<OffsetCommitRequest>(conn, 7);
    node.store().hold = false;
    node.settle();
    assert!(node.try_receive::<OffsetCommitRequest>(conn, 7).is_none(), "one answer each");
    assert!(node.core.is_quiet());
}

#[test]
fn groups_of_several_partitions_in_one_request() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let ids = spread(&node, 3);
    for (id, offset) in ids.iter().zip(1..) {
        assert_eq!(commit_code(&mut node, conn, 7, &commit(id, "", -1, "t", offset)), 0);
    }
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(listed(&mut node, conn), (0, sorted));
    resign(&mut node, &ids[1]);
    let left = [ids[0].clone(), ids[2].clone()];
    assert_eq!(listed(&mut node, conn).1.len(), 2);
    assert!(listed(&mut node, conn).1.iter().all(|id| left.contains(id)));
    let asked = [&ids[2], &ids[1], &ids[0], "nobody"].map(|id: &str| group(id)).to_vec();
    let described = node.ask(conn, 5, &DescribeGroupsRequest::default().with_groups(asked.clone()));
    let told: Vec<_> = described.groups.iter().map(|g| (g.group_id.clone(), g.error_code)).collect();
    let nobody = if home(&node, "nobody").0 == home(&node, &ids[1]).0 { NOT_COORDINATOR } else { 0 };
    let expected: Vec<_> = asked.iter().cloned().zip([0, NOT_COORDINATOR, 0, nobody]).collect();
    assert_eq!(told, expected);
    let all = |id: &GroupId| OffsetFetchRequestGroup::default().with_group_id(id.clone()).with_topics(None);
    let fetch = OffsetFetchRequest::default().with_groups(asked[..3].iter().map(all).collect());
    let told: Vec<_> = node
        .ask(conn, 8, &fetch)
        .groups
        .iter()
        .map(|g| (g.error_code, g.topics.first().map_or(-1, |t| t.partitions[0].committed_offset)))
        .collect();
    assert_eq!(told, [(0, 3), (NOT_COORDINATOR, -1), (0, 1)]);
    // Named twice: the second time it is going already.
    let delete = [&ids[2], &ids[1], &ids[0], &ids[2]].map(|id| group(id)).to_vec();
    let deleted = node.ask(conn, 2, &DeleteGroupsRequest::default().with_groups_names(delete));
    let codes: Vec<i16> = deleted.results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [0, NOT_COORDINATOR, 0, NOT_AVAILABLE]);
    lead(&mut node, &ids[1], 1);
    node.settle();
    assert_eq!(listed(&mut node, conn), (0, vec![ids[1].clone()]));
}

#[test]
fn a_request_of_several_partitions_is_answered_when_its_last_part_is() {
    let mut node = node();
    let (conn, other) = (node.connect(), node.connect());
    node.create_topic(conn, "t", 1, &[]);
    let ids = spread(&node, 3);
    for id in &ids {
        assert_eq!(commit_code(&mut node, conn, 7, &commit(id, "", -1, "t", 1)), 0);
    }
    let delete = DeleteGroupsRequest::default().with_groups_names(ids.iter().map(|id| group(id)).collect());
    node.store().hold = true;
    node.send(conn, 2, &delete);
    node.send(other, 2, &delete);
    node.settle();
    assert!(node.try_receive::<DeleteGroupsRequest>(conn, 2).is_none());
    resign(&mut node, &ids[1]);
    node.settle();
    assert!(node.try_receive::<DeleteGroupsRequest>(conn, 2).is_none(), "two parts are still to come");
    let codes: Vec<i16> = node.receive::<DeleteGroupsRequest>(other, 2).results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [NOT_AVAILABLE; 3], "somebody else's deletion is on its way");
    node.store().hold = false;
    node.settle();
    let codes: Vec<i16> = node.receive::<DeleteGroupsRequest>(conn, 2).results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [0, NOT_COORDINATOR, 0]);
    // A client that hangs up leaves nothing behind.
    lead(&mut node, &ids[1], 1);
    node.settle();
    for id in &ids {
        commit_code(&mut node, other, 7, &commit(id, "", -1, "t", 1));
    }
    node.store().hold = true;
    node.send(conn, 2, &delete);
    node.core.disconnected(conn);
    assert_eq!(node.core.desk.waiting_requests(), 0);
    node.store().hold = false;
    node.settle();
}

#[test]
fn a_damaged_record_costs_its_partition_and_no_more() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let ids = spread(&node, 2);
    for id in &ids {
        assert_eq!(commit_code(&mut node, conn, 7, &commit(id, "", -1, "t", 5)), 0);
    }
    let (.., log, epoch) = home(&node, &ids[0]);
    let key = Some(Bytes::from_static(&[99, 0]));
    let newer = super::super::records::batch(&[(key, None)], 0).unwrap();
    node.store().append(log, &[newer], epoch, 0).unwrap();
    node.settle();
    let mut node = node.restart(config());
    let conn = node.connect();
    node.settle();
    assert_eq!(offset(&mut node, conn, &ids[0]), (NOT_AVAILABLE, None));
    assert_eq!(commit_code(&mut node, conn, 7, &commit(&ids[0], "", -1, "t", 6)), NOT_AVAILABLE);
    assert_eq!(offset(&mut node, conn, &ids[1]), (0, Some(5)));
    assert_eq!(listed(&mut node, conn), (NOT_AVAILABLE, vec![ids[1].clone()]));
    assert_eq!(node.stopped, None);
    resign(&mut node, &ids[0]);
    assert_eq!(offset(&mut node, conn, &ids[0]), (NOT_COORDINATOR, None));
}

#[test]
fn a_failed_append_is_taken_back_in_its_partition_alone() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let ids = spread(&node, 2);
    node.store().busy = true;
    assert_eq!(commit_code(&mut node, conn, 7, &commit(&ids[0], "", -1, "t", 5)), NOT_AVAILABLE);
    node.store().make_room();
    assert_eq!(commit_code(&mut node, conn, 7, &commit(&ids[1], "", -1, "t", 5)), 0);
    assert_eq!(offset(&mut node, conn, &ids[0]), (0, None));
    assert_eq!(listed(&mut node, conn).1, [ids[1].clone()]);
}

#[test]
fn a_topic_that_goes_while_groups_are_read_back_takes_its_offsets_along() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("g", "", -1, "t", 5)), 0);
    node.store().cold_reads = true;
    resign(&mut node, "g");
    lead(&mut node, "g", 1);
    node.ask(conn, 4, &DeleteTopicsRequest::default().with_topic_names(vec![name("t")]));
    node.create_topic(conn, "t", 1, &[]);
    node.store().finish_reads();
    node.settle();
    assert_eq!(offset(&mut node, conn, "g"), (0, None));
}

#[test]
fn a_read_for_a_leadership_that_is_over_finds_nobody() {
    let mut node = node();
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    assert_eq!(commit_code(&mut node, conn, 7, &commit("g", "", -1, "t", 5)), 0);
    node.store().cold_reads = true;
    for later in 1..20 {
        resign(&mut node, "g");
        lead(&mut node, "g", later);
        node.turn();
    }
    assert_eq!(node.store().waiting_reads(), 19);
    node.store().finish_reads();
    node.settle();
    assert_eq!(offset(&mut node, conn, "g"), (0, Some(5)));
}

#[test]
fn idle_coordinators_cost_nothing() {
    let turn_costs = |partitions| {
        let mut node = ready(node_with(NodeConfig { offsets_topic_partitions: partitions, ..config() }));
        node.settle();
        let before = node.store().infos.get();
        for _ in 0..100 {
            node.turn();
        }
        assert!(node.core.next_deadline().is_some_and(|at| at > node.now.monotonic_ns));
        node.store().infos.get() - before
    };
    assert_eq!(turn_costs(1), turn_costs(1_000));
}

#[test]
fn many_groups_are_bounded_wherever_they_fall() {
    let mut node = ready(node_with(NodeConfig { offsets_topic_partitions: 1_000, ..config() }));
    let conn = node.connect();
    node.create_topic(conn, "t", 1, &[]);
    let (chosen, ..) = home(&node, "g");
    let share = MAX_GROUPS / 1_000;
    let ids = (0..).map(|n| format!("group-{n}")).filter(|id| partition_of(id, 1_000) == chosen);
    let ids: Vec<String> = ids.take(share + 1).collect();
    let (last, rest) = ids.split_last().unwrap();
    for id in rest {
        node.send(conn, 7, &commit(id, "", -1, "t", 1));
    }
    node.settle();
    for _ in rest {
        assert_eq!(node.receive::<OffsetCommitRequest>(conn, 7).topics[0].partitions[0].error_code, 0);
    }
    let full = commit_code(&mut node, conn, 7, &commit(last, "", -1, "t", 1));
    assert_eq!(full, ResponseError::InvalidCommitOffsetSize.code());
    assert_eq!(commit_code(&mut node, conn, 7, &commit("elsewhere", "", -1, "t", 1)), 0);
    // As many as one request may name, over all partitions; one more is refused whole.
    for (count, code) in [(10_000, 0), (10_001, ResponseError::InvalidRequest.code())] {
        let names = (0..count).map(|n| group(&format!("nobody-{n}"))).collect();
        let described = node.ask(conn, 5, &DescribeGroupsRequest::default().with_groups(names));
        assert_eq!(described.groups.len(), count);
        assert!(described.groups.iter().all(|g| g.error_code == code));
    }
    assert_eq!(node.core.desk.waiting_requests(), 0);
}
