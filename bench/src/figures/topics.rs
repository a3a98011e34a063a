//! Many topics: round robin over 1, 1,000 and 10,000 of them, with memory and open files.

use anyhow::Result;

use super::{Contender, Field, KAFKA, NULL, WHERRY, create, sample, size_name};
use crate::broker::{Broker, Kind};
use crate::measure::{Numbers, Samples, charged, client, load, of_load, settle};
use crate::report::{Case, Verdict, judge_against};
use crate::setup::Setup;

const FIGURE: &str = "topics";
const SIZES: [usize; 2] = [1024, 100];
/// Number of topics, and the share of the one-topic rate that is asked for.
const COUNTS: [(usize, f64); 3] = [(1, 0.0), (1000, 0.9), (10_000, 0.8)];
/// Only Wherry is measured beyond this: Kafka takes minutes to create more, and against the null node the client sends
/// ever smaller batches, because the answer is there before the next message.
const OTHERS_TOPICS: usize = 1000;

fn case_name(topics: usize, size: usize) -> String {
    format!("{topics} topic{}, {}", if topics == 1 { "" } else { "s" }, size_name(size))
}

/// All cases. Each count has brokers of its own, so that their memory is that count's.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    for (topics, _) in COUNTS {
        let kinds: &[Kind] =
            if topics > OTHERS_TOPICS { &[Kind::Wherry] } else { &[Kind::Kafka, Kind::Wherry, Kind::Null] };
        let mut field = Field::start(setup, kinds, 1024)?;
        let contenders = field.each(&[KAFKA, WHERRY, NULL]);
        let mut created = Vec::new();
        for (who, at) in &contenders {
            created.push(create(setup, field.broker(*at), *who, "many", topics, 1)?);
            touch(setup, field.broker(*at), topics)?;
        }
        for size in SIZES {
            for run in 0..=setup.runs {
                for ((who, at), created) in contenders.iter().zip(&created) {
                    let mut numbers = one(setup, field.broker(*at), topics, size)?;
                    numbers.extend(created.clone());
                    if run > 0 {
                        samples.add(sample(FIGURE, &case_name(topics, size), *who as Contender, run, numbers))?;
                    }
                }
            }
        }
        field.stop()?;
    }
    Ok(())
}

/// One message to each topic: the client learns them all, the broker opens what it opens.
fn touch(setup: &Setup, broker: &Broker, topics: usize) -> Result<()> {
    let mut command = setup.load("produce");
    command.args(["-b", &broker.addr.to_string(), "-t", "many", "-T", &topics.to_string(), "-n", &topics.to_string()]);
    client(&mut command).map(drop)
}

fn one(setup: &Setup, broker: &Broker, topics: usize, size: usize) -> Result<Numbers> {
    settle(setup);
    charged(broker, || {
        let mut command = setup.load("produce");
        command.args(["-b", &broker.addr.to_string(), "-t", "many", "-T", &topics.to_string()]);
        of_load(&load(command.args(["-s", &size.to_string(), "-d", &setup.secs.to_string()]))?)
    })
}

/// What the issue asks: little loss against one topic.
pub fn verdicts(cases: &[Case]) -> Vec<Verdict> {
    let pairs = COUNTS.iter().skip(1).flat_map(|(topics, share)| SIZES.map(|size| (*topics, *share, size)));
    let judge = |(topics, share, size): (usize, f64, usize)| {
        judge_against(cases, FIGURE, &case_name(topics, size), &case_name(1, size), share)
    };
    pairs.filter_map(judge).collect()
}
