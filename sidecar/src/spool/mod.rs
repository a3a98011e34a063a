//! Publishing while the cluster is away: a bounded, durable queue on this pod's disk, on the same log engine as the nodes.
//!
//! ```text
//!            answered in time                    [route]     the circuit, pure
//!   offers ──────────────────> cluster           [window]    what is being forwarded, pure
//!      └── away, or not empty ─> spool ─ in order ─> cluster [entry]     a message at rest
//!                                   └─ refused ─> quarantine [store]     the log engine behind it
//!                                                            [driver]    one task that owns all of it
//! ```
//! What is promised:
//! - A message is either sent or spooled, never both: what may have reached the cluster is left to the producer, whose retries
//!   do not duplicate, and keeps its place before whatever is spooled.
//! - Messages of one partition keep their order, whichever way they go. The partition is chosen when they are sent.
//! - `spooled` is answered when the message is on stable storage here (INV-1). It is forwarded by this sidecar or by the next one
//!   that is given the same directory.
//! - The place up to which messages were forwarded is durable; after a crash those are sent again that were forwarded and whose
//!   place was not durable yet. Every forwarded message has a `wherry-message-id`, its own or one that names its place in this
//!   spool, so that topics with a dedupe window take it once.
//! - What the cluster refuses for good goes to the quarantine with its cause, and what is behind it goes on. The quarantine is
//!   bounded: at the bound its oldest messages go, counted and logged.
//! - A spool that fails closes itself: publishing goes on without it, and what it holds is forwarded as far as it can be read.
//!
//! It must not know what the application sees; `publish::outlet` hands messages in.

mod direct;
mod driver;
mod entry;
mod forward;
mod route;
pub mod stats;
mod store;
#[cfg(test)]
mod tests;
mod window;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Code;
use wherry_client::{ProduceRecord, RecordMetadata};

use crate::backend::{Backend, Taken};
use crate::error::Failure;
use crate::limits;
use crate::stats::Stats;
use store::Store;

/// Where the spool is, and how it behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Its directory; one sidecar at a time.
    pub directory: PathBuf,
    /// Disk that it may take, in bytes: messages, journal and quarantine together.
    pub bytes: u64,
    /// A message without an answer of the cluster for so long opens the way into the spool.
    pub after: Duration,
}

impl SpoolConfig {
    /// Defaults, in this directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), bytes: 256 * 1024 * 1024, after: Duration::from_secs(1) }
    }

    /// Refuses what can't work.
    ///
    /// # Errors
    /// A sentence: which setting, why, and what to do.
    pub(crate) fn check(&self, message_bytes: usize) -> Result<(), String> {
        let least = store::Sizes::least(message_bytes);
        if self.bytes < least {
            return Err(format!(
                "spool.bytes is {}: with limits.message_bytes = {message_bytes} it needs at least {least} for its journal and some messages; raise it",
                self.bytes
            ));
        }
        if self.after.is_zero() {
            return Err("spool.after is 0: everything would be spooled; leave it at its default".into());
        }
        Ok(())
    }
}

/// Why a spool can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't open the spool in {directory}: {cause}; free the directory, choose another, or start without a spool")]
pub struct SpoolError {
    /// The directory.
    pub directory: PathBuf,
    /// Why.
    pub cause: String,
}

/// How far a message got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// In the topic.
    Committed(RecordMetadata),
    /// On stable storage here.
    Spooled,
}

/// A message that was handed in.
#[derive(Debug)]
struct Offer {
    record: ProduceRecord,
    bytes: usize,
    since: Instant,
    answer: oneshot::Sender<Result<Published, Failure>>,
    _room: OwnedSemaphorePermit,
}

impl Offer {
    fn answer(self, outcome: Result<Published, Failure>) {
        // Whoever does not wait for it any more has published all the same.
        let _ = self.answer.send(outcome);
    }
}

#[derive(Debug)]
enum Command {
    Offer(Offer),
    /// Answer when everything handed in before has its answer.
    Flush(oneshot::Sender<()>),
    /// Stop: what is in the spool stays there.
    Close(oneshot::Sender<()>),
}

/// Messages on their way into the spool, or past it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    inbox: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    room_bytes: usize,
}

