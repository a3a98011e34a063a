//! ShareFetch and ShareAcknowledge requests that are not answered: they wait for what they acknowledge to be written, for the
//! disk, or for records. Acknowledgements come first; a fetch that brought some takes what there is and waits no longer.
//!
//! ```text
//!  begin ─> acknowledge ─> all written ─> (fetch.rs) take ─┬─ something, or time over ─> answer
//!                                                          └─ nothing ─> wait ─ log or share-partition moved ─> take
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LogId, Offset};

use super::SessionKey;
use crate::api::{self, Ctx};
use crate::core::store::{LogStore, ReadToken};
use crate::core::{ConnId, Core};
use crate::limits::MAX_WAITING_SHARE_PARTITIONS;
use crate::share::partition::{Ack, Acquired, Appetite, NotHeld};

/// A partition of a request that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartId {
    pub(super) request: u64,
    pub(super) part: usize,
}

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Fetch,
    Acknowledge,
}

/// One partition of a request.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) topic: Uuid,
    pub(crate) partition: i32,
    /// Where the topic exists and the caller may read it.
    pub(crate) log: Option<LogId>,
    /// What the request says of records.
    pub(crate) acks: Vec<Ack>,
    /// It acknowledges something, perhaps nothing that can be understood.
    pub(crate) acknowledges: bool,
    pub(crate) ack_error: Option<ResponseError>,
    /// Records are wanted.
    pub(crate) fetches: bool,
    pub(crate) error: Option<ResponseError>,
    pub(crate) data: Vec<Bytes>,
    pub(crate) acquired: Vec<Acquired>,
    /// Something was read for it already, or is being read.
    pub(super) is_read: bool,
}

impl Part {
    pub(crate) fn new(topic: Uuid, partition: i32) -> Self {
        Self {
            topic,
            partition,
            log: None,
            acks: Vec::new(),
            acknowledges: false,
            ack_error: None,
            fetches: false,
            error: None,
            data: Vec::new(),
            acquired: Vec::new(),
            is_read: false,
        }
    }

    pub(crate) fn data_bytes(&self) -> usize {
        self.data.iter().map(Bytes::len).sum()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ShareRequest {
    pub(crate) ctx: Ctx,
    pub(crate) kind: Kind,
    pub(crate) session: SessionKey,
    /// The session ends with it.
    pub(crate) is_last: bool,
    pub(crate) began_ns: u64,
    pub(crate) deadline_ns: u64,
    /// Of records, in all partitions.
    pub(crate) max_bytes: usize,
    pub(crate) appetite: Appetite,
    /// Records in one run of those that are given; 0: as many as there are.
    pub(crate) run_length: usize,
    pub(crate) parts: Vec<Part>,
    /// Of records that were taken, in all partitions: their number and the bytes of their batches.
    pub(crate) taken: (usize, usize),
    /// Partitions whose acknowledgement is being written.
    pub(crate) unwritten: usize,
    /// Reads that the disk owes.
    pub(crate) unread: usize,
    /// A share-partition is still being begun, or found not to be had: it takes no longer than a question is asked.
    pub(crate) opening: bool,
}

impl ShareRequest {
    pub(super) fn group(&self) -> &Arc<str> {
        &self.session.0
    }

    fn has_something(&self) -> bool {
        let told = |part: &Part| part.error.is_some() || part.acknowledges || !part.acquired.is_empty();
        self.parts.is_empty() || self.parts.iter().any(told)
    }
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: BTreeMap<u64, ShareRequest>,
    last: u64,
    /// Of all of them.
    parts: usize,
    by_conn: BTreeMap<ConnId, BTreeSet<u64>>,
    by_log: BTreeMap<LogId, BTreeSet<u64>>,
    deadlines: BTreeSet<(u64, u64)>,
    woken: BTreeSet<u64>,
    /// What the disk brings, for whom, read from which offset.
    pub(super) reads: BTreeMap<ReadToken, (PartId, Offset)>,
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let woken = (!self.woken.is_empty()).then_some(0);
        woken.or_else(|| self.deadlines.first().map(|(at_ns, _)| *at_ns))
    }

    fn insert(&mut self, request: ShareRequest) -> u64 {
        self.last += 1;
        let id = self.last;
        self.parts += request.parts.len();
        self.by_conn.entry(request.ctx.id.conn).or_default().insert(id);
        for log in request.parts.iter().filter(|part| part.fetches).filter_map(|part| part.log) {
            self.by_log.entry(log).or_default().insert(id);
        }
        self.deadlines.insert((request.deadline_ns, id));
        self.waiting.insert(id, request);
        id
    }

    fn remove(&mut self, id: u64) -> Option<ShareRequest> {
        let request = self.waiting.remove(&id)?;
        self.parts -= request.parts.len();
        self.deadlines.remove(&(request.deadline_ns, id));
        self.woken.remove(&id);
        for log in request.parts.iter().filter_map(|part| part.log) {
            if let Some(ids) = self.by_log.get_mut(&log) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_log.remove(&log);
                }
            }
        }
        let conn = request.ctx.id.conn;
        if let Some(ids) = self.by_conn.get_mut(&conn) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_conn.remove(&conn);
            }
        }
        Some(request)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut ShareRequest> {
        self.waiting.get_mut(&id)
    }

    pub(super) fn part_mut(&mut self, at: PartId) -> Option<&mut Part> {
        self.waiting.get_mut(&at.request)?.parts.get_mut(at.part)
    }

    /// It waits no longer for records.
    fn hurry(&mut self, id: u64, now_ns: u64) {
        let Some(request) = self.waiting.get_mut(&id) else { return };
        if request.deadline_ns > now_ns {
            self.deadlines.remove(&(request.deadline_ns, id));
            request.deadline_ns = now_ns;
            self.deadlines.insert((now_ns, id));
        }
        self.woken.insert(id);
    }
}

