//! Metadata: nodes, topics and their partitions. Topics are made on the way where that is switched on.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use foldhash::fast::RandomState;
use uuid::Uuid;
use wherry_metadata::acl::{Operation, ResourceType};
use wherry_metadata::{Broker, Command, Partition, Topic};

use super::create_topics::may_create;
use super::errors::ApiError;
use super::{Ctx, Outcome, create_topics, topics};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use crate::limits::MAX_TOPICS_PER_CHANGE;
use wherry_wire::codec::dedupe::TopicIds;
use wherry_wire::codec::messages::metadata_request::MetadataRequestTopic;
use wherry_wire::codec::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use wherry_wire::codec::messages::{BrokerId, MetadataRequest, MetadataResponse, TopicName};
use wherry_wire::codec::{ResponseError, StrBytes};

/// First version whose clients know that a node may lack their listener.
const LISTENER_NOT_FOUND_FROM: i16 = 6;
/// Not asked for.
pub(crate) const OPERATIONS_UNKNOWN: i32 = i32::MIN;

/// A request that waits until the topics it asked for are made.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    request: MetadataRequest,
}

/// Answers now, or after the missing topics are made.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &MetadataRequest) -> Outcome {
    let commands = missing_topics(core, ctx, request);
    if commands.is_empty() {
        return answer(core, ctx, request);
    }
    let pending = Pending { ctx: ctx.clone(), request: request.clone() };
    match core.propose(commands, AfterCommit::AutoCreate(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        // Not now: the client sees the topics as unknown and asks again.
        Err(_) => answer(core, ctx, request),
    }
}

/// Goes on after the topics were made (or refused).
pub(crate) fn committed<S: LogStore>(core: &mut Core<S>, pending: &Pending) {
    let outcome = answer(core, &pending.ctx, &pending.request);
    core.finish(pending.ctx.id, outcome);
}

fn missing_topics<S: LogStore>(core: &Core<S>, ctx: &Ctx, request: &MetadataRequest) -> Vec<Command> {
    // Before version 4 asking always meant creating.
    if !core.config.auto_create_topics || !(ctx.version < 4 || request.allow_auto_topic_creation) {
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    request
        .topics
        .iter()
        .flatten()
        .filter_map(|topic| topic.name.as_ref())
        .filter(|name| core.meta.topic(name).is_none() && seen.insert(name.as_str()))
        .filter(|name| core.allows_topic(ctx, Operation::Describe, name) && may_create(core, ctx, name))
        .take(MAX_TOPICS_PER_CHANGE)
        .map(|name| Command::CreateTopic {
            name: name.to_string(),
            id: core.entropy.uuid(),
            partitions: core.config.default_partitions,
            replication_factor: core.config.default_replication_factor,
            configs: BTreeMap::new(),
            internal: false,
            assignment: None,
        })
        .filter(|command| create_topics::check(core, command).is_ok())
        .collect()
}

fn answer<S: LogStore>(core: &Core<S>, ctx: &Ctx, request: &MetadataRequest) -> Outcome {
    if !core.cluster.registered {
        return not_yet(ctx, request);
    }
    let mut response = MetadataResponse::default();
    let listener = core.listener_name(ctx.caller.listener);
    response.brokers = core.meta.unfenced_brokers().filter_map(|known| broker(known, listener)).collect();
    response.cluster_id = core.meta.cluster_id().map(|id| StrBytes::from_string(id.to_owned()));
    response.controller_id = BrokerId(controller(core));
    response.cluster_authorized_operations =
        if request.include_cluster_authorized_operations { core.cluster_operations(ctx) } else { OPERATIONS_UNKNOWN };
    let operations = request.include_topic_authorized_operations;
    response.topics = match &request.topics {
        None => every_topic(core, ctx, operations),
        // In version 0 an empty list means all.
        Some(list) if list.is_empty() && ctx.version == 0 => every_topic(core, ctx, operations),
        // Each once, however often it is named: a small request must not make a huge response (INV-8).
        Some(list) => {
            let mut seen = HashSet::with_capacity_and_hasher(list.len(), RandomState::default());
            let unique = list.iter().filter(|t| seen.insert((t.name.as_deref(), t.topic_id)));
            unique.map(|t| asked_topic(core, ctx, t.name.as_ref(), t.topic_id, operations)).collect()
        }
    };
    ctx.reply(&response)
}

/// Until the metadata know this process, what it knows of them is from before its start: it can't say that a topic does not
/// exist, or who leads. An answer without nodes makes clients ask another one.
fn not_yet(ctx: &Ctx, request: &MetadataRequest) -> Outcome {
    let mut response = MetadataResponse::default();
    response.controller_id = BrokerId(-1);
    let failed = |topic: &MetadataRequestTopic| {
        failed_topic(topic.name.clone(), topic.topic_id, ResponseError::LeaderNotAvailable)
    };
    response.topics = request.topics.iter().flatten().take(MAX_TOPICS_PER_CHANGE).map(failed).collect();
    ctx.reply(&response)
}

/// All that the caller may see.
fn every_topic<S: LogStore>(core: &Core<S>, ctx: &Ctx, operations: bool) -> Vec<MetadataResponseTopic> {
    let all = core.meta.topics_from("").filter(|topic| core.allows_topic(ctx, Operation::Describe, &topic.name));
    all.map(|topic| known_topic(core, ctx, topic, operations)).collect()
}

fn asked_topic<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    name: Option<&TopicName>,
    id: Uuid,
    operations: bool,
) -> MetadataResponseTopic {
    let found = match name {
        Some(name) => match wherry_metadata::check_name(name) {
            Ok(()) => core.topic_for(ctx, Operation::Describe, name).map_err(|error| error.error),
            Err(error) => Err(ApiError::from(&error).error),
        },
        // Who may not see it is not told that there is one.
        None => core.topic_for_id(ctx, Operation::Describe, id).map_err(|_| ResponseError::UnknownTopicId),
    };
    match found {
        Ok(topic) => known_topic(core, ctx, topic, operations),
        Err(error) => failed_topic(name.cloned(), id, error),
    }
}

