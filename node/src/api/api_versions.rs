//! ApiVersions: which requests are served in which versions, and which features are finalized.

use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_wire::codec::messages::ApiVersionsRequest;
use wherry_wire::codec::messages::ApiVersionsResponse;
use wherry_wire::codec::messages::api_versions_response::ApiVersion;
use wherry_wire::codec::{self, ResponseError, StrBytes};

/// Answers with the table.
pub(crate) fn handle<S: LogStore>(_: &mut Core<S>, ctx: &Ctx, request: &ApiVersionsRequest) -> Outcome {
    let mut response = table();
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
    response.finalized_features_epoch = 0;
    response
}

/// KIP-511: letters, digits, '-' and '.', beginning and ending with a letter or digit.
fn valid(software: &StrBytes) -> bool {
    let bytes = software.as_str().as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}
