//! Share sessions: what a member reads from this node, so that its next request names only what changes. A session ends with
//! its connection, and with it what the member has is for others again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;
use wherry_wire::codec::ResponseError;

use crate::core::store::LogStore;
use crate::core::{ConnId, Core};
use crate::limits::{MAX_SHARE_SESSION_PARTITIONS, MAX_SHARE_SESSIONS};

/// A member of a group.
pub(crate) type SessionKey = (Arc<str>, Arc<str>);

/// The epoch of a request that begins a session.
const FIRST: i32 = 0;
/// That of one that ends it.
const LAST: i32 = -1;

#[derive(Debug)]
struct Session {
    conn: ConnId,
    /// That the next request must have.
    epoch: i32,
    partitions: BTreeSet<(Uuid, i32)>,
    /// With whom the next fetch begins, so that all have their turn.
    turn: usize,
}

#[derive(Debug, Default)]
pub(super) struct ShareSessions {
    sessions: BTreeMap<SessionKey, Session>,
    by_conn: BTreeMap<ConnId, BTreeSet<SessionKey>>,
    /// Of all sessions.
    partitions: usize,
}

/// What a request says of its session.
#[derive(Debug)]
pub(crate) struct SessionChange {
    pub(crate) epoch: i32,
    pub(crate) added: Vec<(Uuid, i32)>,
    pub(crate) forgotten: Vec<(Uuid, i32)>,
    /// It may begin a session.
    pub(crate) fetches: bool,
    pub(crate) acknowledges: bool,
}

impl SessionChange {
    /// Whether the session ends with this request.
    pub(crate) fn is_last(&self) -> bool {
        self.epoch == LAST
    }
}

impl ShareSessions {
    fn remove(&mut self, key: &SessionKey) -> bool {
        let Some(session) = self.sessions.remove(key) else { return false };
        self.partitions -= session.partitions.len();
        if let Some(keys) = self.by_conn.get_mut(&session.conn) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_conn.remove(&session.conn);
            }
        }
        true
    }

    fn has_group(&self, group: &Arc<str>) -> bool {
        let from = (Arc::clone(group), Arc::from(""));
        self.sessions.range(from..).next().is_some_and(|((of, _), _)| of == group)
    }

    fn begin(&mut self, conn: ConnId, key: &SessionKey, added: &[(Uuid, i32)]) -> Result<(), ResponseError> {
        if self.sessions.len() >= MAX_SHARE_SESSIONS || !self.has_room(added.len()) {
            return Err(ResponseError::ShareSessionLimitReached);
        }
        let partitions: BTreeSet<_> = added.iter().copied().collect();
        self.partitions += partitions.len();
        self.sessions.insert(key.clone(), Session { conn, epoch: 1, partitions, turn: 0 });
        self.by_conn.entry(conn).or_default().insert(key.clone());
        Ok(())
    }

    fn has_room(&self, more: usize) -> bool {
        self.partitions.saturating_add(more) <= MAX_SHARE_SESSION_PARTITIONS
    }

    fn go_on(&mut self, conn: ConnId, key: &SessionKey, change: &SessionChange) -> Result<(), ResponseError> {
        let has_room = self.has_room(change.added.len());
        let Some(session) = self.sessions.get_mut(key) else { return Err(ResponseError::ShareSessionNotFound) };
        if session.epoch != change.epoch {
            return Err(ResponseError::InvalidShareSessionEpoch);
        }
        if !has_room {
            return Err(ResponseError::ShareSessionLimitReached);
        }
        session.epoch = change.epoch.checked_add(1).unwrap_or(1);
        let before = session.partitions.len();
        session.partitions.extend(change.added.iter().copied());
        for partition in &change.forgotten {
            session.partitions.remove(partition);
        }
        self.partitions = self.partitions + session.partitions.len() - before;
        // A client that had to connect anew may go on before the end of its old connection was noticed.
        if session.conn != conn {
            let old = std::mem::replace(&mut session.conn, conn);
            if let Some(keys) = self.by_conn.get_mut(&old) {
                keys.remove(key);
            }
            self.by_conn.entry(conn).or_default().insert(key.clone());
        }
        Ok(())
    }

    /// What the member reads, beginning with another one each time.
    fn take_turn(&mut self, key: &SessionKey) -> Vec<(Uuid, i32)> {
        let Some(session) = self.sessions.get_mut(key) else { return Vec::new() };
        let mut all: Vec<_> = session.partitions.iter().copied().collect();
        session.turn = session.turn.wrapping_add(1);
        if let Some(first) = session.turn.checked_rem(all.len()) {
            all.rotate_left(first);
        }
        all
    }
}

impl<S: LogStore> Core<S> {
    /// A request of a member begins its session, or goes on with it. Gives the partitions that are read in it.
    ///
    /// # Errors
    /// The client begins a new session.
    pub(crate) fn share_session(
        &mut self,
        conn: ConnId,
        key: &SessionKey,
        change: &SessionChange,
    ) -> Result<Vec<(Uuid, i32)>, ResponseError> {
        let sessions = &mut self.shares.sessions;
        match change.epoch {
            FIRST if !change.fetches => return Err(ResponseError::InvalidShareSessionEpoch),
            FIRST if change.acknowledges => return Err(ResponseError::InvalidRequest),
            FIRST => {
                sessions.remove(key);
                sessions.begin(conn, key, &change.added)?;
            }
            LAST if sessions.sessions.contains_key(key) => return Ok(Vec::new()),
            LAST => return Err(ResponseError::ShareSessionNotFound),
            _ => sessions.go_on(conn, key, change)?,
        }
        Ok(if change.fetches { self.shares.sessions.take_turn(key) } else { Vec::new() })
    }

    /// A member reads no more from here.
    pub(super) fn end_share_session(&mut self, key: &SessionKey) {
        if !self.shares.sessions.remove(key) {
            return;
        }
        self.release_share_member(&key.0, &key.1);
        if !self.shares.sessions.has_group(&key.0) {
            self.retire_share_group(&key.0);
        }
    }

    /// A connection is gone, and with it the requests and the sessions of the members that used it.
    pub(crate) fn share_forget(&mut self, conn: ConnId) {
        self.forget_share_requests(conn);
        for key in self.shares.sessions.by_conn.remove(&conn).unwrap_or_default() {
            self.end_share_session(&key);
        }
    }
}
