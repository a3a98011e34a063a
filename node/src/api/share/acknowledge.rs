//! ShareAcknowledge: a member says what has become of what it has, and takes nothing.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;
use wherry_wire::codec::messages::share_acknowledge_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionData, ShareAcknowledgeResponse as Common, ShareAcknowledgeTopicResponse,
};
use wherry_wire::codec::messages::{BrokerId, ShareAcknowledgeRequest, ShareAcknowledgeResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::{AckBatch, acknowledged, endpoint, go_on, leader_hint, lock_ms, member};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::share::{Kind, SessionChange, ShareRequest};
use crate::core::store::LogStore;
use crate::share::partition::Appetite;

/// Begins to write what the member says.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ShareAcknowledgeRequest) -> Outcome {
    let begun = begin(core, ctx, request);
    go_on(core, begun, |error| failed(ctx, error))
}

fn failed(ctx: &Ctx, error: ResponseError) -> Outcome {
    let text = StrBytes::from_string(error.to_string());
    let body = Common::default().with_error_code(error.code()).with_error_message(Some(text));
    ctx.reply(&ShareAcknowledgeResponse::from(body))
}

fn begin<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    request: &ShareAcknowledgeRequest,
) -> Result<ShareRequest, ResponseError> {
    let group = request.group_id.as_ref().map(|group| &group.0);
    let session = member(core, ctx, group, request.member_id.as_ref())?;
    let asked = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|asked| (topic.topic_id, asked)));
    let said = asked.map(|(topic, asked)| {
        let batches = asked.acknowledgement_batches.iter().map(|batch| AckBatch {
            first: batch.first_offset,
            last: batch.last_offset,
            types: &batch.acknowledge_types,
        });
        (topic, asked.partition_index, batches)
    });
    let parts = acknowledged(core, ctx, said, request.is_renew_ack)?;
    let change = SessionChange {
        epoch: request.share_session_epoch,
        added: Vec::new(),
        forgotten: Vec::new(),
        fetches: false,
        acknowledges: true,
    };
    core.share_session(ctx.id.conn, &session, &change)?;
    let began_ns = core.now.monotonic_ns;
    Ok(ShareRequest {
        ctx: ctx.clone(),
        kind: Kind::Acknowledge,
        session,
        is_last: change.is_last(),
        began_ns,
        deadline_ns: began_ns,
        max_bytes: 0,
        appetite: Appetite { most: 0, strict: true },
        run_length: 0,
        parts,
        taken: (0, 0),
        unwritten: 0,
        unread: 0,
        opening: false,
    })
}

/// The response: a verdict for each partition.
pub(crate) fn answer<S: LogStore>(core: &Core<S>, request: ShareRequest) -> Outcome {
    let mut topics: BTreeMap<Uuid, Vec<PartitionData>> = BTreeMap::new();
    let mut named = BTreeSet::new();
    for part in request.parts {
        let (leader, epoch) = leader_hint(core, &part);
        named.extend(Some(leader).filter(|leader| *leader >= 0));
        let described = PartitionData::default()
            .with_partition_index(part.partition)
            .with_error_code(part.ack_error.map_or(0, |error| error.code()))
            .with_error_message(part.ack_error.map(|error| StrBytes::from_string(error.to_string())))
            .with_current_leader(LeaderIdAndEpoch::default().with_leader_id(leader).with_leader_epoch(epoch));
        topics.entry(part.topic).or_default().push(described);
    }
    let ctx = &request.ctx;
    let endpoints = named.into_iter().filter_map(|node| endpoint(core, ctx, node)).map(|(broker, host, port)| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(broker.node_id))
            .with_host(host)
            .with_port(port)
            .with_rack(broker.rack.clone().map(StrBytes::from_string))
    });
    let responses = topics.into_iter().map(|(topic, partitions)| {
        ShareAcknowledgeTopicResponse::default().with_topic_id(topic).with_partitions(partitions)
    });
    let body = Common::default().with_node_endpoints(endpoints.collect()).with_responses(responses.collect());
    let acquisition_lock_timeout_ms = lock_ms(core, &request.session.0);
    ctx.reply(&ShareAcknowledgeResponse { acquisition_lock_timeout_ms, common: body })
}
