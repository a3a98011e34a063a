//! The leader's side: subscriptions are checked against the own log, batches go to those who follow, what they report
//! moves high watermarks.

use wherry_wire::types::{LogId, Offset};

use super::leader::Source;
use super::limits::{MAX_EARLY_SUBSCRIPTIONS, MAX_SUBSCRIPTIONS_PER_LINK, READ_BYTES, READS_PER_TURN};
use super::message::{Alias, DataPart, LinkError, Message, Subscribe, Why};
use super::parts::{Duty, Key};
use super::session::{Class, Session};
use super::store::{LogError, LogInfo, Read, ReadToken, ReadUpTo, ReplicaStore, Served};
use super::{IsrChange, LinkId, Output, Replicas};
use crate::mutation::mutated;

/// What to do with a subscription.
enum Verdict {
    Serve(Key, LogInfo),
    /// The metadata here is behind: it is kept.
    Early,
    Refuse(Why),
    Diverged(wherry_wire::types::LeaderEpoch, Offset),
}

impl Replicas {
    pub(super) fn follower_says<S: ReplicaStore>(
        &mut self,
        store: &mut S,
        link: LinkId,
        message: Message,
    ) -> Result<(), LinkError> {
        self.dirty_session(link);
        match message {
            Message::Subscribe(list) => list.into_iter().try_for_each(|one| self.subscribe(store, link, one)),
            Message::Unsubscribe(list) => {
                list.into_iter().for_each(|alias| self.unsubscribe(link, alias));
                Ok(())
            }
            Message::Progress(list) => list.into_iter().try_for_each(|(alias, end)| self.progress(link, alias, end)),
            Message::Credit(bytes) => self.sessions.get_mut(&link).map_or(Ok(()), |s| s.granted(bytes)),
            Message::Data(_) | Message::Diverged { .. } | Message::Refused { .. } => {
                Err(LinkError("a follower sent what only a leader sends".into()))
            }
        }
    }

