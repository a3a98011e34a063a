//! The producer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{ClientError, Result};
use crate::record::{ProduceRecord, RecordMetadata};

/// Sends records. Cheap to clone; all clones share buffers and identity.
#[derive(Debug, Clone)]
pub struct Producer {}

impl Producer {
    /// Accepts a record. Waits only for buffer space (and, for a new topic, its metadata); the returned [`Delivery`] resolves with
    /// the receipt and may be dropped if nobody cares. Records for one partition are delivered in the order of the calls.
    ///
    /// # Errors
    /// [`ClientError::NoSuchTopic`], [`ClientError::TooLarge`], [`ClientError::Closed`], [`ClientError::Retry`] where no broker
    /// could be asked about the topic.
    pub async fn send(&self, record: ProduceRecord) -> Result<Delivery> {
        let _ = record;
        Err(ClientError::Closed { what: "the producer" })
    }

    /// As [`Producer::send`] where nothing has to be waited for; gives the record back otherwise.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub fn try_send(&self, record: ProduceRecord) -> Result<Result<Delivery, ProduceRecord>> {
        let _ = record;
        Err(ClientError::Closed { what: "the producer" })
    }

    /// Sends what has been accepted without further linger, and waits until every record accepted before has its receipt or error.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn flush(&self) -> Result<()> {
        Err(ClientError::Closed { what: "the producer" })
    }

    /// Refuses new records, flushes, and ends the background task. Other clones are closed with it.
    ///
    /// # Errors
    /// [`ClientError::Closed`] if it already was.
    pub async fn close(&self) -> Result<()> {
        Err(ClientError::Closed { what: "the producer" })
    }
}

/// The future receipt of one record. Holds no task and no allocation of its own: it shares its batch's.
#[derive(Debug)]
#[must_use = "the receipt says whether the record was delivered"]
pub struct Delivery {}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(ClientError::Closed { what: "the producer" }))
    }
}
