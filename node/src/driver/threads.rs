//! Connections on epoll, on one thread, beside a disk that wakes it by a descriptor: for where io_uring is not permitted.
//!
//! Readiness is edge-triggered: what a socket said once is remembered here until the socket says "would block".

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::carry_out::{CarryOut, Parts};
use super::dialer::Dialer;
use super::peers::{Beginning, Peer, Peers, Phase};
use super::uring::log_overdue;
use super::{ACCEPT_RETRY_NS, DriverError, Shard, StopHandle, listener_id, now};
use crate::core::store::Now;
use crate::core::{ConnId, Effect};
use crate::net::tls::StreamError;
use crate::net::{Door, NetConfig, NextRead, Place, SCRATCH_BYTES};

const STOP: Token = Token(usize::MAX - 2);
const DISK: Token = Token(usize::MAX - 3);
const DIALLED: Token = Token(usize::MAX - 4);
/// The doors, from here downwards.
const FIRST_DOOR: usize = usize::MAX - 5;
/// Readiness events taken at once.
const EVENTS: usize = 1024;
/// Bytes read from one connection before it is another one's turn.
const READ_BYTES_PER_TURN: usize = 512 << 10;
/// Chunks in one vectored write.
const WRITE_CHUNKS: usize = 64;

#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// The peer has ended its side: no further event will say so, and the end lies behind the last bytes.
    ended: bool,
    /// In the list of connections to be read.
    queued: bool,
}

/// Runs a shard on the current thread.
#[derive(Debug)]
pub struct ThreadsDriver<S: Shard> {
    shard: S,
    poll: Poll,
    doors: Vec<Door>,
    accept_again_ns: Option<u64>,
    peers: Peers<Socket>,
    dialer: Dialer,
    /// Connections that may have more to read.
    ready: Vec<usize>,
    scratch: Vec<u8>,
    drain_timeout: Duration,
    leaving: bool,
    drain_until_ns: Option<u64>,
    now: Now,
    effects: Vec<Effect>,
    frames: Vec<Bytes>,
    stop: StopHandle,
    /// Kept open while it is registered.
    _disk: Option<Arc<OwnedFd>>,
}

impl<S: Shard> ThreadsDriver<S> {
    /// A driver; `disk` becomes readable when the shard's disk has completed something.
    ///
    /// # Errors
    /// No epoll to be had.
    pub fn new(
        shard: S,
        doors: Vec<Door>,
        disk: Option<Arc<OwnedFd>>,
        stop: &StopHandle,
        config: &NetConfig,
    ) -> Result<Self, DriverError> {
        let io = DriverError::io;
        let poll = Poll::new().map_err(io("epoll"))?;
        let dialer = Dialer::new().map_err(io("eventfd"))?;
        let register = |fd: i32, token| poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
        for (index, door) in doors.iter().enumerate() {
            door.listener.set_nonblocking(true).map_err(io("listen"))?;
            register(door.listener.as_raw_fd(), Token(FIRST_DOOR - index)).map_err(io("epoll"))?;
        }
        register(stop.fd.as_raw_fd(), STOP).map_err(io("epoll"))?;
        register(dialer.wake_fd().as_raw_fd(), DIALLED).map_err(io("epoll"))?;
        if let Some(disk) = &disk {
            register(disk.as_raw_fd(), DISK).map_err(io("epoll"))?;
        }
        Ok(Self {
            shard,
            poll,
            doors,
            accept_again_ns: None,
            peers: Peers::new(config),
            dialer,
            ready: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            drain_timeout: config.drain_timeout,
            leaving: false,
            drain_until_ns: None,
            now: now(),
            effects: Vec::new(),
            frames: Vec::new(),
            stop: stop.clone(),
            _disk: disk,
        })
    }

    /// Serves until it is told to stop. Gives the shard back, to be closed.
    pub fn run(mut self) -> (S, Result<(), DriverError>) {
        let outcome = self.serve();
        self.abandon_dials();
        for key in self.peers.keys() {
            self.lose(key);
        }
        (self.shard, outcome)
    }

