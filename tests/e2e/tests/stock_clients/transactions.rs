//! Transactions with stock clients: librdkafka and Kafka's own copier move records exactly once, and Kafka's own tool shows
//! what is going on and ends what hangs.

use anyhow::{Context, Result, ensure};
use wherry_e2e::clients::{KAFKA, java, kcat};
use wherry_e2e::process::Program;
use wherry_e2e::records::{Record, check_content, lines, records};
use wherry_e2e::server::Server;
use wherry_e2e::transactions::{Copiers, check_copy, read};

use crate::each;

fn tool(server: &Server, class: &str) -> Program {
    java(KAFKA, &format!("org.apache.kafka.tools.{class}")).arg("--bootstrap-server").arg(server.addr())
}

fn create(server: &Server, topic: &str, partitions: u32) -> Result<()> {
    let set = format!("--create --topic {topic} --partitions {partitions} --replication-factor 1");
    tool(server, "TopicCommand").typed(&set).run().map(drop)
}

fn fill(server: &Server, topic: &str, count: usize) -> Result<Vec<Record>> {
    let sent = records(count, topic);
    kcat(&server.addr()).typed(&format!("-P -t {topic}")).arg("-K").arg("\t").input(lines(&sent)).run()?;
    Ok(sent)
}

/// Rows of a table that Kafka's tool prints, without its head.
fn rows(said: &[String]) -> Vec<Vec<&str>> {
    let head = said.iter().position(|line| line.contains("ProducerId")).map_or(said.len(), |at| at + 1);
    said[head..].iter().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn three_copiers_of_a_group_copy_each_record_once() -> Result<()> {
    each(|server| {
        create(server, "copy-from", 4)?;
        create(server, "copy-to", 3)?;
        let sent = fill(server, "copy-from", 2_000)?;
        let copied = Copiers::start(server, "copy-from", "copy-to", 3, sent.len())?.finish()?;
        ensure!(copied.aborted > 0, "nothing was aborted: {copied:?}");
        check_copy(server, "copy-to", &sent, copied)
    })
}

#[test]
fn the_java_copier_copies_each_record_once() -> Result<()> {
    each(|server| {
        create(server, "java-copy-from", 1)?;
        create(server, "java-copy-to", 2)?;
        let sent = fill(server, "java-copy-from", 700)?;
        let set = "--input-topic java-copy-from --output-topic java-copy-to --input-partition 0 --max-messages 700 \
                   --consumer-group java-copiers --transactional-id java-copier --transaction-size 40 \
                   --enable-random-aborts --use-group-metadata";
        let copier = java(KAFKA, "org.apache.kafka.tools.TransactionalMessageCopier");
        let said = copier.arg("--broker-list").arg(server.addr()).typed(set).run()?;
        ensure!(said.iter().any(|line| line.contains("ShutdownComplete")), "{said:?}");
        check_content(&sent, &read(server, "java-copy-to", "read_committed")?)
    })
}

#[test]
fn the_tool_lists_and_describes_transactions() -> Result<()> {
    each(|server| {
        create(server, "listed-from", 2)?;
        create(server, "listed-to", 2)?;
        let sent = fill(server, "listed-from", 100)?;
        Copiers::start(server, "listed-from", "listed-to", 1, sent.len())?.finish()?;
        let said = tool(server, "TransactionsCommand").arg("list").run()?;
        let all = rows(&said);
        let ours = all.iter().find(|row| row[0] == "listed-from-copier-0").context("it is not listed")?;
        ensure!(ours[3].starts_with("Complete") || ours[3] == "Empty", "{ours:?}");
        let describe = "describe --transactional-id listed-from-copier-0";
        let said = tool(server, "TransactionsCommand").typed(describe).run()?;
        let one = rows(&said).concat();
        ensure!(one[1] == "listed-from-copier-0" && one[5] == "30000", "{one:?}");
        let hanging = tool(server, "TransactionsCommand").typed("find-hanging --topic listed-to").run()?;
        ensure!(rows(&hanging).is_empty(), "{hanging:?}");
        Ok(())
    })
}
