//! The follower's side: partitions are subscribed to at their leaders, batches are verified and appended, what is durable
//! is reported, and logs that parted from the leader's are cut.

use wherry_wire::batch::{CheckedBatch, RawBatch, split};
use wherry_wire::types::{LeaderEpoch, Offset};

use super::follower::{Cut, Following, State};
use super::limits::SUBSCRIPTIONS_PER_TURN;
use super::message::{Alias, DataPart, LinkError, Message, Subscribe, Why};
use super::parts::Key;
use super::store::{LogError, ReplicaStore, Ticket};
use super::{Output, Replicas};
use crate::mutation::mutated;

impl Replicas {
    pub(super) fn join_fetcher(&mut self, leader: i32, key: Key) {
        let fetcher = self.fetchers.entry(leader).or_default();
        self.wants_moved |= fetcher.members.is_empty();
        fetcher.members.insert(key);
        self.want_subscription(key);
    }

    /// A partition is to be asked for as soon as there is a link.
    pub(super) fn want_subscription(&mut self, key: Key) {
        let Some(following) = self.parts.following(key).filter(|f| f.state == State::Unlinked) else { return };
        let Some(leader) = following.role.leader else { return };
        if let Some(fetcher) = self.fetchers.get_mut(&leader).filter(|f| f.link.is_some()) {
            fetcher.to_subscribe.push_back(key);
            self.dirty_fetcher(leader);
        }
    }

    pub(super) fn dirty_fetcher(&mut self, node: i32) {
        if let Some(fetcher) = self.fetchers.get_mut(&node).filter(|f| !f.dirty) {
            fetcher.dirty = true;
            self.dirty_fetchers.push(node);
        }
    }

    pub(super) fn end_following(&mut self, key: Key, following: &Following) {
        let Some(leader) = following.role.leader else { return };
        let Some(fetcher) = self.fetchers.get_mut(&leader) else { return };
        fetcher.members.remove(&key);
        self.wants_moved |= fetcher.members.is_empty();
        if let (State::Streaming(alias), Some(link)) = (following.state, &mut fetcher.link) {
            link.forget(alias);
            self.dirty_fetcher(leader);
        }
    }

    pub(super) fn fetch_link_gone(&mut self, node: i32) {
        let Some(fetcher) = self.fetchers.get_mut(&node) else { return };
        fetcher.to_subscribe.clear();
        let Some(link) = fetcher.link.take() else { return };
        for key in link.aliases.values() {
            if let Some(following) = self.parts.following(*key)
                && matches!(following.state, State::Streaming(_))
            {
                following.state = State::Unlinked;
            }
        }
        self.wants_moved = true;
    }

    pub(super) fn leader_says<S: ReplicaStore>(
        &mut self,
        store: &mut S,
        node: i32,
        message: Message,
    ) -> Result<(), LinkError> {
        self.dirty_fetcher(node);
        match message {
            Message::Data(parts) => parts.into_iter().try_for_each(|part| self.data(store, node, part)),
            Message::Diverged { alias, epoch, end_offset } => self.diverged(store, node, alias, epoch, end_offset),
            Message::Refused { alias, why } => {
                self.refused(store, node, alias, why);
                Ok(())
            }
            Message::Subscribe(_) | Message::Unsubscribe(_) | Message::Progress(_) | Message::Credit(_) => {
                Err(LinkError("a leader sent what only a follower sends".into()))
            }
        }
    }

    fn data<S: ReplicaStore>(&mut self, store: &mut S, node: i32, part: DataPart) -> Result<(), LinkError> {
        let window = self.config.link_window_bytes;
        let Some(link) = self.link_of(node) else { return Ok(()) };
        if !link.held.is_empty() {
            return link.hold(part, window);
        }
        match self.take(store, node, part)? {
            None => Ok(()),
            Some(part) => self.link_of(node).map_or(Ok(()), |link| link.hold(part, window)),
        }
    }

    fn link_of(&mut self, node: i32) -> Option<&mut super::fetcher::Link> {
        self.fetchers.get_mut(&node)?.link.as_mut()
    }

