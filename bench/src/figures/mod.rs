//! One file per figure: which cases, against whom, how one run is made, and what is asked of the result.

pub mod cluster;
pub mod consume;
pub mod failover;
pub mod idle;
pub mod latency;
pub mod produce;
pub mod restart;
pub mod sidecar;
pub mod topics;

use anyhow::Result;
use rustix::process::Signal;

use crate::broker::{Broker, Kind};
use crate::measure::{Numbers, Sample, Samples, client, load, say};
use crate::setup::Setup;

/// A broker with the settings that it is measured with.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// How it is called in tables.
    pub name: &'static str,
    /// Which broker.
    pub kind: Kind,
    /// A topic setting, `key=value`.
    pub topic_config: Option<&'static str>,
}

/// Kafka as it comes: acknowledged from memory.
pub const KAFKA: Contender = Contender { name: "kafka", kind: Kind::Kafka, topic_config: None };
/// Kafka made durable in the sense of INV-1: a sync before each acknowledgement.
pub const KAFKA_SYNCED: Contender =
    Contender { name: "kafka-synced", kind: Kind::Kafka, topic_config: Some("flush.messages=1") };
/// Wherry's node.
pub const WHERRY: Contender = Contender { name: "wherry", kind: Kind::Wherry, topic_config: None };
/// The client's ceiling.
pub const NULL: Contender = Contender { name: "null", kind: Kind::Null, topic_config: None };

/// The brokers of one figure, all running.
#[derive(Debug)]
pub struct Field {
    brokers: Vec<Broker>,
}

impl Field {
    /// Starts each broker that the settings ask for.
    pub fn start(setup: &Setup, kinds: &[Kind], record_bytes: usize) -> Result<Field> {
        let mut brokers = Vec::new();
        for kind in setup.kinds(kinds) {
            say(&format!("starting {}", kind.name()));
            let mut broker = Broker::new(setup, kind, record_bytes)?;
            broker.start(setup)?;
            brokers.push(broker);
        }
        Ok(Field { brokers })
    }

    /// Those of `contenders` whose broker runs, with it.
    pub fn each(&mut self, contenders: &[Contender]) -> Vec<(Contender, usize)> {
        let place = |c: &Contender| self.brokers.iter().position(|b| b.kind == c.kind).map(|i| (*c, i));
        contenders.iter().filter_map(place).collect()
    }

    /// The broker at a place that `each` named.
    pub fn broker(&mut self, at: usize) -> &mut Broker {
        &mut self.brokers[at]
    }

    /// Ends all of them, politely.
    pub fn stop(mut self) -> Result<()> {
        self.brokers.iter_mut().try_for_each(|b| b.end(Signal::TERM))
    }
}

/// Creates topics (the null node has every topic already). Returns what the load client said of it.
pub fn create(
    setup: &Setup,
    broker: &Broker,
    who: Contender,
    topic: &str,
    topics: usize,
    parts: usize,
) -> Result<Numbers> {
    if broker.kind == Kind::Null {
        return Ok(Numbers::new());
    }
    let mut command = setup.load("topics");
    command.args(["-b", &broker.addr.to_string(), "-t", topic, "-T", &topics.to_string(), "-P", &parts.to_string()]);
    if let Some(config) = who.topic_config {
        command.args(["-X", &format!("topic.{config}")]);
    }
    let result = load(&mut command)?;
    Ok([(String::from("create_s"), result["ready_s"].as_f64().unwrap_or(f64::NAN))].into())
}

/// Deletes topics, so that the disk does not fill.
pub fn delete(setup: &Setup, broker: &Broker, topic: &str, topics: usize) -> Result<()> {
    if broker.kind == Kind::Null {
        return Ok(());
    }
    let mut command = setup.load("delete");
    client(command.args(["-b", &broker.addr.to_string(), "-t", topic, "-T", &topics.to_string()])).map(drop)
}

/// A sample of a figure.
pub fn sample(figure: &str, case: &str, who: Contender, run: usize, numbers: Numbers) -> Sample {
    Sample { figure: figure.into(), case: case.into(), contender: who.name.into(), run, numbers }
}

/// What is asked of a case, by figure and case.
pub type Asked = Vec<(&'static str, String, crate::report::Ask)>;

/// A figure's runs, added to the samples.
pub type Run = fn(&Setup, &mut Samples) -> Result<()>;

/// Size in words.
pub fn size_name(bytes: usize) -> String {
    if bytes.is_multiple_of(1024) { format!("{} KiB", bytes / 1024) } else { format!("{bytes} B") }
}
