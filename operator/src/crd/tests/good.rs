//! What must be accepted, with the defaults that it means.

use super::super::*;
use super::check;

const ALL: &str = "\
# A comment first.
apiVersion: wherry.dev/v1alpha1
kind: Cluster
metadata: {name: shop}
spec:
  replicas: 1
  listeners: [{name: clients, port: 9092, type: Internal}]
  defaults: {partitions: 6, replicas: 1, minInSync: 1, durability: Disk}
  io: {engine: Threads}
---
apiVersion: wherry.dev/v1alpha1
kind: Topic
metadata: {name: orders, labels: {team: shop}, annotations: {note: x}}
spec:
  clusterRef: {name: shop}
  topicName: Orders_v1
  partitions: 12
  retention: {time: 7d, bytes: 10Gi}
  cleanup: Compact
  maxMessageBytes: 2Mi
  dedupe: {window: 10m, maxIds: 100000}
  config: {segment.bytes: '16777216'}
---
---
apiVersion: wherry.dev/v1alpha1
kind: ConsumerGroup
metadata: {name: billing}
spec:
  clusterRef: {name: shop}
  groupId: Billing Service
  mode: Stream
  initialOffset: Latest
  subscriptions: [{topic: Orders_v1}]
...
";

#[test]
fn everything_that_is_built_is_accepted() {
    check(ALL).unwrap();
    let documents = load("all.yaml", ALL).unwrap();
    let kinds: Vec<_> = documents.iter().map(|document| document.resource.kind()).collect();
    assert_eq!(kinds, ["Cluster", "Topic", "ConsumerGroup"]);
}

#[test]
fn values_mean_what_the_wire_says() {
    let documents = load("all.yaml", ALL).unwrap();
    let Some(Resource::Topic(topic)) = documents.get(1).map(|d| &d.resource) else { panic!("no topic") };
    assert_eq!(topic.topic_name(), "Orders_v1");
    let config: Vec<_> = topic.wire_config().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        config,
        [
            "retention.ms=604800000",
            "retention.bytes=10737418240",
            "cleanup.policy=compact",
            "max.message.bytes=2097152",
            "wherry.dedupe.window.ms=600000",
            "wherry.dedupe.max.ids=100000",
            "segment.bytes=16777216"
        ]
    );
    let Some(Resource::ConsumerGroup(group)) = documents.get(2).map(|d| &d.resource) else { panic!("no group") };
    assert_eq!(group.group_id(), "Billing Service");
    assert_eq!(group.spec.initial_offset, InitialOffset::Latest);
    let Some(Resource::Cluster(cluster)) = documents.first().map(|d| &d.resource) else { panic!("no cluster") };
    assert_eq!(cluster.port(), Some(9092));
}

#[test]
fn defaults_are_those_of_the_resources() {
    let text = "apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {name: t}\nspec: {clusterRef: {name: c}}\n";
    let documents = load("t.yaml", text).unwrap();
    let Some(Resource::Topic(topic)) = documents.first().map(|d| &d.resource) else { panic!("no topic") };
    assert_eq!(topic.topic_name(), "t");
    assert_eq!(topic.spec.partitions, None);
    assert_eq!(topic.spec.deletion_policy, DeletionPolicy::Retain);
    assert_eq!(topic.spec.adoption, Adoption::IfCompatible);
    assert!(topic.wire_config().is_empty(), "an absent setting is not managed");
    assert_eq!(ClusterSpec::default().replicas, 3);
    assert_eq!(ClusterSpec::default().defaults.partitions, 3);
    assert!(ClusterSpec::default().deletion_protection);
}

#[test]
fn forever_and_unlimited() {
    let text = "apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {name: t}\nspec:\n  clusterRef: {name: c}\n  retention: {time: Forever, bytes: Unlimited}\n";
    let documents = load("t.yaml", text).unwrap();
    let Some(Resource::Topic(topic)) = documents.first().map(|d| &d.resource) else { panic!("no topic") };
    let config: Vec<_> = topic.wire_config().into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(config, ["retention.ms=-1", "retention.bytes=-1"]);
}

#[test]
fn what_is_written_out_reads_back() {
    for document in load("all.yaml", ALL).unwrap() {
        let text = serde_json::to_string(&document.resource).unwrap();
        // JSON is YAML.
        let again = load("again.json", &text).unwrap();
        assert_eq!(again.first().map(|d| &d.resource), Some(&document.resource));
    }
}

#[test]
fn the_quickstart_is_good() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/quickstart.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents = load(path, &text).unwrap();
    check_set(&documents).unwrap();
}

#[test]
fn copies_follow_from_the_cluster_unless_the_topic_says() {
    let text = |spec: &str, topic: &str| {
        format!(
            "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {{name: c}}\nspec: {{{spec}}}\n---\n\
             apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {{name: t}}\nspec: {{clusterRef: {{name: c}}{topic}}}\n"
        )
    };
    let copies = |spec: &str, topic: &str| {
        let text = text(spec, topic);
        check(&text).unwrap();
        let documents = load("all.yaml", &text).unwrap();
        let [Resource::Cluster(cluster), Resource::Topic(topic)] =
            &documents.iter().map(|d| d.resource.clone()).collect::<Vec<_>>()[..]
        else {
            panic!("not both")
        };
        (topic.replicas_in(&cluster.spec), topic.min_in_sync_in(&cluster.spec))
    };
    assert_eq!(copies("", ""), (3, 2));
    assert_eq!(copies("replicas: 1", ""), (1, 1));
    assert_eq!(copies("replicas: 5", ""), (3, 2));
    assert_eq!(copies("replicas: 5, defaults: {replicas: 5}", ""), (5, 3));
    assert_eq!(copies("defaults: {minInSync: 1}", ""), (3, 1));
    assert_eq!(copies("", ", replicas: 1"), (1, 1), "the default minimum would be out of reach");
    assert_eq!(copies("", ", replicas: 2, minInSync: 2"), (2, 2));
}
