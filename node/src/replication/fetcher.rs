//! One data link, as the follower sees it: which partitions follow over it, under which aliases, what is still to be
//! asked and said, and the credit that it gives. It knows neither logs nor epochs.

use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::LinkId;
use super::limits::{ENTRIES_PER_MESSAGE, HELD_SLACK_BYTES};
use super::message::{Alias, DataPart, LinkError, Message, Subscribe};
use super::parts::Key;
use wherry_wire::types::Offset;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) aliases: HashMap<Alias, Key, RandomState>,
    next_alias: Alias,
    /// Credit to give back.
    owed: u64,
    subscribe: Vec<Subscribe>,
    unsubscribe: Vec<Alias>,
    progress: Vec<(Alias, Offset)>,
    /// Data that the disk has no room for yet, in order.
    pub(super) held: VecDeque<DataPart>,
    held_bytes: usize,
}

/// Everything that this node follows from one other node.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    pub(super) members: BTreeSet<Key>,
    pub(super) link: Option<Link>,
    /// To be asked for.
    pub(super) to_subscribe: VecDeque<Key>,
    /// Whose durable end moved.
    pub(super) news: Vec<Key>,
    /// In the list of fetchers with work.
    pub(super) dirty: bool,
}

impl Link {
    /// A new link, on which a window of so many bytes is granted.
    pub(super) fn new(id: LinkId, window: u32) -> Self {
        Self {
            id,
            aliases: HashMap::default(),
            next_alias: 0,
            owed: u64::from(window),
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            progress: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// A name that was never used on this link; `None` when they are used up.
    pub(super) fn new_alias(&mut self, key: Key) -> Option<Alias> {
        let alias = self.next_alias;
        self.next_alias = alias.checked_add(1)?;
        self.aliases.insert(alias, key);
        Some(alias)
    }

    pub(super) fn ask(&mut self, subscribe: Subscribe) {
        self.subscribe.push(subscribe);
    }

    pub(super) fn forget(&mut self, alias: Alias) {
        if self.aliases.remove(&alias).is_some() {
            self.unsubscribe.push(alias);
        }
    }

    /// The leader ended a subscription itself.
    pub(super) fn ended(&mut self, alias: Alias) -> Option<Key> {
        self.aliases.remove(&alias)
    }

    pub(super) fn report(&mut self, alias: Alias, durable_end: Offset) {
        self.progress.push((alias, durable_end));
    }

    /// So many bytes were dealt with.
    pub(super) fn consumed(&mut self, bytes: usize) {
        self.owed += bytes as u64;
    }

    /// Keeps data until there is room.
    pub(super) fn hold(&mut self, part: DataPart, window: u32) -> Result<(), LinkError> {
        self.held_bytes += part.len();
        self.held.push_back(part);
        if self.held_bytes > window as usize + HELD_SLACK_BYTES {
            return Err(LinkError(format!("the leader sent {} bytes more than it may", self.held_bytes)));
        }
        Ok(())
    }

    pub(super) fn take_held(&mut self) -> Option<DataPart> {
        let part = self.held.pop_front()?;
        self.held_bytes = self.held_bytes.saturating_sub(part.len());
        Some(part)
    }

    /// Still no room.
    pub(super) fn put_back(&mut self, part: DataPart) {
        self.held_bytes += part.len();
        self.held.push_front(part);
    }

    /// All that goes out in this turn. Credit goes out in pieces that are worth a message; what stays is less than the
    /// window, so the leader always has some.
    pub(super) fn flush(&mut self, window: u32) -> Vec<Message> {
        let mut out = Vec::new();
        split(&mut out, &mut self.unsubscribe, Message::Unsubscribe);
        split(&mut out, &mut self.subscribe, Message::Subscribe);
        split(&mut out, &mut self.progress, Message::Progress);
        if self.owed > 0 && self.owed >= u64::from(window / 8) {
            let bytes = u32::try_from(self.owed).unwrap_or(u32::MAX);
            self.owed -= u64::from(bytes);
            out.push(Message::Credit(bytes));
        }
        out
    }
}

fn split<T: Clone>(out: &mut Vec<Message>, list: &mut Vec<T>, message: impl Fn(Vec<T>) -> Message) {
    out.extend(list.chunks(ENTRIES_PER_MESSAGE).map(|part| message(part.to_vec())));
    list.clear();
}
