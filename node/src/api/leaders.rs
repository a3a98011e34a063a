//! Who leads instead: answers to a client that asked the wrong node name the right one (KIP-951), so that it need not look
//! for it first.

use std::collections::BTreeMap;

use wherry_metadata::{Broker, PartitionId};
use wherry_wire::codec::messages::produce_response::{LeaderIdAndEpoch, NodeEndpoint as ProduceEndpoint};
use wherry_wire::codec::messages::{BrokerId, ProduceResponse};
use wherry_wire::codec::{LeaderHint, NodeEndpoint, ResponseError, StrBytes};

use super::{Ctx, topics};
use crate::core::Core;
use crate::core::store::LogStore;

/// First version of Produce whose clients know such hints.
const PRODUCE_FROM: i16 = 10;
/// First version of Fetch whose clients know such hints.
const FETCH_FROM: i16 = 16;
/// First version of Produce that names topics by id.
const PRODUCE_TOPIC_IDS_FROM: i16 = 13;

/// Whether the error says that the client may have asked the wrong node.
fn is_elsewhere(error_code: i16) -> bool {
    error_code == ResponseError::NotLeaderOrFollower.code() || error_code == ResponseError::FencedLeaderEpoch.code()
}

/// The other node that leads a partition, as far as is known here.
fn leader<S: LogStore>(core: &Core<S>, id: PartitionId) -> Option<(&Broker, LeaderHint)> {
    let partition = core.meta.partition(id)?;
    let broker = core.meta.broker(partition.leader?).filter(|broker| broker.node_id != core.config.node_id)?;
    Some((broker, LeaderHint { leader_id: broker.node_id, leader_epoch: partition.leader_epoch }))
}

/// The hint for a partition of a fetch, and the node that it names.
pub(super) fn fetch_hint<S: LogStore>(
    core: &Core<S>,
    version: i16,
    error: Option<ResponseError>,
    id: PartitionId,
) -> Option<(&Broker, LeaderHint)> {
    let asked = version >= FETCH_FROM && error.is_some_and(|error| is_elsewhere(error.code()));
    if asked { leader(core, id) } else { None }
}

/// A node as a fetch response names it.
pub(super) fn endpoint<'a>(broker: &'a Broker, listener: &str) -> Option<NodeEndpoint<'a>> {
    let (host, port) = broker.address(listener)?;
    Some(NodeEndpoint { node_id: broker.node_id, host, port: i32::from(port), rack: broker.rack.as_deref() })
}

/// Adds the hints to a produce response.
pub(crate) fn hint_produce<S: LogStore>(core: &Core<S>, ctx: &Ctx, response: &mut ProduceResponse) {
    let version = ctx.version;
    if version < PRODUCE_FROM {
        return;
    }
    let mut named: BTreeMap<i32, &Broker> = BTreeMap::new();
    for topic in &mut response.responses {
        for partition in topic.partition_responses.iter_mut().filter(|p| is_elsewhere(p.error_code)) {
            let found = if version >= PRODUCE_TOPIC_IDS_FROM {
                topics::by_id(&core.meta, topic.topic_id)
            } else {
                topics::by_name(&core.meta, &topic.name)
            };
            let id = found.ok().map(|found| PartitionId { topic: found.id, partition: partition.index });
            let Some((broker, hint)) = id.and_then(|id| leader(core, id)) else { continue };
            partition.current_leader = LeaderIdAndEpoch::default()
                .with_leader_id(BrokerId(hint.leader_id))
                .with_leader_epoch(hint.leader_epoch);
            named.insert(broker.node_id, broker);
        }
    }
    let listener = core.listener_name(ctx.caller.listener);
    response.node_endpoints = named.into_values().filter_map(|broker| produce_endpoint(broker, listener)).collect();
}

fn produce_endpoint(broker: &Broker, listener: &str) -> Option<ProduceEndpoint> {
    let (host, port) = broker.address(listener)?;
    let endpoint = ProduceEndpoint::default()
        .with_node_id(BrokerId(broker.node_id))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_port(i32::from(port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string));
    Some(endpoint)
}
