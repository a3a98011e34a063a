//! The spool on disk: two logs of the log engine in one directory, the messages that wait and those in quarantine.
//!
//! The start of the first log is the place up to which everything was forwarded: it is journaled, so that it is as durable as the
//! messages. The engine's disk works on threads of its own; nothing here blocks but [`open`] and [`Store::close`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;
use wherry_client::ProduceRecord;
use wherry_log::io::{DirectIo, Hold, ThreadDisk, ThreadDiskConfig};
use wherry_log::{Engine, EngineConfig, Event, LogConfig, LogError, Now, Read, ReadToken, ReadUpTo, Served, Ticket};
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

use super::entry::{self, Entry};
use crate::limits;

/// Messages that wait.
const WAITING: LogId = LogId { topic: Uuid::from_u128(1), partition: 0 };
/// Messages that the cluster refused for good.
const QUARANTINE: LogId = LogId { topic: Uuid::from_u128(2), partition: 0 };

const MIB: u64 = 1 << 20;
/// Fewest that the engine works with.
const JOURNAL_FILES: usize = 3;
/// Part of the disk that the quarantine may take.
const QUARANTINE_PART: u64 = 8;
/// A log's space comes back in pieces of this part of it.
const SEGMENT_PART: u64 = 4;
/// A log with this many bytes outside its segments is written to them: the largest write but for a single message.
const FLUSH_BYTES: usize = 512 << 10;
/// Space that the engine takes ahead in a segment's file: so many times its largest write, or this part of the file.
const AHEAD: u64 = 4;
/// Chunks are at most one part in so many larger than what is in them.
const CHUNK_OVERHEAD: u64 = 16;
const _: () = assert!(limits::SPOOL_BYTES_MIN / QUARANTINE_PART >= 2 * MIB);

/// How the disk is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    journal_file: u64,
    quarantine: u64,
    /// For messages that wait.
    pub(super) usable: u64,
}

impl Sizes {
    fn journal_file(message_bytes: usize) -> u64 {
        // A batch must fit a file, with what a message may be larger in it.
        (message_bytes as u64 + message_bytes as u64 / 4 + MIB).div_ceil(MIB) * MIB
    }

    /// Fewest bytes that work.
    pub(super) fn least(message_bytes: usize) -> u64 {
        let journal = Self::journal_file(message_bytes) * JOURNAL_FILES as u64;
        limits::SPOOL_BYTES_MIN.max((journal + 32 * message_bytes as u64) * QUARANTINE_PART / (QUARANTINE_PART - 1))
    }

    fn segment(bytes: u64) -> u64 {
        (bytes / SEGMENT_PART).clamp(MIB, 64 * MIB)
    }

    fn of(bytes: u64, message_bytes: usize) -> Self {
        let (journal_file, quarantine) = (Self::journal_file(message_bytes), bytes / QUARANTINE_PART);
        Self { journal_file, quarantine, usable: bytes - quarantine - journal_file * JOURNAL_FILES as u64 }
    }
}

fn engine_config(sizes: Sizes, message_bytes: usize) -> EngineConfig {
    let group_bytes = 256 << 10;
    EngineConfig {
        journal_file_bytes: sizes.journal_file,
        journal_files: JOURNAL_FILES,
        group_bytes,
        tail_bytes: (4 * group_bytes).max(3 * message_bytes),
        flush_bytes: FLUSH_BYTES,
        chunk_bytes: 128 << 10,
        read_cache_bytes: 512 << 10,
        read_bytes: 256 << 10,
        open_files: 16,
        reserve_bytes: limits::SPOOL_RESERVE_BYTES,
        scrub_bytes_per_s: 0,
        ..EngineConfig::default()
    }
}

/// What opening gives; it may move between threads.
pub(super) struct Opened {
    engine: Engine<ThreadDisk>,
    wake: Arc<OwnedFd>,
    sizes: Sizes,
    since: Instant,
    largest: u64,
}

/// Takes the lock of a directory and reads back what is in it. Blocks.
///
/// # Errors
/// A sentence: in use, damaged, or not to be made.
pub(super) fn open(directory: &Path, bytes: u64, message_bytes: usize) -> Result<Opened, String> {
    let sizes = Sizes::of(bytes, message_bytes);
    let config = ThreadDiskConfig { workers: 1, direct: DirectIo::Auto, hold: Hold::Exclusive };
    let disk = ThreadDisk::open(directory, &config).map_err(|error| error.to_string())?;
    let (wake, since) = (disk.wake_fd(), Instant::now());
    let opened = Engine::open(disk, engine_config(sizes, message_bytes), now(since), Uuid::new_v4());
    let (mut engine, report) = opened.map_err(|error| error.to_string())?;
    if let Some(damage) = report.damaged.first() {
        return Err(format!("it is damaged: {damage}"));
    }
    let waiting = LogConfig { segment_bytes: Sizes::segment(sizes.usable), ..LogConfig::keep_everything() };
    let quarantine = LogConfig {
        segment_bytes: Sizes::segment(sizes.quarantine),
        // The last segment is never cut, and each takes space ahead.
        retention_bytes: i64::try_from(sizes.quarantine / 4).unwrap_or(i64::MAX),
        ..LogConfig::keep_everything()
    };
    for (id, log) in [(WAITING, waiting), (QUARANTINE, quarantine)] {
        let made = if engine.info(id).is_some() {
            engine.configure(id, log).map(|()| engine.durable())
        } else {
            engine.create_log(id, log)
        };
        let made = made.map_err(|error| error.to_string())?;
        while engine.durable() < made {
            engine.turn(now(since));
            if let Some(why) = engine.events().find_map(failure) {
                return Err(why);
            }
            engine.wait_some();
        }
    }
    let largest = largest_write(directory, engine.info(WAITING).map_or(0, |log| log.size_bytes));
    Ok(Opened { engine, wake, sizes, since, largest })
}

