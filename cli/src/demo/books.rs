//! What all tasks of a run share: the input, the books, the clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::input::{self, Input};
use super::ledger::{MessageId, Micros, Published, Received};

/// Shared by producers, subscribers, progress and judge.
#[derive(Debug)]
pub(crate) struct Books {
    /// Begins every publish id of this run, so that messages of another one are strangers.
    pub(crate) run: String,
    pub(crate) topic: String,
    /// Messages of each producer.
    pub(crate) planned: Vec<u32>,
    pub(crate) groups: Vec<GroupBook>,
    /// Told at each change of the books of producers.
    pub(crate) acknowledged: Notify,
    /// Opened when every group receives: until then producers send a first part only.
    gate: watch::Sender<Option<Micros>>,
    input: Input,
    published: Mutex<Published>,
    begun: Instant,
}

#[derive(Debug)]
pub(crate) struct GroupBook {
    pub(crate) name: &'static str,
    received: Mutex<Received>,
}

/// One message in so many is sent before every group receives.
const WARM_UP: u32 = 50;

impl GroupBook {
    pub(crate) fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }
}

/// A panic elsewhere ends the run anyway; the books stay readable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    pub(crate) fn new(input: Input, messages: u32, producers: u32, groups: &[&'static str]) -> Self {
        let planned = share(messages, producers);
        let group = |name: &&'static str| GroupBook { name, received: Mutex::new(Received::new(&planned)) };
        Self {
            run: uuid::Uuid::new_v4().simple().to_string(),
            topic: "demo".into(),
            groups: groups.iter().map(group).collect(),
            acknowledged: Notify::new(),
            gate: watch::Sender::new(None),
            input,
            published: Mutex::new(Published::new(producers)),
            begun: Instant::now(),
            planned,
        }
    }

    pub(crate) fn now(&self) -> Micros {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Messages of a producer that are sent before the gate opens.
    pub(crate) fn before_gate(&self, producer: u32) -> u32 {
        self.planned.get(producer as usize).map_or(0, |planned| planned.div_ceil(WARM_UP))
    }

    /// Lets producers send the rest.
    pub(crate) fn open_gate(&self) {
        self.gate.send_if_modified(|opened| {
            let closed = opened.is_none();
            *opened = opened.or(Some(self.now()));
            closed
        });
    }

    /// When the gate was opened.
    pub(crate) fn gate_opened(&self) -> Option<Micros> {
        *self.gate.borrow()
    }

    pub(crate) async fn through_gate(&self) {
        // The sender lives as long as the books: waiting can't fail.
        let _ = self.gate.subscribe().wait_for(Option::is_some).await;
    }

    pub(crate) fn published(&self) -> MutexGuard<'_, Published> {
        lock(&self.published)
    }

    /// What a message says: its key and its line.
    pub(crate) fn content(&self, id: MessageId) -> (Bytes, Bytes) {
        let producers = self.planned.len() as u64;
        let line = self.input.line(u64::from(id.sequence) * producers + u64::from(id.producer));
        (input::key(&line), line)
    }

    pub(crate) fn publish_id(&self, id: MessageId) -> String {
        format!("{}-{}-{}", self.run, id.producer, id.sequence)
    }

    /// The message of a publish id; `None` if this run did not make it.
    pub(crate) fn parse_publish_id(&self, text: &str) -> Option<MessageId> {
        let (producer, sequence) = text.strip_prefix(self.run.as_str())?.strip_prefix('-')?.split_once('-')?;
        Some(MessageId { producer: producer.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

/// Divides messages among producers, the first ones getting what is left over.
fn share(messages: u32, producers: u32) -> Vec<u32> {
    let producers = producers.max(1);
    (0..producers).map(|n| messages / producers + u32::from(n < messages % producers)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_producer() {
        assert_eq!(share(10, 4), [3, 3, 2, 2]);
        assert_eq!(share(2, 4), [1, 1, 0, 0]);
    }

    #[test]
    fn publish_ids_are_of_this_run_only() {
        let input = Input::open(None).unwrap();
        let books = Books::new(input.clone(), 10, 2, &["g"]);
        let id = MessageId { producer: 1, sequence: 4 };
        assert_eq!(books.parse_publish_id(&books.publish_id(id)), Some(id));
        let other = Books::new(input, 10, 2, &["g"]);
        assert_eq!(other.parse_publish_id(&books.publish_id(id)), None);
        for bad in ["", "x", &books.run, &format!("{}-1", books.run), &format!("{}-1-x", books.run)] {
            assert_eq!(books.parse_publish_id(bad), None, "{bad}");
        }
    }
}
