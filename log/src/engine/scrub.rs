//! The scrub: what rests in segments is read again from time to time and its checksums verified, whether or not anybody asks
//! for it, so that damage shows while there are other copies to repair it from. Slow on purpose, one window at a time.
//!
//! ```text
//! pass: log after log, segment after segment ── a window ──> intact: go on, at the pace that is allowed
//!                                                   └──────> suspicious: an ordinary read of that place decides
//! ```
//! It walks over a file as it lies there and keeps nothing in memory, and so it also sees what was cut off or deleted and
//! counts no more. That is why damage is left to a read to find: what no reader would see is none, what one would see gets
//! the log marked, as if a client had found it. What recent batches in memory have is looked at when it has left them.

use bytes::Bytes;
use wherry_wire::types::Offset;

use super::Engine;
use super::ops::Pending;
use super::read::{Own, ReadUpTo, Served, Want};
use crate::config::{SCRUB_FIRST_MS, SCRUB_PAUSE_MS};
use crate::error::LogError;
use crate::files::Access;
use crate::io::{Disk, DiskError, Done, round_up};
use crate::partition::Partition;
use crate::segment::{Segment, SegmentKey, chunk};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// Where a pass is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    log: usize,
    /// Segments that begin below have been looked at.
    from: Offset,
    /// The segment that is being read, if one is.
    key: Option<SegmentKey>,
    /// How far, in bytes.
    position: u64,
    /// Where the last chunk ended.
    next: Offset,
    /// Bytes to read next: grows where a chunk is larger than usual.
    want: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    /// Monotonic time of the next step, nanoseconds; none before the engine's first turn.
    next_ns: Option<u64>,
    began_ns: u64,
    place: Place,
    on_its_way: bool,
}

impl Scrub {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.next_ns.filter(|at| !self.on_its_way && *at != u64::MAX)
    }
}

/// How a window ended.
enum Seen {
    /// There is more of this segment.
    Part,
    /// The segment is done with.
    Whole,
    /// Something is not as it was written, at this offset or behind it; where the next chunk is can't be told.
    Suspicious(Offset),
}

impl<D: Disk> Engine<D> {
    /// The next window, if it is time.
    pub(super) fn scrub(&mut self) {
        let now_ns = self.now.monotonic_ns;
        let Some(at_ns) = self.scrub.next_ns else { return self.plan_first_pass() };
        if self.scrub.on_its_way || now_ns < at_ns || self.journal.failed().is_some() {
            return;
        }
        if self.reads.is_read_by(Own::Scrub) {
            return self.scrub_on_at(now_ns + SCRUB_PAUSE_MS * NS_PER_MS);
        }
        match self.next_target() {
            Some((key, bytes)) => self.read_window(key, bytes),
            None => self.end_pass(),
        }
    }

    fn plan_first_pass(&mut self) {
        let first_ms = self.config.scrub_every_ms.min(SCRUB_FIRST_MS);
        let is_off = self.config.scrub_bytes_per_s == 0;
        let first_ns = self.now.monotonic_ns.saturating_add(first_ms.saturating_mul(NS_PER_MS));
        self.scrub.began_ns = first_ns;
        self.scrub.next_ns = Some(if is_off { u64::MAX } else { first_ns });
    }

    fn end_pass(&mut self) {
        let scrub = &mut self.scrub;
        let now_ns = self.now.monotonic_ns;
        let every_ns = self.config.scrub_every_ms.saturating_mul(NS_PER_MS);
        let next_ns = scrub.began_ns.saturating_add(every_ns).max(now_ns + SCRUB_PAUSE_MS * NS_PER_MS);
        (scrub.place, scrub.began_ns, scrub.next_ns) = (Place::default(), next_ns, Some(next_ns));
        self.stats.scrub_passes += 1;
    }

    fn scrub_on_at(&mut self, at_ns: u64) {
        self.scrub.next_ns = Some(at_ns);
    }

    /// The segment to read from now, and its size; none when all have been looked at.
    fn next_target(&mut self) -> Option<(SegmentKey, u64)> {
        let place = &mut self.scrub.place;
        for log in place.log..self.logs.capacity() {
            let from = if log == place.log { place.from } else { Offset::ZERO };
            let found = self.logs.get(log).and_then(|found| Some((found.id, cold_segment(found, from)?)));
            let Some((id, segment)) = found else { continue };
            let key = segment.key(id);
            if place.key != Some(key) {
                let want = self.config.read_bytes;
                *place = Place { log, from: segment.base, key: Some(key), position: 0, next: segment.base, want };
            }
            return Some((key, segment.bytes));
        }
        None
    }

