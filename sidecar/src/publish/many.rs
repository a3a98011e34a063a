//! Many messages with one answer: the same machine as a publishing stream, whose results are counted.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt};
use tonic::Status;
use wherry_proto::v1::{
    PublishAck, PublishManyError, PublishManyRequest, PublishManyResponse, PublishStreamRequest, publish_ack::Outcome,
};

use super::record::TraceContext;
use super::stream::PublishStream;
use crate::backend::Backend;
use crate::limits;
use crate::shared::Shared;

/// Publishes what comes, and counts.
pub(crate) async fn many<B: Backend, S>(
    shared: &Shared<B>,
    inbound: S,
    trace: TraceContext,
) -> Result<PublishManyResponse, Status>
where
    S: Stream<Item = Result<PublishManyRequest, Status>> + Send + Unpin,
{
    let mut counts = Counts::default();
    let mut results = PublishStream::new(shared.clone(), numbered(inbound), trace);
    while let Some(response) = results.next().await {
        response?.acks.into_iter().for_each(|ack| counts.count(ack));
    }
    Ok(counts.answer())
}

/// The messages one by one, numbered from 0.
fn numbered<S>(inbound: S) -> impl Stream<Item = Result<PublishStreamRequest, Status>> + Send + Unpin
where
    S: Stream<Item = Result<PublishManyRequest, Status>> + Send + Unpin,
{
    let mut next = 0;
    inbound.flat_map(move |frame| {
        let frames = match frame {
            Ok(frame) => single(frame, &mut next),
            Err(status) => vec![Err(status)],
        };
        futures::stream::iter(frames)
    })
}

fn single(frame: PublishManyRequest, next: &mut u64) -> Vec<Result<PublishStreamRequest, Status>> {
    let options =
        frame.options.map(|options| PublishStreamRequest { correlation_id: 0, message: None, options: Some(options) });
    let messages = frame.messages.into_iter().map(|message| {
        let correlation_id = *next;
        *next += 1;
        PublishStreamRequest { correlation_id, message: Some(message), options: None }
    });
    options.into_iter().chain(messages).map(Ok).collect()
}

#[derive(Debug, Default)]
struct Counts {
    published: u64,
    duplicates: u64,
    failed: u64,
    /// The first ones, by number.
    errors: BTreeMap<u64, wherry_proto::v1::Error>,
}

impl Counts {
    fn count(&mut self, ack: PublishAck) {
        match ack.outcome {
            Some(Outcome::Result(result)) => {
                self.published += 1;
                self.duplicates += u64::from(result.duplicate);
            }
            Some(Outcome::Error(error)) => {
                self.failed += 1;
                self.errors.insert(ack.correlation_id, error);
                if self.errors.len() > limits::PUBLISH_MANY_ERRORS {
                    self.errors.pop_last();
                }
            }
            None => {}
        }
    }

    fn answer(self) -> PublishManyResponse {
        let errors = self.errors.into_iter().map(|(index, error)| PublishManyError { index, error: Some(error) });
        PublishManyResponse {
            received: self.published + self.failed,
            published: self.published,
            duplicates: self.duplicates,
            failed: self.failed,
            errors: errors.collect(),
        }
    }
}
