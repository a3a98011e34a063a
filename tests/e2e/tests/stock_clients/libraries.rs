//! kafka-python, confluent-kafka, franz-go and Sarama: idempotent producers with every codec, groups, admin calls.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use wherry_e2e::clients::{CODECS, KAFKA, Library, java};
use wherry_e2e::records::{Ack, Received, check_acks, check_content, check_offsets, lines, parse, records};
use wherry_e2e::server::Server;

use crate::each;

fn consume(server: &Server, library: Library, topic: &str, group: &str, count: usize) -> Result<Vec<Received>> {
    parse(&library.program().typed(&format!("consume {} {topic} {group} {count}", server.addr())).run()?)
}

/// What `writer` sends with each codec, `writer` and the next library receive, where the acknowledgements said.
fn round_trip(writer: Library) -> Result<()> {
    if !writer.available() {
        return Ok(());
    }
    each(|server| {
        for (i, codec) in CODECS.into_iter().enumerate() {
            let topic = format!("{}-{codec}", writer.name());
            let sent = records(800, &topic);
            let produce = format!("produce {} {topic} {codec}", server.addr());
            let acks: Vec<Ack> = parse(&writer.program().typed(&produce).input(lines(&sent)).run()?)?;
            let other = Library::ALL[i % Library::ALL.len()];
            for reader in [Some(writer), Some(other).filter(|o| *o != writer && o.available())].into_iter().flatten() {
                let group = format!("{topic}-by-{}", reader.name());
                let received = consume(server, reader, &topic, &group, sent.len());
                let received = received.with_context(|| format!("{codec}, read by {}", reader.name()))?;
                check_content(&sent, &received).context(codec)?;
                check_offsets(&received, 0).context(codec)?;
                check_acks(&sent, &acks, &received).context(codec)?;
            }
        }
        Ok(())
    })
}

#[derive(Deserialize)]
struct Ready {
    ready: [usize; 2],
}

/// Two members share four partitions; every record reaches exactly one of them; what was committed is not read again.
fn group_of_two(library: Library) -> Result<()> {
    if !library.available() {
        return Ok(());
    }
    each(|server| {
        let topic = format!("{}-group", library.name());
        let create = format!("--bootstrap-server {} --create --topic {topic} --partitions 4", server.addr());
        java(KAFKA, "org.apache.kafka.tools.TopicCommand").typed(&create).run()?;
        let sent = records(600, &topic);
        let group = format!("{topic}-readers");
        let mut members = library.program().typed(&format!("group {} {topic} {group} 500", server.addr())).start()?;
        let ready: Ready = serde_json::from_str(&members.line()?)?;
        ensure!(ready.ready == [2, 2], "shared as {:?}", ready.ready);
        let produce = |records| {
            library.program().typed(&format!("produce {} {topic} zstd", server.addr())).input(lines(records)).run()
        };
        produce(&sent[..500])?;
        let received: Vec<Received> = parse(&members.rest()?)?;
        check_content(&sent[..500], &received)?;
        check_offsets(&received, 0)?;
        for member in 1..=2 {
            ensure!(received.iter().any(|r| r.member == member), "member {member} received nothing");
        }
        let owner = |p| received.iter().find(|r| r.partition == p).map(|r| r.member);
        for r in &received {
            ensure!(Some(r.member) == owner(r.partition), "partition {} went to both members", r.partition);
        }
        produce(&sent[500..])?;
        check_content(&sent[500..], &consume(server, library, &topic, &group, 100)?).context("after the commit")
    })
}

/// The library's admin calls; its program checks each answer.
fn admin(library: Library) -> Result<()> {
    if !library.available() {
        return Ok(());
    }
    each(|server| {
        let said = library.program().typed(&format!("admin {} {}-admin", server.addr(), library.name())).run()?;
        ensure!(said.concat().contains("ok"), "{said:?}");
        Ok(())
    })
}

#[test]
fn kafka_python_round_trip_with_each_codec() -> Result<()> {
    round_trip(Library::KafkaPython)
}

#[test]
fn kafka_python_group() -> Result<()> {
    group_of_two(Library::KafkaPython)
}

#[test]
fn kafka_python_admin() -> Result<()> {
    admin(Library::KafkaPython)
}

#[test]
fn confluent_round_trip_with_each_codec() -> Result<()> {
    round_trip(Library::Confluent)
}

#[test]
fn confluent_group() -> Result<()> {
    group_of_two(Library::Confluent)
}

#[test]
fn confluent_admin() -> Result<()> {
    admin(Library::Confluent)
}

#[test]
fn franz_round_trip_with_each_codec() -> Result<()> {
    round_trip(Library::Franz)
}

#[test]
fn franz_group() -> Result<()> {
    group_of_two(Library::Franz)
}

#[test]
fn franz_admin() -> Result<()> {
    admin(Library::Franz)
}

#[test]
fn sarama_round_trip_with_each_codec() -> Result<()> {
    round_trip(Library::Sarama)
}

#[test]
fn sarama_group() -> Result<()> {
    group_of_two(Library::Sarama)
}

#[test]
fn sarama_admin() -> Result<()> {
    admin(Library::Sarama)
}

#[test]
fn new_sarama_round_trip_with_each_codec() -> Result<()> {
    round_trip(Library::NewSarama)
}

#[test]
fn new_sarama_group() -> Result<()> {
    group_of_two(Library::NewSarama)
}

#[test]
fn new_sarama_admin() -> Result<()> {
    admin(Library::NewSarama)
}
