//! Telling the partitions of a transaction how it ended: here, or at the nodes that lead them; again and again, until each of
//! them has it committed or is gone. Who leads a partition is looked up each time.
//!
//! ```text
//!  tell_end ──> At(now) ── due ──> Asked ── written ──> done; all done: MarkersWritten
//!                 ^                  └─ refused, link lost, no answer ─┐
//!                 └────────────────────── a little later ─────────────┘
//! ```
//! The messages to one node keep their order, and an older link to it ends before a newer one is heard: an end that is told
//! twice is told twice before the next transaction begins.

use std::collections::{BTreeMap, BTreeSet};

use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;

use crate::cluster::control::Control;
use crate::cluster::transact::TransactionMessage;
use crate::core::Core;
use crate::core::coordinators::Term;
use crate::core::markers::{Marker, MarkerResults, MarkerToken};
use crate::core::store::LogStore;
use crate::limits::{MAX_TRANSACTION_MESSAGE_PARTITIONS, TELL_PATIENCE_MS, TELL_RETRY_MS};
use crate::transactions::{EndId, EndMarker, Input, TopicPartition};

/// How far one partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// To be told, not before this time.
    At(u64),
    /// The leader has the question of this number.
    Asked(u64),
}

/// One end of a transaction.
#[derive(Debug)]
struct Telling {
    /// Of the coordinator.
    partition: i32,
    term: Term,
    end: EndId,
    marker: Marker,
    /// Those that do not know it yet.
    places: BTreeMap<TopicPartition, Place>,
}

/// A question to the leader of some of its partitions.
#[derive(Debug)]
struct Asked {
    telling: u64,
    node: i32,
    partitions: Vec<(PartitionId, TopicPartition)>,
    until_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    Telling(u64),
    Asked(u64),
}

/// Ends that partitions are told, bounded by the transactional ids; and those that this node tells for others.
#[derive(Debug, Default)]
pub(super) struct Tellings {
    last: u64,
    tellings: BTreeMap<u64, Telling>,
    asked: BTreeMap<u64, Asked>,
    wakes: BTreeSet<(u64, Wake)>,
    /// By token: the node that asked, its number, and the partitions in its order.
    for_others: BTreeMap<u64, (i32, u64, Vec<PartitionId>)>,
}

impl Tellings {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ns, _)| *at_ns)
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A coordinator is here no more.
    pub(super) fn forget(&mut self, partition: i32) {
        self.tellings.retain(|_, telling| telling.partition != partition);
        let (tellings, asked) = (&self.tellings, &mut self.asked);
        asked.retain(|_, asked| tellings.contains_key(&asked.telling));
        self.wakes.retain(|(_, wake)| match wake {
            Wake::Telling(telling) => tellings.contains_key(telling),
            Wake::Asked(number) => asked.contains_key(number),
        });
    }

    fn put_off(&mut self, telling: u64, name: &TopicPartition, at_ns: u64) {
        if let Some(place) = self.tellings.get_mut(&telling).and_then(|telling| telling.places.get_mut(name)) {
            *place = Place::At(at_ns);
            self.wakes.insert((at_ns, Wake::Telling(telling)));
        }
    }

    fn ready(&self, telling: u64, now_ns: u64) -> Vec<TopicPartition> {
        let places = self.tellings.get(&telling).into_iter().flat_map(|telling| &telling.places);
        let ready = places.filter(|(_, place)| matches!(place, Place::At(at_ns) if *at_ns <= now_ns));
        ready.map(|(name, _)| name.clone()).collect()
    }

    fn take_asked(&mut self, number: u64) -> Option<Asked> {
        let asked = self.asked.remove(&number)?;
        self.wakes.remove(&(asked.until_ns, Wake::Asked(number)));
        Some(asked)
    }

    fn take_due(&mut self, now_ns: u64) -> Option<Wake> {
        let first = self.wakes.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns)?;
        self.wakes.remove(&first);
        Some(first.1)
    }
}

