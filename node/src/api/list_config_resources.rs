//! ListConfigResources (KIP-1142), which was ListClientMetricsResources in version 0: what has, or may have, a configuration.

use super::{Ctx, Outcome, configs};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_wire::codec::messages::list_config_resources_response::ConfigResource;
use wherry_wire::codec::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

/// First version that says which types.
const TYPES_FROM: i16 = 1;
/// All types, in the order of the answer.
const TYPES: [i8; 5] =
    [configs::GROUP, configs::CLIENT_METRICS, configs::BROKER_LOGGER, configs::BROKER, configs::TOPIC];

/// Answers from the metadata.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &ListConfigResourcesRequest) -> Outcome {
    let mut response = ListConfigResourcesResponse::default();
    if request.resource_types.iter().any(|asked| !TYPES.contains(asked)) {
        response.error_code = ResponseError::UnsupportedVersion.code();
        return ctx.reply(&response);
    }
    let is_wanted = |of: i8| match ctx.version {
        TYPES_FROM.. => request.resource_types.is_empty() || request.resource_types.contains(&of),
        _ => of == configs::CLIENT_METRICS,
    };
    for of in TYPES.into_iter().filter(|of| is_wanted(*of)) {
        let resource = |name: String| {
            let mut resource = ConfigResource::default().with_resource_name(StrBytes::from_string(name));
            if ctx.version >= TYPES_FROM {
                resource.resource_type = of;
            }
            resource
        };
        response.config_resources.extend(names(core, of).into_iter().map(resource));
    }
    ctx.reply(&response)
}

fn names<S: LogStore>(core: &Core<S>, of: i8) -> Vec<String> {
    match of {
        configs::TOPIC => core.meta.topics_from("").map(|topic| topic.name.to_string()).collect(),
        configs::BROKER | configs::BROKER_LOGGER => core.meta.brokers().keys().map(ToString::to_string).collect(),
        configs::GROUP => core.meta.configured_groups().map(ToOwned::to_owned).collect(),
        // Nobody can subscribe to clients' metrics here.
        _ => Vec::new(),
    }
}