impl<S: LogStore> Core<S> {
    /// Whether a request about so many partitions may wait.
    pub(crate) fn may_wait_for_shares(&self, parts: usize) -> bool {
        self.shares.requests.parts.saturating_add(parts) <= MAX_WAITING_SHARE_PARTITIONS
    }

    /// Begins a request: what it acknowledges is on its way to be written, at once. It is answered later, perhaps at the end
    /// of this turn.
    pub(crate) fn begin_share_request(&mut self, request: ShareRequest) {
        let (kind, conn) = (request.kind, request.ctx.id.conn);
        if kind == Kind::Acknowledge {
            self.hurry_share_fetches(conn);
        }
        let parts = request.parts.len();
        let id = self.shares.requests.insert(request);
        for part in 0..parts {
            self.acknowledge_part(PartId { request: id, part });
        }
        self.shares.requests.woken.insert(id);
    }

    /// Answers of a connection keep the order of its requests: an acknowledgement must not wait behind a fetch that waits for
    /// records.
    fn hurry_share_fetches(&mut self, conn: ConnId) {
        let now_ns = self.now.monotonic_ns;
        for id in self.shares.requests.by_conn.get(&conn).cloned().unwrap_or_default() {
            self.shares.requests.hurry(id, now_ns);
        }
    }

