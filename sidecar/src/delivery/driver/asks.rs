//! What transactions, replies and seeks ask of a group's task.
//!
//! A commit that is on its way could pass what a transaction or a seek commits, so these wait until it is over; and no commit of a
//! partition is sent while a transaction in it is being committed. A commit whose answer got lost is never over in this sense: before a
//! transaction may follow it, the group is joined anew, which makes the coordinator refuse it should it still be on its way.

use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::oneshot;
use tonic::Code;
use wherry_client::{ClientError, CommitOffset, ConsumedRecord, GroupMembership, TopicPartition};

use super::{Answer, Driver, Membership};
use crate::backend::{Backend, Member};
use crate::delivery::ack_id::AckId;
use crate::delivery::window::NoLease;
use crate::error::Failure;

/// See the module.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A transaction wants to acknowledge these.
    Lease { number: u64, ids: Vec<AckId>, answer: Answer<Lease> },
    /// It is over.
    Resolve { number: u64, ended: Ended },
    /// The message of a delivery; `None` where it is not valid any more.
    Peek { id: AckId, answer: oneshot::Sender<Option<ConsumedRecord>> },
    /// Who this is in the group.
    Membership { answer: oneshot::Sender<Option<GroupMembership>> },
    /// The group goes on from elsewhere. Answers with which of these partitions it had here.
    Move { next: Vec<(TopicPartition, i64)>, answer: Answer<Vec<(TopicPartition, i64)>> },
}

/// What a transaction has to commit of a group.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) member: GroupMembership,
    pub(crate) next: Vec<CommitOffset>,
    /// Messages that it acknowledges.
    pub(crate) count: usize,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Committed,
    Aborted,
    /// It may have been committed: only what the cluster says of the group counts.
    Unknown,
}

/// A seek whose commit is on its way.
#[derive(Debug)]
pub(super) struct Moving {
    next: Vec<(TopicPartition, i64)>,
    answer: Answer<Vec<(TopicPartition, i64)>>,
}

impl Ask {
    /// Nobody is here any more to do it.
    pub(super) fn refuse(self, failure: &Failure) {
        // Whoever gave up does not need an answer.
        match self {
            Self::Lease { answer, .. } => drop(answer.send(Err(failure.clone()))),
            Self::Move { answer, .. } => drop(answer.send(Err(failure.clone()))),
            Self::Peek { answer, .. } => drop(answer.send(None)),
            Self::Membership { answer } => drop(answer.send(None)),
            Self::Resolve { .. } => {}
        }
    }

    fn given_up(&self) -> bool {
        match self {
            Self::Lease { answer, .. } => answer.is_closed(),
            Self::Move { answer, .. } => answer.is_closed(),
            Self::Peek { answer, .. } => answer.is_closed(),
            Self::Membership { answer } => answer.is_closed(),
            Self::Resolve { .. } => false,
        }
    }
}

impl<B: Backend> Driver<B> {
    pub(super) fn ask(&mut self, ask: Ask) {
        // Whoever gave up does not need an answer.
        match ask {
            Ask::Lease { .. } | Ask::Move { .. } => self.asks.push_back(ask),
            Ask::Resolve { number, ended } => self.resolve(number, ended),
            Ask::Peek { id, answer } => drop(answer.send(self.group.peek(id).cloned())),
            Ask::Membership { answer } => drop(answer.send(self.who())),
        }
    }

    pub(super) fn has_asks(&self) -> bool {
        !self.asks.is_empty() || !self.leases.is_empty() || self.moving.is_some()
    }

    fn who(&self) -> Option<GroupMembership> {
        match &self.membership {
            Membership::Member(member) => member.membership(),
            Membership::Joining(_) | Membership::Pausing(_) => None,
        }
    }

