//! What a life is to be: how many nodes, which clients, how long. Drawn from the seed before anything happens.

use crate::client::{
    Acks, Admin, Client, Isolation, Member, Part, Producer, Protocol, Publisher, Reader, Topics, Transactor, Who,
};
use crate::options::Extra;
use crate::rng::Rng;
use crate::{Options, Sabotage};

use super::{LEDGER, NAMED, TOPICS, TRANSACTIONAL};

/// Numbers of transactional clients begin here: those below are other producers.
const TRANSACTORS: u32 = 100;
/// Numbers of publishers begin here.
const PUBLISHERS: u32 = 200;
/// In percent: lives that have publishers.
const WITH_PUBLISHERS: u64 = 50;
/// In percent: lives of one node, and of several, that have transactional clients.
const WITH_TRANSACTIONS: [u64; 2] = [30, 50];

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// Trouble begins after this time and ends after that, in virtual milliseconds.
    pub(crate) peace_ms: u64,
    pub(crate) trouble_ms: u64,
    pub(crate) sabotage: Sabotage,
    pub(crate) extra: Extra,
    /// Whether there are clients with transactions.
    pub(crate) transactions: bool,
    /// Whether one of them copies.
    pub(crate) copies: bool,
    /// Whether there are publishers of messages with ids.
    pub(crate) ids: bool,
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
        let share = WITH_TRANSACTIONS[usize::from(nodes > 1)];
        let transactions = rng.chance(share) || options.extra.transactions;
        let copies = rng.chance(70) && transactions;
        let ids = rng.chance(WITH_PUBLISHERS) || options.extra.ids;
        let (sabotage, extra) = (options.sabotage, options.extra);
        Self { nodes, peace_ms, trouble_ms, sabotage, extra, transactions, copies, ids }
    }

    /// Of all clients.
    pub(crate) fn topics(&self) -> Topics {
        let transactional = TRANSACTIONAL.into_iter().filter(|_| self.transactions);
        let named = self.ids.then_some(NAMED);
        Topics(TOPICS.into_iter().chain(transactional).chain(named).collect())
    }

    pub(crate) fn copied(&self) -> Option<&'static str> {
        self.copies.then_some(LEDGER.0)
    }

    /// The first one makes the topics.
    pub(crate) fn clients(&self, rng: &mut Rng) -> Vec<Box<dyn Client>> {
        let places = &Topics(TOPICS.to_vec()).places();
        let mut clients: Vec<Box<dyn Client>> = vec![Box::new(Admin::new(self.nodes, self.topics()))];
        for n in 0..rng.between(1, 3) {
            let batches = rng.between(20, 120) * if self.nodes == 1 { 1 } else { 2 };
            let acks = if n > 0 && rng.chance(40) { Acks::Leader } else { Acks::All };
            let (id, batches) = (u32::try_from(n).unwrap_or(0), u32::try_from(batches).unwrap_or(20));
            clients.push(Box::new(Producer::new(id, places, batches, acks)));
        }
        clients.push(Box::new(Reader::new(self.topics(), false, Isolation::Uncommitted)));
        if self.nodes > 1 {
            clients.push(Box::new(Reader::new(Topics(TOPICS.to_vec()), true, Isolation::Uncommitted)));
        }
        for n in 0..rng.between(1, 3) {
            let instance = rng.chance(30).then(|| format!("instance-{n}"));
            clients.push(Box::new(Member::new(places, instance)));
        }
        if self.transactions {
            clients.extend(self.transactors(rng));
        }
        if self.ids {
            for n in 0..rng.between(1, 2) {
                let messages = u32::try_from(rng.between(30, 200)).unwrap_or(30);
                let client = PUBLISHERS + u32::try_from(n).unwrap_or(0);
                clients.push(Box::new(Publisher::new(client, messages, rng.chance(60))));
            }
        }
        clients
    }

    fn transactors(&self, rng: &mut Rng) -> Vec<Box<dyn Client>> {
        let anywhere = self.nodes > 1 && rng.chance(40);
        let reader = Reader::new(Topics(TRANSACTIONAL.to_vec()), anywhere, Isolation::Committed);
        let mut clients: Vec<Box<dyn Client>> = vec![Box::new(reader)];
        let mut next = TRANSACTORS;
        for n in 0..rng.between(1, 2) {
            let has_double = rng.chance(25);
            clients.extend(transactor(rng, &mut next, &format!("writer-{n}"), Part::Write, has_double));
        }
        if self.copies {
            let has_double = rng.chance(40);
            clients.extend(transactor(rng, &mut next, "copier", Part::Copy, has_double));
        }
        clients
    }
}

/// One client with this transactional id, or two.
fn transactor(rng: &mut Rng, next: &mut u32, id: &str, part: Part, has_double: bool) -> Vec<Box<dyn Client>> {
    let protocol = if rng.chance(50) { Protocol::V1 } else { Protocol::V2 };
    let timeout_ms = [1_500, 4_000, 10_000][rng.below(3)];
    let mut clients: Vec<Box<dyn Client>> = Vec::new();
    for is_double in [false, true].into_iter().take(1 + usize::from(has_double)) {
        let who = Who { client: *next, transactional_id: id.to_owned(), is_double };
        let left = u32::try_from(rng.between(10, 40)).unwrap_or(10);
        clients.push(Box::new(Transactor::new(who, part, protocol, timeout_ms, left)));
        *next += 1;
    }
    clients
}
