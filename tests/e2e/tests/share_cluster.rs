//! Share groups on three nodes: what was acknowledged stays so when the leader of the partition dies, and when whoever keeps the
//! group's state does.

use anyhow::Result;
use wherry_e2e::loopback::Cluster;
use wherry_e2e::server::Io;
use wherry_e2e::share::{Tally, begin, member, produce, tool, values};
use wherry_e2e::until;

const BROKERS: usize = 3;

/// The node that leads a partition of a topic.
fn leader(cluster: &Cluster, topic: &str, partition: usize) -> Result<usize> {
    let mut leader = None;
    until("a leader", || {
        let shown = tool(&cluster.addrs(), "TopicCommand").typed(&format!("--describe --topic {topic}")).run()?;
        let row = shown.iter().find(|line| line.contains(&format!("Partition: {partition}\t")));
        let column = row.and_then(|row| row.split('\t').find_map(|column| column.trim().strip_prefix("Leader: ")));
        leader = column.and_then(|id| id.parse().ok());
        Ok(leader.is_some())
    })?;
    leader.ok_or_else(|| anyhow::anyhow!("{topic}-{partition} has no leader"))
}

#[test]
fn acknowledgements_outlive_the_leaders_of_the_partition_and_of_the_state() -> Result<()> {
    wherry_e2e::clients::ensure("all")?;
    let io = if std::env::var("WHERRY_E2E_IO").is_ok_and(|io| io == "threads") { Io::Threads } else { Io::IoUring };
    let cluster = Cluster::start(io, &[])?;
    run(&cluster).map_err(|error| error.context(cluster.last_words()))
}

fn run(cluster: &Cluster) -> Result<()> {
    let brokers = cluster.addrs();
    begin(&brokers, "queue", "workers", BROKERS)?;
    let sent = values(600, "queue");
    produce(&brokers, "queue", &sent)?;
    let script = "take 60\naccept all\nhandle 120\n";
    let mut worker = member(&brokers, "queue", "workers", script).arg("max.poll.records=6").start()?;
    let mut tally = Tally::default();
    let mut await_acknowledged = |tally: &mut Tally, count: usize| -> Result<()> {
        while tally.acknowledged.len() < count {
            tally.take(&worker.line()?)?;
        }
        Ok(())
    };
    await_acknowledged(&mut tally, 60)?;
    let first = leader(cluster, "queue", 0)?;
    cluster.node(first)?.kill()?;
    await_acknowledged(&mut tally, 200)?;
    cluster.node(first)?.start_again()?;
    cluster.await_nodes(BROKERS)?;
    // Java's hash of "workers", modulo the partitions of the topic.
    let hash = "workers".bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    let shown = tool(&brokers, "TopicCommand").typed("--describe --topic __share_group_state").run()?;
    let partitions = shown.iter().filter(|line| line.contains("Partition: ")).count();
    let keeper = leader(cluster, "__share_group_state", hash.unsigned_abs() as usize % partitions)?;
    cluster.node(keeper)?.kill()?;
    await_acknowledged(&mut tally, 400)?;
    cluster.node(keeper)?.start_again()?;
    until("all to be handled", || {
        tally.take(&worker.line()?)?;
        Ok(tally.acknowledged.len() + tally.unsure.difference(&tally.acknowledged).count() >= sent.len())
    })?;
    tally.conclude(&sent)
}
