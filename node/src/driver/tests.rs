//! One suite over both drivers, with a shard that echoes.

mod dials;
mod tls;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wherry_log::io::{Ring, RingConfig, probe_uring};

use super::threads::ThreadsDriver;
use super::uring::UringDriver;
use super::*;
use crate::net::tls::ServerTls;
use crate::net::{Door, NetConfig, listen_on};

/// Far more than anything here takes; only a failure waits this long.
const SOON: Duration = Duration::from_secs(30);
/// Output that the echo shard lets a peer owe it.
const UNSENT_LIMIT: usize = 1 << 20;

#[derive(Debug, Default)]
struct Counts {
    connected: AtomicUsize,
    disconnected: AtomicUsize,
    frames: AtomicUsize,
    most_unsent: AtomicUsize,
    pauses: AtomicUsize,
    /// What came of dials, and what dialled peers said.
    dials: Mutex<Vec<Result<(), ConnectError>>>,
    heard: Mutex<Vec<Bytes>>,
    secured: Mutex<Vec<(ConnId, Secured)>>,
}

/// Sends every frame back. `close` is answered and then closed, `stop` stops the node. `dial HOST PORT` connects, says
/// `hello` there and writes down what it hears, and `hang up` closes all of those.
#[derive(Debug)]
struct Echo {
    counts: Arc<Counts>,
    limit: usize,
    next: u32,
    conns: HashMap<ConnId, (usize, bool)>,
    effects: Vec<Effect>,
    stopping: bool,
    dialled: HashSet<ConnId>,
    /// Those that were asked to close: what they were owed may still be told as sent.
    closing: HashSet<ConnId>,
}

impl Shard for Echo {
    fn connected(&mut self, _: Now, _: ListenerId, _: SocketAddr) -> Result<ConnId, Refused> {
        if self.conns.len() >= self.limit {
            return Err(Refused::TooMany { limit: self.limit });
        }
        self.next += 1;
        let id = ConnId { slot: self.next, generation: 1 };
        self.conns.insert(id, (0, false));
        self.counts.connected.fetch_add(1, Ordering::SeqCst);
        Ok(id)
    }

    fn secured(&mut self, _: Now, conn: ConnId, secured: Secured) {
        self.counts.secured.lock().unwrap().push((conn, secured));
    }

    fn leave(&mut self, _: Now) {}

    fn has_left(&self) -> bool {
        true
    }

    fn connect_done(&mut self, _: Now, conn: ConnId, result: Result<(), ConnectError>) {
        assert!(self.dialled.contains(&conn), "nobody waits for this dial");
        match &result {
            Ok(()) => {
                let chunks = vec![Bytes::from_static(b"\0\0\0\x05"), Bytes::from_static(b"hello")];
                self.effects.push(Effect::Send { conn, chunks });
            }
            Err(_) => assert!(self.dialled.remove(&conn)),
        }
        self.counts.dials.lock().unwrap().push(result);
    }

    fn received(&mut self, _: Now, conn: ConnId, frame: Bytes) {
        if self.dialled.contains(&conn) {
            self.counts.heard.lock().unwrap().push(frame);
            return;
        }
        let (unsent, paused) = self.conns.get_mut(&conn).expect("frames come from connections that are known");
        self.counts.frames.fetch_add(1, Ordering::SeqCst);
        let prefix = Bytes::copy_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
        *unsent += prefix.len() + frame.len();
        self.counts.most_unsent.fetch_max(*unsent, Ordering::SeqCst);
        if *unsent > UNSENT_LIMIT && !*paused {
            *paused = true;
            self.counts.pauses.fetch_add(1, Ordering::SeqCst);
            self.effects.push(Effect::PauseReads { conn });
        }
        let last = frame.clone();
        self.effects.push(Effect::Send { conn, chunks: vec![prefix, frame] });
        match last.as_ref() {
            b"close" => {
                self.conns.remove(&conn);
                self.closing.insert(conn);
                self.effects.push(Effect::Close { conn, reason: "asked to".into() });
            }
            b"hang up" => self.hang_up(),
            dial if dial.starts_with(b"dial ") => self.dial(std::str::from_utf8(dial).unwrap()),
            b"stop" => self.effects.push(Effect::Stop { reason: "asked to".into() }),
            _ => {}
        }
    }

