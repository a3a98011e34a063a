//! A node of three goes away under a steady load on many partitions and comes back: killed (`kill -9`), paused (SIGSTOP, ten
//! seconds) or asked to stop (SIGTERM). The gap is the longest time between two acknowledgements of any one partition that the
//! node led; two producers look at the same events: one on plain sockets with short backoffs, one on librdkafka,
//! idempotent, with librdkafka's own settings, on some of the partitions (it sends one partition per request).
//!
//! A round: whole cluster -> fault -> calm again -> the node comes back -> all in sync, leaders where they were.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::{Asked, Contender, KAFKA, WHERRY, cluster::create, sample};
use crate::broker::Kind;
use crate::cluster::view::{Guide, View};
use crate::cluster::watch::{Producer, Seen};
use crate::cluster::{BROKERS, Cluster};
use crate::measure::{Numbers, Samples, say};
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "failover";
const TOPIC: &str = "failover";
const PLAIN: &str = "plain sockets";
const RDKAFKA: &str = "librdkafka";
/// librdkafka's partitions, and what each gets per second.
const RDKAFKA_PARTITIONS: usize = 30;
const RDKAFKA_RATE: usize = 10;
/// All partitions were acknowledged in this time: nothing is wrong. (Shorter than [`DOWN`], so that it was after the fault.)
const CALM: Duration = Duration::from_millis(1500);
/// Longest that a cluster may take until it is calm.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that replicas may take until they are in sync.
const SYNC_PATIENCE: Duration = Duration::from_secs(180);
/// Time for leaders to go back by themselves, before they are told to.
const BALANCE: Duration = Duration::from_secs(20);
/// Before a fault, and between a fault and the return of the node at the earliest.
const STEADY: Duration = Duration::from_secs(1);
const DOWN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Stop,
}

impl Fault {
    const ALL: [Fault; 3] = [Fault::Kill, Fault::Stop, Fault::Pause];

    fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill -9",
            Fault::Pause => "SIGSTOP for 10 s",
            Fault::Stop => "controlled shutdown",
        }
    }

    /// How often. What is only reported, or hardly varies, is done less often.
    fn rounds(self, setup: &Setup, kind: Kind) -> usize {
        match (kind, self) {
            (Kind::Kafka, _) => setup.kafka_kills,
            (_, Fault::Kill) => setup.kills,
            (_, Fault::Pause | Fault::Stop) => (setup.kills / 5).max(setup.kills.min(3)),
        }
    }
}

fn case_name(fault: Fault, producer: &str) -> String {
    format!("{}, {producer}", fault.name())
}

fn round_name(fault: Fault, producer: &str) -> String {
    format!("{}, {producer}, each", fault.name())
}

/// All cases.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    known(samples)?;
    for who in [KAFKA, WHERRY].into_iter().filter(|c| setup.targets.contains(&c.kind)) {
        // One that can't be measured does not cost the other.
        if let Err(e) = Stage::open(setup, who).and_then(|stage| stage.play(samples)) {
            say(&format!("FAILED: {FIGURE}, {}: {e:#}", who.name));
        }
    }
    Ok(())
}

/// What Kafka did on the machine where the figures were asked for, beside what it does here.
fn known(samples: &mut Samples) -> Result<()> {
    let known = Contender { name: "kafka, as noted", ..KAFKA };
    for (fault, least, most) in [(Fault::Kill, 9000.0, 11_000.0), (Fault::Stop, 1200.0, 1200.0)] {
        let gaps = [("gap_p50_ms", f64::midpoint(least, most)), ("gap_max_ms", most)];
        let numbers = gaps.map(|(name, v)| (String::from(name), v)).into();
        samples.add(sample(FIGURE, &case_name(fault, PLAIN), known, 1, numbers))?;
    }
    Ok(())
}

/// Kafka's gaps are of seconds, and its load is lighter: what it needs for one batch per partition is much of a small machine.
fn every_ms(setup: &Setup, kind: Kind) -> u64 {
    if kind == Kind::Kafka { setup.steady_ms.max(500) } else { setup.steady_ms }
}

/// A cluster under load.
struct Stage<'a> {
    setup: &'a Setup,
    who: Contender,
    cluster: Cluster,
    guide: Guide,
    producers: Vec<Producer>,
}

/// What one producer saw of one round.
struct Round {
    victim: usize,
    before: Seen,
    fault: Seen,
    back: Seen,
    led: BTreeSet<i32>,
    whole_s: f64,
}

impl Round {
    fn numbers(&self) -> Numbers {
        let led = |i| self.led.contains(&i);
        let errors = self.fault.errors + self.back.errors;
        [
            ("victim", self.victim as f64),
            ("gap_ms", self.fault.longest(led)),
            ("gap_all_ms", self.fault.longest(|_| true)),
            ("return_gap_ms", self.back.longest(|_| true)),
            ("steady_gap_ms", self.before.longest(|_| true)),
            ("whole_s", self.whole_s),
            ("errors", errors as f64),
            ("retried", (self.fault.retried + self.back.retried) as f64),
        ]
        .map(|(name, v)| (String::from(name), v))
        .into()
    }
}

