//! Connections and disk on one ring, on one thread. One `io_uring_enter` a turn submits everything that the turn before
//! decided (receives, sends, journal writes) and waits for what completes next.
//!
//! An idle connection holds no buffer: its receive picks one from the ring's pool when bytes arrive. The rest of a large
//! frame is received straight into its place.

use std::cell::RefCell;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};
use wherry_log::io::{Event, OpId, Owner, PoolBuf, Ring, SEND_MAX_CHUNKS, Wait, What};

use super::carry_out::{CarryOut, Parts};
use super::dialer::Dialer;
use super::peers::{Beginning, Overdue, Peers, Phase};
use super::{ACCEPT_RETRY_NS, DriverError, SEND_BYTES, Shard, StopHandle, listener_id, now};
use crate::core::store::Now;
use crate::core::{ConnId, Effect};
use crate::net::tls::StreamError;
use crate::net::{Door, NetConfig, NextRead, Place};

/// Kinds of keys, in the upper half; the lower half is the connection's slot.
const ACCEPT: u64 = 1 << 32;
const STOP: u64 = 2 << 32;
const RECV: u64 = 3 << 32;
const SEND: u64 = 4 << 32;
const DIALLED: u64 = 5 << 32;
const KIND: u64 = !0xffff_ffff;

#[derive(Debug)]
pub(super) struct Socket {
    fd: Arc<OwnedFd>,
    /// Receives in flight.
    receiving: u8,
    sending: bool,
}

/// A door on the ring.
#[derive(Debug)]
struct Entrance {
    door: Door,
    fd: Arc<OwnedFd>,
    accepting: Option<OpId>,
}

impl Entrance {
    fn new(door: Door) -> std::io::Result<Self> {
        let fd = Arc::new(door.listener.try_clone()?.into());
        Ok(Self { door, fd, accepting: None })
    }
}

/// Runs a shard on a ring; made and run on the thread that made the ring.
#[derive(Debug)]
pub struct UringDriver<S: Shard> {
    shard: S,
    ring: Rc<RefCell<Ring>>,
    doors: Vec<Entrance>,
    accept_again_ns: Option<u64>,
    peers: Peers<Socket>,
    dialer: Dialer,
    drain_timeout: Duration,
    /// Set when stopping: the end at the latest.
    leaving: bool,
    drain_until_ns: Option<u64>,
    now: Now,
    events: Vec<Event>,
    effects: Vec<Effect>,
    frames: Vec<Bytes>,
    _stop: StopHandle,
}

