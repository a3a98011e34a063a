//! `wherry cluster ...`, one file per command.

mod elect;
mod reassign;
mod status;

use anyhow::{Context, Result};
use clap::Subcommand;
use wherry_client::TopicPartition;
use wherry_client::admin::{Admin, Each};

use super::topic::describe::places;
use crate::exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    Status(status::StatusArgs),
    Reassign(reassign::ReassignArgs),
    ElectLeaders(elect::ElectArgs),
}

pub(crate) async fn run(command: ClusterCommand, output: Output) -> Result<()> {
    match command {
        ClusterCommand::Status(args) => status::run(args, output).await,
        ClusterCommand::Reassign(args) => reassign::run(args, output).await,
        ClusterCommand::ElectLeaders(args) => elect::run(args, output).await,
    }
}

/// A topic, or one partition of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    topic: String,
    partition: Option<i32>,
}

impl Place {
    /// Whether just this partition is meant.
    fn is(&self, at: &TopicPartition) -> bool {
        self.partition == Some(at.partition) && self.topic == *at.topic
    }
}

/// Parses `TOPIC` or `TOPIC:PARTITION`; names of topics have no colon.
pub(super) fn place(text: &str) -> Result<Place, String> {
    let (topic, partition) = match text.split_once(':') {
        Some((topic, number)) => (topic, Some(number.parse().map_err(|_| wrong(text))?)),
        None => (text, None),
    };
    if topic.is_empty() || partition.is_some_and(|number: i32| number < 0) {
        return Err(wrong(text));
    }
    Ok(Place { topic: topic.to_owned(), partition })
}

fn wrong(text: &str) -> String {
    format!("{text:?} is neither a topic nor TOPIC:PARTITION; write for example orders or orders:3")
}

/// The partitions that are meant.
pub(super) async fn partitions(admin: &Admin, of: &[Place]) -> Result<Vec<TopicPartition>> {
    let mut found = Vec::new();
    for Place { topic, partition } in of {
        let all = places(admin, topic).await.with_context(|| format!("can't look up topic {topic}"))?;
        match partition {
            None => found.extend(all),
            Some(number) => match all.into_iter().find(|at| at.partition == *number) {
                Some(at) => found.push(at),
                None => return Err(exit::usage(format!("topic {topic} has no partition {number}"))),
            },
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The first failure, if any; `what` is what could not be done.
pub(super) fn all_done(each: Each<TopicPartition, ()>, what: &str) -> Result<Vec<TopicPartition>> {
    let one = |(at, result): (TopicPartition, wherry_client::Result<()>)| {
        result.with_context(|| format!("can't {what} {at}"))?;
        Ok(at)
    };
    each.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_topics_or_partitions() {
        assert_eq!(place("a.b"), Ok(Place { topic: "a.b".into(), partition: None }));
        assert_eq!(place("a:12"), Ok(Place { topic: "a".into(), partition: Some(12) }));
        for bad in ["", ":", "a:", ":1", "a:b", "a:-1", "a:1:2"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