    fn disconnected(&mut self, conn: ConnId) {
        assert!(
            self.conns.remove(&conn).is_some() || self.dialled.remove(&conn),
            "disconnected twice, or after a close"
        );
        self.counts.disconnected.fetch_add(1, Ordering::SeqCst);
    }

    fn turn(&mut self, _: Now) {}

    fn take_effects(&mut self, out: &mut Vec<Effect>) {
        out.append(&mut self.effects);
    }

    fn sent(&mut self, conn: ConnId, bytes: usize) {
        let known = self.conns.contains_key(&conn) || self.dialled.contains(&conn) || self.closing.contains(&conn);
        assert!(known, "sent to nobody");
        let Some((unsent, paused)) = self.conns.get_mut(&conn) else { return };
        *unsent = unsent.checked_sub(bytes).expect("no more is sent than was asked for");
        if *paused && *unsent < UNSENT_LIMIT / 2 {
            *paused = false;
            self.effects.push(Effect::ResumeReads { conn });
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        None
    }

    fn stop(&mut self, _: Now) {
        self.stopping = true;
    }

    fn is_quiet(&self) -> bool {
        true
    }
}

impl Echo {
    fn dial(&mut self, command: &str) {
        let mut words = command.split(' ').skip(1);
        let (host, port) = (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap());
        self.next += 1;
        let conn = ConnId { slot: self.next, generation: 1 };
        self.dialled.insert(conn);
        self.effects.push(Effect::Connect { conn, host, port });
    }

    fn hang_up(&mut self) {
        for conn in self.dialled.drain() {
            self.effects.push(Effect::Close { conn, reason: "asked to".into() });
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Uring,
    Threads,
}

struct Server {
    addr: SocketAddr,
    counts: Arc<Counts>,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), DriverError>>>,
}

impl Server {
    fn start(kind: Kind, config: &NetConfig, limit: usize) -> Self {
        Self::secured(kind, config, limit, None)
    }

    fn secured(kind: Kind, config: &NetConfig, limit: usize, tls: Option<Arc<ServerTls>>) -> Self {
        let listener = listen_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let door = Door { tls, ..listener.into() };
        let counts = Arc::new(Counts::default());
        let stop = StopHandle::new().unwrap();
        let thread = {
            let (counts, stop, config) = (Arc::clone(&counts), stop.clone(), config.clone());
            std::thread::spawn(move || {
                let conns = HashMap::new();
                let shard = Echo {
                    counts,
                    limit,
                    next: 0,
                    conns,
                    effects: Vec::new(),
                    stopping: false,
                    dialled: HashSet::new(),
                    closing: HashSet::new(),
                };
                let (shard, outcome) = match kind {
                    Kind::Threads => ThreadsDriver::new(shard, vec![door], None, &stop, &config).unwrap().run(),
                    Kind::Uring => {
                        let ring = Rc::new(RefCell::new(Ring::new(&RingConfig::default()).unwrap()));
                        UringDriver::new(shard, ring, vec![door], &stop, &config).unwrap().run()
                    }
                };
                assert!(
                    shard.conns.is_empty() && shard.dialled.is_empty(),
                    "connections that nobody told the shard were gone"
                );
                outcome
            })
        };
        Self { addr, counts, stop, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        stream
    }

    fn end(mut self) -> Result<(), DriverError> {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Runs a test on each driver that this machine permits.
fn both(config: &NetConfig, limit: usize, test: impl Fn(&Server)) {
    let mut kinds = vec![Kind::Threads];
    match probe_uring() {
        Ok(()) => kinds.push(Kind::Uring),
        Err(why) => println!("skipped on io_uring: {why}"),
    }
    for kind in kinds {
        let server = Server::start(kind, config, limit);
        test(&server);
        server.end().unwrap_or_else(|e| panic!("{kind:?}: {e}"));
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(rest.is_empty(), "{} bytes instead of an end", rest.len()),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset, "{e}"),
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < SOON, "never happened: {what}");
        std::thread::yield_now();
    }
}

fn body(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 7 + i / 251 + seed) % 256).unwrap()).collect()
}

