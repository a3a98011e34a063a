//! From a fetch request to a plan: session, budget, deadline, partitions.

use super::op::{FetchOp, InSession, Part};
use wherry_metadata::quota::QuotaKey;

use crate::api::Ctx;
use crate::core::Core;
use crate::core::sessions::{SessionError, SessionRequest, TopicRef, Wanted};
use crate::core::store::LogStore;
use crate::limits::{MAX_FETCH_WAIT_MS, MAX_PARTITIONS_PER_REQUEST};
use wherry_wire::codec::messages::FetchRequest;
use wherry_wire::codec::messages::fetch_request::{FetchTopic, ForgottenTopic};
use wherry_wire::codec::{ResponseError, StrBytes};

/// First version with sessions.
const SESSIONS_FROM: i16 = 7;
/// First version whose clients know that they may ask a follower (KIP-392).
const FOLLOWER_READS_FROM: i16 = 11;
/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 13;

/// Plans a fetch, or says why its session can't go on.
pub(super) fn plan<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    request: FetchRequest,
) -> Result<FetchOp, ResponseError> {
    let began_ns = core.now.monotonic_ns;
    let wait_ms = u64::try_from(request.max_wait_ms.clamp(0, MAX_FETCH_WAIT_MS)).unwrap_or(0);
    let (max_bytes, min_bytes) = budget(core, ctx, &request);
    let read_committed = request.isolation_level == 1;
    let rack = rack(&request);
    let (session, parts) = members(core, ctx, request)?;
    core.stats.fetch_sessions.set(core.sessions.len() as u64);
    Ok(FetchOp {
        ctx: ctx.clone(),
        began_ns,
        deadline_ns: began_ns.saturating_add(wait_ms * 1_000_000),
        min_bytes,
        max_bytes,
        read_committed,
        may_follow: ctx.version >= FOLLOWER_READS_FROM,
        rack,
        session,
        parts,
        outstanding: 0,
    })
}

/// The client's rack. One that is longer than any rack can be is none.
fn rack(request: &FetchRequest) -> Option<String> {
    let rack = request.rack_id.as_str();
    (1..=wherry_metadata::limits::MAX_HOST).contains(&rack.len()).then(|| rack.to_owned())
}

fn budget<S: LogStore>(core: &Core<S>, ctx: &Ctx, request: &FetchRequest) -> (usize, usize) {
    let max = usize::try_from(request.max_bytes).unwrap_or(0).min(core.config.limits.fetch_bytes);
    let max = max.min(core.burst(ctx, QuotaKey::ConsumerByteRate));
    let min = usize::try_from(request.min_bytes).unwrap_or(0);
    // A minimum above the maximum could never be met.
    (max, min.min(max.max(1)))
}

fn members<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    request: FetchRequest,
) -> Result<(InSession, Vec<Part>), ResponseError> {
    let by_ids = ctx.version >= TOPIC_IDS_FROM;
    let wanted = wanted(request.topics, by_ids)?;
    let session = if ctx.version < SESSIONS_FROM {
        SessionRequest::None { ends: 0 }
    } else {
        SessionRequest::new(request.session_id, request.session_epoch)
    };
    let limits = &core.config.limits;
    match session {
        SessionRequest::None { ends } => {
            core.sessions.end(ends);
            Ok((InSession::No, full(wanted)))
        }
        SessionRequest::New { ends } => {
            core.sessions.end(ends);
            let id = core.sessions.begin(&wanted, by_ids, limits, core.now.monotonic_ns);
            Ok((id.map_or(InSession::No, InSession::First), full(wanted)))
        }
        SessionRequest::Next { id, epoch } => {
            let forgotten = forgotten(request.forgotten_topics_data, by_ids);
            let names_topics = !wanted.is_empty() || !forgotten.is_empty();
            let changes = (wanted, forgotten);
            let all = core
                .sessions
                .next(id, epoch, names_topics.then_some(by_ids), changes, limits, core.now.monotonic_ns)
                .map_err(session_error)?;
            let parts = all.into_iter().map(|(wanted, told)| Part::new(wanted, told)).collect();
            Ok((InSession::Later(id), parts))
        }
    }
}

fn session_error(error: SessionError) -> ResponseError {
    match error {
        SessionError::NotFound => ResponseError::FetchSessionIdNotFound,
        SessionError::WrongEpoch => ResponseError::InvalidFetchSessionEpoch,
        SessionError::TopicIds => ResponseError::FetchSessionTopicIdError,
    }
}

fn full(wanted: Vec<Wanted>) -> Vec<Part> {
    wanted.into_iter().map(|wanted| Part::new(wanted, None)).collect()
}

/// Names are copied: a session must not keep the whole request frame alive.
fn topic_ref(name: &StrBytes, id: uuid::Uuid, by_ids: bool) -> TopicRef {
    if by_ids { TopicRef::Id(id) } else { TopicRef::Name(StrBytes::from_string(name.to_string())) }
}

fn wanted(topics: Vec<FetchTopic>, by_ids: bool) -> Result<Vec<Wanted>, ResponseError> {
    let count: usize = topics.iter().map(|t| t.partitions.len()).sum();
    if count > MAX_PARTITIONS_PER_REQUEST {
        return Err(ResponseError::InvalidRequest);
    }
    let mut wanted = Vec::with_capacity(count);
    for topic in topics {
        let name = topic_ref(&topic.topic, topic.topic_id, by_ids);
        wanted.extend(topic.partitions.into_iter().map(|p| Wanted {
            topic: name.clone(),
            partition: p.partition,
            offset: p.fetch_offset,
            max_bytes: p.partition_max_bytes,
            leader_epoch: p.current_leader_epoch,
        }));
    }
    Ok(wanted)
}

fn forgotten(topics: Vec<ForgottenTopic>, by_ids: bool) -> Vec<(TopicRef, i32)> {
    let mut forgotten = Vec::new();
    for topic in topics {
        let name = topic_ref(&topic.topic, topic.topic_id, by_ids);
        forgotten.extend(topic.partitions.into_iter().map(|p| (name.clone(), p)));
    }
    forgotten
}