    /// Does what had to wait, in turn, as far as it can be done now.
    pub(super) fn take_up_asks(&mut self) {
        self.asks.retain(|ask| !ask.given_up());
        while self.committing.is_none()
            && let Some(ask) = self.asks.pop_front()
        {
            let may = match &ask {
                Ask::Lease { ids, .. } => self.group.may_lease(ids),
                Ask::Move { next, .. } => self.group.may_move(&partitions(next)),
                Ask::Resolve { .. } | Ask::Peek { .. } | Ask::Membership { .. } => true,
            };
            if !may {
                return self.asks.push_front(ask);
            }
            match ask {
                Ask::Lease { ids, answer, .. } if self.unsure => {
                    tracing::warn!(group = %self.spec.group, messages = ids.len(), "a commit is unaccounted for, joining anew");
                    self.rejoin();
                    // Whoever gave up does not need an answer.
                    let _ = answer.send(Err(lost(&format!("group {}", self.spec.group))));
                }
                Ask::Lease { number, ids, answer } => {
                    let lease = self.lease(number, &ids);
                    if answer.send(lease).is_err() {
                        self.resolve(number, Ended::Aborted);
                    }
                }
                Ask::Move { next, answer } => self.start_move(next, answer),
                other @ (Ask::Resolve { .. } | Ask::Peek { .. } | Ask::Membership { .. }) => self.ask(other),
            }
        }
    }

    fn lease(&mut self, number: u64, ids: &[AckId]) -> Result<Lease, Failure> {
        let group = &self.spec.group;
        let Some(member) = self.who() else { return Err(lost(&format!("group {group}"))) };
        let leased = self.group.lease(ids).map_err(|(_, why)| match why {
            NoLease::Lost => lost(&format!("group {group}")),
            NoLease::Scattered => scattered(group),
        })?;
        let lease = Lease { member, next: leased.next.clone(), count: leased.count };
        self.leases.insert(number, leased);
        Ok(lease)
    }

    fn resolve(&mut self, number: u64, ended: Ended) {
        let Some(leased) = self.leases.remove(&number) else { return };
        match ended {
            Ended::Committed => self.group.resolve(&leased, true),
            Ended::Aborted => self.group.resolve(&leased, false),
            Ended::Unknown => {
                tracing::warn!(group = %self.spec.group, "nobody knows whether a transaction was committed, joining anew");
                self.rejoin();
            }
        }
    }

    fn start_move(&mut self, next: Vec<(TopicPartition, i64)>, answer: Answer<Vec<(TopicPartition, i64)>>) {
        let ours: Vec<_> = next.into_iter().filter(|(at, _)| self.group.has(at)).collect();
        let (Membership::Member(member), Some(who)) = (&self.membership, self.who()) else {
            return drop(answer.send(Ok(Vec::new())));
        };
        if ours.is_empty() {
            return drop(answer.send(Ok(Vec::new())));
        }
        self.group.start_move(&partitions(&ours));
        let commits = ours.iter().map(|(at, offset)| CommitOffset::new(at.clone(), *offset)).collect();
        self.committing = Some(member.commit(who.generation(), commits).boxed());
        self.moving = Some(Moving { next: ours, answer });
    }

    /// The commit that moves the group is over.
    pub(super) fn moved(&mut self, moving: Moving, outcome: Result<(), ClientError>) {
        let Moving { next, answer } = moving;
        let at = partitions(&next);
        match (outcome, &mut self.membership) {
            (Ok(()), Membership::Member(member)) => {
                next.iter().for_each(|(at, offset)| member.seek(at, *offset));
                member.resume(&at);
                self.group.moved(&at);
                // Whoever gave up has moved it all the same.
                let _ = answer.send(Ok(next));
            }
            (outcome, _) => {
                self.shared.stats.commits_failed.add(1);
                let failure = outcome.err().map_or_else(Failure::draining, Failure::from);
                tracing::warn!(group = %self.spec.group, error = %failure, "the group could not be moved");
                // Where it stands now, the cluster knows.
                self.rejoin();
                let _ = answer.send(Err(failure));
            }
        }
    }
}

fn partitions(next: &[(TopicPartition, i64)]) -> Vec<TopicPartition> {
    next.iter().map(|(at, _)| at.clone()).collect()
}

/// A transaction may not have what it asked for.
pub(crate) fn lost(of: &str) -> Failure {
    Failure::lasting(
        Code::Aborted,
        "ACK_LOST",
        format!(
            "an ack id of {of} is not yours any more: its message was or will be delivered again; nothing was done, drop what you made of it"
        ),
    )
}

fn scattered(group: &Arc<str>) -> Failure {
    Failure::passing(
        Code::ResourceExhausted,
        "TOO_SCATTERED",
        format!(
            "group {group} has acknowledged too much above messages that it has not; acknowledge the earlier messages of the partition first"
        ),
    )
}
