//! Makes the topics, and makes, deletes and lists others all the while.

use bytes::Bytes;
use wherry_wire::codec::messages::create_topics_request::CreatableTopic;
use wherry_wire::codec::messages::delete_topics_request::DeleteTopicState;
use wherry_wire::codec::messages::{CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest};

use super::{Client, Io, Wire, receive, topic_name};
use crate::oracle::Oracle;
use crate::world::TOPICS;

const CREATE: i16 = 7;
const DELETE: i16 = 6;
const METADATA: i16 = 12;

const OK: i16 = 0;
const UNKNOWN: i16 = 3;
/// The request of a connection that broke was faster: the topic went while this one was on its way to the log.
const UNKNOWN_ID: i16 = 100;
const EXISTS: i16 = 36;

#[derive(Debug)]
enum Asked {
    Create(String),
    Delete(String),
    List(Box<crate::oracle::Expected>),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Admin {
    wire: Wire,
    open: Option<(i32, Asked)>,
    made: usize,
    extra: Option<String>,
    extras: u32,
    looked: bool,
}

impl Admin {
    fn create(&mut self, io: &mut Io<'_>, name: &str, partitions: i32) -> Result<(), String> {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        io.oracle.topics.asked(name);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
        self.open = Some((self.wire.send(io, CREATE, &request)?, Asked::Create(name.to_owned())));
        Ok(())
    }

    fn delete(&mut self, io: &mut Io<'_>, name: &str) -> Result<(), String> {
        io.oracle.topics.asked(name);
        let topic = DeleteTopicState::default().with_name(Some(topic_name(name)));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1_000);
        self.open = Some((self.wire.send(io, DELETE, &request)?, Asked::Delete(name.to_owned())));
        Ok(())
    }

    fn list(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let expected = Box::new(io.oracle.topics.expected());
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        self.open = Some((self.wire.send(io, METADATA, &request)?, Asked::List(expected)));
        Ok(())
    }

    fn next(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        if let Some((name, partitions)) = TOPICS.get(self.made) {
            return self.create(io, name, *partitions);
        }
        if io.calm || io.rng.chance(40) {
            return self.list(io);
        }
        match self.extra.clone() {
            Some(name) => self.delete(io, &name),
            None => {
                self.extras += 1;
                // Names come back, so that one topic could inherit from another.
                let name = format!("extra-{}", self.extras % 3);
                self.extra = Some(name.clone());
                self.create(io, &name, 2)
            }
        }
    }

    fn made(&mut self, io: &mut Io<'_>, name: &str, code: i16) -> Result<(), String> {
        match code {
            OK | EXISTS => {
                io.oracle.topics.made(name);
                self.made += usize::from(TOPICS.iter().any(|(topic, _)| *topic == name));
                Ok(())
            }
            code if super::is_retriable(code) => Ok(()),
            code => Err(format!("creating topic '{name}' failed with {code}")),
        }
    }
}

impl Client for Admin {
    fn connected(&mut self, _: &mut Io<'_>) {}

    fn frame(&mut self, io: &mut Io<'_>, frame: Bytes) -> Result<(), String> {
        let Some((correlation, asked)) = self.open.take() else { return Err("a response to nothing".into()) };
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
                    code if super::is_retriable(code) => Ok(()),
                    code => Err(format!("deleting topic '{name}' failed with {code}")),
                }
            }
            Asked::List(expected) => {
                let response = receive::<MetadataRequest>(&frame, METADATA, correlation)?;
                let names = response.topics.iter().filter_map(|topic| topic.name.as_ref());
                let names: Vec<String> = names.map(|name| name.0.to_string()).collect();
                self.looked = io.calm;
                expected.judge(&names)
            }
        }
    }

    fn closed(&mut self, _: &mut Io<'_>) {
        self.open = None;
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        if self.open.is_none() && (self.made < TOPICS.len() || !self.looked && io.calm || io.rng.chance(10)) {
            let verdict = self.next(io);
            io.oracle.judge(verdict);
        }
    }

    fn is_done(&self, _: &Oracle) -> bool {
        self.made >= TOPICS.len() && self.looked && self.open.is_none()
    }

    fn state(&self) -> String {
        format!("admin: {} topics made, open {:?}", self.made, self.open)
    }

    fn look_again(&mut self) {
        self.looked = false;
    }
}
