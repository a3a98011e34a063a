//! Exactly once over three nodes, while they are killed and held: copiers on a stock client read, write and commit in
//! transactions; whoever reads committed records sees each one once, and none that was aborted.
//!
//! `WHERRY_TRANSACTION_ROUNDS` (default 4) faults; `WHERRY_SEED` repeats a run's choices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wherry_e2e::clients::{ensure as set_up, kcat};
use wherry_e2e::cluster::Cluster;
use wherry_e2e::records::{Random, lines, records};
use wherry_e2e::server::Kind;
use wherry_e2e::transactions::{Copiers, check_copy};
use wherry_e2e::{Target, notice, report, setting};

const NODES: usize = 3;
const COPIERS: usize = 3;

#[test]
fn each_record_is_copied_once_whatever_happens_to_one_node() -> Result<()> {
    if Kind::chosen().iter().any(|kind| kind.is_kafka()) {
        notice("the test of transactions was NOT run: it starts nodes of Wherry only");
        return Ok(());
    }
    set_up("all")?;
    let seed = setting("WHERRY_SEED", u64::from(std::process::id()))?;
    let rounds = setting("WHERRY_TRANSACTION_ROUNDS", 4)?;
    let mut cluster = Cluster::start(NODES, None)?;
    let outcome = exactly_once(&mut cluster, rounds, seed).with_context(|| format!("WHERRY_SEED={seed}"));
    outcome.with_context(|| cluster.last_words())
}

fn exactly_once(cluster: &mut Cluster, rounds: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    cluster.create("from", 4)?;
    cluster.create("to", 3)?;
    cluster.await_in_sync()?;
    let sent = records(usize::try_from(4_000 + 3_000 * rounds)?, "exactly-once");
    // The whole of it is there before the copiers begin: what they commit, they have read.
    kcat(&cluster.brokers()).typed("-P -t from -X acks=all").arg("-K").arg("\t").input(lines(&sent)).run()?;
    let copiers = Copiers::start(cluster, "from", "to", COPIERS, sent.len())?;
    for round in 1..=rounds {
        let at = usize::try_from(random.below(NODES as u64))?;
        let held = random.below(3) == 0;
        let lasts = Duration::from_millis(500 + random.below(3_000));
        suffer(cluster, at, held, lasts).with_context(|| format!("round {round}: node {at}, held: {held}"))?;
        report(&format!("round {round}: node {at} was {} for {lasts:?}", if held { "held" } else { "killed" }));
    }
    let copied = copiers.finish()?;
    report(&format!("{} records: {copied:?}", sent.len()));
    ensure!(copied.aborted > 0, "nothing was aborted on purpose: {copied:?}");
    check_copy(cluster, "to", &sent, copied)?;
    cluster.await_in_sync()?;
    cluster.check_equal("to")
}

fn suffer(cluster: &mut Cluster, at: usize, held: bool, lasts: Duration) -> Result<()> {
    if held {
        cluster.hold(at, true)?;
        std::thread::sleep(lasts);
        cluster.hold(at, false)?;
    } else {
        cluster.kill(at)?;
        std::thread::sleep(lasts);
        cluster.launch(at)?;
    }
    cluster.await_in_sync()
}
