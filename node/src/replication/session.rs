//! One data link, as the leader of partitions sees it: what a node follows here, in which order it is served, and how
//! much may be on its way. It knows neither logs nor in-sync sets.
//!
//! Partitions are served in turn, a bounded read each. Those whose records are still in memory (live) go before those
//! that need the disk (cold) and those that are only catching up (throttled), but one read in a few goes to the latter,
//! and they leave a part of the window to the live ones: neither starves.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::RandomState;
use uuid::Uuid;
use wherry_wire::types::Offset;

use super::limits::{COLD_EVERY, COLD_READS_PER_LINK, DATA_MESSAGE_BYTES, MAX_CREDIT_BYTES, READ_RETRY_NS};
use super::message::{Alias, DataPart, LinkError, Message, Subscribe};
use super::parts::Key;

/// One partition that the node follows.
#[derive(Debug)]
pub(super) struct Sub {
    pub(super) key: Key,
    /// Where to read next.
    pub(super) next: Offset,
    /// In a queue.
    queued: bool,
    /// A read is under way.
    pub(super) reading: bool,
    /// The last read needed the disk.
    pub(super) cold: bool,
    /// In the list of those with news of the high watermark.
    has_news: bool,
}

/// Which queue a partition waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Live,
    Cold,
    Throttled,
}

/// Bytes per second for replicas that catch up (KIP-73).
#[derive(Debug)]
struct Bucket {
    bytes_per_s: u64,
    tokens: i64,
    filled_ns: u64,
}

impl Bucket {
    fn fill(&mut self, now_ns: u64) {
        let elapsed = u128::from(now_ns.saturating_sub(self.filled_ns));
        let earned = i64::try_from(elapsed * u128::from(self.bytes_per_s) / 1_000_000_000).unwrap_or(i64::MAX);
        if earned > 0 {
            let most = i64::try_from(self.bytes_per_s).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(most);
            self.filled_ns = now_ns;
        }
    }

    fn ready_at(&self) -> u64 {
        let missing = u128::from(self.tokens.min(0).unsigned_abs()) + 1;
        let wait = missing * 1_000_000_000 / u128::from(self.bytes_per_s.max(1)) + 1;
        self.filled_ns.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: i32,
    pub(super) incarnation: Uuid,
    pub(super) subs: HashMap<Alias, Sub, RandomState>,
    /// Subscriptions that are ahead of the metadata here.
    pub(super) early: HashMap<Alias, Subscribe, RandomState>,
    credit: i64,
    /// The most credit there was: the window.
    window: i64,
    live: VecDeque<Alias>,
    cold: VecDeque<Alias>,
    throttled: VecDeque<Alias>,
    picks: u32,
    pub(super) cold_reads: usize,
    bucket: Option<Bucket>,
    /// Reads failed: none before this.
    pause_until_ns: u64,
    /// Subscriptions whose high watermark or log start moved.
    news: Vec<Alias>,
    data: Vec<DataPart>,
    data_bytes: usize,
    ready: Vec<Message>,
    /// In the list of sessions with work.
    pub(super) dirty: bool,
}

impl Session {
    pub(super) fn new(node: i32, incarnation: Uuid, throttle: Option<u64>, now_ns: u64) -> Self {
        Self {
            node,
            incarnation,
            subs: HashMap::default(),
            early: HashMap::default(),
            credit: 0,
            window: 0,
            live: VecDeque::new(),
            cold: VecDeque::new(),
            throttled: VecDeque::new(),
            picks: 0,
            cold_reads: 0,
            bucket: throttle.map(|bytes_per_s| Bucket { bytes_per_s, tokens: 0, filled_ns: now_ns }),
            pause_until_ns: 0,
            news: Vec::new(),
            data: Vec::new(),
            data_bytes: 0,
            ready: Vec::new(),
            dirty: false,
        }
    }

    pub(super) fn granted(&mut self, bytes: u32) -> Result<(), LinkError> {
        self.credit += i64::from(bytes);
        if self.credit > MAX_CREDIT_BYTES {
            return Err(LinkError(format!("{} bytes of credit", self.credit)));
        }
        self.window = self.window.max(self.credit);
        Ok(())
    }

    pub(super) fn subscribe(&mut self, alias: Alias, key: Key, next: Offset) {
        let sub = Sub { key, next, queued: false, reading: false, cold: false, has_news: false };
        self.subs.insert(alias, sub);
        self.tell_news(alias);
    }

    /// There may be something to read for a subscription.
    pub(super) fn enqueue(&mut self, alias: Alias, in_sync: bool) {
        let throttles = self.bucket.is_some();
        let Some(sub) = self.subs.get_mut(&alias).filter(|s| !s.queued && !s.reading) else { return };
        sub.queued = true;
        let class = match sub.cold {
            _ if throttles && !in_sync => Class::Throttled,
            true => Class::Cold,
            false => Class::Live,
        };
        self.queue(class).push_back(alias);
    }

