//! A steady producer that watches for gaps: each partition has one batch of one record on its way, every so often, and the
//! longest time between two acknowledgements of each partition is kept. A client of its own, written against the protocol
//! only, with short backoffs; it shares nothing with any broker's client library.
//!
//! ```text
//!   partition:  Due --(sent to its leader)--> Sent --(acknowledged)--> Due, `every` after it was sent
//!                ^                              |
//!                +---(refused, broken link, ----+  and the leaders are asked for
//!                     led elsewhere by now)
//! ```
//!
//! It runs as a process of its own and takes commands on its standard input, as `wherry-load steady` does; see
//! [`super::watch`]. It must not know what is done to the brokers.

mod links;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::view::{Guide, Partition, View, retriable};
use crate::frame::batch;
use crate::raw::now_ms;
use links::{Life, Link};

/// Longest sleep.
const TICK: Duration = Duration::from_millis(5);
/// How often what is due is sent, all of it for a broker in one request.
const SEND_EVERY: Duration = Duration::from_millis(20);
/// Until a refused batch is sent again.
const BACKOFF: Duration = Duration::from_millis(20);
/// The leaders are asked for at most so often, and at least so often.
const VIEW_EVERY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Nothing came from a broker for so long: somebody else may lead what it led.
const SILENCE: Duration = Duration::from_millis(500);
/// A batch that no broker took for so long is an error that an application would see.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Events on their way to the one thread that has the state.
const EVENTS: usize = 4096;

/// What it does.
#[derive(Clone, Debug, Args)]
pub struct SteadyArgs {
    /// Brokers to begin with.
    #[arg(long, value_delimiter = ',')]
    pub brokers: Vec<SocketAddr>,
    /// The topic; all its partitions are produced to.
    #[arg(long)]
    pub topic: String,
    /// Size of a message.
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Milliseconds between two messages to a partition.
    #[arg(long, default_value_t = 100)]
    pub every_ms: u64,
    /// A request that is not answered in this time costs the connection. (Much shorter, and a client that repeats itself is
    /// what keeps a slow broker slow.)
    #[arg(long, default_value_t = 10_000)]
    pub request_timeout_ms: u64,
}

/// What happens to the producer.
#[derive(Debug)]
enum Event {
    /// A connection is there.
    Up(Life, std::net::TcpStream),
    /// Partitions with their error codes, and when the answer came.
    Answer(Life, Instant, Vec<(i32, i16)>),
    /// The connection is gone.
    Down(Life),
    /// Who leads.
    View(View),
    /// A line on standard input.
    Command(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Due(Instant),
    Sent(Life),
}

#[derive(Debug)]
struct Watched {
    leader: Option<i32>,
    epoch: i32,
    state: State,
    /// When its batch was first due, as long as it is not acknowledged.
    since: Instant,
    last_ack: Instant,
    gap: Duration,
}

impl Watched {
    fn new(now: Instant, first: Instant) -> Watched {
        Watched { leader: None, epoch: -1, state: State::Due(first), since: first, last_ack: now, gap: Duration::ZERO }
    }

    fn acknowledged(&mut self, at: Instant, every: Duration) {
        self.gap = self.gap.max(at.saturating_duration_since(self.last_ack));
        self.last_ack = at;
        self.since = at.max(self.since + every);
        self.state = State::Due(self.since);
    }

    fn again(&mut self, now: Instant) {
        self.state = State::Due(now + BACKOFF);
    }

    /// Follows a leader. What is on its way to the one before goes to the new one: a broker that was stopped may not answer
    /// for long, and one that lost its leadership can't acknowledge. (A batch may so be written twice.) Says whether it does.
    fn follow(&mut self, seen: &Partition, now: Instant) -> bool {
        if seen.epoch < self.epoch {
            return false;
        }
        let lost = matches!(self.state, State::Sent(life) if seen.epoch > self.epoch && seen.leader != Some(life.node));
        (self.leader, self.epoch) = (seen.leader, seen.epoch);
        if lost {
            self.state = State::Due(now);
        }
        lost
    }

