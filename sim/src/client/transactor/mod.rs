//! A transactional producer: several partitions in one transaction, committed, aborted or left open. One that copies reads
//! committed records of one topic and writes them to another, and its offsets are part of the same transaction.
//!
//! ```text
//!             init                 begin                 all taken, or given up
//!  nobody ----------> Identity ------------> Open ---------------------------> Ending --answered--> Identity
//!    ^  sleeps for a while                    |                                   |
//!    +---- dies, is fenced -------------------+-----------------------------------+
//! ```
//! Two clients may have one transactional id: then each fences the other, now and then.

mod ask;
mod copies;
mod outgoing;
mod told;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Client, Io, Topics, View, Wire};
use crate::oracle::{Grant, Oracle, Place, RecordId, TxnId};
use crate::world::{LEDGER, TRANSACTIONAL};
use copies::Copies;
use outgoing::Outgoing;

/// Which requests a producer speaks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// It adds partitions itself; its epoch stays from one transaction to the next.
    V1,
    /// Whoever leads a partition adds it; each end bumps the epoch (KIP-890).
    V2,
}

/// What a producer has its transactional id for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Write,
    Copy,
}

/// One of the clients that have a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// Names its records.
    pub(crate) client: u32,
    pub(crate) transactional_id: String,
    /// The id belongs to another client, and this one is in its way.
    pub(crate) is_double: bool,
}

/// As the coordinator knows it.
#[derive(Debug, Clone, Copy)]
struct Identity {
    id: i64,
    epoch: i16,
    grant: Grant,
}

/// How a transaction is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Commit,
    Abort,
    /// By its timeout: nobody asks for it.
    Leave,
}

/// Offsets that belong to a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Offsets {
    None,
    /// The group is to be added to the transaction.
    ToAdd(Vec<(Place, i64)>),
    ToCommit(Vec<(Place, i64)>),
    Done,
}

/// The transaction that a client leaves open when it has done all that it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    None,
    Due,
    Left,
}

#[derive(Debug)]
struct Open {
    id: TxnId,
    wish: Wish,
    outgoing: Vec<Outgoing>,
    offsets: Offsets,
    /// Something of it may be known to its coordinator.
    touched: bool,
    /// It can't be committed any more.
    given_up: bool,
    /// Set: it is being ended; how often that was asked.
    asked: Option<u32>,
    since_calm: bool,
}

