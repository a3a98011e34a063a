//! Three nodes: every partition has three replicas, two of which must be in sync, and every append is acknowledged by all in
//! sync. Throughput with the CPU of all nodes, latency, many partitions, and a node with many that does nothing.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Asked, Contender, KAFKA, KAFKA_SYNCED, WHERRY, sample, size_name};
use crate::broker::{Kind, Usage};
use crate::cluster::{BROKERS, Cluster};
use crate::measure::{Numbers, Samples, charged_to, client, load, of_load, say, settle};
use crate::report::{Ask, Case, Verdict, judge_against};
use crate::setup::Setup;

pub(super) const FIGURE: &str = "cluster";
const PARTITIONS: &str = "partitions";
const BATCH_BYTES: &str = "131072";
/// Value size and partitions of the cases with librdkafka.
const CASES: [(usize, usize); 4] = [(100, 3), (100, 12), (1024, 3), (1024, 12)];
/// Linger of the paced cases, in milliseconds: a request per message, and librdkafka's default.
const LINGERS: [&str; 2] = ["0", "5"];
const WARM_UP_S: f64 = 2.0;
/// Of few partitions, what many are compared with.
const FEW: usize = BROKERS;
/// The share of the rate with few partitions that is asked for with many.
const SHARE: f64 = 0.85;
/// Kafka takes minutes to create more, three times.
const KAFKA_PARTITIONS: usize = 1000;
/// How long nodes may finish what they do, and how long they are then watched doing nothing.
const REST: Duration = Duration::from_secs(45);
const WATCH: Duration = Duration::from_secs(10);

fn case_name(size: usize, partitions: usize) -> String {
    format!("{}, {partitions} partitions", size_name(size))
}

fn paced_name(linger: &str) -> String {
    format!("10k msg/s of 1 KiB, linger {linger} ms")
}

fn many_name(size: usize, partitions: usize) -> String {
    format!("{}, plain sockets, {partitions} partitions", size_name(size))
}

fn idle_name(partitions: usize) -> String {
    format!("idle, {partitions} partitions, the busiest node")
}

/// Throughput and latency over few partitions.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    known(samples)?;
    run_few(setup, samples)
}

/// Few partitions and many, and nodes with many that do nothing.
pub fn run_partitions(setup: &Setup, samples: &mut Samples) -> Result<()> {
    std::iter::once(FEW)
        .chain(setup.many.iter().copied())
        .try_for_each(|partitions| run_many(setup, samples, partitions))
}

/// What Kafka did on the machine where the figures were asked for (one partition, no sync), beside what it does here.
fn known(samples: &mut Samples) -> Result<()> {
    let known = Contender { name: "kafka, as noted", ..KAFKA };
    for (size, rate, us) in [(100, 390_000.0, 3.6), (1024, 70_000.0, 17.0)] {
        let numbers = [(String::from("rate"), rate), (String::from("broker_us"), us)].into();
        samples.add(sample(FIGURE, &case_name(size, 3), known, 1, numbers))?;
    }
    Ok(())
}

fn start(setup: &Setup, kinds: &[Kind]) -> Result<Vec<Cluster>> {
    setup.kinds(kinds).into_iter().map(|kind| Cluster::start(setup, kind)).collect()
}

fn each<'a>(clusters: &'a [Cluster], contenders: &[Contender]) -> Vec<(Contender, &'a Cluster)> {
    let find = |c: &Contender| clusters.iter().find(|x| x.kind == c.kind).map(|x| (*c, x));
    contenders.iter().filter_map(find).collect()
}

/// Creates a replicated topic and waits until it has leaders. Returns how long that took.
pub(super) fn create(
    setup: &Setup,
    cluster: &Cluster,
    who: Contender,
    topic: &str,
    partitions: usize,
) -> Result<Numbers> {
    let mut command = setup.load("topics");
    command.args(["-b", &cluster.bootstrap(), "-t", topic, "-P", &partitions.to_string(), "-R", &BROKERS.to_string()]);
    command.args(["-X", "topic.min.insync.replicas=2"]);
    if let Some(config) = who.topic_config {
        command.args(["-X", &format!("topic.{config}")]);
    }
    let result = load(&mut command)?;
    Ok([(String::from("create_s"), result["ready_s"].as_f64().unwrap_or(f64::NAN))].into())
}

