//! Whether a caller may do what it asks for. Handlers ask here before they look: what may not be described is not told apart
//! from what does not exist.

use std::sync::Arc;

use wherry_metadata::Topic;
use wherry_metadata::acl::{CLUSTER_NAME, Operation, ResourceType};
use wherry_wire::codec::ResponseError;

use super::Core;
use super::store::LogStore;
use crate::api::errors::ApiError;
use crate::api::{Ctx, topics};
use crate::security::authorizer::bits;

impl<S: LogStore> Core<S> {
    /// Whether the caller may do this with that resource.
    pub(crate) fn allows(&self, ctx: &Ctx, operation: Operation, resource: ResourceType, name: &str) -> bool {
        let Some(authorization) = &self.config.authorization else { return true };
        let allowed = authorization.allows(self.meta.acls(), &ctx.caller, operation, resource, name);
        if !allowed {
            self.stats.unauthorized.add(1);
            let principal = ctx.caller.principal.qualified();
            tracing::debug!(principal, host = %ctx.caller.host, ?operation, ?resource, name, "not allowed");
        }
        allowed
    }

    /// Whether the caller may do this with the cluster.
    pub(crate) fn allows_cluster(&self, ctx: &Ctx, operation: Operation) -> bool {
        self.allows(ctx, operation, ResourceType::Cluster, CLUSTER_NAME)
    }

    /// Whether the caller may do this with a topic.
    pub(crate) fn allows_topic(&self, ctx: &Ctx, operation: Operation, name: &str) -> bool {
        self.allows(ctx, operation, ResourceType::Topic, name)
    }

    /// Whether the caller may do this with a group.
    pub(crate) fn allows_group(&self, ctx: &Ctx, operation: Operation, name: &str) -> bool {
        self.allows(ctx, operation, ResourceType::Group, name)
    }

    /// Whether the caller may do this with a transactional id.
    pub(crate) fn allows_transactional_id(&self, ctx: &Ctx, operation: Operation, id: &str) -> bool {
        self.allows(ctx, operation, ResourceType::TransactionalId, id)
    }

    /// Whether the caller may do this with some topic, whichever.
    pub(crate) fn allows_some_topic(&self, ctx: &Ctx, operation: Operation) -> bool {
        self.config.authorization.as_ref().is_none_or(|authorization| {
            authorization.allows_some(self.meta.acls(), &ctx.caller, operation, ResourceType::Topic)
        })
    }

    /// The topic of that name, if the caller may do this with it. Whether it exists is told only to those.
    pub(crate) fn topic_for(&self, ctx: &Ctx, operation: Operation, name: &str) -> Result<&Arc<Topic>, ApiError> {
        if !self.allows_topic(ctx, operation, name) {
            return Err(ResponseError::TopicAuthorizationFailed.into());
        }
        Ok(topics::by_name(&self.meta, name)?)
    }

    /// The topic with that id, if the caller may do this with it.
    pub(crate) fn topic_for_id(
        &self,
        ctx: &Ctx,
        operation: Operation,
        id: uuid::Uuid,
    ) -> Result<&Arc<Topic>, ApiError> {
        let topic = topics::by_id(&self.meta, id)?;
        if self.allows_topic(ctx, operation, &topic.name) {
            Ok(topic)
        } else {
            Err(ResponseError::TopicAuthorizationFailed.into())
        }
    }

    /// What the caller may do with a resource, as bits of KIP-430.
    pub(crate) fn operations(&self, ctx: &Ctx, resource: ResourceType, name: &str) -> i32 {
        let may = |operation: &Operation| match &self.config.authorization {
            None => true,
            Some(authorization) => authorization.allows(self.meta.acls(), &ctx.caller, *operation, resource, name),
        };
        bits(resource.operations().iter().copied().filter(may))
    }

    /// What the caller may do with the cluster.
    pub(crate) fn cluster_operations(&self, ctx: &Ctx) -> i32 {
        self.operations(ctx, ResourceType::Cluster, CLUSTER_NAME)
    }
}
