//! One producer: an application that publishes its lines through a sidecar, over one gRPC stream.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use wherry_proto::v1;
use wherry_proto::v1::publish_ack::Outcome;
use wherry_proto::v1::publisher_service_client::PublisherServiceClient;

use super::books::Books;
use super::ledger::{MessageId, Place};

/// Header that carries the number of the producer.
pub(crate) const PRODUCER_HEADER: &str = "demo-producer";
/// Header that carries the sequence number.
pub(crate) const SEQUENCE_HEADER: &str = "demo-sequence";
/// Requests that wait for the stream.
const REQUESTS: usize = 256;

/// Publishes all messages of a producer and waits for every result.
///
/// # Errors
/// When the stream can't be opened or breaks; failed messages are in the books.
pub(crate) async fn publish(books: Arc<Books>, producer: u32, sidecar: String, in_flight: usize) -> Result<()> {
    let channel = super::channel(&sidecar).await?;
    let (requests, outgoing) = mpsc::channel(REQUESTS);
    let mut client = PublisherServiceClient::new(channel);
    let room = Arc::new(Semaphore::new(in_flight));
    let sending = tokio::spawn(send(books.clone(), producer, requests, room.clone()));
    let opened = client.publish_stream(ReceiverStream::new(outgoing)).await;
    let mut results = opened.with_context(|| format!("producer {producer} can't publish"))?.into_inner();
    while let Some(response) =
        results.message().await.with_context(|| format!("the stream of producer {producer} broke"))?
    {
        let count = response.acks.len();
        note(&books, producer, response.acks);
        room.add_permits(count);
        books.acknowledged.notify_waiters();
    }
    sending.await?;
    Ok(())
}

async fn send(
    books: Arc<Books>,
    producer: u32,
    requests: mpsc::Sender<v1::PublishStreamRequest>,
    room: Arc<Semaphore>,
) {
    let planned = books.planned.get(producer as usize).copied().unwrap_or(0);
    let mut allowed = 0;
    for sequence in 0..planned {
        if sequence == allowed {
            allowed = books.may_send(producer, sequence).await;
        }
        let Ok(permit) = room.acquire().await else { return };
        // Given back when the result is there.
        permit.forget();
        let request = request(&books, MessageId { producer, sequence });
        // Booked before it is sent, so that its result can't be earlier.
        let booked = books.published().sent(producer, books.now());
        debug_assert_eq!(booked, Some(MessageId { producer, sequence }));
        if requests.send(request).await.is_err() {
            // The stream broke; whoever reads its results says so.
            return;
        }
    }
}

fn request(books: &Books, id: MessageId) -> v1::PublishStreamRequest {
    let (key, line) = books.content(id);
    let header = |name: &str, value: u32| v1::Header { name: name.into(), value: value.to_string().into() };
    v1::PublishStreamRequest {
        correlation_id: u64::from(id.sequence),
        message: Some(v1::Message {
            topic: books.topic.clone(),
            key: Some(key),
            payload: line,
            headers: vec![header(PRODUCER_HEADER, id.producer), header(SEQUENCE_HEADER, id.sequence)],
            message_id: books.publish_id(id),
            ..v1::Message::default()
        }),
        options: None,
    }
}

fn note(books: &Books, producer: u32, acks: Vec<v1::PublishAck>) {
    let at = books.now();
    let mut published = books.published();
    for ack in acks {
        let sequence = u32::try_from(ack.correlation_id).unwrap_or(u32::MAX);
        match ack.outcome {
            Some(Outcome::Result(result)) if result.status == v1::PublishStatus::Committed as i32 => {
                let place = Place { partition: result.partition, offset: result.offset };
                published.acknowledged(MessageId { producer, sequence }, place, at);
            }
            Some(Outcome::Result(_)) => published.failed("taken, but not said to be durable"),
            Some(Outcome::Error(error)) => published.failed(&format!("{}: {}", error.reason, error.message)),
            None => published.failed("a result without an outcome"),
        }
    }
}