impl Spool {
    /// Opens the directory, reads back what is in it, and begins to forward.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) async fn open<B: Backend>(
        config: &SpoolConfig,
        message_bytes: usize,
        room_bytes: usize,
        backend: B,
        stats: Arc<Stats>,
    ) -> Result<Self, SpoolError> {
        let failed = |cause: String| SpoolError { directory: config.directory.clone(), cause };
        let (directory, bytes) = (config.directory.clone(), config.bytes);
        let opened = tokio::task::spawn_blocking(move || store::open(&directory, bytes, message_bytes)).await;
        let opened = opened.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        let store = Store::new(opened).map_err(|error| failed(error.to_string()))?;
        let (inbox, commands) = mpsc::channel(limits::SPOOL_COMMANDS);
        stats.spool.opened.set(1);
        tokio::spawn(driver::Driver::new(backend, store, config.after, stats).run(commands));
        Ok(Self { inbox, room: Arc::new(Semaphore::new(room_bytes)), room_bytes })
    }

    /// Takes a message if nothing has to be waited for.
    ///
    /// # Errors
    /// The sidecar is stopping.
    pub(crate) fn try_send(&self, record: ProduceRecord) -> Result<Taken<Answer>, Failure> {
        let bytes = entry::size(&record);
        let Ok(room) = self.room.clone().try_acquire_many_owned(self.share(bytes)) else {
            return Ok(Taken::Later(record));
        };
        match self.inbox.try_reserve() {
            Ok(place) => {
                let (offer, answer) = offer(record, bytes, room);
                place.send(Command::Offer(offer));
                Ok(Taken::Now(answer))
            }
            Err(mpsc::error::TrySendError::Full(())) => Ok(Taken::Later(record)),
            Err(mpsc::error::TrySendError::Closed(())) => Err(Failure::draining()),
        }
    }

    /// Takes a message; waits for room.
    ///
    /// # Errors
    /// As [`Spool::try_send`].
    pub(crate) fn send(
        &self,
        record: ProduceRecord,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send + use<> + 'static {
        let this = self.clone();
        async move {
            let bytes = entry::size(&record);
            let room = this.room.clone().acquire_many_owned(this.share(bytes)).await;
            let room = room.map_err(|_| Failure::draining())?;
            let place = this.inbox.reserve().await.map_err(|_| Failure::draining())?;
            let (offer, answer) = offer(record, bytes, room);
            place.send(Command::Offer(offer));
            Ok(answer)
        }
    }

    /// What a message takes of the room; the largest takes all of it.
    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.room_bytes)).unwrap_or(u32::MAX)
    }

    /// Waits until everything handed in has its answer: through the cluster, or in the spool.
    pub(crate) async fn flush(&self) {
        self.ask(Command::Flush).await;
    }

    /// Stops forwarding and closes the directory.
    pub(crate) async fn close(&self) {
        self.ask(Command::Close).await;
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done, told) = oneshot::channel();
        // Closed already: nothing is left to wait for.
        if self.inbox.send(command(done)).await.is_ok() {
            let _ = told.await;
        }
    }
}

fn offer(record: ProduceRecord, bytes: usize, room: OwnedSemaphorePermit) -> (Offer, Answer) {
    let (answer, told) = oneshot::channel();
    (Offer { record, bytes, since: Instant::now(), answer, _room: room }, Answer(told))
}

/// The future answer to one message.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<Result<Published, Failure>>);

impl Future for Answer {
    type Output = Result<Published, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|told| told.unwrap_or_else(|_| Err(unanswered())))
    }
}

/// The task ended before it knew: as when the process is killed.
fn unanswered() -> Failure {
    Failure::passing(
        Code::DeadlineExceeded,
        "OUTCOME_UNKNOWN",
        "the sidecar stopped before the outcome was known; the message may have been published, look before sending it again",
    )
}

/// The spool has no room.
fn full(usable: u64) -> Failure {
    Failure::passing(
        Code::ResourceExhausted,
        "SPOOL_FULL",
        format!(
            "the cluster can't be reached and the spool has no room in its {usable} bytes; send again later, or give it more with --spool-bytes"
        ),
    )
}
