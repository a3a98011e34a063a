//! Fetch: long polls without polling, cold reads without blocking, incremental sessions.
//!
//! ```text
//!  handle ─> gather ─┬─ all there ──────────────┬─ enough, or time over ─> respond
//!                    └─ reads pending ─ done ───┴─ not enough ─> wait ─ log moved / deadline ─> gather
//! ```
//! While a fetch waits it holds no record bytes: the tail's memory is freed by flushing alone (rule 15).

mod op;
mod request;
mod response;

use smallvec::SmallVec;
use wherry_metadata::Topic;
use wherry_metadata::acl::Operation;
use wherry_wire::types::{LogId, Offset};

use super::errors::ApiError;
use super::{Ctx, Outcome, topics};
use crate::core::purgatory::FetchId;
use crate::core::sessions::{Told, TopicRef};
use crate::core::store::{LogError, LogStore, Read, ReadToken, ReadUpTo, Served};
use crate::core::{Core, partition_of};
use crate::mutation::mutated;
pub(crate) use op::FetchOp;
use op::Part;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::FetchRequest;

/// A read that the disk owes, and for which part.
type Owed = (ReadToken, u32);

/// Begins a fetch.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: FetchRequest) -> Outcome {
    let mut op = match request::plan(core, ctx, request) {
        Ok(op) => op,
        Err(error) => return response::failed(ctx, error),
    };
    if !core.purgatory.has_room(op.parts.len()) {
        return Outcome::Close(format!("fetches wait for too many partitions; {} more can't be had", op.parts.len()));
    }
    let owed = gather(core, &mut op);
    if owed.is_empty() {
        if is_due(core, &op) {
            return response::answer(core, op);
        }
        hold(&mut op);
    }
    let id = core.purgatory.insert(Box::new(op));
    if let Some(connection) = core.connection(ctx.id.conn) {
        connection.fetches.push(id);
    }
    expect(core, id, owed);
    watch_if_idle(core, id);
    Outcome::Later
}

fn expect<S: LogStore>(core: &mut Core<S>, id: FetchId, owed: Vec<Owed>) {
    for (token, part) in owed {
        core.purgatory.expect_read(token, id, part);
    }
}

fn is_due<S: LogStore>(core: &Core<S>, op: &FetchOp) -> bool {
    core.is_stopping() || op.is_satisfied() || core.now.monotonic_ns >= op.deadline_ns
}

/// Lets go of record bytes: they are read again when the fetch is answered.
fn hold(op: &mut FetchOp) {
    op.parts.iter_mut().for_each(Part::clear);
}

fn watch_if_idle<S: LogStore>(core: &mut Core<S>, id: FetchId) {
    let Some(op) = core.purgatory.get_mut(id) else { return };
    if op.outstanding > 0 {
        return;
    }
    core.purgatory.watch(id);
    core.stats.fetches_waiting.set(core.purgatory.len() as u64);
}

/// Reads every part, within the request's budget. What the disk owes is returned.
fn gather<S: LogStore>(core: &mut Core<S>, op: &mut FetchOp) -> Vec<Owed> {
    let mut owed = Vec::new();
    let mut taken = 0usize;
    let overdue = core.now.monotonic_ns >= op.deadline_ns;
    let (may_follow, read_committed) = (op.may_follow, op.read_committed);
    let reader = Reader { may_follow, read_committed, rack: op.rack.as_deref(), overdue };
    for (n, part) in (0u32..).zip(&mut op.parts) {
        part.clear();
        part.error = None;
        part.preferred = None;
        part.dirty = false;
        part.known_bytes = 0;
        let room = op.max_bytes.saturating_sub(taken);
        match read_part(core, &op.ctx, part, &reader, room, taken == 0) {
            Ok(Found::Data) => taken = taken.saturating_add(part.data_bytes()),
            // There is data; that the budget has no room for it is no reason to wait.
            Ok(Found::NoRoom) => part.known_bytes = usize::MAX,
            Ok(Found::Owed(token, reserved)) => {
                owed.push((token, n));
                taken = taken.saturating_add(reserved);
            }
            Err(error) => part.fail(error),
        }
    }
    op.outstanding = owed.len();
    owed
}

/// Who reads.
struct Reader<'a> {
    may_follow: bool,
    /// It sees nothing of a transaction before that has ended, and nothing of aborted ones.
    read_committed: bool,
    rack: Option<&'a str>,
    /// It has waited long enough.
    overdue: bool,
}

enum Found {
    /// All that there is, or that there is room for.
    Data,
    /// The budget is spent; the part has its turn another time.
    NoRoom,
    /// The disk brings it; this much of the budget is kept for it.
    Owed(ReadToken, usize),
}

