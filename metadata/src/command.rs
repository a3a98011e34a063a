//! Commands, and how they are written: one JSON object per record, with a version in front.
//!
//! JSON costs about 150 bytes per topic, so 10,000 topics are 1.5 MB: small beside what it saves when someone must read
//! a log by eye. Unknown fields and versions are refused, never skipped: a state that ignores a command has forked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::MetadataError;
use crate::snapshot::SnapshotRecord;

/// Version written in front of each record.
pub const ENCODING_VERSION: u32 = 1;

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
        /// Number of partitions, at least 1.
        partitions: i32,
        /// Replicas per partition.
        replication_factor: i16,
        /// Configuration entries that differ from the defaults, by Kafka's names.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        configs: BTreeMap<String, String>,
        /// Owned by the system.
        #[serde(default, skip_serializing_if = "is_false")]
        internal: bool,
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
    },
    /// Sets and removes configuration entries of a topic. → `Change::ConfigsAltered`.
    AlterTopicConfigs {
        /// The topic.
        id: Uuid,
        /// Value, or `None` to go back to the default.
        set: BTreeMap<String, Option<String>>,
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
    /// A node starts. A new incarnation raises the leader epoch of what it leads (it never resumes an epoch it led
    /// before). → `Change::BrokerRegistered`.
    RegisterBroker {
        /// The node.
        node_id: i32,
        /// Random per process start.
        incarnation: Uuid,
        /// Host that clients connect to.
        host: String,
        /// Port that clients connect to.
        port: u16,
        /// Failure domain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rack: Option<String>,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What a command log holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Record {
    /// A committed command.
    Command(Command),
    /// One piece of a snapshot.
    Snapshot(SnapshotRecord),
}

#[derive(Serialize)]
struct EnvelopeRef<'a> {
    v: u32,
    r: &'a Record,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(rename = "v")]
    _version: u32,
    r: Record,
}

/// Bytes of a record.
///
/// # Errors
/// [`MetadataError::Malformed`] if it can't be written as JSON (no such record exists today).
pub fn encode(record: &Record) -> Result<Vec<u8>, MetadataError> {
    serde_json::to_vec(&EnvelopeRef { v: ENCODING_VERSION, r: record })
        .map_err(|e| MetadataError::Malformed(e.to_string()))
}

/// The record in these bytes.
///
/// # Errors
/// [`MetadataError::UnknownVersion`], [`MetadataError::Malformed`].
pub fn decode(bytes: &[u8]) -> Result<Record, MetadataError> {
    match serde_json::from_slice::<Envelope>(bytes) {
        Ok(envelope) if envelope._version == ENCODING_VERSION => Ok(envelope.r),
        Ok(envelope) => Err(unknown(envelope._version)),
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

    fn grow() -> Record {
        Record::Command(Command::GrowTopic { id: Uuid::from_u128(7), partitions: 3 })
    }

    #[test]
    fn round_trip() {
        let bytes = encode(&grow()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), grow());
    }

    #[test]
    fn a_plain_topic_is_compact() {
        let record = Record::Command(Command::CreateTopic {
            name: "orders-00001".into(),
            id: Uuid::from_u128(1),
            partitions: 1,
            replication_factor: 1,
            configs: BTreeMap::new(),
            internal: false,
        });
        assert!(encode(&record).unwrap().len() < 160);
    }

    #[test]
    fn unknown_versions_and_fields_are_refused() {
        let newer = br#"{"v":2,"r":{"teleport_topic":{}}}"#;
        let error = decode(newer).unwrap_err();
        assert_eq!(error, MetadataError::UnknownVersion { found: 2, supported: 1 });
        assert!(error.to_string().contains("newer version"));
        assert!(matches!(decode(br#"{"v":1,"r":{"teleport_topic":{}}}"#), Err(MetadataError::Malformed(_))));
        let extra = br#"{"v":1,"r":{"command":{"delete_topic":{"id":"00000000-0000-0000-0000-000000000007","x":1}}}}"#;
        assert!(matches!(decode(extra), Err(MetadataError::Malformed(_))));
        assert!(matches!(decode(b""), Err(MetadataError::Malformed(_))));
        assert!(matches!(decode(&[0xff; 9]), Err(MetadataError::Malformed(_))));
    }
}
