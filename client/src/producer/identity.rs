//! Producer ids: asked for once, and again when one is used up or lost (KIP-98).

use std::sync::Arc;

use kafka_protocol::messages::{InitProducerIdRequest, ProducerId};

use super::lane::Identity;
use crate::cluster::{Cluster, Target, codes};
use crate::error::Result;
use crate::retry;

/// A fresh identity from the cluster.
pub(super) async fn new(cluster: &Arc<Cluster>) -> Result<Identity> {
    const WHAT: &str = "init producer id";
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let attempt = async || {
        let answer = cluster.ask(&Target::Any, WHAT, &request).await?;
        match codes::error(answer.error_code) {
            None => Ok(Identity { producer_id: answer.producer_id.0, epoch: answer.producer_epoch }),
            Some(error) => Err(codes::attempt(WHAT, error, None)),
        }
    };
    retry::retry(&cluster.config, WHAT, cluster.config.call_timeout, attempt).await
}
