//! DescribeConfigs: every setting of a topic, of a group or of this node, where it comes from, and what it means.

use std::collections::BTreeSet;
use wherry_metadata::acl::Operation;

use wherry_metadata::{ConfigKey, ConfigKind, Topic};

use super::errors::{ApiError, shown};
use super::{Ctx, Outcome, configs};
use crate::core::Core;
use crate::core::store::LogStore;
use wherry_wire::codec::messages::describe_configs_request::DescribeConfigsResource;
use wherry_wire::codec::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use wherry_wire::codec::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use wherry_wire::codec::{ResponseError, StrBytes};

/// Answers for each resource.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &DescribeConfigsRequest) -> Outcome {
    let detail = Detail { synonyms: request.include_synonyms, documentation: request.include_documentation };
    let mut seen = BTreeSet::new();
    let results = request
        .resources
        .iter()
        // Each once, however often it is named: a small request must not make a huge response (INV-8).
        .filter(|resource| seen.insert((resource.resource_type, resource.resource_name.as_str())))
        .map(|resource| {
            let mut result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match describe(core, ctx, resource, detail) {
                Ok(entries) => result.configs = entries,
                Err(error) => {
                    result.error_code = error.code();
                    result.error_message = error.text();
                }
            }
            result
        })
        .collect();
    ctx.reply(&DescribeConfigsResponse::default().with_results(results))
}

#[derive(Debug, Clone, Copy)]
struct Detail {
    synonyms: bool,
    documentation: bool,
}

fn describe<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    resource: &DescribeConfigsResource,
    detail: Detail,
) -> Result<Vec<DescribeConfigsResourceResult>, ApiError> {
    let wanted = |name: &str| match &resource.configuration_keys {
        None => true,
        Some(keys) => keys.iter().any(|key| key.as_str() == name),
    };
    match resource.resource_type {
        configs::TOPIC => {
            let topic = core.topic_for(ctx, Operation::DescribeConfigs, &resource.resource_name)?;
            let keys = wherry_metadata::config_keys().iter().filter(|key| wanted(key.name));
            Ok(keys.map(|key| topic_entry(topic, key, detail)).collect())
        }
        configs::GROUP if !core.allows_group(ctx, Operation::DescribeConfigs, &resource.resource_name) => {
            Err(ResponseError::GroupAuthorizationFailed.into())
        }
        configs::GROUP if resource.resource_name.is_empty() => {
            Err(ApiError::new(ResponseError::InvalidRequest, "Group name must not be empty"))
        }
        configs::GROUP => {
            let keys = wherry_metadata::group_config_keys().iter().filter(|key| wanted(key.name));
            Ok(keys.map(|key| group_entry(core, &resource.resource_name, key, detail)).collect())
        }
        configs::BROKER if !core.allows_cluster(ctx, Operation::DescribeConfigs) => {
            Err(ResponseError::ClusterAuthorizationFailed.into())
        }
        configs::BROKER => {
            check_node(core, &resource.resource_name)?;
            Ok(node_settings(core).into_iter().filter(|s| wanted(s.name)).map(|s| node_entry(s, detail)).collect())
        }
        other => Err(ApiError::new(
            ResponseError::InvalidRequest,
            format!("resources of type {other} have no configuration here"),
        )),
    }
}

fn topic_entry(topic: &Topic, key: &'static ConfigKey, detail: Detail) -> DescribeConfigsResourceResult {
    let set = topic.overrides.get(key.name).cloned();
    entry(key, (set, configs::SOURCE_TOPIC), (key.default.to_owned(), configs::SOURCE_DEFAULT), detail)
}

/// Where nothing is set for the group, this node's own setting counts.
fn group_entry<S: LogStore>(
    core: &Core<S>,
    group: &str,
    key: &'static ConfigKey,
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let set = core.meta.group_config(group, key.name).map(ToOwned::to_owned);
    let own = node_settings(core).into_iter().find(|setting| setting.name == key.broker_name);
    let own = own.map_or_else(|| key.default.to_owned(), |setting| setting.value);
    let source = if own == key.default { configs::SOURCE_DEFAULT } else { configs::SOURCE_STATIC_BROKER };
    entry(key, (set, configs::SOURCE_GROUP), (own, source), detail)
}

/// What is set, if anything is, and what counts where nothing is; each with where it comes from.
fn entry(
    key: &'static ConfigKey,
    (set, set_source): (Option<String>, i8),
    (default, default_source): (String, i8),
    detail: Detail,
) -> DescribeConfigsResourceResult {
    let (set, default) = (set.map(StrBytes::from_string), StrBytes::from_string(default));
    let source = if set.is_some() { set_source } else { default_source };
    let mut entry = DescribeConfigsResourceResult::default();
    entry.name = StrBytes::from_static_str(key.name);
    entry.config_source = source;
    entry.config_type = configs::type_number(key.kind);
    if detail.synonyms {
        let synonym = |name, value, source| {
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(value))
                .with_source(source)
        };
        let own = set.clone().map(|value| synonym(key.name, value, set_source));
        entry.synonyms = own.into_iter().collect();
        entry.synonyms.push(synonym(key.broker_name, default.clone(), default_source));
    }
    if detail.documentation {
        entry.documentation = Some(StrBytes::from_static_str(key.doc));
    }
    entry.value = Some(set.unwrap_or(default));
    entry
}

