//! Which requests a node serves, and in which versions.
//!
//! The ranges cover what librdkafka, franz-go, Sarama, kafka-python and the Java clients from 2.1 on ask for. They end
//! below Kafka's own where a version means something that classic groups and idempotent producers do not have:
//! - Fetch 18 is for replicas. FindCoordinator 5 and 6 are for share groups. InitProducerId 6 is for two-phase commit.
//! - ListTransactions 2 takes patterns of RE2J, which no expression of another library means exactly.
//! - OffsetCommit and OffsetFetch 10 know topics by id only; Kafka 4.1 itself does not advertise them.
//! - DescribeShareGroupOffsets 1 tells the lag, for which a coordinator would have to ask all leaders.
//! - DescribeGroups 6 answers unknown groups with an error in place of the state `Dead`.

use kafka_protocol::messages::ApiKey;

/// An API and the versions of it that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Which API.
    pub api: ApiKey,
    /// Lowest version that is served.
    pub min_version: i16,
    /// Highest version that is served.
    pub max_version: i16,
    /// Lowest version that ApiVersions names. Produce says 0: an older librdkafka takes a higher one as a sign that the
    /// broker knows no compression, and silently stops compressing (KAFKA-18659).
    pub advertised_min_version: i16,
}

const fn served(api: ApiKey, min_version: i16, max_version: i16) -> Served {
    Served { api, min_version, max_version, advertised_min_version: min_version }
}

static SERVED: &[Served] = &[
    Served { api: ApiKey::Produce, min_version: 3, max_version: 13, advertised_min_version: 0 },
    served(ApiKey::Fetch, 4, 17),
    served(ApiKey::ListOffsets, 1, 10),
    served(ApiKey::Metadata, 0, 13),
    served(ApiKey::OffsetCommit, 2, 9),
    served(ApiKey::OffsetFetch, 1, 9),
    served(ApiKey::FindCoordinator, 0, 4),
    served(ApiKey::JoinGroup, 0, 9),
    served(ApiKey::Heartbeat, 0, 4),
    served(ApiKey::LeaveGroup, 0, 5),
    served(ApiKey::SyncGroup, 0, 5),
    served(ApiKey::DescribeGroups, 0, 5),
    served(ApiKey::ListGroups, 0, 5),
    served(ApiKey::SaslHandshake, 0, 1),
    served(ApiKey::ApiVersions, 0, 4),
    served(ApiKey::CreateTopics, 2, 7),
    served(ApiKey::DeleteTopics, 1, 6),
    served(ApiKey::DeleteRecords, 0, 2),
    served(ApiKey::InitProducerId, 0, 5),
    served(ApiKey::OffsetForLeaderEpoch, 2, 4),
    served(ApiKey::AddPartitionsToTxn, 0, 5),
    served(ApiKey::AddOffsetsToTxn, 0, 4),
    served(ApiKey::EndTxn, 0, 5),
    served(ApiKey::WriteTxnMarkers, 1, 1),
    served(ApiKey::TxnOffsetCommit, 0, 5),
    served(ApiKey::DescribeAcls, 1, 3),
    served(ApiKey::CreateAcls, 1, 3),
    served(ApiKey::DeleteAcls, 1, 3),
    served(ApiKey::DescribeConfigs, 1, 4),
    served(ApiKey::AlterConfigs, 0, 2),
    served(ApiKey::DescribeLogDirs, 1, 4),
    served(ApiKey::SaslAuthenticate, 0, 2),
    served(ApiKey::CreatePartitions, 0, 3),
    served(ApiKey::DeleteGroups, 0, 2),
    served(ApiKey::ElectLeaders, 0, 2),
    served(ApiKey::IncrementalAlterConfigs, 0, 1),
    served(ApiKey::AlterPartitionReassignments, 0, 1),
    served(ApiKey::ListPartitionReassignments, 0, 0),
    served(ApiKey::OffsetDelete, 0, 0),
    served(ApiKey::DescribeClientQuotas, 0, 1),
    served(ApiKey::AlterClientQuotas, 0, 1),
    served(ApiKey::DescribeUserScramCredentials, 0, 0),
    served(ApiKey::AlterUserScramCredentials, 0, 0),
    served(ApiKey::DescribeQuorum, 0, 2),
    served(ApiKey::UpdateFeatures, 0, 2),
    served(ApiKey::DescribeCluster, 0, 2),
    served(ApiKey::DescribeProducers, 0, 0),
    served(ApiKey::UnregisterBroker, 0, 0),
    served(ApiKey::DescribeTransactions, 0, 0),
    served(ApiKey::ListTransactions, 0, 1),
    served(ApiKey::ConsumerGroupHeartbeat, 0, 1),
    served(ApiKey::ConsumerGroupDescribe, 0, 1),
    served(ApiKey::ListConfigResources, 0, 1),
    served(ApiKey::DescribeTopicPartitions, 0, 0),
    served(ApiKey::ShareGroupHeartbeat, 1, 1),
    served(ApiKey::ShareGroupDescribe, 1, 1),
    served(ApiKey::ShareFetch, 1, 2),
    served(ApiKey::ShareAcknowledge, 1, 2),
    served(ApiKey::AddRaftVoter, 0, 0),
    served(ApiKey::RemoveRaftVoter, 0, 0),
    served(ApiKey::DescribeShareGroupOffsets, 0, 0),
    served(ApiKey::AlterShareGroupOffsets, 0, 0),
    served(ApiKey::DeleteShareGroupOffsets, 0, 0),
];

/// Everything that is served, sorted by API key.
#[must_use]
pub fn api_versions() -> &'static [Served] {
    SERVED
}

/// The entry of an API key, if it is served.
#[must_use]
pub fn served_api(api_key: i16) -> Option<&'static Served> {
    let index = SERVED.binary_search_by_key(&api_key, |entry| entry.api as i16).ok()?;
    SERVED.get(index)
}

impl Served {
    /// Whether this version is served.
    #[must_use]
    pub fn has(&self, version: i16) -> bool {
        (self.min_version..=self.max_version).contains(&version)
    }
}
