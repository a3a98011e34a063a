//! The books of the demo: what was sent and acknowledged, what each group really received. Pure: time comes as a number.
//!
//! A message is known by its producer and sequence number. The books hold a bounded entry per message that is to be sent; what
//! arrives and is in no book is counted as a stranger.

use std::collections::HashMap;

use bytes::Bytes;

/// Which message: producer, and position in what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct MessageId {
    pub(crate) producer: u32,
    pub(crate) sequence: u32,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// Microseconds since the run began.
pub(crate) type Micros = u64;

/// What producers know.
#[derive(Debug, Default)]
pub(crate) struct Published {
    producers: Vec<Vec<Sent>>,
    acknowledgements: u64,
    failures: HashMap<String, u64>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) at: Micros,
    pub(crate) ack: Option<(Place, Micros)>,
}

/// Reasons of failures that are told apart; more are counted as one.
const REASONS_MAX: usize = 20;

impl Published {
    pub(crate) fn new(producers: u32) -> Self {
        Self { producers: (0..producers).map(|_| Vec::new()).collect(), acknowledgements: 0, failures: HashMap::new() }
    }

    /// Notes the next message of a producer; gives its id.
    pub(crate) fn sent(&mut self, producer: u32, at: Micros) -> Option<MessageId> {
        let book = self.producers.get_mut(producer as usize)?;
        let sequence = u32::try_from(book.len()).ok()?;
        book.push(Sent { at, ack: None });
        Some(MessageId { producer, sequence })
    }

    /// Notes an acknowledgement; false if it is for nothing that was sent, or a second one.
    pub(crate) fn acknowledged(&mut self, id: MessageId, place: Place, at: Micros) -> bool {
        match self.entry_mut(id) {
            Some(sent) if sent.ack.is_none() => {
                sent.ack = Some((place, at));
                self.acknowledgements += 1;
                true
            }
            Some(_) | None => {
                self.failed("an acknowledgement that answers nothing");
                false
            }
        }
    }

    /// Messages that were acknowledged.
    pub(crate) fn acknowledgements(&self) -> u64 {
        self.acknowledgements
    }

    /// Notes that a publish failed.
    pub(crate) fn failed(&mut self, reason: &str) {
        let known = self.failures.len() < REASONS_MAX || self.failures.contains_key(reason);
        *self.failures.entry(if known { reason.into() } else { "other reasons".into() }).or_default() += 1;
    }

    fn entry_mut(&mut self, id: MessageId) -> Option<&mut Sent> {
        self.producers.get_mut(id.producer as usize)?.get_mut(id.sequence as usize)
    }

    /// Every message that was sent.
    pub(crate) fn all(&self) -> impl Iterator<Item = (MessageId, &Sent)> {
        (0_u32..).zip(&self.producers).flat_map(|(producer, book)| {
            (0_u32..).zip(book).map(move |(sequence, sent)| (MessageId { producer, sequence }, sent))
        })
    }

    /// Failed publishes by reason, most frequent first.
    pub(crate) fn failures(&self) -> Vec<(String, u64)> {
        let mut failures: Vec<_> = self.failures.iter().map(|(reason, count)| (reason.clone(), *count)).collect();
        failures.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        failures
    }
}

/// What one group received.
#[derive(Debug)]
pub(crate) struct Received {
    books: Vec<Vec<Seen>>,
    /// Highest sequence delivered for the first time, per key and producer.
    latest: HashMap<(Bytes, u32), u32>,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Place and time of its first delivery.
    pub(crate) first: Option<(Place, Micros)>,
    pub(crate) confirmed: bool,
}

/// What a group's deliveries amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Different messages.
    pub(crate) received: u64,
    /// Deliveries of messages that were delivered before and whose acknowledgement was not confirmed yet: allowed.
    pub(crate) repeated: u64,
    /// Different messages whose acknowledgement was confirmed.
    pub(crate) confirmed: u64,
    /// Deliveries of a message from a second place in the log: one publish became two records.
    pub(crate) second_records: u64,
    /// Deliveries of a message after its acknowledgement was confirmed.
    pub(crate) after_confirmation: u64,
    /// First deliveries of a message after a later message of the same producer and key.
    pub(crate) out_of_order: u64,
    /// Messages that are not what was sent under their id.
    pub(crate) damaged: u64,
    /// Messages that nobody sent.
    pub(crate) strangers: u64,
}

impl Received {
    /// Books for this many messages of each producer.
    pub(crate) fn new(planned: &[u32]) -> Self {
        let books = planned.iter().map(|count| vec![Seen::default(); *count as usize]).collect();
        Self { books, latest: HashMap::new(), counts: Counts::default() }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// A message that can't be one of ours.
    pub(crate) fn stranger(&mut self) {
        self.counts.strangers += 1;
    }

    /// A message whose id is one of ours and whose content is not.
    pub(crate) fn damaged(&mut self) {
        self.counts.damaged += 1;
    }

    /// A message as it was sent.
    pub(crate) fn delivered(&mut self, id: MessageId, key: Bytes, place: Place, at: Micros) {
        let Some(seen) = self.books.get_mut(id.producer as usize).and_then(|book| book.get_mut(id.sequence as usize))
        else {
            self.counts.strangers += 1;
            return;
        };
        match seen.first {
            None => {
                seen.first = Some((place, at));
                self.counts.received += 1;
                self.first_delivery(id, key);
            }
            Some((first, _)) if first != place => self.counts.second_records += 1,
            Some(_) if seen.confirmed => self.counts.after_confirmation += 1,
            Some(_) => self.counts.repeated += 1,
        }
    }

    fn first_delivery(&mut self, id: MessageId, key: Bytes) {
        let latest = self.latest.entry((key, id.producer)).or_insert(id.sequence);
        if id.sequence < *latest {
            self.counts.out_of_order += 1;
        } else {
            *latest = id.sequence;
        }
    }

    /// The sidecar said that the acknowledgement is durable.
    pub(crate) fn confirmed(&mut self, id: MessageId) {
        let seen = self.books.get_mut(id.producer as usize).and_then(|book| book.get_mut(id.sequence as usize));
        if let Some(seen) = seen.filter(|seen| !seen.confirmed && seen.first.is_some()) {
            seen.confirmed = true;
            self.counts.confirmed += 1;
        }
    }

    pub(crate) fn get(&self, id: MessageId) -> Option<&Seen> {
        self.books.get(id.producer as usize)?.get(id.sequence as usize)
    }
}
