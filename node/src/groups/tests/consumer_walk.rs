//! A long random walk over a consumer group: clients that come, hold on, give up, hang, lose answers and come back; topics
//! that come, grow and go; a log that refuses, is slow, and loses its tail when the coordinator is killed. What must hold all
//! the while: no partition has two owners, neither by what the coordinator keeps nor by what clients were told; epochs never
//! go back; what is replayed is what was. And in the end, when all is quiet, every partition is read by someone.

use super::super::consumer::ConsumerGroup;
use super::super::consumer::current::LEAVING_FOR_NOW;
use super::super::consumer::state::Member;
use super::consumer::{Consumer, owned, response};
use super::walk::Rng;
use super::*;

const STEPS: usize = 1_500;
const CLIENTS: usize = 6;
const TOPICS: [&str; 4] = ["ta", "tb", "ua", "ub"];

/// A client program around the member.
struct Client {
    consumer: Consumer,
    open: Option<RequestRef>,
    /// It hangs, or is dead.
    gone: bool,
    /// It has lost track, or wants others: it says everything.
    full: bool,
    lives: u32,
    number: usize,
}

struct Walk {
    rng: Rng,
    world: World,
    clients: Vec<Client>,
    /// The largest group's epoch that anyone was told.
    told_epoch: i32,
    moves: usize,
    restarts: usize,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut world = World::with(GroupsConfig {
            max_pending_persists: 8,
            max_consumer_group_size: 5,
            pattern_refresh_interval_ms: if seed.is_multiple_of(2) { 0 } else { 10_000 },
            ..config()
        });
        world.cluster.set("ta", 3);
        world.cluster.set("ua", 2);
        let mut rng = Rng(seed);
        let clients = (0..CLIENTS).map(|number| client(&mut rng, number, 0)).collect();
        Self { rng, world, clients, told_epoch: 0, moves: 0, restarts: 0 }
    }

    fn step(&mut self) {
        let client = self.rng.below(CLIENTS);
        match self.rng.below(24) {
            0..=9 => self.beat(client),
            10..=12 => self.append_some(),
            13 => self.advance(),
            14 => self.clients[client].consumer.revoked(),
            15 => self.change_wish(client),
            16 => self.clients[client].gone ^= true,
            17 => self.lose_answer(client),
            18 => self.replace(client),
            19 => self.leave(client),
            20 => self.change_topics(),
            21 => {
                let refuses = self.rng.chance(40);
                self.world.refusing = refuses.then_some(PersistError::NotAvailable);
            }
            22 if self.rng.chance(30) => self.restart(),
            _ => self.world.prompt = self.rng.chance(50),
        }
        self.take_answers();
        self.check();
    }

    fn beat(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.gone || client.open.is_some() {
            return;
        }
        let full = client.full || client.consumer.epoch <= 0 || self.rng.chance(10);
        client.full = false;
        if client.consumer.epoch < 0 {
            client.consumer.epoch = 0;
        }
        let mut request = if full { client.consumer.full() } else { client.consumer.brief() };
        if !full && client.consumer.owned == client.consumer.told && self.rng.chance(50) {
            request.owned = None;
        }
        client.open = Some(self.world.send(Request::ConsumerHeartbeat(request)));
    }

    fn leave(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.open.is_some() || client.consumer.epoch <= 0 {
            return;
        }
        let for_now = client.consumer.instance.is_some() && self.rng.chance(60);
        let request = ConsumerHeartbeatRequest {
            member_epoch: if for_now { LEAVING_FOR_NOW } else { -1 },
            owned: None,
            ..client.consumer.brief()
        };
        // It has given everything up before it says so, and never waits for the answer.
        client.consumer.owned.clear();
        client.consumer.told.clear();
        client.consumer.epoch = 0;
        self.world.send(Request::ConsumerHeartbeat(request));
        if for_now {
            self.renew(number);
        }
    }

    /// The process is another, with the same instance id if it had one.
    fn renew(&mut self, number: usize) {
        let lives = self.clients[number].lives + 1;
        let instance = self.clients[number].consumer.instance.clone();
        self.clients[number] = client(&mut self.rng, number, lives);
        self.clients[number].consumer.instance = instance;
    }

    fn replace(&mut self, number: usize) {
        if self.rng.chance(30) {
            self.renew(number);
        }
    }

    fn change_wish(&mut self, number: usize) {
        if self.rng.chance(40) {
            let wish = wish(&mut self.rng);
            let client = &mut self.clients[number];
            (client.consumer.topics, client.consumer.regex) = wish;
            client.full = true;
        }
    }

    fn lose_answer(&mut self, number: usize) {
        if self.rng.chance(40)
            && let Some(request) = self.clients[number].open.take()
        {
            self.world.step(Input::Abandoned { request });
            self.world.replies.remove(&request);
            self.clients[number].full = true;
        }
    }

    fn change_topics(&mut self) {
        let name = TOPICS[self.rng.below(TOPICS.len())];
        match self.world.cluster.topics.get(name).map(|topic| topic.partitions) {
            Some(_) if self.rng.chance(15) => {
                self.world.cluster.topics.remove(name);
                self.world.step(Input::TopicDeleted { topic: name.into() });
            }
            Some(partitions) if partitions > 6 => {}
            partitions => {
                self.world.cluster.set(name, partitions.unwrap_or(0) + 1);
                self.world.step(Input::TopicsChanged);
            }
        }
    }

    fn append_some(&mut self) {
        for _ in 0..=self.rng.below(3) {
            if !self.world.appends.is_empty() {
                self.world.append_done(Ok(()));
            }
        }
    }

    fn advance(&mut self) {
        let ms = [100, 1_000, 5_000, 20_000, 50_000][self.rng.below(5)];
        self.world.advance(ms);
    }

    /// The coordinator is killed; of what was on its way some reached the log, perhaps in part.
    fn restart(&mut self) {
        self.restarts += 1;
        let whole = self.rng.below(self.world.appends.len() + 1);
        let appends = std::mem::take(&mut self.world.appends);
        let kept: Vec<_> = appends.into_iter().filter(|(id, _)| !self.world.refused.contains(id)).collect();
        for (at, (_, mut records)) in kept.into_iter().enumerate().take(whole + 1) {
            if at == whole {
                let torn = self.rng.below(records.len() + 1);
                records.truncate(torn);
            }
            for record in records {
                match record.value {
                    Some(value) => self.world.durable.insert(record.key, value),
                    None => self.world.durable.remove(&record.key),
                };
            }
        }
        self.world.replies.clear();
        for client in &mut self.clients {
            client.full |= client.open.take().is_some();
        }
        self.world.restart();
    }

    fn take_answers(&mut self) {
        for number in 0..CLIENTS {
            let Some(request) = self.clients[number].open else { continue };
            let Some(reply) = self.world.replies.remove(&request) else { continue };
            self.clients[number].open = None;
            self.take_answer(number, &response(reply));
        }
        self.world.replies.clear();
    }

    fn take_answer(&mut self, number: usize, answer: &ConsumerHeartbeatResponse) {
        let client = &mut self.clients[number];
        match answer.error {
            GroupError::None => {
                assert!(answer.member_epoch >= client.consumer.epoch, "an epoch went back");
                self.told_epoch = self.told_epoch.max(answer.member_epoch);
                self.check_given(number, answer);
                let client = &mut self.clients[number];
                let before = client.consumer.owned.len();
                client.consumer.take(answer);
                self.moves += usize::from(client.consumer.owned.len() != before);
            }
            GroupError::UnknownMemberId | GroupError::FencedMemberEpoch | GroupError::GroupIdNotFound => {
                client.consumer.owned.clear();
                client.consumer.told.clear();
                client.consumer.epoch = 0;
            }
            GroupError::FencedInstanceId => self.renew(number),
            GroupError::CoordinatorNotAvailable => client.full = true,
            GroupError::UnreleasedInstanceId | GroupError::GroupMaxSizeReached => assert_eq!(client.consumer.epoch, 0),
            other => panic!("{other:?}: {answer:?}"),
        }
    }

    /// What a client is given, no other has: none that is still a member, by its own account.
    fn check_given(&self, number: usize, answer: &ConsumerHeartbeatResponse) {
        let Some(assignment) = &answer.assignment else { return };
        let given = owned(assignment);
        let new: Vec<_> = given.difference(&self.clients[number].consumer.owned).collect();
        let Some(group) = self.group() else { return };
        // An answer so late that its member is out already: it will learn that with its next heartbeat.
        if !group.members.contains_key(&self.clients[number].consumer.id) {
            return;
        }
        for other in self.clients.iter().filter(|other| other.number != number) {
            let is_member = group.members.get(&other.consumer.id).is_some_and(|m| m.current.epoch > 0);
            for partition in &new {
                assert!(
                    !is_member || !other.consumer.owned.contains(partition),
                    "{partition:?} given to {} while {} has it",
                    self.clients[number].consumer.id,
                    other.consumer.id
                );
            }
        }
    }

    fn group(&self) -> Option<&ConsumerGroup> {
        self.world.groups.groups.get(GROUP)?.consumer.as_deref()
    }

    fn check(&self) {
        let Some(group) = self.group() else { return };
        let mut owners: BTreeMap<Uuid, BTreeMap<i32, Arc<str>>> = BTreeMap::new();
        for (id, member) in &group.members {
            for (topic, held) in member.current.assigned.iter().chain(&member.current.revoking) {
                for partition in held.keys() {
                    let other = owners.entry(*topic).or_default().insert(*partition, Arc::clone(id));
                    assert!(other.is_none(), "{topic} {partition} is {id}'s and {other:?}'s");
                }
            }
        }
        assert_eq!(owners, group.owners);
        assert!(group.epoch >= group.target_epoch && group.target_epoch >= 0);
        assert!(group.epoch >= self.told_epoch, "the group's epoch went back");
        assert!(group.members.len() <= 5, "more members than there may be");
        let strangers: Vec<_> = group.targets.keys().filter(|id| !group.members.contains_key(*id)).collect();
        assert!(strangers.is_empty(), "targets of {strangers:?}, who are no members");
        for regex in group.regexes.keys() {
            assert!(group.matched_by(regex) > 0, "nobody has {regex}");
        }
        let instances = group.members.iter().filter_map(|(id, m)| Some((m.meta.instance_id.clone()?, Arc::clone(id))));
        assert_eq!(instances.collect::<BTreeMap<_, _>>(), group.instances);
        let subscribed: usize = group.subscriptions.values().sum();
        assert_eq!(subscribed, group.members.len());
    }

    /// All appends end; nothing happens any more but heartbeats. Everyone gets what there is.
    fn calm_down(&mut self) {
        self.world.refusing = None;
        self.world.prompt = true;
        while !self.world.appends.is_empty() {
            self.world.append_done(Ok(()));
        }
        self.take_answers();
        // Those who are too many stay away; whoever is silent is out.
        self.world.advance(120_000);
        for round in 0..40 {
            self.world.advance(3_000);
            for number in 0..4 {
                self.clients[number].gone = false;
                self.beat(number);
                self.take_answers();
                self.check();
                self.clients[number].consumer.revoked();
                assert!(round < 30 || self.clients[number].consumer.epoch > 0, "{number} is not in the group");
            }
        }
        self.check_calm();
    }

    fn check_calm(&mut self) {
        let group = self.group().unwrap();
        assert_eq!(group.state_name(), StateName::Stable);
        assert_eq!(group.members.len(), 4);
        for (name, topic) in &self.world.cluster.topics {
            let read = group.topics().contains(name);
            for partition in 0..topic.partitions {
                let owners: Vec<_> = self.clients[..4]
                    .iter()
                    .filter(|client| client.consumer.owned.contains(&(topic.id, partition)))
                    .collect();
                assert_eq!(owners.len(), usize::from(read), "{name} {partition}");
            }
        }
    }

    fn check_replay(&mut self) {
        let kept = |group: &ConsumerGroup| {
            let member = |(id, m): (&Arc<str>, &Member)| (Arc::clone(id), m.meta.clone(), m.current.clone());
            let members: Vec<_> = group.members.iter().map(member).collect();
            let epochs = (group.epoch, group.topics_hash, group.target_epoch, group.target_ms);
            let rest = (group.targets.clone(), group.regexes.clone(), group.instances.clone());
            (epochs, members, rest, group.owners.clone(), group.subscriptions.clone())
        };
        let before = kept(self.group().unwrap());
        self.world.restart();
        assert_eq!(kept(self.group().unwrap()), before);
    }
}

