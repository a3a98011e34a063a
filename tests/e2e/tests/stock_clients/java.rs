//! Kafka's own console, admin, verifiable and performance tools: the newest version, and the oldest one served.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use wherry_e2e::clients::{CODECS, KAFKA, OLD_KAFKA, java};
use wherry_e2e::process::Program;
use wherry_e2e::records::{Received, Record, check_content, check_offsets, lines, records};
use wherry_e2e::server::Server;

use crate::{each, one};

fn tool(server: &Server, class: &str) -> Program {
    java(KAFKA, &format!("org.apache.kafka.tools.{class}")).arg("--bootstrap-server").arg(server.addr())
}

fn create(server: &Server, topic: &str, partitions: u32) -> Result<()> {
    let set = format!("--create --topic {topic} --partitions {partitions} --replication-factor 1");
    tool(server, "TopicCommand").typed(&set).run().map(drop)
}

fn console_produce(server: &Server, topic: &str, codec: &str, sent: &[Record]) -> Result<()> {
    let set = format!("--topic {topic} --compression-codec {codec} --reader-property parse.key=true");
    tool(server, "ConsoleProducer").typed(&set).input(lines(sent)).run().map(drop)
}

/// `Partition:P<TAB>Offset:O<TAB>KEY<TAB>VALUE` lines.
fn parse(lines: &[String]) -> Result<Vec<Received>> {
    let one = |line: &String| {
        let fields: Vec<&str> = line.splitn(4, '\t').collect();
        let number = |i: usize, name: &str| {
            fields.get(i).and_then(|f| f.strip_prefix(name)).with_context(|| format!("not a record: {line:.100}"))
        };
        Ok(Received {
            partition: number(0, "Partition:")?.parse()?,
            offset: number(1, "Offset:")?.parse()?,
            key: fields[2].into(),
            value: fields[3].into(),
            member: 0,
        })
    };
    lines.iter().map(one).collect()
}

fn console_consume(server: &Server, more: &str, count: usize) -> Result<Vec<Received>> {
    let set = format!(
        "{more} --max-messages {count} --timeout-ms 60000 --formatter-property print.key=true \
         --formatter-property print.partition=true --formatter-property print.offset=true"
    );
    parse(&tool(server, "consumer.ConsoleConsumer").typed(&set).run()?)
}

#[test]
fn console_tools_with_each_codec() -> Result<()> {
    each(|server| {
        for codec in CODECS {
            let topic = format!("java-{codec}");
            let sent = records(700, &topic);
            console_produce(server, &topic, codec, &sent)?;
            let received = console_consume(server, &format!("--topic {topic} --from-beginning"), sent.len())?;
            check_content(&sent, &received).context(codec)?;
            check_offsets(&received, 0).context(codec)?;
        }
        Ok(())
    })
}

/// The 2.1 console client says no offsets; its topics are told apart by the tag in each value.
#[test]
fn old_console_tools_with_each_codec() -> Result<()> {
    each(|server| {
        for codec in CODECS {
            let topic = format!("java-old-{codec}");
            let sent = records(400, &topic);
            java(OLD_KAFKA, "kafka.tools.ConsoleProducer")
                .typed(&format!("--broker-list {} --topic {topic}", server.addr()))
                .typed(&format!("--compression-codec {codec} --property parse.key=true --request-required-acks all"))
                .input(lines(&sent))
                .run()?;
            let set = format!("--topic {topic} --from-beginning --max-messages 400 --timeout-ms 60000");
            let said = java(OLD_KAFKA, "kafka.tools.ConsoleConsumer")
                .typed(&format!("--bootstrap-server {} {set} --property print.key=true", server.addr()))
                .run()?;
            check_content(&sent, &key_value(&said)?).context(codec)?;
        }
        Ok(())
    })
}

