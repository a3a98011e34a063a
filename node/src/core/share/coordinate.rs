//! The share coordinators of this node: one for each partition of `__share_group_state`, for as long as this node leads it.

use bytes::Bytes;
use uuid::Uuid;
use wherry_metadata::PartitionId;
use wherry_wire::types::LogId;

use super::Sender;
use crate::cluster::control::Control;
use crate::cluster::share::ShareMessage;
use crate::core::coordinators::{CoordinatorTopic, Machine, Office, Seats, Standing, Term, as_pairs};
use crate::core::store::LogStore;
use crate::core::{Core, Then, records};
use crate::groups::{PersistError, PersistId, Record, RequestRef, partition_of};
use crate::limits::MAX_SHARE_PARTITIONS;
use crate::share::ledger::{Effect, Ledgers, Refusal, Request, Response};

/// Who gets an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A question of this node.
    Here(u64),
    /// A question of another node, with its number there.
    Node(i32, u64),
}

impl Machine for Ledgers {
    fn replay(&mut self, batch: &Bytes) -> Result<(), String> {
        for (key, value) in records::pairs(batch)? {
            Ledgers::replay(self, &key.unwrap_or_default(), value.as_deref())?;
        }
        Ok(())
    }

    /// It does nothing by itself.
    fn next_deadline(&self) -> Option<u64> {
        None
    }

    fn forget(&mut self) {
        self.clear();
    }
}

impl<S: LogStore> Office<S> for Ledgers {
    const WHAT: &'static str = "share groups";

    fn seats(core: &mut Core<S>) -> &mut Seats<Self> {
        &mut core.shares.seats
    }

    fn loaded(core: &mut Core<S>, partition: i32) {
        let Some(seat) = core.shares.seats.get_mut(partition) else { return };
        let meta = &core.meta;
        let effects = seat.machine.loaded(|topic| meta.topic_by_id(topic).is_some());
        tracing::debug!(partition, share_partitions = seat.machine.len(), "what is kept of share groups is read back");
        core.run_ledger_effects(partition, effects);
        core.hurry_share_questions();
    }
}

impl<S: LogStore> Core<S> {
    /// The metadata say who leads a partition: this node coordinates the share groups of it, or does not; and leads the
    /// share-partitions of it, or does not.
    pub(crate) fn share_duty(&mut self, id: PartitionId) {
        let log = LogId { topic: id.topic, partition: id.partition };
        self.share_leadership_changed(log);
        let topic = self.coordinator_topic(CoordinatorTopic::Shares);
        let Some(partitions) = topic.filter(|topic| topic.id == id.topic).map(|topic| topic.partition_count()) else {
            return;
        };
        match self.leads(log) {
            Ok(epoch) if self.shares.seats.knows(id.partition, log, epoch) => {}
            Ok(epoch) => {
                self.resign_ledgers(id.partition);
                let most = MAX_SHARE_PARTITIONS / partitions.unsigned_abs().max(1) as usize;
                self.sit(id.partition, log, epoch, Ledgers::new(most));
            }
            Err(_) => self.resign_ledgers(id.partition),
        }
    }

    /// Who waits is sent elsewhere; what is still to be committed concerns the next coordinator.
    fn resign_ledgers(&mut self, partition: i32) {
        let Some(seat) = self.shares.seats.remove(partition) else { return };
        tracing::info!(
            partition,
            epoch = seat.epoch.0,
            "the share groups of this partition are coordinated here no more"
        );
        let effects = seat.machine.resign();
        self.run_ledger_effects(partition, effects);
        self.admit_loads::<Ledgers>();
    }

