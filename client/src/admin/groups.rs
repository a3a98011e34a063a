//! Admin calls about groups and what they have committed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::{DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest, OffsetDeleteRequest};

use super::each::{Outcomes, each, unmentioned};
use super::topics::outcome;
use super::{Admin, CommittedOffset, Each, GroupDescription, GroupListing, MemberDescription};
use crate::cluster::{CoordinatorKind, Target, codes};
use crate::consumer::group::protocol;
use crate::consumer::offsets;
use crate::error::Result;
use crate::net::Address;
use crate::record::{CommitOffset, TopicPartition};
use crate::retry::{self, Attempt};
use crate::text::{group_id, shared, topic_name};

impl Admin {
    /// Groups on all brokers, by name.
    ///
    /// # Errors
    /// Where a broker does not answer: the list would not be complete.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        const WHAT: &str = "list groups";
        let config = &self.cluster.config;
        let mut groups = BTreeMap::new();
        let brokers: Vec<i32> = self.cluster.metadata().brokers.keys().copied().collect();
        for broker in brokers {
            let one = async || {
                let (answer, version) =
                    self.cluster.ask_version(&Target::Broker(broker), WHAT, |_| ListGroupsRequest::default()).await?;
                outcome(WHAT, answer.error_code, None)?;
                Ok((answer, version))
            };
            let (answer, version) = retry::retry(config, WHAT, config.call_timeout, one).await?;
            for group in answer.groups {
                let listing = GroupListing {
                    group: shared(&group.group_id),
                    protocol_type: shared(&group.protocol_type),
                    state: (version >= 4).then(|| shared(&group.group_state)),
                };
                groups.insert(listing.group.clone(), listing);
            }
        }
        Ok(groups.into_values().collect())
    }

    async fn coordinator(&self, group: &str) -> Result<(i32, Target), Attempt> {
        let (id, address): (i32, Address) = self.cluster.find_coordinator(CoordinatorKind::Group, group).await?;
        Ok((id, Target::At(address)))
    }

    /// Groups in full.
    ///
    /// # Errors
    /// Where no broker answers; each group has its own outcome.
    pub async fn describe_groups(&self, groups: &[&str]) -> Result<Each<Arc<str>, GroupDescription>> {
        const WHAT: &str = "describe group";
        let one = async |pending: Vec<Arc<str>>| {
            let mut outcomes = Vec::with_capacity(pending.len());
            for group in pending {
                outcomes.push(self.describe_group(WHAT, &group).await);
            }
            Ok(outcomes)
        };
        each(&self.cluster.config, WHAT, names(groups), one).await
    }

    async fn describe_group(&self, what: &'static str, group: &Arc<str>) -> Result<GroupDescription, Attempt> {
        let (coordinator, target) = self.coordinator(group).await?;
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let answer = self.cluster.ask(&target, what, &request).await?;
        let Some(described) = answer.groups.into_iter().next() else { return unmentioned() };
        outcome(&format!("{what} {group}"), described.error_code, described.error_message.as_deref())?;
        Ok(description(group.clone(), coordinator, &described))
    }

    /// What a group has committed; of these partitions, or of all. Partitions without a commit are left out.
    ///
    /// # Errors
    /// Where the group's coordinator does not answer or refuses.
    pub async fn group_offsets(&self, group: &str, of: Option<&[TopicPartition]>) -> Result<Vec<CommittedOffset>> {
        const WHAT: &str = "group offsets";
        let config = &self.cluster.config;
        let one = async || {
            let (_, target) = self.coordinator(group).await?;
            offsets::fetch(&self.cluster, &target, group, of, false).await
        };
        retry::retry(config, WHAT, config.call_timeout, one).await
    }

    /// Commits offsets for a group without members.
    ///
    /// # Errors
    /// Where the group's coordinator does not answer; each partition has its own outcome.
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Each<TopicPartition, ()>> {
        const WHAT: &str = "alter group offsets";
        let nobody = offsets::Member { generation: -1, member_id: "".into(), instance_id: None };
        let one = async |pending: Vec<(TopicPartition, i64)>| {
            let (_, target) = self.coordinator(group).await?;
            let answer = offsets::commit(&self.cluster, &target, group, &nobody, &CommitOffset::all(&pending)).await?;
            Ok(answer.into_iter().map(|code| outcome(&format!("{WHAT} of {group}"), code, None)).collect())
        };
        let done = each(&self.cluster.config, WHAT, offsets.to_vec(), one).await?;
        Ok(done.into_iter().map(|((at, _), result)| (at, result)).collect())
    }

    /// Deletes groups without members, and their offsets.
    ///
    /// # Errors
    /// Where no broker answers; each group has its own outcome.
    pub async fn delete_groups(&self, groups: &[&str]) -> Result<Each<Arc<str>, ()>> {
        const WHAT: &str = "delete group";
        let one = async |pending: Vec<Arc<str>>| {
            let mut outcomes = Vec::with_capacity(pending.len());
            for group in pending {
                outcomes.push(self.delete_group(WHAT, &group).await);
            }
            Ok(outcomes)
        };
        each(&self.cluster.config, WHAT, names(groups), one).await
    }

    async fn delete_group(&self, what: &'static str, group: &str) -> Result<(), Attempt> {
        let (_, target) = self.coordinator(group).await?;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let answer = self.cluster.ask(&target, what, &request).await?;
        let Some(result) = answer.results.first() else { return unmentioned() };
        outcome(&format!("{what} {group}"), result.error_code, None)
    }

    /// Deletes committed offsets of partitions that no member subscribes to.
    ///
    /// # Errors
    /// Where the group's coordinator does not answer; each partition has its own outcome.
    pub async fn delete_group_offsets(&self, group: &str, of: &[TopicPartition]) -> Result<Each<TopicPartition, ()>> {
        const WHAT: &str = "delete group offsets";
        let one = async |pending: Vec<TopicPartition>| -> Outcomes<()> {
            let (_, target) = self.coordinator(group).await?;
            let request =
                OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(to_delete(&pending));
            let answer = self.cluster.ask(&target, WHAT, &request).await?;
            outcome(&format!("{WHAT} of {group}"), answer.error_code, None)?;
            let all = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p)));
            let found: HashMap<_, _> = all.map(|(t, p)| ((t, p.partition_index), p.error_code)).collect();
            let of = |at: &TopicPartition| match found.get(&(&*at.topic, at.partition)) {
                Some(code) => deleted(&format!("{WHAT} {at} of {group}"), *code),
                None => unmentioned(),
            };
            Ok(pending.iter().map(of).collect())
        };
        each(&self.cluster.config, WHAT, of.to_vec(), one).await
    }
}