/// One setting of this node, by the name that tools know.
struct Setting {
    name: &'static str,
    value: String,
    kind: ConfigKind,
    doc: &'static str,
}

fn check_node<S: LogStore>(core: &Core<S>, name: &str) -> Result<(), ApiError> {
    let ours = core.config.node_id;
    // Without a name: the defaults of all nodes, which are the same as this one's.
    if name.is_empty() || name.parse() == Ok(ours) {
        return Ok(());
    }
    let text = format!("this is node {ours}; ask node {} for its own settings", shown(name));
    Err(ApiError::new(ResponseError::InvalidRequest, text))
}

/// As Kafka writes them: `NAME://host:port`, with commas between.
fn addresses<S: LogStore>(core: &Core<S>) -> (String, String) {
    let (mut advertised, mut listeners) = (Vec::new(), Vec::new());
    for listener in &core.listeners {
        let at = core.endpoints.by_name.get(&listener.name).unwrap_or(&core.endpoints.internal);
        advertised.push(format!("{}://{}:{}", listener.name, at.host, at.port));
        listeners.push(format!("{}://{}:{}", listener.name, listener.listen.ip(), listener.listen.port()));
    }
    (advertised.join(","), listeners.join(","))
}

fn node_settings<S: LogStore>(core: &Core<S>) -> Vec<Setting> {
    let config = &core.config;
    let setting = |name, value: String, kind, doc| Setting { name, value, kind, doc };
    let (advertised, listeners) = addresses(core);
    let mut all = vec![
        setting("advertised.listeners", advertised, ConfigKind::String, "Where clients are told to connect."),
        setting(
            "auto.create.topics.enable",
            config.auto_create_topics.to_string(),
            ConfigKind::Boolean,
            "Whether asking for an unknown topic makes it.",
        ),
        setting("broker.id", config.node_id.to_string(), ConfigKind::Int, "Id of this node."),
        setting("default.replication.factor", "1".into(), ConfigKind::Int, "Replicas of a topic that does not say."),
        setting(
            "group.consumer.heartbeat.interval.ms",
            config.group_consumer_heartbeat_interval_ms.to_string(),
            ConfigKind::Int,
            "How often members of consumer groups are to send a heartbeat.",
        ),
        setting(
            "group.consumer.session.timeout.ms",
            config.group_consumer_session_timeout_ms.to_string(),
            ConfigKind::Int,
            "Silence after which a member of a consumer group is out.",
        ),
        setting(
            "group.share.delivery.count.limit",
            config.group_share_delivery_count_limit.to_string(),
            ConfigKind::Int,
            "Deliveries of one record to members of a share group.",
        ),
        setting(
            "group.share.heartbeat.interval.ms",
            config.group_share_heartbeat_interval_ms.to_string(),
            ConfigKind::Int,
            "How often members of share groups are to send a heartbeat.",
        ),
        setting(
            "group.share.partition.max.record.locks",
            config.group_share_partition_max_record_locks.to_string(),
            ConfigKind::Int,
            "Records of one partition that members of a share group may have at once.",
        ),
        setting(
            "group.share.record.lock.duration.ms",
            config.group_share_record_lock_duration_ms.to_string(),
            ConfigKind::Int,
            "How long a member of a share group may keep a record.",
        ),
        setting(
            "group.share.session.timeout.ms",
            config.group_share_session_timeout_ms.to_string(),
            ConfigKind::Int,
            "Silence after which a member of a share group is out.",
        ),
        setting("listeners", listeners, ConfigKind::String, "Address that is served."),
        setting(
            "log.dirs",
            config.data_dir.display().to_string(),
            ConfigKind::String,
            "Directory of everything that lasts.",
        ),
        setting("node.id", config.node_id.to_string(), ConfigKind::Int, "Id of this node."),
        setting(
            "num.partitions",
            config.default_partitions.to_string(),
            ConfigKind::Int,
            "Partitions of a topic that does not say.",
        ),
        setting(
            "socket.request.max.bytes",
            config.limits.request_bytes.to_string(),
            ConfigKind::Int,
            "Largest request in bytes.",
        ),
    ];
    if let Some(rack) = &config.rack {
        all.push(setting("broker.rack", rack.clone(), ConfigKind::String, "Failure domain."));
    }
    let topic_defaults = wherry_metadata::config_keys().iter();
    all.extend(topic_defaults.map(|k| setting(k.broker_name, k.default.to_owned(), k.kind, k.doc)));
    all
}

fn node_entry(setting: Setting, detail: Detail) -> DescribeConfigsResourceResult {
    let mut entry = DescribeConfigsResourceResult::default();
    entry.name = StrBytes::from_static_str(setting.name);
    entry.read_only = true;
    entry.config_source = configs::SOURCE_STATIC_BROKER;
    entry.config_type = configs::type_number(setting.kind);
    let value = StrBytes::from_string(setting.value);
    if detail.synonyms {
        entry.synonyms = vec![
            DescribeConfigsSynonym::default()
                .with_name(entry.name.clone())
                .with_value(Some(value.clone()))
                .with_source(configs::SOURCE_STATIC_BROKER),
        ];
    }
    if detail.documentation {
        entry.documentation = Some(StrBytes::from_static_str(setting.doc));
    }
    entry.value = Some(value);
    entry
}
