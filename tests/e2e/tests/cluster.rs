//! INV-1, INV-2 and INV-10 with a real cluster of three nodes: nodes killed, held, cut off, losing packets, damaged and
//! wiped under idempotent load. No acknowledged record is lost, none is invented or doubled, order and offsets hold, a
//! consumer sees each record once and none that goes away again; afterwards all replicas are in sync and hold the same.
//!
//! `WHERRY_CLUSTER_ROUNDS` (default 6) faults; `WHERRY_CLUSTER_FAULT` (such as `Kill` or `Cut`): only those;
//! `WHERRY_SEED` repeats a run's choices. Needs root for the network faults.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wherry_e2e::clients::ensure as set_up;
use wherry_e2e::cluster::Cluster;
use wherry_e2e::judge::{Judge, Load, Reader};
use wherry_e2e::net::{Network, Trouble};
use wherry_e2e::records::Random;
use wherry_e2e::server::Kind;
use wherry_e2e::{Target, notice, report, setting};

const NODES: usize = 3;
/// More than any internal topic would have by chance, and not as many as the offsets topic has.
const PARTITIONS: usize = 5;
const PRODUCERS: usize = 3;
const RATE: u64 = 400;
const TOPIC: &str = "cluster";

/// What is done to a node.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Hold,
    Network(Trouble),
}

#[test]
fn no_acknowledged_record_is_lost_whatever_happens_to_one_node() -> Result<()> {
    let Some(mut cluster) = start("the chaos test", true)? else { return Ok(()) };
    let seed = setting("WHERRY_SEED", u64::from(std::process::id()))?;
    let rounds = setting("WHERRY_CLUSTER_ROUNDS", 6)?;
    let outcome = chaos(&mut cluster, rounds, seed).with_context(|| format!("WHERRY_SEED={seed}"));
    outcome.with_context(|| cluster.last_words())
}

/// Kafka as a target would be another harness; it is left to the tests of one broker.
fn start(test: &str, with_network: bool) -> Result<Option<Cluster>> {
    if Kind::chosen().iter().any(|kind| kind.is_kafka()) {
        notice(&format!("{test} was NOT run: it starts nodes of Wherry only"));
        return Ok(None);
    }
    set_up("all")?;
    let network = if with_network { Network::new(NODES, test)? } else { None };
    let mut cluster = Cluster::start(NODES, network)?;
    cluster.create(TOPIC, PARTITIONS)?;
    cluster.await_in_sync()?;
    Ok(Some(cluster))
}

fn chaos(cluster: &mut Cluster, rounds: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut judge = Judge::new(TOPIC, PARTITIONS, PRODUCERS);
    let load = Load::start(cluster, TOPIC, PARTITIONS, PRODUCERS, RATE)?;
    let reader = Reader::start(cluster, TOPIC, PARTITIONS)?;
    for round in 1..=rounds {
        load.await_acks(usize::try_from(1 + random.below(2000))?).with_context(|| format!("round {round}"))?;
        let (fault, at) = (choose(cluster, round, &mut random), victim(cluster, &mut random)?);
        let begin = Instant::now();
        suffer(cluster, &load, fault, at, &mut random).with_context(|| format!("round {round}: {fault:?} of {at}"))?;
        cluster.await_in_sync().with_context(|| format!("round {round}: {fault:?} of {at}"))?;
        judge.read_on(cluster, &load).with_context(|| format!("round {round}: {fault:?} of {at}"))?;
        report(&format!(
            "round {round}: {fault:?} of node {at}, whole after {:?}, {} read",
            begin.elapsed(),
            judge.seen()
        ));
    }
    conclude(cluster, load, reader, &mut judge)?;
    report(&format!("{rounds} faults, {} records", judge.seen()));
    Ok(())
}

