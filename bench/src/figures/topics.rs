//! Many topics: round robin over 1, 1,000 and 10,000 of them, with memory and open files. The client is the pipelined one
//! of [`crate::raw`], the same requests in each case but for the topic's name: librdkafka, with a queue and a batch per
//! topic, costs 17 us per message with 10,000 topics, and would be all that is measured.

use std::process::Command;

use anyhow::Result;

use super::{Contender, Field, KAFKA, NULL, WHERRY, create, sample, size_name};
use crate::broker::{Broker, Kind};
use crate::measure::{Numbers, Samples, charged, load, of_load, settle};
use crate::report::{Case, Verdict, judge_against};
use crate::setup::Setup;

const FIGURE: &str = "topics";
const SIZES: [usize; 2] = [1024, 100];
/// Number of topics, and the share of the one-topic rate that is asked for.
const COUNTS: [(usize, f64); 3] = [(1, 0.0), (1000, 0.9), (10_000, 0.8)];
/// Kafka takes minutes to create more.
const KAFKA_TOPICS: usize = 1000;

fn case_name(topics: usize, size: usize) -> String {
    format!("{topics} topic{}, {}", if topics == 1 { "" } else { "s" }, size_name(size))
}

/// All cases. Each count has brokers of its own, so that their memory is that count's.
pub fn run(setup: &Setup, samples: &mut Samples) -> Result<()> {
    for (topics, _) in COUNTS {
        let kinds: &[Kind] =
            if topics > KAFKA_TOPICS { &[Kind::Wherry, Kind::Null] } else { &[Kind::Kafka, Kind::Wherry, Kind::Null] };
        let mut field = Field::start(setup, kinds, 1024)?;
        let contenders = field.each(&[KAFKA, WHERRY, NULL]);
        let mut created = Vec::new();
        for (who, at) in &contenders {
            created.push(create(setup, field.broker(*at), *who, "many", topics, 1)?);
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

fn one(setup: &Setup, broker: &Broker, topics: usize, size: usize) -> Result<Numbers> {
    settle(setup);
    charged(broker, || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["pipeline", "--broker", &broker.addr.to_string(), "--topic", "many"]);
        command.args(["--topics", &topics.to_string(), "--size", &size.to_string(), "--secs", &setup.secs.to_string()]);
        of_load(&load(&mut command)?)
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
