//! What topics there are; the same for gRPC and HTTP.

use crate::backend::Backend;
use crate::error::Failure;
use crate::publish::record::check_topic;
use crate::shared::Shared;

/// Number of partitions of a topic.
pub(crate) async fn get<B: Backend>(shared: &Shared<B>, name: &str) -> Result<i32, Failure> {
    check_topic(name)?;
    Ok(shared.backend.partitions(name).await?)
}

/// Makes sure that there is a topic: how many partitions it has, and whether it was made now.
pub(crate) async fn ensure<B: Backend>(
    shared: &Shared<B>,
    name: &str,
    partitions: i32,
) -> Result<(i32, bool), Failure> {
    check_topic(name)?;
    if partitions < 0 {
        return Err(Failure::invalid("INVALID", "`partitions` is negative; leave it out for the cluster's default"));
    }
    let created = shared.backend.create_topic(name, (partitions > 0).then_some(partitions), &[]).await?;
    Ok((shared.backend.partitions(name).await?, created))
}
