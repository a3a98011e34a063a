//! Makes the topics, and makes, deletes and lists others all the while.

use std::collections::BTreeSet;

use bytes::Bytes;
use wherry_wire::codec::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use wherry_wire::codec::messages::delete_topics_request::DeleteTopicState;
use wherry_wire::codec::messages::{CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest, MetadataResponse};

use super::{Client, Io, Topics, Wire, receive, text, topic_name};
use crate::oracle::{Expected, Oracle};
use crate::world::{NAMED, NAMED_WINDOW_MS};

const CREATE: i16 = 7;
const DELETE: i16 = 6;
const METADATA: i16 = 12;

const OK: i16 = 0;
const UNKNOWN: i16 = 3;
/// The request of a connection that broke was faster: the topic went while this one was on its way to the log.
const UNKNOWN_ID: i16 = 100;
const EXISTS: i16 = 36;
/// Not enough nodes are known yet.
const REPLICATION_FACTOR: i16 = 38;

#[derive(Debug)]
enum Asked {
    Create(String),
    Delete(String),
    List(Box<Expected>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Admin {
    nodes: usize,
    topics: Topics,
    wire: Wire,
    open: Option<(usize, i32, Asked)>,
    made: usize,
    extra: Option<String>,
    extras: usize,
    /// Their names, in turn: they come back, so that one topic could inherit from another. One with a request that was not
    /// answered, and may be heard whenever it arrives, is given up for a new one.
    names: [String; 3],
    given_up: usize,
    /// The nodes that have told all that they should, since calm.
    looked: BTreeSet<usize>,
    /// What was still missing when it looked last.
    missing: String,
}

impl Admin {
    pub(crate) fn new(nodes: usize, topics: Topics) -> Self {
        Self {
            nodes,
            topics,
            wire: Wire::default(),
            open: None,
            made: 0,
            extra: None,
            extras: 0,
            names: std::array::from_fn(|n| format!("extra-{n}")),
            given_up: 0,
            looked: BTreeSet::new(),
            missing: String::new(),
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        self.topics.0.iter().any(|(ours, _)| *ours == name)
    }

    fn has_looked(&self) -> bool {
        self.looked.len() == self.nodes
    }

    /// Three, where there are so many nodes.
    fn replication_factor(&self) -> usize {
        self.nodes.min(3)
    }

    fn create(&mut self, io: &mut Io<'_>, name: &str, partitions: i32) -> Result<(), String> {
        let config = |name, value| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)));
        let minimum = (self.nodes > 1).then(|| config("min.insync.replicas", "2"));
        let window = (name == NAMED.0).then(|| config("wherry.dedupe.window.ms", NAMED_WINDOW_MS));
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(i16::try_from(self.replication_factor()).unwrap_or(1))
            .with_configs(minimum.into_iter().chain(window).collect());
        io.oracle.topics.asked(name);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
        let node = io.any_node();
        self.open = Some((node, self.wire.send(io, node, CREATE, &request)?, Asked::Create(name.to_owned())));
        Ok(())
    }

    fn delete(&mut self, io: &mut Io<'_>, name: &str) -> Result<(), String> {
        io.oracle.topics.asked(name);
        let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
        let node = io.any_node();
        self.open = Some((node, self.wire.send(io, node, DELETE, &request)?, Asked::Delete(name.to_owned())));
        Ok(())
    }

    fn list(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let expected = Box::new(io.oracle.topics.expected());
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let node = io.any_node();
        self.open = Some((node, self.wire.send(io, node, METADATA, &request)?, Asked::List(expected)));
        Ok(())
    }

    fn next(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if let Some((name, partitions)) = self.topics.0.get(self.made).copied() {
            return self.create(io, name, partitions);
        }
        if io.calm || io.rng.chance(40) {
            return self.list(io);
        }
        match self.extra.clone() {
            Some(name) => self.delete(io, &name),
            None => {
                self.extras += 1;
                let name = self.names[self.extras % 3].clone();
                self.extra = Some(name.clone());
                self.create(io, &name, 2)
            }
        }
    }

    fn doubt(&mut self, io: &mut Io<'_>, name: &str) {
        if let Some(slot) = self.names.iter_mut().find(|slot| *slot == name) {
            io.oracle.topics.doubted(name);
            self.given_up += 1;
            *slot = format!("extra-{}", 2 + self.given_up);
        }
    }

