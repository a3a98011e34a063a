//! Share groups over the wire: members, records and acknowledgements, sessions, restarts, what administrators may do.

use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::alter_share_group_offsets_request::{
    AlterShareGroupOffsetsRequestPartition, AlterShareGroupOffsetsRequestTopic,
};
use wherry_wire::codec::messages::delete_share_group_offsets_request::DeleteShareGroupOffsetsRequestTopic;
use wherry_wire::codec::messages::describe_share_group_offsets_request::{
    DescribeShareGroupOffsetsRequestGroup, DescribeShareGroupOffsetsRequestTopic,
};
use wherry_wire::codec::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use wherry_wire::codec::messages::share_fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use wherry_wire::codec::messages::share_fetch_response::PartitionData;
use wherry_wire::codec::messages::{
    AlterShareGroupOffsetsRequest, ApiVersionsRequest, DeleteGroupsRequest, DeleteShareGroupOffsetsRequest,
    DescribeShareGroupOffsetsRequest, IncrementalAlterConfigsRequest, ListGroupsRequest, ShareAcknowledgeRequest,
    ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse, ShareGroupDescribeRequest,
    ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse, share_acknowledge_request, share_fetch_request,
};

use super::groups::{group, ready};
use super::*;

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
const RENEW: i8 = 4;
const GROUP_RESOURCE: i8 = 32;

/// A node with the group `g`, which begins with the first record, and the topic `t` of one partition.
fn begun() -> (Node, ConnId, Uuid) {
    let mut node = ready(node());
    let conn = node.connect();
    let topic = node.create_topic(conn, "t", 1, &[]);
    set(&mut node, conn, "share.auto.offset.reset", "earliest");
    (node, conn, topic)
}

fn set(node: &mut Node, conn: ConnId, key: &str, value: &str) {
    let config = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(GROUP_RESOURCE)
        .with_resource_name(text("g"))
        .with_configs(vec![config]);
    let response = node.ask(conn, 1, &IncrementalAlterConfigsRequest::default().with_resources(vec![resource]));
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
}

pub(super) fn beat(
    node: &mut Node,
    conn: ConnId,
    member: &str,
    epoch: i32,
    topics: &[&str],
) -> ShareGroupHeartbeatResponse {
    let topics = (!topics.is_empty()).then(|| topics.iter().map(|topic| name(topic)).collect());
    let request = ShareGroupHeartbeatRequest::default()
        .with_group_id(group("g"))
        .with_member_id(text(member))
        .with_member_epoch(epoch)
        .with_subscribed_topic_names(topics);
    node.ask(conn, 1, &request)
}

fn given(response: &ShareGroupHeartbeatResponse) -> Vec<i32> {
    let topics = response.assignment.iter().flat_map(|assignment| &assignment.topic_partitions);
    topics.flat_map(|topic| topic.partitions.iter().copied()).collect()
}

/// Offsets and what becomes of them: one verdict for all, or one for each.
type Ack = (i64, i64, Vec<i8>);

fn batches(acks: &[Ack]) -> Vec<share_fetch_request::AcknowledgementBatch> {
    let one = |(first, last, types): &Ack| {
        share_fetch_request::AcknowledgementBatch::default()
            .with_first_offset(*first)
            .with_last_offset(*last)
            .with_acknowledge_types(types.clone())
    };
    acks.iter().map(one).collect()
}

fn fetch_request(member: &str, epoch: i32, topic: Uuid, acks: &[Ack]) -> ShareFetchRequest {
    let partition = FetchPartition::default().with_acknowledgement_batches(batches(acks));
    let topic = FetchTopic::default().with_topic_id(topic).with_partitions(vec![partition]);
    share_fetch_request::ShareFetchRequest::default()
        .with_group_id(Some(group("g")))
        .with_member_id(Some(text(member)))
        .with_share_session_epoch(epoch)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_max_records(500)
        .with_batch_size(500)
        .with_topics(if epoch > 0 && acks.is_empty() { Vec::new() } else { vec![topic] })
        .into()
}