/// Value at a rank among `values`: the smallest that a share `q` of them does not exceed.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil().max(1.0);
    sorted.get(rank as usize - 1).copied().unwrap_or(f64::NAN)
}

/// All rounds of a case in one row.
fn summary(rounds: &[Numbers]) -> Numbers {
    let of = |name: &str| -> Vec<f64> { rounds.iter().filter_map(|r| r.get(name).copied()).collect() };
    let gaps = of("gap_ms");
    let max = |name: &str| quantile(&of(name), 1.0);
    [
        ("kills", rounds.len() as f64),
        ("gap_p50_ms", quantile(&gaps, 0.5)),
        ("gap_p99_ms", quantile(&gaps, 0.99)),
        ("gap_max_ms", quantile(&gaps, 1.0)),
        ("gap_all_max_ms", max("gap_all_ms")),
        ("return_gap_max_ms", max("return_gap_ms")),
        ("steady_gap_ms", max("steady_gap_ms")),
        ("whole_s", quantile(&of("whole_s"), 0.5)),
        ("errors", of("errors").iter().sum()),
    ]
    .map(|(name, v)| (String::from(name), v))
    .into()
}

impl<'a> Stage<'a> {
    fn open(setup: &'a Setup, who: Contender) -> Result<Stage<'a>> {
        let cluster = Cluster::start(setup, who.kind)?;
        let partitions = setup.failover_partitions;
        create(setup, &cluster, who, TOPIC, partitions)?;
        let guide = Guide::patient(cluster.addresses());
        let mut stage = Stage { setup, who, guide, producers: Vec::new(), cluster };
        stage.await_whole()?;
        let bootstrap = stage.cluster.bootstrap();
        let mut plain = Command::new(std::env::current_exe()?);
        plain.args([
            "steady",
            "--brokers",
            &bootstrap,
            "--topic",
            TOPIC,
            "--every-ms",
            &every_ms(setup, who.kind).to_string(),
        ]);
        let mut rdkafka = setup.load("steady");
        let stride = (partitions / RDKAFKA_PARTITIONS).max(1);
        let stride = if stride.is_multiple_of(BROKERS) { stride + 1 } else { stride }; // or one node would lead all of them
        let rate = partitions.div_ceil(stride) * RDKAFKA_RATE;
        rdkafka.args(["-b", &bootstrap, "-t", TOPIC, "-P", &partitions.to_string(), "-S", &stride.to_string()]);
        rdkafka.args(["-r", &rate.to_string(), "-s", "100"]);
        for (name, command) in [(PLAIN, &mut plain), (RDKAFKA, &mut rdkafka)] {
            stage.producers.push(Producer::start(name, command)?);
        }
        Ok(stage)
    }

    fn play(mut self, samples: &mut Samples) -> Result<()> {
        for fault in Fault::ALL {
            let mut rounds = vec![Vec::new(); self.producers.len()];
            for run in 1..=fault.rounds(self.setup, self.who.kind) {
                let seen =
                    self.round(fault, run % BROKERS).with_context(|| format!("{}, round {run}", fault.name()))?;
                for ((producer, round), all) in self.producers.iter().zip(seen).zip(&mut rounds) {
                    let numbers = round.numbers();
                    if !round.fault.codes.is_empty() || !round.back.codes.is_empty() {
                        let (fault, back) = (&round.fault.codes, &round.back.codes);
                        say(&format!("{}: answers with errors: {fault:?}, on return: {back:?}", producer.name));
                    }
                    samples.add(sample(FIGURE, &round_name(fault, producer.name), self.who, run, numbers.clone()))?;
                    all.push(numbers);
                }
            }
            for (producer, rounds) in self.producers.iter().zip(rounds).filter(|(_, r)| !r.is_empty()) {
                samples.add(sample(FIGURE, &case_name(fault, producer.name), self.who, 1, summary(&rounds)))?;
            }
        }
        drop(self.producers);
        self.cluster.discard()
    }

    fn take(&mut self) -> Result<Vec<Seen>> {
        self.producers.iter_mut().map(Producer::take).collect()
    }

    /// Waits until nothing waits. One that never gets there is said, not refused: what it saw is a result, too.
    fn await_calm(&mut self) -> Result<bool> {
        let mut calm = true;
        for producer in &mut self.producers {
            if !producer.await_calm(CALM, PATIENCE)? {
                let (name, age) = (producer.name, producer.age()?);
                say(&format!("{} does not get over it: {name} waits since {age:?}", self.who.name));
                calm = false;
            }
        }
        Ok(calm)
    }

    fn round(&mut self, fault: Fault, victim: usize) -> Result<Vec<Round>> {
        ensure!(self.await_calm()?, "no calm before the fault: {}", what_lacks(&self.view().unwrap_or_default()));
        self.take()?;
        std::thread::sleep(STEADY);
        let led = led_by(&self.view()?, victim)?;
        let before = self.take()?;
        self.hurt(fault, victim)?;
        let hurt = self.take()?;
        let begin = Instant::now();
        self.heal(fault, victim)?;
        self.await_whole()?;
        let whole_s = begin.elapsed().as_secs_f64();
        std::thread::sleep(STEADY);
        self.await_calm()?;
        let back = self.take()?;
        let rounds = before.into_iter().zip(hurt).zip(back);
        let round = |((before, fault), back)| Round { victim, before, fault, back, led: led.clone(), whole_s };
        Ok(rounds.map(round).collect())
    }

    /// Takes the node away until producers have got over it; a paused one stays paused for its time.
    fn hurt(&mut self, fault: Fault, victim: usize) -> Result<()> {
        let begin = Instant::now();
        let node = self.cluster.node(victim);
        match fault {
            Fault::Kill => node.end(Signal::KILL)?,
            Fault::Stop => node.end(Signal::TERM)?,
            Fault::Pause => {
                node.signal(Signal::STOP)?;
                std::thread::sleep(PAUSE);
                return Ok(()); // producers may wait for it still
            }
        }
        std::thread::sleep(DOWN.saturating_sub(begin.elapsed()));
        self.await_calm().map(drop)
    }

    fn heal(&mut self, fault: Fault, victim: usize) -> Result<()> {
        let node = self.cluster.node(victim);
        match fault {
            Fault::Kill | Fault::Stop => node.launch(self.setup)?,
            Fault::Pause => node.signal(Signal::CONT)?,
        }
        self.cluster.await_together()
    }

    fn view(&mut self) -> Result<View> {
        self.guide.view(&[TOPIC.into()])
    }

    /// Waits until all replicas are in sync and every leader is the preferred one; leaders that do not go back by themselves
    /// are told to.
    fn await_whole(&mut self) -> Result<()> {
        let begin = Instant::now();
        let mut in_sync = None;
        loop {
            let view = self.view().unwrap_or_default();
            if view.partitions.len() == self.setup.failover_partitions {
                if view.partitions.iter().all(crate::cluster::view::Partition::whole) {
                    return Ok(());
                }
                let complete = view.partitions.iter().all(|p| p.in_sync.len() == BROKERS);
                in_sync = in_sync.or(complete.then(Instant::now));
            }
            if in_sync.is_some_and(|at| at.elapsed() > BALANCE) {
                say("leaders did not go back by themselves: telling them");
                Guide::patient(self.cluster.addresses()).elect_preferred()?;
                in_sync = Some(Instant::now());
            }
            ensure!(begin.elapsed() < SYNC_PATIENCE, "not whole after {SYNC_PATIENCE:?}: {}", what_lacks(&view));
            std::thread::sleep(POLL);
        }
    }
}

fn led_by(view: &View, node: usize) -> Result<BTreeSet<i32>> {
    let node = i32::try_from(node)?;
    let led: BTreeSet<i32> = view.partitions.iter().filter(|p| p.leader == Some(node)).map(|p| p.index).collect();
    ensure!(!led.is_empty(), "node {node} leads nothing");
    Ok(led)
}

fn what_lacks(view: &View) -> String {
    let lacking: Vec<_> = view.partitions.iter().filter(|p| !p.whole()).collect();
    format!("{} of {} partitions, such as {:?}", lacking.len(), view.partitions.len(), lacking.first())
}

/// What the issue asks of these cases.
pub fn asked() -> Asked {
    let kill = case_name(Fault::Kill, PLAIN);
    let mut asked = vec![(FIGURE, kill, Ask::Below("gap_p99_ms", 1000.0))];
    for producer in [PLAIN, RDKAFKA] {
        let stop = case_name(Fault::Stop, producer);
        asked.push((FIGURE, stop.clone(), Ask::Below("errors", 0.0)));
        asked.push((FIGURE, stop, Ask::Below("gap_max_ms", 1000.0)));
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_fifty_gaps_the_last_is_the_99th_percentile() {
        let gaps: Vec<f64> = (1..=50).map(f64::from).collect();
        assert_eq!((quantile(&gaps, 0.5), quantile(&gaps, 0.99), quantile(&gaps, 1.0)), (25.0, 50.0, 50.0));
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn rounds_become_one_row() {
        let round = |gap: f64| -> Numbers { [("gap_ms".into(), gap), ("errors".into(), 1.0)].into() };
        let row = summary(&[round(100.0), round(300.0), round(200.0)]);
        assert_eq!((row["gap_p50_ms"], row["gap_max_ms"], row["errors"], row["kills"]), (200.0, 300.0, 3.0, 3.0));
    }
}
