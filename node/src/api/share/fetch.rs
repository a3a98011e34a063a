//! ShareFetch: a member acknowledges what it has, and takes more.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;
use wherry_metadata::quota::QuotaKey;
use wherry_wire::codec::messages::share_fetch_response::{
    AcquiredRecords, LeaderIdAndEpoch, NodeEndpoint, PartitionData, ShareFetchResponse as Common,
    ShareFetchableTopicResponse,
};
use wherry_wire::codec::messages::{BrokerId, ShareFetchRequest, ShareFetchResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::{AckBatch, acknowledged, endpoint, go_on, leader_hint, lock_ms, member, part};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::share::{Kind, Part, SessionChange, SessionKey, ShareRequest};
use crate::core::store::LogStore;
use crate::limits::{MAX_FETCH_WAIT_MS, MAX_PARTITIONS_PER_REQUEST};
use crate::share::partition::{Acquired, Appetite};

/// The mode in which not one record more is given than was asked for (KIP-1206).
const RECORD_LIMIT: i8 = 1;

/// Begins a share fetch.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ShareFetchRequest) -> Outcome {
    let begun = begin(core, ctx, request);
    go_on(core, begun, |error| failed(ctx, error))
}

fn failed(ctx: &Ctx, error: ResponseError) -> Outcome {
    let text = StrBytes::from_string(error.to_string());
    let body = Common::default().with_error_code(error.code()).with_error_message(Some(text));
    ctx.reply(&ShareFetchResponse::from(body))
}

fn begin<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    request: &ShareFetchRequest,
) -> Result<ShareRequest, ResponseError> {
    let group = request.group_id.as_ref().map(|group| &group.0);
    let session = member(core, ctx, group, request.member_id.as_ref())?;
    let named: Vec<(Uuid, i32)> =
        request.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, p.partition_index))).collect();
    let forgotten = request.forgotten_topics_data.iter();
    let forgotten: Vec<(Uuid, i32)> = forgotten.flat_map(|t| t.partitions.iter().map(|p| (t.topic_id, *p))).collect();
    if named.len().saturating_add(forgotten.len()) > MAX_PARTITIONS_PER_REQUEST {
        return Err(ResponseError::InvalidRequest);
    }
    // Who asks for more time takes nothing meanwhile (KIP-1222).
    let renews = request.is_renew_ack;
    if renews && (request.max_bytes, request.max_records, request.min_bytes, request.max_wait_ms) != (0, 0, 0, 0) {
        return Err(ResponseError::InvalidRequest);
    }
    let asked = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|asked| (topic.topic_id, asked)));
    let said = asked.filter(|(_, asked)| !asked.acknowledgement_batches.is_empty()).map(|(topic, asked)| {
        let batches = asked.acknowledgement_batches.iter().map(|batch| AckBatch {
            first: batch.first_offset,
            last: batch.last_offset,
            types: &batch.acknowledge_types,
        });
        (topic, asked.partition_index, batches)
    });
    let mut parts = acknowledged(core, ctx, said, renews)?;
    let acknowledges = !parts.is_empty();
    let change =
        SessionChange { epoch: request.share_session_epoch, added: named, forgotten, fetches: true, acknowledges };
    let wanted = core.share_session(ctx.id.conn, &session, &change)?;
    add_wanted(core, ctx, &mut parts, wanted);
    Ok(planned(core, ctx, request, session, change.is_last(), parts))
}

/// What the session reads, in its order.
fn add_wanted<S: LogStore>(core: &Core<S>, ctx: &Ctx, parts: &mut Vec<Part>, wanted: Vec<(Uuid, i32)>) {
    let known: BTreeMap<(Uuid, i32), usize> =
        parts.iter().enumerate().map(|(at, part)| ((part.topic, part.partition), at)).collect();
    for (topic, partition) in wanted {
        let at = known.get(&(topic, partition)).copied().unwrap_or_else(|| {
            parts.push(part(core, ctx, topic, partition));
            parts.len() - 1
        });
        if let Some(part) = parts.get_mut(at) {
            part.fetches = part.log.is_some();
        }
    }
}

