//! The binary as a person uses it: `up` with the quickstart, messages in and out, a restart, and what is refused.

mod support;

use serde_json::Value;
use support::{Up, json, wherry};

#[test]
fn the_quickstart_works_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let up = Up::start(&data, true);
    let produced =
        wherry(&up, &["produce", "orders", "--key-separator", ":", "--codec", "zstd"], "alice:1\nbob:2\nalice:3\n");
    assert!(produced.ok, "{produced:?}");
    let topics = json(&wherry(&up, &["topic", "list", "--output", "json"], ""));
    let names: Vec<_> = topics.as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["customers", "orders"]);
    // The group was given its first position, so its lag counts from the beginning.
    let group = json(&wherry(&up, &["group", "describe", "billing", "--output", "json"], ""));
    assert_eq!(group["lag"], 3);
    up.stop();

    let up = Up::start(&data, true);
    let read = wherry(&up, &["consume", "orders", "--from", "earliest", "--until-end", "--format", "%k=%v\\n"], "");
    let mut lines: Vec<_> = read.stdout.lines().collect();
    // Order holds per key.
    lines.sort_by_key(|line| line.split('=').next().unwrap_or_default().to_owned());
    assert_eq!(lines, ["alice=1", "alice=3", "bob=2"], "{read:?}");
    let mine = wherry(&up, &["consume", "orders", "--group", "billing", "--max", "3", "--output", "json"], "");
    assert!(mine.ok, "{mine:?}");
    let values: Vec<Value> = mine.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 3, "{mine:?}");
    let group = json(&wherry(&up, &["group", "describe", "billing", "--output", "json"], ""));
    assert_eq!(group["lag"], 0, "what was printed is acknowledged");
    up.stop();

    let inspected = support::alone(&["log", "inspect", &data.display().to_string(), "--verify", "--json"]);
    assert!(inspected.ok, "{inspected:?}");
    assert_eq!(json(&inspected)["problems"], serde_json::json!([]));
}

#[test]
fn topics_and_groups_through_their_lives() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), false);
    let good = |arguments: &[&str]| {
        let done = wherry(&up, arguments, "");
        assert!(done.ok, "{arguments:?} {done:?}");
        done
    };
    good(&["topic", "create", "t", "--partitions", "2", "--config", "retention.ms=5000"]);
    good(&["topic", "create", "t", "--if-not-exists"]);
    good(&["topic", "alter", "t", "--set", "retention.ms=6000"]);
    good(&["topic", "grow", "t", "--to", "3"]);
    let described = json(&good(&["topic", "describe", "t", "--output", "json"]));
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        described["settings"],
        serde_json::json!([{"name": "retention.ms", "value": "6000", "isDefault": false}])
    );
    good(&["topic", "alter", "t", "--reset", "retention.ms"]);
    let piped = wherry(&up, &["produce", "t", "--partition", "1"], "a\nb\nc\n");
    assert!(piped.ok, "{piped:?}");
    good(&["group", "reset", "g", "--topic", "t", "--to", "earliest"]);
    good(&["group", "reset", "g", "--topic", "t", "--partition", "1", "--offset", "2"]);
    assert_eq!(json(&good(&["group", "describe", "g", "--output", "json"]))["lag"], 1);
    good(&["group", "reset", "g", "--to", "latest"]);
    assert_eq!(json(&good(&["group", "describe", "g", "--output", "json"]))["lag"], 0);
    good(&["group", "delete", "g", "--yes"]);
    good(&["topic", "delete", "t", "--yes"]);
    assert_eq!(json(&good(&["topic", "list", "--output", "json"])), serde_json::json!([]));
    up.stop();
}