    fn serve(&mut self) -> Result<(), DriverError> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.shard.turn(self.now);
            self.carry_out()?;
            self.retry_waiting();
            if self.leaving && self.shard.has_left() {
                self.begin_stop();
            }
            if self.is_drained() {
                return Ok(());
            }
            let wait = self.wait();
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(DriverError::io("epoll")(e)),
                Ok(()) | Err(_) => {}
            }
            self.now = now();
            for event in &events {
                match event.token() {
                    STOP => self.begin_leaving(),
                    DIALLED => self.take_dialled(),
                    // The turn asks the disk anyway.
                    DISK => {}
                    Token(door) if door > FIRST_DOOR - self.doors.len() => self.accept(FIRST_DOOR - door),
                    Token(key) => self.on_ready(key, event),
                }
            }
            self.read_ready();
            self.give_up_overdue();
            if self.accept_again_ns.take_if(|at| self.now.monotonic_ns >= *at).is_some() {
                (0..self.doors.len()).for_each(|door| self.accept(door));
            }
        }
    }

    fn wait(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines =
            [self.shard.next_deadline(), self.peers.next_deadline(), self.accept_again_ns, self.drain_until_ns];
        let at = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_nanos(at.saturating_sub(now().monotonic_ns)))
    }

    fn is_drained(&self) -> bool {
        self.drain_until_ns
            .is_some_and(|until| self.now.monotonic_ns >= until || self.shard.is_quiet() && !self.peers.owes())
    }

    fn accept(&mut self, index: usize) {
        while self.drain_until_ns.is_none()
            && let Some(door) = self.doors.get(index)
        {
            match door.listener.accept() {
                Ok((stream, peer)) => self.admit(index, stream, peer),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    self.accept_again_ns = Some(self.now.monotonic_ns + ACCEPT_RETRY_NS);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, index: usize, stream: TcpStream, peer: std::net::SocketAddr) {
        let Some(beginning) = self.doors.get(index).and_then(|door| self.peers.accepted(door)) else { return };
        let id = match self.shard.connected(self.now, listener_id(index), peer) {
            Ok(id) => id,
            Err(reason) => {
                tracing::debug!(%peer, %reason, "refused a connection");
                return;
            }
        };
        // Answers are written whole: waiting for more only delays them.
        let _slower_without = stream.set_nodelay(true);
        if let Err(key) = self.insert(id, stream, beginning) {
            self.lose(key);
        }
    }

    /// An error names a connection that can't be watched.
    fn insert(&mut self, id: ConnId, stream: TcpStream, beginning: Beginning) -> Result<(), usize> {
        let fd = stream.as_raw_fd();
        let nonblocking = stream.set_nonblocking(true);
        let socket = Socket { stream, readable: true, writable: true, ended: false, queued: false };
        let key = self.peers.insert(id, socket, beginning, self.now.monotonic_ns);
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(&mut SourceFd(&fd), Token(key), both);
        nonblocking.and(registered).map_err(|_| key)?;
        // The dialler's side of TLS speaks first.
        if self.peers.get(key).is_some_and(Peer::has_out) {
            self.send(key);
        }
        self.receive(key);
        Ok(())
    }

    fn on_ready(&mut self, key: usize, event: &mio::event::Event) {
        let Some(peer) = self.peers.get(key) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            peer.io.readable = true;
        }
        peer.io.ended |= event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_error();
        peer.io.writable |= writable;
        if writable {
            self.send(key);
        }
        self.receive(key);
    }

    fn read_ready(&mut self) {
        for key in std::mem::take(&mut self.ready) {
            let Some(peer) = self.peers.get(key) else { continue };
            peer.io.queued = false;
            self.read(key);
        }
    }

    /// Reads until the socket would block, memory is short, or it is another one's turn.
    fn read(&mut self, key: usize) {
        let mut frames = std::mem::take(&mut self.frames);
        let outcome = self.read_frames(key, &mut frames);
        if let Some(peer) = self.peers.get(key) {
            let (id, phase) = (peer.id, peer.phase);
            peer.note_received(self.now.monotonic_ns, frames.len());
            if peer.assembler.in_frame() {
                self.peers.expect_progress(self.now.monotonic_ns);
            }
            if phase == Phase::Open {
                self.hand_in(key, id, &mut frames);
            }
        }
        frames.clear();
        self.frames = frames;
        match outcome {
            ReadOutcome::Failed(error) => self.fail(key, &error),
            ReadOutcome::Blocked => {}
            ReadOutcome::More => self.receive(key),
            ReadOutcome::Wait => self.peers.wait(key),
            ReadOutcome::Ended => self.lose(key),
        }
    }

    fn read_frames(&mut self, key: usize, frames: &mut Vec<Bytes>) -> ReadOutcome {
        let Some((peer, budget)) = self.peers.with_budget(key) else { return ReadOutcome::Blocked };
        if peer.phase != Phase::Open || peer.paused {
            return ReadOutcome::Blocked;
        }
        let mut read = 0;
        while read < READ_BYTES_PER_TURN {
            let (count, wanted) = match peer.next_read(budget) {
                NextRead::Wait => return ReadOutcome::Wait,
                NextRead::Scratch(limit) => {
                    let space = &mut self.scratch[..limit.min(SCRATCH_BYTES)];
                    let wanted = space.len();
                    match retry(|| (&peer.io.stream).read(space)) {
                        Ok(count) => match peer.feed(&self.scratch[..count], budget, frames) {
                            Ok(true) => (Ok(count), wanted),
                            Ok(false) => return ReadOutcome::Ended,
                            Err(error) => return ReadOutcome::Failed(error),
                        },
                        Err(e) => (Err(e), wanted),
                    }
                }
                NextRead::Place(Place { mut buf, limit, .. }) => {
                    let result = retry(|| read_into(&peer.io.stream, &mut buf, limit));
                    peer.assembler.place_filled(buf, budget, frames);
                    (result, limit)
                }
            };
            match count {
                Ok(0) => return ReadOutcome::Ended,
                Ok(count) => {
                    read += count;
                    // A short count means that the socket is empty; it will say when it is not.
                    if count < wanted && !peer.io.ended {
                        peer.io.readable = false;
                        return ReadOutcome::Blocked;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    peer.io.readable = false;
                    return ReadOutcome::Blocked;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return ReadOutcome::Ended,
            }
        }
        ReadOutcome::More
    }

    fn note_sent(&mut self, key: usize, sent: usize) {
        let now_ns = self.now.monotonic_ns;
        let Some(peer) = self.peers.get(key) else { return };
        let (id, phase, done) = (peer.id, peer.phase, !peer.owes());
        if done {
            peer.note_sent_all(now_ns);
        } else {
            self.peers.expect_progress(now_ns);
        }
        if phase == Phase::Open && sent > 0 {
            self.shard.sent(id, sent);
        }
        if done && phase == Phase::Finishing {
            self.close(key);
        }
    }

    fn lose(&mut self, key: usize) {
        let Some(peer) = self.peers.get(key) else { return };
        let (id, phase) = (peer.id, peer.phase);
        if phase == Phase::Open {
            self.peers.forget(key);
            self.shard.disconnected(id);
        }
        self.close(key);
    }

    fn close(&mut self, key: usize) {
        if let Some(socket) = self.peers.remove(key) {
            let fd = socket.stream.as_raw_fd();
            // Closing the descriptor would do it as well.
            let _deregistered = self.poll.registry().deregister(&mut SourceFd(&fd));
        }
    }

    fn give_up_overdue(&mut self) {
        for (key, why) in self.peers.overdue(self.now.monotonic_ns) {
            log_overdue(why);
            self.lose(key);
        }
    }

    /// Asked to stop: first others take over.
    fn begin_leaving(&mut self) {
        let _reset = rustix::io::read(&self.stop.fd, &mut [0_u8; 8]);
        if !self.leaving {
            self.leaving = true;
            self.shard.leave(self.now);
        }
    }

    fn begin_stop(&mut self) {
        if self.drain_until_ns.is_some() {
            return;
        }
        let drain_ns = u64::try_from(self.drain_timeout.as_nanos()).unwrap_or(u64::MAX / 4);
        self.drain_until_ns = Some(self.now.monotonic_ns.saturating_add(drain_ns));
        self.shard.stop(self.now);
    }
}

impl<S: Shard> CarryOut for ThreadsDriver<S> {
    type Shard = S;
    type Socket = Socket;

    fn parts(&mut self) -> Parts<'_, S, Socket> {
        let Self { shard, peers, dialer, effects, now, .. } = self;
        Parts { shard, peers, dialer, effects, now: *now }
    }

    fn adopt(&mut self, conn: ConnId, stream: TcpStream, beginning: Beginning) -> bool {
        match self.insert(conn, stream, beginning) {
            Ok(()) => true,
            Err(key) => {
                self.close(key);
                false
            }
        }
    }

    fn receive(&mut self, key: usize) {
        let draining = self.drain_until_ns.is_some();
        let Some(peer) = self.peers.get(key) else { return };
        let may = peer.io.readable && !peer.paused && peer.phase == Phase::Open && (!draining || peer.is_link());
        if may && !peer.io.queued {
            peer.io.queued = true;
            self.ready.push(key);
        }
    }

    /// Writes what the socket takes, up to a bound.
    fn send(&mut self, key: usize) {
        let now_ns = self.now.monotonic_ns;
        let Some(peer) = self.peers.get(key) else { return };
        let mut sent = 0;
        let mut offered = false;
        while peer.io.writable && peer.phase != Phase::Gone && peer.has_out() {
            if !offered {
                offered = true;
                peer.note_sending(now_ns);
            }
            let slices: Vec<IoSlice<'_>> = peer.front(WRITE_CHUNKS).map(|chunk| IoSlice::new(chunk)).collect();
            let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
            match (&peer.io.stream).write_vectored(&slices) {
                Ok(count) => {
                    drop(slices);
                    sent += peer.advance(count);
                    // The socket will say when it takes more.
                    peer.io.writable = count == wanted;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => peer.io.writable = false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.lose(key);
                    return;
                }
            }
        }
        self.note_sent(key, sent);
    }

    fn finish(&mut self, key: usize) {
        let Some(peer) = self.peers.get(key) else { return };
        peer.begin_finish();
        if peer.has_out() {
            self.send(key);
        } else {
            self.close(key);
        }
    }
}

/// Why reading a connection ended for now.
#[derive(Debug)]
enum ReadOutcome {
    /// The socket is empty, or the connection may not read.
    Blocked,
    /// There may be more; others first.
    More,
    /// Memory is short.
    Wait,
    /// The stream ended.
    Ended,
    /// It has to.
    Failed(StreamError),
}

/// Appends up to `limit` bytes without clearing the memory first.
fn read_into(stream: &TcpStream, buf: &mut Vec<u8>, limit: usize) -> std::io::Result<usize> {
    if buf.capacity() - buf.len() == limit {
        return Ok(rustix::io::read(stream, rustix::buffer::spare_capacity(buf))?);
    }
    // The allocator gave more than was asked for: the bytes behind the limit belong to the next frame.
    let before = buf.len();
    match stream.take(limit as u64).read_to_end(buf) {
        // What was read before an error counts; the error comes again.
        Err(e) if buf.len() == before => Err(e),
        Ok(_) | Err(_) => Ok(buf.len() - before),
    }
}

fn retry(mut read: impl FnMut() -> std::io::Result<usize>) -> std::io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