#[derive(Debug)]
enum Asked {
    View,
    Coordinator,
    /// The one of the group.
    GroupCoordinator,
    /// Anew, or by one who has the id since then.
    Init(Option<Grant>),
    /// These partitions, or the group.
    Add(Vec<Place>),
    AddOffsets,
    CommitOffsets,
    End(bool),
    /// With what must be known at least.
    Offsets(Vec<(Place, i64)>),
    Inputs,
    Produce(TxnId, Vec<(Place, Vec<RecordId>)>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Transactor {
    who: Who,
    protocol: Protocol,
    timeout_ms: i32,
    wire: Wire,
    view: View,
    /// By node: what was asked there, in order.
    open: BTreeMap<usize, VecDeque<(i32, Asked)>>,
    coordinator: Option<usize>,
    identity: Option<Identity>,
    /// Of the next batch.
    sequences: BTreeMap<Place, i32>,
    /// What became of some batches is not known: to begin with another epoch (KIP-360).
    unresolved: bool,
    transaction: Option<Open>,
    copies: Option<Copies>,
    life: u32,
    /// Transactions to begin, before calm.
    left: u32,
    asleep_until_ms: u64,
    /// It has committed a transaction that it began when all trouble was over.
    proven: bool,
    last: Last,
}

impl Transactor {
    pub(crate) fn new(who: Who, part: Part, protocol: Protocol, timeout_ms: i32, left: u32) -> Self {
        Self {
            who,
            protocol,
            timeout_ms,
            wire: Wire::default(),
            view: View::of(Topics(TRANSACTIONAL.to_vec())),
            open: BTreeMap::new(),
            coordinator: None,
            identity: None,
            sequences: BTreeMap::new(),
            unresolved: false,
            transaction: None,
            copies: (part == Part::Copy).then(Copies::new),
            life: 0,
            left,
            asleep_until_ms: 0,
            proven: false,
            last: Last::None,
        }
    }

    fn asked(&mut self, node: usize, correlation: i32, asked: Asked) {
        self.open.entry(node).or_default().push_back((correlation, asked));
    }

    /// Whether something other than records is on its way: such things are asked one by one.
    fn is_asking(&self) -> bool {
        self.open.values().flatten().any(|(_, asked)| !matches!(asked, Asked::Produce(..)))
    }

    fn act(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if self.is_asking() {
            return self.produce(io);
        }
        let Some(coordinator) = self.coordinator else { return self.find_coordinator(io) };
        let Some(identity) = self.identity else { return self.init(io, coordinator, None) };
        if !self.view.is_fresh() && io.rng.chance(50) {
            let (node, correlation) = self.view.ask(io, &mut self.wire)?;
            self.asked(node, correlation, Asked::View);
            return Ok(());
        }
        match self.transaction.as_ref().map(|open| open.asked) {
            None => self.rest(io, coordinator, identity),
            Some(Some(_)) => self.end(io, coordinator, identity),
            Some(None) => self.go_on(io, coordinator, identity),
        }
    }

    /// No transaction is open.
    fn rest(&mut self, io: &mut Io<'_>, coordinator: usize, identity: Identity) -> Result<(), String> {
        if self.unresolved {
            return self.init(io, coordinator, Some(identity));
        }
        if self.copies.is_some() {
            return self.seek_copies(io, identity);
        }
        if self.wants_more(io) && io.rng.chance(30) {
            self.begin_writing(io, identity);
        }
        Ok(())
    }

    /// When all trouble is over, one more is committed; then perhaps one more is left open.
    fn wants_more(&self, io: &Io<'_>) -> bool {
        if io.calm { !self.who.is_double && (!self.proven || self.last == Last::Due) } else { self.left > 0 }
    }

    fn begin(&mut self, io: &mut Io<'_>, identity: Identity, offsets: Offsets) -> TxnId {
        self.life += 1;
        self.left = self.left.saturating_sub(1);
        let id = TxnId { client: self.who.client, life: self.life };
        let wish = self.wish(io);
        io.oracle.transactions.begin(id, &self.who.transactional_id, identity.grant);
        let (outgoing, since_calm) = (Vec::new(), io.calm);
        let (touched, given_up, asked) = (false, false, None);
        self.transaction = Some(Open { id, wish, outgoing, offsets, touched, given_up, asked, since_calm });
        id
    }

    fn wish(&mut self, io: &mut Io<'_>) -> Wish {
        if io.calm && self.proven && self.last == Last::Due {
            return Wish::Leave;
        }
        match io.rng.below(10) {
            _ if io.calm => Wish::Commit,
            0..6 => Wish::Commit,
            6..9 => Wish::Abort,
            _ => Wish::Leave,
        }
    }

    fn begin_writing(&mut self, io: &mut Io<'_>, identity: Identity) {
        let id = self.begin(io, identity, Offsets::None);
        let places = Topics(vec![LEDGER]).places();
        let (start, count) = (io.rng.below(places.len()), 1 + io.rng.below(places.len()));
        let chosen = (0..count).map(|step| places[(start + step) % places.len()]);
        let outgoing = chosen.map(|place| Outgoing::new(id, place, batches(io))).collect();
        if let Some(open) = &mut self.transaction {
            open.outgoing = outgoing;
        }
    }

    /// A transaction is open: its records and offsets go out, until it is to end.
    fn go_on(&mut self, io: &mut Io<'_>, coordinator: usize, identity: Identity) -> Result<(), String> {
        if !io.calm && io.rng.chance(1) {
            self.stall_or_die(io);
            return Ok(());
        }
        let Some(open) = &self.transaction else { return Ok(()) };
        let has_offsets = matches!(open.offsets, Offsets::ToAdd(_) | Offsets::ToCommit(_));
        let is_done = open.given_up || !has_offsets && open.outgoing.iter().all(Outgoing::is_done);
        let may_wait = open.wish == Wish::Commit || !open.touched || self.is_producing() && io.rng.chance(70);
        match open.wish {
            Wish::Leave if is_done || !may_wait && io.rng.chance(5) => {
                self.leave(io);
                Ok(())
            }
            Wish::Commit | Wish::Abort if is_done || !may_wait && io.rng.chance(5) => {
                self.end(io, coordinator, identity)
            }
            Wish::Commit | Wish::Abort | Wish::Leave => self.work(io, coordinator, identity),
        }
    }

    fn is_producing(&self) -> bool {
        self.open.values().flatten().any(|(_, asked)| matches!(asked, Asked::Produce(..)))
    }

    fn work(&mut self, io: &mut Io<'_>, coordinator: usize, identity: Identity) -> Result<(), String> {
        let Some(open) = &self.transaction else { return Ok(()) };
        let to_add = open.outgoing.iter().any(|part| !part.added) && self.protocol == Protocol::V1;
        let has_offsets = !matches!(open.offsets, Offsets::None | Offsets::Done);
        if to_add && io.rng.chance(60) {
            return self.add_partitions(io, coordinator, identity);
        }
        if has_offsets && io.rng.chance(40) {
            return self.send_offsets(io, coordinator, identity);
        }
        self.produce(io)
    }

    /// The process does nothing for a while, or ends with all that it knew.
    fn stall_or_die(&mut self, io: &mut Io<'_>) {
        let timeout_ms = u64::try_from(self.timeout_ms).unwrap_or(0);
        if io.rng.chance(50) {
            self.asleep_until_ms = io.now_ms + io.rng.between(100, timeout_ms + 2_000);
        } else {
            self.die(io);
        }
    }

    /// The last transaction of this client, or of this process.
    fn leave(&mut self, io: &mut Io<'_>) {
        if self.last == Last::Due {
            self.last = Last::Left;
        }
        self.die(io);
    }

    /// Another process may come after it, perhaps when its transaction has timed out.
    fn die(&mut self, io: &mut Io<'_>) {
        io.hang_up = true;
        self.lose_identity();
        self.open.clear();
        let timeout_ms = u64::try_from(self.timeout_ms).unwrap_or(0);
        self.asleep_until_ms = io.now_ms + [0, io.rng.between(0, 500), timeout_ms + 1_500][io.rng.below(3)];
    }

    /// Another instance has the id now, or it is not known whether.
    fn fenced(&mut self, io: &mut Io<'_>) {
        self.lose_identity();
        if !io.calm {
            self.asleep_until_ms = io.now_ms + io.rng.between(100, 4_000);
        }
    }

    fn lose_identity(&mut self) {
        self.identity = None;
        self.transaction = None;
        self.unresolved = false;
        self.sequences.clear();
        if let Some(copies) = &mut self.copies {
            copies.forget();
        }
    }

    fn is_at_rest(&self) -> bool {
        self.transaction.is_none() && self.open.values().all(VecDeque::is_empty)
    }
}

impl Client for Transactor {
    fn connected(&mut self, _: &mut Io<'_>) {}

    fn frame(&mut self, io: &mut Io<'_>, node: usize, frame: Bytes) -> Result<(), String> {
        let asked = self.open.get_mut(&node).and_then(VecDeque::pop_front);
        let Some((correlation, asked)) = asked else { return Err("a response to nothing".into()) };
        self.told(io, &frame, correlation, asked)
    }

    fn closed(&mut self, _: &mut Io<'_>, node: usize) {
        self.open.remove(&node);
        self.view.doubt();
        self.coordinator.take_if(|at| *at == node);
        if let Some(copies) = &mut self.copies {
            copies.closed(node);
        }
        for part in self.transaction.iter_mut().flat_map(|open| &mut open.outgoing) {
            part.closed(node);
        }
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        if !io.calm && io.now_ms < self.asleep_until_ms || self.is_retired(io) {
            return;
        }
        let verdict = self.act(io);
        io.oracle.judge(verdict);
    }

    fn may_haunt(&self) -> bool {
        // What is late of an earlier transaction has another epoch only with KIP-890.
        self.protocol == Protocol::V2
    }

    fn is_done(&self, oracle: &Oracle) -> bool {
        let is_done = self.who.is_double
            || match &self.copies {
                Some(copies) => copies.are_whole(oracle),
                None => self.proven && self.last != Last::Due,
            };
        is_done && self.is_at_rest()
    }

    fn state(&self) -> String {
        format!(
            "transactor {:?} ({:?}): {:?}, {:?}, copies {:?}, proven {}, open {:?}",
            self.who, self.protocol, self.identity, self.transaction, self.copies, self.proven, self.open
        )
    }

    fn look_again(&mut self) {
        self.proven = false;
        self.asleep_until_ms = 0;
        if let Some(copies) = &mut self.copies {
            copies.forget();
        }
    }
}

impl Transactor {
    /// Nothing is left for it to do, though its topics may go on.
    fn is_retired(&self, io: &Io<'_>) -> bool {
        if !io.calm || !self.is_at_rest() {
            return false;
        }
        self.who.is_double || self.copies.is_none() && self.proven && self.last != Last::Due
    }
}

/// One batch or two, of one record to three, that are copies of nothing.
fn batches(io: &mut Io<'_>) -> VecDeque<Vec<Option<(Place, i64)>>> {
    let count = 1 + io.rng.below(2);
    (0..count).map(|_| vec![None; 1 + io.rng.below(3)]).collect()
}
