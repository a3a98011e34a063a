//! `TopicService`.

use tonic::{Request, Response, Status};
use wherry_proto::v1::topic_service_server::TopicService;
use wherry_proto::v1::{
    EnsureTopicRequest, EnsureTopicResponse, GetTopicRequest, GetTopicResponse, ListTopicsRequest, ListTopicsResponse,
    Topic,
};

use crate::api::topics;
use crate::backend::Backend;
use crate::shared::Shared;

pub(super) struct Topics<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> TopicService for Topics<B> {
    async fn get_topic(&self, request: Request<GetTopicRequest>) -> Result<Response<GetTopicResponse>, Status> {
        Ok(Response::new(topics::describe(&self.shared, &request.into_inner().name).await?))
    }

    async fn list_topics(&self, request: Request<ListTopicsRequest>) -> Result<Response<ListTopicsResponse>, Status> {
        Ok(Response::new(topics::list(&self.shared, &request.into_inner()).await?))
    }

    async fn ensure_topic(
        &self,
        request: Request<EnsureTopicRequest>,
    ) -> Result<Response<EnsureTopicResponse>, Status> {
        let request = request.into_inner();
        let (partitions, created) = topics::ensure(&self.shared, &request.name, request.partitions).await?;
        Ok(Response::new(EnsureTopicResponse { topic: Some(Topic { name: request.name, partitions }), created }))
    }
}
