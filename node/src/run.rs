//! A whole node on one thread: lock the directory, choose a driver, recover, serve, close. The only file that joins the
//! core with sockets, disk and clock.

use std::cell::RefCell;
use std::fs::File;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wherry_log::io::{Ring, RingConfig, ThreadDisk, ThreadDiskConfig, UringDisk, UringDiskConfig, probe_uring};

use crate::cluster::links::LinkSecret;
use crate::config::{IoDriver, NodeConfig};
use crate::core::Core;
use crate::core::store::{Disk, Engine, OpenError};
use crate::driver::threads::ThreadsDriver;
use crate::driver::uring::UringDriver;
use crate::driver::{DriverError, StopHandle, now};
use crate::error::NodeError;
use crate::net::{Door, NetConfig, listen_on};
use crate::security::certificates::{Certificates, LOOK_AGAIN, Refresh, Watcher, read_bounded};
use crate::security::config::LinkAuth;
use crate::security::secrets::Secrets;
use crate::stats::NodeStats;

/// File in the data directory whose lock says that a node uses it.
const LOCK_FILE: &str = "LOCK";

/// A node that serves.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Address that is served; of several, the first one.
    pub addr: SocketAddr,
    /// Names of the listeners, and the addresses that they serve.
    pub listeners: Vec<(String, SocketAddr)>,
    /// `io_uring` or `threads`.
    pub driver: &'static str,
    /// Counters of the core.
    pub stats: Arc<NodeStats>,
}

/// A node on a thread of its own.
#[derive(Debug)]
pub struct NodeHandle {
    serving: Serving,
    stop: StopHandle,
    thread: JoinHandle<Result<(), NodeError>>,
}

impl NodeHandle {
    /// Address that is served; with the port that was taken if the configuration said 0.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.serving.addr
    }

    /// Names of the listeners, and the addresses that they serve.
    #[must_use]
    pub fn listeners(&self) -> &[(String, SocketAddr)] {
        &self.serving.listeners
    }

    /// Which driver runs it: `io_uring` or `threads`.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        self.serving.driver
    }

    /// Counters of the core.
    #[must_use]
    pub fn stats(&self) -> Arc<NodeStats> {
        Arc::clone(&self.serving.stats)
    }

    /// Asks it to stop: it answers what it has, writes out everything, and ends. See [`NodeHandle::join`].
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Why it ended, if it was not asked to.
    pub fn join(self) -> Result<(), NodeError> {
        self.thread.join().unwrap_or_else(|_| Err(NodeError::Stopped("its thread panicked".into())))
    }
}

/// Starts a node on its own thread and waits until it serves: recovery is behind it then.
///
/// # Errors
/// [`NodeError`]: why it does not start.
pub fn spawn(config: NodeConfig) -> Result<NodeHandle, NodeError> {
    let stop = new_stop()?;
    let (ready, is_ready) = sync_channel(1);
    let for_node = stop.clone();
    let name = format!("wherry-node-{}", config.node_id);
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || run(config, &for_node, |serving| drop(ready.send(serving))))
        .map_err(io("start a thread"))?;
    match is_ready.recv() {
        Ok(serving) => Ok(NodeHandle { serving, stop, thread }),
        // It ended before it served: its thread knows why.
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            Ok(Ok(())) => NodeError::Stopped("it was stopped before it served".into()),
            Err(_) => NodeError::Stopped("its thread panicked".into()),
        }),
    }
}

/// A handle that ends the node it is given to.
///
/// # Errors
/// The process has no descriptor left.
pub fn new_stop() -> Result<StopHandle, NodeError> {
    StopHandle::new().map_err(io("eventfd"))
}

