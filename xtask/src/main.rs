//! Developer commands: `cargo xtask test`, `soak`, `gen`, `bench`.
//!
//! Each is a list of [`Step`]s: a title and a command. This crate depends on `anyhow` only, so that it builds in a moment; it must
//! not know what the tests test.

mod steps;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use steps::{Step, run_all, say};

const HELP: &str = "\
Usage: cargo xtask COMMAND

  test           set-up and all tests: what CI runs
  test --quick   the same without stock clients, Kafka and faults from outside: needs nothing but Rust and a C compiler
  soak [ROUNDS]  long runs: many seeds, ROUNDS (default 50) kills and power cuts with real processes, twice as many faults
                 of nodes in a cluster
  gen            write generated files anew
  gen --check    fail if a generated file is not what its source says
  bench [ARGS]   figures side by side with Kafka; `cargo xtask bench --help` lists them";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => Ok(run_all(&test_steps()?)),
        ["test", "--quick"] => Ok(run_all(&quick_steps())),
        ["soak"] => Ok(run_all(&soak_steps(SOAK_ROUNDS))),
        ["soak", rounds] => {
            let rounds = rounds.parse().with_context(|| format!("{rounds:?} is not a number of rounds"))?;
            Ok(run_all(&soak_steps(rounds)))
        }
        ["gen"] => Ok(run_all(&gen_steps(false)?)),
        ["gen", "--check"] => Ok(run_all(&gen_steps(true)?)),
        ["bench", rest @ ..] => Ok(run_all(&[bench_step(rest)])),
        ["help" | "--help" | "-h"] => {
            say(HELP);
            Ok(ExitCode::SUCCESS)
        }
        other => bail!("{:?} is not known\n\n{HELP}", other.join(" ")),
    }
}

const SOAK_ROUNDS: u32 = 50;

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where cargo builds.
fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

fn cargo(title: &str, arguments: &[&str]) -> Step {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    Step::new(title, &cargo, arguments).within(&root())
}

