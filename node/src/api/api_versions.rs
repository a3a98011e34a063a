//! ApiVersions: which requests are served in which versions, and which features are finalized.

use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_metadata::Metadata;
use wherry_wire::codec::messages::ApiVersionsRequest;
use wherry_wire::codec::messages::ApiVersionsResponse;
use wherry_wire::codec::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use wherry_wire::codec::{self, ResponseError, StrBytes};

/// First version with features.
const FEATURES_FROM: i16 = 3;
/// First version in which the lowest level of a feature may be 0.
const LEVEL_ZERO_FROM: i16 = 4;

/// Answers with the table.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ApiVersionsRequest) -> Outcome {
    let mut response = table();
    if ctx.version >= FEATURES_FROM {
        add_features(&core.meta, ctx, &mut response);
    }
    if ctx.version >= 3 && !(valid(&request.client_software_name) && valid(&request.client_software_version)) {
        response = ApiVersionsResponse::default();
        response.error_code = ResponseError::InvalidRequest.code();
    }
    ctx.reply(&response)
}

/// Answers a version that is not known, in version 0, with the table: the client picks one and asks again.
pub(crate) fn unsupported(ctx: &Ctx) -> Outcome {
    let mut response = table();
    response.error_code = ResponseError::UnsupportedVersion.code();
    ctx.reply(&response)
}

fn table() -> ApiVersionsResponse {
    let mut response = ApiVersionsResponse::default();
    response.api_keys = codec::api_versions()
        .iter()
        .map(|served| {
            ApiVersion::default()
                .with_api_key(served.api as i16)
                .with_min_version(served.advertised_min_version)
                .with_max_version(served.max_version)
        })
        .collect();
    response
}

fn add_features(meta: &Metadata, ctx: &Ctx, response: &mut ApiVersionsResponse) {
    for feature in wherry_metadata::features() {
        let name = StrBytes::from_static_str(feature.name);
        // Older clients take a lowest level of 0 for malformed (KAFKA-17011).
        if feature.min > 0 || ctx.version >= LEVEL_ZERO_FROM {
            let supported = SupportedFeatureKey::default().with_name(name.clone());
            response.supported_features.push(supported.with_min_version(feature.min).with_max_version(feature.max));
        }
        // One at level 0 is as good as not there.
        if let Some(level) = meta.feature_level(feature.name).filter(|level| *level > 0) {
            let finalized = FinalizedFeatureKey::default().with_name(name);
            response.finalized_features.push(finalized.with_min_version_level(level).with_max_version_level(level));
        }
    }
    response.finalized_features_epoch = meta.features_epoch();
}

/// KIP-511: letters, digits, '-' and '.', beginning and ending with a letter or digit.
fn valid(software: &StrBytes) -> bool {
    let bytes = software.as_str().as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}