#[test]
fn pipelined_frames_come_back_in_order() {
    both(&NetConfig::default(), 100, |server| {
        let mut stream = server.connect();
        let sizes = [0, 1, 5, 100, 4096, 16_380, 16_384, 40_000, 3, 100_000, 7];
        let bodies: Vec<Vec<u8>> = (0..400).map(|i| body(sizes[i % sizes.len()], i)).collect();
        let all: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        let mut writer = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&all).unwrap());
        for (index, body) in bodies.iter().enumerate() {
            assert!(&read_frame(&mut stream) == body, "frame {index} differs");
        }
        sender.join().unwrap();
    });
}

#[test]
fn frames_may_arrive_byte_by_byte() {
    both(&NetConfig::default(), 100, |server| {
        let mut stream = server.connect();
        for size in [0, 1, 300] {
            for byte in frame(&body(size, 1)) {
                stream.write_all(&[byte]).unwrap();
            }
            assert_eq!(read_frame(&mut stream), body(size, 1));
        }
    });
}

#[test]
fn huge_frames_pass() {
    both(&NetConfig::default(), 100, |server| {
        let mut stream = server.connect();
        for round in 0..3 {
            let sent = body(30 << 20, round);
            let mut writer = stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                writer.write_all(&frame(&sent)).unwrap();
                sent
            });
            let received = read_frame(&mut stream);
            assert!(received == sender.join().unwrap());
        }
    });
}

#[test]
fn an_oversize_frame_closes_its_connection_only() {
    let config = NetConfig { max_frame_bytes: 1000, ..NetConfig::default() };
    both(&config, 100, |server| {
        let mut good = server.connect();
        for declared in [1001_u32, u32::MAX, 1 << 31] {
            let mut bad = server.connect();
            bad.write_all(&frame(b"before")).unwrap();
            assert_eq!(read_frame(&mut bad), b"before");
            bad.write_all(&declared.to_be_bytes()).unwrap();
            ends(&mut bad);
        }
        good.write_all(&frame(&body(1000, 0))).unwrap();
        assert_eq!(read_frame(&mut good), body(1000, 0));
        until("three were told gone", || server.counts.disconnected.load(Ordering::SeqCst) == 3);
    });
}

#[test]
fn a_close_sends_what_is_owed_first() {
    both(&NetConfig::default(), 100, |server| {
        for size in [10, 3 << 20] {
            let mut stream = server.connect();
            let sent = body(size, 3);
            let mut writer = stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                writer.write_all(&frame(&sent)).unwrap();
                writer.write_all(&frame(b"close")).unwrap();
                sent
            });
            let received = read_frame(&mut stream);
            assert!(received == sender.join().unwrap());
            assert_eq!(read_frame(&mut stream), b"close");
            ends(&mut stream);
        }
        assert_eq!(server.counts.disconnected.load(Ordering::SeqCst), 0, "the shard closed them itself");
    });
}