fn share_fetch(
    node: &mut Node,
    conn: ConnId,
    member: &str,
    epoch: i32,
    topic: Uuid,
    acks: &[Ack],
) -> ShareFetchResponse {
    node.ask(conn, 1, &fetch_request(member, epoch, topic, acks))
}

fn data(response: &ShareFetchResponse) -> Option<&PartitionData> {
    assert_eq!(response.error_code, 0, "{:?}", response.error_message);
    response.responses.first().map(|topic| &topic.partitions[0])
}

/// The runs of offsets that were given, with the count of deliveries.
fn runs(response: &ShareFetchResponse) -> Vec<(i64, i64, i16)> {
    let data = data(response).into_iter();
    let runs = data.flat_map(|data| {
        assert_eq!(data.error_code, 0);
        &data.acquired_records
    });
    runs.map(|run| (run.first_offset, run.last_offset, run.delivery_count)).collect()
}

fn ack_request(member: &str, epoch: i32, topic: Uuid, acks: &[Ack]) -> ShareAcknowledgeRequest {
    let batch = |(first, last, types): &Ack| {
        share_acknowledge_request::AcknowledgementBatch::default()
            .with_first_offset(*first)
            .with_last_offset(*last)
            .with_acknowledge_types(types.clone())
    };
    let partition = share_acknowledge_request::AcknowledgePartition::default()
        .with_acknowledgement_batches(acks.iter().map(batch).collect());
    let topic =
        share_acknowledge_request::AcknowledgeTopic::default().with_topic_id(topic).with_partitions(vec![partition]);
    share_acknowledge_request::ShareAcknowledgeRequest::default()
        .with_group_id(Some(group("g")))
        .with_member_id(Some(text(member)))
        .with_share_session_epoch(epoch)
        .with_topics(if acks.is_empty() { Vec::new() } else { vec![topic] })
        .into()
}

fn acknowledge(node: &mut Node, conn: ConnId, member: &str, epoch: i32, topic: Uuid, acks: &[Ack]) -> i16 {
    let response: ShareAcknowledgeResponse = node.ask(conn, 1, &ack_request(member, epoch, topic, acks));
    assert_eq!(response.error_code, 0, "{:?}", response.error_message);
    response.responses.first().map_or(0, |topic| topic.partitions[0].error_code)
}

/// Where the group begins in partition 0 of its only topic; -1: nothing is kept.
fn start(node: &mut Node, conn: ConnId) -> i64 {
    let asked = DescribeShareGroupOffsetsRequestGroup::default().with_group_id(group("g")).with_topics(None);
    let response = node.ask(conn, 0, &DescribeShareGroupOffsetsRequest::default().with_groups(vec![asked]));
    assert_eq!(response.groups[0].error_code, 0, "{:?}", response.groups[0].error_message);
    response.groups[0].topics.first().map_or(-1, |topic| topic.partitions[0].start_offset)
}

#[test]
fn members_share_a_partition_and_the_group_is_shown() {
    let (mut node, conn, _) = begun();
    let a = beat(&mut node, conn, "a", 0, &["t"]);
    assert_eq!((a.error_code, a.member_epoch, a.heartbeat_interval_ms, given(&a)), (0, 1, 5_000, vec![0]));
    let b = beat(&mut node, conn, "b", 0, &["t"]);
    assert_eq!((b.member_epoch, given(&b)), (2, vec![0]), "both have the one partition");
    let a = beat(&mut node, conn, "a", 1, &[]);
    assert_eq!((a.member_epoch, given(&a)), (2, vec![0]));
    assert!(beat(&mut node, conn, "a", 2, &[]).assignment.is_none());
    assert_eq!(beat(&mut node, conn, "a", 7, &[]).error_code, ResponseError::FencedMemberEpoch.code());
    assert_eq!(beat(&mut node, conn, "c", 1, &[]).error_code, ResponseError::UnknownMemberId.code());
    assert_eq!(beat(&mut node, conn, "c", 0, &[]).error_code, ResponseError::InvalidRequest.code());
    let described = node.ask(conn, 1, &ShareGroupDescribeRequest::default().with_group_ids(vec![group("g")]));
    let described = &described.groups[0];
    assert_eq!((described.group_state.as_str(), described.assignor_name.as_str()), ("Stable", "simple"));
    assert_eq!((described.group_epoch, described.members.len()), (2, 2));
    assert_eq!(described.members[1].assignment.topic_partitions[0].topic_name.as_str(), "t");
    let listed = node.ask(conn, 5, &ListGroupsRequest::default().with_types_filter(vec![text("share")]));
    assert_eq!((listed.groups.len(), listed.groups[0].protocol_type.as_str()), (1, "share"));
    assert_eq!(beat(&mut node, conn, "b", -1, &[]).member_epoch, -1);
    node.advance_ms(46_000);
    node.settle();
    let described = node.ask(conn, 1, &ShareGroupDescribeRequest::default().with_group_ids(vec![group("g")]));
    assert_eq!(described.groups[0].group_state.as_str(), "Empty", "nothing was heard of a");
}

