//! UpdateFeatures (KIP-584): levels of features are raised and lowered, all of a request or none.

use std::collections::BTreeMap;

use wherry_metadata::{Change, Command, MetadataError};

use super::errors::{ApiError, shown};
use super::{Ctx, Outcome};
use crate::core::store::LogStore;
use crate::core::{AfterCommit, Core};
use wherry_wire::codec::messages::UpdateFeaturesRequest;
use wherry_wire::codec::messages::UpdateFeaturesResponse;
use wherry_wire::codec::messages::update_features_request::FeatureUpdateKey;
use wherry_wire::codec::messages::update_features_response::UpdatableFeatureResult;
use wherry_wire::codec::{ResponseError, StrBytes};

/// First version that says which way a level may go.
const TYPE_FROM: i16 = 1;
/// First version without a verdict for each feature.
const NO_RESULTS_FROM: i16 = 2;
const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

/// A request whose command is on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    ctx: Ctx,
    features: Vec<StrBytes>,
}

/// Proposes the levels.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &UpdateFeaturesRequest) -> Outcome {
    let features = request.feature_updates.iter().map(|update| update.feature.clone()).collect();
    let pending = Pending { ctx: ctx.clone(), features };
    let command = match levels(core, ctx, request) {
        Ok(levels) => Command::UpdateFeatures { levels },
        Err(error) => return answer(&pending, Some(&error)),
    };
    if let Err(error) = core.meta.check(&command) {
        return answer(&pending, Some(&ApiError::from(&error)));
    }
    if ctx.version >= TYPE_FROM && request.validate_only {
        return answer(&pending, None);
    }
    match core.propose(vec![command], AfterCommit::UpdateFeatures(Box::new(pending))) {
        Ok(()) => Outcome::LaterAlone,
        Err((error, AfterCommit::UpdateFeatures(pending))) => answer(&pending, Some(&ApiError::from(&error))),
        Err((error, _)) => Outcome::Close(error.to_string()),
    }
}

fn levels<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    request: &UpdateFeaturesRequest,
) -> Result<BTreeMap<String, i16>, ApiError> {
    let mut levels = BTreeMap::new();
    for update in &request.feature_updates {
        check_direction(core, ctx, update)?;
        if levels.insert(update.feature.to_string(), update.max_version_level.max(0)).is_some() {
            let text = format!("the feature {} is named twice", shown(&update.feature));
            return Err(ApiError::new(ResponseError::InvalidRequest, text));
        }
    }
    if levels.is_empty() {
        return Err(ApiError::new(
            ResponseError::InvalidRequest,
            "Can not provide empty FeatureUpdates to be updated.",
        ));
    }
    Ok(levels)
}

/// Nobody lowers a level by mistake.
fn check_direction<S: LogStore>(core: &Core<S>, ctx: &Ctx, update: &FeatureUpdateKey) -> Result<(), ApiError> {
    let now = core.meta.feature_level(&update.feature).unwrap_or(0);
    let may_lower = match (ctx.version, update.upgrade_type) {
        (TYPE_FROM.., UPGRADE) => false,
        (TYPE_FROM.., SAFE_DOWNGRADE | UNSAFE_DOWNGRADE) => true,
        (TYPE_FROM.., other) => {
            let text = format!("unknown type of upgrade {other}");
            return Err(ApiError::new(ResponseError::InvalidUpdateVersion, text));
        }
        _ => update.allow_downgrade,
    };
    if update.max_version_level < now && !may_lower {
        let text = format!(
            "Invalid update version {} for feature {}. Can't downgrade the version of this feature without setting the \
             upgrade type to either safe or unsafe downgrade.",
            update.max_version_level,
            shown(&update.feature)
        );
        return Err(ApiError::new(ResponseError::InvalidUpdateVersion, text));
    }
    Ok(())
}

/// Goes on when the command is committed.
pub(crate) fn committed<S: LogStore>(
    core: &mut Core<S>,
    pending: &Pending,
    results: Vec<Result<Change, MetadataError>>,
) {
    let error = results.into_iter().find_map(Result::err).map(|error| ApiError::from(&error));
    let outcome = answer(pending, error.as_ref());
    core.finish(pending.ctx.id, outcome);
}

fn answer(pending: &Pending, error: Option<&ApiError>) -> Outcome {
    let mut body = UpdateFeaturesResponse::default();
    body.error_code = error.map_or(0, ApiError::code);
    body.error_message = error.and_then(ApiError::text);
    if pending.ctx.version < NO_RESULTS_FROM && error.is_none() {
        let result = |feature: &StrBytes| UpdatableFeatureResult::default().with_feature(feature.clone());
        body.results = pending.features.iter().map(result).collect();
    }
    pending.ctx.reply(&body)
}
