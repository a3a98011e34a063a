//! Copying: committed records of one topic are written to another, in the transaction that commits how far it has come.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use wherry_wire::codec::messages::{FetchRequest, OffsetFetchRequest};

use super::outgoing::Outgoing;
use super::{Asked, Identity, Offsets, Protocol, Transactor};
use crate::client::fetched::{Isolation, Seen, visible};
use crate::client::reader::{FETCH, fetch, saw};
use crate::client::view::Leader;
use crate::client::{Io, Topics, receive};
use crate::oracle::{Oracle, Place};
use crate::world::{COPIES, LEDGER};

pub(super) const OFFSETS: i16 = 7;
const OUT_OF_RANGE: i16 = 1;
/// Of a transaction that is still to end.
const UNSTABLE: i16 = 88;
/// Copied at once.
const MOST: usize = 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Copies {
    /// The node that coordinates the group.
    pub(super) coordinator: Option<usize>,
    /// As far as it has read; empty: the group has to be asked.
    next: BTreeMap<Place, i64>,
    committed: BTreeMap<Place, i64>,
    /// Read, not copied.
    inputs: Vec<(Place, i64)>,
    /// The group was seen to be at the end, when all was over.
    checked: bool,
}

fn inputs() -> Vec<Place> {
    Topics(vec![LEDGER]).places()
}

impl Copies {
    pub(super) fn new() -> Self {
        let (next, committed) = (BTreeMap::new(), BTreeMap::new());
        Self { coordinator: None, next, committed, inputs: Vec::new(), checked: false }
    }

    /// How far the group has come is not known, for now.
    pub(super) fn forget(&mut self) {
        self.next.clear();
        self.committed.clear();
        self.inputs.clear();
        self.checked = false;
    }

    pub(super) fn closed(&mut self, node: usize) {
        self.coordinator.take_if(|at| *at == node);
    }

    /// The transaction that these were part of has committed.
    pub(super) fn are_committed(&mut self) {
        self.committed = self.next.clone();
    }

    fn are_at_end(&self, oracle: &Oracle) -> bool {
        inputs().iter().all(|place| self.committed.get(place).is_some_and(|at| *at >= oracle.logs.end(*place)))
    }

    pub(super) fn are_whole(&self, oracle: &Oracle) -> bool {
        self.checked && self.are_at_end(oracle)
    }

    fn moved(&self) -> Vec<(Place, i64)> {
        let moved = self.next.iter().filter(|(place, next)| self.committed.get(place) != Some(next));
        moved.map(|(place, next)| (*place, *next)).collect()
    }
}

impl Transactor {
    /// Finds out how far the group has come, reads on from there, and copies what it finds.
    pub(super) fn seek_copies(&mut self, io: &mut Io<'_>, identity: Identity) -> Result<(), String> {
        let Some(copies) = &self.copies else { return Ok(()) };
        let Some(coordinator) = copies.coordinator else { return self.find_group_coordinator(io) };
        if copies.next.is_empty() || io.calm && !copies.checked && copies.are_at_end(io.oracle) {
            return self.ask_offsets(io, coordinator);
        }
        let is_due = copies.inputs.len() >= MOST || !copies.inputs.is_empty() && io.rng.chance(30);
        if is_due || io.calm && !copies.moved().is_empty() && io.rng.chance(30) {
            self.begin_copying(io, identity);
            return Ok(());
        }
        self.fetch_inputs(io)
    }

    fn begin_copying(&mut self, io: &mut Io<'_>, identity: Identity) {
        let Some(copies) = &mut self.copies else { return };
        let (inputs, moved) = (std::mem::take(&mut copies.inputs), copies.moved());
        let offsets = match self.protocol {
            Protocol::V1 => Offsets::ToAdd(moved.clone()),
            Protocol::V2 => Offsets::ToCommit(moved.clone()),
        };
        let id = self.begin(io, identity, offsets);
        for (place, offset) in moved {
            io.oracle.transactions.offset(id, place, offset);
        }
        let mut outgoing = Vec::new();
        for place in Topics(vec![COPIES]).places() {
            let mine: Vec<_> = inputs.iter().filter(|input| target(input) == place).map(|input| Some(*input)).collect();
            let batches: VecDeque<Vec<_>> = mine.chunks(MOST / 2).map(<[_]>::to_vec).collect();
            if !batches.is_empty() {
                outgoing.push(Outgoing::new(id, place, batches));
            }
        }
        if let Some(open) = &mut self.transaction {
            open.outgoing = outgoing;
        }
    }