#[test]
fn each_record_is_handled_once_and_the_start_follows() {
    let (mut node, conn, topic) = begun();
    let other = node.connect();
    beat(&mut node, conn, "a", 0, &["t"]);
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 0, topic, &[])), [], "nothing is there");
    node.produce(conn, "t", batch(&["r0", "r1", "r2"]));
    let first = share_fetch(&mut node, conn, "a", 1, topic, &[]);
    assert_eq!(runs(&first), [(0, 2, 1)]);
    assert_eq!(first.acquisition_lock_timeout_ms, 30_000);
    let read: Vec<String> = values(&data(&first).unwrap().records).into_iter().map(|(_, value)| value).collect();
    assert_eq!(read, ["r0", "r1", "r2"]);
    node.produce(conn, "t", batch(&["r3", "r4"]));
    assert_eq!(runs(&share_fetch(&mut node, other, "b", 0, topic, &[])), [(3, 4, 1)], "what a has not");
    assert_eq!(acknowledge(&mut node, conn, "a", 2, topic, &[(1, 2, vec![ACCEPT])]), 0);
    assert_eq!(start(&mut node, conn), 0);
    let more = share_fetch(&mut node, conn, "a", 3, topic, &[(0, 0, vec![ACCEPT])]);
    assert_eq!((runs(&more), data(&more).unwrap().acknowledge_error_code), (vec![], 0));
    assert_eq!(start(&mut node, conn), 3);
    let again = acknowledge(&mut node, conn, "a", 4, topic, &[(3, 4, vec![ACCEPT])]);
    assert_eq!(again, ResponseError::InvalidRecordState.code(), "they are b's");
    assert_eq!(acknowledge(&mut node, other, "b", 1, topic, &[(3, 4, vec![ACCEPT, ACCEPT])]), 0);
    assert_eq!(start(&mut node, conn), 5);
}

#[test]
fn what_is_released_comes_again_and_what_is_rejected_does_not() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0", "r1", "r2"]));
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 0, topic, &[])), [(0, 2, 1)]);
    assert_eq!(acknowledge(&mut node, conn, "a", 1, topic, &[(0, 2, vec![ACCEPT, RELEASE, REJECT])]), 0);
    let again = share_fetch(&mut node, conn, "a", 2, topic, &[]);
    assert_eq!(runs(&again), [(1, 1, 2)]);
    for count in 3..=5 {
        let acks = [(1, 1, vec![RELEASE])];
        assert_eq!(runs(&share_fetch(&mut node, conn, "a", i32::from(count), topic, &acks)), [(1, 1, count)]);
    }
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 6, topic, &[(1, 1, vec![RELEASE])])), [], "given up");
    assert_eq!(start(&mut node, conn), 3);
}

