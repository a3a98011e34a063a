//! What a transactional producer is told, and what it makes of it.

use bytes::Bytes;
use wherry_wire::codec::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest,
    ProduceRequest, TxnOffsetCommitRequest,
};

use super::ask::{ADD, ADD_OFFSETS, COORDINATOR};
use super::{Asked, Identity, Last, Offsets, Protocol, Transactor, Wish};
use crate::client::{Io, receive};
use crate::host::node_of;
use crate::oracle::{Grant, Place, RecordId, TxnId};

const LOADING: i16 = 14;
const NOT_COORDINATOR: i16 = 16;
const NOT_ENOUGH_REPLICAS: i16 = 19;
const INVALID_EPOCH: i16 = 47;
const INVALID_STATE: i16 = 48;
const INVALID_MAPPING: i16 = 49;
const CONCURRENT: i16 = 51;
const NOT_ATTEMPTED: i16 = 55;
const FENCED: i16 = 90;
const ABORTABLE: i16 = 120;

/// What a code means to a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Fine,
    /// Ask again, where it was asked.
    Again,
    /// Ask again, perhaps elsewhere.
    Elsewhere,
    /// This transaction can't be committed.
    Abort,
    /// There is a newer instance, or the transaction has timed out.
    Fenced,
}

fn meaning(io: &Io<'_>, code: i16) -> Option<Meaning> {
    Some(match code {
        0 => Meaning::Fine,
        LOADING | CONCURRENT | NOT_ATTEMPTED | NOT_ENOUGH_REPLICAS => Meaning::Again,
        INVALID_EPOCH | FENCED | INVALID_MAPPING => Meaning::Fenced,
        INVALID_STATE | ABORTABLE => Meaning::Abort,
        code if code <= NOT_COORDINATOR && io.is_retriable(code) => Meaning::Elsewhere,
        code if io.is_retriable(code) => Meaning::Again,
        _ => return None,
    })
}

impl Transactor {
    pub(super) fn told(
        &mut self,
        io: &mut Io<'_>,
        frame: &Bytes,
        correlation: i32,
        asked: Asked,
    ) -> Result<(), String> {
        match asked {
            Asked::View => self.view.learn(io, frame, correlation),
            Asked::Coordinator => {
                self.coordinator = found(io, frame, correlation)?;
                Ok(())
            }
            Asked::GroupCoordinator => {
                let found = found(io, frame, correlation)?;
                if let Some(copies) = &mut self.copies {
                    copies.coordinator = found;
                }
                Ok(())
            }
            Asked::Init(before) => self.told_identity(io, frame, correlation, before),
            Asked::Add(places) => self.told_added(io, frame, correlation, &places),
            Asked::AddOffsets => self.told_offsets_added(io, frame, correlation),
            Asked::CommitOffsets => self.told_offsets_committed(io, frame, correlation),
            Asked::End(commit) => self.told_end(io, frame, correlation, commit),
            Asked::Offsets(floors) => self.told_offsets(io, frame, correlation, floors),
            Asked::Inputs => self.told_inputs(io, frame, correlation),
            Asked::Produce(id, parts) => self.told_produced(io, frame, correlation, id, &parts),
        }
    }

    /// What this code of the transaction's coordinator means; does what it asks for.
    fn heed(&mut self, io: &mut Io<'_>, what: &str, code: i16) -> Result<Meaning, String> {
        let Some(meaning) = meaning(io, code) else {
            return Err(format!("{what} of '{}' was refused with {code}", self.who.transactional_id));
        };
        match meaning {
            Meaning::Fine | Meaning::Again => {}
            Meaning::Elsewhere => self.coordinator = None,
            Meaning::Abort => self.give_up(),
            Meaning::Fenced => self.fenced(io),
        }
        Ok(meaning)
    }

    fn give_up(&mut self) {
        if let Some(open) = &mut self.transaction {
            open.wish = Wish::Abort;
            open.given_up = true;
            open.outgoing.iter_mut().for_each(super::Outgoing::give_up);
            open.offsets = Offsets::None;
        }
    }

