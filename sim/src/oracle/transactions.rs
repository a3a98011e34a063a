//! Transactions: all or nothing, once, and only by whoever holds the transactional id.
//!
//! ```text
//!         commit asked          answered, seen by a reader, its offsets told
//!  Open ----------------> Asked --------------------------------------------> Committed
//!    |                      \---- skipped by a reader, refused for good ----> Aborted
//!    \--- abort asked, or asked by one who is fenced ------------------------> Aborted
//! ```
//! A client that is not told how its transaction ended knows no more; in the end each is one or the other, whole. What is
//! copied is so once, as far as the offsets say that were committed with it. In the manner of Jepsen's workloads for Kafka.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use super::logs::{Place, RecordId};

/// Which transaction: its client, and which of the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TxnId {
    pub(crate) client: u32,
    pub(crate) life: u32,
}

impl TxnId {
    fn of(id: RecordId) -> Self {
        Self { client: id.client, life: id.life }
    }
}

/// Names the moment at which an instance got a transactional id: later ones fence earlier ones (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Grant(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    /// It was asked to commit, and nobody knows yet.
    Asked,
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Record {
    /// Its producer was fenced before it was sent.
    late: bool,
    /// What it is a copy of.
    source: Option<(Place, i64)>,
}

#[derive(Debug)]
struct Transaction {
    owner: String,
    grant: Grant,
    fate: Fate,
    records: BTreeMap<(Place, RecordId), Record>,
    /// Offsets of its input that are committed with it.
    offsets: BTreeMap<Place, i64>,
}

/// A transactional id.
#[derive(Debug, Default)]
struct Identity {
    latest: Grant,
    /// By producer id: the newest epoch that an instance was given.
    epochs: BTreeMap<i64, i16>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct TransactionOracle {
    grants: u64,
    identities: BTreeMap<String, Identity>,
    transactions: BTreeMap<TxnId, Transaction>,
    /// What readers of committed records were shown.
    visible: BTreeMap<Place, BTreeMap<i64, RecordId>>,
    /// Everything in this topic is to be copied.
    copied: Option<&'static str>,
}

/// What producers are told.
impl TransactionOracle {
    /// Somebody copies this topic.
    pub(crate) fn expect_copies(&mut self, topic: &'static str) {
        self.copied = Some(topic);
    }

    /// An instance was given a transactional id, with this producer id and epoch; it had it already if it says since when.
    pub(crate) fn granted(
        &mut self,
        owner: &str,
        before: Option<Grant>,
        producer: (i64, i16),
    ) -> Result<(Grant, bool), String> {
        let identity = self.identities.entry(owner.to_owned()).or_default();
        if identity.is_older(producer) {
            // A newer instance was told first.
            return Ok((Grant::default(), false));
        }
        if before.is_some_and(|before| before < identity.latest) {
            return Err(format!("'{owner}': a producer goes on as {producer:?} though a newer one has its id"));
        }
        self.grants += 1;
        identity.latest = Grant(self.grants);
        let is_new = identity.bump(owner, producer)?;
        Ok((identity.latest, is_new))
    }

    /// The end of a transaction gave its producer another epoch (KIP-890); whether its producer id is new.
    pub(crate) fn bumped(&mut self, owner: &str, producer: (i64, i16)) -> Result<bool, String> {
        let identity = self.identities.entry(owner.to_owned()).or_default();
        if identity.is_older(producer) { Ok(false) } else { identity.bump(owner, producer) }
    }

    fn is_fenced(&self, owner: &str, grant: Grant) -> bool {
        self.identities.get(owner).is_some_and(|identity| grant < identity.latest)
    }

    /// An instance begins a transaction.
    pub(crate) fn begin(&mut self, id: TxnId, owner: &str, grant: Grant) {
        let (records, offsets) = (BTreeMap::new(), BTreeMap::new());
        let transaction = Transaction { owner: owner.to_owned(), grant, fate: Fate::Open, records, offsets };
        self.transactions.insert(id, transaction);
    }

    /// It is about to send this, as a copy of something or not.
    pub(crate) fn sent(&mut self, place: Place, id: RecordId, source: Option<(Place, i64)>) {
        let Some(transaction) = self.transactions.get(&TxnId::of(id)) else { return };
        let late = self.is_fenced(&transaction.owner, transaction.grant);
        if let Some(transaction) = self.transactions.get_mut(&TxnId::of(id)) {
            transaction.records.insert((place, id), Record { late, source });
        }
    }

