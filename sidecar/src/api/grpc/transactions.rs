//! `TransactionService`.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;
use wherry_proto::v1::transaction_service_server::TransactionService;
use wherry_proto::v1::{CommitRequest, CommitResponse, TransactRequest, TransactResponse};

use crate::backend::Backend;
use crate::error::Failure;
use crate::limits;
use crate::publish::record::TraceContext;
use crate::shared::Shared;
use crate::transactions::{self, stream};

pub(super) struct Transactions<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> TransactionService for Transactions<B> {
    type TransactStream = ReceiverStream<Result<TransactResponse, Status>>;

    async fn transact(
        &self,
        request: Request<Streaming<TransactRequest>>,
    ) -> Result<Response<Self::TransactStream>, Status> {
        if self.shared.phase.stopping.is_cancelled() {
            return Err(Failure::draining().into());
        }
        let trace = TraceContext::of(request.metadata().as_ref());
        let (outbound, answers) = mpsc::channel(limits::SUBSCRIPTION_FRAMES);
        tokio::spawn(stream::drive(self.shared.clone(), request.into_inner(), outbound, trace));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        let trace = TraceContext::of(request.metadata().as_ref());
        let CommitRequest { messages, ack_ids } = request.into_inner();
        let span = tracing::debug_span!("commit", messages = messages.len(), traceparent = ?trace.parent);
        let done = transactions::at_once(&self.shared, messages, ack_ids, &trace).instrument(span).await?;
        Ok(Response::new(CommitResponse { results: done.results, acknowledged: done.acknowledged }))
    }
}
