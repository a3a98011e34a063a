//! From what was found to the response: record bytes are sent as they lie in memory, beside the encoded rest.

use super::op::{FetchOp, InSession, Part};
use crate::api::codec::ResponseError;
use crate::api::codec::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use crate::api::codec::messages::{FetchResponse, TopicName};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::sessions::TopicRef;
use crate::core::store::LogStore;

/// A response without partitions: the session can't go on.
pub(super) fn failed(ctx: &Ctx, error: ResponseError) -> Outcome {
    let mut response = FetchResponse::default();
    response.error_code = error.code();
    ctx.reply(&response)
}

/// The response to a fetch; notes in the session what the client knows now.
pub(super) fn answer<S: LogStore>(core: &mut Core<S>, op: FetchOp) -> Outcome {
    core.stats.fetch_latency_ns.record(core.now.monotonic_ns.saturating_sub(op.began_ns));
    let mut response = FetchResponse::default();
    response.session_id = op.session.id();
    for part in &op.parts {
        if let InSession::Later(_) = op.session
            && !part.is_news()
        {
            continue;
        }
        note(core, op.session, part);
        let mut data = PartitionData::default();
        data.partition_index = part.wanted.partition;
        data.error_code = part.error.map_or(0, |e| e.code());
        data.high_watermark = part.now.high_watermark;
        data.last_stable_offset = part.now.high_watermark;
        data.log_start_offset = part.now.log_start;
        data.aborted_transactions = op.read_committed.then(Vec::new);
        data.records = Some(part.data.concat().into());
        core.stats.bytes_fetched.add(part.data_bytes() as u64);
        push(&mut response, &part.wanted.topic, data);
    }
    op.ctx.reply(&response)
}

fn push(response: &mut FetchResponse, topic: &TopicRef, data: PartitionData) {
    let (name, id) = match topic {
        TopicRef::Name(name) => (TopicName(name.clone()), uuid::Uuid::nil()),
        TopicRef::Id(id) => (TopicName::default(), *id),
    };
    match response.responses.last_mut() {
        Some(last) if last.topic == name && last.topic_id == id => last.partitions.push(data),
        _ => response
            .responses
            .push(FetchableTopicResponse::default().with_topic(name).with_topic_id(id).with_partitions(vec![data])),
    }
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