    /// The node says that this record is durable.
    pub(crate) fn taken(&self, place: Place, id: RecordId) -> Verdict {
        let record = self.transactions.get(&TxnId::of(id)).and_then(|t| t.records.get(&(place, id)));
        if record.is_some_and(|record| record.late) {
            return Err(format!("{place:?}: {id:?} was taken of a producer that was fenced before it sent it"));
        }
        Ok(())
    }

    /// It commits this offset of its input.
    pub(crate) fn offset(&mut self, id: TxnId, place: Place, offset: i64) {
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.offsets.insert(place, offset);
        }
    }

    /// It is about to ask that its transaction end so.
    pub(crate) fn ending(&mut self, id: TxnId, commit: bool) {
        let Some(transaction) = self.transactions.get(&id).filter(|t| t.fate == Fate::Open) else { return };
        let may = commit && !self.is_fenced(&transaction.owner, transaction.grant);
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.fate = if may { Fate::Asked } else { Fate::Aborted };
        }
    }

    /// The coordinator says that it ends so.
    pub(crate) fn ended(&mut self, id: TxnId, commit: bool) -> Verdict {
        self.learn(id, if commit { Fate::Committed } else { Fate::Aborted }, "its coordinator says so")
    }

    /// The only time that it was asked to commit it was refused for good.
    pub(crate) fn refused(&mut self, id: TxnId) -> Verdict {
        self.learn(id, Fate::Aborted, "its coordinator has refused to commit it")
    }

    fn learn(&mut self, id: TxnId, fate: Fate, why: &str) -> Verdict {
        let Some(transaction) = self.transactions.get_mut(&id) else {
            return Err(format!("{id:?} is {fate:?}, {why}, but nobody ever began it"));
        };
        match (transaction.fate, fate) {
            (Fate::Asked, _) => transaction.fate = fate,
            (known, _) if known == fate => {}
            (known, _) => {
                return Err(format!("{id:?} of '{}' is {fate:?}, {why}, but was {known:?}", transaction.owner));
            }
        }
        Ok(())
    }

    /// By fate: how many.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let count = |fate| self.transactions.values().filter(|t| t.fate == fate).count() as u64;
        (count(Fate::Committed), count(Fate::Aborted))
    }
}

impl Identity {
    fn is_older(&self, (id, epoch): (i64, i16)) -> bool {
        self.epochs.get(&id).is_some_and(|known| epoch < *known)
    }

    /// Whether this producer id is new here.
    fn bump(&mut self, owner: &str, (id, epoch): (i64, i16)) -> Result<bool, String> {
        match self.epochs.insert(id, epoch) {
            Some(known) if epoch <= known => {
                Err(format!("'{owner}': producer {id} has epoch {epoch}, which is not newer than {known}"))
            }
            Some(_) => Ok(false),
            None => Ok(true),
        }
    }
}

/// What readers of committed records are told.
impl TransactionOracle {
    /// A reader was shown this record.
    pub(crate) fn read(&mut self, place: Place, offset: i64, id: RecordId) -> Verdict {
        self.visible.entry(place).or_default().insert(offset, id);
        self.learn(TxnId::of(id), Fate::Committed, &format!("for {place:?} {offset} is visible"))
    }

    /// A reader was told to skip this record.
    pub(crate) fn skipped(&mut self, place: Place, offset: i64, id: RecordId) -> Verdict {
        if let Some(transaction) = self.transactions.get_mut(&TxnId::of(id)).filter(|t| t.fate == Fate::Open) {
            // Its client died, or was too slow: it is too late now to ask for anything else.
            transaction.fate = Fate::Aborted;
        }
        self.learn(TxnId::of(id), Fate::Aborted, &format!("for readers skip {place:?} {offset}"))
    }

    /// The nodes were restarted: readers will be shown everything again.
    pub(crate) fn look_again(&mut self) {
        self.visible.clear();
    }
}

