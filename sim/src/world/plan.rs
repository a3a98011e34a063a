//! What a life is to be: how many nodes, which clients, how long. Drawn from the seed before anything happens.

use crate::client::{Acks, Admin, Client, Member, Producer, Reader};
use crate::options::Extra;
use crate::oracle::Place;
use crate::rng::Rng;
use crate::{Options, Sabotage};

use super::TOPICS;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// Trouble begins after this time and ends after that, in virtual milliseconds.
    pub(crate) peace_ms: u64,
    pub(crate) trouble_ms: u64,
    pub(crate) sabotage: Sabotage,
    pub(crate) extra: Extra,
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng, options: Options) -> Self {
        // Drawn in any case, so that a number that is given changes nothing else.
        let drawn = match rng.below(20) {
            0..3 => 1,
            3..18 => 3,
            _ => 5,
        };
        let nodes = options.nodes.unwrap_or(drawn);
        let long_ms = rng.between(8_000, 25_000);
        let (peace_ms, trouble_ms) = if nodes == 1 { (300, 6_000) } else { (3_000, long_ms) };
        Self { nodes, peace_ms, trouble_ms, sabotage: options.sabotage, extra: options.extra }
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        TOPICS.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (*topic, partition))).collect()
    }

    /// The first one makes the topics.
    pub(crate) fn clients(&self, rng: &mut Rng, places: &[Place]) -> Vec<Box<dyn Client>> {
        let mut clients: Vec<Box<dyn Client>> = vec![Box::new(Admin::new(self.nodes))];
        for n in 0..rng.between(1, 3) {
            let batches = rng.between(20, 120) * if self.nodes == 1 { 1 } else { 2 };
            let acks = if n > 0 && rng.chance(40) { Acks::Leader } else { Acks::All };
            let (id, batches) = (u32::try_from(n).unwrap_or(0), u32::try_from(batches).unwrap_or(20));
            clients.push(Box::new(Producer::new(id, places, batches, acks)));
        }
        clients.push(Box::new(Reader::new(places, false)));
        if self.nodes > 1 {
            clients.push(Box::new(Reader::new(places, true)));
        }
        for n in 0..rng.between(1, 3) {
            let instance = rng.chance(30).then(|| format!("instance-{n}"));
            clients.push(Box::new(Member::new(places, instance)));
        }
        clients
    }
}