fn wish(rng: &mut Rng) -> (Vec<Arc<str>>, Option<Arc<str>>) {
    match rng.below(4) {
        0 => (Vec::new(), Some(["t.", "u.", ".a"][rng.below(3)].into())),
        1 => (vec!["ta".into()], Some("u.".into())),
        2 => (vec!["ta".into(), "ua".into()], Some("".into())),
        _ => (TOPICS.iter().filter(|_| rng.chance(60)).map(|topic| Arc::from(*topic)).collect(), Some("".into())),
    }
}

fn client(rng: &mut Rng, number: usize, lives: u32) -> Client {
    let mut consumer = Consumer::new(&format!("m{number}-{lives}"), &[]);
    (consumer.topics, consumer.regex) = wish(rng);
    consumer.instance = number.is_multiple_of(3).then(|| format!("i{number}").into());
    consumer.assignor = rng.chance(20).then(|| "range".into());
    Client { consumer, open: None, gone: false, full: true, lives, number }
}

#[test]
fn partitions_have_one_owner_and_epochs_only_grow() {
    let seeds = std::env::var("WHERRY_WALK_SEEDS").ok().map_or(40, |seeds| seeds.parse().unwrap());
    let (mut moves, mut restarts) = (0, 0);
    for seed in 0..seeds {
        let mut walk = Walk::new(seed);
        let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..STEPS).for_each(|_| walk.step());
            walk.calm_down();
            walk.check_replay();
        }));
        assert!(walked.is_ok(), "seed {seed}");
        moves += walk.moves;
        restarts += walk.restarts;
    }
    assert!(moves > 1_000 && restarts > 50, "the walk went nowhere: {moves} moves, {restarts} restarts");
}