/// What the engine took ahead for an earlier sidecar, as if each write had been so large.
fn largest_write(directory: &Path, known_bytes: u64) -> u64 {
    let segments = std::fs::read_dir(directory.join("segments")).into_iter().flatten().flatten();
    let lengths: Vec<u64> = segments.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
    let ahead = lengths.iter().sum::<u64>().saturating_sub(known_bytes);
    ahead / AHEAD / (lengths.len() as u64).max(1)
}

/// Why nothing more can be appended, if that is what an event says.
fn failure(event: Event) -> Option<String> {
    match event {
        Event::Failed(why) => Some(why),
        Event::LogFailed(id, corruption) if id == WAITING => Some(corruption.to_string()),
        Event::LogFailed(..)
        | Event::Durable(_)
        | Event::Advanced(_)
        | Event::Sealed(_)
        | Event::ReadDone(..)
        | Event::LookupDone(..)
        | Event::Room
        | Event::Full(_)
        | Event::StartMoved(..)
        | Event::StableMoved(_) => None,
    }
}

fn now(since: Instant) -> Now {
    Now { monotonic_ns: u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX), wall_ms: wall_ms() }
}

pub(super) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What happened on the disk.
#[derive(Debug)]
pub(super) enum Happened {
    /// All up to this ticket is on stable storage.
    Durable(Ticket),
    /// Messages that were asked for.
    Read(Result<Vec<Entry>, ReadError>),
    /// What was refused as busy may be tried again.
    Room,
    /// The quarantine lost its oldest messages.
    QuarantineCut,
    /// Nothing more can be appended.
    Failed(String),
}

/// Why messages could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Try again later.
    Later(String),
    /// They will never be readable.
    Never(String),
}

/// The bounds of what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// All before it was forwarded.
    pub(super) start: i64,
    pub(super) durable_end: i64,
    pub(super) end: i64,
    pub(super) bytes: u64,
}

/// An open spool directory.
pub(super) struct Store {
    engine: Engine<ThreadDisk>,
    wake: AsyncFd<Arc<OwnedFd>>,
    sizes: Sizes,
    since: Instant,
    /// Largest write to a segment that is known.
    largest: u64,
    reading: Option<ReadToken>,
}

