//! Drivers: they own sockets, the ring and the clock, and run a [`Shard`]. Must not know what frames mean.
//!
//! ```text
//!            ┌──────────── one thread ────────────┐
//!  sockets ──┤ assembler ─ frames ─► Shard ─► disk ├── files
//!            │ output ◄─── effects ───┘            │
//!            └────────────────────────────────────┘
//! ```
//! [`uring`] runs connections and disk on one ring; [`threads`] runs connections on epoll beside a disk on threads.
//! Both behave the same: `tests` runs one suite over them.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::event::EventfdFlags;
use rustix::time::{ClockId, clock_gettime};

use crate::core::store::Now;
use crate::core::{ConnId, Effect, ListenerId};
use crate::error::{ConnectError, Refused};
use crate::net::tls::Secured;

mod carry_out;
mod dialer;
mod peers;
pub mod threads;
pub mod uring;

/// Most bytes handed to the kernel in one send of one connection: others get their turn in between.
const SEND_BYTES: usize = 1 << 20;
/// Pause after the system refused to accept (no descriptors left), in nanoseconds.
const ACCEPT_RETRY_NS: u64 = 100_000_000;

/// A state machine that a driver runs: frames and time in, effects out. [`Core`](crate::core::Core) is one.
pub trait Shard {
    /// A client connected. Where the listener encrypts, [`Shard::secured`] comes before its first frame.
    ///
    /// # Errors
    /// The driver closes the socket.
    fn connected(&mut self, now: Now, listener: ListenerId, peer: SocketAddr) -> Result<ConnId, Refused>;

    /// The TLS handshake of a connection is over, of one that was dialled too.
    fn secured(&mut self, now: Now, conn: ConnId, secured: Secured);

    /// What came of [`Effect::Connect`]. After a success the connection is like any other; after an error, or if it was
    /// closed meanwhile, its id comes never again.
    fn connect_done(&mut self, now: Now, conn: ConnId, result: Result<(), ConnectError>);

    /// One whole frame, its length prefix stripped.
    fn received(&mut self, now: Now, conn: ConnId, frame: Bytes);

    /// The client is gone; the id comes never again. Not called after [`Effect::Close`].
    fn disconnected(&mut self, conn: ConnId);

    /// Called after each batch of inputs, when the disk may have completed something, and at the deadline.
    fn turn(&mut self, now: Now);

    /// Moves what is to be done to `out`.
    fn take_effects(&mut self, out: &mut Vec<Effect>);

    /// The kernel took bytes of a connection.
    fn sent(&mut self, conn: ConnId, bytes: usize);

    /// When `turn` must be called at the latest, in monotonic nanoseconds.
    fn next_deadline(&self) -> Option<u64>;

    /// Others should take over what this shard does for them: it is about to be stopped. It goes on meanwhile.
    fn leave(&mut self, now: Now);

    /// Whether others have taken over, or it was waited long enough.
    fn has_left(&self) -> bool;

    /// Begin nothing new.
    fn stop(&mut self, now: Now);

    /// Whether every request is answered.
    fn is_quiet(&self) -> bool;
}

/// Why a driver came to its end.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The shard can't keep its promises any more.
    #[error("{0}")]
    Stopped(String),
    /// The system took sockets or the ring away.
    #[error("{what}: {source}")]
    Io {
        /// Operation.
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

impl DriverError {
    fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Ends a driver from another thread: it accepts no more, answers what it has, closes.
#[derive(Debug, Clone)]
pub struct StopHandle {
    fd: Arc<OwnedFd>,
}

impl StopHandle {
    /// A handle to give to one driver.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Asks the driver to end; at once, and as often as one likes.
    pub fn stop(&self) {
        // Fails only when the counter is full: then it was asked often enough.
        let _full = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }
}

/// The listener at this place among the doors.
fn listener_id(index: usize) -> ListenerId {
    ListenerId(u8::try_from(index).unwrap_or(u8::MAX))
}

/// The time as the core wants it.
#[must_use]
pub fn now() -> Now {
    let monotonic = clock_gettime(ClockId::Monotonic);
    let wall = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(monotonic.tv_sec).unwrap_or(0);
    Now {
        monotonic_ns: seconds * 1_000_000_000 + u64::try_from(monotonic.tv_nsec).unwrap_or(0),
        wall_ms: wall.tv_sec * 1000 + wall.tv_nsec / 1_000_000,
    }
}

#[cfg(test)]
mod tests;
