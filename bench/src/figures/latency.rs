//! Acknowledgement latency: a lone 1 KiB append against the device's own durable write, and 10,000 messages a second
//! without linger.

use anyhow::Result;

use super::{Asked, Contender, Field, KAFKA, KAFKA_SYNCED, NULL, WHERRY, create, delete, sample};
use crate::broker::{Broker, Kind};
use crate::device::dsync_latency;
use crate::measure::{Numbers, Sample, Samples, charged, load, of_histogram, of_load, settle};
use crate::raw::Appender;
use crate::report::Ask;
use crate::setup::Setup;

const FIGURE: &str = "latency";
const LONE: &str = "lone 1 KiB append, plain socket";
const LONE_RDKAFKA: &str = "lone 1 KiB append, librdkafka";
const PACED: &str = "10k msg/s of 1 KiB, no linger";
const LONE_APPENDS: usize = 3000;
const WARM_UP_S: f64 = 2.0;

/// All cases.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    let mut field = Field::start(setup, &[Kind::Kafka, Kind::Wherry, Kind::Null], 1024)?;
    for run in 0..=setup.runs {
        settle(setup);
        let device = of_histogram("ack", &dsync_latency(&setup.data, LONE_APPENDS)?);
        if run > 0 {
            let contender = String::from("device");
            samples.add(Sample { figure: FIGURE.into(), case: LONE.into(), contender, run, numbers: device })?;
        }
        for (who, at) in field.each(&[KAFKA, WHERRY, NULL, KAFKA_SYNCED]) {
            let broker = field.broker(at);
            let measured = [(LONE, lone(setup, broker, who)?), (LONE_RDKAFKA, lone_rdkafka(setup, broker, who)?)];
            for (case, numbers) in measured.into_iter().filter(|_| run > 0) {
                samples.add(sample(FIGURE, case, who, run, numbers))?;
            }
        }
    }
    for run in 0..=setup.runs {
        for (who, at) in field.each(&[KAFKA, WHERRY, KAFKA_SYNCED]) {
            let numbers = paced(setup, field.broker(at), who)?;
            if run > 0 {
                samples.add(sample(FIGURE, PACED, who, run, numbers))?;
            }
        }
    }
    field.stop()
}

fn lone(setup: &Setup, broker: &Broker, who: Contender) -> Result<Numbers> {
    create(setup, broker, who, "lone", 1, 1)?;
    settle(setup);
    let mut appender = Appender::connect(broker.addr, "lone", 1024)?;
    let numbers = charged(broker, || Ok((LONE_APPENDS as f64, of_histogram("ack", &appender.measure(LONE_APPENDS)?))))?;
    delete(setup, broker, "lone", 1)?;
    Ok(numbers)
}

fn lone_rdkafka(setup: &Setup, broker: &Broker, who: Contender) -> Result<Numbers> {
    create(setup, broker, who, "lone-rdkafka", 1, 1)?;
    settle(setup);
    let numbers = charged(broker, || {
        let mut command = setup.load("lone");
        command.args(["-b", &broker.addr.to_string(), "-t", "lone-rdkafka", "-n", &LONE_APPENDS.to_string()]);
        of_load(&load(&mut command)?)
    })?;
    delete(setup, broker, "lone-rdkafka", 1)?;
    Ok(numbers)
}

fn paced(setup: &Setup, broker: &Broker, who: Contender) -> Result<Numbers> {
    create(setup, broker, who, "paced", 1, 1)?;
    settle(setup);
    let numbers = charged(broker, || {
        let mut command = setup.load("e2e");
        let secs = setup.secs + WARM_UP_S;
        command.args(["-b", &broker.addr.to_string(), "-t", "paced", "-r", "10000", "-d", &secs.to_string()]);
        of_load(&load(command.args(["-l", "0", "-w", &WARM_UP_S.to_string()]))?)
    })?;
    delete(setup, broker, "paced", 1)?;
    Ok(numbers)
}

/// What the issue asks of these cases.
pub fn asked() -> Asked {
    vec![
        (FIGURE, LONE.into(), Ask::NearDevice),
        (FIGURE, PACED.into(), Ask::Below("ack_p99_us", 2000.0)),
        (FIGURE, PACED.into(), Ask::AtMost("ack_p99_us", "kafka", 1.0)),
    ]
}