fn key_value(lines: &[String]) -> Result<Vec<Received>> {
    let one = |line: &String| {
        let (key, value) = line.split_once('\t').with_context(|| format!("not a record: {line:.100}"))?;
        Ok(Received { partition: 0, offset: -1, key: key.into(), value: value.into(), member: 0 })
    };
    lines.iter().map(one).collect()
}

#[test]
fn a_console_group_goes_on_where_it_left_off_and_its_lag_is_told() -> Result<()> {
    each(|server| {
        create(server, "java-group", 3)?;
        let sent = records(500, "java-group");
        console_produce(server, "java-group", "lz4", &sent)?;
        let set = "--topic java-group --group java-readers --command-property auto.offset.reset=earliest";
        let first = console_consume(server, set, 200)?;
        let lag = group_lag(server, "java-readers")?;
        ensure!(lag.len() == 3 && lag.values().sum::<i64>() == 300, "lag: {lag:?}");
        let second = console_consume(server, set, 300)?;
        let all: Vec<Received> = first.into_iter().chain(second).collect();
        check_content(&sent, &all)?;
        check_offsets(&all, 0)?;
        let groups = tool(server, "consumer.group.ConsumerGroupCommand").arg("--list").run()?;
        ensure!(groups.iter().any(|g| g == "java-readers"), "{groups:?}");
        reset_and_delete(server)
    })
}

fn reset_and_delete(server: &Server) -> Result<()> {
    let command = || tool(server, "consumer.group.ConsumerGroupCommand").typed("--group java-readers");
    command().typed("--topic java-group --reset-offsets --to-earliest --execute").run()?;
    let lag = group_lag(server, "java-readers")?;
    ensure!(lag.values().sum::<i64>() == 500, "after the reset: {lag:?}");
    command().typed("--topic java-group --delete-offsets").run()?;
    command().typed("--delete").run()?;
    let groups = tool(server, "consumer.group.ConsumerGroupCommand").arg("--list").run()?;
    ensure!(!groups.iter().any(|g| g == "java-readers"), "{groups:?}");
    Ok(())
}

/// Lag by partition, as `kafka-consumer-groups --describe` prints it.
fn group_lag(server: &Server, group: &str) -> Result<BTreeMap<i32, i64>> {
    let said =
        tool(server, "consumer.group.ConsumerGroupCommand").typed(&format!("--describe --group {group}")).run()?;
    let columns = |line: &String| line.split_whitespace().map(String::from).collect::<Vec<_>>();
    let header = said.iter().map(columns).find(|c| c.iter().any(|w| w == "LAG")).context("no header")?;
    let place = |name: &str| header.iter().position(|w| w == name).with_context(|| format!("no {name}: {header:?}"));
    let (partition, lag) = (place("PARTITION")?, place("LAG")?);
    let rows = said.iter().map(columns).filter(|c| c.first().is_some_and(|g| g == group));
    rows.map(|c| Ok((c[partition].parse()?, c[lag].parse()?))).collect()
}

#[test]
fn topics_are_created_described_grown_configured_and_deleted() -> Result<()> {
    each(|server| {
        create(server, "java-topics", 2)?;
        let topics = |set: &str| tool(server, "TopicCommand").typed(set).run();
        topics("--alter --topic java-topics --partitions 5")?;
        let described = topics("--describe --topic java-topics")?.join("\n");
        ensure!(described.contains("PartitionCount: 5") && described.contains("Partition: 4"), "{described}");
        let again = tool(server, "TopicCommand").typed("--create --topic java-topics").finish()?;
        ensure!(!again.status.success(), "created twice");
        let configs = |set: &str| {
            let command = java(KAFKA, "kafka.admin.ConfigCommand").arg("--bootstrap-server").arg(server.addr());
            command.typed("--entity-type topics --entity-name java-topics").typed(set).run()
        };
        configs("--alter --add-config retention.ms=86400000,cleanup.policy=compact")?;
        let set = configs("--describe")?.join("\n");
        ensure!(set.contains("retention.ms=86400000") && set.contains("cleanup.policy=compact"), "{set}");
        configs("--alter --delete-config retention.ms")?;
        let left = configs("--describe")?.join("\n");
        ensure!(!left.contains("retention.ms=86400000") && left.contains("cleanup.policy=compact"), "{left}");
        topics("--delete --topic java-topics")?;
        wherry_e2e::until("the topic to go", || Ok(!topics("--list")?.iter().any(|t| t == "java-topics")))
    })
}

