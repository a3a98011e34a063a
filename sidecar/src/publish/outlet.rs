//! Where messages go: to the cluster, or through the spool where there is one and the message may use it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Code;
use wherry_client::ProduceRecord;

use super::one::Level;
use crate::backend::{Backend, Receipt, Taken};
use crate::error::Failure;
use crate::spool::{self, Published, Spool};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outlet<B: Backend> {
    backend: B,
    spool: Option<Spool>,
}

impl<B: Backend> Outlet<B> {
    pub(crate) fn new(backend: B, spool: Option<Spool>) -> Self {
        Self { backend, spool }
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
    pub(crate) fn try_send(&self, record: ProduceRecord, level: Level) -> Result<Taken<Answer<B::Receipt>>, Failure> {
        if self.admits(&record, level)?.is_none() {
            return Ok(Taken::Later(record));
        }
        match self.spool(level) {
            Some(spool) => spool.try_send(record).map(|taken| taken.map(Answer::Spool)),
            None => Ok(self.backend.try_send(record)?.map(Answer::Cluster)),
        }
    }

    /// Takes a record; waits for room, and for the cluster where there is no spool.
    pub(crate) fn send(
        &self,
        record: ProduceRecord,
        level: Level,
    ) -> impl Future<Output = Result<Answer<B::Receipt>, Failure>> + Send + use<B> + 'static {
        let (spool, backend) = (self.spool(level).cloned(), self.backend.clone());
        let admits = self.admits(&record, level);
        async move {
            if admits?.is_none() {
                let known = backend.asks_ids(&record.topic).await?;
                check_ids(known, &record.topic)?;
            }
            match spool {
                Some(spool) => spool.send(record).await.map(Answer::Spool),
                None => Ok(Answer::Cluster(backend.send(record).await?)),
            }
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

/// The future answer to one message.
#[derive(Debug)]
pub(crate) enum Answer<R> {
    /// Of the cluster.
    Cluster(R),
    /// Of whichever of the two it reached.
    Spool(spool::Answer),
}

impl<R> Future for Answer<R>
where
    R: Receipt + Future<Output = Result<wherry_client::RecordMetadata, wherry_client::ClientError>>,
{
    type Output = Result<Published, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Cluster(receipt) => {
                let known = Pin::new(receipt).poll(context);
                known.map(|outcome| outcome.map(Published::Committed).map_err(Failure::from))
            }
            Self::Spool(answer) => Pin::new(answer).poll(context),
        }
    }
}

impl<R> Receipt for Answer<R>
where
    R: Receipt + Future<Output = Result<wherry_client::RecordMetadata, wherry_client::ClientError>>,
{
    fn lane(&self) -> Option<usize> {
        match self {
            Self::Cluster(receipt) => receipt.lane(),
            // One that may have reached the cluster is answered long after those that were spooled behind it.
            Self::Spool(_) => None,
        }
    }
}
