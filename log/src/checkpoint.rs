//! The checkpoint: every log's bounds as the synced segments hold them. With it, journal files can be freed.
//!
//! Two files are written in turn, so that a torn write harms only the older state. The newest intact one counts; should
//! bit rot take it, the older one is used and the journal tells whether what lies between is still there.
//!
//! Layout: `"WHRYCKPT" | crc32c of the rest | JSON bytes u64 | header numbers | logs`. Numbers are little endian; the
//! list is length-prefixed and every count is bounded by the bytes that follow.

use uuid::Uuid;
use wherry_wire::batch::crc32c;
use wherry_wire::types::{LeaderEpoch, LogId, Offset, ProducerId};

use crate::Lsn;
use crate::io::AlignedBuf;
use crate::partition::{Partition, SegmentExtent, Stable};
use crate::producers::{Producer, SeqBatch};
use crate::transactions::{Aborted, Ended, Lost, Mark, Member, Open, Transactions};

const MAGIC: [u8; 8] = *b"WHRYCKPT";
/// Format that this version writes.
pub const FORMAT: u32 = 2;
/// Oldest format that it reads: 1 knows no transactions.
const OLDEST_FORMAT: u32 = 1;
/// The two files, written in turn.
pub const FILES: [&str; 2] = ["checkpoint-a", "checkpoint-b"];
/// `8 magic | 4 crc | 4 zero | 8 body bytes`.
const HEAD: usize = 24;

/// One log in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The log.
    pub id: LogId,
    /// First offset.
    pub log_start: Offset,
    /// See [`Stable`].
    pub stable: Stable,
    /// Epochs and starts.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// Producers.
    pub producers: Vec<(ProducerId, Producer)>,
    /// Transactions, if there ever were any.
    pub(crate) transactions: Option<Box<Transactions>>,
}

/// A whole checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Data directory.
    pub directory: Uuid,
    /// Counts checkpoints; the higher one is newer.
    pub number: u64,
    /// Everything journaled up to this frame is reflected, but for appends that only the journal keeps.
    pub capture_seq: u64,
    /// Replay begins with this frame.
    pub replay_from: u64,
    /// Logs.
    pub logs: Vec<LogRecord>,
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn i32(&mut self, v: i32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn i64(&mut self, v: i64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn count(&mut self, n: usize) {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }
    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }
    fn offset(&mut self) -> Option<Offset> {
        self.i64().map(Offset)
    }
    /// A list whose elements take at least `min` bytes each: the count can't ask for more memory than there are bytes.
    fn list<T>(&mut self, min: usize, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let n = self.u32()? as usize;
        if n.checked_mul(min)? > self.0.len() {
            return None;
        }
        (0..n).map(|_| one(self)).collect()
    }
}

/// Appends one log.
fn put_log(w: &mut Writer, log: &Partition) {
    w.0.extend_from_slice(log.id.topic.as_bytes());
    w.i32(log.id.partition);
    w.i64(log.log_start.0);
    w.i64(log.stable.end.0);
    w.u64(log.stable.lsn.0);
    w.count(log.stable.segments.len());
    for s in &log.stable.segments {
        w.i64(s.base.0);
        w.u32(s.version);
        w.u64(s.bytes);
        w.i64(s.end.0);
        w.i64(s.max_timestamp);
        w.i64(s.created_ms);
        w.u32(u32::from(s.compacted));
        w.i64(s.open_from.0);
    }
    w.count(log.epochs.entries().len());
    for (epoch, start) in log.epochs.entries() {
        w.i32(epoch.0);
        w.i64(start.0);
    }
    w.count(log.producers.len());
    for (id, producer) in log.producers.iter() {
        w.i64(id.0);
        w.i32(i32::from(producer.epoch));
        w.i64(producer.last_ms);
        w.count(producer.batches.len());
        for b in &producer.batches {
            w.i32(b.first_seq);
            w.i32(b.last_seq);
            w.i64(b.base.0);
            w.i64(b.last.0);
        }
    }
    put_transactions(w, log.transactions.as_deref());
}

fn put_transactions(w: &mut Writer, transactions: Option<&Transactions>) {
    w.u32(u32::from(transactions.is_some()));
    let Some(t) = transactions else { return };
    w.i64(t.known_from.0);
    w.u32(u32::from(t.lost.is_some()));
    if let Some(Lost { from, end }) = t.lost {
        w.i64(from.0);
        w.i64(end.0);
    }
    w.count(t.members.len());
    for (id, member) in &t.members {
        w.i64(*id);
        put_mark(w, member.mark);
        put_open(w, member.open);
        w.i64(member.last_ms);
    }
    w.count(t.ended.len());
    for ended in &t.ended {
        w.i64(ended.at.0);
        w.i64(ended.producer);
        put_mark(w, ended.before);
        put_open(w, ended.open);
    }
    w.count(t.lows.len());
    for (at, first) in &t.lows {
        w.i64(at.0);
        w.i64(first.0);
    }
    w.count(t.aborted.len());
    for aborted in &t.aborted {
        w.i64(aborted.producer_id);
        w.i64(aborted.first.0);
        w.i64(aborted.last.0);
        w.i64(aborted.stable.0);
    }
}