#[test]
fn offsets_are_told_and_records_deleted() -> Result<()> {
    each(|server| {
        create(server, "java-offsets", 1)?;
        let sent = records(120, "java-offsets");
        console_produce(server, "java-offsets", "none", &sent)?;
        let at = |time: &str| -> Result<String> {
            let set = format!("--topic java-offsets --time {time}");
            Ok(tool(server, "GetOffsetShell").typed(&set).run()?.concat())
        };
        ensure!(at("latest")? == "java-offsets:0:120" && at("earliest")? == "java-offsets:0:0", "{}", at("latest")?);
        let plan = tempfile::NamedTempFile::new()?;
        std::fs::write(
            plan.path(),
            r#"{"partitions":[{"topic":"java-offsets","partition":0,"offset":70}],"version":1}"#,
        )?;
        tool(server, "DeleteRecordsCommand").arg("--offset-json-file").arg(plan.path()).run()?;
        ensure!(at("earliest")? == "java-offsets:0:70", "{}", at("earliest")?);
        let left = console_consume(server, "--topic java-offsets --from-beginning", 50)?;
        check_content(&sent[70..], &left)?;
        check_offsets(&left, 70)
    })
}

#[test]
fn log_dirs_and_api_versions_are_told() -> Result<()> {
    each(|server| {
        create(server, "java-dirs", 2)?;
        console_produce(server, "java-dirs", "none", &records(200, "java-dirs"))?;
        let said = tool(server, "LogDirsCommand").typed("--describe --topic-list java-dirs").run()?;
        let json = said.iter().find(|l| l.starts_with('{')).context("no JSON")?;
        let dirs: serde_json::Value = serde_json::from_str(json)?;
        let partitions = dirs["brokers"][0]["logDirs"][0]["partitions"].as_array().cloned().unwrap_or_default();
        let size: i64 = partitions.iter().filter_map(|p| p["size"].as_i64()).sum();
        ensure!(partitions.len() == 2 && size > 20_000, "{dirs}");
        let versions = tool(server, "BrokerApiVersionsCommand").run()?.join("\n");
        ensure!(versions.contains("Produce(0)") && versions.contains("Fetch(1)"), "{versions}");
        Ok(())
    })
}

#[test]
fn verifiable_clients_agree_on_what_was_acknowledged() -> Result<()> {
    each(|server| {
        for version in [KAFKA, OLD_KAFKA] {
            verifiable(server, version).with_context(|| version.to_owned())?;
        }
        Ok(())
    })
}

fn verifiable(server: &Server, version: &str) -> Result<()> {
    const COUNT: usize = 3000;
    let topic = format!("java-verifiable-{version}");
    create(server, &topic, 2)?;
    let flag = if version == KAFKA { "--bootstrap-server" } else { "--broker-list" };
    let said = java(version, "org.apache.kafka.tools.VerifiableProducer")
        .typed(&format!("{flag} {} --topic {topic} --max-messages {COUNT} --acks -1", server.addr()))
        .run()?;
    let events: Vec<serde_json::Value> = said.iter().filter_map(|l| serde_json::from_str(l).ok()).collect();
    let acked = events.iter().filter(|e| e["name"] == "producer_send_success");
    let mut acked: Vec<u64> = acked.filter_map(|e| e["value"].as_str()?.parse().ok()).collect();
    acked.sort_unstable();
    ensure!(acked.iter().copied().eq(0..COUNT as u64), "acknowledged {} of {COUNT}", acked.len());
    consume_verifiably(server, version, &topic, COUNT as u64)
}