    fn queue(&mut self, class: Class) -> &mut VecDeque<Alias> {
        match class {
            Class::Live => &mut self.live,
            Class::Cold => &mut self.cold,
            Class::Throttled => &mut self.throttled,
        }
    }

    /// The high watermark or log start of a subscription's partition moved.
    pub(super) fn tell_news(&mut self, alias: Alias) {
        if let Some(sub) = self.subs.get_mut(&alias).filter(|s| !s.has_news) {
            sub.has_news = true;
            self.news.push(alias);
        }
    }

    pub(super) fn take_news(&mut self) -> Option<Alias> {
        while let Some(alias) = self.news.pop() {
            if let Some(sub) = self.subs.get_mut(&alias).filter(|s| s.has_news) {
                sub.has_news = false;
                return Some(alias);
            }
        }
        None
    }

    /// Whom to read for next, if anybody may be sent anything.
    pub(super) fn pick(&mut self, now_ns: u64) -> Option<(Alias, Class)> {
        if self.credit <= 0 || now_ns < self.pause_until_ns {
            return None;
        }
        self.picks = self.picks.wrapping_add(1);
        let order = if self.picks.is_multiple_of(COLD_EVERY) {
            [Class::Cold, Class::Throttled, Class::Live]
        } else {
            [Class::Live, Class::Cold, Class::Throttled]
        };
        order.into_iter().find_map(|class| self.pick_from(class, now_ns).map(|alias| (alias, class)))
    }

    fn pick_from(&mut self, class: Class, now_ns: u64) -> Option<Alias> {
        let has_room = self.cold_reads < COLD_READS_PER_LINK && self.credit >= self.window / 4;
        let may = match class {
            Class::Live => true,
            Class::Cold => has_room,
            Class::Throttled => has_room && self.bucket_allows(now_ns),
        };
        while may && let Some(alias) = self.queue(class).pop_front() {
            if let Some(sub) = self.subs.get_mut(&alias).filter(|s| s.queued) {
                sub.queued = false;
                return Some(alias);
            }
        }
        None
    }

    fn bucket_allows(&mut self, now_ns: u64) -> bool {
        self.bucket.as_mut().is_none_or(|bucket| {
            bucket.fill(now_ns);
            bucket.tokens > 0
        })
    }

    /// Bytes that the next read may bring.
    pub(super) fn room(&self) -> usize {
        usize::try_from(self.credit).unwrap_or(0)
    }

    /// Reads are tried again in a while.
    pub(super) fn pause(&mut self, now_ns: u64) {
        self.pause_until_ns = now_ns.saturating_add(READ_RETRY_NS);
    }

    /// Batches go out.
    pub(super) fn send(&mut self, part: DataPart, is_throttled: bool) {
        let bytes = part.len();
        self.credit = self.credit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if is_throttled && let Some(bucket) = &mut self.bucket {
            bucket.tokens = bucket.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(sub) = self.subs.get_mut(&part.alias) {
            sub.has_news = false;
        }
        self.data_bytes += bytes + 64;
        self.data.push(part);
        if self.data_bytes >= DATA_MESSAGE_BYTES {
            self.close_data();
        }
    }

    /// Something other than data, in order with it.
    pub(super) fn answer(&mut self, message: Message) {
        self.close_data();
        self.ready.push(message);
    }

    fn close_data(&mut self) {
        if !self.data.is_empty() {
            self.ready.push(Message::Data(std::mem::take(&mut self.data)));
            self.data_bytes = 0;
        }
    }

    /// All that goes out in this turn.
    pub(super) fn flush(&mut self) -> impl Iterator<Item = Vec<Bytes>> + '_ {
        self.close_data();
        self.ready.drain(..).map(|message| message.encode())
    }

    /// When there may be something to do although nothing happens.
    pub(super) fn next_deadline(&self, now_ns: u64) -> Option<u64> {
        let queued = !(self.live.is_empty() && self.cold.is_empty() && self.throttled.is_empty());
        if !queued || self.credit <= 0 {
            return None;
        }
        if self.pause_until_ns > now_ns {
            return Some(self.pause_until_ns);
        }
        if !self.live.is_empty() {
            return Some(now_ns);
        }
        if self.cold_reads >= COLD_READS_PER_LINK || self.credit < self.window / 4 {
            return None;
        }
        if !self.cold.is_empty() {
            return Some(now_ns);
        }
        Some(self.bucket.as_ref().filter(|b| b.tokens <= 0).map_or(now_ns, Bucket::ready_at).max(now_ns))
    }
}
