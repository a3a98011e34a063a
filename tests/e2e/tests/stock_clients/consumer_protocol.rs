//! The consumer protocol of KIP-848 with librdkafka and Kafka's own clients and tools: members that come and go, patterns,
//! both kinds of groups under one id, settings of groups, features.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use wherry_e2e::clients::{KAFKA, Library, java};
use wherry_e2e::process::{Program, Running};
use wherry_e2e::records::{Received, Record, check_content, check_offsets, lines, parse, records};
use wherry_e2e::server::Server;

use crate::each;

fn tool(server: &Server, class: &str) -> Program {
    java(KAFKA, class).arg("--bootstrap-server").arg(server.addr())
}

fn create(server: &Server, topic: &str, partitions: u32) -> Result<()> {
    let set = format!("--create --topic {topic} --partitions {partitions} --replication-factor 1");
    tool(server, "org.apache.kafka.tools.TopicCommand").typed(&set).run().map(drop)
}

fn confluent() -> Program {
    Library::Confluent.program().env("GROUP_PROTOCOL", "consumer")
}

fn produce(server: &Server, topic: &str, records: &[Record]) -> Result<()> {
    let set = format!("produce {} {topic} lz4", server.addr());
    Library::Confluent.program().typed(&set).input(lines(records)).run().map(drop)
}

