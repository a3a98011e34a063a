//! The table of connections: of clients, bounded, with the bytes that they all have in flight; and of links to other
//! nodes, which count towards nothing here: they have bounds of their own.
//!
//! ```text
//!  insert ──► Client ──promote──► Link ◄── insert_link (outgoing)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use slab::Slab;
use smallvec::SmallVec;

use super::conn::{ConnId, Connection};
use super::purgatory::FetchId;
use crate::cluster::links::LinkId;
use crate::error::Refused;
use crate::security::Caller;

/// What a closed connection waited for.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) fetches: SmallVec<[FetchId; 2]>,
    pub(crate) group_requests: SmallVec<[u64; 2]>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are clients; a box each would cost more than it saves")]
enum Entry {
    Client(Connection),
    Link(ConnId, LinkId),
}

#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Slab<Entry>,
    clients: usize,
    links: BTreeMap<LinkId, ConnId>,
    generation: u32,
    bytes: usize,
    memory_queue: VecDeque<ConnId>,
}

impl Connections {
    pub(crate) fn insert(&mut self, caller: Rc<Caller>, limit: usize) -> Result<ConnId, Refused> {
        if self.clients >= limit {
            return Err(Refused::TooMany { limit });
        }
        let id = self.next_id().ok_or(Refused::TooMany { limit })?;
        self.slots.insert(Entry::Client(Connection::new(id, caller)));
        self.clients += 1;
        Ok(id)
    }

    /// The id of a connection to another node; none if there are more connections than numbers.
    pub(crate) fn insert_link(&mut self, link: LinkId) -> Option<ConnId> {
        let id = self.next_id()?;
        self.slots.insert(Entry::Link(id, link));
        self.links.insert(link, id);
        Some(id)
    }

    /// A client turned out to be a node: it counts as a client no more. The bytes that it has in flight stay the caller's.
    pub(crate) fn promote(&mut self, id: ConnId, link: LinkId) {
        let Some(at) = self.get_mut(id).and(usize::try_from(id.slot).ok()) else { return };
        self.slots[at] = Entry::Link(id, link);
        self.clients -= 1;
        self.links.insert(link, id);
    }

    fn next_id(&mut self) -> Option<ConnId> {
        let slot = u32::try_from(self.slots.vacant_key()).ok()?;
        self.generation = self.generation.wrapping_add(1);
        Some(ConnId { slot, generation: self.generation })
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        match self.slots.get_mut(usize::try_from(id.slot).ok()?)? {
            Entry::Client(connection) if connection.id == id => Some(connection),
            Entry::Client(_) | Entry::Link(..) => None,
        }
    }

    /// The link that runs over a connection.
    pub(crate) fn link(&self, id: ConnId) -> Option<LinkId> {
        match self.slots.get(usize::try_from(id.slot).ok()?)? {
            Entry::Link(conn, link) if *conn == id => Some(*link),
            Entry::Link(..) | Entry::Client(_) => None,
        }
    }

    /// The connection that a link runs over.
    pub(crate) fn of_link(&self, link: LinkId) -> Option<ConnId> {
        self.links.get(&link).copied()
    }

    /// Forgets a link's connection, which may then be closed.
    pub(crate) fn remove_link(&mut self, link: LinkId) -> Option<ConnId> {
        let id = self.links.remove(&link)?;
        self.slots.try_remove(usize::try_from(id.slot).ok()?)?;
        Some(id)
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
            self.clients -= 1;
        }
        left
    }

    /// Clients.
    pub(crate) fn len(&self) -> usize {
        self.clients
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
        if self.memory_queue.back() != Some(&id) && self.memory_queue.len() < 2 * self.clients.max(16) {
            self.memory_queue.push_back(id);
        }
    }

    /// A connection that may go on, if memory is there again.
    pub(crate) fn memory_returned(&mut self, limit: usize) -> Option<ConnId> {
        if self.bytes > limit / 2 { None } else { self.memory_queue.pop_front() }
    }
}