#[test]
fn locks_and_sessions_end_and_others_get_what_was_held() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0", "r1"]));
    let holder = node.connect();
    assert_eq!(runs(&share_fetch(&mut node, holder, "a", 0, topic, &[])), [(0, 1, 1)]);
    assert_eq!(runs(&share_fetch(&mut node, conn, "b", 0, topic, &[])), []);
    node.advance_ms(30_000);
    node.settle();
    assert_eq!(runs(&share_fetch(&mut node, conn, "b", 1, topic, &[])), [(0, 1, 2)]);
    let late = acknowledge(&mut node, holder, "a", 1, topic, &[(0, 1, vec![ACCEPT])]);
    assert_eq!(late, ResponseError::InvalidRecordState.code());
    // b says goodbye, then a's connection ends.
    assert_eq!(runs(&share_fetch(&mut node, conn, "b", -1, topic, &[(0, 0, vec![ACCEPT])])), []);
    assert_eq!(start(&mut node, conn), 1);
    assert_eq!(runs(&share_fetch(&mut node, holder, "a", 2, topic, &[])), [(1, 1, 3)]);
    node.core.disconnected(holder);
    node.settle();
    assert_eq!(runs(&share_fetch(&mut node, conn, "b", 0, topic, &[])), [(1, 1, 4)]);
}

/// One that waits.
fn waiting(epoch: i32, topic: Uuid) -> ShareFetchRequest {
    let mut request = fetch_request("a", epoch, topic, &[]);
    request.max_wait_ms = 10_000;
    request
}

#[test]
fn a_fetch_waits_for_records_and_an_acknowledgement_does_not_wait_behind_it() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0"]));
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    node.send(conn, 1, &waiting(1, topic));
    node.settle();
    assert!(node.try_receive::<ShareFetchRequest>(conn, 1).is_none());
    node.send(conn, 1, &ack_request("a", 2, topic, &[(0, 0, vec![ACCEPT])]));
    node.settle();
    assert_eq!(runs(&node.receive::<ShareFetchRequest>(conn, 1)), []);
    assert_eq!(node.receive::<ShareAcknowledgeRequest>(conn, 1).responses[0].partitions[0].error_code, 0);
    node.send(conn, 1, &waiting(3, topic));
    node.settle();
    let producer = node.connect();
    node.produce(producer, "t", batch(&["r1"]));
    node.settle();
    assert_eq!(runs(&node.receive::<ShareFetchRequest>(conn, 1)), [(1, 1, 1)]);
    node.send(conn, 1, &waiting(4, topic));
    node.advance_ms(10_000);
    node.settle();
    assert_eq!(runs(&node.receive::<ShareFetchRequest>(conn, 1)), [], "its time is over");
}

#[test]
fn acknowledgements_outlive_the_node() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0", "r1", "r2", "r3"]));
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    let acks = [(1, 1, vec![ACCEPT]), (2, 2, vec![RELEASE]), (3, 3, vec![REJECT])];
    assert_eq!(acknowledge(&mut node, conn, "a", 1, topic, &acks), 0);
    let mut node = node.restart(config());
    let conn = node.connect();
    let beat = beat(&mut node, conn, "a", 1, &[]);
    assert_eq!((beat.error_code, given(&beat)), (0, vec![0]), "the member is known");
    let lost = node.ask(conn, 1, &fetch_request("a", 2, topic, &[]));
    assert_eq!(lost.error_code, ResponseError::ShareSessionNotFound.code());
    let again = share_fetch(&mut node, conn, "a", 0, topic, &[]);
    assert_eq!(runs(&again), [(0, 0, 1), (2, 2, 2)]);
    assert_eq!(acknowledge(&mut node, conn, "a", 1, topic, &[(0, 0, vec![ACCEPT]), (2, 2, vec![ACCEPT])]), 0);
    assert_eq!(start(&mut node, conn), 4);
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0"]));
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    node.store().hold = true;
    node.send(conn, 1, &ack_request("a", 1, topic, &[(0, 0, vec![ACCEPT])]));
    node.settle();
    assert!(node.try_receive::<ShareAcknowledgeRequest>(conn, 1).is_none());
    node.store().hold = false;
    node.settle();
    assert_eq!(node.receive::<ShareAcknowledgeRequest>(conn, 1).responses[0].partitions[0].error_code, 0);
}