fn failed_topic(name: Option<TopicName>, id: Uuid, error: ResponseError) -> MetadataResponseTopic {
    let mut topic = MetadataResponseTopic::default();
    topic.error_code = error.code();
    topic.name = name;
    topic.topic_id = id;
    topic.topic_authorized_operations = OPERATIONS_UNKNOWN;
    topic
}

fn known_topic<S: LogStore>(core: &Core<S>, ctx: &Ctx, topic: &Topic, operations: bool) -> MetadataResponseTopic {
    let mut known = MetadataResponseTopic::default();
    known.name = Some(TopicName(topics::name_of(topic)));
    known.topic_id = topic.id;
    known.is_internal = topic.internal;
    known.topic_authorized_operations =
        if operations { core.operations(ctx, ResourceType::Topic, &topic.name) } else { OPERATIONS_UNKNOWN };
    if let Some(window_ms) = topic.config.dedupe_window_ms {
        let ids = TopicIds { window_ms, partitions: topic.id_partition_count() };
        ids.write(&mut known.unknown_tagged_fields);
    }
    known.partitions =
        topic.numbered().map(|(id, partition)| known_partition(core, ctx, id.partition, partition)).collect();
    known
}

fn known_partition<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    index: i32,
    partition: &Partition,
) -> MetadataResponsePartition {
    let mut known = MetadataResponsePartition::default()
        .with_partition_index(index)
        .with_leader_epoch(partition.leader_epoch)
        .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
        .with_replica_nodes(nodes(&partition.replicas))
        .with_isr_nodes(nodes(&partition.isr));
    if let Some(error) = leader_error(core, ctx, partition) {
        known.error_code = error.code();
        known.leader_id = BrokerId(-1);
    }
    let is_running = |node: &i32| core.meta.broker(*node).is_some_and(|broker| !broker.fenced);
    known.offline_replicas = partition.replicas.iter().filter(|node| !is_running(node)).map(|n| BrokerId(*n)).collect();
    known
}

/// Why a client can't be sent to a leader.
fn leader_error<S: LogStore>(core: &Core<S>, ctx: &Ctx, partition: &Partition) -> Option<ResponseError> {
    let Some(leader) = partition.leader else { return Some(ResponseError::LeaderNotAvailable) };
    let listener = core.listener_name(ctx.caller.listener);
    match core.meta.broker(leader) {
        Some(broker) if broker.address(listener).is_none() && ctx.version >= LISTENER_NOT_FOUND_FROM => {
            Some(ResponseError::ListenerNotFound)
        }
        Some(broker) if broker.address(listener).is_none() => Some(ResponseError::LeaderNotAvailable),
        Some(_) | None => None,
    }
}

/// Node ids as the protocol has them.
pub(crate) fn nodes(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

/// Who takes administrative requests: every node does, so the nearest.
pub(crate) fn controller<S: LogStore>(core: &Core<S>) -> i32 {
    core.consensus.leader().unwrap_or(core.config.node_id)
}

/// None: clients of that listener can't reach it.
fn broker(broker: &Broker, listener: &str) -> Option<MetadataResponseBroker> {
    let (host, port) = broker.address(listener)?;
    let known = MetadataResponseBroker::default()
        .with_node_id(BrokerId(broker.node_id))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_port(i32::from(port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string));
    Some(known)
}