    fn told_identity(
        &mut self,
        io: &mut Io<'_>,
        frame: &Bytes,
        correlation: i32,
        before: Option<Grant>,
    ) -> Result<(), String> {
        let response = receive::<InitProducerIdRequest>(frame, self.protocol.init(), correlation)?;
        if before.is_none() && [INVALID_EPOCH, FENCED].contains(&response.error_code) {
            return Err(format!("InitProducerId of '{}' was fenced, which comes anew", self.who.transactional_id));
        }
        if self.heed(io, "InitProducerId", response.error_code)? != Meaning::Fine {
            return Ok(());
        }
        let (id, epoch) = (response.producer_id.0, response.producer_epoch);
        let owner = &self.who.transactional_id;
        let (grant, is_new) = io.oracle.transactions.granted(owner, before, (id, epoch))?;
        if is_new {
            io.oracle.producer_id(id);
        }
        self.identity = Some(Identity { id, epoch, grant });
        self.sequences.clear();
        self.unresolved = false;
        Ok(())
    }

    fn told_added(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32, places: &[Place]) -> Result<(), String> {
        let response = receive::<AddPartitionsToTxnRequest>(frame, ADD, correlation)?;
        for place in places {
            let topics = response.results_by_topic_v3_and_below.iter().filter(|topic| topic.name.as_str() == place.0);
            let mut parts = topics.flat_map(|topic| &topic.results_by_partition);
            let Some(part) = parts.find(|part| part.partition_index == place.1) else {
                return Err(format!("{place:?} was not answered"));
            };
            let meaning = self.heed(io, "AddPartitionsToTxn", part.partition_error_code)?;
            let Some(open) = &mut self.transaction else { return Ok(()) };
            for part in open.outgoing.iter_mut().filter(|part| part.place == *place) {
                part.added |= meaning == Meaning::Fine;
            }
        }
        Ok(())
    }

    fn told_offsets_added(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32) -> Result<(), String> {
        let response = receive::<AddOffsetsToTxnRequest>(frame, ADD_OFFSETS, correlation)?;
        let meaning = self.heed(io, "AddOffsetsToTxn", response.error_code)?;
        let Some(open) = self.transaction.as_mut().filter(|_| meaning == Meaning::Fine) else { return Ok(()) };
        if let Offsets::ToAdd(offsets) = open.offsets.clone() {
            open.offsets = Offsets::ToCommit(offsets);
        }
        Ok(())
    }

    fn told_offsets_committed(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32) -> Result<(), String> {
        let version = self.protocol.commit_offsets();
        let response = receive::<TxnOffsetCommitRequest>(frame, version, correlation)?;
        let codes: Vec<i16> = response.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect();
        let all_fine = codes.iter().all(|code| *code == 0);
        for code in codes {
            match meaning(io, code) {
                // It was the group's coordinator that was asked.
                Some(Meaning::Elsewhere) => {
                    if let Some(copies) = &mut self.copies {
                        copies.coordinator = None;
                    }
                }
                _ => drop(self.heed(io, "TxnOffsetCommit", code)?),
            }
        }
        if let Some(open) = self.transaction.as_mut().filter(|_| all_fine) {
            open.offsets = Offsets::Done;
        }
        Ok(())
    }

    fn told_produced(
        &mut self,
        io: &mut Io<'_>,
        frame: &Bytes,
        correlation: i32,
        id: TxnId,
        parts: &[(Place, Vec<RecordId>)],
    ) -> Result<(), String> {
        let response = receive::<ProduceRequest>(frame, self.protocol.produce(), correlation)?;
        for (place, ids) in parts {
            let topics = response.responses.iter().filter(|topic| topic.name.as_str() == place.0);
            let Some(answer) = topics.flat_map(|t| &t.partition_responses).find(|p| p.index == place.1) else {
                return Err(format!("{place:?} was not answered"));
            };
            if answer.error_code == 0 {
                taken(io, *place, ids, answer.base_offset)?;
            }
            // The transaction may be over, for all that this client knows.
            if self.transaction.as_ref().is_some_and(|open| open.id == id && open.asked.is_none()) {
                self.produced(io, *place, ids, answer.error_code)?;
            }
        }
        Ok(())
    }

