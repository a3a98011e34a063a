//! Which version of a call two sides share. Pure.

use std::collections::HashMap;

use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::protocol::{Message, Request, VersionRange};

use super::codec;

/// What a broker serves, by API key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions {
    served: HashMap<i16, VersionRange, foldhash::fast::RandomState>,
}

/// Ours end where a topic is no longer known by its name, or where we don't use what came later.
fn ours<R: Request>() -> VersionRange {
    let all = <R as Message>::VERSIONS;
    let max = match R::KEY {
        0 | 1 => 12,  // Produce, Fetch: 13 on knows topics by id only
        8 | 9 => 9,   // OffsetCommit, OffsetFetch: as well from 10 on
        11 => 9,      // JoinGroup
        24 => 3,      // AddPartitionsToTxn: brokers only from 4 on
        26 | 28 => 4, // EndTxn, TxnOffsetCommit: 5 on are of transactions of the second version
        32 => 4,      // DescribeConfigs
        _ => i16::MAX,
    };
    let reverse = <R::Response as Message>::VERSIONS;
    VersionRange { min: all.min.max(reverse.min), max: all.max.min(reverse.max).min(max) }
}

impl Versions {
    pub(crate) fn new(response: &ApiVersionsResponse) -> Self {
        let served = response.api_keys.iter();
        Self { served: served.map(|k| (k.api_key, VersionRange { min: k.min_version, max: k.max_version })).collect() }
    }

    /// The highest version of `R` that both sides speak.
    pub(crate) fn choose<R: Request>(&self) -> Option<i16> {
        let both = self.served.get(&R::KEY)?.intersect(&ours::<R>());
        (both.min..=both.max).rev().find(|version| codec::reads(R::KEY, *version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::{MetadataRequest, ProduceRequest};

    fn serving(key: i16, min: i16, max: i16) -> Versions {
        let api = ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max);
        Versions::new(&ApiVersionsResponse::default().with_api_keys(vec![api]))
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        assert_eq!(serving(3, 0, 5).choose::<MetadataRequest>(), Some(5));
        assert_eq!(serving(0, 0, 13).choose::<ProduceRequest>(), Some(12));
        assert_eq!(serving(0, 3, 7).choose::<ProduceRequest>(), Some(7));
    }

    #[test]
    fn nothing_in_common_is_no_version() {
        assert_eq!(serving(0, 0, 2).choose::<ProduceRequest>(), None);
        assert_eq!(serving(0, 14, 20).choose::<ProduceRequest>(), None);
        assert_eq!(serving(1, 0, 12).choose::<ProduceRequest>(), None);
    }
}