fn read_part<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    part: &mut Part,
    reader: &Reader<'_>,
    room: usize,
    first: bool,
) -> Result<Found, ResponseError> {
    locate(core, ctx, part, reader.may_follow)?;
    let Some(log) = part.log else { return Err(ResponseError::UnknownTopicOrPartition) };
    let info = core.store.info(log).ok_or(ResponseError::UnknownTopicOrPartition)?;
    let committed = core.committed_end(log).map_or(info.log_start, |end| end.max(info.log_start));
    part.now = Told { high_watermark: committed.0, log_start: info.log_start.0 };
    let stable = if mutated!(StableIsCommitted) { committed } else { core.store.stable_end(log, committed) };
    let visible = if reader.read_committed { stable } else { committed };
    (part.last_stable, part.visible) = (stable.0, visible.0);
    let from = Offset(part.wanted.offset);
    if let Some(rack) = reader.rack.filter(|_| (info.log_start..=committed).contains(&from)) {
        part.preferred = nearer(core, log, rack);
        if part.preferred.is_some() {
            return Ok(Found::Data);
        }
    }
    // A new leader shows nothing before it knows what is committed (trap 10): the reader waits for that, or comes again.
    if reader.overdue && core.committed_end(log).is_none() {
        return Err(ResponseError::OffsetNotAvailable);
    }
    // Between what may be seen and the log's end: nothing to see yet, and nothing wrong.
    if from >= visible && from <= info.log_end {
        part.known_bytes = 0;
        return Ok(Found::Data);
    }
    let limit = usize::try_from(part.wanted.max_bytes).unwrap_or(0).min(core.config.limits.fetch_partition_bytes);
    let budget = limit.min(room);
    if budget == 0 && !first {
        return Ok(Found::NoRoom);
    }
    let upto = if reader.read_committed { ReadUpTo::Committed(visible) } else { ReadUpTo::Offset(visible) };
    match core.store.read(log, from, upto, budget, first) {
        Ok(Read::Ready(served)) => {
            part.take(served);
            Ok(Found::Data)
        }
        Ok(Read::Pending(token)) => Ok(Found::Owed(token, budget)),
        // Too many reads wait: the client gets the rest in its next fetch.
        Err(LogError::Busy { .. }) => Ok(Found::NoRoom),
        Err(error) => Err(error_of(core, Some(log), &error)),
    }
}

/// Damaged bytes are never served (INV-6). Where others have the same in sync, one of them leads in a moment: consumers shall
/// look for it, and hear of no damage.
fn error_of<S: LogStore>(core: &Core<S>, log: Option<LogId>, error: &LogError) -> ResponseError {
    let LogError::Corrupt(what) = error else { return ApiError::from(error).error };
    tracing::error!(%what, "refusing to serve damaged bytes");
    if log.is_some_and(|log| core.others_in_sync(log)) {
        return ResponseError::KafkaStorageError;
    }
    ResponseError::CorruptMessage
}

/// Finds the part's log anew each time: the topic may be gone since, or another under the same name.
fn locate<S: LogStore>(core: &Core<S>, ctx: &Ctx, part: &mut Part, may_follow: bool) -> Result<(), ResponseError> {
    part.log = None;
    let topic = match &part.wanted.topic {
        TopicRef::Name(name) => core.topic_for(ctx, Operation::Read, name),
        TopicRef::Id(id) => core.topic_for_id(ctx, Operation::Read, *id),
    };
    let topic = topic.map_err(|error| error.error)?;
    let log = topics::log(topic, part.wanted.partition)?;
    topics::check_epoch(part.wanted.leader_epoch, core.known_epoch(topic, part.wanted.partition))?;
    may_read(core, log, topic, may_follow)?;
    part.log = Some(log);
    Ok(())
}

/// The leader may be read from. Consumers that know racks may also read from a replica that is in sync (KIP-392), as far
/// as it knows what is committed.
fn may_read<S: LogStore>(core: &Core<S>, log: LogId, topic: &Topic, may_follow: bool) -> Result<(), ResponseError> {
    let knows = core.committed_end(log).is_some();
    if core.leads(log).is_ok() {
        return Ok(());
    }
    let me = core.config.node_id;
    let in_sync = topic.partition(log.partition).is_some_and(|partition| partition.isr.contains(&me));
    if may_follow && in_sync && knows && core.may_acknowledge() {
        Ok(())
    } else {
        Err(ResponseError::NotLeaderOrFollower)
    }
}

/// An in-sync replica in the reader's rack, where this node leads and is in another one.
fn nearer<S: LogStore>(core: &Core<S>, log: LogId, rack: &str) -> Option<i32> {
    let me = core.config.node_id;
    let is_there = |node: i32| core.meta.broker(node).is_some_and(|b| b.is_active() && b.rack.as_deref() == Some(rack));
    if !core.config.follower_reads || core.leads(log).is_err() || is_there(me) {
        return None;
    }
    let partition = core.meta.partition(partition_of(log))?;
    let near: SmallVec<[i32; 4]> =
        partition.isr.iter().copied().filter(|node| *node != me && is_there(*node)).collect();
    // Partitions that have several take turns.
    let turn = usize::try_from(log.partition).unwrap_or(0).checked_rem(near.len())?;
    near.get(turn).copied()
}