fn put_mark(w: &mut Writer, mark: Mark) {
    w.i64(mark.at.0);
    w.i32(i32::from(mark.epoch));
    w.i32(mark.coordinator_epoch);
}

/// No transaction begins at -1.
fn put_open(w: &mut Writer, open: Option<Open>) {
    w.i64(open.map_or(-1, |open| open.first.0));
    w.i32(open.map_or(-1, |open| i32::from(open.epoch)));
}

fn read_mark(r: &mut Reader<'_>) -> Option<Mark> {
    Some(Mark { at: r.offset()?, epoch: i16::try_from(r.i32()?).ok()?, coordinator_epoch: r.i32()? })
}

#[expect(clippy::option_option, reason = "none is a value here")]
fn read_open(r: &mut Reader<'_>) -> Option<Option<Open>> {
    let open = Open { first: r.offset()?, epoch: i16::try_from(r.i32()?).ok()? };
    Some((open.first >= Offset::ZERO).then_some(open))
}

#[expect(clippy::option_option, reason = "none is a value here")]
fn read_transactions(r: &mut Reader<'_>) -> Option<Option<Box<Transactions>>> {
    if r.u32()? == 0 {
        return Some(None);
    }
    let known_from = r.offset()?;
    let lost = match r.u32()? {
        0 => None,
        _ => Some(Lost { from: r.offset()?, end: r.offset()? }),
    };
    let members = r.list(44, |r| {
        let id = r.i64()?;
        Some((id, Member { mark: read_mark(r)?, open: read_open(r)?, last_ms: r.i64()? }))
    })?;
    let ended = r.list(44, |r| {
        let (at, producer) = (r.offset()?, r.i64()?);
        Some(Ended { at, producer, before: read_mark(r)?, open: read_open(r)? })
    })?;
    let lows = r.list(16, |r| Some((r.offset()?, r.offset()?)))?;
    let aborted = r.list(32, |r| {
        Some(Aborted { producer_id: r.i64()?, first: r.offset()?, last: r.offset()?, stable: r.offset()? })
    })?;
    let mut transactions = Transactions {
        members: members.into_iter().collect(),
        ended: ended.into(),
        lows: lows.into(),
        aborted: aborted.into(),
        known_from,
        lost,
        ..Transactions::default()
    };
    transactions.index_open();
    Some(Some(Box::new(transactions)))
}

fn read_producer(r: &mut Reader<'_>) -> Option<(ProducerId, Producer)> {
    let id = ProducerId(r.i64()?);
    let epoch = i16::try_from(r.i32()?).ok()?;
    let last_ms = r.i64()?;
    let batches = r.list(24, |r| {
        // What a checkpoint holds is durable: a retry of it need not wait for any frame.
        Some(SeqBatch { first_seq: r.i32()?, last_seq: r.i32()?, base: r.offset()?, last: r.offset()?, frame: 0 })
    })?;
    Some((id, Producer { epoch, last_ms, batches }))
}

fn read_log(r: &mut Reader<'_>, format: u32) -> Option<LogRecord> {
    let topic = Uuid::from_bytes(r.take()?);
    let id = LogId { topic, partition: r.i32()? };
    let log_start = r.offset()?;
    let end = r.offset()?;
    let lsn = Lsn(r.u64()?);
    let segments = r.list(48, |r| {
        let base = r.offset()?;
        Some(SegmentExtent {
            base,
            version: r.u32()?,
            bytes: r.u64()?,
            end: r.offset()?,
            max_timestamp: r.i64()?,
            created_ms: r.i64()?,
            compacted: r.u32()? != 0,
            open_from: if format > OLDEST_FORMAT { r.offset()? } else { base },
        })
    })?;
    let epochs = r.list(12, |r| Some((LeaderEpoch(r.i32()?), r.offset()?)))?;
    let producers = r.list(24, read_producer)?;
    let transactions = if format > OLDEST_FORMAT { read_transactions(r)? } else { None };
    Some(LogRecord { id, log_start, stable: Stable { end, lsn, segments }, epochs, producers, transactions })
}

/// Encodes a checkpoint of these logs, ready to be written at position 0.
pub fn encode<'a>(
    directory: Uuid,
    number: u64,
    capture_seq: u64,
    replay_from: u64,
    logs: impl ExactSizeIterator<Item = &'a Partition>,
) -> AlignedBuf {
    let mut w = Writer(Vec::with_capacity(64 + logs.len() * 128));
    w.u32(FORMAT);
    w.0.extend_from_slice(directory.as_bytes());
    w.u64(number);
    w.u64(capture_seq);
    w.u64(replay_from);
    w.count(logs.len());
    for log in logs {
        put_log(&mut w, log);
    }
    let mut buf = AlignedBuf::zeroed(HEAD + w.0.len());
    crate::bytes_at::put(&mut buf, 0, &MAGIC);
    crate::bytes_at::put(&mut buf, 16, &(w.0.len() as u64).to_le_bytes());
    crate::bytes_at::put(&mut buf, HEAD, &w.0);
    let crc = crc32c(buf.get(16..HEAD + w.0.len()).unwrap_or_default());
    crate::bytes_at::put(&mut buf, 8, &crc.to_le_bytes());
    buf
}