/// An unknown partition is final here: there is nothing to wait for.
fn deleted(what: &str, code: i16) -> Result<(), Attempt> {
    match codes::error(code) {
        Some(error @ ResponseError::UnknownTopicOrPartition) => Err(Attempt::Fail(codes::rejected(what, error, None))),
        Some(error) => Err(codes::attempt(what, error, None)),
        None => Ok(()),
    }
}

fn to_delete(partitions: &[TopicPartition]) -> Vec<OffsetDeleteRequestTopic> {
    let mut by_topic: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
    for at in partitions {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(at.partition);
        by_topic.entry(&at.topic).or_default().push(partition);
    }
    let topic = |(name, partitions): (&str, _)| {
        OffsetDeleteRequestTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    by_topic.into_iter().map(topic).collect()
}

fn names(of: &[&str]) -> Vec<Arc<str>> {
    of.iter().map(|n| Arc::from(*n)).collect()
}

fn description(group: Arc<str>, coordinator: i32, from: &DescribedGroup) -> GroupDescription {
    GroupDescription {
        group,
        state: shared(&from.group_state),
        protocol_type: shared(&from.protocol_type),
        protocol: shared(&from.protocol_data),
        coordinator,
        members: from.members.iter().map(member).collect(),
    }
}

fn member(from: &DescribedGroupMember) -> MemberDescription {
    // Members of another protocol type write something else there; then nothing is known of what they have.
    let assignment = protocol::decode_assignment(from.member_assignment.clone()).unwrap_or_default();
    MemberDescription {
        member_id: shared(&from.member_id),
        instance_id: from.group_instance_id.as_ref().map(shared),
        client_id: shared(&from.client_id),
        client_host: shared(&from.client_host),
        assignment,
    }
}
