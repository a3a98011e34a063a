//! Nodes come, go, and come back.
//!
//! ```text
//!   RegisterBroker ──► fenced ──Unfence──► active ──BeginShutdown──► shutting down
//!                        ▲                   │                            │
//!                        └───────Fence───────┴────────────────────────────┘
//! ```
//! Each of these walks all partitions once, since the node may have a part in any.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Broker, Change, Metadata, limits};
use crate::{Endpoint, MetadataError, Partition, PartitionId};

impl Metadata {
    /// Whether the command speaks of the process that is registered.
    pub(super) fn current(&self, node_id: i32, incarnation: Uuid) -> Result<(), MetadataError> {
        let registered = self.brokers.get(&node_id).ok_or(MetadataError::UnknownBroker(node_id))?.incarnation;
        if registered != incarnation {
            return Err(MetadataError::StaleIncarnation { node_id, registered, asked: incarnation });
        }
        Ok(())
    }

    pub(super) fn check_registration(
        &self,
        node_id: i32,
        incarnation: Uuid,
        directory: Uuid,
        host: &str,
        rack: Option<&str>,
        endpoints: &BTreeMap<String, Endpoint>,
    ) -> Result<(), MetadataError> {
        let wrong = |why: String| Err(MetadataError::InvalidRequest(why));
        if node_id < 0 {
            return wrong(format!("a node id is not negative, {node_id} is"));
        }
        if host.len().max(rack.map_or(0, str::len)) > limits::MAX_HOST {
            return wrong(format!("a host name or rack of node {node_id} is longer than {} bytes", limits::MAX_HOST));
        }
        let long = |(name, at): (&String, &Endpoint)| name.len().max(at.host.len()) > limits::MAX_HOST;
        if endpoints.len() > limits::MAX_ENDPOINTS || endpoints.iter().any(long) {
            let most = limits::MAX_ENDPOINTS;
            return wrong(format!(
                "node {node_id} has more than {most} listeners, or one with a name or host too long"
            ));
        }
        match self.brokers.get(&node_id) {
            Some(b) if b.incarnation == incarnation && b.directory != directory => wrong(format!(
                "node {node_id} changed its data directory from {} to {directory} without a restart",
                b.directory
            )),
            None if self.brokers.len() >= limits::MAX_BROKERS => {
                Err(MetadataError::LimitReached(format!("a cluster has at most {} nodes", limits::MAX_BROKERS)))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn register(&mut self, broker: Broker, touched: &mut Vec<PartitionId>) -> Result<Change, MetadataError> {
        let Broker { node_id, incarnation, directory, .. } = broker;
        let Broker { host, rack, endpoints, .. } = &broker;
        self.check_registration(node_id, incarnation, directory, host, rack.as_deref(), endpoints)?;
        let before = self.brokers.get(&node_id);
        let new_incarnation = before.is_none_or(|b| b.incarnation != incarnation);
        let new_directory = before.is_some_and(|b| b.directory != directory);
        let mut broker = broker;
        if let Some(same) = before.filter(|_| !new_incarnation) {
            // A retry: where to reach it may be another, its standing is not.
            (broker.fenced, broker.shutting_down) = (same.fenced, same.shutting_down);
        }
        self.brokers.insert(node_id, broker);
        if new_incarnation {
            // A process never goes on with an epoch that its predecessor led, and an empty disk is in sync with nothing.
            let change = |p: &mut Partition, min| if new_directory { p.blank(node_id) } else { p.fence(node_id, min) };
            self.change_replicas_of(node_id, touched, change);
        }
        Ok(Change::BrokerRegistered { node_id, new_incarnation, new_directory })
    }

    pub(super) fn fence(
        &mut self,
        node_id: i32,
        incarnation: Uuid,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        if !self.set(node_id, incarnation, |b| std::mem::replace(&mut b.fenced, true))? {
            self.change_replicas_of(node_id, touched, |p, min| p.fence(node_id, min));
        }
        Ok(Change::BrokerFenced { node_id })
    }

    pub(super) fn unfence(
        &mut self,
        node_id: i32,
        incarnation: Uuid,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        if self.set(node_id, incarnation, |b| std::mem::replace(&mut b.fenced, false))? {
            self.change_replicas_of(node_id, touched, |_, _| {});
        }
        Ok(Change::BrokerUnfenced { node_id })
    }

    pub(super) fn begin_shutdown(
        &mut self,
        node_id: i32,
        incarnation: Uuid,
        touched: &mut Vec<PartitionId>,
    ) -> Result<Change, MetadataError> {
        if !self.set(node_id, incarnation, |b| std::mem::replace(&mut b.shutting_down, true))? {
            let brokers = self.brokers.clone();
            self.change_replicas_of(node_id, touched, |p, min| p.shut_down(node_id, min, &brokers));
        }
        Ok(Change::BrokerShuttingDown { node_id })
    }

    fn set(
        &mut self,
        node_id: i32,
        incarnation: Uuid,
        change: impl FnOnce(&mut Broker) -> bool,
    ) -> Result<bool, MetadataError> {
        self.current(node_id, incarnation)?;
        self.brokers.get_mut(&node_id).map(change).ok_or(MetadataError::UnknownBroker(node_id))
    }

    pub(super) fn check_unused(&self, node_id: i32) -> Result<(), MetadataError> {
        let broker = self.brokers.get(&node_id).ok_or(MetadataError::UnknownBroker(node_id))?;
        if !broker.fenced {
            return Err(MetadataError::BrokerInUse(format!("node {node_id} still runs: stop it first")));
        }
        match self.partitions_on(node_id).count() {
            0 => Ok(()),
            count => Err(MetadataError::BrokerInUse(format!(
                "node {node_id} still has replicas of {count} partitions: reassign those to other nodes first"
            ))),
        }
    }

    pub(super) fn unregister(&mut self, node_id: i32) -> Result<Change, MetadataError> {
        self.check_unused(node_id)?;
        self.brokers.remove(&node_id);
        Ok(Change::BrokerUnregistered { node_id })
    }
}
