//! Fetch sessions (KIP-227): what a consumer fetches is remembered, so that its next request names only what changed and
//! the response only what is new. Bounded in number and in partitions; without room a client is served without one.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use uuid::Uuid;
use wherry_wire::codec::StrBytes;

use crate::limits::{FETCH_SESSION_MIN_IDLE_MS, Limits};

/// How a request names a topic: by name up to version 12, by id from 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TopicRef {
    Name(StrBytes),
    Id(Uuid),
}

/// What a client wants of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicRef,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) max_bytes: i32,
    pub(crate) leader_epoch: i32,
}

/// What the client was told last: only differences are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Told {
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
}

#[derive(Debug)]
struct Member {
    wanted: Wanted,
    told: Option<Told>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    by_ids: bool,
    members: Vec<Member>,
    index: HashMap<(TopicRef, i32), usize, RandomState>,
    /// Where the next response starts, so that every partition has its turn.
    start: usize,
    used_ns: u64,
}

/// What a request says about its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionRequest {
    /// No session wanted; one of that id ends.
    None { ends: i32 },
    /// A new one; one of that id ends.
    New { ends: i32 },
    /// The next fetch of this one.
    Next { id: i32, epoch: i32 },
}

impl SessionRequest {
    pub(crate) fn new(id: i32, epoch: i32) -> Self {
        match epoch {
            -1 => Self::None { ends: id },
            0 => Self::New { ends: id },
            epoch => Self::Next { id, epoch },
        }
    }
}

/// Why a session can't go on; the client starts a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionError {
    NotFound,
    WrongEpoch,
    /// It began with names and goes on with ids, or the reverse.
    TopicIds,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    sessions: HashMap<i32, Session, RandomState>,
    members: usize,
    last_id: i32,
}

impl Sessions {
    pub(crate) fn new(seed: i32) -> Self {
        Self { sessions: HashMap::default(), members: 0, last_id: seed & i32::MAX }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn end(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.members -= session.members.len();
        }
    }

    /// Begins a session over these partitions; `None` if there is no room.
    pub(crate) fn begin(&mut self, wanted: &[Wanted], by_ids: bool, limits: &Limits, now_ns: u64) -> Option<i32> {
        self.make_room(wanted.len(), limits, now_ns)?;
        let id = self.free_id();
        let mut session = Session {
            epoch: 1,
            by_ids,
            members: Vec::with_capacity(wanted.len()),
            index: HashMap::default(),
            start: 0,
            used_ns: now_ns,
        };
        for one in wanted {
            session.want(one.clone());
        }
        self.members += session.members.len();
        self.sessions.insert(id, session);
        Some(id)
    }

    fn make_room(&mut self, members: usize, limits: &Limits, now_ns: u64) -> Option<()> {
        while self.sessions.len() >= limits.fetch_sessions
            || self.members.saturating_add(members) > limits.fetch_session_partitions
        {
            let (&idle, session) = self.sessions.iter().min_by_key(|(id, s)| (s.used_ns, **id))?;
            if now_ns.saturating_sub(session.used_ns) < FETCH_SESSION_MIN_IDLE_MS * 1_000_000 {
                return None;
            }
            self.end(idle);
        }
        Some(())
    }

    fn free_id(&mut self) -> i32 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1).max(1);
            if !self.sessions.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Goes on with a session: adds or changes `wanted`, drops `forgotten`. Gives all it holds, in the order of their
    /// turn, with what the client knows.
    pub(crate) fn next(
        &mut self,
        id: i32,
        epoch: i32,
        by_ids: Option<bool>,
        changes: (Vec<Wanted>, Vec<(TopicRef, i32)>),
        limits: &Limits,
        now_ns: u64,
    ) -> Result<Vec<(Wanted, Option<Told>)>, SessionError> {
        let session = self.sessions.get_mut(&id).ok_or(SessionError::NotFound)?;
        if session.epoch != epoch {
            return Err(SessionError::WrongEpoch);
        }
        if by_ids.is_some_and(|by_ids| by_ids != session.by_ids) {
            return Err(SessionError::TopicIds);
        }
        let (wanted, forgotten) = changes;
        let before = session.members.len();
        for key in forgotten {
            session.forget(&key);
        }
        for one in wanted {
            session.want(one);
        }
        session.epoch = epoch.checked_add(1).unwrap_or(1);
        session.used_ns = now_ns;
        let all = session.in_turn();
        self.members = self.members - before + session.members.len();
        if self.members > limits.fetch_session_partitions {
            // Grown past the bound by additions: the client begins again, with or without a session.
            self.end(id);
            return Err(SessionError::NotFound);
        }
        Ok(all)
    }

    /// Remembers what a response told.
    pub(crate) fn told(&mut self, id: i32, topic: &TopicRef, partition: i32, told: Option<Told>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(&at) = session.index.get(&(topic.clone(), partition)) else { return };
        if let Some(member) = session.members.get_mut(at) {
            member.told = told;
        }
    }
}