/// Style, lints, licences, documentation: what needs no set-up.
fn house_steps() -> Vec<Step> {
    vec![
        cargo("format", &["fmt", "--all", "--check"]),
        cargo("format of the example", &["fmt", "--check", "--manifest-path", "examples/rust/Cargo.toml"]),
        cargo("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
        cargo("licences, advisories, sources", &["deny", "--all-features", "check"]).optional(
            &["deny", "--version"],
            "cargo-deny is not installed, so licences and advisories were not checked: cargo install --locked cargo-deny",
        ),
        cargo("documentation", &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"])
            .with("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"),
    ]
}

/// The set-up comes first: what can't be had is said before an hour of tests.
fn test_steps() -> Result<Vec<Step>> {
    let script = root().join("tests/e2e/setup.sh");
    let set_up = Step::new("set-up: packages, stock clients, Kafka, examples", &script.display().to_string(), &["all"])
        .within(&root());
    let mut steps = vec![set_up];
    steps.extend(house_steps());
    // All of the workspace at once: cargo chooses features by what it is asked to build, and what was built with other
    // features would be built again.
    steps.push(cargo("build", &["test", "--workspace", "--no-run", "--quiet"]));
    steps.push(cargo("tests", &["test", "--workspace", "--exclude", "wherry-e2e", "--no-fail-fast", "--quiet"]));
    let names = outside()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let outside = cargo(
        "stock clients, examples, crashes, power cuts, clusters",
        &[&["test", "--workspace", "--no-fail-fast", "--quiet"], &names[..]].concat(),
    );
    steps.push(outside.with("WHERRY_BIN", &target().join("debug/wherry").display().to_string()));
    Ok(steps)
}

/// The tests of wherry-e2e, chosen by name out of the whole workspace.
fn outside() -> Result<Vec<String>> {
    let folder = root().join("tests/e2e/tests");
    let entries = folder.read_dir().with_context(|| format!("can't read {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .map(|entry| Ok(Path::new(&entry?.file_name()).with_extension("").display().to_string()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names.into_iter().flat_map(|name| ["--test".to_owned(), name]).collect())
}

fn quick_steps() -> Vec<Step> {
    let mut steps = house_steps();
    let tests = cargo(
        "tests (without Kafka and stock clients)",
        &["test", "--workspace", "--exclude", "wherry-e2e", "--no-fail-fast", "--quiet"],
    );
    steps.push(tests.with("WHERRY_SKIP_KAFKA", "1"));
    steps
}

fn soak_steps(rounds: u32) -> Vec<Step> {
    let rounds_text = rounds.to_string();
    let faults = (u64::from(rounds) * 2).to_string();
    // A simulated life has several kills and power cuts, and costs little.
    let many = (u64::from(rounds) * 200).to_string();
    let rounds = rounds_text.as_str();
    let release = |title: &str, arguments: &[&str]| cargo(title, &[&["test", "--release"], arguments].concat());
    let wherry = target().join("release/wherry").display().to_string();
    let demo = ["demo", "--messages", "2000000", "--kills", "20"];
    vec![
        release("log engine: crashes in simulation", &["-p", "wherry-log"]).with("WHERRY_SOAK", rounds),
        release("group coordinator: random walks", &["-p", "wherry-node", "groups"]).with("WHERRY_WALK_SEEDS", &many),
        cargo(
            "nodes and clusters in simulation",
            &["run", "--release", "--quiet", "-p", "wherry-sim", "--", "--seeds", &many],
        ),
        cargo(
            "seeded protocol bugs are caught",
            &["run", "--release", "--quiet", "-p", "wherry-sim", "--features", "mutations", "--", "--mutations"],
        ),
        cargo("build", &["build", "--release", "-p", "wherry-cli"]),
        release("kill -9 of real processes", &["-p", "wherry-e2e", "--test", "crash", "--", "--nocapture"])
            .with("WHERRY_BIN", &wherry)
            .with("WHERRY_CRASH_ROUNDS", rounds),
        release(
            "three nodes: kills, pauses, network cuts, damage",
            &["-p", "wherry-e2e", "--test", "cluster", "--", "--nocapture"],
        )
        .with("WHERRY_BIN", &wherry)
        .with("WHERRY_CLUSTER_ROUNDS", &faults),
        release("messages with ids: kill -9 of sidecars and node", &["-p", "wherry-e2e", "--test", "message_ids"])
            .with("WHERRY_BIN", &wherry)
            .with("WHERRY_ID_ROUNDS", rounds),
        release("power cuts", &["-p", "wherry-e2e", "--test", "power", "--", "--nocapture"])
            .with("WHERRY_BIN", &wherry)
            .with("WHERRY_POWER_ROUNDS", rounds),
        release("hostile peers", &["-p", "wherry-e2e", "--test", "bounds", "--", "--nocapture"])
            .with("WHERRY_BIN", &wherry)
            .with("WHERRY_HOSTILE_ROUNDS", &many),
        Step::new("demo with 20 kills", &wherry, &demo).within(&root()),
        Step::new("demo of one node", &wherry, &[&demo[..], &["--nodes", "1"]].concat()).within(&root()),
    ]
}

/// Kafka's message definitions; the version that the kafka-protocol crate was generated from.
const DEFINITIONS: &str = "4.1.0";
/// And those of messages that are read in a later version than that crate knows.
const NEWER_DEFINITIONS: &str = "4.3.1";

fn gen_steps(check: bool) -> Result<Vec<Step>> {
    let jars = target().join("gen");
    std::fs::create_dir_all(&jars).with_context(|| format!("can't make {}", jars.display()))?;
    let artifact = |version: &str| format!("-Dartifact=org.apache.kafka:kafka-clients:{version}");
    let output = format!("-DoutputDirectory={}", jars.display());
    let jar = |version: &str| jars.join(format!("kafka-clients-{version}.jar")).display().to_string();
    let copy = |title: &str, version: &str| {
        Step::new(title, "mvn", &["-q", "-B", "dependency:copy", &artifact(version), &output]).within(&jars)
    };
    let (old, new) = (jar(DEFINITIONS), jar(NEWER_DEFINITIONS));
    let tables = "wire/src/codec/schema_table";
    let mut steps = vec![
        copy("message definitions", DEFINITIONS),
        copy("newer message definitions", NEWER_DEFINITIONS),
        Step::new("schema table", "python3", &["wire/gen/schema.py", &old, &new, tables]).within(&root()),
    ];
    if check {
        steps.push(Step::new("unchanged", "git", &["diff", "--exit-code", "--stat", "--", tables]).within(&root()));
    }
    Ok(steps)
}

fn bench_step(arguments: &[&str]) -> Step {
    let arguments = if arguments.is_empty() { &["run"] } else { arguments };
    cargo("bench", &[&["run", "--release", "--quiet", "-p", "wherry-bench", "--"], arguments].concat())
}
