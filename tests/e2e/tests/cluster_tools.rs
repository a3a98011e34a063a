//! Kafka's own tools against three nodes that are one cluster: what operators do every day, and a leader that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use wherry_e2e::clients::{KAFKA, java};
use wherry_e2e::loopback::{Cluster, NODES};
use wherry_e2e::process::{Finished, Program};
use wherry_e2e::server::Io;
use wherry_e2e::until;

/// A cluster of its own for each test: they kill its nodes.
fn with_cluster(args: &[&str], test: impl Fn(&Cluster) -> Result<()>) -> Result<()> {
    wherry_e2e::clients::ensure("kafka packages")?;
    let io = if std::env::var("WHERRY_E2E_IO").is_ok_and(|io| io == "threads") { Io::Threads } else { Io::IoUring };
    let cluster = Cluster::start(io, args)?;
    test(&cluster).map_err(|error| error.context(cluster.last_words()))
}

fn tool(cluster: &Cluster, class: &str) -> Program {
    let class = if class.starts_with("kafka.") { class.to_owned() } else { format!("org.apache.kafka.tools.{class}") };
    java(KAFKA, &class).arg("--bootstrap-server").arg(cluster.addrs())
}

fn say(cluster: &Cluster, class: &str, typed: &str) -> Result<Vec<String>> {
    tool(cluster, class).typed(typed).run()
}

fn topics(cluster: &Cluster, typed: &str) -> Result<Vec<String>> {
    say(cluster, "TopicCommand", typed)
}

fn quorum(cluster: &Cluster, typed: &str) -> Result<Vec<String>> {
    say(cluster, "MetadataQuorumCommand", typed)
}

/// Our own command line.
fn own(cluster: &Cluster, typed: &str) -> Result<Vec<String>> {
    Program::new(wherry_e2e::server::wherry()?).typed(typed).arg("--bootstrap").arg(cluster.addrs()).run()
}

/// Partition -> field, of `kafka-topics --describe`.
fn partitions(cluster: &Cluster, topic: &str, field: &str) -> Result<BTreeMap<i32, String>> {
    let said = topics(cluster, &format!("--describe --topic {topic}"))?;
    let value = |line: &str, name: &str| -> Option<String> {
        line.split('\t').find_map(|column| column.trim().strip_prefix(name)?.strip_prefix(": ").map(String::from))
    };
    let rows = said.iter().filter_map(|line| Some((value(line, "Partition")?.parse().ok()?, value(line, field)?)));
    Ok(rows.collect())
}