/// Runs a node on this thread until it is stopped. `on_ready` is called when it serves.
///
/// # Errors
/// [`NodeError`]: why it does not start, or why it ended without being asked to.
pub fn run(mut config: NodeConfig, stop: &StopHandle, on_ready: impl FnOnce(Serving)) -> Result<(), NodeError> {
    config.validate().map_err(NodeError::Config)?;
    config.engine.open_files = config.engine.open_files.min(segment_files(raise_open_files()));
    let _lock = lock(&config)?;
    let entry = Entry::open(&config)?;
    match choose(config.io)? {
        Chosen::Uring(ring) => run_uring(config, entry, ring, stop, on_ready),
        Chosen::Threads => run_threads(config, entry, stop, on_ready),
    }
}

/// Where connections come in, and what secures them.
struct Entry {
    doors: Vec<Door>,
    bound: Vec<(String, SocketAddr)>,
    net: NetConfig,
    secrets: Secrets,
    link_secret: Option<LinkSecret>,
    _watcher: Option<Watcher>,
}

impl Entry {
    fn open(config: &NodeConfig) -> Result<Self, NodeError> {
        let internal = config.internal().name;
        let (mut doors, mut bound, mut watched) = (Vec::new(), Vec::new(), Vec::<Box<dyn Refresh>>::new());
        let mut net = net_config(config);
        for listener in config.all_listeners() {
            let at = listener.listen;
            let socket = listen_on(at).map_err(io(format!("listen on {at}")))?;
            bound.push((listener.name.clone(), socket.local_addr().map_err(io("listen"))?));
            let tls = listener.tls.as_ref().or(config.tls.as_ref()).filter(|_| listener.protocol.is_encrypted());
            let mut door = Door { guarded: listener.protocol.has_sasl(), ..Door::from(socket) };
            if let Some(tls) = tls {
                let dials = config.cluster.is_some() && listener.name == internal;
                let certificates = Certificates::load(tls, dials).map_err(NodeError::Config)?;
                door.tls = Some(certificates.server());
                net.dial_tls = net.dial_tls.or(certificates.client());
                watched.push(Box::new(certificates));
            }
            doors.push(door);
        }
        let mut secrets = Secrets::default();
        if let Some(sasl) = config.sasl.as_ref().filter(|_| doors.iter().any(|door| door.guarded)) {
            secrets = Secrets::load(sasl).map_err(NodeError::Config)?;
            watched.extend(secrets.watched(sasl));
        }
        let watcher = (!watched.is_empty()).then(|| Watcher::start(watched, LOOK_AGAIN));
        let watcher = watcher.transpose().map_err(io("start a thread"))?;
        let link_secret = link_secret(config)?;
        Ok(Self { doors, bound, net, secrets, link_secret, _watcher: watcher })
    }
}

/// What the nodes of this cluster prove to each other, if that is how.
fn link_secret(config: &NodeConfig) -> Result<Option<LinkSecret>, NodeError> {
    let auth = config.cluster.as_ref().and_then(|cluster| cluster.authentication.as_ref());
    let Some(LinkAuth::Secret { file }) = auth else { return Ok(None) };
    let bytes = read_bounded(file).map_err(NodeError::Config)?;
    let secret = LinkSecret::new(&bytes).map_err(|why| NodeError::Config(format!("{}: {why}", file.display())))?;
    Ok(Some(secret))
}

/// Asks for as many descriptors as the process may have: shells and service managers give few at first, for programs
/// that use `select`. Returns how many it has.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.unwrap_or(u64::MAX)
}

/// Half of the descriptors are for segment files, the others for connections and the rest.
fn segment_files(descriptors: u64) -> usize {
    usize::try_from(descriptors / 2).unwrap_or(usize::MAX).max(64)
}

enum Chosen {
    Uring(Rc<RefCell<Ring>>),
    Threads,
}

