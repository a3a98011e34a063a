//! `TransactionService`.

use tonic::{Request, Response, Status, Streaming};
use wherry_proto::v1::transaction_service_server::TransactionService;
use wherry_proto::v1::{CommitRequest, CommitResponse, TransactRequest, TransactResponse};

use crate::backend::Backend;
use crate::error::Failure;
use crate::shared::Shared;

pub(super) struct Transactions<B: Backend> {
    pub(super) shared: Shared<B>,
}

#[tonic::async_trait]
impl<B: Backend> TransactionService for Transactions<B> {
    type TransactStream = futures::stream::Empty<Result<TransactResponse, Status>>;

    async fn transact(&self, _: Request<Streaming<TransactRequest>>) -> Result<Response<Self::TransactStream>, Status> {
        Err(Failure::not_offered("Transact").into())
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        Err(Failure::not_offered("Commit").into())
    }
}