    fn produced(&mut self, io: &mut Io<'_>, place: Place, ids: &[RecordId], code: i16) -> Result<(), String> {
        let Some(meaning) = meaning(io, code) else {
            return Err(format!("{place:?}: a batch of '{}' was refused with {code}", self.who.transactional_id));
        };
        let parts = self.transaction.iter_mut().flat_map(|open| &mut open.outgoing);
        let part = parts.into_iter().find(|part| part.place == place);
        match meaning {
            Meaning::Fine => part.into_iter().for_each(|part| part.taken(ids)),
            Meaning::Again | Meaning::Elsewhere => {
                part.into_iter().for_each(|part| part.not_taken(ids));
                self.view.doubt();
            }
            Meaning::Abort => self.give_up(),
            Meaning::Fenced => self.fenced(io),
        }
        Ok(())
    }

    fn told_end(&mut self, io: &mut Io<'_>, frame: &Bytes, correlation: i32, commit: bool) -> Result<(), String> {
        let response = receive::<EndTxnRequest>(frame, self.protocol.end(), correlation)?;
        let Some((id, asked)) = self.transaction.as_ref().map(|open| (open.id, open.asked)) else { return Ok(()) };
        let meaning = meaning(io, response.error_code);
        let is_sure = commit && asked == Some(1);
        match meaning {
            Some(Meaning::Fine) => {
                io.oracle.transactions.ended(id, commit)?;
                if self.protocol == Protocol::V2 {
                    self.bumped(io, (response.producer_id.0, response.producer_epoch))?;
                }
                self.ended(io, commit);
                Ok(())
            }
            // Nothing of it had arrived: there is nothing to abort.
            Some(Meaning::Abort) if !commit && self.protocol == Protocol::V1 => {
                self.ended(io, commit);
                Ok(())
            }
            Some(Meaning::Fenced) if is_sure => {
                io.oracle.transactions.refused(id)?;
                self.fenced(io);
                Ok(())
            }
            None | Some(Meaning::Abort) => {
                let (code, owner) = (response.error_code, &self.who.transactional_id);
                Err(format!("{id:?} of '{owner}' can't end (commit: {commit}), asked {asked:?}: {code}"))
            }
            Some(Meaning::Again | Meaning::Elsewhere | Meaning::Fenced) => {
                self.heed(io, "EndTxn", response.error_code).map(drop)
            }
        }
    }

    fn bumped(&mut self, io: &mut Io<'_>, (id, epoch): (i64, i16)) -> Result<(), String> {
        if io.oracle.transactions.bumped(&self.who.transactional_id, (id, epoch))? {
            io.oracle.producer_id(id);
        }
        if let Some(identity) = &mut self.identity {
            (identity.id, identity.epoch) = (id, epoch);
        }
        self.sequences.clear();
        Ok(())
    }

    /// The transaction is over.
    pub(super) fn ended(&mut self, io: &mut Io<'_>, commit: bool) {
        let Some(open) = self.transaction.take() else { return };
        let unresolved = open.outgoing.iter().any(super::Outgoing::is_unresolved);
        self.unresolved = unresolved && self.protocol == Protocol::V1;
        match &mut self.copies {
            Some(copies) if commit => copies.are_committed(),
            Some(copies) => copies.forget(),
            None => {}
        }
        if commit && open.since_calm {
            if !self.proven && self.last == Last::None && io.rng.chance(30) {
                self.last = Last::Due;
            }
            self.proven = true;
        }
    }
}

fn taken(io: &mut Io<'_>, place: Place, ids: &[RecordId], base_offset: i64) -> Result<(), String> {
    for (offset, id) in (base_offset..).zip(ids) {
        io.oracle.logs.acknowledged(place, *id, offset)?;
        io.oracle.transactions.taken(place, *id)?;
    }
    Ok(())
}

/// A coordinator's node, if there is one now.
fn found(io: &Io<'_>, frame: &Bytes, correlation: i32) -> Result<Option<usize>, String> {
    let response = receive::<FindCoordinatorRequest>(frame, COORDINATOR, correlation)?;
    let Some(found) = response.coordinators.first() else { return Err("no coordinator was answered".into()) };
    match found.error_code {
        0 => {
            let port = u16::try_from(found.port).unwrap_or(0);
            let node = node_of(&found.host, port).filter(|node| *node < io.nodes);
            node.map(Some).ok_or_else(|| format!("a coordinator at {}:{port}", &*found.host))
        }
        code if io.is_retriable(code) => Ok(None),
        code => Err(format!("FindCoordinator failed with {code}")),
    }
}