impl Session {
    fn want(&mut self, wanted: Wanted) {
        let key = (wanted.topic.clone(), wanted.partition);
        match self.index.get(&key).and_then(|&at| self.members.get_mut(at)) {
            Some(member) => member.wanted = wanted,
            None => {
                self.index.insert(key, self.members.len());
                self.members.push(Member { wanted, told: None });
            }
        }
    }

    fn forget(&mut self, key: &(TopicRef, i32)) {
        let Some(at) = self.index.remove(key) else { return };
        self.members.swap_remove(at);
        if let Some(moved) = self.members.get(at) {
            self.index.insert((moved.wanted.topic.clone(), moved.wanted.partition), at);
        }
    }

    fn in_turn(&mut self) -> Vec<(Wanted, Option<Told>)> {
        let count = self.members.len();
        self.start = if count == 0 { 0 } else { (self.start + 1) % count };
        let (first, second) = self.members.split_at(self.start.min(count));
        second.iter().chain(first).map(|m| (m.wanted.clone(), m.told)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(n: i32) -> Wanted {
        let topic = TopicRef::Name(StrBytes::from_static_str("t"));
        Wanted { topic, partition: n, offset: 0, max_bytes: 1, leader_epoch: -1 }
    }

    fn partitions(all: &[(Wanted, Option<Told>)]) -> Vec<i32> {
        let mut all: Vec<i32> = all.iter().map(|(w, _)| w.partition).collect();
        all.sort_unstable();
        all
    }

    fn limits(sessions: usize, members: usize) -> Limits {
        Limits { fetch_sessions: sessions, fetch_session_partitions: members, ..Limits::default() }
    }

    #[test]
    fn epochs_and_changes() {
        let limits = limits(10, 100);
        let mut sessions = Sessions::new(0);
        let id = sessions.begin(&[wanted(0), wanted(1)], false, &limits, 0).unwrap();
        let none = || (Vec::new(), Vec::new());
        assert_eq!(sessions.next(id, 2, None, none(), &limits, 0).unwrap_err(), SessionError::WrongEpoch);
        assert_eq!(sessions.next(id, 1, Some(true), none(), &limits, 0).unwrap_err(), SessionError::TopicIds);
        assert_eq!(sessions.next(id + 1, 1, None, none(), &limits, 0).unwrap_err(), SessionError::NotFound);
        let changes = (vec![wanted(2)], vec![(wanted(0).topic, 0)]);
        assert_eq!(partitions(&sessions.next(id, 1, None, changes, &limits, 0).unwrap()), [1, 2]);
        assert_eq!(partitions(&sessions.next(id, 2, None, none(), &limits, 0).unwrap()), [1, 2]);
        sessions.end(id);
        assert_eq!(sessions.next(id, 3, None, none(), &limits, 0).unwrap_err(), SessionError::NotFound);
        assert_eq!(sessions.members, 0);
    }

    #[test]
    fn every_partition_comes_first_in_its_turn() {
        let limits = limits(10, 100);
        let mut sessions = Sessions::new(0);
        let all: Vec<_> = (0..4).map(wanted).collect();
        let id = sessions.begin(&all, false, &limits, 0).unwrap();
        let mut first = Vec::new();
        for epoch in 1..=4 {
            let members = sessions.next(id, epoch, None, (Vec::new(), Vec::new()), &limits, 0).unwrap();
            first.push(members[0].0.partition);
        }
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2, 3]);
    }

    #[test]
    fn bounded_in_sessions_and_partitions() {
        let limits = limits(2, 3);
        let idle = FETCH_SESSION_MIN_IDLE_MS * 1_000_000;
        let mut sessions = Sessions::new(i32::MAX);
        let a = sessions.begin(&[wanted(0)], false, &limits, 0).unwrap();
        assert!(sessions.begin(&[wanted(0), wanted(1), wanted(2)], false, &limits, 1).is_none(), "too many partitions");
        let b = sessions.begin(&[wanted(0)], false, &limits, 5).unwrap();
        assert_ne!(a, b);
        assert!(sessions.begin(&[wanted(0)], false, &limits, 5).is_none(), "both are in use");
        let c = sessions.begin(&[wanted(0)], false, &limits, idle).unwrap();
        assert!(sessions.next(a, 1, None, (Vec::new(), Vec::new()), &limits, idle).is_err(), "the idle one made room");
        let more = (vec![wanted(1), wanted(2)], Vec::new());
        assert_eq!(sessions.next(c, 1, None, more, &limits, idle).unwrap_err(), SessionError::NotFound);
        assert_eq!((sessions.len(), sessions.members), (1, 1));
    }
}