#[test]
fn records_that_the_disk_brings_later_are_given_when_they_are_there() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    node.produce(conn, "t", batch(&["r0", "r1"]));
    node.store().cold_reads = true;
    node.send(conn, 1, &fetch_request("a", 1, topic, &[]));
    node.settle();
    assert!(node.try_receive::<ShareFetchRequest>(conn, 1).is_none());
    node.store().finish_reads();
    node.settle();
    assert_eq!(runs(&node.receive::<ShareFetchRequest>(conn, 1)), [(0, 1, 1)]);
}

#[test]
fn groups_begin_with_the_latest_record_unless_they_say_otherwise() {
    let (mut node, conn, topic) = begun();
    set(&mut node, conn, "share.auto.offset.reset", "latest");
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["old"]));
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 0, topic, &[])), []);
    node.produce(conn, "t", batch(&["new"]));
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 1, topic, &[])), [(1, 1, 1)]);
}

#[test]
fn sessions_have_epochs_and_forget_what_they_are_told() {
    let (mut node, conn, topic) = begun();
    node.produce(conn, "t", batch(&["r0"]));
    let code = |node: &mut Node, request: &ShareFetchRequest| node.ask(conn, 1, request).error_code;
    let fetch = |epoch| fetch_request("a", epoch, topic, &[]);
    assert_eq!(code(&mut node, &fetch(1)), ResponseError::ShareSessionNotFound.code());
    assert_eq!(code(&mut node, &fetch(-1)), ResponseError::ShareSessionNotFound.code());
    let early = fetch_request("a", 0, topic, &[(0, 0, vec![ACCEPT])]);
    assert_eq!(code(&mut node, &early), ResponseError::InvalidRequest.code());
    assert_eq!(code(&mut node, &fetch(0)), 0);
    assert_eq!(code(&mut node, &fetch(5)), ResponseError::InvalidShareSessionEpoch.code());
    let forgotten = ForgottenTopic::default().with_topic_id(topic).with_partitions(vec![0]);
    let mut forget = fetch_request("a", 1, topic, &[(0, 0, vec![RELEASE])]);
    forget.forgotten_topics_data = vec![forgotten];
    let response = node.ask(conn, 1, &forget);
    assert_eq!((runs(&response), data(&response).unwrap().acknowledge_error_code), (vec![], 0));
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 2, topic, &[])), [], "nothing is read in this session");
    let first = node.ask(conn, 1, &ack_request("a", 0, topic, &[(0, 0, vec![ACCEPT])]));
    assert_eq!(first.error_code, ResponseError::InvalidShareSessionEpoch.code());
    for wrong in [(0, 0, vec![9]), (1, 0, vec![ACCEPT]), (0, 3, vec![ACCEPT, ACCEPT]), (-1, 0, vec![ACCEPT])] {
        let request = fetch_request("b", 0, topic, &[]);
        assert_eq!(code(&mut node, &request), 0);
        let refused = acknowledge(&mut node, conn, "b", 1, topic, std::slice::from_ref(&wrong));
        assert_eq!(refused, ResponseError::InvalidRequest.code(), "{wrong:?}");
    }
    let stranger = share_fetch(&mut node, conn, "c", 0, Uuid::from_u128(99), &[]);
    assert_eq!(data(&stranger).unwrap().error_code, ResponseError::UnknownTopicId.code());
    let mut nobody = fetch(0);
    nobody.member_id = None;
    assert_eq!(code(&mut node, &nobody), ResponseError::InvalidRequest.code());
}

/// The group `g`, without members.
pub(super) fn empty_group(node: &mut Node, conn: ConnId) {
    assert_eq!(beat(node, conn, "a", 0, &["t"]).error_code, 0);
    assert_eq!(beat(node, conn, "a", -1, &[]).error_code, 0);
}

fn id_of(node: &Node, topic: &str) -> Uuid {
    node.core.meta.topic(topic).unwrap().id
}

pub(super) fn first_fetch(node: &mut Node, conn: ConnId, topic: &str) -> ShareFetchResponse {
    let topic = id_of(node, topic);
    share_fetch(node, conn, "a", 0, topic, &[])
}

