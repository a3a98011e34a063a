//! Dead letters on their way: what a share group gives up is read, copied to whoever leads the partition of the group's
//! dead-letter topic, and archived when the copy is committed there. Tried again until it is: the records stay condemned, and
//! hold their place in the window of their share-partition, as long as there is no copy.
//!
//! ```text
//!  condemned ─> read ─> sent ──┬─ here, or to another node ─> committed ─> archived
//!                  ^           └─ no topic, no leader, link lost, no answer ─┐
//!                  └──────────────────────── a little later ────────────────┘      a copy may then be made twice
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use wherry_metadata::PartitionId;
use wherry_wire::codec::ResponseError;
use wherry_wire::types::{LogId, Offset};

use crate::cluster::control::Control;
use crate::cluster::share::ShareMessage;
use crate::core::store::{LogError, LogStore, Read, ReadToken, ReadUpTo, Served};
use crate::core::{Core, Then};
use crate::limits::{LETTER_RETRY_MS, MAX_LETTER_BYTES, MAX_LETTERS, SHARE_PATIENCE_MS};
use crate::share::letter::{Origin, checked, letters};
use crate::share::partition::Condemned;

/// Who waits for a letter to be committed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A share-partition of this node, by the number of its letter.
    Here(u64),
    /// One of another node, with its number there.
    Node(i32, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Reading(ReadToken),
    /// An answer is waited for.
    Sent,
    /// Begun anew then.
    Later,
}

#[derive(Debug)]
struct Letter {
    number: u64,
    condemned: Condemned,
    /// What is being copied.
    upto: i64,
    step: Step,
    wake_ns: u64,
}

/// At most one of each share-partition, and so many together.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// By the share-partition.
    open: BTreeMap<u64, Letter>,
    /// Share-partitions with condemned records.
    due: BTreeSet<u64>,
    last: u64,
}

impl Letters {
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let has_room = !self.due.is_empty() && self.open.len() < MAX_LETTERS;
        if has_room { Some(0) } else { self.open.values().map(|letter| letter.wake_ns).min() }
    }

    /// A share-partition has condemned records.
    pub(super) fn want(&mut self, id: u64) {
        if !self.open.contains_key(&id) {
            self.due.insert(id);
        }
    }

    /// It is no more.
    pub(super) fn forget(&mut self, id: u64) {
        self.open.remove(&id);
        self.due.remove(&id);
    }

    fn numbered(&self, number: u64) -> Option<u64> {
        self.open.iter().find(|(_, letter)| letter.number == number).map(|(id, _)| *id)
    }
}