fn delete(setup: &Setup, cluster: &Cluster, topic: &str) -> Result<()> {
    client(setup.load("delete").args(["-b", &cluster.bootstrap(), "-t", topic])).map(drop)
}

fn run_few(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let clusters = start(setup, &[Kind::Kafka, Kind::Wherry])?;
    let contenders = each(&clusters, &[KAFKA, WHERRY, KAFKA_SYNCED]);
    for (size, partitions) in CASES {
        for run in 0..=setup.runs {
            for (who, cluster) in &contenders {
                // The first round warms up (a JVM needs it) and is not counted.
                let secs = if run == 0 { setup.secs.min(5.0) } else { setup.secs };
                let mut numbers = produce(setup, cluster, *who, size, partitions, secs)?;
                numbers.remove("create_s");
                if run > 0 {
                    samples.add(sample(FIGURE, &case_name(size, partitions), *who, run, numbers))?;
                }
            }
        }
    }
    for linger in LINGERS {
        for run in 0..=setup.runs {
            for (who, cluster) in &contenders {
                let numbers = paced(setup, cluster, *who, linger)?;
                if run > 0 {
                    samples.add(sample(FIGURE, &paced_name(linger), *who, run, numbers))?;
                }
            }
        }
    }
    clusters.into_iter().try_for_each(Cluster::discard)
}

/// Does `work` on a topic of its own.
fn on_topic(
    setup: &Setup,
    cluster: &Cluster,
    who: Contender,
    partitions: usize,
    work: impl FnOnce(&str) -> Result<(f64, Numbers)>,
) -> Result<Numbers> {
    let topic = format!("{}-{partitions}", who.name);
    let created = create(setup, cluster, who, &topic, partitions)?;
    settle(setup);
    let mut numbers = charged_to(|| cluster.usage(), || work(&topic))?;
    numbers.extend(created);
    delete(setup, cluster, &topic)?;
    Ok(numbers)
}

fn produce(
    setup: &Setup,
    cluster: &Cluster,
    who: Contender,
    size: usize,
    partitions: usize,
    secs: f64,
) -> Result<Numbers> {
    on_topic(setup, cluster, who, partitions, |topic| {
        let mut command = setup.load("produce");
        command.args(["-b", &cluster.bootstrap(), "-t", topic, "-P", &partitions.to_string(), "-a", "all"]);
        command.args(["-s", &size.to_string(), "-d", &secs.to_string(), "-B", BATCH_BYTES]);
        of_load(&load(&mut command)?)
    })
}

fn paced(setup: &Setup, cluster: &Cluster, who: Contender, linger: &str) -> Result<Numbers> {
    on_topic(setup, cluster, who, FEW, |topic| {
        let secs = (setup.secs + WARM_UP_S).to_string();
        let mut command = setup.load("produce");
        command.args(["-b", &cluster.bootstrap(), "-t", topic, "-P", &FEW.to_string(), "-a", "all", "-r", "10000"]);
        command.args(["-d", &secs, "-l", linger, "-w", &WARM_UP_S.to_string()]);
        of_load(&load(&mut command)?)
    })
}

/// Each number of partitions has clusters of its own, so that their memory and idle CPU are that number's.
fn run_many(setup: &Setup, samples: &mut Samples, partitions: usize) -> Result<()> {
    let kinds: &[Kind] = if partitions > KAFKA_PARTITIONS { &[Kind::Wherry] } else { &[Kind::Kafka, Kind::Wherry] };
    let clusters = start(setup, kinds)?;
    let contenders = each(&clusters, &[KAFKA, WHERRY]);
    for size in [1024, 100] {
        for run in 0..=setup.runs {
            for (who, cluster) in &contenders {
                let numbers = pipelined(setup, cluster, *who, size, partitions)?;
                if run > 0 {
                    samples.add(sample(PARTITIONS, &many_name(size, partitions), *who, run, numbers))?;
                }
            }
        }
    }
    for (who, cluster) in &contenders {
        let numbers = idle(setup, cluster, *who, partitions)?;
        samples.add(sample(PARTITIONS, &idle_name(partitions), *who, 1, numbers))?;
    }
    clusters.into_iter().try_for_each(Cluster::discard)
}

