//! Commands and payloads, and how they are written: one JSON object per payload, with a version in front.
//!
//! JSON costs about 150 bytes per topic, so 10,000 topics are 1.5 MB: small beside what it saves when someone must read
//! a log by eye. Unknown fields and versions are refused, never skipped: a state that ignores a command has forked.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::acl::{Acl, AclFilter};
use crate::quota::{QuotaEntity, QuotaKey, QuotaValue};
use crate::{MetadataError, PartitionId, ScramCredential, ScramMechanism};

/// Version written in front of each payload and snapshot.
pub const ENCODING_VERSION: u32 = 2;

/// A change that someone asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Makes a topic. → `Change::TopicCreated`.
    CreateTopic {
        /// Its name.
        name: String,
        /// Its id, a random UUID chosen by the proposer: the state machine has no randomness.
        id: Uuid,
        /// Number of partitions, at least 1; -1 where the assignment says it.
        partitions: i32,
        /// Replicas per partition; -1 for the default, or where the assignment says it.
        replication_factor: i16,
        /// Configuration entries that differ from the defaults, by Kafka's names.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        configs: BTreeMap<String, String>,
        /// Owned by the system.
        #[serde(default, skip_serializing_if = "is_false")]
        internal: bool,
        /// Replicas of each partition, the preferred leader first; without it the state machine places them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        assignment: Option<Vec<Vec<i32>>>,
    },
    /// Deletes a topic. → `Change::TopicDeleted`.
    DeleteTopic {
        /// By id: a topic made again under the same name is another topic.
        id: Uuid,
    },
    /// Adds partitions. → `Change::TopicGrown`.
    GrowTopic {
        /// The topic.
        id: Uuid,
        /// New total, larger than now.
        partitions: i32,
        /// Replicas of each new partition; without it the state machine places them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        assignment: Option<Vec<Vec<i32>>>,
    },
    /// Sets and removes configuration entries of a topic. → `Change::ConfigsAltered`.
    AlterTopicConfigs {
        /// The topic.
        id: Uuid,
        /// Value, or `None` to go back to the default.
        set: BTreeMap<String, Option<String>>,
    },
    /// Sets and removes configuration entries of a group, which need not exist. → `Change::GroupConfigsAltered`.
    AlterGroupConfigs {
        /// The group.
        group: String,
        /// Value, or `None` to go back to the default.
        set: BTreeMap<String, Option<String>>,
    },
    /// Sets the levels of features, all or none. → `Change::FeaturesUpdated`.
    UpdateFeatures {
        /// Level by name.
        levels: BTreeMap<String, i16>,
    },
    /// Takes a block of producer ids. → `Change::ProducerIds`.
    ReserveProducerIds {
        /// First of the block: must be the next free one, so that two proposers can't get the same.
        first: i64,
        /// How many.
        count: i64,
    },
    /// Names the cluster, once. → `Change::ClusterNamed`.
    SetClusterId {
        /// The id; setting the same again changes nothing.
        cluster_id: String,
    },
    /// A node starts; it is fenced until `Unfence`. A new incarnation loses what it led (it never resumes an epoch it
    /// led before), a new directory all that it was in sync with. → `Change::BrokerRegistered`.
    RegisterBroker {
        /// The node.
        node_id: i32,
        /// Random per process start.
        incarnation: Uuid,
        /// Id of its data directory: another one when the volume was replaced.
        directory: Uuid,
        /// Host that other nodes connect to, and clients too where there are no endpoints.
        host: String,
        /// Port, likewise.
        port: u16,
        /// Failure domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rack: Option<String>,
        /// Where clients connect, per name of a listener, if it has several.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        endpoints: BTreeMap<String, Endpoint>,
    },
    /// A node's session ended: others take over what it led. → `Change::BrokerFenced`.
    Fence {
        /// The node.
        node_id: i32,
        /// Only if it is still this process.
        incarnation: Uuid,
    },
    /// A node has a session: it may lead and be in sync. → `Change::BrokerUnfenced`.
    Unfence {
        /// The node.
        node_id: i32,
        /// Only if it is still this process.
        incarnation: Uuid,
    },
    /// A node is about to stop: what it leads moves where another can lead. → `Change::BrokerShuttingDown`.
    BeginShutdown {
        /// The node.
        node_id: i32,
        /// Only if it is still this process.
        incarnation: Uuid,
    },
    /// Forgets a node that has no replicas and is fenced. → `Change::BrokerUnregistered`.
    UnregisterBroker {
        /// The node.
        node_id: i32,
    },
    /// A leader asks for other in-sync replicas. → `Change::PartitionsAltered`.
    AlterPartitions {
        /// The leader.
        node_id: i32,
        /// Only if it is still this process.
        incarnation: Uuid,
        /// Each is decided on its own.
        changes: Vec<PartitionChange>,
    },
    /// Elects leaders. → `Change::LeadersElected`.
    ElectLeaders {
        /// Which; all that need it without a list.
        partitions: Option<Vec<PartitionId>>,
        /// Any running replica where no clean leader is to be had, even if acknowledged messages are lost. Otherwise
        /// the preferred ones.
        unclean: bool,
    },
    /// Moves partitions to other nodes. → `Change::Reassigned`.
    Reassign {
        /// The replicas that a partition is to have, or `None` to cancel. Each is decided on its own.
        partitions: Vec<(PartitionId, Option<Vec<i32>>)>,
    },
    /// A node found its copies damaged: they are not in sync and can't lead. → `Change::ReplicasLost`.
    LoseReplica {
        /// The node.
        node_id: i32,
        /// Only if it is still this process.
        incarnation: Uuid,
        /// Which; each is decided on its own.
        partitions: Vec<PartitionId>,
    },
    /// Adds rules; one that is there already changes nothing. → `Change::AclsCreated`.
    CreateAcls {
        /// All of them or none.
        acls: Vec<Acl>,
    },
    /// Removes rules. → `Change::AclsDeleted`.
    DeleteAcls {
        /// Each is answered with what it found.
        filters: Vec<AclFilter>,
    },
    /// Sets a user's credential. → `Change::ScramAltered`.
    SetScram {
        /// Name, without its type.
        user: String,
        /// For this mechanism.
        mechanism: ScramMechanism,
        /// What is kept of the password.
        credential: ScramCredential,
    },
    /// Removes a user's credential. → `Change::ScramAltered`.
    RemoveScram {
        /// Name, without its type.
        user: String,
        /// For this mechanism.
        mechanism: ScramMechanism,
    },
    /// Sets and removes quotas. → `Change::QuotasAltered`.
    AlterQuotas {
        /// For whom.
        entity: QuotaEntity,
        /// Limit, or `None` for none.
        set: BTreeMap<QuotaKey, Option<QuotaValue>>,
    },
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Other in-sync replicas of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionChange {
    /// The partition.
    pub id: PartitionId,
    /// Its leader epoch as the asker knows it; must be the current one.
    pub leader_epoch: i32,
    /// Its partition epoch as the asker knows it; must be the current one.
    pub partition_epoch: i32,
    /// All in-sync replicas from now on, each with the incarnation that was seen in sync.
    pub isr: Vec<(i32, Uuid)>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Who proposed a payload, so that a retry is applied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The node.
    pub node_id: i32,
    /// Its process.
    pub incarnation: Uuid,
    /// 1, 2, 3, ... per process.
    pub sequence: u64,
}

