//! Connections that the node opens itself. Names are resolved and sockets connected on short-lived threads: both block,
//! and a resolver may block for long. Must not know what a connection is for.
//!
//! ```text
//!  dial ──► queue (beyond MAX_DIALS) ──► thread: resolve, connect each address ──► bounded channel + eventfd ──► take
//!   └── cancel: whatever comes of it is dropped
//! ```
//! A peer that dies without a word is noticed by what runs over the connection (links ping): `TCP_USER_TIMEOUT` and the
//! kernel's keepalive are not set.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use crate::core::ConnId;
use crate::error::ConnectError;

/// Threads that resolve and connect at the same time; further dials wait their turn.
pub(super) const MAX_DIALS: usize = 32;
/// For all addresses of a name together, from the moment they are known.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An address gets at least this much, or it need not be tried at all.
const LEAST_TIMEOUT: Duration = Duration::from_millis(100);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// What came of a dial.
type Done = (ConnId, Result<TcpStream, ConnectError>);
/// The same, with the name that was dialled.
pub(super) type Dialled = (ConnId, String, Result<TcpStream, ConnectError>);

#[derive(Debug)]
struct Dial {
    conn: ConnId,
    host: String,
    port: u16,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Dialer {
    wake: Arc<OwnedFd>,
    results: Receiver<Done>,
    report: SyncSender<Done>,
    /// Asked for and neither answered nor cancelled, with the names.
    wanted: HashMap<ConnId, String, foldhash::fast::RandomState>,
    queue: VecDeque<Dial>,
    /// Threads that have not reported yet, cancelled ones included.
    running: usize,
}

impl Dialer {
    pub(super) fn new() -> std::io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Room for what every thread has to say: none of them ever waits for the driver.
        let (report, results) = sync_channel(MAX_DIALS);
        let (wanted, queue) = (HashMap::default(), VecDeque::new());
        Ok(Self { wake: Arc::new(wake), results, report, wanted, queue, running: 0 })
    }

    /// Becomes readable when [`Dialer::take`] has something to give.
    pub(super) fn wake_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.wake)
    }

    /// Begins to connect; as many wait here as the core has outgoing connections.
    pub(super) fn dial(&mut self, conn: ConnId, host: String, port: u16) {
        self.wanted.insert(conn, host.clone());
        self.queue.push_back(Dial { conn, host, port });
        self.start_queued();
    }

    /// Nobody wants this connection any more. False if it was not being dialled.
    pub(super) fn cancel(&mut self, conn: ConnId) -> bool {
        self.queue.retain(|dial| dial.conn != conn);
        self.wanted.remove(&conn).is_some()
    }

    /// Everything that still waits is given up: the connections that nobody will hear of.
    pub(super) fn abandon(&mut self) -> Vec<ConnId> {
        self.queue.clear();
        self.wanted.drain().map(|(conn, _)| conn).collect()
    }

    /// What came of the dials since the last call.
    pub(super) fn take(&mut self) -> Vec<Dialled> {
        let _reset = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        let mut done = Vec::new();
        while let Ok((conn, result)) = self.results.try_recv() {
            self.running -= 1;
            if let Some(host) = self.wanted.remove(&conn) {
                done.push((conn, host, result));
            }
        }
        self.start_queued();
        done
    }

    fn start_queued(&mut self) {
        while self.running < MAX_DIALS
            && let Some(dial) = self.queue.pop_front()
        {
            self.running += 1;
            self.start(dial);
        }
    }

    fn start(&self, dial: Dial) {
        let (report, wake, conn) = (self.report.clone(), Arc::clone(&self.wake), dial.conn);
        let run = move || say(&report, &wake, conn, connect(&dial.host, dial.port));
        if let Err(error) = std::thread::Builder::new().name("wherry-dial".into()).spawn(run) {
            let failed = ConnectError::Unreachable(format!("no thread to connect with: {error}"));
            say(&self.report, &self.wake, conn, Err(failed));
        }
    }
}

/// Never blocks: the channel has room for every dial that runs. The driver may be gone.
fn say(report: &SyncSender<Done>, wake: &OwnedFd, conn: ConnId, result: Result<TcpStream, ConnectError>) {
    let _driver_gone = report.try_send((conn, result));
    let _woken_already = rustix::io::write(wake, &1_u64.to_ne_bytes());
}

/// The first address that answers. `Refused` only if every address refused: one that is silent may be the right one.
fn connect(host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let unreachable = |why: &dyn std::fmt::Display| ConnectError::Unreachable(format!("{host}:{port}: {why}"));
    let addresses: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|e| unreachable(&e))?.take(MAX_ADDRESSES).collect();
    let until = Instant::now() + CONNECT_TIMEOUT;
    let mut failure = None;
    for (index, address) in addresses.iter().enumerate() {
        let untried = u32::try_from(addresses.len() - index).unwrap_or(1);
        let share = until.saturating_duration_since(Instant::now()) / untried;
        match TcpStream::connect_timeout(address, share.max(LEAST_TIMEOUT)) {
            Ok(stream) => return prepare(stream).map_err(|e| unreachable(&e)),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
            Err(e) => failure = Some(unreachable(&e)),
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None if addresses.is_empty() => Err(unreachable(&"the name has no address")),
        None => Err(ConnectError::Refused),
    }
}

/// A connect to a port of this machine that nobody listens on may, by TCP's simultaneous open, meet itself.
fn prepare(stream: TcpStream) -> std::io::Result<TcpStream> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}