#[test]
fn disconnects_in_the_middle_of_a_frame_are_noticed() {
    both(&NetConfig::default(), 5000, |server| {
        for cut in [0, 1, 3, 4, 5, 1000, 50_000] {
            let mut stream = server.connect();
            stream.write_all(&frame(&body(100_000, 1))[..cut]).unwrap();
        }
        until("all are gone", || server.counts.disconnected.load(Ordering::SeqCst) == 7);
        assert_eq!(server.counts.frames.load(Ordering::SeqCst), 0);
        let mut stream = server.connect();
        stream.write_all(&frame(b"still there")).unwrap();
        assert_eq!(read_frame(&mut stream), b"still there");
    });
}

#[test]
fn peers_that_vanish_while_answers_are_on_their_way_do_no_harm() {
    both(&NetConfig::default(), 5000, |server| {
        for round in 0..50 {
            let mut stream = server.connect();
            for _ in 0..20 {
                stream.write_all(&frame(&body(20_000, round))).unwrap();
            }
        }
        until("all are gone", || server.counts.disconnected.load(Ordering::SeqCst) == 50);
    });
}

#[test]
fn a_slow_reader_is_not_read_and_loses_nothing() {
    both(&NetConfig::default(), 100, |server| {
        let mut stream = server.connect();
        let one = body(100_000, 9);
        let mut writer = stream.try_clone().unwrap();
        let sent = one.clone();
        let sender = std::thread::spawn(move || {
            for _ in 0..400 {
                writer.write_all(&frame(&sent)).unwrap();
            }
        });
        until("reading is paused", || server.counts.pauses.load(Ordering::SeqCst) > 0);
        let mut other = server.connect();
        other.write_all(&frame(b"others go on")).unwrap();
        assert_eq!(read_frame(&mut other), b"others go on");
        for _ in 0..400 {
            assert!(read_frame(&mut stream) == one);
        }
        sender.join().unwrap();
        let most = server.counts.most_unsent.load(Ordering::SeqCst);
        assert!(most < UNSENT_LIMIT + (2 << 20), "{most} bytes were owed to a peer that did not read");
    });
}

#[test]
fn who_does_not_read_at_all_is_given_up() {
    let config = NetConfig { send_timeout: Duration::from_millis(300), ..NetConfig::default() };
    both(&config, 100, |server| {
        let mut stream = server.connect();
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let one = frame(&body(1 << 20, 9));
        until("given up", || {
            let _would_block = (&stream).write(&one);
            server.counts.disconnected.load(Ordering::SeqCst) == 1
        });
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut left = Vec::new();
        let _ended = stream.read_to_end(&mut left);
    });
}

#[test]
fn half_sent_frames_and_idle_connections_time_out() {
    let config = NetConfig { frame_timeout: Duration::from_millis(200), ..NetConfig::default() };
    both(&config, 100, |server| {
        let mut silent = server.connect();
        let mut begun = server.connect();
        begun.write_all(&frame(b"0123456789")[..7]).unwrap();
        ends(&mut begun);
        // Drop by drop does not help: the whole frame has its time.
        let mut dripping = server.connect();
        let drip = frame(&body(1 << 20, 1));
        let began = Instant::now();
        let mut at = 0;
        while dripping.write_all(&drip[at..=at]).is_ok() {
            assert!(began.elapsed() < SOON, "a frame may take for ever");
            at += 1;
            std::thread::yield_now();
            if at == 1000 {
                break;
            }
        }
        ends(&mut dripping);
        silent.write_all(&frame(b"patient")).unwrap();
        assert_eq!(read_frame(&mut silent), b"patient");
    });
    let config = NetConfig { idle_timeout: Duration::from_millis(200), ..NetConfig::default() };
    both(&config, 100, |server| {
        let mut idle = server.connect();
        ends(&mut idle);
    });
}

#[test]
fn connections_over_the_bound_are_closed_and_there_is_room_again() {
    both(&NetConfig::default(), 3, |server| {
        let mut kept: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
        for stream in &mut kept {
            stream.write_all(&frame(b"x")).unwrap();
            assert_eq!(read_frame(stream), b"x");
        }
        ends(&mut server.connect());
        drop(kept.pop());
        until("one is gone", || server.counts.disconnected.load(Ordering::SeqCst) == 1);
        let mut next = server.connect();
        next.write_all(&frame(b"room")).unwrap();
        assert_eq!(read_frame(&mut next), b"room");
    });
}