/// What one entry of the replicated log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Who proposed it; without, it is applied as often as it is committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Applied in order, each on its own: one that is refused does not stop the next.
    pub commands: Vec<Command>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    v: u32,
    r: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

/// Bytes of a payload.
#[must_use]
pub fn encode_payload(payload: &Payload) -> Vec<u8> {
    encode(payload)
}

/// The payload in these bytes.
///
/// # Errors
/// [`MetadataError::UnknownVersion`], [`MetadataError::Malformed`].
pub fn decode_payload(bytes: &[u8]) -> Result<Payload, MetadataError> {
    decode(bytes)
}

/// Only a map with keys that are no text could fail here, and there is none; empty bytes would be refused by `decode`.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(&Envelope { v: ENCODING_VERSION, r: value }).unwrap_or_default()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MetadataError> {
    match serde_json::from_slice::<Envelope<T>>(bytes) {
        Ok(envelope) if envelope.v == ENCODING_VERSION => Ok(envelope.r),
        Ok(envelope) => Err(unknown(envelope.v)),
        // A newer version may not parse at all: its version number decides which error is the honest one.
        Err(error) => match serde_json::from_slice::<VersionOnly>(bytes) {
            Ok(VersionOnly { v }) if v != ENCODING_VERSION => Err(unknown(v)),
            _ => Err(MetadataError::Malformed(error.to_string())),
        },
    }
}