/// A read came back from the disk.
pub(crate) fn read_done<S: LogStore>(core: &mut Core<S>, token: ReadToken, result: Result<Served, LogError>) {
    let Some((id, n)) = core.purgatory.read_arrived(token) else { return };
    let Some(op) = core.purgatory.get_mut(id) else { return };
    op.outstanding = op.outstanding.saturating_sub(1);
    let part = usize::try_from(n).ok().and_then(|n| op.parts.get_mut(n));
    let damaged = part.and_then(|part| match result {
        Ok(served) => {
            part.take(served);
            None
        }
        Err(error) => Some((part.log, error)),
    });
    if let Some((log, error)) = damaged {
        fail(core, id, n, log, &error);
    }
    let Some(op) = core.purgatory.get_mut(id) else { return };
    if op.outstanding == 0 {
        decide(core, id);
    }
}

fn fail<S: LogStore>(core: &mut Core<S>, id: FetchId, n: u32, log: Option<LogId>, error: &LogError) {
    let error = error_of(core, log, error);
    let op = core.purgatory.get_mut(id);
    if let Some(part) = op.and_then(|op| op.parts.get_mut(usize::try_from(n).unwrap_or(usize::MAX))) {
        part.fail(error);
    }
}

/// Everything that was asked of the disk is here: answer, or wait.
fn decide<S: LogStore>(core: &mut Core<S>, id: FetchId) {
    let Some(op) = core.purgatory.check_out(id) else { return };
    if is_due(core, &op) {
        return respond(core, id, *op);
    }
    let mut op = op;
    hold(&mut op);
    wait_on(core, id, op);
}

/// Goes on waiting, unless what moved while the disk was reading is enough.
fn wait_on<S: LogStore>(core: &mut Core<S>, id: FetchId, mut op: Box<FetchOp>) {
    core.peek_dirty(&mut op);
    if is_due(core, &op) {
        return conclude(core, id, op);
    }
    core.purgatory.check_in(id, op);
    watch_if_idle(core, id);
}

fn respond<S: LogStore>(core: &mut Core<S>, id: FetchId, op: FetchOp) {
    core.purgatory.remove(id);
    core.stats.fetches_waiting.set(core.purgatory.len() as u64);
    let request = op.ctx.id;
    if let Some(connection) = core.connection(request.conn) {
        connection.fetches.retain(|fetch| *fetch != id);
    }
    let outcome = response::answer(core, op);
    core.finish(request, outcome);
}

/// Gathers again and answers, as soon as the disk has what it owes.
fn conclude<S: LogStore>(core: &mut Core<S>, id: FetchId, mut op: Box<FetchOp>) {
    let owed = gather(core, &mut op);
    if owed.is_empty() && is_due(core, &op) {
        return respond(core, id, *op);
    }
    core.purgatory.check_in(id, op);
    if owed.is_empty() {
        // Less is there than a moment ago (records were deleted): it goes on waiting.
        if let Some(op) = core.purgatory.get_mut(id) {
            hold(op);
        }
        return watch_if_idle(core, id);
    }
    expect(core, id, owed);
}

impl<S: LogStore> Core<S> {
    /// A log moved, or is gone: fetches that watch it are looked at in this turn.
    pub(crate) fn wake_log(&mut self, log: LogId) {
        self.purgatory.wake(log);
        self.wake_shares(log);
    }

    /// Looks at the fetches whose logs moved; each once per turn, and only at the parts that moved.
    pub(crate) fn evaluate_woken(&mut self) {
        for id in self.purgatory.take_woken() {
            let Some(op) = self.purgatory.check_out(id) else { continue };
            if op.outstanding > 0 {
                self.purgatory.check_in(id, op);
                continue;
            }
            wait_on(self, id, op);
        }
    }

    fn peek_dirty(&mut self, op: &mut FetchOp) {
        let room = op.max_bytes;
        let (may_follow, read_committed) = (op.may_follow, op.read_committed);
        let reader = Reader { may_follow, read_committed, rack: op.rack.as_deref(), overdue: false };
        for part in op.parts.iter_mut().filter(|part| part.dirty) {
            part.dirty = false;
            match read_part(self, &op.ctx, part, &reader, room, true) {
                Ok(Found::Data) => {}
                // Surely there: `conclude` reads it. A token finds nobody.
                Ok(Found::NoRoom | Found::Owed(..)) => part.known_bytes = usize::MAX,
                Err(error) => part.fail(error),
            }
            part.clear();
        }
    }

    /// Answers every fetch with what is there: the node is stopping.
    pub(crate) fn end_fetches(&mut self) {
        for id in self.purgatory.ids() {
            let Some(mut op) = self.purgatory.check_out(id) else { continue };
            op.deadline_ns = 0;
            if op.outstanding > 0 {
                self.purgatory.check_in(id, op);
            } else {
                conclude(self, id, op);
            }
        }
    }

    /// Answers the fetches whose time is over.
    pub(crate) fn expire_fetches(&mut self) {
        while let Some(id) = self.purgatory.pop_due(self.now.monotonic_ns) {
            let Some(op) = self.purgatory.check_out(id) else { continue };
            if op.outstanding > 0 {
                // Answered when the reads are there: `decide` sees that the time is over.
                self.purgatory.check_in(id, op);
            } else {
                conclude(self, id, op);
            }
        }
    }
}
