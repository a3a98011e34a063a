//! What must be refused, on which line, with which words.

use super::check;

const CLUSTER: &str = "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nspec:\n  replicas: 1\n";
const TOPIC: &str =
    "apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {name: t}\nspec:\n  clusterRef: {name: c}\n";
const GROUP: &str =
    "apiVersion: wherry.dev/v1alpha1\nkind: ConsumerGroup\nmetadata: {name: g}\nspec:\n  clusterRef: {name: c}\n";
const SUBSCRIBED: &str = "  subscriptions: [{topic: t}]\n";

/// The first error must be on this line and contain all these words.
#[track_caller]
fn refused(text: &str, line: u64, words: &[&str]) {
    let errors = match check(text) {
        Ok(()) => panic!("accepted:\n{text}"),
        Err(errors) => errors,
    };
    let first = errors.0.first().expect("an error");
    let said = first.to_string();
    for word in words {
        assert!(said.contains(word), "{said:?} does not say {word:?}\n{text}");
    }
    assert_eq!(first.line, line, "{said}\n{text}");
    assert_eq!(errors.0.len(), 1, "more than one error: {errors}\n{text}");
}

#[track_caller]
fn cluster(field: &str, words: &[&str]) {
    refused(&format!("{CLUSTER}{field}\n"), 6, words);
}

#[track_caller]
fn topic(field: &str, words: &[&str]) {
    refused(&format!("{CLUSTER}---\n{TOPIC}{field}\n"), 12, words);
}

#[track_caller]
fn group(field: &str, words: &[&str]) {
    let text = format!("{CLUSTER}---\n{TOPIC}---\n{GROUP}{SUBSCRIBED}{field}\n");
    refused(&text, 19, words);
}

#[test]
fn clusters() {
    let table: &[(&str, &[&str])] = &[
        ("  replica: 1", &["unknown field", "replica"]),
        ("  version: 9.9.9", &["spec.version", "9.9.9", "leave it out"]),
        ("  storage: {size: 10Gi}", &["spec.storage", "not built yet", "--data"]),
        ("  listeners: [{name: a, port: 0}]", &["spec.listeners[0].port", "1 to 65535"]),
        ("  listeners: [{name: a, port: 65536}]", &["spec.listeners[0].port", "65536"]),
        ("  listeners: [{name: A!, port: 9092}]", &["spec.listeners[0].name", "lower case"]),
        ("  listeners: [{name: a, port: 9092, type: NodePort}]", &["spec.listeners[0].type", "Internal"]),
        ("  listeners: [{name: a, port: 9092, type: Magic}]", &["Magic"]),
        ("  listeners: [{name: a, port: 9092, tls: {}}]", &["spec.listeners[0].tls", "not encrypted"]),
        ("  listeners: [{name: a, port: 9092, authentication: {type: mtls}}]", &["authentication", "not built yet"]),
        ("  listeners: [{name: a, port: 1}, {name: b, port: 2}]", &["spec.listeners[1]", "only one listener"]),
        ("  listeners: [{name: a}]", &["port"]),
        ("  defaults: {partitions: 0}", &["spec.defaults.partitions", "1 to 10000"]),
        ("  defaults: {partitions: 10001}", &["spec.defaults.partitions", "10001"]),
        ("  defaults: {partitions: many}", &["spec.defaults.partitions"]),
        ("  defaults: {replicas: 3}", &["spec.defaults.replicas", "write 1,"]),
        ("  defaults: {replicas: 0}", &["spec.defaults.replicas", "write 1,"]),
        ("  defaults: {minInSync: 2}", &["spec.defaults.minInSync", "write 1,"]),
        ("  defaults: {durability: Replicated}", &["spec.defaults.durability", "Disk"]),
        ("  rack: {topologyKey: zone}", &["spec.rack", "not built yet"]),
        ("  update: {strategy: Auto}", &["spec.update", "not built yet"]),
        ("  scaleIn: {policy: Drain}", &["spec.scaleIn", "not built yet"]),
        ("  podDisruptionBudget: true", &["spec.podDisruptionBudget", "not built yet"]),
        ("  io: {engine: Spdk}", &["Spdk"]),
        ("  io: {seccompProfile: x.json}", &["spec.io.seccompProfile", "not built yet"]),
        ("  tls: {enabled: true}", &["spec.tls", "not encrypted"]),
        ("  monitoring: {}", &["spec.monitoring", "/metrics"]),
        ("  template: {resources: {}}", &["spec.template", "not built yet"]),
        ("  tenants: [{name: a}]", &["spec.tenants", "not built yet"]),
        ("  allowedNamespaces: [a]", &["spec.allowedNamespaces", "not built yet"]),
        ("  paused: true", &["spec.paused", "not built yet"]),
        ("  paused: yes", &["spec.paused"]),
        ("  stopped: true", &["spec.stopped"]),
        ("  deletionPolicy: Delete", &["spec.deletionPolicy", "Retain"]),
        ("  deletionProtection: false", &["spec.deletionProtection", "true"]),
    ];
    for (field, words) in table {
        cluster(field, words);
    }
}