impl<S: Shard> UringDriver<S> {
    /// A driver over a ring that the shard's disk may share.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(
        shard: S,
        ring: Rc<RefCell<Ring>>,
        doors: Vec<Door>,
        stop: &StopHandle,
        config: &NetConfig,
    ) -> Result<Self, DriverError> {
        let dialer = Dialer::new().map_err(DriverError::io("eventfd"))?;
        let doors =
            doors.into_iter().map(Entrance::new).collect::<Result<_, _>>().map_err(DriverError::io("listen"))?;
        ring.borrow_mut().watch(Arc::clone(&stop.fd), Owner::Net, STOP);
        ring.borrow_mut().watch(dialer.wake_fd(), Owner::Net, DIALLED);
        Ok(Self {
            shard,
            ring,
            doors,
            accept_again_ns: None,
            peers: Peers::new(config),
            dialer,
            drain_timeout: config.drain_timeout,
            leaving: false,
            drain_until_ns: None,
            now: now(),
            events: Vec::new(),
            effects: Vec::new(),
            frames: Vec::new(),
            _stop: stop.clone(),
        })
    }

    /// Serves until it is told to stop. Gives the shard back, to be closed.
    pub fn run(mut self) -> (S, Result<(), DriverError>) {
        self.ring.borrow_mut().set_driven(true);
        self.start_accepting();
        let outcome = self.serve();
        self.abandon_dials();
        for key in self.peers.keys() {
            self.lose(key);
        }
        self.stop_accepting();
        self.ring.borrow_mut().set_driven(false);
        (self.shard, outcome)
    }

    fn serve(&mut self) -> Result<(), DriverError> {
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
            self.ring.borrow_mut().enter(wait).map_err(DriverError::io("io_uring_enter"))?;
            self.now = now();
            self.handle_events();
            self.give_up_overdue();
            self.accept_again();
        }
    }

    fn wait(&self) -> Wait {
        let deadlines =
            [self.shard.next_deadline(), self.peers.next_deadline(), self.accept_again_ns, self.drain_until_ns];
        match deadlines.into_iter().flatten().min() {
            None => Wait::Forever,
            Some(at) => match at.saturating_sub(now().monotonic_ns) {
                0 => Wait::No,
                left => Wait::AtMost(Duration::from_nanos(left)),
            },
        }
    }

    fn is_drained(&self) -> bool {
        self.drain_until_ns
            .is_some_and(|until| self.now.monotonic_ns >= until || self.shard.is_quiet() && !self.peers.owes())
    }

    fn handle_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.ring.borrow_mut().take(Owner::Net, &mut events);
        for event in events.drain(..) {
            let key = usize::try_from(event.key & !KIND).unwrap_or(usize::MAX);
            match event.key & KIND {
                ACCEPT => self.on_accept(key, event),
                STOP => self.begin_leaving(),
                RECV => self.on_received(key, event),
                SEND => self.on_sent(key, event),
                DIALLED => self.take_dialled(),
                _ => {}
            }
        }
        self.events = events;
    }

    fn start_accepting(&mut self) {
        self.accept_again_ns = None;
        for (index, entrance) in self.doors.iter_mut().enumerate().filter(|(_, entrance)| entrance.accepting.is_none())
        {
            let id = self.ring.borrow_mut().accept(Arc::clone(&entrance.fd), ACCEPT | index as u64);
            entrance.accepting = Some(id);
        }
    }

    fn accept_again(&mut self) {
        if self.accept_again_ns.is_some_and(|at| self.now.monotonic_ns >= at) {
            self.start_accepting();
        }
    }

    fn on_accept(&mut self, index: usize, event: Event) {
        let Some(entrance) = self.doors.get_mut(index) else { return };
        if !event.more {
            entrance.accepting = None;
        }
        let ended = entrance.accepting.is_none();
        if let Err(error) = event.result
            && error != Errno::CANCELED
        {
            tracing::warn!(%error, "can't accept a connection");
        }
        if let What::Accepted(Some(fd)) = event.what {
            self.admit(index, fd);
        }
        if ended && self.drain_until_ns.is_none() {
            self.accept_again_ns = Some(self.now.monotonic_ns + ACCEPT_RETRY_NS);
        }
    }

    fn admit(&mut self, index: usize, fd: OwnedFd) {
        let Some(peer) = peer_of(&fd) else { return };
        if self.drain_until_ns.is_some() {
            return;
        }
        let accepted = self.doors.get(index).and_then(|entrance| self.peers.accepted(&entrance.door));
        let Some(beginning) = accepted else { return };
        match self.shard.connected(self.now, listener_id(index), peer) {
            Ok(id) => {
                // Answers are written whole: waiting for more only delays them.
                let _slower_without = sockopt::set_tcp_nodelay(&fd, true);
                self.insert(id, fd, beginning);
            }
            Err(reason) => tracing::debug!(%peer, %reason, "refused a connection"),
        }
    }

    fn insert(&mut self, id: ConnId, fd: OwnedFd, beginning: Beginning) {
        let socket = Socket { fd: Arc::new(fd), receiving: 0, sending: false };
        let key = self.peers.insert(id, socket, beginning, self.now.monotonic_ns);
        // The dialler's side of TLS speaks first.
        self.send(key);
        self.receive(key);
    }

    fn on_received(&mut self, key: usize, event: Event) {
        let mut frames = std::mem::take(&mut self.frames);
        let mut failure = None;
        let alive = match (event.what, event.result) {
            (What::ReceivedPooled(Some(buf)), _) => match self.take_pooled(key, buf, &mut frames) {
                Ok(alive) => alive,
                Err(error) => {
                    failure = Some(error);
                    false
                }
            },
            (What::Received(buf), result) => {
                self.take_placed(key, buf, &mut frames);
                matches!(result, Ok(1..) | Err(Errno::INTR | Errno::AGAIN))
            }
            // CANCELED: the receive before it in the chain came up short.
            (_, Err(Errno::NOBUFS | Errno::INTR | Errno::AGAIN | Errno::CANCELED)) => true,
            (_, _) => false,
        };
        let Some(peer) = self.peers.get(key) else { return };
        peer.io.receiving = peer.io.receiving.saturating_sub(1);
        peer.note_received(self.now.monotonic_ns, frames.len());
        let (id, phase, in_frame) = (peer.id, peer.phase, peer.assembler.in_frame());
        if in_frame {
            self.peers.expect_progress(self.now.monotonic_ns);
        }
        if phase == Phase::Open {
            self.hand_in(key, id, &mut frames);
        }
        frames.clear();
        self.frames = frames;
        if let (Phase::Open, Some(error)) = (phase, &failure) {
            return self.fail(key, error);
        }
        match (phase, alive) {
            (Phase::Open, true) => self.receive(key),
            (Phase::Open, false) => self.lose(key),
            // It may have ended its side and still take what it is owed; if not, the send says so.
            (Phase::Finishing, _) => {}
            (Phase::Gone, _) => self.remove_if_idle(key),
        }
    }

    /// False at the end of the stream.
    fn take_pooled(&mut self, key: usize, buf: PoolBuf, frames: &mut Vec<Bytes>) -> Result<bool, StreamError> {
        let mut ring = self.ring.borrow_mut();
        let fed = match self.peers.with_budget(key) {
            Some((peer, budget)) => peer.feed(ring.pooled(&buf), budget, frames),
            None => Ok(true),
        };
        // The end of the stream gives an empty buffer.
        let ended = ring.pooled(&buf).is_empty();
        ring.recycle(buf);
        Ok(fed? && !ended)
    }

    fn take_placed(&mut self, key: usize, buf: Vec<u8>, frames: &mut Vec<Bytes>) {
        if let Some((peer, budget)) = self.peers.with_budget(key) {
            peer.assembler.place_filled(buf, budget, frames);
        }
    }

    fn on_sent(&mut self, key: usize, event: Event) {
        let now_ns = self.now.monotonic_ns;
        let What::Sent(chunks) = event.what else { return };
        let Some(peer) = self.peers.get(key) else { return };
        peer.io.sending = false;
        if peer.phase == Phase::Gone {
            self.remove_if_idle(key);
            return;
        }
        let sent = match event.result {
            Ok(sent) => sent as usize,
            Err(Errno::INTR | Errno::AGAIN) => 0,
            Err(_) => {
                self.lose(key);
                return;
            }
        };
        let sent = peer.put_back(chunks, sent);
        let (id, phase, done) = (peer.id, peer.phase, !peer.has_out() && !peer.owes());
        if done {
            peer.note_sent_all(now_ns);
        }
        if phase == Phase::Open && sent > 0 {
            self.shard.sent(id, sent);
        }
        if done && phase == Phase::Finishing {
            self.finish(key);
        } else {
            self.send(key);
        }
    }

    /// The peer is gone, or is given up.
    fn lose(&mut self, key: usize) {
        let Some(peer) = self.peers.get(key) else { return };
        let (id, phase) = (peer.id, peer.phase);
        if phase == Phase::Open {
            self.peers.forget(key);
            self.shard.disconnected(id);
        }
        if phase != Phase::Gone {
            self.close(key);
        }
    }

    /// Ends what is in flight on the socket; the slot is free when the last of it has completed.
    fn close(&mut self, key: usize) {
        let Some(peer) = self.peers.get(key) else { return };
        peer.phase = Phase::Gone;
        peer.abandon_output();
        // Fails only if the peer has closed already.
        let _closed = shutdown(peer.io.fd.as_fd(), Shutdown::Both);
        self.remove_if_idle(key);
    }

    fn remove_if_idle(&mut self, key: usize) {
        if self.peers.get(key).is_some_and(|peer| peer.io.receiving == 0 && !peer.io.sending) {
            self.peers.remove(key);
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
        self.stop_accepting();
        self.shard.stop(self.now);
    }

    fn stop_accepting(&mut self) {
        self.accept_again_ns = None;
        for id in self.doors.iter_mut().filter_map(|entrance| entrance.accepting.take()) {
            self.ring.borrow_mut().cancel(id);
        }
    }
}