fn sorted(list: &str) -> Vec<i32> {
    let mut ids: Vec<i32> = list.split(',').filter_map(|id| id.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

fn await_whole(cluster: &Cluster) -> Result<()> {
    until("every replica to be in sync", || Ok(topics(cluster, "--describe --under-replicated-partitions")?.is_empty()))
}

fn refused(done: &Finished, words: &str) -> Result<()> {
    let said = format!("{}\n{}", done.lines.join("\n"), done.errors);
    ensure!(said.contains(words), "not {words:?}: {said}");
    Ok(())
}

#[test]
fn topics_have_replicas_and_tell_which_are_missing() -> Result<()> {
    with_cluster(&[], |cluster| {
        topics(
            cluster,
            "--create --topic spread --partitions 6 --replication-factor 3 --config min.insync.replicas=2",
        )?;
        ensure!(partitions(cluster, "spread", "Isr")?.values().all(|isr| sorted(isr) == [0, 1, 2]));
        let leaders: BTreeSet<String> = partitions(cluster, "spread", "Leader")?.into_values().collect();
        ensure!(leaders.len() == NODES, "leaders: {leaders:?}");
        let more = tool(cluster, "TopicCommand").typed("--create --topic x --replication-factor 4").finish()?;
        refused(&more, "3 nodes are registered")?;
        cluster.node(2)?.kill()?;
        until("the death to be noticed", || {
            let lacking = topics(cluster, "--describe --under-replicated-partitions")?;
            Ok(lacking.iter().filter(|line| line.contains("Topic: spread")).count() == 6)
        })?;
        ensure!(topics(cluster, "--describe --unavailable-partitions")?.is_empty());
        ensure!(partitions(cluster, "spread", "Leader")?.values().all(|leader| leader != "2"));
        // Placed on the node that does not run as well: it is in sync when it is back.
        topics(cluster, "--create --topic later --partitions 2 --replication-factor 3")?;
        ensure!(partitions(cluster, "later", "Isr")?.values().all(|isr| sorted(isr) == [0, 1]));
        cluster.node(2)?.launch()?;
        await_whole(cluster)?;
        ensure!(partitions(cluster, "later", "Isr")?.values().all(|isr| sorted(isr) == [0, 1, 2]));
        Ok(())
    })
}

#[test]
fn partitions_are_moved_and_led_as_tools_want() -> Result<()> {
    with_cluster(&["--no-rebalance"], |cluster| {
        topics(cluster, "--create --topic moved --partitions 2 --replication-factor 2")?;
        say(cluster, "VerifiableProducer", "--topic moved --max-messages 500 --acks -1")?;
        let file = |content: &str| -> Result<tempfile::NamedTempFile> {
            let file = tempfile::NamedTempFile::new()?;
            std::fs::write(file.path(), content)?;
            Ok(file)
        };
        const REASSIGN: &str = "reassign.ReassignPartitionsCommand";
        let wanted = file(r#"{"version":1,"topics":[{"topic":"moved"}]}"#)?;
        let plan = tool(cluster, REASSIGN)
            .arg("--topics-to-move-json-file")
            .arg(wanted.path())
            .typed("--broker-list 0,1 --generate")
            .run()?;
        let last = plan.iter().rev().find(|line| line.starts_with('{')).context("no plan")?;
        let proposed: serde_json::Value = serde_json::from_str(last)?;
        ensure!(proposed["partitions"].as_array().is_some_and(|p| p.len() == 2), "{plan:?}");
        let moves = file(
            r#"{"version":1,"partitions":[{"topic":"moved","partition":0,"replicas":[2,1,0]},
                {"topic":"moved","partition":1,"replicas":[1]}]}"#,
        )?;
        let run = |action: &str| {
            tool(cluster, REASSIGN).arg("--reassignment-json-file").arg(moves.path()).typed(action).run()
        };
        run("--execute")?;
        until("the moves to end", || {
            let said = run("--verify")?.join("\n");
            Ok(said.contains("moved-0 is completed") && said.contains("moved-1 is completed"))
        })?;
        let replicas = partitions(cluster, "moved", "Replicas")?;
        ensure!(replicas == BTreeMap::from([(0, "2,1,0".into()), (1, "1".into())]), "{replicas:?}");
        refused_cancel(cluster, REASSIGN, moves.path())?;
        // A move to a node that is dead stays open, and can be taken back. Kafka's tool refuses to begin it.
        cluster.node(2)?.kill()?;
        own(cluster, "cluster reassign moved:1 --to 2")?;
        let listed = tool(cluster, REASSIGN).arg("--list").run()?.join("\n");
        ensure!(listed.contains("moved-1") && listed.contains("adding: 2"), "{listed}");
        own(cluster, "cluster reassign moved --cancel")?;
        ensure!(tool(cluster, REASSIGN).arg("--list").run()?.join("\n").contains("No partition reassignments found"));
        ensure!(partitions(cluster, "moved", "Replicas")?[&1] == "1");
        elections(cluster)
    })
}

fn refused_cancel(cluster: &Cluster, class: &str, moves: &std::path::Path) -> Result<()> {
    let done = tool(cluster, class).arg("--reassignment-json-file").arg(moves).arg("--cancel").finish()?;
    refused(&done, "None of the specified partition reassignments are active")
}

/// "moved" has partition 0 on nodes 2, 1, 0, of which 2 is dead.
fn elections(cluster: &Cluster) -> Result<()> {
    const ELECT: &str = "LeaderElectionCommand";
    until("another leader", || Ok(partitions(cluster, "moved", "Leader")?.get(&0).is_some_and(|n| n == "1")))?;
    let early = tool(cluster, ELECT).typed("--election-type preferred --topic moved --partition 0").finish()?;
    refused(&early, "PreferredLeaderNotAvailable")?;
    cluster.node(2)?.launch()?;
    await_whole(cluster)?;
    say(cluster, ELECT, "--election-type preferred --all-topic-partitions")?;
    ensure!(partitions(cluster, "moved", "Leader")?[&0] == "2");
    let again = say(cluster, ELECT, "--election-type preferred --topic moved --partition 0")?.join("\n");
    ensure!(again.contains("Valid replica already elected for partitions moved-0"), "{again}");
    // The only replica of partition 1 is gone: nobody else has it, so not even an unclean election helps.
    cluster.node(1)?.kill()?;
    until("the partition to be without a leader", || {
        Ok(topics(cluster, "--describe --unavailable-partitions")?.iter().any(|line| line.contains("Partition: 1")))
    })?;
    let unclean = tool(cluster, ELECT).typed("--election-type unclean --topic moved --partition 1").finish()?;
    refused(&unclean, "EligibleLeadersNotAvailable")
}

#[test]
fn the_quorum_is_described_and_its_voters_changed() -> Result<()> {
    with_cluster(&[], |cluster| {
        let status = quorum(cluster, "describe --status")?.join("\n");
        ensure!(status.contains("e2e") && status.contains("CurrentObservers:       []"), "{status}");
        let replication = quorum(cluster, "describe --replication")?;
        let rows: Vec<Vec<&str>> = replication.iter().skip(1).map(|row| row.split_whitespace().collect()).collect();
        ensure!(rows.len() == NODES && rows.iter().all(|row| row.len() >= 5), "{replication:?}");
        let role = |row: &[&str]| row.last().copied().unwrap_or_default().to_owned();
        ensure!(rows.iter().filter(|row| role(row) == "Leader").count() == 1, "{replication:?}");
        let leader = rows.iter().find(|row| role(row) == "Leader").context("no leader")?;
        let wrong =
            format!("remove-controller --controller-id {} --controller-directory-id AAAAAAAAAAAAAAAAAAAAAQ", leader[0]);
        refused(&tool(cluster, "MetadataQuorumCommand").typed(&wrong).finish()?, "InvalidVoterKey")?;
        // The leader itself: it hands over first.
        let remove = format!("remove-controller --controller-id {} --controller-directory-id {}", leader[0], leader[1]);
        quorum(cluster, &remove)?;
        let left = quorum(cluster, "describe --replication")?;
        let observers: Vec<&String> = left.iter().filter(|row| row.contains("Observer")).collect();
        ensure!(observers.len() == 1 && observers[0].starts_with(leader[0]), "{left:?}");
        add_voter(cluster, leader[0], leader[1])?;
        let whole = quorum(cluster, "describe --replication")?;
        ensure!(!whole.iter().any(|row| row.contains("Observer")), "{whole:?}");
        features(cluster)
    })
}

/// The tool reads who is to be added from the files of a Kafka controller.
fn add_voter(cluster: &Cluster, id: &str, directory: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let meta = format!("version=1\ncluster.id=e2e\nnode.id={id}\ndirectory.id={directory}\n");
    std::fs::write(dir.path().join("meta.properties"), meta)?;
    let addr = cluster.node(id.parse()?)?.addr();
    let properties = format!(
        "process.roles=controller\nnode.id={id}\nlog.dirs={}\ncontroller.listener.names=CONTROLLER\n\
         listeners=CONTROLLER://{addr}\ncontroller.quorum.bootstrap.servers={addr}\n",
        dir.path().display()
    );
    let file = dir.path().join("controller.properties");
    std::fs::write(&file, properties)?;
    tool(cluster, "MetadataQuorumCommand").arg("--command-config").arg(&file).arg("add-controller").run().map(drop)
}

fn features(cluster: &Cluster) -> Result<()> {
    say(cluster, "FeatureCommand", "describe")?;
    let id = java(KAFKA, "org.apache.kafka.tools.ClusterTool")
        .typed(&format!("cluster-id --bootstrap-server {}", cluster.addrs()))
        .run()?;
    ensure!(id.concat().contains("e2e"), "{id:?}");
    let endpoints = java(KAFKA, "org.apache.kafka.tools.ClusterTool")
        .typed(&format!("list-endpoints --include-fenced-brokers --bootstrap-server {}", cluster.addrs()))
        .run()?;
    ensure!((0..NODES).all(|id| endpoints.iter().any(|row| row.contains(&format!("rack-{id}")))), "{endpoints:?}");
    Ok(())
}

/// Nothing that was acknowledged is lost, and nothing comes twice, while the node that leads dies.
#[test]
fn verifiable_clients_live_through_the_death_of_a_leader() -> Result<()> {
    const COUNT: u64 = 6_000;
    with_cluster(&[], |cluster| {
        topics(
            cluster,
            "--create --topic verified --partitions 3 --replication-factor 3 --config min.insync.replicas=2",
        )?;
        let config = tempfile::NamedTempFile::new()?;
        std::fs::write(
            config.path(),
            "enable.idempotence=true\nretries=1000000\nlinger.ms=5\ndelivery.timeout.ms=90000\n",
        )?;
        let mut producer = tool(cluster, "VerifiableProducer")
            .typed(&format!("--topic verified --max-messages {COUNT} --throughput 600 --acks -1 --command-config"))
            .arg(config.path())
            .start()?;
        let mut consumer = tool(cluster, "VerifiableConsumer")
            .typed("--topic verified --group-id verified-readers --reset-policy earliest --verbose")
            .start()?;
        let mut acked: BTreeSet<u64> = BTreeSet::new();
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let mut killed = false;
        while let Some(line) = producer.next_line()? {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            ensure!(event["name"] != "producer_send_error", "{event}");
            if let Some(value) = event["value"].as_str().filter(|_| event["name"] == "producer_send_success") {
                acked.insert(value.parse()?);
                if killed {
                    longest = longest.max(last.elapsed());
                }
                last = Instant::now();
            }
            if !killed && acked.len() >= 1_500 {
                cluster.node(1)?.kill()?;
                killed = true;
            }
        }
        ensure!(acked.iter().copied().eq(0..COUNT), "acknowledged {} of {COUNT}", acked.len());
        wherry_e2e::report(&format!("the longest silence after the kill was {} ms", longest.as_millis()));
        let mut consumed: BTreeMap<u64, u32> = BTreeMap::new();
        while (consumed.len() as u64) < COUNT {
            let event: serde_json::Value = serde_json::from_str(&consumer.line()?).unwrap_or_default();
            if let Some(value) = event["value"].as_str().filter(|_| event["name"] == "record_data") {
                *consumed.entry(value.parse()?).or_default() += 1;
            }
        }
        consumer.signal(Signal::TERM)?;
        consumer.finish()?;
        let ends: i64 = say(cluster, "GetOffsetShell", "--topic verified")?
            .iter()
            .filter_map(|line| line.rsplit(':').next()?.parse::<i64>().ok())
            .sum();
        ensure!(ends == COUNT as i64, "{ends} records for {COUNT} messages: some came twice");
        let described = say(cluster, "consumer.group.ConsumerGroupCommand", "--describe --group verified-readers")?;
        ensure!(described.iter().filter(|row| row.contains("verified-readers")).count() == 3, "{described:?}");
        let configs =
            say(cluster, "kafka.admin.ConfigCommand", "--describe --entity-type topics --entity-name verified")?;
        ensure!(configs.join("\n").contains("min.insync.replicas=2"), "{configs:?}");
        cluster.node(1)?.launch()?;
        await_whole(cluster)
    })
}