pub(super) fn acknowledge_nothing(node: &mut Node, conn: ConnId, topic: &str) -> ShareAcknowledgeResponse {
    let partition = share_acknowledge_request::AcknowledgePartition::default();
    let topic = share_acknowledge_request::AcknowledgeTopic::default()
        .with_topic_id(id_of(node, topic))
        .with_partitions(vec![partition]);
    let mut request = ack_request("a", 1, Uuid::nil(), &[]);
    request.topics = vec![topic];
    node.ask(conn, 1, &request)
}

/// The codes of the group, and of partition 0 of a topic.
pub(super) fn describe_offsets(node: &mut Node, conn: ConnId, topic: &str) -> Vec<i16> {
    let topic = DescribeShareGroupOffsetsRequestTopic::default().with_topic_name(name(topic)).with_partitions(vec![0]);
    let asked =
        DescribeShareGroupOffsetsRequestGroup::default().with_group_id(group("g")).with_topics(Some(vec![topic]));
    let response = node.ask(conn, 0, &DescribeShareGroupOffsetsRequest::default().with_groups(vec![asked]));
    let topics = response.groups[0].topics.iter();
    topics.map(|topic| topic.partitions[0].error_code).chain([response.groups[0].error_code]).collect()
}

/// The codes of the topics' partitions, and of the whole.
pub(super) fn alter(node: &mut Node, conn: ConnId, to: i64) -> Vec<i16> {
    let partition = AlterShareGroupOffsetsRequestPartition::default().with_start_offset(to);
    let topic =
        AlterShareGroupOffsetsRequestTopic::default().with_topic_name(name("t")).with_partitions(vec![partition]);
    let request = AlterShareGroupOffsetsRequest::default().with_group_id(group("g")).with_topics(vec![topic]);
    let response = node.ask(conn, 0, &request);
    let topics = response.responses.iter();
    topics.map(|topic| topic.partitions[0].error_code).chain([response.error_code]).collect()
}

pub(super) fn delete(node: &mut Node, conn: ConnId) -> Vec<i16> {
    let topic = DeleteShareGroupOffsetsRequestTopic::default().with_topic_name(name("t"));
    let request = DeleteShareGroupOffsetsRequest::default().with_group_id(group("g")).with_topics(vec![topic]);
    let response = node.ask(conn, 0, &request);
    response.responses.iter().map(|topic| topic.error_code).chain([response.error_code]).collect()
}

#[test]
fn version_2_takes_exactly_so_many_and_asks_for_more_time() {
    let (mut node, conn, topic) = begun();
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0", "r1", "r2"]));
    let mut strict = fetch_request("a", 0, topic, &[]);
    (strict.max_records, strict.share_acquire_mode) = (2, 1);
    assert_eq!(runs(&node.ask(conn, 2, &strict)), [(0, 1, 1)]);
    node.advance_ms(20_000);
    let mut renew = ack_request("a", 1, topic, &[(0, 1, vec![RENEW, ACCEPT])]);
    let refused = node.ask(conn, 2, &renew);
    assert_eq!(
        refused.responses[0].partitions[0].error_code,
        ResponseError::InvalidRequest.code(),
        "it did not say so"
    );
    (renew.is_renew_ack, renew.share_session_epoch) = (true, 2);
    let renewed = node.ask(conn, 2, &renew);
    assert_eq!((renewed.responses[0].partitions[0].error_code, renewed.acquisition_lock_timeout_ms), (0, 30_000));
    node.advance_ms(20_000);
    node.settle();
    let mut more = fetch_request("a", 3, topic, &[(0, 0, vec![RENEW])]);
    more.is_renew_ack = true;
    assert_eq!(node.ask(conn, 2, &more).error_code, ResponseError::InvalidRequest.code(), "it would take more");
    (more.max_bytes, more.max_records, more.min_bytes) = (0, 0, 0);
    let response = node.ask(conn, 2, &more);
    assert_eq!((runs(&response), data(&response).unwrap().acknowledge_error_code), (vec![], 0));
    assert_eq!(runs(&node.ask(conn, 2, &fetch_request("a", 4, topic, &[]))), [(2, 2, 1)], "r0 is still a's");
}

