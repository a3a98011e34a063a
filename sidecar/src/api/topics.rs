//! What topics there are; the same for gRPC and HTTP.

use std::collections::HashMap;

use wherry_proto::v1::{GetTopicResponse, ListTopicsRequest, ListTopicsResponse, PartitionInfo, Topic};

use crate::backend::{Backend, Bounds};
use crate::error::Failure;
use crate::limits;
use crate::publish::record::check_topic;
use crate::shared::Shared;

/// Settings that are told of a topic.
const SETTINGS: [&str; 6] = [
    "cleanup.policy",
    "max.message.bytes",
    "message.timestamp.type",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
];

/// A topic, its partitions, its main settings.
pub(crate) async fn describe<B: Backend>(shared: &Shared<B>, name: &str) -> Result<GetTopicResponse, Failure> {
    check_topic(name)?;
    let bounds = shared.backend.bounds(name).await?;
    let partitions = i32::try_from(bounds.len()).unwrap_or(i32::MAX);
    let info = |of: Bounds| PartitionInfo { partition: of.partition, first_offset: of.first, end_offset: of.end };
    Ok(GetTopicResponse {
        topic: Some(Topic { name: name.to_owned(), partitions }),
        partitions: bounds.into_iter().map(info).collect(),
        settings: settings(shared, name).await?,
    })
}

/// Who may read a topic need not be allowed to see its settings.
async fn settings<B: Backend>(shared: &Shared<B>, name: &str) -> Result<HashMap<String, String>, Failure> {
    match shared.backend.settings(name).await {
        Ok(all) => Ok(all.into_iter().filter(|(name, _)| SETTINGS.contains(&name.as_str())).collect()),
        Err(error) if error.is_retriable() => Err(error.into()),
        Err(error) => {
            tracing::debug!(topic = name, %error, "settings are not told");
            Ok(HashMap::new())
        }
    }
}

/// Topics, page by page.
pub(crate) async fn list<B: Backend>(
    shared: &Shared<B>,
    request: &ListTopicsRequest,
) -> Result<ListTopicsResponse, Failure> {
    if request.page_size < 0 {
        return Err(Failure::invalid("INVALID", "`page_size` is negative; leave it out"));
    }
    let size = match usize::try_from(request.page_size) {
        Ok(0) | Err(_) => limits::TOPICS_PER_PAGE,
        Ok(size) => size.min(limits::TOPICS_PER_PAGE),
    };
    let all = shared.backend.topics().await?;
    let wanted = |name: &str| name.starts_with(&request.prefix) && name > request.page_token.as_str();
    let mut topics: Vec<Topic> = all
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .take(size + 1)
        .map(|(name, partitions)| Topic { name: name.as_ref().into(), partitions })
        .collect();
    let more = topics.len() > size;
    topics.truncate(size);
    let next_page_token = topics.last().filter(|_| more).map(|last| last.name.clone()).unwrap_or_default();
    Ok(ListTopicsResponse { topics, next_page_token })
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
