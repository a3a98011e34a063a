//! A producer that saturates a cluster over plain sockets: several connections to each broker, many requests in flight on
//! each, in turn over the partitions that the broker leads. It follows leaders: a refusal or a broken connection makes it ask
//! who leads, and go on; what was not acknowledged is not counted.
//! The partitions are the only difference between a run over three of them and a run over ten thousand.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::view::{Guide, View, retriable};
use crate::frame::batch;
use crate::raw::{connect, head, now_ms, read_answer, write_both};

/// Between two attempts to connect, and the age at which the view of leaders is renewed when it proved wrong.
const RETRY: Duration = Duration::from_millis(20);
/// How long a new topic may take to have a leader that the brokers know.
const LEADERS_WITHIN: Duration = Duration::from_secs(10);

/// What it does.
#[derive(Clone, Debug, Args)]
pub struct ClusterPipelineArgs {
    /// Brokers to begin with.
    #[arg(long, value_delimiter = ',')]
    pub brokers: Vec<SocketAddr>,
    /// The topic; all its partitions are produced to.
    #[arg(long)]
    pub topic: String,
    /// Size of a message.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Bytes of messages in a request; a request is one batch for one partition.
    #[arg(long, default_value_t = 16 << 10)]
    pub batch_bytes: usize,
    /// Connections to each broker. (Kafka works on one request of a connection at a time, and with acks=all that is one
    /// round of replication each.)
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Requests in flight on each connection.
    #[arg(long, default_value_t = 32)]
    pub in_flight: usize,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    pub secs: f64,
}

/// A broker, and heads of requests for the partitions that it leads.
#[derive(Debug)]
struct Route {
    addr: SocketAddr,
    heads: Vec<Vec<u8>>,
}

type Routes = BTreeMap<i32, Route>;

/// What all lanes share.
#[derive(Debug)]
struct Shared {
    routes: RwLock<Arc<Routes>>,
    /// Somebody found the routes wrong.
    stale: AtomicBool,
    refused: AtomicU64,
    broken: AtomicU64,
    latencies: Mutex<Histogram<u64>>,
    records: Vec<u8>,
    end: Instant,
}

impl Shared {
    fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn over(&self) -> bool {
        Instant::now() >= self.end
    }
}

/// Where partitions are led, as soon as a broker knows that any is: one may learn of a new topic later than another.
fn known_routes(guide: &mut Guide, topics: &[String], records: usize) -> Result<Routes> {
    let until = Instant::now() + LEADERS_WITHIN;
    loop {
        let routes = routes(&guide.view(topics)?, records);
        if routes.values().any(|r| !r.heads.is_empty()) {
            return Ok(routes);
        }
        ensure!(Instant::now() < until, "{topics:?} has no partition with a leader");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends for the time that is asked for, waits for all answers, and returns what a load client reports.
pub fn run(args: &ClusterPipelineArgs) -> Result<Value> {
    let count = (args.batch_bytes / args.size.max(1)).max(1);
    let records = batch(count, args.size, now_ms()?);
    let mut guide = Guide::patient(args.brokers.clone());
    let topics = [args.topic.clone()];
    let routes = known_routes(&mut guide, &topics, records.len())?;
    let begin = Instant::now();
    let shared = Shared {
        routes: RwLock::new(Arc::new(routes)),
        stale: AtomicBool::new(false),
        refused: AtomicU64::new(0),
        broken: AtomicU64::new(0),
        latencies: Mutex::new(Histogram::new(3)?),
        records,
        end: begin + Duration::from_secs_f64(args.secs),
    };
    drive(args, &shared, &mut guide)?;
    let secs = begin.elapsed().as_secs_f64();
    let latencies = shared.latencies.into_inner().unwrap_or_else(PoisonError::into_inner);
    let messages = latencies.len() as f64 * count as f64;
    let at = |q| latencies.value_at_quantile(q) / 1000;
    Ok(json!({
        "msgs": messages, "rate": messages / secs, "mb_s": messages / secs * args.size as f64 / 1e6,
        "refused": shared.refused, "broken": shared.broken,
        "ack_us": { "p50": at(0.5), "p99": at(0.99), "p999": at(0.999) },
    }))
}

fn routes(view: &View, records: usize) -> Routes {
    let heads_of = |id: i32| {
        let led = view.partitions.iter().filter(|p| p.leader == Some(id));
        led.map(|p| head(&p.topic, p.index, records)).collect()
    };
    view.brokers.iter().map(|(id, addr)| (*id, Route { addr: *addr, heads: heads_of(*id) })).collect()
}

/// One thread per connection; this one renews the routes.
fn drive(args: &ClusterPipelineArgs, shared: &Shared, guide: &mut Guide) -> Result<()> {
    let topics = [args.topic.clone()];
    std::thread::scope(|threads| {
        let mut lanes = Vec::new();
        for node in shared.routes().keys().copied() {
            for lane in 0..args.connections.max(1) {
                lanes.push(threads.spawn(move || Lane { node, lane, args, shared }.run()));
            }
        }
        while !shared.over() {
            if shared.stale.swap(false, Relaxed)
                && let Ok(view) = guide.view(&topics)
            {
                *shared.routes.write().unwrap_or_else(PoisonError::into_inner) =
                    Arc::new(routes(&view, shared.records.len()));
            }
            std::thread::sleep(RETRY);
        }
        let join = |l: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            l.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?
        };
        lanes.into_iter().try_for_each(join)
    })
}

/// One connection to one broker, made anew when it breaks.
struct Lane<'a> {
    node: i32,
    lane: usize,
    args: &'a ClusterPipelineArgs,
    shared: &'a Shared,
}

