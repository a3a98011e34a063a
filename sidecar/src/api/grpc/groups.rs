//! `GroupService`.

use tonic::{Request, Response, Status};
use wherry_proto::v1::group_service_server::GroupService;
use wherry_proto::v1::{GetGroupRequest, GetGroupResponse, SeekRequest, SeekResponse};

use crate::api::groups;
use crate::backend::Backend;
use crate::shared::Shared;

pub(super) struct Groups<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> GroupService for Groups<B> {
    async fn get_group(&self, request: Request<GetGroupRequest>) -> Result<Response<GetGroupResponse>, Status> {
        Ok(Response::new(groups::describe(&self.shared, &request.into_inner().group).await?))
    }

    async fn seek(&self, request: Request<SeekRequest>) -> Result<Response<SeekResponse>, Status> {
        Ok(Response::new(groups::seek(&self.shared, request.into_inner()).await?))
    }
}