    fn acknowledge_part(&mut self, at: PartId) {
        let now_ns = self.now.monotonic_ns;
        let Some(request) = self.shares.requests.get_mut(at.request) else { return };
        let session = request.session.clone();
        let Some(part) = request.parts.get_mut(at.part) else { return };
        if part.acks.is_empty() || part.ack_error.is_some() {
            return;
        }
        let acks = std::mem::take(&mut part.acks);
        let Some(log) = part.log else { return };
        let settings = self.share_settings(&session.0);
        let outcome = match self.open_share(&session.0, log) {
            Ok(Some(partition)) => {
                let told = partition.acknowledge(&session.1, now_ns, &settings, &acks);
                told.map_err(|NotHeld| ResponseError::InvalidRecordState)
            }
            // Whatever the member had was lost with what was known before.
            Ok(None) => Err(ResponseError::InvalidRecordState),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Some(write)) => {
                if let Some(request) = self.shares.requests.get_mut(at.request) {
                    request.unwritten += 1;
                }
                self.await_share_write(&session.0, log, write, at);
            }
            Ok(None) => {}
            Err(error) => {
                if let Some(part) = self.shares.requests.part_mut(at) {
                    part.ack_error = Some(error);
                }
            }
        }
        self.share_changed(&session.0, log);
    }

    /// What a partition of a request acknowledges is written, or will not be.
    pub(super) fn share_acknowledged(&mut self, at: PartId, error: Option<ResponseError>) {
        let Some(request) = self.shares.requests.get_mut(at.request) else { return };
        request.unwritten = request.unwritten.saturating_sub(1);
        if let Some(part) = request.parts.get_mut(at.part) {
            part.ack_error = part.ack_error.or(error);
        }
        if request.unwritten == 0 {
            self.shares.requests.woken.insert(at.request);
        }
    }

    /// A share-partition that requests wait for can't be had.
    pub(super) fn share_unavailable(&mut self, log: LogId, group: &Arc<str>, error: ResponseError) {
        let requests = &mut self.shares.requests;
        for id in requests.by_log.get(&log).cloned().unwrap_or_default() {
            let Some(request) = requests.waiting.get_mut(&id).filter(|request| request.group() == group) else {
                continue;
            };
            let waits = |part: &&mut Part| part.log == Some(log) && part.fetches && !part.is_read;
            for part in request.parts.iter_mut().filter(waits) {
                part.error = part.error.or(Some(error));
            }
            requests.woken.insert(id);
        }
    }

    /// A log moved, or something became of its records.
    pub(crate) fn wake_shares(&mut self, log: LogId) {
        let requests = &mut self.shares.requests;
        if let Some(ids) = requests.by_log.get(&log) {
            requests.woken.extend(ids.iter().copied());
        }
    }

    pub(super) fn wake_share_request(&mut self, id: u64) {
        self.shares.requests.woken.insert(id);
    }

    /// The connection of these requests is gone. What they acknowledge is written all the same.
    pub(super) fn forget_share_requests(&mut self, conn: ConnId) {
        for id in self.shares.requests.by_conn.remove(&conn).unwrap_or_default() {
            self.shares.requests.remove(id);
        }
    }

    /// Answers every request with what is there: the node is stopping.
    pub(crate) fn end_share_requests(&mut self) {
        let now_ns = self.now.monotonic_ns;
        for id in self.shares.requests.waiting.keys().copied().collect::<Vec<_>>() {
            self.shares.requests.hurry(id, now_ns);
        }
    }

    /// Looks at the requests that were woken or whose time is over, each once.
    pub(super) fn look_at_share_requests(&mut self) {
        let now_ns = self.now.monotonic_ns;
        let due = self.shares.requests.deadlines.iter().take_while(|(at_ns, _)| *at_ns <= now_ns);
        let due: Vec<u64> = due.map(|(_, id)| *id).collect();
        self.shares.requests.woken.extend(due);
        for id in std::mem::take(&mut self.shares.requests.woken) {
            self.look_at_share_request(id);
        }
    }

    fn look_at_share_request(&mut self, id: u64) {
        let Some(request) = self.shares.requests.get_mut(id) else { return };
        let alarm = (request.deadline_ns, id);
        // Looked at again when it waits for the disk no more; its deadline must not have it looked at for nothing meanwhile.
        if request.unwritten > 0 || request.unread > 0 {
            self.shares.requests.deadlines.remove(&alarm);
            return;
        }
        if request.kind == Kind::Fetch && !request.is_last {
            self.take_for_shares(id);
        }
        let (now_ns, stopping) = (self.now.monotonic_ns, self.is_stopping());
        let Some(request) = self.shares.requests.get_mut(id) else { return };
        if request.unread > 0 {
            self.shares.requests.deadlines.remove(&alarm);
            return;
        }
        let is_late = now_ns >= request.deadline_ns;
        let is_due = request.has_something() || (is_late && !request.opening) || stopping;
        if is_due || request.is_last || request.kind == Kind::Acknowledge {
            return self.answer_share_request(id);
        }
        if is_late {
            self.shares.requests.deadlines.remove(&alarm);
        } else {
            self.shares.requests.deadlines.insert(alarm);
        }
    }

    fn answer_share_request(&mut self, id: u64) {
        let Some(request) = self.shares.requests.remove(id) else { return };
        if request.is_last {
            self.end_share_session(&request.session);
        }
        let ctx_id = request.ctx.id;
        let outcome = match request.kind {
            Kind::Fetch => api::share::fetch::answer(self, request),
            Kind::Acknowledge => api::share::acknowledge::answer(self, request),
        };
        self.finish(ctx_id, outcome);
    }
}