/// Asks the system once; says once what came of it.
fn choose(wish: IoDriver) -> Result<Chosen, NodeError> {
    if wish == IoDriver::Threads {
        return Ok(Chosen::Threads);
    }
    let made = probe_uring().and_then(|()| Ring::new(&RingConfig::default()).map_err(|error| error.to_string()));
    match (made, wish) {
        (Ok(ring), _) => Ok(Chosen::Uring(Rc::new(RefCell::new(ring)))),
        (Err(why), IoDriver::IoUring) => {
            Err(NodeError::Config(format!("io: io-uring was asked for, but {why}; set io to auto or threads")))
        }
        (Err(why), IoDriver::Auto | IoDriver::Threads) => {
            tracing::warn!(%why, "going on with threads in place of io_uring");
            Ok(Chosen::Threads)
        }
    }
}

fn run_uring(
    config: NodeConfig,
    entry: Entry,
    ring: Rc<RefCell<Ring>>,
    stop: &StopHandle,
    on_ready: impl FnOnce(Serving),
) -> Result<(), NodeError> {
    let disk =
        UringDisk::open(&config.data_dir, &UringDiskConfig::default(), Rc::clone(&ring)).map_err(OpenError::Disk)?;
    let core = open(config, &entry, disk, "io_uring", on_ready)?;
    let (core, outcome) = UringDriver::new(core, ring, entry.doors, stop, &entry.net).map_err(stopped)?.run();
    close(core, outcome)
}

fn run_threads(
    config: NodeConfig,
    entry: Entry,
    stop: &StopHandle,
    on_ready: impl FnOnce(Serving),
) -> Result<(), NodeError> {
    let disk = ThreadDisk::open(&config.data_dir, &ThreadDiskConfig::default()).map_err(OpenError::Disk)?;
    let wake = disk.wake_fd();
    let core = open(config, &entry, disk, "threads", on_ready)?;
    let driver = ThreadsDriver::new(core, entry.doors, Some(wake), stop, &entry.net).map_err(stopped)?;
    let (core, outcome) = driver.run();
    close(core, outcome)
}

fn open<D: Disk>(
    config: NodeConfig,
    entry: &Entry,
    disk: D,
    driver: &'static str,
    on_ready: impl FnOnce(Serving),
) -> Result<Core<Engine<D>>, NodeError> {
    let listeners = entry.bound.clone();
    let bound: Vec<SocketAddr> = listeners.iter().map(|(_, addr)| *addr).collect();
    let addr = bound.first().copied().unwrap_or(config.listen);
    let endpoints = config.advertised_at(&bound);
    let mut core = Core::open(config, endpoints, disk, now())?;
    core.use_cost_clock(|| now().monotonic_ns);
    core.use_secrets(entry.secrets.clone());
    if let Some(secret) = &entry.link_secret {
        core.use_link_secret(secret.clone());
    }
    tracing::info!(?listeners, driver, "serving");
    on_ready(Serving { addr, listeners, driver, stats: core.stats() });
    Ok(core)
}

/// After an orderly end everything is written out, so that the next start has nothing to replay.
fn close<D: Disk>(mut core: Core<Engine<D>>, outcome: Result<(), DriverError>) -> Result<(), NodeError> {
    outcome.map_err(stopped)?;
    core.close(now()).map_err(|error| NodeError::Stopped(error.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn stopped(error: DriverError) -> NodeError {
    NodeError::Stopped(error.to_string())
}

fn net_config(config: &NodeConfig) -> NetConfig {
    NetConfig { max_frame_bytes: config.limits.request_bytes, ..NetConfig::default() }
}

/// One node per data directory: the lock goes with the file, and so with the process, however it ends.
fn lock(config: &NodeConfig) -> Result<File, NodeError> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).map_err(io(format!("make the data directory {}", dir.display())))?;
    let path = dir.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io(format!("open {}", path.display())))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path: dir.display().to_string() }.into()),
        Err(error) => Err(io(format!("lock {}", path.display()))(error.into())),
    }
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NodeError {
    let what = what.into();
    move |source| NodeError::Io { what, source }
}

#[cfg(test)]
mod tests;