    fn ask_offsets(&mut self, io: &mut Io<'_>, coordinator: usize) -> Result<(), String> {
        let owner = &self.who.transactional_id;
        let floors: Vec<_> =
            inputs().iter().map(|place| (*place, io.oracle.transactions.floor(owner, *place))).collect();
        self.request_offsets(io, coordinator, floors)
    }

    pub(super) fn told_offsets(
        &mut self,
        io: &mut Io<'_>,
        frame: &Bytes,
        correlation: i32,
        floors: Vec<(Place, i64)>,
    ) -> Result<(), String> {
        let response = receive::<OffsetFetchRequest>(frame, OFFSETS, correlation)?;
        let (Some(copies), Some(identity)) = (&mut self.copies, self.identity) else { return Ok(()) };
        let parts: Vec<_> = response.topics.iter().flat_map(|topic| &topic.partitions).collect();
        let mut codes = parts.iter().map(|part| part.error_code).chain([response.error_code]);
        match codes.find(|code| *code != 0) {
            None => {}
            Some(UNSTABLE) => return Ok(()),
            Some(code) if io.is_retriable(code) => {
                copies.coordinator = None;
                return Ok(());
            }
            Some(code) => return Err(format!("a copier's offsets can't be told: {code}")),
        }
        for (place, floor) in floors {
            let part = parts.iter().find(|part| part.partition_index == place.1);
            let Some(offset) = part.map(|part| part.committed_offset) else {
                return Err(format!("{place:?} was not answered"));
            };
            let owner = &self.who.transactional_id;
            io.oracle.transactions.told_offset(owner, identity.grant, (place, floor), offset)?;
            copies.next.insert(place, offset.max(0));
        }
        copies.inputs.clear();
        copies.committed = copies.next.clone();
        copies.checked = io.calm && copies.are_at_end(io.oracle);
        Ok(())
    }

    fn fetch_inputs(&mut self, io: &mut Io<'_>) -> Result<(), String> {
        let Some(copies) = &self.copies else { return Ok(()) };
        let led = |(place, next): (&Place, &i64)| self.view.leader(*place).map(|leader| (*place, *next, leader));
        let led: Vec<(Place, i64, Leader)> = copies.next.iter().filter_map(led).collect();
        let Some((_, _, Leader { node, .. })) = led.get(io.rng.below(led.len())).copied() else { return Ok(()) };
        let there = led.iter().filter(|(_, _, leader)| leader.node == node);
        let places = there.map(|(place, next, leader)| (*place, *next, leader.epoch));
        let request = fetch(io, Isolation::Committed, places);
        let correlation = self.wire.send(io, node, FETCH, &request)?;
        self.asked(node, correlation, Asked::Inputs);
        Ok(())
    }

    pub(super) fn told_inputs(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32) -> Result<(), String> {
        let response = receive::<FetchRequest>(frame, FETCH, correlation)?;
        let Some(copies) = &mut self.copies else { return Ok(()) };
        for data in response.responses.iter().flat_map(|topic| &topic.partitions) {
            let place = (LEDGER.0, data.partition_index);
            let Some(next) = copies.next.get_mut(&place) else { continue };
            match data.error_code {
                0 => {}
                // Offsets come from the coordinator, so this client may know of more than a deposed leader does.
                OUT_OF_RANGE if io.nodes > 1 && !io.calm => self.view.doubt(),
                code if io.is_retriable(code) => self.view.doubt(),
                code => return Err(format!("{place:?}: a copier's fetch at {next} failed with {code}")),
            }
            for (offset, seen) in visible(data, *next, Isolation::Committed)? {
                saw(io.oracle, place, offset, &seen, Isolation::Committed)?;
                *next = offset + 1;
                if matches!(seen, Seen::Record(_)) {
                    copies.inputs.push((place, offset));
                }
            }
        }
        Ok(())
    }
}

/// Where the copy of a record goes.
fn target((place, offset): &(Place, i64)) -> Place {
    let (topic, count) = COPIES;
    (topic, i32::try_from((i64::from(place.1) + offset) % i64::from(count)).unwrap_or(0))
}
