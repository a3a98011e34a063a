//! Transactions of the cluster in memory: everything is kept until the commit, and then applied at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wherry_client::{ClientError, CommitOffset, GroupMembership, ProduceRecord, RecordMetadata};

use super::{MemoryCluster, MemoryReceipt, unreachable};
use crate::backend::Transactional;

/// A sender of transactions of the cluster in memory.
#[derive(Debug)]
pub struct MemoryTransactional {
    cluster: MemoryCluster,
    id: Arc<str>,
    epoch: u64,
    open: Mutex<Option<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    records: Vec<(ProduceRecord, oneshot::Sender<Result<RecordMetadata, ClientError>>)>,
    offsets: Vec<(GroupMembership, Vec<CommitOffset>)>,
    failure: Option<ClientError>,
}

impl MemoryTransactional {
    pub(super) fn open(cluster: MemoryCluster, id: Arc<str>) -> Result<Self, ClientError> {
        let epoch = {
            let mut state = cluster.state();
            if state.away {
                return Err(unreachable("begin a transaction"));
            }
            let newest = state.transactional.entry(id.clone()).or_default();
            *newest += 1;
            *newest
        };
        Ok(Self { cluster, id, epoch, open: Mutex::default() })
    }

    fn opened(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: ClientError) -> ClientError {
        if let Some(open) = &mut *self.opened() {
            open.failure = Some(error.clone());
        }
        error
    }
}

fn none_open() -> ClientError {
    ClientError::Config { what: "no transaction is open: begin one first".into() }
}

impl Transactional for MemoryTransactional {
    type Receipt = MemoryReceipt;

    fn begin(&self) -> Result<(), ClientError> {
        let mut open = self.opened();
        if open.is_some() {
            return Err(ClientError::Config { what: "a transaction is open: commit or abort it first".into() });
        }
        *open = Some(Open::default());
        Ok(())
    }

    async fn send(&self, record: ProduceRecord) -> Result<MemoryReceipt, ClientError> {
        let injected = {
            let mut state = self.cluster.state();
            state.fail.pop_front().map_or_else(|| state.check(&record), Err)
        };
        injected.map_err(|error| self.fail(error))?;
        let (answer, receipt) = oneshot::channel();
        self.opened().as_mut().ok_or_else(none_open)?.records.push((record, answer));
        Ok(MemoryReceipt::Waiting(receipt))
    }

    async fn send_offsets(&self, member: &GroupMembership, next: &[CommitOffset]) -> Result<(), ClientError> {
        let checked = self.cluster.state().groups.check(member);
        checked.map_err(|error| self.fail(error))?;
        self.opened().as_mut().ok_or_else(none_open)?.offsets.push((member.clone(), next.to_vec()));
        Ok(())
    }

    async fn commit(&self) -> Result<(), ClientError> {
        let mut state = self.cluster.state();
        let mut open = self.opened();
        let failure = open.as_ref().ok_or_else(none_open)?.failure.clone();
        if let Some(failure) = failure {
            let what = format!("the transaction of {}", self.id).into();
            return Err(ClientError::AbortOnly { what, cause: failure.to_string().into() });
        }
        if state.transactional.get(&self.id) != Some(&self.epoch) {
            let (what, name) = (format!("producer {}", self.id).into(), "PRODUCER_FENCED".into());
            return Err(ClientError::Fenced { what, name });
        }
        if state.lost_commits > 0 {
            state.lost_commits -= 1;
            let (what, cause) = ("end a transaction".into(), "the answer got lost".into());
            return Err(ClientError::Unknown { what, cause, waited: std::time::Duration::ZERO });
        }
        for (member, next) in open.as_mut().map(|open| std::mem::take(&mut open.offsets)).unwrap_or_default() {
            state.groups.commit(member.group(), next);
        }
        for (record, answer) in open.take().map(|open| open.records).unwrap_or_default() {
            // Whoever does not wait for the receipt has sent it all the same.
            let _ = answer.send(state.append(record));
        }
        drop(state);
        self.cluster.touch();
        Ok(())
    }

    async fn abort(&self) -> Result<(), ClientError> {
        self.opened().take().map(drop).ok_or_else(none_open)
    }

    async fn close(self) -> Result<(), ClientError> {
        Ok(())
    }
}
