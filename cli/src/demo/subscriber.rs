//! One subscriber: an application that receives the messages of a group through a sidecar, and acknowledges each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use wherry_proto::v1;
use wherry_proto::v1::subscribe_request::Frame as Ask;
use wherry_proto::v1::subscribe_response::Frame as Answer;
use wherry_proto::v1::subscriber_service_client::SubscriberServiceClient;

use super::books::{Books, GroupBook};
use super::ledger::{MessageId, Place};
use super::publisher::{PRODUCER_HEADER, SEQUENCE_HEADER};

/// Messages that may be on their way to one subscriber.
const CREDITS: u32 = 4096;
/// Frames that wait for the stream.
const FRAMES: usize = 16;
/// Pause before a broken stream is opened again.
const RETRY: Duration = Duration::from_millis(100);

/// Receives until `stop`. A broken stream is opened again, as an application would.
pub(crate) async fn subscribe(books: Arc<Books>, group: usize, sidecar: String, stop: CancellationToken) -> Result<()> {
    let channel = super::channel(&sidecar).await?;
    loop {
        let stream = Stream::new(&books, group)?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            outcome = stream.run(channel.clone()) => {
                if let Err(error) = outcome {
                    tracing::info!(error = %format!("{error:#}"), "a subscription ended, opening it again");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

struct Stream<'a> {
    books: &'a Books,
    group: &'a GroupBook,
    /// Deliveries whose acknowledgement has no answer yet; at most as many as there are credits.
    unsettled: HashMap<Bytes, MessageId>,
    /// Acknowledgements to be sent.
    acks: Vec<Bytes>,
    /// Credits to be given back.
    credits: u32,
}

impl<'a> Stream<'a> {
    fn new(books: &'a Books, group: usize) -> Result<Self> {
        let group = books.groups.get(group).context("no such group")?;
        Ok(Self { books, group, unsettled: HashMap::new(), acks: Vec::new(), credits: 0 })
    }

    async fn run(mut self, channel: Channel) -> Result<()> {
        let (frames, outgoing) = mpsc::channel(FRAMES);
        frames.send(ask(Ask::Start(self.start()))).await?;
        let opened = SubscriberServiceClient::new(channel).subscribe(ReceiverStream::new(outgoing)).await;
        let mut answers = opened.context("can't subscribe")?.into_inner();
        loop {
            let pending = !self.acks.is_empty() || self.credits > 0;
            tokio::select! {
                answer = answers.message() => match answer.context("the subscription broke")? {
                    Some(answer) => self.take(answer),
                    None => return Ok(()),
                },
                // Never waits for room while there is something to read: the two could wait for each other.
                room = frames.reserve(), if pending => room?.send(self.next_frame()),
            }
        }
    }

    fn start(&self) -> v1::SubscribeStart {
        v1::SubscribeStart {
            group: self.group.name.into(),
            topics: vec![self.books.topic.clone()],
            initial_position: v1::InitialPosition::Earliest as i32,
            credits: CREDITS,
            ..v1::SubscribeStart::default()
        }
    }

    fn next_frame(&mut self) -> v1::SubscribeRequest {
        if self.acks.is_empty() {
            return ask(Ask::Credits(v1::Credits { messages: std::mem::take(&mut self.credits) }));
        }
        ask(Ask::Ack(v1::Acknowledge { ack_ids: std::mem::take(&mut self.acks) }))
    }

    fn take(&mut self, answer: v1::SubscribeResponse) {
        match answer.frame {
            Some(Answer::Delivery(delivery)) => self.delivered(delivery.messages),
            Some(Answer::Settled(settled)) => self.settled(settled.results),
            Some(Answer::Started(_)) | None => {}
        }
    }

    fn delivered(&mut self, messages: Vec<v1::ReceivedMessage>) {
        let at = self.books.now();
        self.credits += u32::try_from(messages.len()).unwrap_or(CREDITS);
        let mut received = self.group.received();
        for delivery in messages {
            let message = delivery.message.unwrap_or_default();
            let place = Place { partition: message.partition.unwrap_or(-1), offset: delivery.offset };
            match self.books.parse_publish_id(&message.message_id) {
                None => received.stranger(),
                Some(id) => {
                    let (key, line) = self.books.content(id);
                    if is_as_sent(&message, id, &key, &line) {
                        received.delivered(id, key, place, at);
                    } else {
                        received.damaged();
                    }
                    self.unsettled.insert(delivery.ack_id.clone(), id);
                }
            }
            self.acks.push(delivery.ack_id);
        }
    }

    fn settled(&mut self, results: Vec<v1::AckResult>) {
        let mut received = self.group.received();
        for result in results {
            let id = self.unsettled.remove(&result.ack_id);
            match (result.outcome(), id) {
                (v1::AckOutcome::Acknowledged, Some(id)) => received.confirmed(id),
                (v1::AckOutcome::Acknowledged, None) => received.stranger(),
                // Not ours any more: it was or will be delivered again.
                (v1::AckOutcome::Lost | v1::AckOutcome::Failed, _) => {}
                (v1::AckOutcome::Unspecified | v1::AckOutcome::Released | v1::AckOutcome::Extended, _) => {
                    tracing::warn!(outcome = ?result.outcome(), "an acknowledgement was answered with something else");
                }
            }
        }
    }
}

fn ask(frame: Ask) -> v1::SubscribeRequest {
    v1::SubscribeRequest { frame: Some(frame) }
}

fn is_as_sent(message: &v1::Message, id: MessageId, key: &Bytes, line: &Bytes) -> bool {
    let header = |name: &str, value: u32| {
        let mut values = message.headers.iter().filter(|header| header.name == name);
        values.next().is_some_and(|header| header.value == value.to_string().as_bytes()) && values.next().is_none()
    };
    message.payload == *line
        && message.key.as_ref() == Some(key)
        && header(PRODUCER_HEADER, id.producer)
        && header(SEQUENCE_HEADER, id.sequence)
}

#[cfg(test)]
mod tests {
    use super::super::input::Input;
    use super::*;

    fn books() -> Books {
        Books::new(Input::open(None).expect("input"), 10, 1, 1, &["g"])
    }

    fn message(books: &Books, id: MessageId) -> v1::Message {
        let (key, line) = books.content(id);
        let header = |name: &str, value: u32| v1::Header { name: name.into(), value: value.to_string().into() };
        v1::Message {
            key: Some(key),
            payload: line,
            partition: Some(0),
            headers: vec![header(PRODUCER_HEADER, id.producer), header(SEQUENCE_HEADER, id.sequence)],
            message_id: books.publish_id(id),
            ..v1::Message::default()
        }
    }

    fn delivery(message: v1::Message, offset: i64) -> v1::ReceivedMessage {
        v1::ReceivedMessage {
            ack_id: Bytes::from(format!("a{offset}")),
            message: Some(message),
            offset,
            ..v1::ReceivedMessage::default()
        }
    }

    #[test]
    fn what_arrives_is_booked_and_acknowledged() {
        let books = books();
        let mut stream = Stream::new(&books, 0).expect("group");
        let id = MessageId { producer: 0, sequence: 0 };
        stream.delivered(vec![delivery(message(&books, id), 0)]);
        assert_eq!((stream.acks.len(), stream.credits), (1, 1));
        assert_eq!(books.groups[0].received().counts().received, 1);
        let acknowledged =
            v1::AckResult { ack_id: "a0".into(), outcome: v1::AckOutcome::Acknowledged as i32, error: None };
        stream.settled(vec![acknowledged]);
        assert_eq!(books.groups[0].received().counts().confirmed, 1);
        assert!(stream.unsettled.is_empty());
        // Delivered once more although confirmed.
        stream.delivered(vec![delivery(message(&books, id), 0)]);
        assert_eq!(books.groups[0].received().counts().after_confirmation, 1);
    }

    #[test]
    fn a_lost_acknowledgement_confirms_nothing() {
        let books = books();
        let mut stream = Stream::new(&books, 0).expect("group");
        stream.delivered(vec![delivery(message(&books, MessageId { producer: 0, sequence: 0 }), 0)]);
        stream.settled(vec![v1::AckResult { ack_id: "a0".into(), outcome: v1::AckOutcome::Lost as i32, error: None }]);
        assert_eq!(books.groups[0].received().counts().confirmed, 0);
    }

    #[test]
    fn any_change_to_a_message_is_seen() {
        let books = books();
        let id = MessageId { producer: 0, sequence: 3 };
        let spoil: [fn(&mut v1::Message); 6] = [
            |m| m.payload = Bytes::from_static(b"other"),
            |m| m.key = None,
            |m| m.headers[1].value = Bytes::from_static(b"4"),
            |m| {
                m.headers.remove(0);
            },
            |m| m.headers.push(m.headers[0].clone()),
            |m| m.payload = m.payload.slice(1..),
        ];
        for spoil in spoil {
            let mut stream = Stream::new(&books, 0).expect("group");
            let mut message = message(&books, id);
            spoil(&mut message);
            stream.delivered(vec![delivery(message, 0)]);
        }
        let counts = books.groups[0].received().counts();
        assert_eq!((counts.damaged, counts.received), (6, 0));
    }

    #[test]
    fn a_foreign_message_is_a_stranger() {
        let books = books();
        let mut stream = Stream::new(&books, 0).expect("group");
        let message = v1::Message { message_id: "other-0-0".into(), ..v1::Message::default() };
        stream.delivered(vec![delivery(message, 0)]);
        assert_eq!(books.groups[0].received().counts().strangers, 1);
    }
}
