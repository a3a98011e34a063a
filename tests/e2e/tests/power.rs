//! INV-1 when the power fails: the node's data is on a loop-mounted ext4 that is shut down under load, so that whatever
//! was not synced is gone. What was acknowledged before is there after the restart.
//!
//! Needs root. `WHERRY_POWER_ROUNDS` (default 5) cuts per driver; `WHERRY_SEED` repeats a run's choices.

use anyhow::{Context, Result};
use wherry_e2e::clients::{KAFKA, ensure, java};
use wherry_e2e::judge::{Judge, Load};
use wherry_e2e::loopfs::{Cut, LoopFs};
use wherry_e2e::records::Random;
use wherry_e2e::server::{Kind, Options, Server};
use wherry_e2e::{report, setting};

const PARTITIONS: usize = 4;
const PRODUCERS: usize = 3;
const RATE: u64 = 2000;
const MIB: u64 = 4096;

#[test]
fn no_acknowledged_record_is_lost_when_the_power_fails() -> Result<()> {
    ensure("all")?;
    for kind in Kind::chosen() {
        let Some(fs) = LoopFs::mount_new(MIB, "the power failure test")? else { return Ok(()) };
        let seed = setting("WHERRY_SEED", u64::from(std::process::id()))?;
        let rounds = setting("WHERRY_POWER_ROUNDS", 5)?;
        power(kind, &fs, rounds, seed).with_context(|| format!("{kind:?}, WHERRY_SEED={seed}"))?;
    }
    Ok(())
}

fn power(kind: Kind, fs: &LoopFs, rounds: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let server = Server::start(kind, Options { data: Some(fs.path().join("data")), ..Options::default() })?;
    create(&server)?;
    if kind.is_kafka() {
        fs.sync()?; // Kafka does not sync the files that it bootstraps from; the promise is about records
    }
    let mut judge = Judge::new("power", PARTITIONS, PRODUCERS);
    let load = Load::start(&server, "power", PARTITIONS, PRODUCERS, RATE)?;
    for round in 1..=rounds {
        load.await_acks(usize::try_from(1 + random.below(4000))?).with_context(|| format!("round {round}"))?;
        let how = match random.below(6) {
            0 => Cut::AllFlushed,
            1 => Cut::JournalFlushed,
            _ => Cut::NothingFlushed,
        };
        fs.cut_power(how)?;
        server.kill()?;
        fs.restore_power()?;
        let what = || format!("round {round}, {how:?}: {}", server.last_words());
        server.start_again().with_context(what)?;
        judge.read_on(&server, &load).with_context(what)?;
    }
    load.await_acks(1000)?;
    let settled = load.finish()?;
    judge.conclude(&server, &settled).with_context(|| server.last_words())?;
    report(&format!("{kind:?}: {rounds} power cuts, {} records", settled.total()));
    server.stop().map(drop)
}

/// With Kafka as the target the topic is made durable in the same sense as ours (a sync before each acknowledgement).
fn create(server: &Server) -> Result<()> {
    let flush = if server.kind().is_kafka() { "--config flush.messages=1" } else { "" };
    let set = format!("--bootstrap-server {} --create --topic power --partitions {PARTITIONS} {flush}", server.addr());
    java(KAFKA, "org.apache.kafka.tools.TopicCommand").typed(&set).run().map(drop)
}
