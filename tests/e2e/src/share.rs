//! Share groups as stock clients see them: topics, groups and members, and what members say.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use crate::clients::{KAFKA, java, java_source, kcat};
use crate::process::{Program, Running};

/// A line that `clients/Share.java` prints.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Said {
    /// A record, and how often it was delivered.
    Record {
        /// Its value.
        value: String,
        /// This delivery counted.
        count: u32,
    },
    /// The answer to an acknowledgement.
    Acknowledged {
        /// Records.
        acknowledged: usize,
        /// Nothing, if all is well.
        errors: String,
    },
    /// The end of a `take`.
    Done {
        /// True.
        done: bool,
    },
}

impl Said {
    /// What a line says.
    pub fn of(line: &str) -> Result<Said> {
        serde_json::from_str(line).with_context(|| format!("not what a member says: {line}"))
    }
}

/// Kafka's tool of that class.
pub fn tool(brokers: &str, class: &str) -> Program {
    let class = if class.starts_with("kafka.") { class.to_owned() } else { format!("org.apache.kafka.tools.{class}") };
    java(KAFKA, &class).arg("--bootstrap-server").arg(brokers)
}

/// A topic of one partition, and a group that reads it from its beginning.
pub fn begin(brokers: &str, topic: &str, group: &str, replicas: usize) -> Result<()> {
    let set = format!("--create --topic {topic} --partitions 1 --replication-factor {replicas}");
    tool(brokers, "TopicCommand").typed(&set).run()?;
    configure(brokers, group, "share.auto.offset.reset=earliest")
}

/// Sets something for a group.
pub fn configure(brokers: &str, group: &str, setting: &str) -> Result<()> {
    let set = format!("--alter --entity-type groups --entity-name {group} --add-config {setting}");
    tool(brokers, "kafka.admin.ConfigCommand").typed(&set).run().map(drop)
}

/// Sends these values, in batches of a few records each.
pub fn produce(brokers: &str, topic: &str, values: &[String]) -> Result<()> {
    let set = format!("-P -t {topic} -X batch.num.messages=3 -X linger.ms=0 -X acks=all");
    kcat(brokers).typed(&set).input(values.join("\n") + "\n").run().map(drop)
}

/// So many different values.
pub fn values(count: usize, tag: &str) -> Vec<String> {
    (0..count).map(|n| format!("{tag}-{n}")).collect()
}

/// A member that does what these lines say.
pub fn member(brokers: &str, topic: &str, group: &str, lines: &str) -> Program {
    java_source("Share.java").arg(brokers).typed(&format!("{topic} {group}")).input(lines)
}

/// The records that a member was given, with the counts of deliveries; every acknowledgement was taken.
pub fn records(lines: &[String]) -> Result<Vec<(String, u32)>> {
    let mut records = Vec::new();
    for line in lines {
        match Said::of(line)? {
            Said::Record { value, count } => records.push((value, count)),
            Said::Acknowledged { errors, .. } => ensure!(errors.is_empty(), "{errors}"),
            Said::Done { done } => ensure!(done),
        }
    }
    Ok(records)
}

/// What is known of records while nodes die.
#[derive(Debug, Default)]
pub struct Tally {
    held: Vec<String>,
    /// Their acknowledgement was answered.
    pub acknowledged: BTreeSet<String>,
    /// Their acknowledgement may have been heard.
    pub unsure: BTreeSet<String>,
    /// Those that came again after their acknowledgement was answered.
    again: BTreeSet<String>,
}

impl Tally {
    /// Takes the next line of a member.
    pub fn take(&mut self, line: &str) -> Result<()> {
        match Said::of(line)? {
            Said::Record { value, .. } => {
                if self.acknowledged.contains(&value) {
                    self.again.insert(value.clone());
                }
                self.held.push(value);
            }
            Said::Acknowledged { errors, .. } if errors.is_empty() => self.acknowledged.extend(self.held.drain(..)),
            Said::Acknowledged { .. } => self.unsure.extend(self.held.drain(..)),
            Said::Done { .. } => {}
        }
        Ok(())
    }

    /// The member is killed; what it had may have been acknowledged.
    pub fn kill(&mut self, mut member: Running) -> Result<()> {
        member.signal(Signal::KILL)?;
        while let Some(line) = member.next_line()? {
            // The last line may be cut. What is acknowledged now may be so after the death of the node.
            if let Ok(Said::Record { value, .. }) = Said::of(&line) {
                self.held.push(value);
            }
        }
        self.unsure.extend(self.held.drain(..));
        Ok(())
    }

    /// Everything was handled, and nothing came again after its acknowledgement was answered.
    pub fn conclude(&self, sent: &[String]) -> Result<()> {
        ensure!(self.again.is_empty(), "acknowledged, and delivered again: {:?}", self.again);
        let lost = |value: &&String| !self.acknowledged.contains(*value) && !self.unsure.contains(*value);
        let lost: Vec<_> = sent.iter().filter(lost).collect();
        ensure!(lost.is_empty(), "lost: {lost:?}");
        Ok(())
    }
}

/// How often each value is among these.
pub fn counted(records: &[(String, u32)]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    records.iter().for_each(|(value, _)| *counts.entry(value.as_str()).or_default() += 1);
    counts
}