/// Everything settled, read twice, seen by the reader, and the same on each node.
fn conclude(cluster: &mut Cluster, load: Load, reader: Reader, judge: &mut Judge) -> Result<()> {
    load.await_acks(500)?;
    let settled = load.finish()?;
    judge.conclude(cluster, &settled)?;
    reader.conclude(judge)?;
    report(&format!("{} records; {} acknowledged without their place", settled.total(), settled.without_place()));
    cluster.check_equal(TOPIC)
}

/// The first rounds have one of each, so that a short run has all.
fn choose(cluster: &Cluster, round: u64, random: &mut Random) -> Fault {
    let mut faults = vec![Fault::Kill, Fault::Hold];
    faults.extend(cluster.network().into_iter().flat_map(Network::troubles).map(Fault::Network));
    if let Ok(wanted) = std::env::var("WHERRY_CLUSTER_FAULT") {
        faults.retain(|fault| format!("{fault:?}").contains(&wanted));
    }
    let all = faults.len() as u64;
    let pick = if round <= all { round - 1 } else { random.below(all) };
    faults[usize::try_from(pick).unwrap_or(0)]
}

/// Every second time the node that leads the quorum.
fn victim(cluster: &Cluster, random: &mut Random) -> Result<usize> {
    if random.below(2) == 0 { cluster.controller() } else { Ok(usize::try_from(random.below(NODES as u64))?) }
}

fn suffer(cluster: &mut Cluster, load: &Load, fault: Fault, at: usize, random: &mut Random) -> Result<()> {
    let lasts = Duration::from_millis(1000 + random.below(3000));
    match fault {
        Fault::Kill => {
            cluster.kill(at)?;
            // The others go on without it.
            load.await_acks(200)?;
            cluster.launch(at)
        }
        Fault::Hold => {
            cluster.hold(at, true)?;
            std::thread::sleep(lasts);
            cluster.hold(at, false)
        }
        Fault::Network(trouble) => {
            let network = cluster.network().context("there is no network")?;
            network.spoil(at, trouble)?;
            std::thread::sleep(lasts * 2);
            network.heal()
        }
    }
}

#[test]
fn a_controlled_shutdown_of_each_node_disturbs_nobody() -> Result<()> {
    let Some(mut cluster) = start("the controlled shutdown test", false)? else { return Ok(()) };
    let outcome = roll(&mut cluster);
    outcome.with_context(|| cluster.last_words())
}

fn roll(cluster: &mut Cluster) -> Result<()> {
    let mut judge = Judge::new(TOPIC, PARTITIONS, PRODUCERS);
    let load = Load::start(cluster, TOPIC, PARTITIONS, PRODUCERS, RATE)?;
    let reader = Reader::start(cluster, TOPIC, PARTITIONS)?;
    load.await_acks(1000)?;
    for at in 0..NODES {
        let begin = load.now();
        let code = cluster.stop(at)?;
        ensure!(code == Some(0), "node {at} ended with {code:?}: {}", cluster.words_of(at));
        load.await_acks(500)?;
        let (gap, took) = (load.longest_gap(begin), begin.elapsed());
        ensure!(gap < GAP_MAX, "node {at}: no acknowledgements for {gap:?}");
        report(&format!("SIGTERM to node {at}: no acknowledgement for {gap:?} at most; it and 500 more took {took:?}"));
        cluster.launch(at)?;
        cluster.await_in_sync()?;
        judge.read_on(cluster, &load)?;
    }
    conclude(cluster, load, reader, &mut judge)
}

/// Generous: the machine that runs this is slow and shared. The aim is a second.
const GAP_MAX: Duration = Duration::from_secs(10);

#[test]
fn a_damaged_record_is_never_served_and_is_repaired() -> Result<()> {
    let Some(mut cluster) = start("the damage test", false)? else { return Ok(()) };
    let outcome = damage(&mut cluster);
    outcome.with_context(|| cluster.last_words())
}