#[test]
fn what_is_given_up_is_copied_first_where_the_group_has_its_dead_letters() {
    let (mut node, conn, topic) = begun();
    set(&mut node, conn, "wherry.dead.letter.topic", "dead");
    set(&mut node, conn, "share.delivery.count.limit", "2");
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0", "r1", "r2"]));
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    assert_eq!(acknowledge(&mut node, conn, "a", 1, topic, &[(0, 2, vec![ACCEPT, REJECT, RELEASE])]), 0);
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 2, topic, &[])), [(2, 2, 2)]);
    assert_eq!(start(&mut node, conn), 1, "there is no topic for the copy");
    // The node dies, and another goes on with what is condemned.
    let mut node = node.restart(config());
    let conn = node.connect();
    node.create_topic(conn, "dead", 1, &[]);
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    node.advance_ms(1_000);
    node.settle();
    assert_eq!(start(&mut node, conn), 2);
    let copied = node.fetch(conn, "dead", 0);
    assert_eq!(values(&copied.records), [(0, "r1".to_owned())]);
    assert_eq!(acknowledge(&mut node, conn, "a", 1, topic, &[(2, 2, vec![RELEASE])]), 0);
    node.settle();
    let copied = node.fetch(conn, "dead", 0);
    assert_eq!(values(&copied.records).last().map(|(_, value)| value.as_str()), Some("r2"));
    assert_eq!(start(&mut node, conn), 3);
}

#[test]
fn administrators_move_and_forget_the_offsets_of_empty_groups() {
    let (mut node, conn, topic) = begun();
    assert_eq!(alter(&mut node, conn, 1), [ResponseError::GroupIdNotFound.code()]);
    beat(&mut node, conn, "a", 0, &["t"]);
    node.produce(conn, "t", batch(&["r0", "r1", "r2"]));
    share_fetch(&mut node, conn, "a", 0, topic, &[]);
    let full = vec![ResponseError::NonEmptyGroup.code()];
    assert_eq!((alter(&mut node, conn, 1), delete(&mut node, conn)), (full.clone(), full));
    share_fetch(&mut node, conn, "a", -1, topic, &[(0, 2, vec![ACCEPT])]);
    beat(&mut node, conn, "a", -1, &[]);
    assert_eq!((start(&mut node, conn), alter(&mut node, conn, 1)), (3, vec![0, 0]));
    assert_eq!(start(&mut node, conn), 1);
    beat(&mut node, conn, "a", 0, &["t"]);
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 0, topic, &[])), [(1, 2, 1)]);
    share_fetch(&mut node, conn, "a", -1, topic, &[]);
    beat(&mut node, conn, "a", -1, &[]);
    assert_eq!((delete(&mut node, conn), start(&mut node, conn)), (vec![0, 0], -1));
    beat(&mut node, conn, "a", 0, &["t"]);
    assert_eq!(runs(&share_fetch(&mut node, conn, "a", 0, topic, &[])), [(0, 2, 1)], "as if it were new");
    share_fetch(&mut node, conn, "a", -1, topic, &[(0, 2, vec![ACCEPT])]);
    beat(&mut node, conn, "a", -1, &[]);
    let deleted = node.ask(conn, 2, &DeleteGroupsRequest::default().with_groups_names(vec![group("g")]));
    assert_eq!(deleted.results[0].error_code, 0);
    node.settle();
    beat(&mut node, conn, "a", 0, &["t"]);
    assert_eq!(start(&mut node, conn), -1, "what was kept went with the group");
}

#[test]
fn clients_are_offered_share_groups_unless_they_are_off() {
    let (mut node, conn, _) = begun();
    let request =
        ApiVersionsRequest::default().with_client_software_name(text("test")).with_client_software_version(text("1"));
    let offered = node.ask(conn, 4, &request);
    let level = |name: &str| {
        let found = offered.finalized_features.iter().find(|feature| feature.name.as_str() == name);
        found.map(|feature| feature.max_version_level)
    };
    assert_eq!(level("share.version"), Some(1));
}