/// Offsets that are committed in transactions.
impl TransactionOracle {
    /// What whoever asks from now on must be told at least.
    pub(crate) fn floor(&self, owner: &str, place: Place) -> i64 {
        let committed = self.transactions.values().filter(|t| t.owner == owner && t.fate == Fate::Committed);
        committed.filter_map(|transaction| transaction.offsets.get(&place)).max().copied().unwrap_or(0)
    }

    /// An instance asked, when the floor was this, and is told that offset (-1: none): it tells how the transactions of
    /// earlier instances have ended.
    pub(crate) fn told_offset(
        &mut self,
        owner: &str,
        grant: Grant,
        (place, floor): (Place, i64),
        offset: i64,
    ) -> Verdict {
        if offset.max(0) < floor {
            return Err(format!("{place:?}: '{owner}' committed {floor}, but {offset} is what the group has"));
        }
        let of_place = |(id, t): (&TxnId, &Transaction)| {
            let committed = t.offsets.get(&place).copied().filter(|_| t.owner == owner)?;
            Some((*id, committed, t.grant, t.fate))
        };
        let all: Vec<_> = self.transactions.iter().filter_map(of_place).collect();
        let same: Vec<_> = all.iter().filter(|(_, o, _, fate)| *o == offset && *fate != Fate::Aborted).collect();
        match same.as_slice() {
            [] if offset >= 0 => return Err(format!("{place:?}: {offset} was not committed by '{owner}'")),
            [(id, ..)] => self.learn(*id, Fate::Committed, &format!("for the group is at {place:?} {offset}"))?,
            [] | [..] => {}
        }
        for (id, _, _, fate) in all.iter().filter(|(_, o, g, _)| *o > offset && *g < grant) {
            if *fate == Fate::Asked {
                self.learn(*id, Fate::Aborted, &format!("for the group is at {place:?} {offset}"))?;
            }
        }
        Ok(())
    }
}

/// When readers of committed records have read everything.
impl TransactionOracle {
    pub(crate) fn judge_whole(&self) -> Verdict {
        let shown: BTreeSet<(Place, RecordId)> =
            self.visible.iter().flat_map(|(place, all)| all.values().map(move |id| (*place, *id))).collect();
        for (id, transaction) in self.transactions.iter().filter(|(_, t)| t.fate == Fate::Committed) {
            if let Some((place, record)) = transaction.records.keys().find(|record| !shown.contains(record)) {
                return Err(format!("{id:?} is committed, but {record:?} of it is not visible in {place:?}"));
            }
        }
        self.judge_copies()
    }