    /// The longest gap since the last report, one that has not ended included; a new one begins.
    fn take_gap(&mut self, now: Instant) -> Duration {
        std::mem::take(&mut self.gap).max(now.saturating_duration_since(self.last_ack))
    }
}

/// What is counted between two reports.
#[derive(Debug, Default)]
struct Counts {
    acked: u64,
    retried: u64,
    broken: u64,
    errors: u64,
    codes: BTreeMap<i16, u64>,
}

#[derive(Debug)]
struct Steady {
    topic: String,
    every: Duration,
    request_timeout: Duration,
    records: Vec<u8>,
    partitions: BTreeMap<i32, Watched>,
    links: BTreeMap<i32, Link>,
    events: SyncSender<Event>,
    view_wanted: Arc<AtomicBool>,
    counts: Counts,
}

/// Produces until standard input ends.
pub fn run(args: &SteadyArgs) -> Result<()> {
    let (events, inbox) = sync_channel(EVENTS);
    let topics = vec![args.topic.clone()];
    let mut guide = Guide::new(args.brokers.clone());
    let view = guide.view(&topics)?;
    ensure!(!view.partitions.is_empty(), "{} has no partitions", args.topic);
    let mut steady = Steady::new(args, &view, events.clone())?;
    let wanted = Arc::clone(&steady.view_wanted);
    let views = events.clone();
    std::thread::spawn(move || watch_leaders(&mut guide, &topics, &wanted, &views));
    std::thread::spawn(move || read_commands(&events));
    steady.see(view);
    steady.serve(&inbox)
}

/// Asks who leads when it is wanted, and now and then; ends with the process.
fn watch_leaders(guide: &mut Guide, topics: &[String], wanted: &AtomicBool, events: &SyncSender<Event>) {
    let mut asked = Instant::now();
    loop {
        std::thread::sleep(TICK);
        let age = asked.elapsed();
        if age < VIEW_EVERY.0 || (age < VIEW_EVERY.1 && !wanted.load(Relaxed)) {
            continue;
        }
        wanted.store(false, Relaxed);
        asked = Instant::now();
        match guide.view(topics) {
            Ok(view) => {
                if events.send(Event::View(view)).is_err() {
                    return;
                }
            }
            Err(_) => wanted.store(true, Relaxed), // the next broker then
        }
    }
}

fn read_commands(events: &SyncSender<Event>) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if events.send(Event::Command(line)).is_err() {
            return;
        }
    }
    std::process::exit(0); // whoever wanted to know is gone
}

impl Steady {
    fn new(args: &SteadyArgs, view: &View, events: SyncSender<Event>) -> Result<Steady> {
        let (now, every) = (Instant::now(), Duration::from_millis(args.every_ms));
        let count = u32::try_from(view.partitions.len())?;
        // Spread over the interval, as if they were many applications.
        let first = |at: usize| now + every * u32::try_from(at).unwrap_or(0) / count;
        let watched = |(at, p): (usize, &Partition)| (p.index, Watched::new(now, first(at)));
        Ok(Steady {
            topic: args.topic.clone(),
            every,
            request_timeout: Duration::from_millis(args.request_timeout_ms),
            records: batch(1, args.size, now_ms()?),
            partitions: view.partitions.iter().enumerate().map(watched).collect(),
            links: BTreeMap::new(),
            events,
            view_wanted: Arc::new(AtomicBool::new(false)),
            counts: Counts::default(),
        })
    }

