//! From what was found to the response: record bytes are sent as they lie in memory, beside the encoded rest.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;
use wherry_metadata::quota::QuotaKey;
use wherry_metadata::{Broker, PartitionId};
use wherry_wire::codec::messages::FetchResponse;
use wherry_wire::codec::{
    AbortedTransaction, EncodeError, FetchPartition, FetchResponseHead, FetchResponseWriter, LeaderHint, NodeEndpoint,
    ResponseError,
};

use super::op::{FetchOp, InSession, Part};

use crate::api::{Ctx, Outcome, leaders, topics};
use crate::core::Core;
use crate::core::sessions::{Told, TopicRef};
use crate::core::store::{Aborted, LogStore};
use crate::mutation::mutated;

/// A response without partitions: the session can't go on.
pub(super) fn failed(ctx: &Ctx, error: ResponseError) -> Outcome {
    let mut response = FetchResponse::default();
    response.error_code = error.code();
    ctx.reply(&response)
}

/// The response to a fetch; notes in the session what the client knows now.
pub(super) fn answer<S: LogStore>(core: &mut Core<S>, op: FetchOp) -> Outcome {
    core.stats.fetch_latency_ns.record(core.now.monotonic_ns.saturating_sub(op.began_ns));
    let incremental = matches!(op.session, InSession::Later(_));
    let parts: Vec<Part> = op.parts.into_iter().filter(|part| !incremental || part.is_news()).collect();
    for part in &parts {
        note(core, op.session, part);
        core.stats.bytes_fetched.add(part.data_bytes() as u64);
        core.stats.errors.add(u64::from(part.error.is_some()));
    }
    let bytes: usize = parts.iter().map(Part::data_bytes).sum();
    let throttle_ms = core.charge(&op.ctx, QuotaKey::ConsumerByteRate, bytes);
    match write(core, &op.ctx, (op.session.id(), throttle_ms), op.read_committed, parts) {
        Ok(chunks) => Outcome::Reply(chunks),
        Err(error) => Outcome::Close(format!("can't answer a fetch in version {}: {error}", op.ctx.version)),
    }
}

fn write<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    (session_id, throttle_time_ms): (i32, i32),
    read_committed: bool,
    parts: Vec<Part>,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut named: BTreeMap<i32, NodeEndpoint<'_>> = BTreeMap::new();
    let mut runs = run_lengths(&parts).into_iter();
    let head = FetchResponseHead {
        version: ctx.version,
        correlation_id: ctx.correlation_id,
        throttle_time_ms,
        error_code: 0,
        session_id,
        topics: runs.len(),
    };
    let mut writer = FetchResponseWriter::new(&head)?;
    let mut left = 0;
    for part in parts {
        if left == 0 {
            left = runs.next().unwrap_or(1);
            match &part.wanted.topic {
                TopicRef::Name(name) => writer.topic(name, Uuid::nil(), left)?,
                TopicRef::Id(id) => writer.topic("", *id, left)?,
            }
        }
        left -= 1;
        let listed = part.aborted.iter().filter(|_| !mutated!(NoAbortedList));
        let aborted: Vec<AbortedTransaction> = listed.map(aborted).collect();
        let mut described = described(&part, read_committed.then_some(&aborted));
        if let Some((broker, hint)) = hint(core, ctx.version, &part) {
            described.leader = Some(hint);
            if let Some(endpoint) = leaders::endpoint(broker, core.listener_name(ctx.caller.listener)) {
                named.insert(broker.node_id, endpoint);
            }
        }
        writer.partition(&described, part.data)?;
    }
    let named: Vec<NodeEndpoint<'_>> = named.into_values().collect();
    writer.finish(&named)
}

/// How many partitions of the same topic follow one another, run by run: each run is a topic of the response.
fn run_lengths(parts: &[Part]) -> Vec<usize> {
    parts.chunk_by(|a, b| a.wanted.topic == b.wanted.topic).map(<[Part]>::len).collect()
}

fn aborted(aborted: &Aborted) -> AbortedTransaction {
    AbortedTransaction { producer_id: aborted.producer_id, first_offset: aborted.first.0 }
}

fn described<'a>(part: &Part, aborted: Option<&'a [AbortedTransaction]>) -> FetchPartition<'a> {
    let Told { high_watermark, log_start } = part.now;
    let mut described = match part.error {
        Some(error) => FetchPartition::error(part.wanted.partition, error.code()),
        None => FetchPartition::new(part.wanted.partition, high_watermark, part.last_stable, log_start),
    };
    described.aborted = aborted;
    described.preferred_read_replica = part.preferred.unwrap_or(-1);
    described
}

/// Who leads, for a client that asked the wrong node.
fn hint<'a, S: LogStore>(core: &'a Core<S>, version: i16, part: &Part) -> Option<(&'a Broker, LeaderHint)> {
    part.error?;
    let topic = match &part.wanted.topic {
        TopicRef::Name(name) => topics::by_name(&core.meta, name).ok()?.id,
        TopicRef::Id(id) => *id,
    };
    leaders::fetch_hint(core, version, part.error, PartitionId { topic, partition: part.wanted.partition })
}

fn note<S: LogStore>(core: &mut Core<S>, session: InSession, part: &Part) {
    match session {
        InSession::No => {}
        InSession::First(id) | InSession::Later(id) => {
            let told = part.error.is_none().then_some(part.now);
            core.sessions.told(id, &part.wanted.topic, part.wanted.partition, told);
        }
    }
}