impl<S: Shard> CarryOut for UringDriver<S> {
    type Shard = S;
    type Socket = Socket;

    fn parts(&mut self) -> Parts<'_, S, Socket> {
        let Self { shard, peers, dialer, effects, now, .. } = self;
        Parts { shard, peers, dialer, effects, now: *now }
    }

    fn adopt(&mut self, conn: ConnId, stream: TcpStream, beginning: Beginning) -> bool {
        self.insert(conn, stream.into(), beginning);
        true
    }

    /// Starts the receive that a connection needs now, if it may read.
    fn receive(&mut self, key: usize) {
        let draining = self.drain_until_ns.is_some();
        let Some((peer, budget)) = self.peers.with_budget(key) else { return };
        let done_with = draining && !peer.is_link();
        if peer.io.receiving > 0 || peer.paused || peer.phase != Phase::Open || done_with {
            return;
        }
        let fd = Arc::clone(&peer.io.fd);
        let event_key = RECV | key as u64;
        let mut ring = self.ring.borrow_mut();
        match peer.next_read(budget) {
            NextRead::Scratch(limit) => {
                ring.recv_pooled(fd, limit, event_key);
                peer.io.receiving = 1;
            }
            // With the end of a frame goes the beginning of the next, in the same turn.
            NextRead::Place(Place { buf, limit, completes: true }) => {
                let next = peer.assembler.scratch_limit();
                peer.io.receiving = ring.recv_then_pooled(fd, buf, limit, next, event_key);
            }
            NextRead::Place(Place { buf, limit, completes: false }) => {
                ring.recv(fd, buf, limit, true, event_key);
                peer.io.receiving = 1;
            }
            NextRead::Wait => self.peers.wait(key),
        }
    }

    /// Starts the next send, if none is in flight.
    fn send(&mut self, key: usize) {
        let now_ns = self.now.monotonic_ns;
        let Some(peer) = self.peers.get(key) else { return };
        if peer.io.sending || peer.phase == Phase::Gone || !peer.has_out() {
            return;
        }
        let chunks = peer.take_out(SEND_MAX_CHUNKS, SEND_BYTES);
        peer.io.sending = true;
        peer.note_sending(now_ns);
        let fd = Arc::clone(&peer.io.fd);
        self.ring.borrow_mut().send(fd, chunks, SEND | key as u64);
        self.peers.expect_progress(now_ns);
    }

    /// The core is through with a connection: what it is owed is sent, then it is closed.
    fn finish(&mut self, key: usize) {
        let Some(peer) = self.peers.get(key) else { return };
        if peer.phase == Phase::Open {
            peer.begin_finish();
        }
        if peer.io.sending {
            return;
        }
        if peer.has_out() {
            self.send(key);
        } else {
            self.close(key);
        }
    }
}

fn peer_of(fd: &OwnedFd) -> Option<std::net::SocketAddr> {
    rustix::net::getpeername(fd).ok().flatten().and_then(|addr| addr.try_into().ok())
}

pub(super) fn log_overdue(why: Overdue) {
    let reason = match why {
        Overdue::Frame => "a frame was begun and not completed in time",
        Overdue::Send => "the peer does not take its answers",
        Overdue::Idle => "idle",
        Overdue::Greeting => "it did not complete its handshake, or say who it is, in time",
    };
    tracing::debug!(reason, "closing a connection");
}