    fn serve(&mut self, inbox: &Receiver<Event>) -> Result<()> {
        let mut sent = Instant::now();
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(event) => self.step(event)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            if now - sent >= SEND_EVERY {
                sent = now;
                self.links.values_mut().for_each(|l| l.expire(now, self.request_timeout));
                if self.links.values().any(|l| l.silent_for(now) > SILENCE) {
                    self.view_wanted.store(true, Relaxed);
                }
                self.give_up(now);
                self.send_due(now);
            }
        }
    }

    fn step(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Up(life, stream) => self.link(life.node).context("a link that nobody made")?.up(life, stream),
            Event::Answer(life, at, results) => self.answered(life, at, &results),
            Event::Down(life) => self.down(life),
            Event::View(view) => self.see(view),
            Event::Command(command) => self.report(command.trim())?,
        }
        Ok(())
    }

    fn link(&mut self, node: i32) -> Option<&mut Link> {
        self.links.get_mut(&node)
    }

    /// Follows leaders, and connects to brokers that it did not know.
    fn see(&mut self, view: View) {
        let now = Instant::now();
        for seen in &view.partitions {
            if let Some(watched) = self.partitions.get_mut(&seen.index) {
                self.counts.retried += u64::from(watched.follow(seen, now));
            }
        }
        for (node, addr) in view.brokers {
            let events = &self.events;
            self.links.entry(node).or_insert_with(|| Link::open(node, addr, events.clone()));
        }
    }

    fn answered(&mut self, life: Life, at: Instant, results: &[(i32, i16)]) {
        if let Some(link) = self.link(life.node) {
            link.answered(life);
        }
        for (index, error) in results {
            let Some(watched) = self.partitions.get_mut(index).filter(|w| w.state == State::Sent(life)) else {
                continue;
            };
            if *error == 0 {
                watched.acknowledged(at, self.every);
                self.counts.acked += 1;
                continue;
            }
            watched.again(at);
            *self.counts.codes.entry(*error).or_default() += 1;
            let count = if retriable(*error) { &mut self.counts.retried } else { &mut self.counts.errors };
            *count += 1;
            self.view_wanted.store(true, Relaxed);
        }
    }

    fn down(&mut self, life: Life) {
        if let Some(link) = self.link(life.node) {
            link.down(life);
        }
        let now = Instant::now();
        let lost = self.partitions.values_mut().filter(|w| w.state == State::Sent(life));
        let lost = lost.map(|w| w.again(now)).count();
        self.counts.retried += lost as u64;
        self.counts.broken += 1;
        self.view_wanted.store(true, Relaxed);
    }

    /// An application would be told of a batch that was not taken for so long; it goes on with the next one.
    fn give_up(&mut self, now: Instant) {
        for watched in
            self.partitions.values_mut().filter(|w| now.saturating_duration_since(w.since) > DELIVERY_TIMEOUT)
        {
            watched.since = now;
            self.counts.errors += 1;
        }
    }

    /// One request to each broker, with all that is due there.
    fn send_due(&mut self, now: Instant) {
        let mut due: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for (index, watched) in &self.partitions {
            match (watched.state, watched.leader) {
                (State::Due(at), Some(leader)) if at <= now => due.entry(leader).or_default().push(*index),
                (State::Due(at), None) if at <= now => self.view_wanted.store(true, Relaxed),
                _ => {}
            }
        }
        for (node, indexes) in due {
            let sent = self.links.get_mut(&node).and_then(|l| l.send(now, &self.topic, &indexes, &self.records));
            match sent {
                Some(life) => self.sent(&indexes, State::Sent(life)),
                None => self.view_wanted.store(true, Relaxed), // not connected: somebody else may lead by now
            }
        }
    }

    fn sent(&mut self, indexes: &[i32], state: State) {
        for index in indexes {
            if let Some(watched) = self.partitions.get_mut(index) {
                watched.state = state;
            }
        }
    }

    fn report(&mut self, command: &str) -> Result<()> {
        let now = Instant::now();
        let said = match command {
            "age" => {
                let age = |w: &Watched| now.saturating_duration_since(w.last_ack);
                json!({"age_ms": ms(self.partitions.values().map(age).max().unwrap_or_default())})
            }
            "take" => self.take(now),
            other => json!({"error": format!("{other:?} is not known: age, take")}),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{said}")?;
        Ok(out.flush()?)
    }

    fn take(&mut self, now: Instant) -> Value {
        let gaps: Vec<(i32, f64)> = self.partitions.iter_mut().map(|(i, w)| (*i, ms(w.take_gap(now)))).collect();
        let c = std::mem::take(&mut self.counts);
        json!({
            "gaps_ms": gaps, "acked": c.acked, "retried": c.retried, "broken": c.broken, "errors": c.errors, "codes": c.codes,
        })
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(leader: i32, epoch: i32) -> Partition {
        let nodes = vec![0, 1];
        Partition { topic: "t".into(), index: 0, leader: Some(leader), epoch, replicas: nodes.clone(), in_sync: nodes }
    }

    #[test]
    fn the_longest_gap_is_kept_and_an_open_one_counts() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut watched = Watched::new(begin, begin);
        for ms in [100, 900, 1000] {
            watched.acknowledged(at(ms), Duration::from_millis(100));
        }
        assert_eq!(watched.take_gap(at(1100)), Duration::from_millis(800));
        assert_eq!(watched.take_gap(at(1300)), Duration::from_millis(300));
    }

    #[test]
    fn an_older_epoch_is_not_followed() {
        let now = Instant::now();
        let mut watched = Watched::new(now, now);
        watched.follow(&seen(1, 5), now);
        watched.follow(&seen(0, 4), now);
        assert_eq!(watched.leader, Some(1));
    }

    #[test]
    fn what_is_on_its_way_to_an_old_leader_goes_to_the_new_one() {
        let now = Instant::now();
        let mut watched = Watched::new(now, now);
        watched.follow(&seen(0, 1), now);
        watched.state = State::Sent(Life::first(0));
        assert!(!watched.follow(&seen(0, 2), now));
        assert!(watched.follow(&seen(1, 3), now));
        assert_eq!(watched.state, State::Due(now));
    }
}