/// Decodes a checkpoint file. `None`: torn, damaged, empty or foreign.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Checkpoint> {
    let mut head = Reader(bytes);
    if head.take::<8>()? != MAGIC {
        return None;
    }
    let crc = head.u32()?;
    head.u32()?;
    let len = usize::try_from(head.u64()?).ok()?;
    let end = HEAD.checked_add(len)?;
    if crc32c(bytes.get(16..end)?) != crc {
        return None;
    }
    let mut r = Reader(bytes.get(HEAD..end)?);
    let format = r.u32()?;
    if !(OLDEST_FORMAT..=FORMAT).contains(&format) {
        return None;
    }
    let directory = Uuid::from_bytes(r.take()?);
    let (number, capture_seq, replay_from) = (r.u64()?, r.u64()?, r.u64()?);
    let logs = r.list(56, |r| read_log(r, format))?;
    r.0.is_empty().then_some(Checkpoint { directory, number, capture_seq, replay_from, logs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogConfig;
    use crate::transactions::Step;
    use wherry_wire::records::EndMarker;

    fn sample() -> Partition {
        let id = LogId { topic: Uuid::from_u128(3), partition: 4 };
        let mut p = Partition::new(id, LogConfig::default(), Offset(5), Lsn(9));
        p.stable.end = Offset(50);
        p.stable.segments.push(SegmentExtent {
            base: Offset(5),
            version: 1,
            bytes: 8192,
            end: Offset(50),
            max_timestamp: 77,
            created_ms: 66,
            compacted: true,
            open_from: Offset(3),
        });
        p.epochs.appended(LeaderEpoch(2), Offset(5));
        let batches = vec![SeqBatch { first_seq: 0, last_seq: 4, base: Offset(5), last: Offset(9), frame: 0 }];
        p.producers.restore(ProducerId(8), Producer { epoch: 1, last_ms: 5, batches });
        let mut t = Transactions::default();
        for (producer, first) in [(8, 10), (9, 12), (11, 14)] {
            t.apply(Step::Data { producer, epoch: 1, first: Offset(first) }, 5);
        }
        for (producer_id, commit, at) in [(8, true, 20), (9, false, 21)] {
            let marker = EndMarker { producer_id, producer_epoch: 2, coordinator_epoch: 3, commit };
            t.apply(Step::End { marker, at: Offset(at) }, 6);
        }
        p.transactions = Some(Box::new(t));
        p
    }

    #[test]
    fn round_trip() {
        let p = sample();
        let buf = encode(Uuid::from_u128(1), 2, 30, 20, std::iter::once(&p));
        let c = decode(&buf).unwrap();
        assert_eq!((c.number, c.capture_seq, c.replay_from), (2, 30, 20));
        let log = &c.logs[0];
        assert_eq!((log.id, log.log_start, &log.stable), (p.id, p.log_start, &p.stable));
        assert_eq!(log.epochs, p.epochs.entries());
        assert_eq!(log.transactions, p.transactions);
        assert_eq!(log.producers, p.producers.iter().map(|(i, p)| (i, p.clone())).collect::<Vec<_>>());
    }

    /// As a version without transactions wrote it.
    #[test]
    fn the_format_before_is_read() {
        let mut p = sample();
        (p.transactions, p.stable.segments) = (None, Vec::new());
        let mut buf = encode(Uuid::from_u128(1), 2, 30, 20, std::iter::once(&p));
        let body = u64::from_le_bytes(buf[16..24].try_into().unwrap()) - 4;
        buf[16..24].copy_from_slice(&body.to_le_bytes());
        buf[HEAD..HEAD + 4].copy_from_slice(&1u32.to_le_bytes());
        let crc = crc32c(&buf[16..HEAD + usize::try_from(body).unwrap()]);
        buf[8..12].copy_from_slice(&crc.to_le_bytes());
        let c = decode(&buf).unwrap();
        assert_eq!((c.logs[0].id, c.logs[0].epochs.len(), c.logs[0].producers.len()), (p.id, 1, 1));
        assert_eq!(c.logs[0].transactions, None);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let p = sample();
        let buf = encode(Uuid::from_u128(1), 2, 30, 20, std::iter::once(&p));
        let used = HEAD + usize::try_from(u64::from_le_bytes(buf[16..24].try_into().unwrap())).unwrap();
        let whole = decode(&buf).unwrap();
        for at in (0..used).filter(|at| !(12..16).contains(at)) {
            let mut bad = buf[..].to_vec();
            bad[at] ^= 0x10;
            assert_eq!(decode(&bad), None, "byte {at}");
        }
        for len in 0..used {
            assert_eq!(decode(&buf[..len]), None, "cut at {len}");
        }
        assert_eq!(decode(&buf[..used]), Some(whole));
    }
}
