//! What a kill cost, from the books: how long the partitions that the node led were without acknowledgements, and the
//! others. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ledger::{Micros, Published};

/// A kill, and when it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    /// The node that was killed.
    pub(crate) node: usize,
    /// Whether it led the metadata quorum.
    pub(crate) led_quorum: bool,
    /// Partitions of the topic that it led.
    pub(crate) led: Vec<i32>,
    /// All partitions of the topic.
    pub(crate) partitions: usize,
    pub(crate) acknowledged_before: u64,
    pub(crate) at: Micros,
    /// When it was started again.
    pub(crate) restarted: Micros,
    /// When it listened again.
    pub(crate) listens: Micros,
    /// When every partition had it in sync again; of a node that is alone, when it listened.
    pub(crate) in_sync: Option<Micros>,
}

/// What a kill cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outage {
    /// The node that was killed.
    pub(crate) node: usize,
    /// Whether it led the metadata quorum.
    pub(crate) led_quorum: bool,
    /// Partitions of the topic that it led.
    pub(crate) led_partitions: usize,
    /// All partitions of the topic.
    pub(crate) partitions: usize,
    /// Publishes that had been acknowledged when the node was killed.
    pub(crate) acknowledged_before: u64,
    /// How long it was dead before it was started again.
    pub(crate) away_ms: u64,
    /// From its start until it listened.
    pub(crate) restart_ms: u64,
    /// From its start until every partition had it in sync.
    pub(crate) in_sync_ms: Option<u64>,
    /// How long the partitions that it led were without an acknowledgement, at most.
    pub(crate) until_next_acknowledgement_ms: Option<u64>,
    /// The same of the other partitions.
    pub(crate) others_silent_ms: Option<u64>,
}

/// What each kill cost. `alone`: there is one node, so nothing can go on before it is back.
pub(crate) fn outages(kills: &[Kill], published: &Published, alone: bool) -> Vec<Outage> {
    kills.iter().map(|kill| outage(kill, published, alone)).collect()
}

fn outage(kill: &Kill, published: &Published, alone: bool) -> Outage {
    let (led, others) = if alone {
        (next_after(kill.at, kill.listens, published), None)
    } else {
        let acks = acks_between(kill.at, kill.restarted, published);
        let silent = |of_led: bool| {
            let of = acks.iter().filter(|(partition, _)| kill.led.contains(partition) == of_led);
            of.map(|(_, acks)| longest_silence(kill.at, acks, kill.restarted)).max()
        };
        (silent(true), silent(false))
    };
    let ms = |from: Micros, to: Micros| to.saturating_sub(from) / 1000;
    Outage {
        node: kill.node,
        led_quorum: kill.led_quorum,
        led_partitions: kill.led.len(),
        partitions: kill.partitions,
        acknowledged_before: kill.acknowledged_before,
        away_ms: ms(kill.at, kill.restarted),
        restart_ms: ms(kill.restarted, kill.listens),
        in_sync_ms: kill.in_sync.map(|at| ms(kill.restarted, at)),
        until_next_acknowledgement_ms: led.map(|micros| micros / 1000),
        others_silent_ms: others.map(|micros| micros / 1000),
    }
}

/// Whether partitions that the node led are acknowledged again, or it led none.
pub(crate) fn is_replaced(kill: &Kill, published: &Published) -> bool {
    let mut acks = published.all().filter_map(|(_, sent)| sent.ack);
    kill.led.is_empty() || acks.any(|(place, at)| at > kill.at && kill.led.contains(&place.partition))
}

/// Answers that were on their way when a lone node was killed prove nothing: only those of the restarted one count.
fn next_after(killed: Micros, listens: Micros, published: &Published) -> Option<Micros> {
    let acks = published.all().filter_map(|(_, sent)| sent.ack).map(|(_, at)| at);
    acks.filter(|at| *at > listens).min().map(|at| at - killed)
}

/// When acknowledgements came, by partition.
fn acks_between(from: Micros, to: Micros, published: &Published) -> BTreeMap<i32, Vec<Micros>> {
    let mut acks: BTreeMap<i32, Vec<Micros>> = BTreeMap::new();
    for (place, at) in published.all().filter_map(|(_, sent)| sent.ack) {
        if (from..to).contains(&at) {
            acks.entry(place.partition).or_default().push(at);
        }
    }
    acks
}

/// The longest time without an acknowledgement, the last one to the end counted as well.
fn longest_silence(from: Micros, acks: &[Micros], to: Micros) -> Micros {
    let mut times = acks.to_vec();
    times.extend([from, to]);
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Place;
    use super::*;

    /// Acknowledgements at these times, in milliseconds, of these partitions.
    fn published(acks: &[(i32, u64)]) -> Published {
        let mut published = Published::new(1);
        for (offset, (partition, at)) in (0..).zip(acks) {
            let id = published.sent(0, 0).unwrap();
            published.acknowledged(id, Place { partition: *partition, offset }, at * 1000);
        }
        published
    }

    fn kill() -> Kill {
        Kill {
            node: 1,
            led_quorum: true,
            led: vec![0, 2],
            partitions: 3,
            acknowledged_before: 5,
            at: 100_000,
            restarted: 1_000_000,
            listens: 1_200_000,
            in_sync: Some(1_500_000),
        }
    }

    #[test]
    fn a_straggler_does_not_end_the_silence() {
        let acks = [(0, 50), (0, 101), (0, 700), (1, 400), (1, 990), (2, 300), (2, 800)];
        let outages = outages(&[kill()], &published(&acks), false);
        assert_eq!(outages[0].until_next_acknowledgement_ms, Some(599), "partition 0, from 101 to 700");
        assert_eq!(outages[0].others_silent_ms, Some(590));
        assert_eq!((outages[0].away_ms, outages[0].restart_ms, outages[0].in_sync_ms), (900, 200, Some(500)));
    }

    #[test]
    fn what_never_went_on_was_silent_until_the_restart() {
        let outages = outages(&[kill()], &published(&[(0, 102), (1, 300), (0, 1300)]), false);
        assert_eq!(outages[0].until_next_acknowledgement_ms, Some(898));
        let none = super::outages(&[kill()], &published(&[(1, 300)]), false);
        assert_eq!(none[0].until_next_acknowledgement_ms, None);
    }

    #[test]
    fn a_lone_node_goes_on_when_it_is_back() {
        let outages = outages(&[kill()], &published(&[(0, 101), (0, 1300)]), true);
        assert_eq!(outages[0].until_next_acknowledgement_ms, Some(1200));
    }
}
