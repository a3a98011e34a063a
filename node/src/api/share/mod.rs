//! Requests of share groups (KIP-932): records and acknowledgements, which go to who leads a partition, and what is asked of a
//! group's offsets, which goes to its coordinator. From the wire to what `core::share` takes, and back.

pub(crate) mod acknowledge;
pub(crate) mod alter_offsets;
pub(crate) mod delete_offsets;
pub(crate) mod describe_offsets;
pub(crate) mod fetch;
pub(crate) mod offsets;

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;
use wherry_metadata::acl::Operation;
use wherry_metadata::{Broker, PartitionId};
use wherry_wire::codec::{ResponseError, StrBytes};

use super::{Ctx, Outcome, topics};
use crate::core::Core;
use crate::core::share::{Part, SessionKey, ShareRequest};
use crate::core::store::LogStore;
use crate::limits::{MAX_ACKNOWLEDGED_RUNS, MAX_PARTITIONS_PER_REQUEST};
use crate::share::partition::{Ack, Verdict};

/// Longest member id.
const MAX_MEMBER_ID: usize = 1_024;

/// Who asks, if it may read with the group.
fn member<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    group: Option<&StrBytes>,
    member: Option<&StrBytes>,
) -> Result<SessionKey, ResponseError> {
    if core.meta.feature_level("share.version").is_none_or(|level| level < 1) {
        return Err(ResponseError::UnsupportedVersion);
    }
    let (Some(group), Some(member)) = (group, member) else { return Err(ResponseError::InvalidRequest) };
    let is_id = |text: &str, most: usize| (1..=most).contains(&text.len());
    if !is_id(group, wherry_metadata::limits::MAX_GROUP_ID) || !is_id(member, MAX_MEMBER_ID) {
        return Err(ResponseError::InvalidRequest);
    }
    if !core.allows_group(ctx, Operation::Read, group) {
        return Err(ResponseError::GroupAuthorizationFailed);
    }
    Ok((Arc::from(group.as_str()), Arc::from(member.as_str())))
}

/// A partition of a request, found or not.
fn part<S: LogStore>(core: &Core<S>, ctx: &Ctx, topic: Uuid, partition: i32) -> Part {
    let mut part = Part::new(topic, partition);
    let found = core.topic_for_id(ctx, Operation::Read, topic).map_err(|error| error.error);
    match found.and_then(|topic| topics::log(topic, partition)) {
        Ok(log) => part.log = Some(log),
        Err(error) => part.error = Some(error),
    }
    part
}

/// One batch of acknowledgements, as both requests have it.
struct AckBatch<'a> {
    first: i64,
    last: i64,
    types: &'a [i8],
}

/// What batches of acknowledgements say, in order. With `renews` they may ask for more time.
fn acks<'a>(
    batches: impl Iterator<Item = AckBatch<'a>>,
    renews: bool,
    budget: &mut usize,
) -> Result<Vec<Ack>, ResponseError> {
    let mut acks: Vec<Ack> = Vec::new();
    for AckBatch { first, last, types } in batches {
        let whole = types.len() == 1;
        let count = usize::try_from(last.saturating_sub(first).saturating_add(1)).unwrap_or(0);
        let before = acks.last().map_or(-1, |ack| ack.last);
        if first < 0 || last < first || last == i64::MAX || first <= before || !(whole || types.len() == count) {
            return Err(ResponseError::InvalidRequest);
        }
        *budget = budget.checked_sub(types.len()).ok_or(ResponseError::InvalidRequest)?;
        if whole {
            acks.push(Ack { first, last, verdict: verdict(types[0], renews)? });
            continue;
        }
        for (offset, kind) in (first..=last).zip(types) {
            let verdict = verdict(*kind, renews)?;
            match acks.last_mut() {
                Some(run) if run.verdict == verdict && run.last + 1 == offset => run.last = offset,
                Some(_) | None => acks.push(Ack { first: offset, last: offset, verdict }),
            }
        }
    }
    Ok(acks)
}

/// The partitions that a request acknowledges in, and what it says of each, in its order.
fn acknowledged<'a, S: LogStore, B: Iterator<Item = AckBatch<'a>>>(
    core: &Core<S>,
    ctx: &Ctx,
    asked: impl Iterator<Item = (Uuid, i32, B)>,
    renews: bool,
) -> Result<Vec<Part>, ResponseError> {
    let (mut parts, mut seen, mut budget) = (Vec::new(), BTreeSet::new(), MAX_ACKNOWLEDGED_RUNS);
    for (topic, partition, batches) in asked {
        if !seen.insert((topic, partition)) || parts.len() >= MAX_PARTITIONS_PER_REQUEST {
            return Err(ResponseError::InvalidRequest);
        }
        let mut part = part(core, ctx, topic, partition);
        part.acknowledges = true;
        match (part.error.take(), acks(batches, renews, &mut budget)) {
            (Some(error), _) | (None, Err(error)) => part.ack_error = Some(error),
            (None, Ok(acks)) => part.acks = acks,
        }
        parts.push(part);
    }
    Ok(parts)
}

/// A request that was understood goes on, if there is room for it; `refused` answers the others.
fn go_on<S: LogStore>(
    core: &mut Core<S>,
    begun: Result<ShareRequest, ResponseError>,
    refused: impl FnOnce(ResponseError) -> Outcome,
) -> Outcome {
    match begun {
        Ok(request) if core.may_wait_for_shares(request.parts.len()) => {
            core.begin_share_request(request);
            Outcome::Later
        }
        Ok(_) => refused(ResponseError::ShareSessionLimitReached),
        Err(error) => refused(error),
    }
}

fn verdict(kind: i8, renews: bool) -> Result<Verdict, ResponseError> {
    match kind {
        0 => Ok(Verdict::Gap),
        1 => Ok(Verdict::Accept),
        2 => Ok(Verdict::Release),
        3 => Ok(Verdict::Reject),
        4 if renews => Ok(Verdict::Renew),
        _ => Err(ResponseError::InvalidRequest),
    }
}

/// Who leads a partition, for a client that asked the wrong node: id and epoch, -1 where that is not known or not asked.
fn leader_hint<S: LogStore>(core: &Core<S>, part: &Part) -> (i32, i32) {
    let elsewhere = |error: Option<ResponseError>| error == Some(ResponseError::NotLeaderOrFollower);
    if !elsewhere(part.error) && !elsewhere(part.ack_error) {
        return (-1, -1);
    }
    let partition = core.meta.partition(PartitionId { topic: part.topic, partition: part.partition });
    partition.map_or((-1, -1), |partition| (partition.leader.unwrap_or(-1), partition.leader_epoch))
}

/// A node that hints name, with where it is reached by the caller's listener.
fn endpoint<'a, S: LogStore>(core: &'a Core<S>, ctx: &Ctx, node: i32) -> Option<(&'a Broker, StrBytes, i32)> {
    let broker = core.meta.broker(node)?;
    let (host, port) = broker.address(core.listener_name(ctx.caller.listener))?;
    Some((broker, StrBytes::from_string(host.to_owned()), i32::from(port)))
}

/// How long records are locked for a group, in milliseconds.
fn lock_ms<S: LogStore>(core: &Core<S>, group: &str) -> i32 {
    i32::try_from(core.share_lock_ms(group)).unwrap_or(i32::MAX)
}