fn damage(cluster: &mut Cluster) -> Result<()> {
    let mut judge = Judge::new(TOPIC, PARTITIONS, PRODUCERS);
    let load = Load::start(cluster, TOPIC, PARTITIONS, PRODUCERS, RATE)?;
    let reader = Reader::start(cluster, TOPIC, PARTITIONS)?;
    load.await_acks(5000)?;
    judge.read_on(cluster, &load)?;
    let replicas = cluster.replicas(TOPIC, 0)?;
    let (preferred, next) = (replicas[0], replicas[1]);
    // A follower: it leads once the leader has stopped, and then its damage is found by whoever reads.
    spoil(cluster, next).context("a follower")?;
    cluster.stop(preferred)?;
    judge.read_again(cluster).context("a follower was damaged")?;
    cluster.launch(preferred)?;
    cluster.await_in_sync().context("a follower was damaged")?;
    // The leader: it leads again when the balance has given it back what it prefers.
    spoil(cluster, preferred).context("the leader")?;
    cluster.await_leader(TOPIC, 0, preferred)?;
    judge.read_again(cluster).context("the leader was damaged")?;
    load.await_acks(500)?;
    cluster.await_in_sync().context("the leader was damaged")?;
    conclude(cluster, load, reader, &mut judge)
}

/// Damages a record of the first partition while the node is stopped.
fn spoil(cluster: &mut Cluster, at: usize) -> Result<()> {
    cluster.stop(at)?;
    let path = largest_segment(cluster, at)?;
    flip(&path)?;
    report(&format!("damaged {} of node {at}", path.display()));
    cluster.launch(at)?;
    cluster.await_in_sync()
}

/// The largest segment of the first partition.
fn largest_segment(cluster: &Cluster, at: usize) -> Result<PathBuf> {
    let logs = cluster.logs_of(at, PARTITIONS)?;
    let log = logs.iter().find(|log| log["partition"] == 0).context("it has no such log")?;
    let segments = log["segments"].as_array().into_iter().flatten();
    let largest = segments.max_by_key(|segment| segment["bytes"].as_u64()).context("there is no segment")?;
    Ok(cluster.data(at).join(largest["file"].as_str().context("it has no name")?))
}

/// Changes one bit in the middle of what a file holds.
fn flip(path: &PathBuf) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let content = std::fs::read(path)?;
    let used = content.iter().rposition(|byte| *byte != 0).context("the file is empty")?;
    // Somewhere in records: padding between chunks is nobody's loss.
    let at = (used / 2..used).find(|at| content[*at] != 0).context("nothing there")?;
    file.write_all_at(&[content[at] ^ 0x10], at as u64)?;
    Ok(file.sync_all()?)
}

#[test]
fn a_wiped_node_comes_back_under_a_new_id_only() -> Result<()> {
    let Some(mut cluster) = start("the wiped volume test", false)? else { return Ok(()) };
    let outcome = wipe(&mut cluster);
    outcome.with_context(|| cluster.last_words())
}

fn wipe(cluster: &mut Cluster) -> Result<()> {
    let mut judge = Judge::new(TOPIC, PARTITIONS, PRODUCERS);
    let load = Load::start(cluster, TOPIC, PARTITIONS, PRODUCERS, RATE)?;
    let reader = Reader::start(cluster, TOPIC, PARTITIONS)?;
    load.await_acks(1000)?;
    let at = cluster.controller()?;
    cluster.kill(at)?;
    std::fs::remove_dir_all(cluster.data(at))?;
    cluster.launch(at)?;
    let code = cluster.await_end(at).context("a node with a wiped directory must not go on")?;
    ensure!(code != Some(0), "it ended as if all were well");
    let words = cluster.words_of(at);
    ensure!(words.contains("with another volume") && words.contains("never used"), "what it says is no help: {words}");
    load.await_acks(500).context("the others go on")?;
    std::fs::remove_dir_all(cluster.data(at))?;
    cluster.replace(at, NODES)?;
    cluster.await_nodes()?;
    load.await_acks(500)?;
    let settled = load.finish()?;
    judge.conclude(cluster, &settled)?;
    reader.conclude(&judge)?;
    report("a node without its data was refused; under a new id it joined");
    Ok(())
}
