//! `PublisherService`.

use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;
use wherry_proto::v1::publisher_service_server::PublisherService;
use wherry_proto::v1::{
    PublishBatchRequest, PublishBatchResponse, PublishManyRequest, PublishManyResponse, PublishRequest,
    PublishResponse, PublishStreamRequest,
};

use crate::backend::Backend;
use crate::error::Failure;
use crate::publish::many;
use crate::publish::one::{self, Level};
use crate::publish::record::{TopicNames, TraceContext};
use crate::publish::stream::PublishStream;
use crate::shared::Shared;
use crate::transactions;

pub(super) struct Publisher<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> PublisherService for Publisher<B> {
    type PublishStreamStream = PublishStream<B, Streaming<PublishStreamRequest>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let trace = TraceContext::of(request.metadata().as_ref());
        let request = request.into_inner();
        let level = Level::of(request.delivery)?;
        let message =
            request.message.ok_or_else(|| Failure::invalid("INVALID_MESSAGE", "there is no message; set `message`"))?;
        let span = tracing::debug_span!("publish", topic = %message.topic, traceparent = ?trace.parent);
        let publish = async {
            let taken = one::take(&self.shared, message, &mut TopicNames::default(), &trace).await?;
            one::finish(&self.shared, taken, level).await
        };
        let result = publish.instrument(span).await?;
        Ok(Response::new(PublishResponse { result: Some(result) }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        if self.shared.phase.stopping.is_cancelled() {
            return Err(Failure::draining().into());
        }
        let trace = TraceContext::of(request.metadata().as_ref());
        tracing::debug!(traceparent = ?trace.parent, "publishing stream");
        Ok(Response::new(PublishStream::new(self.shared.clone(), request.into_inner(), trace)))
    }
    async fn publish_many(
        &self,
        request: Request<Streaming<PublishManyRequest>>,
    ) -> Result<Response<PublishManyResponse>, Status> {
        if self.shared.phase.stopping.is_cancelled() {
            return Err(Failure::draining().into());
        }
        let trace = TraceContext::of(request.metadata().as_ref());
        Ok(Response::new(many::many(&self.shared, request.into_inner(), trace).await?))
    }

    async fn publish_batch(
        &self,
        request: Request<PublishBatchRequest>,
    ) -> Result<Response<PublishBatchResponse>, Status> {
        let trace = TraceContext::of(request.metadata().as_ref());
        let messages = request.into_inner().messages;
        let done = transactions::at_once(&self.shared, messages, Vec::new(), &trace).await?;
        Ok(Response::new(PublishBatchResponse { results: done.results }))
    }
}
