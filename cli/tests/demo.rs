//! The demo as a whole: processes, a real SIGKILL, a verdict, and nothing left behind.

mod support;

use std::fs;

use support::{alone, json};

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