/// Where a partition can be told something.
enum Whereabouts {
    Led(i32, PartitionId),
    Leaderless,
    /// Its topic was deleted, and what it knew with it.
    Gone,
}

/// At the coordinator.
impl<S: LogStore> Core<S> {
    pub(super) fn tell_end(&mut self, partition: i32, end: EndId, marker: EndMarker, partitions: Vec<TopicPartition>) {
        let Some(seat) = self.transactions.seats.get(partition) else { return };
        let marker = Marker {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            coordinator_epoch: seat.epoch.0,
            commit: marker.commit,
            transaction_version: marker.version.code(),
        };
        let term = seat.term;
        let places = partitions.into_iter().map(|name| (name, Place::At(0))).collect();
        let tellings = &mut self.transactions.tellings;
        let telling = tellings.number();
        tellings.tellings.insert(telling, Telling { partition, term, end, marker, places });
        self.tell(telling);
    }

    /// Tells those whose time has come.
    fn tell(&mut self, telling: u64) {
        let mut by_node: BTreeMap<i32, Vec<(PartitionId, TopicPartition)>> = BTreeMap::new();
        let (mut gone, retry_ns) = (Vec::new(), self.retry_tell_ns());
        for name in self.transactions.tellings.ready(telling, self.now.monotonic_ns) {
            match self.whereabouts(&name) {
                Whereabouts::Led(node, id) => by_node.entry(node).or_default().push((id, name)),
                Whereabouts::Leaderless => self.transactions.tellings.put_off(telling, &name, retry_ns),
                Whereabouts::Gone => gone.push(name),
            }
        }
        for (node, partitions) in by_node {
            for chunk in partitions.chunks(MAX_TRANSACTION_MESSAGE_PARTITIONS) {
                self.ask_to_tell(telling, node, chunk.to_vec());
            }
        }
        self.told(telling, gone);
    }

    fn retry_tell_ns(&self) -> u64 {
        self.now.monotonic_ns.saturating_add(TELL_RETRY_MS * 1_000_000)
    }

    fn whereabouts(&self, (topic, partition): &TopicPartition) -> Whereabouts {
        let Some(topic) = self.meta.topic(topic) else { return Whereabouts::Gone };
        let Some(found) = topic.partition(*partition) else { return Whereabouts::Gone };
        let id = PartitionId { topic: topic.id, partition: *partition };
        found.leader.map_or(Whereabouts::Leaderless, |leader| Whereabouts::Led(leader, id))
    }

    fn ask_to_tell(&mut self, telling: u64, node: i32, partitions: Vec<(PartitionId, TopicPartition)>) {
        let until_ns = self.now.monotonic_ns.saturating_add(TELL_PATIENCE_MS * 1_000_000);
        let tellings = &mut self.transactions.tellings;
        let number = tellings.number();
        let Some(found) = tellings.tellings.get_mut(&telling) else { return };
        let marker = found.marker;
        for (_, name) in &partitions {
            found.places.insert(name.clone(), Place::Asked(number));
        }
        let ids: Vec<PartitionId> = partitions.iter().map(|(id, _)| *id).collect();
        tellings.wakes.insert((until_ns, Wake::Asked(number)));
        tellings.asked.insert(number, Asked { telling, node, partitions, until_ns });
        if node == self.config.node_id {
            return self.write_markers(MarkerToken::of_node(number), marker, ids);
        }
        let message = TransactionMessage::WriteMarkers { number, marker, partitions: ids };
        if !self.send_control(node, &Control::Transaction(message)) {
            self.not_told(number);
        }
    }

    /// There is no telling whether a leader has written it: it is asked again.
    fn not_told(&mut self, number: u64) {
        let retry_ns = self.retry_tell_ns();
        let tellings = &mut self.transactions.tellings;
        let Some(asked) = tellings.take_asked(number) else { return };
        for (_, name) in &asked.partitions {
            tellings.put_off(asked.telling, name, retry_ns);
        }
    }

