//! openraft's storage: the log since the last snapshot in memory, and every change of it as records for the owner.
//!
//! A change is seen here at once and told to openraft when the owner says that its records are durable. The state
//! machine is the owner's: an entry counts as applied when its `Committed` output is queued.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::ops::RangeBounds;
use std::rc::Rc;
use std::task::{Poll, Waker};

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    EntryPayload, LogId, LogState, RaftLogReader, RaftSnapshotBuilder, Snapshot, StorageIOError, StoredMembership,
};
use tokio::sync::oneshot;

use super::network::Calls;
use super::record::{Record, entry_records, superseding_records};
use super::types::{Entry, Member, Meta, Payload, StorageError, Types, Vote, encode, entry_bytes, meta};
use super::{Output, QuorumError, Stored, WriteId, limits};

/// What the tasks of one quorum share with it.
pub(super) struct Shared {
    pub(super) outputs: RefCell<VecDeque<Output>>,
    pub(super) store: RefCell<Store>,
    pub(super) calls: RefCell<Calls>,
    /// The leader asked this node to take over: it stands for election with its leave.
    pub(super) handed_over: Cell<bool>,
}

impl Shared {
    pub(super) fn emit(&self, output: Output) {
        self.outputs.borrow_mut().push_back(output);
    }

    /// Hands records to the owner; the receiver resolves when they are durable, and fails if they never will be.
    fn write(&self, store: &mut Store, mut records: Vec<Vec<u8>>, supersedes: bool) -> Result<Durable, QuorumError> {
        if !store.identified && !supersedes {
            records.insert(0, encode(&Record::Identity { node_id: store.node_id })?);
        }
        store.identified = true;
        let id = store.next_write;
        store.next_write += 1;
        let (done, durable) = oneshot::channel();
        store.writes.insert(id, done);
        self.emit(Output::Write { id: WriteId(id), records, supersedes });
        Ok(durable)
    }

    /// Writes a snapshot and all above it.
    fn write_snapshot(&self, meta: &Meta, bytes: &[u8]) -> Result<Durable, QuorumError> {
        let store = &mut *self.store.borrow_mut();
        let above = meta.last_log_id.map_or(0, |id| id.index + 1);
        let kept = store.log.range(above..).map(|(_, entry)| entry);
        let records = superseding_records(store.node_id, store.vote, meta, bytes, kept)?;
        self.write(store, records, true)
    }
}

type Durable = oneshot::Receiver<()>;

/// The log in memory and what is known of its snapshot.
pub(super) struct Store {
    node_id: i32,
    /// The log says already whose it is.
    identified: bool,
    vote: Option<Vote>,
    log: BTreeMap<u64, Entry>,
    purged: Option<LogId<i32>>,
    pub(super) applied: Option<LogId<i32>>,
    membership: StoredMembership<i32, Member>,
    snapshot: Option<(Meta, Payload)>,
    /// What the newest snapshot covers for which a write was handed out.
    covered: Option<LogId<i32>>,
    /// Waits for `covered` to move.
    purging: Vec<Waker>,
    writes: BTreeMap<u64, oneshot::Sender<()>>,
    next_write: u64,
    /// The index and the receiver of the snapshot that the owner was asked for.
    building: Option<(u64, oneshot::Sender<Payload>)>,
    /// When a snapshot was asked for that was not written yet.
    asked_at_ns: Option<u64>,
}

impl Store {
    pub(super) fn new(node_id: i32, stored: Stored) -> Self {
        let covered = stored.covered();
        let membership = stored.snapshot.as_ref().map(|(meta, _)| meta.last_membership.clone());
        Self {
            node_id,
            identified: stored.node_id.is_some(),
            vote: stored.vote,
            log: stored.log,
            purged: covered,
            applied: covered,
            membership: membership.unwrap_or_default(),
            snapshot: stored.snapshot,
            covered,
            purging: Vec::new(),
            writes: BTreeMap::new(),
            next_write: 0,
            building: None,
            asked_at_ns: None,
        }
    }

    /// The owner's word on a write.
    pub(super) fn write_ended(&mut self, id: WriteId, durable: bool) {
        let Some(done) = self.writes.remove(&id.0) else { return };
        if durable {
            // Whoever waited may be gone: a snapshot transfer that was cancelled.
            let _ = done.send(());
        }
    }

    /// The owner's snapshot of everything up to `index`. False: nobody asked for it.
    pub(super) fn snapshot_built(&mut self, index: u64, bytes: Payload) -> bool {
        match self.building.take() {
            Some((asked, receiver)) if asked == index => receiver.send(bytes).is_ok(),
            other => {
                self.building = other;
                false
            }
        }
    }

    /// Whether a snapshot is worth being asked for; it then counts as asked for. openraft ignores the question while
    /// it is still busy with the last snapshot, so it may be asked again after a while.
    pub(super) fn ask_for_snapshot(&mut self, now_ns: u64, patience_ns: u64) -> bool {
        let asked = self.asked_at_ns.is_some_and(|at| now_ns < at.saturating_add(patience_ns));
        if asked || self.building.is_some() || self.applied <= self.covered {
            return false;
        }
        self.asked_at_ns = Some(now_ns);
        true
    }

    /// Entries held in memory, and their size.
    pub(super) fn log_size(&self) -> (usize, usize) {
        (self.log.len(), self.log.values().map(entry_bytes).sum())
    }

    fn cover(&mut self, meta: &Meta) {
        self.covered = self.covered.max(meta.last_log_id);
        self.purging.drain(..).for_each(Waker::wake);
    }
}

