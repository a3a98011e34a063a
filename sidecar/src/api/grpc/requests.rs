//! `RequestService`.

use tonic::{Request, Response, Status};
use wherry_proto::v1::request_service_server::RequestService;
use wherry_proto::v1::{ReplyRequest, ReplyResponse, RequestRequest, RequestResponse};

use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;

pub(super) struct Requests<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> RequestService for Requests<B> {
    async fn request(&self, _: Request<RequestRequest>) -> Result<Response<RequestResponse>, Status> {
        Err(Failure::not_offered("Request").into())
    }

    async fn reply(&self, _: Request<ReplyRequest>) -> Result<Response<ReplyResponse>, Status> {
        Err(Failure::not_offered("Reply").into())
    }
}
