//! Produce throughput: librdkafka with 1 KiB and 100 B, one and twelve partitions, and Java's perf tool.

use anyhow::{Context, Result};

use super::{Asked, Contender, Field, KAFKA, KAFKA_SYNCED, NULL, WHERRY, create, delete, sample, size_name};
use crate::broker::{Broker, Kind};
use crate::measure::{Numbers, Samples, charged, client, load, of_load, settle};
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "produce";
const JAVA: &str = "produce, Java client";
/// Large enough that no client is bound by its batches.
const BATCH_BYTES: &str = "131072";
/// What a run of the Java tool is planned for; it is told a count, not a time.
const JAVA_RATE: f64 = 150_000.0;
const KINDS: [Kind; 3] = [Kind::Kafka, Kind::Wherry, Kind::Null];
/// Value size and partitions.
const CASES: [(usize, usize); 3] = [(1024, 1), (1024, 12), (100, 1)];

fn case_name(size: usize, partitions: usize) -> String {
    format!("{}, {partitions} partition{}", size_name(size), if partitions == 1 { "" } else { "s" })
}

/// The librdkafka cases.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let mut field = Field::start(setup, &KINDS, 1024)?;
    for (size, partitions) in CASES {
        for run in 0..=setup.runs {
            for (who, at) in field.each(&[KAFKA, WHERRY, NULL, KAFKA_SYNCED]) {
                // The first round warms up (a JVM needs it) and is not counted.
                let secs = if run == 0 { setup.secs.min(5.0) } else { setup.secs };
                let numbers = one(setup, field.broker(at), who, size, partitions, secs)?;
                if run > 0 {
                    samples.add(sample(FIGURE, &case_name(size, partitions), who, run, numbers))?;
                }
            }
        }
    }
    field.stop()
}

fn one(setup: &Setup, broker: &Broker, who: Contender, size: usize, partitions: usize, secs: f64) -> Result<Numbers> {
    create(setup, broker, who, "produce", 1, partitions)?;
    settle(setup);
    let numbers = charged(broker, || {
        let mut command = setup.load("produce");
        command.args(["-b", &broker.addr.to_string(), "-t", "produce", "-P", &partitions.to_string(), "-a", "all"]);
        command.args(["-s", &size.to_string(), "-d", &secs.to_string(), "-B", BATCH_BYTES]);
        of_load(&load(&mut command)?)
    })?;
    delete(setup, broker, "produce", 1)?;
    Ok(numbers)
}

/// Java's `kafka-producer-perf-test`.
pub fn run_java(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let mut field = Field::start(setup, &KINDS, 1024)?;
    for partitions in [1, 12] {
        for run in 0..=setup.runs {
            for (who, at) in field.each(&[KAFKA, WHERRY, NULL]) {
                let numbers = one_java(setup, field.broker(at), who, partitions)?;
                if run > 0 {
                    samples.add(sample(JAVA, &case_name(1024, partitions), who, run, numbers))?;
                }
            }
        }
    }
    field.stop()
}

fn one_java(setup: &Setup, broker: &Broker, who: Contender, partitions: usize) -> Result<Numbers> {
    create(setup, broker, who, "java", 1, partitions)?;
    settle(setup);
    let count = (setup.secs * JAVA_RATE).round();
    let numbers = charged(broker, || {
        let mut command = setup.java("org.apache.kafka.tools.ProducerPerformance");
        command.args(["--bootstrap-server", &broker.addr.to_string(), "--topic", "java", "--record-size", "1024"]);
        command.args(["--num-records", &count.to_string(), "--throughput", "-1", "--command-property", "acks=all"]);
        command.args(["linger.ms=5", &format!("batch.size={BATCH_BYTES}"), "buffer.memory=67108864"]);
        let output = client(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.lines().rev().find(|l| l.contains("99th")).context("ProducerPerformance printed no result")?;
        Ok((count, of_java(last).with_context(|| last.to_owned())?))
    })?;
    delete(setup, broker, "java", 1)?;
    Ok(numbers)
}

/// `N records sent, R records/sec (M MB/sec), A ms avg latency, X ms max latency, P ms 50th, ..., Q ms 99th, ...`
fn of_java(line: &str) -> Option<Numbers> {
    let field = |unit: &str| {
        let part = line.split(", ").find(|p| p.contains(unit))?;
        part.split_whitespace().next()?.parse::<f64>().ok()
    };
    Some(
        [
            (String::from("rate"), field("records/sec")?),
            (String::from("ack_p50_us"), field("ms 50th")? * 1000.0),
            (String::from("ack_p99_us"), field("ms 99th")? * 1000.0),
        ]
        .into(),
    )
}

/// What the issue asks of these cases.
pub fn asked() -> Asked {
    let mut asked = Vec::new();
    for (size, partitions) in CASES {
        let case = case_name(size, partitions);
        let large = size >= 1024;
        asked.push((FIGURE, case.clone(), Ask::AtLeast("rate", "kafka", if large { 2.0 } else { 1.0 })));
        asked.push((FIGURE, case.clone(), Ask::AtMost("broker_us", "kafka", if large { 0.25 } else { 0.5 })));
        if large {
            asked.push((FIGURE, case, Ask::AtLeast("rate", "kafka-synced", 5.0)));
        }
    }
    for partitions in [1, 12] {
        asked.push((JAVA, case_name(1024, partitions), Ask::AtLeast("rate", "kafka", 1.0)));
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_java_tools_result_is_read() {
        let line = "20000 records sent, 30120.5 records/sec (14.71 MB/sec), 12.31 ms avg latency, 301.00 ms max \
                    latency, 8 ms 50th, 40 ms 95th, 52 ms 99th, 60 ms 99.9th.";
        let numbers = of_java(line).unwrap();
        assert_eq!((numbers["rate"], numbers["ack_p50_us"], numbers["ack_p99_us"]), (30120.5, 8000.0, 52000.0));
    }
}
