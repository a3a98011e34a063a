//! Consume throughput with librdkafka: hot (in the page cache) and cold (page cache dropped, broker restarted).

use anyhow::Result;
use rustix::process::Signal;

use super::{Asked, Field, KAFKA, NULL, WHERRY, create, sample, size_name};
use crate::broker::{Broker, Kind};
use crate::measure::{Numbers, Samples, charged, client, drop_page_cache, load, of_load, say, settle};
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "consume";
/// Messages for each second that a run should take (about what Kafka serves hot).
const RATES: [(usize, f64); 2] = [(1024, 300_000.0), (100, 1_200_000.0)];
/// Messages that wake a broker up before a cold run; they are of another topic.
const WAKE_UP: usize = 300_000;

fn case_name(size: usize, warmth: &str) -> String {
    format!("{}, {warmth}", size_name(size))
}

/// All cases.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    for (size, rate) in RATES {
        let count = (setup.secs * rate) as usize;
        let mut field = Field::start(setup, &[Kind::Kafka, Kind::Wherry, Kind::Null], size)?;
        for (who, at) in field.each(&[KAFKA, WHERRY]) {
            create(setup, field.broker(at), who, "consume", 1, 1)?;
            create(setup, field.broker(at), who, "wake-up", 1, 1)?;
            fill(setup, field.broker(at), "consume", size, count)?;
            fill(setup, field.broker(at), "wake-up", size, WAKE_UP)?;
        }
        for run in 0..=setup.runs {
            for (who, at) in field.each(&[KAFKA, WHERRY, NULL]) {
                settle(setup);
                let numbers = read(setup, field.broker(at), "consume", count)?;
                if run > 0 {
                    samples.add(sample(FIGURE, &case_name(size, "hot"), who, run, numbers))?;
                }
            }
        }
        if drop_page_cache().is_ok() {
            cold(setup, samples, &mut field, size, count)?;
        } else {
            say("NOTICE: not measured: cold reads (dropping the page cache needs root)");
        }
        field.stop()?;
    }
    Ok(())
}

/// The broker is restarted as well, so that its own memory is as cold as the page cache; then it is woken up with
/// another topic, so that a cold JVM is not what is measured.
fn cold(setup: &Setup, samples: &mut Samples, field: &mut Field, size: usize, count: usize) -> Result<()> {
    for run in 1..=setup.runs {
        for (who, at) in field.each(&[KAFKA, WHERRY]) {
            field.broker(at).end(Signal::TERM)?;
            field.broker(at).start(setup)?;
            for _ in 0..3 {
                read(setup, field.broker(at), "wake-up", WAKE_UP)?;
            }
            drop_page_cache()?;
            settle(setup);
            let numbers = read(setup, field.broker(at), "consume", count)?;
            samples.add(sample(FIGURE, &case_name(size, "cold"), who, run, numbers))?;
        }
    }
    Ok(())
}

fn fill(setup: &Setup, broker: &Broker, topic: &str, size: usize, count: usize) -> Result<()> {
    let mut command = setup.load("produce");
    command.args(["-b", &broker.addr.to_string(), "-t", topic, "-s", &size.to_string(), "-n", &count.to_string()]);
    client(&mut command).map(drop)
}

fn read(setup: &Setup, broker: &Broker, topic: &str, count: usize) -> Result<Numbers> {
    charged(broker, || {
        let mut command = setup.load("consume");
        of_load(&load(command.args(["-b", &broker.addr.to_string(), "-t", topic, "-n", &count.to_string()]))?)
    })
}

/// What the issue asks of these cases.
pub fn asked() -> Asked {
    let of = |(size, _): &(usize, f64)| {
        let (hot, cold) = (case_name(*size, "hot"), case_name(*size, "cold"));
        [
            (FIGURE, hot.clone(), Ask::AtLeast("rate", "kafka", 1.0)),
            (FIGURE, hot, Ask::AtMost("broker_us", "kafka", 1.0)),
            (FIGURE, cold, Ask::AtLeast("rate", "kafka", 1.5)),
        ]
    };
    RATES.iter().flat_map(of).collect()
}
