//! The demo as a whole: processes, a real SIGKILL, a verdict, and nothing left behind.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::Value;
use support::{alone, binary, json};

#[test]
fn the_demo_ends_with_a_good_verdict_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    let done =
        alone(&["demo", "--messages", "4000", "--producers", "3", "--kills", "2", "--json", "--directory", &place]);
    assert_eq!(done.code, 0, "{done:?}");
    let report = json(&done);
    assert_eq!(report["good"], true);
    assert_eq!((&report["sent"], &report["acknowledged"]), (&4000.into(), &4000.into()));
    assert_eq!(report["outages"].as_array().map(Vec::len), Some(2));
    for group in report["groups"].as_array().unwrap() {
        assert_eq!(group["received"], 4000, "{group}");
        for wrong in ["lost", "duplicated", "outOfOrder", "wrong"] {
            assert_eq!(group[wrong], 0, "{group}");
        }
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the directory was removed");
    let killed: Vec<_> = report["outages"].as_array().unwrap().iter().map(|outage| &outage["node"]).collect();
    assert_ne!(killed[0], killed[1], "another node each time");
    assert_eq!(report["outages"][0]["ledQuorum"], true);
}

#[test]
fn a_lone_node_comes_back_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display().to_string();
    let done = alone(&["demo", "--nodes", "1", "--messages", "4000", "--kills", "2", "--json", "--directory", &place]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(json(&done)["outages"].as_array().map(Vec::len), Some(2));
}

#[test]
fn other_numbers_of_nodes_are_a_wrong_usage() {
    for nodes in ["0", "2", "4", "x"] {
        assert_eq!(alone(&["demo", "--nodes", nodes]).code, 2, "{nodes}");
    }
}

#[test]
fn an_input_that_can_not_be_used_is_a_wrong_usage() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (input, word) in [("/no/such/file", "can't read"), (&empty.path().display().to_string(), "holds no line")] {
        let done = alone(&["demo", "--input", input]);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.stderr.contains(word), "{done:?}");
    }
}

/// A record that was published once is put into the log a second time, as a broken producer would: the verdict must say so.
#[test]
fn a_second_record_of_one_publish_makes_the_verdict_bad() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = binary();
    command.args(["demo", "--messages", "20000", "--kills", "1", "--json", "--directory"]).arg(directory.path());
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut said = |begins: &str| lines.find(|line| line.starts_with(begins)).unwrap_or_default();
    let node = said("Nodes at ");
    let node = node.trim_start_matches("Nodes at ").split(',').next().unwrap();
    said("Every group receives");
    let first =
        alone(&["consume", "demo", "--from", "earliest", "--max", "1", "--output", "json", "--bootstrap", node]);
    let record = json(&first);
    let mut again = vec!["produce".to_owned(), "demo".into(), "--bootstrap".into(), node.into(), "--file".into()];
    let line = directory.path().join("line");
    fs::write(&line, record["value"].as_str().unwrap()).unwrap();
    again.extend([line.display().to_string(), "--key".into(), record["key"].as_str().unwrap().into()]);
    for header in record["headers"].as_array().unwrap() {
        let text = |field: &str| header[field].as_str().unwrap();
        again.extend(["--header".into(), format!("{}={}", text("name"), text("value"))]);
    }
    let again: Vec<_> = again.iter().map(String::as_str).collect();
    assert!(alone(&again).ok);
    // Whoever writes progress must not be stopped by a full pipe.
    let rest = std::thread::scope(|scope| {
        scope.spawn(move || lines.for_each(drop));
        let mut rest = String::new();
        demo.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        rest
    });
    assert_eq!(demo.wait().unwrap().code(), Some(1), "{rest}");
    let report: Value = serde_json::from_str(&rest).unwrap();
    assert_eq!(report["good"], false);
    for group in report["groups"].as_array().unwrap() {
        assert_eq!((&group["duplicated"], &group["lost"]), (&1.into(), &0.into()), "{group}");
    }
    let kept = report["kept"].as_str().unwrap();
    assert!(fs::metadata(kept).unwrap().is_dir(), "a bad verdict keeps the evidence");
}
