//! Restart after `kill -9` under load, with many topics: from the start of the process to its first acknowledgement.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::{Asked, Contender, KAFKA, WHERRY, create, sample};
use crate::broker::Broker;
use crate::measure::{Numbers, Samples, client, settle};
use crate::raw::first_ack;
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "restart";
const PATIENCE: Duration = Duration::from_secs(300);
/// Topics, who, and messages for each topic before the first kill.
const CASES: [(usize, &[Contender]); 2] = [(1000, &[KAFKA, WHERRY]), (10_000, &[WHERRY])];
const MESSAGES_PER_TOPIC: usize = 20;
/// How long the load runs before the kill.
const LOAD: Duration = Duration::from_secs(2);

fn case_name(topics: usize) -> String {
    format!("kill -9 under load, {topics} topics")
}

/// All cases.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    for (topics, contenders) in CASES {
        for who in contenders.iter().filter(|c| setup.targets.contains(&c.kind)) {
            let mut broker = Broker::new(setup, who.kind, 1024)?;
            broker.start(setup)?;
            let created = create(setup, &broker, *who, "restart", topics, 1)?;
            let mut fill = setup.load("produce");
            fill.args(["-b", &broker.addr.to_string(), "-t", "restart", "-T", &topics.to_string()]);
            client(fill.args(["-s", "1024", "-n", &(topics * MESSAGES_PER_TOPIC).to_string()]))?;
            for run in 1..=setup.runs {
                let mut numbers = one(setup, &mut broker, topics)?;
                numbers.extend(created.clone());
                samples.add(sample(FIGURE, &case_name(topics), *who, run, numbers))?;
            }
            broker.end(Signal::TERM)?;
        }
    }
    Ok(())
}

fn one(setup: &Setup, broker: &mut Broker, topics: usize) -> Result<Numbers> {
    let mut command = setup.load("produce");
    command.args([
        "-b",
        &broker.addr.to_string(),
        "-t",
        "restart",
        "-T",
        &topics.to_string(),
        "-s",
        "1024",
        "-d",
        "60",
    ]);
    let mut load = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
    std::thread::sleep(LOAD);
    let killed = broker.end(Signal::KILL);
    load.kill()?;
    load.wait()?;
    killed?;
    settle(setup);
    let begin = Instant::now();
    broker.launch(setup)?;
    broker.await_port()?;
    let port = begin.elapsed();
    let ack = first_ack(broker.addr, "restart-7", begin, PATIENCE)?;
    let usage = broker.usage()?;
    Ok([
        (String::from("start_to_port_ms"), port.as_secs_f64() * 1000.0),
        (String::from("start_to_ack_ms"), ack.as_secs_f64() * 1000.0),
        (String::from("rss_mib"), usage.rss_kib as f64 / 1024.0),
        (String::from("fds"), usage.fds as f64),
    ]
    .into())
}

/// What the issue asks of these cases.
pub fn asked() -> Asked {
    vec![(FIGURE, case_name(10_000), Ask::Below("start_to_ack_ms", 5000.0))]
}
