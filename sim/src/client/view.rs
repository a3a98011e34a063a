//! Who leads what, as a client was told last. Newer epochs replace older ones, never the other way round (KIP-320).

use std::collections::BTreeMap;

use bytes::Bytes;
use wherry_wire::codec::messages::metadata_request::MetadataRequestTopic;
use wherry_wire::codec::messages::{MetadataRequest, MetadataResponse};

use super::{Io, Wire, receive, topic_name};
use crate::host::{host_name, node_of};
use crate::oracle::Place;
use crate::world::TOPICS;

/// Topics with their partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topics(pub(crate) Vec<(&'static str, i32)>);

impl Topics {
    pub(crate) fn places(&self) -> Vec<Place> {
        self.0.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition))).collect()
    }
}

const METADATA: i16 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: usize,
    pub(crate) epoch: i32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct View {
    /// Those that the client is interested in.
    topics: Topics,
    leaders: BTreeMap<Place, Leader>,
    fresh: bool,
}

impl Default for View {
    fn default() -> Self {
        Self::of(Topics(TOPICS.to_vec()))
    }
}

impl View {
    pub(crate) fn of(topics: Topics) -> Self {
        Self { topics, leaders: BTreeMap::new(), fresh: false }
    }

    /// Somebody was not where it said.
    pub(crate) fn doubt(&mut self) {
        self.fresh = false;
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(crate) fn leader(&self, place: Place) -> Option<Leader> {
        self.leaders.get(&place).copied()
    }

    /// Asks some node; gives which and the number of the request.
    pub(crate) fn ask(&self, io: &mut Io<'_>, wire: &mut Wire) -> Result<(usize, i32), String> {
        let topics =
            self.topics.0.iter().map(|(topic, _)| MetadataRequestTopic::default().with_name(Some(topic_name(topic))));
        let request =
            MetadataRequest::default().with_topics(Some(topics.collect())).with_allow_auto_topic_creation(false);
        let node = io.any_node();
        Ok((node, wire.send(io, node, METADATA, &request)?))
    }

    pub(crate) fn learn(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32) -> Result<(), String> {
        let response = receive::<MetadataRequest>(frame, METADATA, correlation)?;
        check_brokers(io, &response)?;
        self.fresh = true;
        for (topic, count) in self.topics.0.clone() {
            let told = response.topics.iter().find(|t| t.name.as_ref().is_some_and(|name| name.as_str() == topic));
            let Some(told) = told else { return Err(format!("Metadata says nothing of topic '{topic}'")) };
            match told.error_code {
                0 => {}
                code if io.is_retriable(code) => {
                    self.fresh = false;
                    continue;
                }
                code => return Err(format!("Metadata says of topic '{topic}': {code}")),
            }
            if i32::try_from(told.partitions.len()) != Ok(count) {
                return Err(format!("topic '{topic}' has {} partitions, not {count}", told.partitions.len()));
            }
            for part in &told.partitions {
                self.learn_leader(io, (topic, part.partition_index), part.leader_id.0, part.leader_epoch)?;
            }
        }
        Ok(())
    }

    fn learn_leader(&mut self, io: &mut Io<'_>, place: Place, leader: i32, epoch: i32) -> Result<(), String> {
        let known = self.leaders.get(&place).map_or(-1, |leader| leader.epoch);
        let node = usize::try_from(leader).ok().filter(|node| *node < io.nodes);
        let Some(node) = node.filter(|_| epoch >= known) else {
            // Nobody leads it, or whoever was asked knows less than this client.
            self.fresh = false;
            return Ok(());
        };
        io.oracle.logs.leads(place, epoch, leader)?;
        self.leaders.insert(place, Leader { node, epoch });
        Ok(())
    }
}

/// Every broker is where the simulation has put it.
fn check_brokers(io: &Io<'_>, response: &MetadataResponse) -> Result<(), String> {
    for broker in &response.brokers {
        let port = u16::try_from(broker.port).unwrap_or(0);
        let node = node_of(&broker.host, port).filter(|node| *node < io.nodes);
        if node.and_then(|node| i32::try_from(node).ok()) != Some(broker.node_id.0) {
            let name = usize::try_from(broker.node_id.0).map(host_name);
            return Err(format!(
                "broker {} is said to be at {}:{port}, not at {name:?}",
                broker.node_id.0, &*broker.host
            ));
        }
    }
    Ok(())
}