#[test]
fn topics() {
    let long = format!("  topicName: {}", "x".repeat(250));
    let table: &[(&str, &[&str])] = &[
        ("  partition: 3", &["unknown field", "partition"]),
        ("  partitions: 0", &["Topic t", "spec.partitions", "1 to 10000"]),
        ("  partitions: -3", &["spec.partitions", "-3"]),
        ("  partitions: 3.5", &["spec.partitions"]),
        ("  replicas: 3", &["spec.replicas", "has 1 nodes"]),
        ("  replicas: 6", &["spec.replicas", "1 to 5"]),
        ("  replicas: 0", &["spec.replicas", "1 to 5"]),
        ("  minInSync: 2", &["spec.minInSync", "1 copies"]),
        ("  minInSync: 0", &["spec.minInSync", "1 to 5"]),
        ("  replicas: 2\n  minInSync: 3", &["spec.minInSync", "1 to 2"]),
        ("  topicName: ''", &["spec.topicName"]),
        ("  topicName: ..", &["spec.topicName"]),
        ("  topicName: a/b", &["spec.topicName", "'/'"]),
        ("  topicName: __consumer_offsets", &["spec.topicName", "internal"]),
        (&long, &["spec.topicName", "249"]),
        ("  retention: {time: soon}", &["spec.retention.time", "7d"]),
        ("  retention: {time: 7}", &["spec.retention.time", "7d"]),
        ("  retention: {time: 0s}", &["spec.retention.time", "at once"]),
        ("  retention: {bytes: 10GB}", &["spec.retention.bytes", "10Gi"]),
        ("  retention: {bytes: -1}", &["spec.retention.bytes", "Unlimited"]),
        ("  retention: {bytes: 0}", &["spec.retention.bytes", "at once"]),
        ("  retention: {ms: 3}", &["unknown field", "ms"]),
        ("  retention: 7d", &["spec.retention"]),
        ("  cleanup: Shred", &["Shred"]),
        ("  durability: Replicated", &["spec.durability", "Disk"]),
        ("  compression: Zstd", &["spec.compression", "Producer"]),
        ("  maxMessageBytes: 0", &["spec.maxMessageBytes"]),
        ("  maxMessageBytes: 4Gi", &["spec.maxMessageBytes"]),
        ("  maxMessageBytes: large", &["spec.maxMessageBytes", "10Gi"]),
        ("  dedupe: {window: 0s}", &["spec.dedupe.window", "10m"]),
        ("  dedupe: {window: 31d}", &["spec.dedupe.window", "30d"]),
        ("  dedupe: {window: Forever}", &["spec.dedupe.window", "30d"]),
        ("  dedupe: {maxIds: 5}", &["missing field", "window"]),
        ("  dedupe: {window: 5m, maxIds: 0}", &["spec.dedupe.maxIds"]),
        ("  config: {wherry.dedupe.window.ms: '5'}", &["spec.config", "spec.dedupe.window"]),
        ("  config: {retention.ms: '5'}", &["spec.config", "spec.retention.time"]),
        ("  config: {Segment: '5'}", &["spec.config", "segment.bytes"]),
        ("  deletionPolicy: Delete", &["spec.deletionPolicy", "topic delete"]),
        ("  deletionPolicy: DeleteIfEmpty", &["spec.deletionPolicy", "Retain"]),
        ("  adoption: Force", &["spec.adoption", "IfCompatible"]),
        ("  management: Observe", &["spec.management", "Full"]),
        ("  partitions: 1\n  partitions: 2", &["duplicate"]),
    ];
    for (field, words) in table {
        if field.lines().count() == 1 {
            topic(field, words);
        } else {
            refused(&format!("{CLUSTER}---\n{TOPIC}{field}\n"), 13, words);
        }
    }
}