fn failed(error: &dyn std::error::Error) -> StorageError {
    StorageIOError::write(&io::Error::other(error.to_string())).into()
}

fn not_durable() -> io::Error {
    io::Error::other("a write to the quorum log failed")
}

async fn durable(written: Result<Durable, QuorumError>) -> Result<(), StorageError> {
    written.map_err(|error| failed(&error))?.await.map_err(|_| failed(&not_durable()))
}

/// openraft's handle on the log.
#[derive(Clone)]
pub(super) struct Log(pub(super) Rc<Shared>);

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        Ok(self.0.store.borrow().log.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    /// What fits a message; always at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let mut size = 0;
        let fits = |entry: &&Entry| {
            let first = size == 0;
            size += entry_bytes(entry);
            first || size <= limits::MAX_APPEND_BYTES
        };
        Ok(self.0.store.borrow().log.range(start..end).map(|(_, entry)| entry).take_while(fits).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let store = self.0.store.borrow();
        let last = store.log.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id: store.purged, last_log_id: last.or(store.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let written = encode(&Record::Vote((*vote).into())).and_then(|record| {
            let store = &mut *self.0.store.borrow_mut();
            store.vote = Some(*vote);
            self.0.write(store, vec![record], false)
        });
        durable(written).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.0.store.borrow().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry>,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let written = entry_records(entries.iter(), Record::Entries).and_then(|records| {
            let store = &mut *self.0.store.borrow_mut();
            store.log.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
            self.0.write(store, records, false)
        });
        let written = written.map_err(|error| failed(&error))?;
        // RaftCore waits for the callback as its next step anyway.
        callback.log_io_completed(written.await.map_err(|_| not_durable()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId<i32>) -> Result<(), StorageError> {
        let written = encode(&Record::Truncate { index: since.index }).and_then(|record| {
            let store = &mut *self.0.store.borrow_mut();
            store.log.split_off(&since.index);
            self.0.write(store, vec![record], false)
        });
        durable(written).await
    }

    /// Only memory is freed; records are superseded by the snapshot's write. That write must have been handed out
    /// before: while a snapshot is installed openraft purges without waiting for it, and entries above it must not get
    /// into the records first.
    async fn purge(&mut self, upto: LogId<i32>) -> Result<(), StorageError> {
        poll_fn(|context| {
            let store = &mut *self.0.store.borrow_mut();
            if store.covered >= Some(upto) {
                return Poll::Ready(());
            }
            store.purging.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        let store = &mut *self.0.store.borrow_mut();
        store.log = store.log.split_off(&(upto.index + 1));
        store.purged = store.purged.max(Some(upto));
        Ok(())
    }
}

/// openraft's handle on the owner's state machine.
pub(super) struct Machine(pub(super) Rc<Shared>);

/// Waits for the owner's snapshot.
pub(super) struct Builder {
    shared: Rc<Shared>,
    meta: Option<Meta>,
    built: oneshot::Receiver<Payload>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let nothing = io::Error::other("no snapshot was built");
        let (Ok(bytes), Some(meta)) = ((&mut self.built).await, self.meta.take()) else {
            return Err(StorageIOError::read_state_machine(&nothing).into());
        };
        // A newer one may have been installed meanwhile: what this one would keep is gone from memory.
        if self.shared.store.borrow().covered < meta.last_log_id {
            let written = self.shared.write_snapshot(&meta, &bytes);
            self.shared.store.borrow_mut().cover(&meta);
            durable(written).await?;
            let store = &mut *self.shared.store.borrow_mut();
            if store.covered == meta.last_log_id {
                store.snapshot = Some((meta.clone(), bytes.clone()));
            }
        }
        self.shared.store.borrow_mut().asked_at_ns = None;
        Ok(Snapshot { meta, snapshot: Box::new(bytes) })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId<i32>>, StoredMembership<i32, Member>), StorageError> {
        let store = self.0.store.borrow();
        Ok((store.applied, store.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry>,
    {
        let store = &mut *self.0.store.borrow_mut();
        Ok(entries
            .into_iter()
            .map(|entry| {
                let id = entry.log_id;
                store.applied = Some(id);
                match entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Normal(payload) => {
                        self.0.emit(Output::Committed { index: id.index, term: id.leader_id.term, payload });
                    }
                    EntryPayload::Membership(membership) => {
                        store.membership = StoredMembership::new(Some(id), membership);
                    }
                }
            })
            .collect())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let store = &mut *self.0.store.borrow_mut();
        let (asked, built) = oneshot::channel();
        let meta = store.applied.map(|applied| meta(applied, store.membership.clone()));
        if let Some(applied) = store.applied {
            store.building = Some((applied.index, asked));
            self.0.emit(Output::BuildSnapshot { index: applied.index });
        }
        Builder { shared: self.0.clone(), meta, built }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Payload>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<Payload>) -> Result<(), StorageError> {
        let written = self.0.write_snapshot(meta, &snapshot);
        self.0.store.borrow_mut().cover(meta);
        durable(written).await?;
        let store = &mut *self.0.store.borrow_mut();
        store.applied = meta.last_log_id;
        store.membership = meta.last_membership.clone();
        if store.covered == meta.last_log_id {
            store.snapshot = Some((meta.clone(), (*snapshot).clone()));
        }
        let index = meta.last_log_id.map_or(0, |id| id.index);
        self.0.emit(Output::InstallSnapshot { index, bytes: *snapshot });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let snapshot = self.0.store.borrow().snapshot.clone();
        Ok(snapshot.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(bytes) }))
    }
}
