//! INV-1 with real processes: `kill -9` at random points under idempotent load. No acknowledged record is lost, none
//! is invented or doubled, order and offsets hold, and the producers need no help to go on.
//!
//! `WHERRY_CRASH_ROUNDS` (default 10) kills per driver; `WHERRY_SEED` repeats a run's choices.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wherry_e2e::clients::{KAFKA, ensure, java};
use wherry_e2e::judge::{Judge, Load};
use wherry_e2e::records::Random;
use wherry_e2e::server::{Kind, Options, Server};
use wherry_e2e::{report, setting};

const PARTITIONS: usize = 4;
const PRODUCERS: usize = 3;
const RATE: u64 = 3000;

#[test]
fn no_acknowledged_record_is_lost_when_the_node_is_killed() -> Result<()> {
    ensure("all")?;
    for kind in Kind::chosen() {
        let seed = setting("WHERRY_SEED", u64::from(std::process::id()))?;
        let rounds = setting("WHERRY_CRASH_ROUNDS", 10)?;
        crash(kind, rounds, seed).with_context(|| format!("{kind:?}, WHERRY_SEED={seed}"))?;
    }
    Ok(())
}

fn crash(kind: Kind, rounds: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let server = Server::start(kind, Options::default())?;
    create(&server)?;
    let mut judge = Judge::new("crash", PARTITIONS, PRODUCERS);
    let load = Load::start(&server, "crash", PARTITIONS, PRODUCERS, RATE)?;
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        load.await_acks(usize::try_from(1 + random.below(4000))?).with_context(|| format!("round {round}"))?;
        if random.below(5) == 0 {
            // The log is read while it is written, too.
            judge.read_on(&server, &load).with_context(|| format!("round {round}, before the kill"))?;
        }
        server.kill()?;
        let begin = Instant::now();
        server.start_again().with_context(|| format!("round {round}"))?;
        slowest = slowest.max(begin.elapsed());
        report(&format!("{kind:?}: kill {round}, back after {:?}, {} read", begin.elapsed(), judge.seen()));
        judge.read_on(&server, &load).with_context(|| format!("round {round}: {}", server.last_words()))?;
    }
    load.await_acks(1000)?;
    let settled = load.finish()?;
    judge.conclude(&server, &settled).with_context(|| server.last_words())?;
    // A clean stop keeps everything as well.
    server.stop()?;
    server.start_again()?;
    judge.conclude(&server, &settled).context("after a clean stop")?;
    report(&format!("{kind:?}: {rounds} kills, {} records, slowest restart {slowest:?}", settled.total()));
    Ok(())
}

fn create(server: &Server) -> Result<()> {
    let set = format!("--bootstrap-server {} --create --topic crash --partitions {PARTITIONS}", server.addr());
    java(KAFKA, "org.apache.kafka.tools.TopicCommand").typed(&set).run().map(drop)
}
