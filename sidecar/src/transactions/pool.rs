//! Senders of transactions, a bounded number of them, each with an id of its own that no other sidecar has.
//!
//! One that failed in a way that nobody understands is given up; the next with its id fences it at the cluster, and ends what it had
//! open.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Code;

use super::CLUSTER_TIMEOUT;
use crate::backend::{Backend, Transactional};
use crate::error::Failure;
use crate::limits::Limits;
use crate::shared::Shared;

/// Begins every transactional id of a sidecar.
const PREFIX: &str = "wherry-sidecar";

/// Transactions of the largest size whose bytes may be kept at a time.
const FULL_SIZED: usize = 2;

/// The transactions of a sidecar. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Transactions<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for Transactions<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<B: Backend> {
    /// Drawn at start.
    instance: u64,
    room: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    numbers: AtomicU64,
    seats: Mutex<Seats<B::Transactional>>,
}

impl<B: Backend> std::fmt::Debug for Inner<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transactions").field("instance", &self.instance).finish_non_exhaustive()
    }
}

struct Seats<T> {
    free: Vec<(usize, T)>,
    /// Numbers without a sender.
    spare: Vec<usize>,
}

/// The use of one sender.
pub(super) struct Seat<B: Backend> {
    pool: Transactions<B>,
    number: usize,
    transactional: B::Transactional,
    _room: OwnedSemaphorePermit,
}

/// The right to keep bytes of transactions that are not committed.
#[derive(Debug)]
pub(crate) struct Budget {
    of: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl<B: Backend> Transactions<B> {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let most = limits.transaction_bytes.max(limits.message_bytes + crate::limits::TRANSACTION_MESSAGE_BYTES);
        let bytes = most.saturating_mul(FULL_SIZED.min(limits.transactions)).min(Semaphore::MAX_PERMITS);
        let seats = Seats { free: Vec::new(), spare: (0..limits.transactions).rev().collect() };
        Self {
            inner: Arc::new(Inner {
                instance: high ^ low,
                room: Arc::new(Semaphore::new(limits.transactions)),
                bytes: Arc::new(Semaphore::new(bytes)),
                numbers: AtomicU64::new(0),
                seats: Mutex::new(seats),
            }),
        }
    }

    fn seats(&self) -> MutexGuard<'_, Seats<B::Transactional>> {
        self.inner.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other transaction of this sidecar has.
    pub(super) fn number(&self) -> u64 {
        self.inner.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Nothing held yet.
    pub(crate) fn budget(&self) -> Budget {
        Budget { of: self.inner.bytes.clone(), held: None }
    }

    /// A sender, made if none is free; waits for its turn.
    pub(super) async fn seat(&self, shared: &Shared<B>) -> Result<Seat<B>, Failure> {
        let room = self.inner.room.clone().acquire_owned().await.map_err(|_| Failure::draining())?;
        let (free, spare) = {
            let mut seats = self.seats();
            match seats.free.pop() {
                Some(free) => (Some(free), None),
                None => (None, seats.spare.pop()),
            }
        };
        if let Some((number, transactional)) = free {
            return Ok(Seat { pool: self.clone(), number, transactional, _room: room });
        }
        // There are as many numbers as there is room.
        let number = spare.ok_or_else(Failure::draining)?;
        let id = format!("{PREFIX}-{:016x}-{number}", self.inner.instance);
        match shared.backend.transactional(id.into(), CLUSTER_TIMEOUT).await {
            Ok(transactional) => Ok(Seat { pool: self.clone(), number, transactional, _room: room }),
            Err(error) => {
                self.seats().spare.push(number);
                Err(error.into())
            }
        }
    }

    /// Ends the senders that are free.
    pub(crate) async fn close(&self) {
        let free = std::mem::take(&mut self.seats().free);
        for (_, transactional) in free {
            if let Err(error) = transactional.close().await {
                tracing::debug!(%error, "closing a sender of transactions");
            }
        }
    }
}

impl<B: Backend> Seat<B> {
    pub(super) fn transactional(&self) -> &B::Transactional {
        &self.transactional
    }

    /// For the next transaction.
    pub(super) fn give_back(self) {
        self.pool.seats().free.push((self.number, self.transactional));
    }

    /// Nobody knows what state it is in: the next with its number is another.
    pub(super) fn discard(self) {
        self.pool.seats().spare.push(self.number);
    }
}

impl Budget {
    /// Holds this many bytes from now on.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(bytes.saturating_sub(held)).unwrap_or(u32::MAX);
        let Ok(permit) = self.of.clone().try_acquire_many_owned(more) else {
            return Err(Failure::passing(
                Code::ResourceExhausted,
                "TOO_MANY_TRANSACTIONS",
                "twice limits.transaction_bytes are waiting to be committed already; commit some, or raise the limits",
            ));
        };
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}