#[test]
fn groups() {
    let long = format!("  groupId: {}", "x".repeat(256));
    let table: &[(&str, &[&str])] = &[
        ("  modes: Stream", &["unknown field", "modes"]),
        ("  mode: Queue", &["ConsumerGroup g", "spec.mode", "Stream"]),
        ("  mode: Broadcast", &["spec.mode", "Stream"]),
        ("  mode: queue", &["queue"]),
        ("  groupId: ''", &["spec.groupId", "metadata.name"]),
        ("  groupId: \"a\\nb\"", &["spec.groupId", "control"]),
        (&long, &["spec.groupId", "255"]),
        ("  initialOffset: Middle", &["Middle"]),
        ("  paused: true", &["spec.paused", "not built yet"]),
        ("  delivery: {maxAttempts: 5}", &["spec.delivery", "not built yet"]),
        ("  reset: {id: a, to: Earliest}", &["spec.reset", "group reset"]),
        ("  autoscale: {min: 1}", &["spec.autoscale", "not built yet"]),
        ("  deletionPolicy: Delete", &["spec.deletionPolicy", "group delete"]),
    ];
    for (field, words) in table {
        group(field, words);
    }
}

#[test]
fn subscriptions() {
    let table: &[(&str, &[&str])] = &[
        ("  subscriptions: []", &["spec.subscriptions", "is empty"]),
        ("  subscriptions: [{topic: t}, {topic: t}]", &["spec.subscriptions[1].topic", "already"]),
        ("  subscriptions: [{topic: t, filter: 'a = 1'}]", &["spec.subscriptions[0].filter", "not built yet"]),
        ("  subscriptions: [{topic: unknown}]", &["spec.subscriptions[0].topic", "declare it"]),
        ("  subscriptions: [{topic: 'a b'}]", &["spec.subscriptions[0].topic", "' '"]),
        ("  subscriptions: [t]", &["spec.subscriptions[0]"]),
    ];
    for (field, words) in table {
        refused(&format!("{CLUSTER}---\n{TOPIC}---\n{GROUP}{field}\n"), 18, words);
    }
}

#[test]
fn documents() {
    let table: &[(&str, u64, &[&str])] = &[
        ("", 0, &["no resource"]),
        ("# only a comment\n---\n", 0, &["no resource"]),
        ("just text\n", 1, &["apiVersion", "missing"]),
        ("- a\n- b\n", 1, &["apiVersion", "missing"]),
        ("kind: Topic\n", 1, &["apiVersion", "missing"]),
        ("apiVersion: v1\nkind: Pod\n", 1, &["apiVersion", "wherry.dev/v1alpha1"]),
        ("apiVersion: wherry.dev/v1alpha1\n", 1, &["kind", "missing"]),
        ("apiVersion: wherry.dev/v1alpha1\nkind: Queue\n", 2, &["kind", "Queue", "ConsumerGroup"]),
        ("apiVersion: wherry.dev/v1alpha1\nkind: Cluster\n", 2, &["missing field", "metadata"]),
        ("apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {}\n", 3, &["name"]),
        ("apiVersion: [unclosed\n", 1, &["not YAML"]),
        ("a: b: c\n", 1, &["not YAML"]),
        (
            "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: C}\nspec: {replicas: 1}\n",
            3,
            &["metadata.name"],
        ),
        (
            "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nspec: {replicas: 2}\n",
            4,
            &["spec.replicas", "1, 3 or 5"],
        ),
        ("apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nstatus: {}\n", 4, &["status"]),
        (
            "apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {name: t}\nspec: {clusterRef: {name: c}}\n",
            0,
            &["no Cluster"],
        ),
    ];
    for (text, line, words) in table {
        refused(text, *line, words);
    }
}

#[test]
fn sets() {
    refused(&format!("{CLUSTER}---\n{}", CLUSTER.replace("name: c", "name: b")), 8, &["second Cluster"]);
    refused(&format!("{CLUSTER}---\n{TOPIC}---\n{TOPIC}"), 15, &["metadata.name", "earlier Topic"]);
    refused(
        &format!("{CLUSTER}---\n{TOPIC}---\n{}", TOPIC.replace("name: t", "name: u") + "  topicName: t\n"),
        18,
        &["spec.topicName", "earlier Topic"],
    );
    refused(
        &format!("{CLUSTER}---\n{}", TOPIC.replace("name: c", "name: other")),
        11,
        &["spec.clusterRef.name", "write c"],
    );
}

#[test]
fn bounds() {
    let big = format!("{CLUSTER}# {}\n", "x".repeat(super::super::YAML_BYTES_MAX));
    refused(&big, 0, &["split it"]);
    let bomb = format!("{CLUSTER}  template: &a [x, x]\n  tenants: [*a, *a]\n");
    assert!(check(&bomb).is_err(), "refused as not built, aliases or not");
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = format!("{CLUSTER}  tls: {{}}\n---\n{TOPIC}  partitions: 0\n  replicas: 9\n");
    let errors = check(&text).expect_err("bad");
    let lines: Vec<_> = errors.0.iter().map(|e| e.line).collect();
    assert_eq!(lines, [6, 13, 14], "{errors}");
}