    fn subscribe<S: ReplicaStore>(&mut self, store: &mut S, link: LinkId, one: Subscribe) -> Result<(), LinkError> {
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        if session.subs.contains_key(&one.alias) || session.early.contains_key(&one.alias) {
            return Err(LinkError(format!("alias {} is used twice", one.alias)));
        }
        if session.subs.len() >= MAX_SUBSCRIPTIONS_PER_LINK {
            return Err(LinkError(format!("more than {MAX_SUBSCRIPTIONS_PER_LINK} subscriptions")));
        }
        let node = session.node;
        match self.judge(store, node, &one) {
            Verdict::Serve(key, info) => self.serve(link, key, &one, &info),
            Verdict::Early if self.early_count < MAX_EARLY_SUBSCRIPTIONS => {
                self.early_count += 1;
                self.early.entry(one.log).or_default().push((link, one.alias));
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.early.insert(one.alias, one);
                }
            }
            Verdict::Early => self.answer(link, Message::Refused { alias: one.alias, why: Why::UnknownEpoch }),
            Verdict::Refuse(why) => self.answer(link, Message::Refused { alias: one.alias, why }),
            Verdict::Diverged(epoch, end_offset) => {
                self.answer(link, Message::Diverged { alias: one.alias, epoch, end_offset });
            }
        }
        Ok(())
    }

    fn judge<S: ReplicaStore>(&mut self, store: &S, node: i32, one: &Subscribe) -> Verdict {
        let Some(key) = self.parts.key(one.log) else { return Verdict::Early };
        let Some(part) = self.parts.get(key) else { return Verdict::Early };
        let leader = match &part.duty {
            Duty::Follow(following) if following.role.leader_epoch < one.leader_epoch => return Verdict::Early,
            Duty::Follow(_) => return Verdict::Refuse(Why::NotLeader),
            Duty::Lead(leader) => leader,
        };
        match one.leader_epoch.cmp(&leader.role.leader_epoch) {
            std::cmp::Ordering::Less => return Verdict::Refuse(Why::FencedEpoch),
            std::cmp::Ordering::Greater => return Verdict::Early,
            std::cmp::Ordering::Equal => {}
        }
        if !leader.is_replica(node) {
            return Verdict::Refuse(Why::UnknownPartition);
        }
        let Some(info) = store.info(one.log) else { return Verdict::Refuse(Why::UnknownPartition) };
        match compare(store, &info, one) {
            None => Verdict::Serve(key, info),
            Some(verdict) => verdict,
        }
    }

    fn serve(&mut self, link: LinkId, key: Key, one: &Subscribe, info: &LogInfo) {
        let now_ns = self.now.monotonic_ns;
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let (node, incarnation) = (session.node, session.incarnation);
        session.subscribe(one.alias, key, one.log_end);
        let Some(leader) = self.parts.leader(key) else { return };
        leader.own_log(info.log_end, info.durable_end, now_ns);
        let source = Source { link, alias: one.alias };
        let former = leader.subscribed(node, source, incarnation, one.durable_end, now_ns);
        let in_sync = leader.is_in_sync(node);
        if let Some(session) = self.sessions.get_mut(&link) {
            session.enqueue(one.alias, in_sync);
        }
        if let Some(former) = former
            && let Some(session) = self.sessions.get_mut(&former.link)
        {
            session.subs.remove(&former.alias);
        }
        self.touch(key);
    }

    /// Subscriptions that waited for the metadata are looked at again.
    pub(super) fn retry_early<S: ReplicaStore>(&mut self, store: &mut S, id: LogId) {
        let Some(list) = self.early.remove(&id) else { return };
        self.early_count = self.early_count.saturating_sub(list.len());
        for (link, alias) in list {
            self.dirty_session(link);
            let Some(one) = self.sessions.get_mut(&link).and_then(|s| s.early.remove(&alias)) else { continue };
            if let Err(error) = self.subscribe(store, link, one) {
                self.drop_link(link, &error);
            }
        }
    }

    fn forget_early(&mut self, link: LinkId, log: LogId, alias: Alias) {
        let Some(list) = self.early.get_mut(&log) else { return };
        let before = list.len();
        list.retain(|one| *one != (link, alias));
        self.early_count = self.early_count.saturating_sub(before - list.len());
        if list.is_empty() {
            self.early.remove(&log);
        }
    }

    fn unsubscribe(&mut self, link: LinkId, alias: Alias) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let node = session.node;
        match session.subs.remove(&alias) {
            Some(sub) => {
                if let Some(leader) = self.parts.leader(sub.key) {
                    leader.unsubscribed(node, Source { link, alias });
                }
            }
            None => {
                if let Some(one) = session.early.remove(&alias) {
                    self.forget_early(link, one.log, alias);
                }
            }
        }
    }

    fn progress(&mut self, link: LinkId, alias: Alias, durable_end: Offset) -> Result<(), LinkError> {
        let now_ns = self.now.monotonic_ns;
        let Some(session) = self.sessions.get_mut(&link) else { return Ok(()) };
        if let Some(one) = session.early.get_mut(&alias) {
            one.durable_end = durable_end.min(one.log_end);
            return Ok(());
        }
        // A subscription that is over: its last words don't count any more.
        let Some(sub) = session.subs.get(&alias) else { return Ok(()) };
        if durable_end > sub.next {
            return Err(LinkError(format!("an end of {durable_end} where {} was sent", sub.next)));
        }
        let (key, node) = (sub.key, session.node);
        if let Some(leader) = self.parts.leader(key) {
            leader.progress(node, Source { link, alias }, durable_end, now_ns);
            self.touch(key);
        }
        Ok(())
    }

    /// Ends a subscription from this side.
    pub(super) fn refuse(&mut self, link: LinkId, alias: Alias, why: Why) {
        if let Some(session) = self.sessions.get_mut(&link)
            && session.subs.remove(&alias).is_some()
        {
            self.answer(link, Message::Refused { alias, why });
        }
    }

    fn answer(&mut self, link: LinkId, message: Message) {
        if let Some(session) = self.sessions.get_mut(&link) {
            session.answer(message);
            self.dirty_session(link);
        }
    }

    pub(super) fn session_gone(&mut self, link: LinkId, session: &Session) {
        for (alias, sub) in &session.subs {
            if let Some(leader) = self.parts.leader(sub.key) {
                leader.unsubscribed(session.node, Source { link, alias: *alias });
            }
        }
        for (alias, one) in &session.early {
            self.forget_early(link, one.log, *alias);
        }
    }

    fn dirty_session(&mut self, link: LinkId) {
        if let Some(session) = self.sessions.get_mut(&link).filter(|s| !s.dirty) {
            session.dirty = true;
            self.dirty_sessions.push(link);
        }
    }

    /// There is more to read of a partition: whoever follows it is served in turn.
    pub(super) fn offer(&mut self, key: Key) {
        self.each_source(key, Session::enqueue);
    }

    /// The high watermark or the start moved: whoever follows is told.
    pub(super) fn tell_news(&mut self, key: Key) {
        self.each_source(key, |session, alias, _| session.tell_news(alias));
    }

    fn each_source(&mut self, key: Key, mut with: impl FnMut(&mut Session, Alias, bool)) {
        let Some(leader) = self.parts.leader(key) else { return };
        for follower in leader.followers() {
            let Some(Source { link, alias }) = follower.source else { continue };
            let Some(session) = self.sessions.get_mut(&link) else { continue };
            with(session, alias, leader.is_in_sync(follower.node));
            if !session.dirty {
                session.dirty = true;
                self.dirty_sessions.push(link);
            }
        }
    }

    /// Looks at the led partitions that were touched.
    pub(super) fn settle_leaders<S: ReplicaStore>(&mut self, store: &S) {
        for key in std::mem::take(&mut self.touched) {
            self.settle_leader(store, key);
        }
    }

    fn settle_leader<S: ReplicaStore>(&mut self, store: &S, key: Key) {
        let (now_ns, lag_ns, lease_valid) = (self.now.monotonic_ns, self.lag_ns(), self.lease_valid);
        let due_ns = now_ns + self.watch_every_ns();
        let Some(part) = self.parts.get(key) else { return };
        part.touched = false;
        let Some(info) = store.info(part.id) else { return };
        let Duty::Lead(leader) = &mut part.duty else { return };
        leader.own_log(info.log_end, info.durable_end, now_ns);
        let moved = leader.advance(lease_valid);
        while let Some(wait) = leader.release(lease_valid) {
            self.out.push(Output::Released(wait));
        }
        if lease_valid && let Some(isr) = leader.propose(now_ns, lag_ns) {
            let (leader_epoch, partition_epoch) = (leader.role.leader_epoch, leader.role.partition_epoch);
            self.proposals.push(IsrChange { log: part.id, leader_epoch, partition_epoch, isr });
        }
        if !part.watched && leader.needs_watch() {
            part.watched = true;
            self.watch.push_back((due_ns, key));
        }
        if !lease_valid && !part.held {
            part.held = true;
            self.lease_waiters.push(key);
        }
        if moved {
            self.out.push(Output::HighWatermark(part.id));
            self.tell_news(key);
        }
    }

    /// Reads for those who follow, and sends.
    pub(super) fn serve_sessions<S: ReplicaStore>(&mut self, store: &mut S) {
        let now_ns = self.now.monotonic_ns;
        for (link, session) in &mut self.sessions {
            // Sessions are few: one per node that follows.
            if !session.dirty && session.next_deadline(now_ns).is_some_and(|at| at <= now_ns) {
                session.dirty = true;
                self.dirty_sessions.push(*link);
            }
        }
        let mut links = std::mem::take(&mut self.dirty_sessions);
        links.sort_unstable();
        for link in links {
            let Some(mut session) = self.sessions.remove(&link) else { continue };
            session.dirty = false;
            for _ in 0..READS_PER_TURN {
                let Some((alias, class)) = session.pick(now_ns) else { break };
                self.read_for(store, link, &mut session, alias, class);
            }
            self.send_news(store, &mut session);
            self.out.extend(session.flush().map(|chunks| Output::Send { link, chunks }));
            self.sessions.insert(link, session);
        }
    }

    fn read_for<S: ReplicaStore>(
        &mut self,
        store: &mut S,
        link: LinkId,
        session: &mut Session,
        alias: Alias,
        class: Class,
    ) {
        let max_bytes = session.room().min(READ_BYTES);
        let Some(sub) = session.subs.get_mut(&alias) else { return };
        let Some(id) = self.parts.get(sub.key).map(|part| part.id) else { return };
        match store.read(id, sub.next, ReadUpTo::Sealed, max_bytes, true) {
            Ok(Read::Ready(served)) => {
                sub.cold = false;
                self.send_served(store, session, alias, served, class == Class::Throttled);
            }
            Ok(Read::Pending(token)) => {
                (sub.reading, sub.cold) = (true, true);
                self.reads.insert(token, (link, alias, sub.next));
                session.cold_reads += 1;
            }
            Err(error) => self.read_failed(store, session, alias, &error),
        }
    }

    /// The answer to a read that this part of the node began; `Err(result)` gives back what belongs to somebody else.
    ///
    /// # Errors
    /// The token is not one of replication's: the result, for whoever asked.
    pub fn read_done<S: ReplicaStore>(
        &mut self,
        store: &mut S,
        token: ReadToken,
        result: Result<Served, LogError>,
    ) -> Result<(), Result<Served, LogError>> {
        let Some((link, alias, from)) = self.reads.remove(&token) else { return Err(result) };
        let Some(mut session) = self.sessions.remove(&link) else { return Ok(()) };
        session.cold_reads = session.cold_reads.saturating_sub(1);
        let current = session.subs.get_mut(&alias).filter(|sub| sub.reading && sub.next == from);
        if let Some(sub) = current {
            sub.reading = false;
            let key = sub.key;
            let throttled = self.parts.leader(key).is_some_and(|leader| !leader.is_in_sync(session.node));
            match result {
                Ok(served) => self.send_served(store, &mut session, alias, served, throttled),
                Err(error) => self.read_failed(store, &mut session, alias, &error),
            }
        }
        self.sessions.insert(link, session);
        self.dirty_session(link);
        Ok(())
    }

    fn send_served<S: ReplicaStore>(
        &mut self,
        store: &S,
        session: &mut Session,
        alias: Alias,
        served: Served,
        is_throttled: bool,
    ) {
        let Some(sub) = session.subs.get_mut(&alias) else { return };
        if served.batches.is_empty() || served.next <= sub.next {
            return;
        }
        let Some(part) = self.parts.get(sub.key) else { return };
        let Some(info) = store.info(part.id) else { return };
        let (from, next) = (sub.next, served.next);
        sub.next = next;
        let high_watermark = part.high_watermark();
        let in_sync = part.leader().is_some_and(|leader| leader.is_in_sync(session.node));
        let data = DataPart { alias, high_watermark, log_start: info.log_start, from, batches: served.batches };
        session.send(data, is_throttled);
        if next < info.log_end {
            session.enqueue(alias, in_sync);
        }
    }

    fn read_failed<S: ReplicaStore>(&mut self, store: &S, session: &mut Session, alias: Alias, error: &LogError) {
        let Some(key) = session.subs.get(&alias).map(|sub| sub.key) else { return };
        let Some(id) = self.parts.get(key).map(|part| part.id) else { return };
        let why = match error {
            LogError::OutOfRange { .. } => match store.info(id) {
                Some(info) => Why::OutOfRange { log_start: info.log_start },
                None => Why::UnknownPartition,
            },
            LogError::Corrupt(_) => {
                self.lose(key);
                Why::NotLeader
            }
            LogError::NoSuchLog(_) => Why::UnknownPartition,
            other => {
                tracing::debug!(log = %id, error = %other, "a read for a follower is tried again");
                session.pause(self.now.monotonic_ns);
                session.enqueue(alias, true);
                return;
            }
        };
        if session.subs.remove(&alias).is_some() {
            session.answer(Message::Refused { alias, why });
        }
    }

    /// High watermarks for those who got no batches.
    fn send_news<S: ReplicaStore>(&mut self, store: &S, session: &mut Session) {
        while let Some(alias) = session.take_news() {
            let Some(sub) = session.subs.get(&alias) else { continue };
            let Some(part) = self.parts.get(sub.key) else { continue };
            let Some(info) = store.info(part.id) else { continue };
            let (high_watermark, log_start) = (part.high_watermark(), info.log_start);
            session.send(DataPart { alias, high_watermark, log_start, from: sub.next, batches: Vec::new() }, false);
        }
    }

    /// The log is damaged.
    pub(super) fn lose(&mut self, key: Key) {
        if let Some(part) = self.parts.get(key) {
            self.out.push(Output::LogLost(part.id));
            if let Some(following) = part.following() {
                following.state = super::follower::State::Damaged;
            }
        }
    }
}

/// Where two logs part (KIP-101, KIP-279); `None` where the follower's is the beginning of the leader's.
fn compare<S: ReplicaStore>(store: &S, info: &LogInfo, one: &Subscribe) -> Option<Verdict> {
    let out_of_range = Some(Verdict::Refuse(Why::OutOfRange { log_start: info.log_start }));
    if one.log_end < info.log_start {
        return out_of_range;
    }
    if mutated!(NoDivergenceCheck) {
        return None;
    }
    let Some(last_epoch) = one.last_epoch else {
        return if one.log_end > info.log_end { out_of_range } else { None };
    };
    match store.epoch_end(one.log, last_epoch) {
        Some((epoch, end)) if epoch == last_epoch && one.log_end <= end => None,
        Some((epoch, end)) => Some(Verdict::Diverged(epoch, end)),
        // Nothing that old is left here, so nothing of the follower's can be compared: it starts again.
        None => out_of_range,
    }
}
