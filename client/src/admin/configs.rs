//! Admin calls about settings.

use std::sync::Arc;

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use super::each::{each, unmentioned};
use super::topics::outcome;
use super::{Admin, ConfigChange, ConfigEntry, ConfigResource, Each};
use crate::cluster::Target;
use crate::error::Result;
use crate::retry::Attempt;
use crate::text::text;

/// Where a setting comes from when nobody has set it: the broker's default.
const SOURCE_DEFAULT: i8 = 5;

impl ConfigResource {
    fn kind(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) => 4,
            Self::Group(_) => 32,
        }
    }

    fn name(&self) -> Arc<str> {
        match self {
            Self::Topic(name) | Self::Group(name) => name.clone(),
            Self::Broker(Some(id)) => id.to_string().into(),
            Self::Broker(None) => "".into(),
        }
    }

    /// Settings of one broker are asked of that broker, everything else of any.
    fn target(&self) -> Target {
        match self {
            Self::Broker(Some(id)) => Target::Broker(*id),
            Self::Broker(None) | Self::Topic(_) | Self::Group(_) => Target::Any,
        }
    }
}

impl Admin {
    /// Settings of topics, brokers, groups.
    ///
    /// # Errors
    /// Where no broker answers; each resource has its own outcome.
    pub async fn describe_configs(&self, of: &[ConfigResource]) -> Result<Each<ConfigResource, Vec<ConfigEntry>>> {
        const WHAT: &str = "describe configuration";
        let one = async |pending: Vec<ConfigResource>| {
            let mut outcomes = Vec::with_capacity(pending.len());
            for resource in pending {
                outcomes.push(self.describe_one(WHAT, &resource).await);
            }
            Ok(outcomes)
        };
        each(&self.cluster.config, WHAT, of.to_vec(), one).await
    }

    async fn describe_one(&self, what: &'static str, of: &ConfigResource) -> Result<Vec<ConfigEntry>, Attempt> {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(of.kind())
            .with_resource_name(text(&of.name()))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        let answer = self.cluster.ask(&of.target(), what, &request).await?;
        let Some(result) = answer.results.into_iter().next() else { return unmentioned() };
        outcome(&format!("{what} of {}", of.name()), result.error_code, result.error_message.as_deref())?;
        Ok(result.configs.into_iter().map(entry).collect())
    }

    /// Changes settings one by one (KIP-339); those not named stay.
    ///
    /// # Errors
    /// Where no broker answers; each resource has its own outcome.
    pub async fn alter_configs(
        &self,
        changes: &[(ConfigResource, Vec<ConfigChange>)],
        validate_only: bool,
    ) -> Result<Each<ConfigResource, ()>> {
        const WHAT: &str = "alter configuration";
        let one = async |pending: Vec<(ConfigResource, Vec<ConfigChange>)>| {
            let mut outcomes = Vec::with_capacity(pending.len());
            for (resource, changes) in pending {
                outcomes.push(self.alter_one(WHAT, &resource, &changes, validate_only).await);
            }
            Ok(outcomes)
        };
        let done = each(&self.cluster.config, WHAT, changes.to_vec(), one).await?;
        Ok(done.into_iter().map(|((resource, _), result)| (resource, result)).collect())
    }

    async fn alter_one(
        &self,
        what: &'static str,
        of: &ConfigResource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), Attempt> {
        let resource = AlterConfigsResource::default()
            .with_resource_type(of.kind())
            .with_resource_name(text(&of.name()))
            .with_configs(changes.iter().map(change).collect());
        let request =
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(validate_only);
        let target = match of.target() {
            Target::Any => Target::Controller,
            target @ (Target::Controller | Target::Broker(_) | Target::At(_)) => target,
        };
        let answer = self.cluster.ask(&target, what, &request).await?;
        let Some(result) = answer.responses.first() else { return unmentioned() };
        outcome(&format!("{what} of {}", of.name()), result.error_code, result.error_message.as_deref())
    }
}

fn entry(from: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: from.name.to_string(),
        value: from.value.map(|v| v.to_string()),
        is_default: from.config_source == SOURCE_DEFAULT,
        read_only: from.read_only,
        sensitive: from.is_sensitive,
    }
}

fn change(of: &ConfigChange) -> AlterableConfig {
    let (name, operation, value) = match of {
        ConfigChange::Set(name, value) => (name, 0, Some(value)),
        ConfigChange::Reset(name) => (name, 1, None),
        ConfigChange::Append(name, value) => (name, 2, Some(value)),
        ConfigChange::Subtract(name, value) => (name, 3, Some(value)),
    };
    AlterableConfig::default().with_name(text(name)).with_config_operation(operation).with_value(value.map(|v| text(v)))
}