    fn judge_copies(&self) -> Verdict {
        let Some(topic) = self.copied else { return Ok(()) };
        let committed = self.transactions.values().filter(|t| t.fate == Fate::Committed);
        let mut copies: BTreeMap<(Place, i64), u32> = BTreeMap::new();
        for source in committed.flat_map(|t| t.records.values()).filter_map(|record| record.source) {
            *copies.entry(source).or_default() += 1;
        }
        for (place, all) in self.visible.iter().filter(|(place, _)| place.0 == topic) {
            for (offset, id) in all {
                match copies.remove(&(*place, *offset)) {
                    Some(1) => {}
                    count => return Err(format!("{place:?}: {id:?} at {offset} was copied {count:?} times")),
                }
            }
        }
        copies.first_key_value().map_or(Ok(()), |(source, _)| Err(format!("{source:?} was copied and is not there")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = ("t", 0);
    const OTHER: Place = ("t", 1);
    const COPY: Place = ("c", 0);
    const ONE: TxnId = TxnId { client: 1, life: 1 };

    fn record(txn: TxnId, number: u64) -> RecordId {
        RecordId { client: txn.client, life: txn.life, number }
    }

    /// A transaction with a record in two places, and the grant of its producer.
    fn begun() -> (TransactionOracle, Grant) {
        let mut oracle = TransactionOracle::default();
        let (grant, is_new) = oracle.granted("a", None, (7, 0)).unwrap();
        assert!(is_new);
        oracle.begin(ONE, "a", grant);
        oracle.sent(PLACE, record(ONE, 0), None);
        oracle.sent(OTHER, record(ONE, 0), None);
        (oracle, grant)
    }

    fn asked() -> TransactionOracle {
        let (mut oracle, _) = begun();
        oracle.ending(ONE, true);
        oracle
    }

    #[test]
    fn what_is_right_passes() {
        let mut oracle = asked();
        assert_eq!(oracle.ended(ONE, true), Ok(()));
        assert_eq!(oracle.read(PLACE, 0, record(ONE, 0)), Ok(()));
        assert_eq!(oracle.read(OTHER, 4, record(ONE, 0)), Ok(()));
        assert_eq!((oracle.judge_whole(), oracle.totals()), (Ok(()), (1, 0)));
        let mut unknown = asked();
        assert_eq!(unknown.skipped(PLACE, 0, record(ONE, 0)), Ok(()));
        assert_eq!((unknown.judge_whole(), unknown.totals()), (Ok(()), (0, 1)));
    }

    #[test]
    fn a_transaction_has_one_end() {
        let (mut open, _) = begun();
        assert!(open.read(PLACE, 0, record(ONE, 0)).is_err(), "nobody has asked to commit it");
        let (mut aborted, _) = begun();
        aborted.ending(ONE, false);
        assert!(aborted.read(PLACE, 0, record(ONE, 0)).is_err(), "it was aborted");
        let mut skipped = asked();
        assert_eq!(skipped.ended(ONE, true), Ok(()));
        assert!(skipped.skipped(PLACE, 0, record(ONE, 0)).is_err(), "it was committed");
        let mut torn = asked();
        assert_eq!(torn.read(PLACE, 0, record(ONE, 0)), Ok(()));
        assert!(torn.judge_whole().is_err(), "a part of it is missing");
        assert!(torn.skipped(OTHER, 0, record(ONE, 0)).is_err(), "a part of it is aborted");
        let mut refused = asked();
        assert_eq!(refused.refused(ONE), Ok(()));
        assert!(refused.read(PLACE, 0, record(ONE, 0)).is_err());
        assert!(refused.read(PLACE, 0, record(TxnId { life: 2, ..ONE }, 0)).is_err(), "nobody began it");
    }

    #[test]
    fn who_is_fenced_does_nothing_more() {
        let (mut oracle, grant) = begun();
        assert!(oracle.granted("a", None, (7, 0)).is_err(), "the same epoch twice");
        assert!(oracle.granted("a", None, (7, 1)).is_ok_and(|(_, is_new)| !is_new));
        assert!(oracle.granted("a", Some(grant), (7, 2)).is_err(), "it went on");
        oracle.sent(PLACE, record(ONE, 1), None);
        assert_eq!(oracle.taken(PLACE, record(ONE, 0)), Ok(()));
        assert!(oracle.taken(PLACE, record(ONE, 1)).is_err());
        oracle.ending(ONE, true);
        assert!(oracle.ended(ONE, true).is_err());
    }

    #[test]
    fn offsets_and_copies_agree() {
        let (mut oracle, _) = begun();
        oracle.expect_copies("t");
        oracle.ending(ONE, true);
        assert_eq!(oracle.read(PLACE, 0, record(ONE, 0)), Ok(()));
        assert_eq!(oracle.read(OTHER, 0, record(ONE, 0)), Ok(()));
        assert!(oracle.judge_whole().is_err(), "not copied");
        let (grant, _) = oracle.granted("b", None, (8, 0)).unwrap();
        let copy = |life| TxnId { client: 2, life };
        for (life, source) in [(1, PLACE), (2, OTHER), (3, OTHER)] {
            oracle.begin(copy(life), "b", grant);
            oracle.sent(COPY, record(copy(life), 0), Some((source, 0)));
            oracle.offset(copy(life), source, 1);
            oracle.ending(copy(life), true);
        }
        assert!(oracle.told_offset("b", grant, (PLACE, 0), 2).is_err(), "nobody committed that");
        assert_eq!(oracle.told_offset("b", grant, (PLACE, 0), 1), Ok(()));
        assert_eq!(oracle.floor("b", PLACE), 1);
        assert!(oracle.told_offset("b", grant, (PLACE, 1), -1).is_err(), "forgotten");
        let (later, _) = oracle.granted("b", None, (8, 1)).unwrap();
        assert_eq!(oracle.told_offset("b", later, (OTHER, 0), -1), Ok(()));
        assert_eq!(oracle.totals(), (2, 2));
        assert!(oracle.ended(copy(2), true).is_err(), "its offset is not committed");
    }
}