#[test]
fn a_full_budget_slows_and_never_stops() {
    // Room for three of the frames that twenty connections send at the same time.
    let config = NetConfig { partial_frames_bytes: 3 << 20, ..NetConfig::default() };
    both(&config, 100, |server| {
        let streams: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
        std::thread::scope(|scope| {
            for (seed, stream) in streams.iter().enumerate() {
                scope.spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    let sent = body(1 << 20, seed);
                    for _ in 0..3 {
                        (&*stream).write_all(&frame(&sent)).unwrap();
                        assert!(read_frame(&mut reader) == sent);
                    }
                });
            }
        });
    });
}

/// Memory is a matter of the whole process, so this one runs alone in a process of its own.
#[test]
fn thousands_of_stuck_connections_cost_little() {
    const ALONE: &str = "WHERRY_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        stuck_connections();
        return;
    }
    let name = "driver::tests::thousands_of_stuck_connections_cost_little";
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "see above");
}

fn stuck_connections() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // Both ends of a connection are in this process, and the drivers run one after the other.
    let count = usize::try_from(limit.maximum.unwrap_or(u64::MAX) / 3).unwrap_or(usize::MAX).min(10_000);
    if count < 10_000 {
        println!("with {count} connections only: the hard limit of open files is {:?}", limit.maximum);
    }
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    both(&NetConfig::default(), 50_000, |server| {
        let before = resident_bytes();
        let streams: Vec<TcpStream> = (0..count)
            .map(|index| {
                let mut stream = server.connect();
                // A third idle, a third inside a prefix, a third inside a frame that claims 100 MB.
                let sent = [&[][..], &[0, 0][..], &[5, 0xf5, 0xe1, 0, 1, 2, 3][..]][index % 3];
                stream.write_all(sent).unwrap();
                stream
            })
            .collect();
        until("all are accepted", || server.counts.connected.load(Ordering::SeqCst) == count);
        let mut alive = server.connect();
        for _ in 0..100 {
            alive.write_all(&frame(&body(50_000, 2))).unwrap();
            assert!(read_frame(&mut alive) == body(50_000, 2));
        }
        let grown = resident_bytes().saturating_sub(before);
        println!("{grown} bytes for {count} connections");
        assert!(grown < count * 2048 + (8 << 20), "{grown} bytes for {count} connections");
        drop(streams);
        until("all are gone", || server.counts.disconnected.load(Ordering::SeqCst) == count);
    });
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn stopping_closes_everything_and_refuses_newcomers() {
    let mut kinds = vec![Kind::Threads];
    kinds.extend(probe_uring().ok().map(|()| Kind::Uring));
    for kind in kinds {
        let server = Server::start(kind, &NetConfig::default(), 10);
        let addr = server.addr;
        let mut stream = server.connect();
        stream.write_all(&frame(b"x")).unwrap();
        assert_eq!(read_frame(&mut stream), b"x");
        server.end().unwrap();
        ends(&mut stream);
        assert!(TcpStream::connect(addr).is_err(), "{kind:?}: the port is still open");
    }
}

#[test]
fn a_shard_that_gives_up_ends_its_driver() {
    let mut kinds = vec![Kind::Threads];
    kinds.extend(probe_uring().ok().map(|()| Kind::Uring));
    for kind in kinds {
        let mut server = Server::start(kind, &NetConfig::default(), 10);
        let mut stream = server.connect();
        stream.write_all(&frame(b"stop")).unwrap();
        let outcome = server.thread.take().unwrap().join().unwrap();
        assert!(matches!(outcome, Err(DriverError::Stopped(reason)) if reason == "asked to"));
    }
}
