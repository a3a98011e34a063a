//! The table of connections, bounded, and the bytes that they all have in flight.

use std::collections::VecDeque;
use std::net::SocketAddr;

use slab::Slab;
use smallvec::SmallVec;

use super::conn::{ConnId, Connection};
use super::purgatory::FetchId;
use crate::error::Refused;

/// What a closed connection waited for.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) fetches: SmallVec<[FetchId; 2]>,
    pub(crate) group_requests: SmallVec<[u64; 2]>,
}

#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Slab<Connection>,
    generation: u32,
    bytes: usize,
    memory_queue: VecDeque<ConnId>,
}

impl Connections {
    pub(crate) fn insert(&mut self, peer: SocketAddr, limit: usize) -> Result<ConnId, Refused> {
        if self.slots.len() >= limit {
            return Err(Refused::TooMany { limit });
        }
        let entry = self.slots.vacant_entry();
        let slot = u32::try_from(entry.key()).map_err(|_| Refused::TooMany { limit })?;
        self.generation = self.generation.wrapping_add(1);
        let id = ConnId { slot, generation: self.generation };
        entry.insert(Connection::new(id, peer));
        Ok(id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.slots.get_mut(usize::try_from(id.slot).ok()?).filter(|c| c.id == id)
    }

    /// Forgets a connection; gives what it waited for.
    pub(crate) fn remove(&mut self, id: ConnId) -> Left {
        let Some(connection) = self.get_mut(id) else { return Left::default() };
        let bytes = connection.bytes_in_flight();
        let left = Left {
            fetches: std::mem::take(&mut connection.fetches),
            group_requests: std::mem::take(&mut connection.group_requests),
        };
        self.remove_bytes(bytes);
        if let Ok(slot) = usize::try_from(id.slot) {
            self.slots.remove(slot);
        }
        left
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of requests in flight after these came in.
    pub(crate) fn add_bytes(&mut self, bytes: usize) -> usize {
        self.bytes += bytes;
        self.bytes
    }

    pub(crate) fn remove_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A connection that sent while memory was short. At most one entry per connection: it is not read meanwhile, and
    /// what its driver had read already is marked already.
    pub(crate) fn wait_for_memory(&mut self, id: ConnId) {
        if self.memory_queue.back() != Some(&id) && self.memory_queue.len() < 2 * self.slots.len().max(16) {
            self.memory_queue.push_back(id);
        }
    }

    /// A connection that may go on, if memory is there again.
    pub(crate) fn memory_returned(&mut self, limit: usize) -> Option<ConnId> {
        if self.bytes > limit / 2 { None } else { self.memory_queue.pop_front() }
    }
}
