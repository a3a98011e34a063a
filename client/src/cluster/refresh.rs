//! Keeps the metadata of the topics in use fresh: on request (an error somewhere) and by age. One task per client.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Cluster, TopicMeta};
use crate::cluster::codes;
use crate::error::{ClientError, Result};
use crate::limits;
use crate::retry::{self, Attempt};

/// Topics in use; `true` lets the broker create them.
pub(super) type Interest = HashMap<Arc<str>, bool>;

impl Cluster {
    /// Asks for new metadata soon. Requests are coalesced and paced.
    pub(crate) fn refresh_metadata(&self) {
        self.wanted.notify_one();
    }

    /// Keeps these topics in the cache from now on.
    pub(crate) fn follow<'a>(&self, topics: impl IntoIterator<Item = &'a Arc<str>>) -> Result<()> {
        let mut interest = self.interest.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            add(&mut interest, topic, false)?;
        }
        drop(interest);
        self.refresh_metadata();
        Ok(())
    }

    /// The topic with its partitions, waiting for it to be known: as long as a broker may take to see a new topic everywhere, or
    /// as long as any call may take where no broker answers.
    pub(crate) async fn topic(&self, what: &str, name: &Arc<str>, create: bool) -> Result<Arc<TopicMeta>> {
        if let Some(topic) = self.metadata().topic(name) {
            return Ok(topic.clone());
        }
        let fresh = {
            let mut interest = self.interest.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut interest, name, create)?
        };
        let found = self.await_topic(what, name).await;
        if found.is_err() && fresh {
            self.interest.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
        found
    }

    async fn await_topic(&self, what: &str, name: &Arc<str>) -> Result<Arc<TopicMeta>> {
        let mut changes = self.watch_metadata();
        let started = Instant::now();
        let first = changes.borrow_and_update().version;
        let deadline = started + self.config.call_timeout;
        let grace = started + limits::TOPIC_GRACE.min(self.config.call_timeout);
        let mut unknown = false;
        loop {
            let now = changes.borrow_and_update().clone();
            match now.topics.get(name) {
                Some(Ok(topic)) => return Ok(topic.clone()),
                Some(Err(ResponseError::UnknownTopicOrPartition)) if now.version > first => unknown = true,
                Some(Err(error)) if now.version > first && codes::advice(*error) == codes::Advice::Fail => {
                    return Err(codes::rejected(&format!("{what} {name}"), *error, None));
                }
                Some(Err(_)) | None => {}
            }
            self.refresh_metadata();
            let until = if unknown { grace } else { deadline };
            if tokio::time::timeout_at(until, changes.changed()).await.is_err() {
                let (what, topic) = (what.into(), name.clone());
                return Err(if unknown {
                    ClientError::NoSuchTopic { what, topic }
                } else {
                    let cause = format!("no metadata of topic {topic}").into();
                    ClientError::Retry { what, cause, waited: self.config.call_timeout }
                });
            }
        }
    }

    pub(super) async fn first_metadata(&self) -> Result<()> {
        let limit = self.config.call_timeout;
        retry::retry(&self.config, "connect to the cluster", limit, || self.fetch_metadata()).await.map(|_| ())
    }

    /// One round: every topic in use, from the first broker that answers. Whether it brought anything new.
    async fn fetch_metadata(&self) -> Result<bool, Attempt> {
        let before = self.metadata();
        let (create, plain) = {
            let interest = self.interest.lock().unwrap_or_else(PoisonError::into_inner);
            interest.clone().into_iter().partition::<HashMap<_, _>, _>(|(_, create)| *create)
        };
        if !create.is_empty() {
            let answer = self.ask_metadata(create.into_keys(), true).await?;
            self.learn(&answer);
        }
        let answer = self.ask_metadata(plain.into_keys(), false).await?;
        self.learn(&answer);
        Ok(!self.metadata().says_the_same(&before))
    }

    async fn ask_metadata(
        &self,
        topics: impl Iterator<Item = Arc<str>>,
        create: bool,
    ) -> Result<MetadataResponse, Attempt> {
        let topics: Vec<_> = topics.map(|t| named(&t)).collect();
        let request = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(create);
        self.ask_for_metadata(&request).await
    }

    fn learn(&self, answer: &MetadataResponse) {
        let next = Arc::new(self.metadata().after(answer));
        self.forget_strangers(&next);
        self.metadata.send_replace(next);
    }
}

fn named(topic: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string(topic.to_owned()))))
}

/// Whether the topic is new here.
fn add(interest: &mut Interest, topic: &Arc<str>, create: bool) -> Result<bool> {
    if let Some(known) = interest.get_mut(topic) {
        *known |= create;
        return Ok(false);
    }
    if interest.len() >= limits::TOPICS_IN_USE {
        let what = format!("more than {} topics in use by one client; use several clients", limits::TOPICS_IN_USE);
        return Err(ClientError::config(what));
    }
    interest.insert(topic.clone(), create);
    Ok(true)
}

/// Runs until the client is gone. Holds the client only while it does something for it, so that it can go when its last user does.
pub(super) async fn run(cluster: Weak<Cluster>, wanted: Arc<Notify>, max_age: Duration, closed: CancellationToken) {
    closed.run_until_cancelled(refresh_forever(cluster, wanted, max_age)).await;
}

async fn refresh_forever(cluster: Weak<Cluster>, wanted: Arc<Notify>, max_age: Duration) {
    let mut failures = 0;
    // Answers in a row that brought nothing new: whoever waits for a leader or a topic asks less and less often.
    let mut in_vain = 0;
    let mut last = Instant::now();
    loop {
        if failures == 0 {
            // Either way it is time: asked for, or too old.
            let _ = tokio::time::timeout(max_age, wanted.notified()).await;
        }
        let Some(now) = cluster.upgrade() else { return };
        if last.elapsed() > now.config.retry_backoff_max {
            in_vain = 0;
        }
        let fetched = tokio::time::timeout(now.config.call_timeout, now.fetch_metadata()).await;
        let pause = match fetched {
            Ok(Ok(news)) => {
                failures = 0;
                in_vain = if news { 0 } else { in_vain + 1 };
                limits::METADATA_PACE.saturating_mul(1 << in_vain.min(10)).min(now.config.retry_backoff_max)
            }
            Ok(Err(cause)) => {
                failures += 1;
                tracing::debug!(?cause, failures, "metadata refresh failed");
                retry::pause_after(&now.config, failures)
            }
            Err(_) => {
                failures += 1;
                now.config.retry_backoff
            }
        };
        drop(now);
        tokio::time::sleep(pause).await;
        last = Instant::now();
    }
}