    /// Appends what came. Gives it back while the disk has no room.
    fn take<S: ReplicaStore>(
        &mut self,
        store: &mut S,
        node: i32,
        part: DataPart,
    ) -> Result<Option<DataPart>, LinkError> {
        let Some(link) = self.link_of(node) else { return Ok(None) };
        // What is on its way for a subscription that is over is dropped; its credit comes back all the same.
        let Some(key) = link.aliases.get(&part.alias).copied() else {
            link.consumed(part.len());
            return Ok(None);
        };
        if !part.is_empty() && !self.append(store, key, &part)? {
            return Ok(Some(part));
        }
        if let Some(link) = self.link_of(node) {
            link.consumed(part.len());
        }
        if let Some(following) = self.parts.following(key) {
            following.heard(part.high_watermark, part.log_start);
            self.refresh(store, key);
        }
        if mutated!(FollowerEndNotDurable) {
            self.own_end_moved(store, key);
        }
        Ok(None)
    }

    /// Whether the batches are dealt with: appended, or in vain.
    fn append<S: ReplicaStore>(&mut self, store: &mut S, key: Key, part: &DataPart) -> Result<bool, LinkError> {
        let Some(owned) = self.parts.get(key) else { return Ok(true) };
        let id = owned.id;
        let Some(following) = owned.following() else { return Ok(true) };
        let Some(info) = store.info(id) else { return Ok(true) };
        if part.from != info.log_end {
            return Err(LinkError(format!(
                "log {id}: batches from {} where the log ends at {}",
                part.from, info.log_end
            )));
        }
        let batches = check(part, following.role.leader_epoch)?;
        match store.append_replica(id, &batches, self.now.wall_ms) {
            Ok(_) => Ok(true),
            Err(LogError::Busy { .. } | LogError::Full { .. }) => Ok(false),
            Err(LogError::Corrupt(_)) => {
                self.end_subscription(key, part.alias);
                self.lose(key);
                Ok(true)
            }
            Err(error @ (LogError::NoSuchLog(_) | LogError::ReadOnly(_))) => {
                tracing::warn!(log = %id, %error, "a replica takes nothing more");
                self.end_subscription(key, part.alias);
                if let Some(following) = self.parts.following(key) {
                    following.state = State::Damaged;
                }
                Ok(true)
            }
            Err(error) => Err(LinkError(format!("log {id}: {error}"))),
        }
    }

    fn end_subscription(&mut self, key: Key, alias: Alias) {
        let leader = self.parts.following(key).and_then(|f| f.role.leader);
        if let Some(link) = leader.and_then(|leader| self.link_of(leader)) {
            link.forget(alias);
        }
    }

    /// There is room on the disk again (`Event::Room`, `Event::Full(false)`).
    pub fn room(&mut self) {
        let held = |f: &super::fetcher::Fetcher| f.link.as_ref().is_some_and(|link| !link.held.is_empty());
        let nodes: Vec<i32> = self.fetchers.iter().filter(|(_, f)| held(f)).map(|(node, _)| *node).collect();
        nodes.into_iter().for_each(|node| self.dirty_fetcher(node));
    }