fn consume_verifiably(server: &Server, version: &str, topic: &str, count: u64) -> Result<()> {
    let flag = if version == KAFKA { "--bootstrap-server" } else { "--broker-list" };
    let mut consumer = java(version, "org.apache.kafka.tools.VerifiableConsumer")
        .typed(&format!("{flag} {} --topic {topic} --group-id {topic}-readers", server.addr()))
        .typed(&format!("--max-messages {count} --reset-policy earliest"))
        .start()?;
    let (mut consumed, mut committed) = (0, BTreeMap::new());
    while committed.values().sum::<u64>() < count {
        let event: serde_json::Value = serde_json::from_str(&consumer.line()?)?;
        match event["name"].as_str() {
            Some("records_consumed") => consumed += event["count"].as_u64().unwrap_or(0),
            Some("offsets_committed") => {
                ensure!(event["success"] == true, "{event}");
                for o in event["offsets"].as_array().into_iter().flatten() {
                    committed.insert(o["partition"].as_u64(), o["offset"].as_u64().context("no offset")?);
                }
            }
            _ => {}
        }
    }
    ensure!(consumed == count, "consumed {consumed} of {count}");
    let _ = consumer.signal(Signal::TERM); // the old one ends by itself at its limit
    consumer.finish().map(drop)
}

#[test]
fn performance_tools_run_and_count_right() -> Result<()> {
    each(|server| {
        let produce = "--topic java-perf --num-records 20000 --record-size 512 --throughput -1 \
                       --command-property acks=all linger.ms=5 compression.type=lz4";
        let said = tool(server, "ProducerPerformance").typed(produce).run()?;
        let last = said.iter().rev().find(|l| l.contains("records sent")).context("no result")?;
        ensure!(last.starts_with("20000 records sent"), "{last}");
        let consume = "--topic java-perf --num-records 20000 --timeout 60000 --hide-header";
        let said = tool(server, "ConsumerPerformance").typed(consume).run()?;
        let fields: Vec<&str> = said.last().context("no result")?.split(", ").collect();
        ensure!(fields.get(4) == Some(&"20000"), "{said:?}");
        Ok(())
    })
}

#[test]
fn old_performance_and_admin_tools_run_and_count_right() -> Result<()> {
    one(|server| {
        let addr = server.addr();
        let props = format!("bootstrap.servers={addr} acks=all linger.ms=5");
        let said = java(OLD_KAFKA, "org.apache.kafka.tools.ProducerPerformance")
            .typed("--topic java-old-perf --num-records 20000 --record-size 512 --throughput -1 --producer-props")
            .typed(&props)
            .run()?;
        let last = said.iter().rev().find(|l| l.contains("records sent")).context("no result")?;
        ensure!(last.starts_with("20000 records sent"), "{last}");
        let said = java(OLD_KAFKA, "kafka.tools.ConsumerPerformance")
            .typed(&format!(
                "--broker-list {addr} --topic java-old-perf --messages 20000 --timeout 60000 --hide-header"
            ))
            .run()?;
        let fields: Vec<&str> = said.last().context("no result")?.split(", ").collect();
        ensure!(fields.get(4) == Some(&"20000"), "{said:?}");
        let offsets = java(OLD_KAFKA, "kafka.tools.GetOffsetShell")
            .typed(&format!("--broker-list {addr} --topic java-old-perf --time -1"))
            .run()?;
        ensure!(offsets.concat() == "java-old-perf:0:20000", "{offsets:?}");
        let groups = java(OLD_KAFKA, "kafka.admin.ConsumerGroupCommand")
            .typed(&format!("--bootstrap-server {addr} --list"))
            .run()?;
        ensure!(groups.iter().any(|g| g.starts_with("perf-consumer-")), "{groups:?}");
        Ok(())
    })
}
