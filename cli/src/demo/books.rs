//! What all tasks of a run share: the input, the books, the clock.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
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
    /// How many stages of the run are open: producers send no more than these allow. None is at first, and producers send a
    /// small part only, until every group receives.
    opened: watch::Sender<u32>,
    stages: u32,
    /// When the first one was opened.
    gate_opened: OnceLock<Micros>,
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
    /// The books of a run in `stages` equal parts.
    pub(crate) fn new(input: Input, messages: u32, producers: u32, stages: u32, groups: &[&'static str]) -> Self {
        let planned = share(messages, producers);
        let group = |name: &&'static str| GroupBook { name, received: Mutex::new(Received::new(&planned)) };
        Self {
            run: uuid::Uuid::new_v4().simple().to_string(),
            topic: "demo".into(),
            groups: groups.iter().map(group).collect(),
            acknowledged: Notify::new(),
            opened: watch::Sender::new(0),
            stages: stages.max(1),
            gate_opened: OnceLock::new(),
            input,
            published: Mutex::new(Published::new(producers)),
            begun: Instant::now(),
            planned,
        }
    }

    pub(crate) fn now(&self) -> Micros {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Messages that a producer may send while so many stages are open.
    fn allowed(&self, producer: u32, stage: u32) -> u32 {
        let planned = self.planned.get(producer as usize).copied().unwrap_or(0);
        let first = planned.div_ceil(WARM_UP);
        let share = u64::from(planned - first) * u64::from(stage.min(self.stages)) / u64::from(self.stages);
        first + u32::try_from(share).unwrap_or(u32::MAX)
    }

    /// Messages of all producers together while so many stages are open.
    pub(crate) fn planned_until(&self, stage: u32) -> u64 {
        (0..).zip(&self.planned).map(|(producer, _)| u64::from(self.allowed(producer, stage))).sum()
    }

    /// Lets producers send what belongs to one more stage.
    pub(crate) fn open_stage(&self) {
        // The first call sets it, later ones don't.
        self.gate_opened.get_or_init(|| self.now());
        self.opened.send_modify(|opened| *opened += 1);
    }

    /// When the first stage was opened.
    pub(crate) fn gate_opened(&self) -> Option<Micros> {
        self.gate_opened.get().copied()
    }

    /// Waits until a producer may send more than `sent`; says how many it may send then.
    pub(crate) async fn may_send(&self, producer: u32, sent: u32) -> u32 {
        let mut opened = self.opened.subscribe();
        // The sender lives as long as the books: waiting can't fail.
        let _ = opened.wait_for(|stage| self.allowed(producer, *stage) > sent).await;
        let stage = *opened.borrow();
        self.allowed(producer, stage)
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

    #[tokio::test]
    async fn a_stage_allows_its_share_and_the_last_one_everything() {
        let books = Books::new(Input::open(None).unwrap(), 1001, 2, 3, &["g"]);
        assert_eq!(books.planned_until(0), 11 + 10, "a fiftieth of 501 and of 500");
        assert_eq!((books.gate_opened(), books.planned_until(3), books.planned_until(9)), (None, 1001, 1001));
        let mut seen = 0;
        for stage in 1..=3 {
            books.open_stage();
            let now = books.may_send(0, seen).await;
            assert!(now > seen, "stage {stage}");
            seen = now;
        }
        assert_eq!(seen, 501);
        assert!(books.gate_opened().is_some());
    }

    #[test]
    fn publish_ids_are_of_this_run_only() {
        let input = Input::open(None).unwrap();
        let books = Books::new(input.clone(), 10, 2, 1, &["g"]);
        let id = MessageId { producer: 1, sequence: 4 };
        assert_eq!(books.parse_publish_id(&books.publish_id(id)), Some(id));
        let other = Books::new(input, 10, 2, 1, &["g"]);
        assert_eq!(other.parse_publish_id(&books.publish_id(id)), None);
        for bad in ["", "x", &books.run, &format!("{}-1", books.run), &format!("{}-1-x", books.run)] {
            assert_eq!(books.parse_publish_id(bad), None, "{bad}");
        }
    }
}