    fn take_held<S: ReplicaStore>(&mut self, store: &mut S, node: i32) -> Result<(), LinkError> {
        while let Some(part) = self.link_of(node).and_then(super::fetcher::Link::take_held) {
            if let Some(part) = self.take(store, node, part)? {
                if let Some(link) = self.link_of(node) {
                    link.put_back(part);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// The subscription under an alias, taken off the link: its leader has ended it.
    fn ended(&mut self, node: i32, alias: Alias) -> Option<Key> {
        let key = self.link_of(node)?.ended(alias)?;
        let following = self.parts.following(key)?;
        following.state = State::Unlinked;
        Some(key)
    }

    fn diverged<S: ReplicaStore>(
        &mut self,
        store: &mut S,
        node: i32,
        alias: Alias,
        epoch: LeaderEpoch,
        leaders_end: Offset,
    ) -> Result<(), LinkError> {
        let Some(key) = self.ended(node, alias) else { return Ok(()) };
        let Some(part) = self.parts.get(key) else { return Ok(()) };
        let id = part.id;
        let (Some(info), Some(following)) = (store.info(id), part.following()) else { return Ok(()) };
        let own = store.epoch_end(id, epoch).map(|(_, end)| end);
        if mutated!(ForgetTruncation) {
            self.pause(key);
            return Ok(());
        }
        match following.divergence(&info, leaders_end, own) {
            Cut::To(to) => {
                tracing::info!(log = %id, %to, was = %info.log_end, "a replica drops what its leader doesn't have");
                let cut = store.truncate(id, to);
                self.cut_begun(key, to, cut);
                Ok(())
            }
            Cut::Nothing => Err(LinkError(format!("log {id}: told to cut at {leaders_end}, ends at {}", info.log_end))),
        }
    }

    fn refused<S: ReplicaStore>(&mut self, store: &mut S, node: i32, alias: Alias, why: Why) {
        let Some(key) = self.ended(node, alias) else { return };
        match why {
            Why::OutOfRange { log_start } => {
                let Some(id) = self.parts.get(key).map(|part| part.id) else { return };
                tracing::info!(log = %id, %log_start, "a replica starts again where its leader's log starts");
                let cut = store.restart_log_at(id, log_start);
                self.cut_begun(key, log_start, cut);
            }
            Why::NotLeader | Why::UnknownPartition | Why::FencedEpoch | Why::UnknownEpoch => self.pause(key),
        }
    }

    fn pause(&mut self, key: Key) {
        let now_ns = self.now.monotonic_ns;
        let Some(following) = self.parts.following(key) else { return };
        let until = now_ns.saturating_add(following.next_pause());
        following.state = State::Pausing(until);
        self.retries.push(std::cmp::Reverse((until, key)));
    }

    fn cut_begun(&mut self, key: Key, to: Offset, cut: Result<Ticket, LogError>) {
        let Some(part) = self.parts.get(key) else { return };
        let id = part.id;
        let Some(following) = part.following() else { return };
        if following.high_watermark().is_some_and(|hw| to < hw) {
            tracing::warn!(log = %id, %to, "records that were known as committed are dropped: an election was unclean");
        }
        match cut {
            Ok(ticket) => {
                following.cut(to);
                following.state = State::Truncating(ticket);
                self.await_cut(ticket, key);
            }
            Err(error) => {
                tracing::error!(log = %id, %error, "a replica can't be cut");
                self.pause(key);
            }
        }
    }

    /// What is cut is on disk before anything else happens to the log.
    pub(super) fn await_cut(&mut self, ticket: Ticket, key: Key) {
        if self.durable >= Some(ticket) {
            return self.cut_durable(ticket, key);
        }
        let at = self.cuts.iter().rposition(|(t, _)| *t <= ticket).map_or(0, |i| i + 1);
        self.cuts.insert(at, (ticket, key));
    }

    pub(super) fn cut_durable(&mut self, ticket: Ticket, key: Key) {
        let cut = self.parts.following(key).filter(|f| f.state == State::Truncating(ticket));
        if let Some(following) = cut {
            following.state = State::Unlinked;
            self.want_subscription(key);
        }
    }

    /// The own durable end moved: the leader is told in this turn.
    pub(super) fn own_end_moved<S: ReplicaStore>(&mut self, store: &mut S, key: Key) {
        self.refresh(store, key);
        let Some(following) = self.parts.following(key) else { return };
        if following.has_news || !matches!(following.state, State::Streaming(_)) {
            return;
        }
        let Some(leader) = following.role.leader else { return };
        following.has_news = true;
        if let Some(fetcher) = self.fetchers.get_mut(&leader) {
            fetcher.news.push(key);
            self.dirty_fetcher(leader);
        }
    }

    /// Takes over what the leader said, as far as the own disk has it.
    fn refresh<S: ReplicaStore>(&mut self, store: &mut S, key: Key) {
        let Some(part) = self.parts.get(key) else { return };
        let id = part.id;
        let (Some(info), Some(following)) = (store.info(id), part.following()) else { return };
        if following.advance(info.durable_end) {
            self.out.push(Output::HighWatermark(id));
        }
        let start = following.leader_start.min(info.durable_end);
        if start > info.log_start
            && let Err(error) = store.delete_records(id, start)
        {
            tracing::debug!(log = %id, %error, "a replica keeps what its leader deleted");
        }
    }

    /// Asks, reports, gives credit.
    pub(super) fn serve_fetchers<S: ReplicaStore>(&mut self, store: &mut S) {
        let mut nodes = std::mem::take(&mut self.dirty_fetchers);
        nodes.sort_unstable();
        for node in nodes {
            let Some(fetcher) = self.fetchers.get_mut(&node) else { continue };
            fetcher.dirty = false;
            let held = self.take_held(store, node);
            self.report(store, node);
            self.ask(store, node);
            self.flush_fetcher(node);
            if let Err(error) = held
                && let Some(link) = self.link_of(node).map(|link| link.id)
            {
                self.drop_link(link, &error);
            }
        }
    }

    fn report<S: ReplicaStore>(&mut self, store: &S, node: i32) {
        let Some(fetcher) = self.fetchers.get_mut(&node) else { return };
        for key in std::mem::take(&mut fetcher.news) {
            let Some(part) = self.parts.get(key) else { continue };
            let id = part.id;
            let Some(following) = part.following() else { continue };
            following.has_news = false;
            let (State::Streaming(alias), Some(info)) = (following.state, store.info(id)) else { continue };
            let end = if mutated!(FollowerEndNotDurable) { info.log_end } else { info.durable_end };
            if let Some(link) = self.link_of(node) {
                link.report(alias, end);
            }
        }
    }

    fn ask<S: ReplicaStore>(&mut self, store: &S, node: i32) {
        for _ in 0..SUBSCRIPTIONS_PER_TURN {
            let Some(key) = self.fetchers.get_mut(&node).and_then(|f| f.to_subscribe.pop_front()) else { return };
            self.ask_for(store, node, key);
        }
        self.dirty_fetcher(node);
    }

    fn ask_for<S: ReplicaStore>(&mut self, store: &S, node: i32, key: Key) {
        let Some(part) = self.parts.get(key) else { return };
        let id = part.id;
        let Some(following) = part.following().filter(|f| f.state == State::Unlinked) else { return };
        let leader_epoch = following.role.leader_epoch;
        let Some(info) = store.info(id) else { return self.pause(key) };
        let Some(alias) = self.link_of(node).and_then(|link| link.new_alias(key)) else { return };
        if let Some(following) = self.parts.following(key) {
            following.state = State::Streaming(alias);
        }
        let subscribe = Subscribe {
            alias,
            log: id,
            leader_epoch,
            log_end: info.log_end,
            last_epoch: info.leader_epoch,
            durable_end: info.durable_end,
            log_start: info.log_start,
        };
        if let Some(link) = self.link_of(node) {
            link.ask(subscribe);
        }
    }

    fn flush_fetcher(&mut self, node: i32) {
        let window = self.config.link_window_bytes;
        let Some(link) = self.link_of(node) else { return };
        let id = link.id;
        let messages = link.flush(window);
        self.out.extend(messages.iter().map(|m| Output::Send { link: id, chunks: m.encode() }));
    }
}

/// The batches of one part: whole, undamaged (INV-6), in order, and of no later epoch than the leader's.
fn check(part: &DataPart, leader_epoch: LeaderEpoch) -> Result<Vec<CheckedBatch>, LinkError> {
    let mut batches = Vec::new();
    let mut next = part.from;
    for raw in part.batches.iter().cloned().flat_map(split) {
        let batch = raw.and_then(RawBatch::check).map_err(|error| LinkError(error.to_string()))?;
        let header = batch.header();
        if header.base_offset < next || header.leader_epoch > leader_epoch {
            return Err(LinkError(format!(
                "a batch at {} of epoch {} where {next} of epoch {leader_epoch} at the most belongs",
                header.base_offset, header.leader_epoch
            )));
        }
        next = header.next_offset();
        batches.push(batch);
    }
    Ok(batches)
}
