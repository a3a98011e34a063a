//! `GroupService`.

use tonic::{Request, Response, Status};
use wherry_proto::v1::group_service_server::GroupService;
use wherry_proto::v1::{GetGroupRequest, GetGroupResponse, SeekRequest, SeekResponse};

use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;

pub(super) struct Groups<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> GroupService for Groups<B> {
    async fn get_group(&self, _: Request<GetGroupRequest>) -> Result<Response<GetGroupResponse>, Status> {
        Err(Failure::not_offered("GetGroup").into())
    }

    async fn seek(&self, _: Request<SeekRequest>) -> Result<Response<SeekResponse>, Status> {
        Err(Failure::not_offered("Seek").into())
    }
}