    fn made(&mut self, io: &mut Io<'_>, name: &str, code: i16) -> Result<(), String> {
        match code {
            OK | EXISTS => {
                io.oracle.topics.made(name);
                self.made += usize::from(self.is_ours(name));
                Ok(())
            }
            code if io.is_retriable(code) => {
                self.doubt(io, name);
                Ok(())
            }
            REPLICATION_FACTOR if self.nodes > 1 => Ok(()),
            code => Err(format!("creating topic '{name}' failed with {code}")),
        }
    }
}

impl Admin {
    /// One node knows everything that it acknowledged at once; of several, each learns it in the end.
    fn listed(
        &mut self,
        io: &mut Io<'_>,
        node: usize,
        expected: &Expected,
        response: &MetadataResponse,
    ) -> Result<(), String> {
        let topics = response.topics.iter().filter(|topic| !topic.is_internal);
        let names: Vec<String> = topics.filter_map(|topic| topic.name.as_ref()).map(|name| name.to_string()).collect();
        expected.judge_strangers(&names)?;
        let verdict = expected.judge(&names);
        if self.nodes == 1 {
            verdict.clone()?;
        }
        let verdict = verdict.and_then(|()| self.is_whole(response));
        if !io.calm {
            return Ok(());
        }
        match verdict {
            Ok(()) => {
                self.looked.insert(node);
            }
            Err(what) => self.missing = format!("node {node}: {what}"),
        }
        Ok(())
    }

    /// Every partition has a leader, and all its replicas are in sync.
    fn is_whole(&self, response: &MetadataResponse) -> Result<(), String> {
        for topic in response.topics.iter().filter(|topic| topic.name.as_ref().is_some_and(|name| self.is_ours(name))) {
            for part in &topic.partitions {
                let whole = part.leader_id.0 >= 0
                    && part.replica_nodes.len() == self.replication_factor()
                    && part.isr_nodes.len() == part.replica_nodes.len();
                if !whole {
                    return Err(format!("{:?} is not whole: {part:?}", topic.name));
                }
            }
        }
        Ok(())
    }
}

impl Client for Admin {
    fn connected(&mut self, _: &mut Io<'_>) {}

    fn frame(&mut self, io: &mut Io<'_>, node: usize, frame: Bytes) -> Result<(), String> {
        let Some((_, correlation, asked)) = self.open.take() else { return Err("a response to nothing".into()) };
        match asked {
            Asked::Create(name) => {
                let response = receive::<CreateTopicsRequest>(&frame, CREATE, correlation)?;
                let code = response.topics.first().map_or(-1, |topic| topic.error_code);
                self.made(io, &name, code)
            }
            Asked::Delete(name) => {
                let response = receive::<DeleteTopicsRequest>(&frame, DELETE, correlation)?;
                match response.responses.first().map_or(-1, |topic| topic.error_code) {
                    OK => {
                        io.oracle.topics.deleted(&name);
                        self.extra = None;
                        Ok(())
                    }
                    // Perhaps a request of a connection that broke is still on its way: either may be.
                    UNKNOWN | UNKNOWN_ID => {
                        self.extra = None;
                        Ok(())
                    }
                    code if io.is_retriable(code) => {
                        self.doubt(io, &name);
                        Ok(())
                    }
                    code => Err(format!("deleting topic '{name}' failed with {code}")),
                }
            }
            Asked::List(expected) => {
                let response = receive::<MetadataRequest>(&frame, METADATA, correlation)?;
                self.listed(io, node, &expected, &response)
            }
        }
    }

    fn closed(&mut self, io: &mut Io<'_>, node: usize) {
        if let Some((_, _, asked)) = self.open.take_if(|(at, _, _)| *at == node)
            && let Asked::Create(name) | Asked::Delete(name) = asked
        {
            self.doubt(io, &name);
        }
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        if self.open.is_none()
            && (self.made < self.topics.0.len() || !self.has_looked() && io.calm || io.rng.chance(10))
        {
            let verdict = self.next(io);
            io.oracle.judge(verdict);
        }
    }

    fn is_done(&self, _: &Oracle) -> bool {
        self.made >= self.topics.0.len() && self.has_looked() && self.open.is_none()
    }

    fn state(&self) -> String {
        format!("admin: {} topics made, open {:?}, missing {}", self.made, self.open, self.missing)
    }

    fn look_again(&mut self) {
        self.looked.clear();
    }
}