fn planned<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    request: &ShareFetchRequest,
    session: SessionKey,
    is_last: bool,
    parts: Vec<Part>,
) -> ShareRequest {
    let began_ns = core.now.monotonic_ns;
    let wait_ms = u64::try_from(request.max_wait_ms.clamp(0, MAX_FETCH_WAIT_MS)).unwrap_or(0);
    let positive = |value: i32| usize::try_from(value).unwrap_or(0);
    let max_bytes = positive(request.max_bytes).min(core.config.limits.fetch_bytes);
    ShareRequest {
        ctx: ctx.clone(),
        kind: Kind::Fetch,
        session,
        is_last,
        began_ns,
        deadline_ns: began_ns.saturating_add(wait_ms * 1_000_000),
        max_bytes: max_bytes.min(core.burst(ctx, QuotaKey::ConsumerByteRate)),
        appetite: Appetite { most: positive(request.max_records), strict: request.share_acquire_mode == RECORD_LIMIT },
        run_length: positive(request.batch_size),
        parts,
        taken: (0, 0),
        unwritten: 0,
        unread: 0,
        opening: false,
    }
}

/// The response: partitions of which there is something to say.
pub(crate) fn answer<S: LogStore>(core: &mut Core<S>, request: ShareRequest) -> Outcome {
    core.stats.fetch_latency_ns.record(core.now.monotonic_ns.saturating_sub(request.began_ns));
    let ctx = request.ctx;
    let bytes: usize = request.parts.iter().map(Part::data_bytes).sum();
    core.stats.bytes_fetched.add(bytes as u64);
    let throttle_ms = core.charge(&ctx, QuotaKey::ConsumerByteRate, bytes);
    let mut topics: BTreeMap<Uuid, Vec<PartitionData>> = BTreeMap::new();
    let mut named = BTreeSet::new();
    let has_news = |part: &Part| part.error.is_some() || part.acknowledges || !part.acquired.is_empty();
    for part in request.parts.into_iter().filter(has_news) {
        let (leader, epoch) = leader_hint(core, &part);
        named.extend(Some(leader).filter(|leader| *leader >= 0));
        topics.entry(part.topic).or_default().push(described(part, leader, epoch));
    }
    let responses = topics.into_iter().map(|(topic, partitions)| {
        ShareFetchableTopicResponse::default().with_topic_id(topic).with_partitions(partitions)
    });
    let endpoints = named.into_iter().filter_map(|node| endpoint(core, &ctx, node)).map(|(broker, host, port)| {
        NodeEndpoint::default()
            .with_node_id(BrokerId(broker.node_id))
            .with_host(host)
            .with_port(port)
            .with_rack(broker.rack.clone().map(StrBytes::from_string))
    });
    let body = Common::default()
        .with_throttle_time_ms(throttle_ms)
        .with_acquisition_lock_timeout_ms(lock_ms(core, &request.session.0))
        .with_node_endpoints(endpoints.collect())
        .with_responses(responses.collect());
    ctx.reply(&ShareFetchResponse::from(body))
}

fn described(part: Part, leader: i32, leader_epoch: i32) -> PartitionData {
    let run = |run: Acquired| {
        AcquiredRecords::default()
            .with_first_offset(run.first)
            .with_last_offset(run.last)
            .with_delivery_count(i16::try_from(run.count).unwrap_or(i16::MAX))
    };
    let code = |error: Option<ResponseError>| error.map_or(0, |error| error.code());
    let text = |error: Option<ResponseError>| error.map(|error| StrBytes::from_string(error.to_string()));
    PartitionData::default()
        .with_partition_index(part.partition)
        .with_error_code(code(part.error))
        .with_error_message(text(part.error))
        .with_acknowledge_error_code(code(part.ack_error))
        .with_acknowledge_error_message(text(part.ack_error))
        .with_current_leader(LeaderIdAndEpoch::default().with_leader_id(leader).with_leader_epoch(leader_epoch))
        .with_records(Some(joined(part.data)))
        .with_acquired_records(part.acquired.into_iter().map(run).collect())
}

/// The batches as they are, one after the other.
fn joined(mut batches: Vec<Bytes>) -> Bytes {
    if batches.len() <= 1 {
        return batches.pop().unwrap_or_default();
    }
    let mut out = BytesMut::with_capacity(batches.iter().map(Bytes::len).sum());
    batches.iter().for_each(|batch| out.extend_from_slice(batch));
    out.freeze()
}