#[test]
fn errors_say_what_to_do_and_have_their_exit_codes() {
    let directory = tempfile::tempdir().unwrap();
    let up = Up::start(directory.path(), false);
    assert!(wherry(&up, &["topic", "create", "real"], "").ok);
    let table: &[(&[&str], i32, &str)] = &[
        (&["topic", "describe", "nope"], 1, "nope"),
        (&["topic", "create", "a/b"], 1, "a/b"),
        (&["topic", "create", "t", "--config", "no.such=1"], 1, "no.such"),
        (&["topic", "delete", "t"], 2, "--yes"),
        (&["topic", "alter", "t"], 2, "--set"),
        (&["topic", "create", "t", "--partitions", "0"], 2, "--partitions"),
        (&["group", "reset", "g", "--to", "someday", "--topic", "t"], 2, "someday"),
        (&["consume", "nope", "--until-end"], 1, "nope"),
        (&["consume", "real", "--from", "17"], 2, "17"),
        (&["consume", "t", "--format", "%q"], 2, "%q"),
        (&["consume", "t", "--group", "g", "--from", "17"], 2, "group reset"),
        (&["log", "inspect", "/no/such/directory"], 2, "not a directory"),
        (&["topic", "list", "--bootstrap", "127.0.0.1:1", "--timeout", "300ms"], 3, "wherry up"),
    ];
    for (arguments, code, word) in table {
        let done = wherry(&up, arguments, "");
        assert_eq!(done.code, *code, "{arguments:?} {done:?}");
        assert!(done.stderr.contains(word), "{arguments:?} {done:?}");
        assert!(!done.stderr.contains("panicked"), "{done:?}");
    }
    up.stop();
}

#[test]
fn bad_resources_are_refused_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    std::fs::write(&file, "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nspec: {replicas: 4}\n")
        .unwrap();
    let data = directory.path().join("data");
    let done = support::alone(&["up", "-f", &file.display().to_string(), "--data", &data.display().to_string()]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains("bad.yaml:4") && done.stderr.contains("spec.replicas"), "{done:?}");
    assert!(!data.exists());
}

#[test]
fn a_changed_file_changes_what_it_names_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (file, data) = (directory.path().join("up.yaml"), directory.path().join("data"));
    std::fs::write(&file, with_topic("  partitions: 2\n  retention: {time: 1d}\n")).unwrap();
    let up = Up::with_file(&data, &file);
    let other = wherry(&up, &["topic", "alter", "t", "--set", "segment.bytes=2097152"], "");
    assert!(other.ok, "{other:?}");
    up.stop();
    std::fs::write(&file, with_topic("  partitions: 4\n  retention: {bytes: 1Gi}\n")).unwrap();
    let up = Up::with_file(&data, &file);
    let described = json(&wherry(&up, &["topic", "describe", "t", "--output", "json"], ""));
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(4));
    let settings: Vec<_> =
        described["settings"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(settings, ["retention.bytes", "retention.ms", "segment.bytes"], "what is not written stays");
    up.stop();
    std::fs::write(&file, with_topic("  partitions: 3\n")).unwrap();
    let (file, data) = (file.display().to_string(), data.display().to_string());
    let ports = ["--port", "0", "--sidecar-port", "0", "--probes", "127.0.0.1:0"];
    let shrunk = support::alone(&[&["up", "-f", &file, "--data", &data], &ports[..]].concat());
    assert_eq!(shrunk.code, 2, "{shrunk:?}");
    assert!(shrunk.stderr.contains("spec.partitions") && shrunk.stderr.contains("write 4 or more"), "{shrunk:?}");
}

#[test]
fn a_taken_port_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = directory.path().display().to_string();
    let done = support::alone(&["node", "--listen", &address, "--data", &data]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.stderr.contains(&address) && done.stderr.contains("another port"), "{done:?}");
}

/// A Cluster and a Topic with these settings.
fn with_topic(spec: &str) -> String {
    let cluster = "apiVersion: wherry.dev/v1alpha1\nkind: Cluster\nmetadata: {name: c}\nspec: {replicas: 1}\n---\n";
    let topic = "apiVersion: wherry.dev/v1alpha1\nkind: Topic\nmetadata: {name: t}\nspec:\n  clusterRef: {name: c}\n";
    format!("{cluster}{topic}{spec}")
}
