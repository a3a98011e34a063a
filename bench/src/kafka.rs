//! Apache Kafka's command line and settings. It must not know what is measured, nor when a broker starts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::setup::Setup;

/// Any identifier will do; all brokers of a cluster have the same.
const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// What kafka-server-start.sh passes, on the class path of `setup`.
pub fn server(setup: &Setup, properties: &Path, command: &mut Command) {
    let heap = &setup.kafka_heap;
    command.args(["java", "-server", &format!("-Xmx{heap}"), &format!("-Xms{heap}")]);
    command.args("-XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35".split(' '));
    command.args("-XX:+ExplicitGCInvokesConcurrent -XX:MaxInlineLevel=15".split(' '));
    command.args(["-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]);
    command.arg(setup.kafka_jars()).arg("kafka.Kafka").arg(properties);
}

/// The settings of broker `id` of a cluster that listens at `listen`, its quorum at `quorum`: Kafka's shipped defaults, but
/// for what the number of brokers needs, no waiting when a group begins, and leaders that go back to their preferred
/// replica in seconds (a round of a measurement waits for it).
pub fn properties(id: usize, listen: &[SocketAddr], quorum: &[SocketAddr], data: &Path) -> String {
    let voters: Vec<String> = quorum.iter().enumerate().map(|(i, a)| format!("{i}@{a}")).collect();
    let (voters, replicas, in_sync) = (voters.join(","), listen.len(), listen.len().min(2));
    let (addr, controller, data) = (listen[id], quorum[id], data.display());
    format!(
        "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://{addr},CONTROLLER://{controller}\nadvertised.listeners=PLAINTEXT://{addr}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\nlog.dirs={data}\n\
         num.partitions=1\nauto.create.topics.enable=false\nmin.insync.replicas={in_sync}\n\
         default.replication.factor={replicas}\noffsets.topic.replication.factor={replicas}\n\
         transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr={in_sync}\n\
         share.coordinator.state.topic.replication.factor={replicas}\nshare.coordinator.state.topic.min.isr={in_sync}\n\
         group.initial.rebalance.delay.ms=0\nlog.segment.delete.delay.ms=1000\n\
         leader.imbalance.check.interval.seconds=5\n"
    )
}

/// Formats the data directory that `properties` names.
pub fn format(setup: &Setup, properties: &Path) -> Result<()> {
    let format = Command::new("java")
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"])
        .arg(setup.kafka_jars())
        .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
        .arg(properties)
        .output()?;
    ensure!(format.status.success(), "StorageTool: {}", String::from_utf8_lossy(&format.stderr));
    Ok(())
}