/// How a connection ended.
enum Ended {
    Over,
    Broken,
}

impl Lane<'_> {
    fn run(&self) -> Result<()> {
        while !self.shared.over() {
            match self.session()? {
                Ended::Over => return Ok(()),
                Ended::Broken => {
                    self.shared.broken.fetch_add(1, Relaxed);
                    self.shared.stale.store(true, Relaxed);
                    std::thread::sleep(RETRY);
                }
            }
        }
        Ok(())
    }

    fn session(&self) -> Result<Ended> {
        let routes = self.shared.routes();
        let addr = routes.get(&self.node).map(|r| r.addr);
        let Some(stream) = addr.and_then(|a| connect(a).ok()) else { return Ok(Ended::Broken) };
        let answers = BufReader::with_capacity(1 << 16, stream.try_clone()?);
        let (sent, to_answer) = sync_channel(self.args.in_flight.max(1));
        std::thread::scope(|threads| {
            let reader = threads.spawn(move || self.read(answers, &to_answer));
            let written = self.write(stream, &sent);
            drop(sent);
            let read = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
            Ok(if matches!((written, read), (Ended::Over, Ended::Over)) { Ended::Over } else { Ended::Broken })
        })
    }

    fn write(&self, mut stream: TcpStream, sent: &SyncSender<Instant>) -> Ended {
        let mut turn = None;
        while !self.shared.over() {
            let routes = self.shared.routes();
            let heads = routes.get(&self.node).map_or(&[][..], |r| &r.heads);
            if heads.is_empty() {
                std::thread::sleep(RETRY); // leads nothing at the moment
                continue;
            }
            // Connections to the same broker begin at different partitions.
            let at = turn.map_or(self.lane * heads.len() / self.args.connections.max(1), |t: usize| t + 1);
            turn = Some(at);
            let gone = sent.send(Instant::now()).is_err();
            if gone || write_both(&mut stream, &heads[at % heads.len()], &self.shared.records).is_err() {
                return Ended::Broken;
            }
        }
        Ended::Over
    }

    fn read(&self, mut stream: BufReader<TcpStream>, sent: &Receiver<Instant>) -> Result<Ended> {
        let (mut latencies, mut answer) = (Histogram::<u64>::new(3)?, Vec::new());
        let mut ended = Ended::Over;
        for begin in sent {
            let Ok((error, _)) = read_answer(&mut stream, &mut answer) else {
                ended = Ended::Broken;
                break;
            };
            match error {
                0 => latencies.record(u64::try_from(begin.elapsed().as_nanos())?)?,
                _ if retriable(error) => {
                    self.shared.refused.fetch_add(1, Relaxed);
                    self.shared.stale.store(true, Relaxed);
                }
                _ => bail!("broker {} answered Produce with error {error}", self.node),
            }
        }
        let mut all = self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        all.add(&latencies).context("latencies")?;
        Ok(ended)
    }
}