    fn read_window(&mut self, key: SegmentKey, bytes: u64) {
        let place = self.scrub.place;
        let rest = usize::try_from(bytes.saturating_sub(place.position)).unwrap_or(usize::MAX);
        let (offset, len) = (place.position, round_up(place.want.min(rest)));
        let takes_ns = (len as u64).saturating_mul(NS_PER_S) / self.config.scrub_bytes_per_s.max(1);
        self.scrub_on_at(self.now.monotonic_ns + takes_ns.max(SCRUB_PAUSE_MS * NS_PER_MS));
        self.scrub.on_its_way = true;
        let token = self.ops.add(Pending::ScrubRead { key });
        self.files.submit(&mut self.disk, &mut self.ops, key, false, token, Access::Read { offset, len });
    }

    /// A window has come.
    pub(super) fn scrub_read(&mut self, key: SegmentKey, result: Result<Done, DiskError>) {
        self.scrub.on_its_way = false;
        self.files.released(&mut self.disk, &mut self.ops, key);
        // Retention, compaction or a truncation may have taken the segment meanwhile.
        let Some(bytes) = self.segment_bytes(self.scrub.place.log, key) else { return };
        let data = match result {
            Ok(Done::Read(data)) => data,
            Ok(_) => Bytes::new(),
            Err(error) => {
                tracing::warn!(path = %key.path().display(), %error, "a segment can't be read to verify it");
                Bytes::new()
            }
        };
        match self.look_at_window(key, &data, bytes) {
            Seen::Part => {}
            Seen::Whole => self.segment_done(),
            Seen::Suspicious(from) => {
                self.look_closer(key, from);
                self.segment_done();
            }
        }
    }

    fn segment_done(&mut self) {
        let place = &mut self.scrub.place;
        place.from = Offset(place.from.0.saturating_add(1));
        place.key = None;
    }

    /// Verifies the whole chunks of a window.
    fn look_at_window(&mut self, key: SegmentKey, data: &Bytes, bytes: u64) -> Seen {
        let mut place = self.scrub.place;
        let start = place.position;
        let in_memory = self.logs.get(place.log).map_or(Offset::ZERO, Partition::tail_start);
        let mut suspicious = Vec::new();
        while place.position < bytes {
            let at = usize::try_from(place.position - start).unwrap_or(usize::MAX);
            let rest = data.slice(at.min(data.len())..);
            if rest.is_empty() && at > 0 {
                break;
            }
            let header = chunk::read_header(&rest, key.log, place.position);
            let Some(found) = header.filter(|found| place.position + found.file_len() as u64 <= bytes) else {
                return Seen::Suspicious(place.next);
            };
            if found.next > in_memory {
                // What follows in this segment, and in the next ones, is read from memory.
                return Seen::Whole;
            }
            if found.file_len() > rest.len() {
                if at > 0 {
                    break;
                }
                if place.want >= found.file_len() {
                    return Seen::Suspicious(found.base);
                }
                place.want = found.file_len();
                self.scrub.place = place;
                return Seen::Part;
            }
            if chunk::verify(&rest.slice(..found.file_len()), key.log, place.position).is_err() {
                suspicious.push(found.base);
            }
            self.stats.scrubbed_bytes += found.file_len() as u64;
            place.position += found.file_len() as u64;
            (place.next, place.want) = (found.next, self.config.read_bytes);
        }
        self.scrub.place = place;
        suspicious.into_iter().for_each(|from| self.look_closer(key, from));
        if place.position >= bytes { Seen::Whole } else { Seen::Part }
    }

    /// Reads as a client would, from the disk: if there is damage, that marks the log.
    fn look_closer(&mut self, key: SegmentKey, from: Offset) {
        let log = self.scrub.place.log;
        let Some(start) = self.logs.get(log).filter(|l| l.id == key.log).map(|l| l.log_start) else { return };
        self.reads.forget_file(key);
        let want = Want::Batches { from: from.max(start), upto: ReadUpTo::Sealed, max_bytes: 1, min_one: true };
        self.begin_own_read(log, key.log, want, Own::Scrub);
    }

    /// The answer to what `look_closer` asked.
    pub(super) fn looked_closer(&mut self, result: &Result<Served, LogError>) {
        // Anything else is nothing that counts: it was cut off, deleted, or is gone by now.
        if let Err(LogError::Corrupt(_) | LogError::ReadFailed(_)) = result {
            self.stats.scrub_damage += 1;
        }
    }
}

/// The first segment that begins at or above `from`, with something that counts and is read from disk.
fn cold_segment(log: &Partition, from: Offset) -> Option<&Segment> {
    if log.corrupt.is_some() {
        return None;
    }
    let is_cold = |segment: &&Segment| {
        let counts = segment.bytes > 0 && segment.end > log.log_start && !segment.missing;
        counts && segment.base >= from && segment.base < log.tail_start()
    };
    log.segments.iter().find(is_cold)
}
