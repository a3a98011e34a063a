//! `TopicService`.

use tonic::{Request, Response, Status};
use wherry_proto::v1::topic_service_server::TopicService;
use wherry_proto::v1::{
    EnsureTopicRequest, EnsureTopicResponse, GetTopicRequest, GetTopicResponse, ListTopicsRequest, ListTopicsResponse,
    Topic,
};

use crate::api::topics;
use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;

pub(super) struct Topics<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> TopicService for Topics<B> {
    async fn get_topic(&self, request: Request<GetTopicRequest>) -> Result<Response<GetTopicResponse>, Status> {
        let name = request.into_inner().name;
        let partitions = topics::get(&self.shared, &name).await?;
        Ok(Response::new(GetTopicResponse { topic: Some(Topic { name, partitions }), ..GetTopicResponse::default() }))
    }

    async fn list_topics(&self, _: Request<ListTopicsRequest>) -> Result<Response<ListTopicsResponse>, Status> {
        Err(Failure::not_offered("ListTopics").into())
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