    /// Hands a request to its coordinator here; `waiter` gets the answer, perhaps at once.
    pub(super) fn ask_ledger(&mut self, waiter: Waiter, body: Request) {
        let refusal = match self.share_seat(body.group()) {
            Err(refusal) => refusal,
            // Another node may be it by now.
            Ok(_) if !self.may_acknowledge() => Refusal::NotAvailable,
            Ok(partition) => {
                self.shares.asked += 1;
                let request = self.shares.asked;
                self.shares.waiting.insert(request, waiter);
                let Some(seat) = self.shares.seats.get_mut(partition) else { return };
                let effects = seat.machine.request(RequestRef(request), body);
                return self.run_ledger_effects(partition, effects);
            }
        };
        self.answer_share_waiter(waiter, Response::Refused(refusal));
    }

    /// The partition whose coordinator has a group, if that is here.
    fn share_seat(&self, group: &str) -> Result<i32, Refusal> {
        let topic = self.coordinator_topic(CoordinatorTopic::Shares).ok_or(Refusal::NotAvailable)?;
        let partition = partition_of(group, topic.partition_count());
        match self.shares.seats.standing(partition) {
            Standing::Elsewhere => Err(Refusal::NotCoordinator),
            Standing::Damaged => Err(Refusal::NotAvailable),
            Standing::Here => Ok(partition),
        }
    }

    fn answer_share_waiter(&mut self, waiter: Waiter, response: Response) {
        match waiter {
            Waiter::Here(number) => self.share_question_answered(number, response),
            Waiter::Node(node, number) => {
                // If the link is lost, it asks again.
                self.send_control(node, &Control::Share(ShareMessage::Answer { number, response }));
            }
        }
    }

    /// Appends first: an answer may lead to requests that append as well.
    fn run_ledger_effects(&mut self, partition: i32, effects: Vec<Effect>) {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist { id, records } => self.persist_ledger(partition, id, records),
                Effect::Reply { request, response } => replies.push((request, response)),
            }
        }
        for (request, response) in replies {
            if let Some(waiter) = self.shares.waiting.remove(&request.0) {
                self.answer_share_waiter(waiter, response);
            }
        }
    }

    fn persist_ledger(&mut self, partition: i32, id: PersistId, records: Vec<Record>) {
        let pairs = as_pairs(records);
        let refused = self.persist::<Ledgers>(
            partition,
            |core, log, epoch| core.append_pairs(log, epoch, &pairs),
            |term, result| Then::SharePersisted { partition, term, id, result },
        );
        // At once: nothing may build on what the log does not have.
        if refused.is_some()
            && let Some(seat) = self.shares.seats.get_mut(partition)
        {
            let effects = seat.machine.refused(id);
            self.run_ledger_effects(partition, effects);
        }
    }

    /// Records are committed, or were not appended. Whose coordinator is gone since, concern nobody here.
    pub(crate) fn share_persisted(
        &mut self,
        partition: i32,
        term: Term,
        id: PersistId,
        result: Result<(), PersistError>,
    ) {
        if self.shares.seats.in_term(partition, term).is_none() {
            return;
        }
        let Some(seat) = self.shares.seats.get_mut(partition) else { return };
        let effects = seat.machine.persisted(id, result);
        self.run_ledger_effects(partition, effects);
    }

    /// A topic is gone: nothing is kept of it. A coordinator that loads sees that for itself at the end.
    pub(crate) fn share_topic_deleted(&mut self, topic: Uuid) {
        for partition in self.shares.seats.serving() {
            let Some(seat) = self.shares.seats.get_mut(partition) else { continue };
            let effects = seat.machine.topic_deleted(topic);
            self.run_ledger_effects(partition, effects);
        }
    }

    /// What other nodes ask and answer.
    pub(crate) fn share_message(&mut self, from: i32, message: ShareMessage) {
        match message {
            ShareMessage::Ask { number, request } => self.ask_ledger(Waiter::Node(from, number), request),
            ShareMessage::Answer { number, response } => self.share_node_answered(from, number, response),
            ShareMessage::Letter { number, to, batch } => self.take_letter(Sender::Node(from, number), to, batch),
            ShareMessage::LetterTaken { number, committed } => self.letter_arrived(number, committed),
        }
    }
}