impl Store {
    /// Must be called in a runtime.
    #[expect(
        deprecated,
        reason = "sound here: the descriptor is owned and stays the same; the form that replaces it is unsafe, which is not allowed in this room"
    )]
    pub(super) fn new(opened: Opened) -> io::Result<Self> {
        let Opened { engine, wake, sizes, since, largest } = opened;
        let wake = AsyncFd::with_interest(wake, Interest::READABLE)?;
        let largest = largest.max(FLUSH_BYTES as u64);
        Ok(Self { engine, wake, sizes, since, largest, reading: None })
    }

    /// Names this directory.
    pub(super) fn id(&self) -> Uuid {
        self.engine.directory()
    }

    /// Bytes of messages that still fit.
    pub(super) fn room(&self) -> u64 {
        let Some(log) = self.engine.info(WAITING) else { return 0 };
        let chunks = log.size_bytes + log.size_bytes / CHUNK_OVERHEAD;
        // The next segment may begin any time.
        let segments = log.segments as u64 + 1;
        let ahead = segments * (AHEAD * self.largest).max(Sizes::segment(self.sizes.usable) / AHEAD);
        self.sizes.usable.saturating_sub(chunks + ahead)
    }

    /// Bytes for messages that wait.
    pub(super) fn usable(&self) -> u64 {
        self.sizes.usable
    }

    pub(super) fn bounds(&self) -> Bounds {
        let none = Bounds { start: 0, durable_end: 0, end: 0, bytes: 0 };
        self.engine.info(WAITING).map_or(none, |log| Bounds {
            start: log.log_start.0,
            durable_end: log.durable_end.0,
            end: log.log_end.0,
            bytes: log.size_bytes,
        })
    }

    /// Messages and bytes in quarantine.
    pub(super) fn quarantined(&self) -> (u64, u64) {
        self.engine.info(QUARANTINE).map_or((0, 0), |log| (log.log_end.since(log.log_start), log.size_bytes))
    }

    /// Appends messages; they are safe when the ticket is durable.
    ///
    /// # Errors
    /// Nothing was appended.
    pub(super) fn append<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a ProduceRecord>,
    ) -> Result<Ticket, LogError> {
        self.put(WAITING, records, None)
    }

    /// Puts a message that was refused aside.
    ///
    /// # Errors
    /// It was not.
    pub(super) fn quarantine(&mut self, record: &ProduceRecord, cause: &str) -> Result<Ticket, LogError> {
        self.put(QUARANTINE, [record], Some(cause))
    }

    fn put<'a>(
        &mut self,
        log: LogId,
        records: impl IntoIterator<Item = &'a ProduceRecord>,
        cause: Option<&str>,
    ) -> Result<Ticket, LogError> {
        let now_ms = wall_ms();
        let batch = entry::encode(records, now_ms, cause).map_err(|what| LogError::Rejected { log, what })?;
        self.largest = self.largest.max(batch.len() as u64);
        self.engine.append(log, &[batch], LeaderEpoch(0), now_ms).map(|appended| appended.ticket)
    }

    /// Everything before `offset` was forwarded; safe when the ticket is durable.
    ///
    /// # Errors
    /// It is not noted.
    pub(super) fn forwarded(&mut self, offset: i64) -> Result<Ticket, LogError> {
        let begins_anew = self.engine.info(WAITING).is_some_and(|log| log.log_end.0 == offset && log.segments > 0);
        if begins_anew {
            // Nothing waits: the space of all of it comes back.
            return self.engine.restart_log_at(WAITING, Offset(offset));
        }
        self.engine.delete_records(WAITING, Offset(offset))
    }

    /// Asks for the messages from `offset` on, about so many bytes of them; [`Happened::Read`] brings them. One read at a time.
    pub(super) fn read(&mut self, offset: i64, bytes: usize) -> Option<Happened> {
        let upto = ReadUpTo::Offset(Offset(self.bounds().durable_end));
        match self.engine.read(WAITING, Offset(offset), upto, bytes, true) {
            Ok(Read::Ready(served)) => Some(Happened::Read(entries(&served, offset))),
            Ok(Read::Pending(token)) => {
                self.reading = Some(token);
                None
            }
            Err(error) => Some(Happened::Read(Err(read_error(&error)))),
        }
    }

    /// Starts what may start, and tells what has happened. `from`: where the read began that is under way.
    pub(super) fn turn(&mut self, from: i64) -> Vec<Happened> {
        self.engine.turn(now(self.since));
        let reading = &mut self.reading;
        let told = self.engine.events().filter_map(|event| match event {
            Event::Durable(ticket) => Some(Happened::Durable(ticket)),
            Event::ReadDone(token, result) if reading.take_if(|known| *known == token).is_some() => Some(
                Happened::Read(result.map_err(|error| read_error(&error)).and_then(|served| entries(&served, from))),
            ),
            Event::Room => Some(Happened::Room),
            Event::StartMoved(QUARANTINE, _) => Some(Happened::QuarantineCut),
            other => failure(other).map(Happened::Failed),
        });
        told.collect()
    }

    /// Waits until [`Store::turn`] has something to do.
    pub(super) async fn woken(&self) {
        let deadline = self.engine.next_deadline().map(|ns| self.since + Duration::from_nanos(ns));
        let completed = async {
            match self.wake.readable().await {
                // Before what completed is taken: what completes from here on is noticed again.
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => tracing::error!(%error, "the spool's disk can't be watched"),
            }
        };
        match deadline {
            Some(at) => drop(tokio::time::timeout_at(at.into(), completed).await),
            None => completed.await,
        }
    }

    /// Writes everything out, so that the next start has nothing to replay. Blocks.
    pub(super) fn close(mut self) {
        if let Err(error) = self.engine.close(now(self.since)) {
            tracing::warn!(%error, "the spool was not closed in good order; nothing that was answered is lost");
        }
    }
}

fn read_error(error: &LogError) -> ReadError {
    match error {
        LogError::Corrupt(_) | LogError::NoSuchLog(_) | LogError::OutOfRange { .. } => {
            ReadError::Never(error.to_string())
        }
        _ => ReadError::Later(error.to_string()),
    }
}

/// The messages from `offset` on: a batch may begin before.
fn entries(served: &Served, offset: i64) -> Result<Vec<Entry>, ReadError> {
    let decoded: Result<Vec<Vec<Entry>>, String> =
        served.batches.iter().map(|bytes: &Bytes| entry::decode(bytes)).collect();
    let entries = decoded.map_err(ReadError::Never)?.into_iter().flatten();
    Ok(entries.filter(|entry| entry.offset >= offset).collect())
}