fn pipeline(cluster: &Cluster, topic: &str, size: usize, secs: f64) -> Result<serde_json::Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["cluster-pipeline", "--brokers", &cluster.bootstrap(), "--topic", topic]);
    load(command.args(["--size", &size.to_string(), "--secs", &secs.to_string()]))
}

/// Long enough that each partition gets a batch. The first one makes its files; that is not what is compared.
fn warm_up(cluster: &Cluster, topic: &str, size: usize, partitions: usize) -> Result<()> {
    pipeline(cluster, topic, size, 3.0 + partitions as f64 / 1000.0).map(drop)
}

fn pipelined(setup: &Setup, cluster: &Cluster, who: Contender, size: usize, partitions: usize) -> Result<Numbers> {
    let topic = format!("many-{partitions}");
    let created = create(setup, cluster, who, &topic, partitions)?;
    warm_up(cluster, &topic, size, partitions)?;
    settle(setup);
    let mut numbers = charged_to(
        || cluster.usage(),
        || {
            let result = pipeline(cluster, &topic, size, setup.secs)?;
            if result["refused"] != 0 || result["broken"] != 0 {
                say(&format!("{}: leaders moved: {result}", who.name));
            }
            of_load(&result)
        },
    )?;
    numbers.extend(created);
    delete(setup, cluster, &topic)?;
    Ok(numbers)
}

fn idle(setup: &Setup, cluster: &Cluster, who: Contender, partitions: usize) -> Result<Numbers> {
    create(setup, cluster, who, "idle", partitions)?;
    warm_up(cluster, "idle", 100, partitions)?;
    settle(setup);
    std::thread::sleep(REST);
    let before = cluster.usages()?;
    std::thread::sleep(WATCH);
    let after = cluster.usages()?;
    let percent = |(b, a): (&Usage, &Usage)| (a.cpu_s - b.cpu_s) / WATCH.as_secs_f64() * 100.0;
    let most = |of: &dyn Fn(&Usage) -> f64| after.iter().map(of).fold(0.0, f64::max);
    Ok([
        (String::from("idle_cpu_percent"), before.iter().zip(&after).map(percent).fold(0.0, f64::max)),
        (String::from("rss_mib"), most(&|u| u.rss_kib as f64 / 1024.0)),
        (String::from("fds"), most(&|u| u.fds as f64)),
    ]
    .into())
}

/// What the issue asks of these cases.
pub fn asked() -> Asked {
    let mut asked = Vec::new();
    for (size, partitions) in CASES {
        let case = case_name(size, partitions);
        asked.push((FIGURE, case.clone(), Ask::AtLeast("rate", "kafka", 2.0)));
        asked.push((FIGURE, case, Ask::AtMost("broker_us", "kafka", 1.0 / 3.0)));
    }
    for linger in LINGERS {
        asked.push((FIGURE, paced_name(linger), Ask::AtMost("ack_p99_us", "kafka", 1.0)));
    }
    asked.push((PARTITIONS, idle_name(10_000), Ask::Below("idle_cpu_percent", 5.0)));
    asked
}

/// What it asks between cases: little loss with many partitions.
pub fn verdicts(cases: &[Case]) -> Vec<Verdict> {
    let pairs = [1000, 10_000].into_iter().flat_map(|n| [1024, 100].map(|size| (n, size)));
    let judge = |(n, size)| judge_against(cases, PARTITIONS, &many_name(size, n), &many_name(size, FEW), SHARE);
    pairs.filter_map(judge).collect()
}