fn groups(server: &Server, set: &str) -> Result<Vec<String>> {
    tool(server, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand").typed(set).run()
}

#[derive(Deserialize)]
struct Ready {
    ready: Vec<usize>,
}

/// Its program fails if a partition is ever with two members; every record is read once, whoever has its partition.
#[test]
fn librdkafka_members_come_and_go() -> Result<()> {
    const STAGES: usize = 6;
    each(|server| {
        create(server, "new-come-and-go", 7)?;
        let sent = records(STAGES * 200, "new-come-and-go");
        let set = format!("rebalance {} new-come-and-go new-movers {}", server.addr(), sent.len());
        let mut members = confluent().typed(&set).start()?;
        let (mut received, mut shares) = (Vec::new(), Vec::new());
        while let Some(line) = members.next_line()? {
            match serde_json::from_str::<Ready>(&line) {
                Ok(Ready { ready }) => {
                    let stage = shares.len();
                    produce(server, "new-come-and-go", &sent[stage * 200..(stage + 1) * 200])?;
                    shares.push(ready);
                }
                Err(_) => received.append(&mut parse::<Received>(&[line])?),
            }
        }
        members.finish()?;
        ensure!(shares.iter().map(Vec::len).eq([1, 2, 3, 2, 3, 1]), "shared as {shares:?}");
        check_content(&sent, &received)?;
        check_offsets(&received, 0)
    })
}

#[test]
fn a_librdkafka_group_goes_on_where_it_left_off() -> Result<()> {
    each(|server| {
        let sent = records(500, "new-group");
        create(server, "new-group", 3)?;
        let consume = |count: usize| -> Result<Vec<Received>> {
            let set = format!("consume {} new-group new-readers {count}", server.addr());
            parse(&confluent().typed(&set).run()?)
        };
        produce(server, "new-group", &sent[..300])?;
        check_content(&sent[..300], &consume(300)?)?;
        produce(server, "new-group", &sent[300..])?;
        check_content(&sent[300..], &consume(200)?)
    })
}

/// The pattern is looked up by the server: a topic that is made later is read as well.
#[test]
fn librdkafka_reads_topics_by_pattern() -> Result<()> {
    each(|server| {
        let (first, second) = (records(100, "new-pattern-1"), records(100, "new-pattern-2"));
        create(server, "new-pattern-1", 2)?;
        produce(server, "new-pattern-1", &first)?;
        create(server, "other-new-pattern", 1)?;
        produce(server, "other-new-pattern", &records(10, "other"))?;
        let set = format!("consume {} ^new-pattern-.* new-pattern-readers 200", server.addr());
        let mut reader = confluent().typed(&set).start()?;
        let mut received: Vec<Received> = Vec::new();
        while received.len() < 100 {
            received.append(&mut parse(&[reader.line()?])?);
        }
        check_content(&first, &received)?;
        create(server, "new-pattern-2", 2)?;
        produce(server, "new-pattern-2", &second)?;
        check_content(&second, &parse(&reader.rest()?)?)
    })
}

fn verifiable(server: &Server, topic: &str, group: &str) -> Result<Running> {
    let set = format!("--topic {topic} --group-id {group} --group-protocol CONSUMER --reset-policy earliest");
    tool(server, "org.apache.kafka.tools.VerifiableConsumer").typed(&set).start()
}

/// What one of Kafka's verifiable consumers has told.
#[derive(Default)]
struct Told {
    owned: Vec<i64>,
    /// Each partition with the times at which it was got and given up.
    held: Vec<(i64, i64, i64)>,
    since: BTreeMap<i64, i64>,
    consumed: i64,
}

impl Told {
    fn take(&mut self, line: &str) -> Result<()> {
        let event: serde_json::Value = serde_json::from_str(line)?;
        let at = event["timestamp"].as_i64().context("no timestamp")?;
        let partitions = event["partitions"].as_array().into_iter().flatten();
        let numbers = || partitions.clone().filter_map(|p| p["partition"].as_i64());
        match event["name"].as_str() {
            Some("partitions_assigned") => {
                self.since.extend(numbers().map(|partition| (partition, at)));
                self.owned.extend(numbers());
            }
            Some("partitions_revoked") => {
                for partition in numbers() {
                    let since = self.since.remove(&partition).context("gave up what it had not")?;
                    self.held.push((partition, since, at));
                    self.owned.retain(|owned| *owned != partition);
                }
            }
            Some("records_consumed") => self.consumed += event["count"].as_i64().unwrap_or(0),
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// Reads what members tell until together they have all partitions, shared evenly.
fn until_shared(members: &mut [(&mut Running, &mut Told)], total: usize) -> Result<()> {
    loop {
        let counts: Vec<usize> = members.iter().map(|(_, told)| told.owned.len()).collect();
        let (most, least) = (counts.iter().max().copied(), counts.iter().min().copied());
        if counts.iter().sum::<usize>() == total && most <= least.map(|least| least + 1) {
            return Ok(());
        }
        // Who has too many is the next to tell; if nobody has, who has fewest.
        let share = total.div_ceil(members.len());
        let next = counts.iter().position(|count| *count > share);
        let next = next.or_else(|| counts.iter().position(|count| Some(*count) == least)).context("nobody")?;
        let (member, told) = &mut members[next];
        told.take(&member.line()?)?;
    }
}

/// Two and then three of Kafka's own consumers; what the group tool says of them; no two ever have one partition.
#[test]
fn java_members_share_and_are_described() -> Result<()> {
    each(|server| {
        create(server, "new-java", 6)?;
        let (mut a, mut of_a) = (verifiable(server, "new-java", "new-java-readers")?, Told::default());
        until_shared(&mut [(&mut a, &mut of_a)], 6)?;
        let (mut b, mut of_b) = (verifiable(server, "new-java", "new-java-readers")?, Told::default());
        until_shared(&mut [(&mut a, &mut of_a), (&mut b, &mut of_b)], 6)?;
        let (mut c, mut of_c) = (verifiable(server, "new-java", "new-java-readers")?, Told::default());
        until_shared(&mut [(&mut a, &mut of_a), (&mut b, &mut of_b), (&mut c, &mut of_c)], 6)?;
        check_described(server)?;
        a.signal(Signal::TERM)?;
        for line in a.finish()?.lines {
            of_a.take(&line)?;
        }
        until_shared(&mut [(&mut b, &mut of_b), (&mut c, &mut of_c)], 6)?;
        for (member, told) in [(b, &mut of_b), (c, &mut of_c)] {
            member.signal(Signal::TERM)?;
            for line in member.finish()?.lines {
                told.take(&line)?;
            }
        }
        check_exclusive(&[of_a, of_b, of_c])
    })
}

fn check_exclusive(all: &[Told]) -> Result<()> {
    let held: Vec<_> = all.iter().enumerate().flat_map(|(n, told)| told.held.iter().map(move |h| (n, *h))).collect();
    ensure!(all.iter().all(|told| told.since.is_empty()), "a member that has left gave something up never");
    for (one, (partition, from, to)) in &held {
        for (other, (same, since, until)) in &held {
            let apart = one == other || partition != same || to <= since || until <= from;
            ensure!(apart, "partition {partition} was with {one} from {from} to {to} and with {other} from {since}");
        }
    }
    ensure!(held.len() > 6, "nothing moved");
    Ok(())
}

/// `kafka-consumer-groups` knows the group, its members and what they have.
fn check_described(server: &Server) -> Result<()> {
    let described = || groups(server, "--describe --group new-java-readers --members --verbose");
    let rows = |said: &[String]| -> Vec<String> {
        said.iter().filter(|line| line.starts_with("new-java-readers")).cloned().collect()
    };
    // The last of them may still be on its way.
    wherry_e2e::until("a stable group", || {
        Ok(groups(server, "--describe --group new-java-readers --state")?.concat().contains("Stable"))
    })?;
    let said = described()?;
    ensure!(said.iter().any(|line| line.contains("CURRENT-EPOCH") && line.contains("TARGET-EPOCH")), "{said:?}");
    let members = rows(&said);
    ensure!(members.len() == 3 && members.iter().all(|row| row.contains("new-java:")), "{said:?}");
    let state = groups(server, "--describe --group new-java-readers --state --verbose")?;
    ensure!(state.concat().contains("uniform"), "{state:?}");
    let offsets = rows(&groups(server, "--describe --group new-java-readers")?);
    ensure!(offsets.len() == 6, "{offsets:?}");
    let listed = groups(server, "--list --type consumer --state stable")?;
    ensure!(listed.iter().any(|line| line.contains("new-java-readers")), "{listed:?}");
    let delete = tool(server, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand");
    let refused = delete.typed("--delete --group new-java-readers").finish()?;
    ensure!(format!("{:?}{}", refused.lines, refused.errors).contains("not empty"), "{:?}", refused.lines);
    Ok(())
}

fn console(server: &Server, protocol: &str, count: usize) -> Result<Vec<Received>> {
    let set = format!(
        "--topic new-both --group new-both-readers --max-messages {count} --timeout-ms 60000 \
         --command-property group.protocol={protocol} --command-property auto.offset.reset=earliest \
         --formatter-property print.key=true"
    );
    let said = tool(server, "org.apache.kafka.tools.consumer.ConsoleConsumer").typed(&set).run()?;
    let one = |line: &String| {
        let (key, value) = line.split_once('\t').with_context(|| format!("not a record: {line:.100}"))?;
        Ok(Received { partition: 0, offset: -1, key: key.into(), value: value.into(), member: 0 })
    };
    said.iter().map(one).collect()
}

#[test]
fn a_group_changes_its_protocol_while_it_is_empty_and_goes_on() -> Result<()> {
    each(|server| {
        create(server, "new-both", 2)?;
        let sent = records(300, "new-both");
        produce(server, "new-both", &sent)?;
        let mut received = Vec::new();
        for (protocol, kind) in [("classic", "Classic"), ("consumer", "Consumer"), ("classic", "Classic")] {
            received.append(&mut console(server, protocol, 100)?);
            let listed = groups(server, "--list --type")?;
            let row = listed.iter().find(|line| line.starts_with("new-both-readers")).context("not listed")?;
            ensure!(row.contains(kind), "after {protocol}: {row}");
        }
        check_content(&sent, &received)?;
        groups(server, "--delete --group new-both-readers").map(drop)
    })
}

#[test]
fn groups_are_configured_and_features_described() -> Result<()> {
    each(|server| {
        let configs = |set: &str| {
            let command = java(KAFKA, "kafka.admin.ConfigCommand").arg("--bootstrap-server").arg(server.addr());
            command.typed("--entity-type groups --entity-name new-set").typed(set).run()
        };
        configs("--alter --add-config consumer.session.timeout.ms=50000,consumer.heartbeat.interval.ms=6000")?;
        let set = configs("--describe")?.join("\n");
        ensure!(set.contains("consumer.session.timeout.ms=50000"), "{set}");
        let command = java(KAFKA, "kafka.admin.ConfigCommand").arg("--bootstrap-server").arg(server.addr());
        let wrong = "--entity-type groups --entity-name new-set --alter --add-config consumer.session.timeout.ms=1";
        ensure!(!command.typed(wrong).finish()?.status.success(), "a session of 1 ms was accepted");
        configs("--alter --delete-config consumer.session.timeout.ms,consumer.heartbeat.interval.ms")?;
        let set = configs("--describe")?.join("\n");
        ensure!(!set.contains("consumer.session.timeout.ms=50000"), "{set}");
        let features = |set: &str| tool(server, "org.apache.kafka.tools.FeatureCommand").typed(set);
        let said = features("describe").run()?;
        let level = |name: &str| {
            let row = said.iter().find(|line| line.contains(&format!("Feature: {name}")));
            let words = row.map(|row| row.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
            let at = words.iter().position(|word| *word == "FinalizedVersionLevel:");
            at.and_then(|at| words.get(at + 1).map(|level| (*level).to_owned())).unwrap_or_default()
        };
        ensure!(level("group.version") == "1" && level("transaction.version") == "2", "{said:?}");
        ensure!(level("metadata.version").starts_with("4."), "{said:?}");
        ensure!(!features("upgrade --feature group.version=99").finish()?.status.success(), "99 is no level");
        Ok(())
    })
}
