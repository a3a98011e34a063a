//! DescribeCluster: the nodes.

use super::metadata::{OPERATIONS_UNKNOWN, controller};
use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_metadata::Broker;
use wherry_wire::codec::messages::describe_cluster_response::DescribeClusterBroker;
use wherry_wire::codec::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

const BROKERS: i8 = 1;

/// Answers with the running nodes; controllers can't be asked for, since there are none apart.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeClusterRequest) -> Outcome {
    let mut response = DescribeClusterResponse::default();
    if ctx.version >= 1 && request.endpoint_type != BROKERS {
        response.error_code = ResponseError::UnsupportedEndpointType.code();
        response.error_message = Some(StrBytes::from_static_str("only the endpoints of brokers can be listed"));
        response.endpoint_type = BROKERS;
        return ctx.reply(&response);
    }
    response.cluster_id = StrBytes::from_string(core.meta.cluster_id().unwrap_or_default().to_owned());
    response.controller_id = BrokerId(controller(core));
    response.cluster_authorized_operations =
        if request.include_cluster_authorized_operations { core.cluster_operations(ctx) } else { OPERATIONS_UNKNOWN };
    let asked = |broker: &&Broker| !broker.fenced || request.include_fenced_brokers;
    let listener = core.listener_name(ctx.caller.listener);
    response.brokers =
        core.meta.brokers().values().filter(asked).filter_map(|broker| described(broker, listener)).collect();
    ctx.reply(&response)
}

/// None: clients of that listener can't reach it.
fn described(broker: &Broker, listener: &str) -> Option<DescribeClusterBroker> {
    let (host, port) = broker.address(listener)?;
    let described = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(broker.node_id))
        .with_host(StrBytes::from_string(host.to_owned()))
        .with_port(i32::from(port))
        .with_rack(broker.rack.clone().map(StrBytes::from_string))
        .with_is_fenced(broker.fenced);
    Some(described)
}
