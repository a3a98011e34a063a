//! Where messages go: to the cluster, or through the spool where there is one and the message may use it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::Code;
use tracing::Span;
use wherry_client::ProduceRecord;

use super::one::Level;
use super::trace;
use crate::backend::{Backend, Receipt, Taken};
use crate::error::Failure;
use crate::spool::{self, Published, Spool};
use crate::stats::Stats;
use crate::stats::topics::TopicCounts;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outlet<B: Backend> {
    backend: B,
    spool: Option<Spool>,
    stats: Arc<Stats>,
}

impl<B: Backend> Outlet<B> {
    pub(crate) fn new(backend: B, spool: Option<Spool>, stats: Arc<Stats>) -> Self {
        Self { backend, spool, stats }
    }

    /// Whether messages of this level are kept while the cluster is away. Who asks for at most once wants no repeats, which a crash
    /// between forwarding and noting it could bring.
    fn spool(&self, level: Level) -> Option<&Spool> {
        match level {
            Level::AtMostOnce => None,
            Level::AtLeastOnce | Level::EffectivelyOnce => self.spool.as_ref(),
        }
    }

    /// Whether a record may be sent at this level. `None`: the topic must be asked about first.
    fn admits(&self, record: &ProduceRecord, level: Level) -> Result<Option<()>, Failure> {
        match level {
            Level::AtMostOnce | Level::AtLeastOnce => Ok(Some(())),
            Level::EffectivelyOnce if record.message_id().is_none() => Err(Failure::invalid(
                "NO_MESSAGE_ID",
                "DELIVERY_LEVEL_EFFECTIVELY_ONCE needs a `message_id`: give each message one that stays the same when it is published again",
            )),
            Level::EffectivelyOnce => match self.backend.knows_ids(&record.topic) {
                Some(known) => check_ids(known, &record.topic).map(Some),
                None => Ok(None),
            },
        }
    }

    /// Takes a record if nothing has to be waited for.
    pub(crate) fn try_send(&self, mut record: ProduceRecord, level: Level) -> Result<Offered<B::Receipt>, Failure> {
        let (counts, bytes) = (self.stats.topics.of(&record.topic), size(&record));
        let span = trace::publish(&mut record);
        let taken = match (self.admits(&record, level), self.spool(level)) {
            (Err(failure), _) => Err(failure),
            (Ok(None), _) => Ok(Taken::Later(record)),
            (Ok(Some(())), Some(spool)) => spool.try_send(record).map(|taken| taken.map(Way::Spool)),
            (Ok(Some(())), None) => {
                self.backend.try_send(record).map(|taken| taken.map(Way::Cluster)).map_err(Failure::from)
            }
        };
        match taken {
            Ok(Taken::Now(way)) => {
                counts.took(bytes);
                Ok(Offered::Now(Answer { way, counts, _span: span }))
            }
            Ok(Taken::Later(record)) => Ok(Offered::Later(Parcel { record, bytes, counts, span })),
            Err(failure) => {
                counts.failed.add(1);
                Err(failure)
            }
        }
    }

    /// Takes what came back; waits for room, and for the cluster where there is no spool.
    pub(crate) fn send(
        &self,
        parcel: Parcel,
        level: Level,
    ) -> impl Future<Output = Result<Answer<B::Receipt>, Failure>> + Send + use<B> + 'static {
        let (spool, backend) = (self.spool(level).cloned(), self.backend.clone());
        let Parcel { record, bytes, counts, span } = parcel;
        let admits = self.admits(&record, level);
        async move {
            let send = async {
                if admits?.is_none() {
                    let known = backend.asks_ids(&record.topic).await?;
                    check_ids(known, &record.topic)?;
                }
                match spool {
                    Some(spool) => spool.send(record).await.map(Way::Spool),
                    None => backend.send(record).await.map(Way::Cluster).map_err(Failure::from),
                }
            };
            let taken = send.await;
            match &taken {
                Ok(_) => counts.took(bytes),
                Err(_) => counts.failed.add(1),
            }
            taken.map(|way| Answer { way, counts, _span: span })
        }
    }

    /// Waits until everything taken has its answer.
    pub(crate) async fn flush(&self) {
        if let Some(spool) = &self.spool {
            spool.flush().await;
        }
        self.backend.flush().await;
    }

    /// Closes the spool.
    pub(crate) async fn close(&self) {
        if let Some(spool) = &self.spool {
            spool.close().await;
        }
    }
}

fn check_ids(known: bool, topic: &str) -> Result<(), Failure> {
    if known {
        return Ok(());
    }
    Err(Failure::lasting(
        Code::FailedPrecondition,
        "NO_DEDUPE_WINDOW",
        format!(
            "topic {topic} does not know message ids again: set `dedupe.window` of the Topic (wherry.dedupe.window.ms), or publish with \
             DELIVERY_LEVEL_AT_LEAST_ONCE. On a cluster that is not Wherry's this is not available"
        ),
    ))
}

/// What became of a record that was offered without waiting.
#[derive(Debug)]
pub(crate) enum Offered<R> {
    /// It was taken; the answer is to come.
    Now(Answer<R>),
    /// It has to wait: it goes through [`Outlet::send`].
    Later(Parcel),
}

/// A record that has to wait.
#[derive(Debug)]
pub(crate) struct Parcel {
    record: ProduceRecord,
    bytes: usize,
    counts: Arc<TopicCounts>,
    span: Option<Span>,
}

/// Bytes of key, payload and headers.
fn size(record: &ProduceRecord) -> usize {
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers
}

/// The future answer to one message; a failure is counted.
#[derive(Debug)]
pub(crate) struct Answer<R> {
    way: Way<R>,
    counts: Arc<TopicCounts>,
    /// Ends with it.
    _span: Option<Span>,
}

#[derive(Debug)]
enum Way<R> {
    /// The cluster.
    Cluster(R),
    /// Whichever of the two it reached.
    Spool(spool::Answer),
}

impl<R> Future for Answer<R>
where
    R: Receipt + Future<Output = Result<wherry_client::RecordMetadata, wherry_client::ClientError>>,
{
    type Output = Result<Published, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let known = match &mut self.way {
            Way::Cluster(receipt) => {
                let known = Pin::new(receipt).poll(context);
                known.map(|outcome| outcome.map(Published::Committed).map_err(Failure::from))
            }
            Way::Spool(answer) => Pin::new(answer).poll(context),
        };
        match &known {
            Poll::Ready(Err(_)) => self.counts.failed.add(1),
            Poll::Ready(Ok(Published::Committed(metadata))) if metadata.duplicate => self.counts.duplicates.add(1),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
        known
    }
}

impl<R> Receipt for Answer<R>
where
    R: Receipt + Future<Output = Result<wherry_client::RecordMetadata, wherry_client::ClientError>>,
{
    fn lane(&self) -> Option<usize> {
        match &self.way {
            Way::Cluster(receipt) => receipt.lane(),
            // One that may have reached the cluster is answered long after those that were spooled behind it.
            Way::Spool(_) => None,
        }
    }
}
