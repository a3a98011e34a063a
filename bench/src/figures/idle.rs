//! An idle broker: its memory, files and CPU; and the time from its start to the first acknowledgement.

use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::Signal;

use super::{Asked, KAFKA, WHERRY, create, sample};
use crate::broker::{Broker, Kind};
use crate::measure::{Numbers, Samples, settle};
use crate::raw::first_ack;
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "idle";
const CASE: &str = "one empty topic";
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a broker is watched doing nothing.
const WATCH: Duration = Duration::from_secs(10);

/// The case.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    for run in 1..=setup.runs {
        for who in [KAFKA, WHERRY].into_iter().filter(|c| setup.targets.contains(&c.kind)) {
            samples.add(sample(FIGURE, CASE, who, run, one(setup, who.kind, who)?))?;
        }
    }
    Ok(())
}

fn one(setup: &Setup, kind: Kind, who: super::Contender) -> Result<Numbers> {
    let mut broker = Broker::new(setup, kind, 1024)?;
    broker.start(setup)?;
    create(setup, &broker, who, "idle", 1, 1)?;
    broker.end(Signal::TERM)?;
    settle(setup);
    let begin = Instant::now();
    broker.launch(setup)?;
    broker.await_port()?;
    let port = begin.elapsed();
    let ack = first_ack(broker.addr, "idle", begin, PATIENCE)?;
    let before = broker.usage()?;
    std::thread::sleep(WATCH);
    let after = broker.usage()?;
    broker.end(Signal::TERM)?;
    Ok([
        (String::from("start_to_port_ms"), port.as_secs_f64() * 1000.0),
        (String::from("start_to_ack_ms"), ack.as_secs_f64() * 1000.0),
        (String::from("rss_mib"), after.rss_kib as f64 / 1024.0),
        (String::from("fds"), after.fds as f64),
        (String::from("idle_cpu_percent"), (after.cpu_s - before.cpu_s) / WATCH.as_secs_f64() * 100.0),
    ]
    .into())
}

/// What the issue asks of it.
pub fn asked() -> Asked {
    vec![
        (FIGURE, CASE.into(), Ask::Below("rss_mib", 32.0)),
        (FIGURE, CASE.into(), Ask::Below("start_to_ack_ms", 200.0)),
    ]
}