impl<S: LogStore> Core<S> {
    /// Begins letters, and begins those anew that did not arrive.
    pub(super) fn write_letters(&mut self) {
        let now_ns = self.now.monotonic_ns;
        let late = self.shares.letters.open.iter().filter(|(_, letter)| letter.wake_ns <= now_ns);
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.shares.letters.open.remove(&id);
            self.shares.letters.due.insert(id);
        }
        while self.shares.letters.open.len() < MAX_LETTERS {
            let Some(id) = self.shares.letters.due.pop_first() else { return };
            self.begin_letter(id);
        }
    }

    fn begin_letter(&mut self, id: u64) {
        let Some((log, group)) = self.share_place(id) else { return };
        let wants = self.share_settings(&group).dead_letters;
        let Some(condemned) = self.with_share(id, |partition| partition.condemned()).flatten() else { return };
        if !wants {
            // The group wants no copies any more.
            return self.letter_copied(id, condemned, condemned.last);
        }
        self.shares.letters.last += 1;
        let number = self.shares.letters.last;
        let wake_ns = self.after_ms(LETTER_RETRY_MS);
        let letter = Letter { number, condemned, upto: condemned.first - 1, step: Step::Later, wake_ns };
        self.shares.letters.open.insert(id, letter);
        let Some(committed) = self.committed_end(log) else { return };
        let from = Offset(condemned.first);
        match self.store.read(log, from, ReadUpTo::Offset(committed), MAX_LETTER_BYTES, true) {
            Ok(Read::Ready(served)) => self.send_letter(id, &served),
            Ok(Read::Pending(token)) => {
                if let Some(letter) = self.shares.letters.open.get_mut(&id) {
                    letter.step = Step::Reading(token);
                    letter.wake_ns = u64::MAX;
                }
            }
            // Retention took them.
            Err(LogError::OutOfRange { .. }) => self.letter_copied(id, condemned, condemned.last),
            Err(error) => tracing::warn!(%log, %group, %error, "records that are to be dead letters can't be read"),
        }
    }

    /// A read came back from the disk. It is given back if it was not one of these.
    pub(crate) fn letter_read_done(
        &mut self,
        token: ReadToken,
        result: Result<Served, LogError>,
    ) -> Option<Result<Served, LogError>> {
        let found = self.shares.letters.open.iter().find(|(_, letter)| letter.step == Step::Reading(token));
        let Some(id) = found.map(|(id, _)| *id) else { return Some(result) };
        let again_ns = self.after_ms(LETTER_RETRY_MS);
        if let Some(letter) = self.shares.letters.open.get_mut(&id) {
            (letter.step, letter.wake_ns) = (Step::Later, again_ns);
        }
        if let Ok(served) = result {
            self.send_letter(id, &served);
        }
        None
    }

    fn send_letter(&mut self, id: u64, served: &Served) {
        let Some((log, group)) = self.share_place(id) else { return self.shares.letters.forget(id) };
        let Some(letter) = self.shares.letters.open.get(&id) else { return };
        let (number, condemned) = (letter.number, letter.condemned);
        let Some(topic) = self.meta.topic_by_id(log.topic).map(|topic| Arc::clone(&topic.name)) else { return };
        let origin = Origin { topic: &topic, partition: log.partition, group: &group };
        let made = match letters(&served.batches, condemned, origin) {
            Ok(made) => made,
            Err(why) => return tracing::warn!(%log, %group, %why, "a dead letter can't be made; it is tried again"),
        };
        let Some(batch) = made.batch else { return self.letter_copied(id, condemned, made.upto) };
        let Some((target, leader)) = self.letter_box(&group, log.partition) else {
            return tracing::warn!(%log, %group, "the dead-letter topic does not exist or has no leader; it is tried again");
        };
        let lost_ns = self.after_ms(SHARE_PATIENCE_MS);
        if let Some(letter) = self.shares.letters.open.get_mut(&id) {
            (letter.step, letter.upto, letter.wake_ns) = (Step::Sent, made.upto, lost_ns);
        }
        let batch = batch.bytes().clone();
        if leader == self.config.node_id {
            self.take_letter(Sender::Here(number), target, batch);
        } else {
            // If it is lost, it is sent again.
            self.send_control(leader, &Control::Share(ShareMessage::Letter { number, to: target, batch }));
        }
    }

    /// The partition that a group's dead letters of a partition go to, and who leads it.
    fn letter_box(&self, group: &str, partition: i32) -> Option<(PartitionId, i32)> {
        let topic = self.meta.topic(self.meta.group_config(group, "wherry.dead.letter.topic")?)?;
        let index = partition.checked_rem(topic.partition_count())?;
        let leader = topic.partition(index)?.leader?;
        Some((PartitionId { topic: topic.id, partition: index }, leader))
    }

    /// A letter for a partition that this node leads; answered when it is committed.
    pub(super) fn take_letter(&mut self, sender: Sender, to: PartitionId, batch: Bytes) {
        if let Err(error) = self.append_letter(sender, to, batch) {
            tracing::debug!(?error, "a dead letter was refused");
            self.letter_answered(sender, false);
        }
    }

    fn append_letter(&mut self, sender: Sender, to: PartitionId, batch: Bytes) -> Result<(), ResponseError> {
        let log = LogId { topic: to.topic, partition: to.partition };
        let partition = self.meta.partition(to).ok_or(ResponseError::UnknownTopicOrPartition)?;
        let enough = partition.isr.len() >= partition.effective_min(self.meta.min_insync(to.topic));
        let epoch = self.leads(log)?;
        if !enough {
            return Err(ResponseError::NotEnoughReplicas);
        }
        let batch = checked(batch).map_err(|_| ResponseError::CorruptMessage)?;
        let appended = self.store.append(log, &[batch], epoch, self.now.wall_ms);
        let appended = appended.map_err(|_| ResponseError::KafkaStorageError)?;
        self.when_committed(log, appended.last_offset, appended.ticket, Then::LetterCommitted { sender });
        Ok(())
    }

    /// A letter is committed here, or nobody here will know whether it is.
    pub(crate) fn letter_answered(&mut self, sender: Sender, committed: bool) {
        match sender {
            Sender::Here(number) => self.letter_arrived(number, committed),
            Sender::Node(node, number) => {
                self.send_control(node, &Control::Share(ShareMessage::LetterTaken { number, committed }));
            }
        }
    }

    /// What became of a letter of this node.
    pub(super) fn letter_arrived(&mut self, number: u64, committed: bool) {
        let Some(id) = self.shares.letters.numbered(number) else { return };
        let Some(letter) = self.shares.letters.open.get(&id).filter(|letter| letter.step == Step::Sent) else { return };
        let again_ns = self.after_ms(LETTER_RETRY_MS);
        if committed {
            let (condemned, upto) = (letter.condemned, letter.upto);
            self.letter_copied(id, condemned, upto);
        } else if let Some(letter) = self.shares.letters.open.get_mut(&id) {
            (letter.step, letter.wake_ns) = (Step::Later, again_ns);
        }
    }

    /// There are copies of these records up to there: they are archived, and the next ones follow.
    fn letter_copied(&mut self, id: u64, condemned: Condemned, upto: i64) {
        self.shares.letters.forget(id);
        self.with_share(id, |partition| partition.copied(condemned.first, upto));
        self.share_changed_by_id(id);
    }
}