fn unknown(found: u32) -> MetadataError {
    MetadataError::UnknownVersion { found, supported: ENCODING_VERSION }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(command: Command) -> Payload {
        Payload { origin: None, commands: vec![command] }
    }

    #[test]
    fn round_trip() {
        let id = PartitionId { topic: Uuid::from_u128(7), partition: 3 };
        let isr = vec![(1, Uuid::from_u128(1)), (2, Uuid::from_u128(2))];
        let change = PartitionChange { id, leader_epoch: 1, partition_epoch: 2, isr };
        let commands = vec![
            Command::GrowTopic { id: id.topic, partitions: 3, assignment: Some(vec![vec![1, 2]]) },
            Command::AlterPartitions { node_id: 1, incarnation: Uuid::from_u128(1), changes: vec![change] },
            Command::Reassign { partitions: vec![(id, Some(vec![3])), (id, None)] },
            Command::ElectLeaders { partitions: None, unclean: true },
        ];
        let origin = Some(Origin { node_id: 1, incarnation: Uuid::from_u128(9), sequence: 4 });
        let payload = Payload { origin, commands };
        assert_eq!(decode_payload(&encode_payload(&payload)).unwrap(), payload);
    }

    #[test]
    fn a_plain_topic_is_compact() {
        let create = Command::CreateTopic {
            name: "orders-00001".into(),
            id: Uuid::from_u128(1),
            partitions: 1,
            replication_factor: 1,
            configs: BTreeMap::new(),
            internal: false,
            assignment: None,
        };
        assert!(encode_payload(&payload(create)).len() < 170);
    }

    #[test]
    fn unknown_versions_and_fields_are_refused() {
        for found in [1, 3] {
            let other = format!(r#"{{"v":{found},"r":{{"teleport_topic":{{}}}}}}"#);
            let error = decode_payload(other.as_bytes()).unwrap_err();
            assert_eq!(error, MetadataError::UnknownVersion { found, supported: 2 });
        }
        let id = "00000000-0000-0000-0000-000000000007";
        for malformed in [
            r#"{"v":2,"r":{"commands":[{"teleport_topic":{}}]}}"#.to_owned(),
            r#"{"v":2,"r":{"commands":[],"x":1}}"#.to_owned(),
            r#"{"v":2,"r":{"commands":[]},"x":1}"#.to_owned(),
            format!(r#"{{"v":2,"r":{{"commands":[{{"delete_topic":{{"id":"{id}","x":1}}}}]}}}}"#),
            String::new(),
        ] {
            assert!(matches!(decode_payload(malformed.as_bytes()), Err(MetadataError::Malformed(_))), "{malformed}");
        }
        assert!(matches!(decode_payload(&[0xff; 9]), Err(MetadataError::Malformed(_))));
    }
}