    /// A leader answers.
    fn leader_told(&mut self, number: u64, results: &[(PartitionId, Result<(), ResponseError>)]) {
        let retry_ns = self.retry_tell_ns();
        let Some(asked) = self.transactions.tellings.take_asked(number) else { return };
        let results: BTreeMap<_, _> = results.iter().copied().collect();
        let mut written = Vec::new();
        for (id, name) in asked.partitions {
            match results.get(&id) {
                Some(Ok(())) => written.push(name),
                refused => {
                    tracing::debug!(?id, ?refused, "a partition is told the end of a transaction once more");
                    self.transactions.tellings.put_off(asked.telling, &name, retry_ns);
                }
            }
        }
        self.told(asked.telling, written);
    }

    /// Some partitions of a transaction know its end.
    fn told(&mut self, telling: u64, partitions: Vec<TopicPartition>) {
        if partitions.is_empty() {
            return;
        }
        let tellings = &mut self.transactions.tellings;
        let Some(found) = tellings.tellings.get_mut(&telling) else { return };
        found.places.retain(|name, _| !partitions.contains(name));
        let (partition, term, end) = (found.partition, found.term, found.end);
        if found.places.is_empty() {
            tellings.tellings.remove(&telling);
        }
        if self.transactions.seats.in_term(partition, term).is_some() {
            self.step_transactions(partition, Input::MarkersWritten { end, partitions });
        }
    }

    /// Tells whoever is due, and asks again who did not answer.
    pub(super) fn tell_again(&mut self) {
        let now_ns = self.now.monotonic_ns;
        while let Some(wake) = self.transactions.tellings.take_due(now_ns) {
            match wake {
                Wake::Telling(telling) => self.tell(telling),
                Wake::Asked(number) => self.not_told(number),
            }
        }
    }

    /// The link to a node is lost, and what it was asked with it.
    pub(super) fn tell_again_without(&mut self, node: i32) {
        let lost = self.transactions.tellings.asked.iter().filter(|(_, asked)| asked.node == node);
        for number in lost.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.not_told(number);
        }
    }
}

/// Where partitions are led.
impl<S: LogStore> Core<S> {
    /// Another node's coordinator asks.
    pub(super) fn tell_for(&mut self, node: i32, number: u64, marker: Marker, partitions: Vec<PartitionId>) {
        let tellings = &mut self.transactions.tellings;
        let token = tellings.number();
        tellings.for_others.insert(token, (node, number, partitions.clone()));
        self.write_markers(MarkerToken::of_node(token), marker, partitions);
    }

    /// Partitions that this node leads have a marker, or can't have it.
    pub(crate) fn nodes_markers_written(&mut self, token: u64, results: &MarkerResults) {
        let Some((node, number, asked)) = self.transactions.tellings.for_others.remove(&token) else {
            return self.leader_told(token, results);
        };
        let results: BTreeMap<_, _> = results.iter().copied().collect();
        let code = |id: &PartitionId| match results.get(id) {
            Some(Ok(())) => 0,
            Some(Err(error)) => error.code(),
            None => ResponseError::UnknownServerError.code(),
        };
        let codes = asked.iter().map(code).collect();
        // If the link is lost, it is asked again.
        self.send_control(node, &Control::Transaction(TransactionMessage::MarkersWritten { number, codes }));
    }

    /// Another node answers this one's coordinator.
    pub(super) fn node_told(&mut self, node: i32, number: u64, codes: &[i16]) {
        let Some(asked) = self.transactions.tellings.asked.get(&number).filter(|asked| asked.node == node) else {
            return;
        };
        let result = |code: i16| ResponseError::try_from_code(code).map_or(Ok(()), Err);
        let ids = asked.partitions.iter().map(|(id, _)| *id);
        let results: Vec<_> = ids.zip(codes.iter().map(|code| result(*code))).collect();
        self.leader_told(number, &results);
    }
}
