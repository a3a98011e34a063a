//! Several memberships of one group against a model of the coordinator, under random rebalances, lost answers, timeouts and deaths.
//!
//! What must hold, whatever happens: nothing that was confirmed is delivered again, to anyone; nothing is committed that was not
//! acknowledged; in the end everything is acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const PARTITIONS: i32 = 3;
const MESSAGES: i64 = 30;
const MEMBERS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Subscribe {
        member: usize,
        sub: SubId,
        credits: u32,
    },
    Credit {
        member: usize,
        sub: SubId,
        more: u32,
    },
    Unsubscribe {
        member: usize,
        sub: SubId,
    },
    Pull {
        member: usize,
        max: usize,
    },
    /// Settles a delivery, counted from the newest, at a member that may be another than the one that made it.
    Settle {
        back: usize,
        verb: Verb,
        elsewhere: bool,
    },
    Poll {
        member: usize,
    },
    /// Gives up what is to go, if it may.
    Release {
        member: usize,
    },
    StartCommit {
        member: usize,
    },
    /// The answer to a commit comes, or is lost though the commit was applied.
    EndCommit {
        member: usize,
        lost: bool,
    },
    /// A transaction takes some deliveries, counted from the newest, if their member has none open.
    Lease {
        back: usize,
        count: usize,
    },
    /// It ends.
    Resolve {
        member: usize,
        committed: bool,
    },
    /// The coordinator wants a partition to move.
    Move {
        partition: i32,
        to: usize,
    },
    /// All sessions run out.
    Expire,
    /// A member dies and comes back as another.
    Die {
        member: usize,
    },
    Pass {
        ms: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = || 0..MEMBERS;
    let sub = || 0..3u64;
    let verb = prop_oneof![
        6 => Just(Verb::Ack),
        1 => (0..50u64).prop_map(|ms| Verb::Nack(Duration::from_millis(ms))),
        1 => Just(Verb::Extend(None)),
    ];
    let step = prop_oneof![
        3 => (member(), sub(), 0..20u32).prop_map(|(member, sub, credits)| Step::Subscribe { member, sub, credits }),
        2 => (member(), sub(), 1..10u32).prop_map(|(member, sub, more)| Step::Credit { member, sub, more }),
        1 => (member(), sub()).prop_map(|(member, sub)| Step::Unsubscribe { member, sub }),
        2 => (member(), 1..5usize).prop_map(|(member, max)| Step::Pull { member, max }),
        12 => (0..20usize, verb, prop::bool::weighted(0.05))
            .prop_map(|(back, verb, elsewhere)| Step::Settle { back, verb, elsewhere }),
        8 => member().prop_map(|member| Step::Poll { member }),
        2 => member().prop_map(|member| Step::Release { member }),
        4 => member().prop_map(|member| Step::StartCommit { member }),
        4 => (member(), prop::bool::weighted(0.2)).prop_map(|(member, lost)| Step::EndCommit { member, lost }),
        2 => (0..PARTITIONS, member()).prop_map(|(partition, to)| Step::Move { partition, to }),
        1 => Just(Step::Expire),
        1 => member().prop_map(|member| Step::Die { member }),
        3 => (0..40u64).prop_map(|ms| Step::Pass { ms }),
        3 => (0..8usize, 1..4usize).prop_map(|(back, count)| Step::Lease { back, count }),
        3 => (member(), any::<bool>()).prop_map(|(member, committed)| Step::Resolve { member, committed }),
    ];
    prop::collection::vec(step, 1..200)
}

/// A membership: the machine, and what the coordinator and the client's consumer know of it.
struct Membership {
    group: Group,
    /// Position of each partition that the consumer reads.
    owned: BTreeMap<i32, i64>,
    /// Goes when it is released.
    revoking: BTreeSet<i32>,
    generation: i32,
    committing: Option<(i32, Vec<CommitOffset>)>,
    /// The transaction that is about to commit, since which generation, and the deliveries in it.
    transaction: Option<Open>,
    /// Where the group had left off in each partition when this member got it.
    resumed: BTreeMap<i32, (i64, Runs)>,
    credits: BTreeMap<SubId, u64>,
}

/// A transaction: what it has to commit, the generation that it began in, the deliveries in it.
type Open = (Leased, i32, Vec<(i32, AckId)>);

struct World {
    members: Vec<Membership>,
    generation: i32,
    /// Who owns a partition, or will when the present owner gave it up.
    target: BTreeMap<i32, usize>,
    committed: BTreeMap<i32, i64>,
    /// What was committed beside that.
    beside: BTreeMap<i32, Runs>,
    acknowledged: BTreeSet<(i32, i64)>,
    confirmed: BTreeSet<(i32, i64)>,
    /// Every delivery: the member it was made by, partition, id.
    deliveries: Vec<(usize, i32, AckId)>,
    now: Instant,
    calls: u64,
    sessions: u64,
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            members: Vec::new(),
            generation: 0,
            target: BTreeMap::new(),
            committed: BTreeMap::new(),
            beside: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            deliveries: Vec::new(),
            now: Instant::now(),
            calls: 0,
            sessions: 0,
        };
        for _ in 0..MEMBERS {
            let member = world.member();
            world.members.push(member);
        }
        for partition in 0..PARTITIONS {
            world.target.insert(partition, usize::try_from(partition).expect("small") % MEMBERS);
        }
        world.deal();
        world
    }

    fn member(&mut self) -> Membership {
        self.sessions += 1;
        Membership {
            group: Group::new(self.sessions, 8, 1000),
            owned: BTreeMap::new(),
            revoking: BTreeSet::new(),
            generation: -1,
            committing: None,
            transaction: None,
            resumed: BTreeMap::new(),
            credits: BTreeMap::new(),
        }
    }

    /// Hands free partitions to their targets, under a new generation.
    fn deal(&mut self) {
        let owned: BTreeSet<i32> = self.members.iter().flat_map(|member| member.owned.keys().copied()).collect();
        self.generation += 1;
        let mut added: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
        for (partition, to) in self.target.iter().filter(|(partition, _)| !owned.contains(partition)) {
            added.entry(*to).or_default().push(*partition);
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            member.generation = self.generation;
            let added = added.remove(&index).unwrap_or_default();
            for partition in &added {
                let committed = self.committed.get(partition).copied().unwrap_or(0);
                member.owned.insert(*partition, committed);
                member.resumed.insert(*partition, (committed, self.beside.get(partition).cloned().unwrap_or_default()));
            }
            let added: Vec<TopicPartition> = added.into_iter().map(at).collect();
            member.group.assigned(self.generation, &added);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Subscribe { member, sub, credits } => {
                let member = &mut self.members[member];
                if !member.credits.contains_key(&sub) {
                    member.group.subscribe(sub, credits, Duration::from_millis(30));
                    member.credits.insert(sub, u64::from(credits));
                }
            }
            Step::Credit { member, sub, more } => {
                let member = &mut self.members[member];
                member.group.credit(sub, more);
                if let Some(credits) = member.credits.get_mut(&sub) {
                    *credits += u64::from(more);
                }
            }
            Step::Unsubscribe { member, sub } => {
                self.members[member].group.unsubscribe(sub);
                self.members[member].credits.remove(&sub);
            }
            Step::Pull { member, max } => {
                self.calls += 1;
                self.members[member].group.pull(self.calls, max, Duration::from_millis(30));
            }
            Step::Settle { back, verb, elsewhere } => self.settle(back, verb, elsewhere),
            Step::Poll { member } => self.poll(member),
            Step::Release { member } => self.release(member),
            Step::StartCommit { member } => {
                let member = &mut self.members[member];
                if member.committing.is_none() {
                    member.committing = member.group.commit();
                }
            }
            Step::EndCommit { member, lost } => self.end_commit(member, lost),
            Step::Lease { back, count } => self.lease(back, count),
            Step::Resolve { member, committed } => self.resolve(member, committed),
            Step::Move { partition, to } => self.move_to(partition, to),
            Step::Expire => {
                for member in &mut self.members {
                    let lost: Vec<TopicPartition> = std::mem::take(&mut member.owned).into_keys().map(at).collect();
                    member.revoking.clear();
                    member.group.lost(member.generation, &lost);
                }
                self.deal();
            }
            Step::Die { member } => {
                self.members[member] = self.member();
                self.deal();
            }
            Step::Pass { ms } => self.now += Duration::from_millis(ms),
        }
        self.turn();
    }

    fn settle(&mut self, back: usize, verb: Verb, elsewhere: bool) {
        let Some(index) = self.deliveries.len().checked_sub(back + 1) else { return };
        let (member, partition, id) = self.deliveries[index];
        let member = if elsewhere { (member + 1) % MEMBERS } else { member };
        if verb == Verb::Ack {
            self.acknowledged.insert((partition, id.offset));
        }
        self.calls += 1;
        self.members[member].group.settle(Caller::Call(self.calls, 0), id, verb, self.now);
    }

    fn poll(&mut self, index: usize) {
        let now = self.now;
        let member = &mut self.members[index];
        let want = member.group.demand(now);
        let generation = member.generation;
        let mut records = Vec::new();
        for (partition, position) in
            member.owned.iter_mut().filter(|(partition, _)| !member.revoking.contains(partition))
        {
            while records.len() < want && *position < MESSAGES {
                records.push(record(*partition, *position, generation));
                *position += 1;
            }
        }
        let resumed = &member.resumed;
        member.group.records(records, |at| resumed.get(&at.partition).cloned());
    }

    fn release(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.group.give_up_revoked(self.now) {
            for partition in std::mem::take(&mut member.revoking) {
                member.owned.remove(&partition);
            }
            self.deal();
        }
    }

    fn end_commit(&mut self, index: usize, lost: bool) {
        let member = &mut self.members[index];
        let Some((generation, next)) = member.committing.take() else { return };
        if generation != member.generation {
            return member.group.commit_failed();
        }
        self.apply(next);
        let member = &mut self.members[index];
        if lost { member.group.commit_failed() } else { member.group.commit_done() }
    }

    /// A commit is durable.
    fn apply(&mut self, next: Vec<CommitOffset>) {
        for CommitOffset { at, offset: next, metadata } in next {
            let before = self.committed.insert(at.partition, next).unwrap_or(0);
            assert!(next >= before, "a commit never goes back");
            let above = super::super::progress::decode(next, &metadata);
            for offset in (0..next).chain(above.iter().flat_map(|(from, to)| *from..*to)) {
                assert!(self.acknowledged.contains(&(at.partition, offset)), "{offset} of {at} was never acknowledged");
            }
            self.beside.insert(at.partition, above);
        }
    }

    fn lease(&mut self, back: usize, count: usize) {
        let Some(newest) = self.deliveries.len().checked_sub(back + 1) else { return };
        let (index, ..) = self.deliveries[newest];
        let of_member = self.deliveries[..=newest].iter().rev().filter(|(member, ..)| *member == index);
        let deliveries: Vec<(i32, AckId)> = of_member.take(count).map(|(_, partition, id)| (*partition, *id)).collect();
        let ids: Vec<AckId> = deliveries.iter().map(|(_, id)| *id).collect();
        let member = &mut self.members[index];
        if member.transaction.is_none()
            && member.group.may_lease(&ids)
            && let Ok(leased) = member.group.lease(&ids)
        {
            member.transaction = Some((leased, member.generation, deliveries));
        }
    }

    fn resolve(&mut self, index: usize, committed: bool) {
        let Some((leased, generation, deliveries)) = self.members[index].transaction.take() else { return };
        // The coordinator refuses who has missed a generation.
        let committed = committed && generation == self.members[index].generation;
        if committed {
            for (partition, id) in deliveries {
                self.acknowledged.insert((partition, id.offset));
                self.confirmed.insert((partition, id.offset));
            }
            self.apply(leased.next.clone());
        }
        self.members[index].group.resolve(&leased, committed);
    }

    fn move_to(&mut self, partition: i32, to: usize) {
        self.target.insert(partition, to);
        let by = self.now + Duration::from_millis(20);
        for (index, member) in self.members.iter_mut().enumerate() {
            if index != to && member.owned.contains_key(&partition) && member.revoking.insert(partition) {
                member.group.revoking(&[at(partition)], by);
            }
        }
    }

    fn turn(&mut self) {
        for index in 0..self.members.len() {
            loop {
                self.members[index].group.turn(self.now);
                let effects = self.members[index].group.effects();
                if effects.is_empty() {
                    break;
                }
                effects.into_iter().for_each(|effect| self.effect(index, effect));
            }
        }
    }

    fn effect(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Deliver(sub, messages) => {
                let credits = self.members[index].credits.get_mut(&sub).expect("a subscription that is open");
                *credits = credits.checked_sub(messages.len() as u64).expect("credits");
                self.delivered(index, messages);
                self.members[index].group.sent(sub);
            }
            Effect::Answer(_, messages) => self.delivered(index, messages),
            Effect::Settled(_, id, Outcome::Acknowledged) => {
                let of = self.deliveries.iter().find(|(_, _, delivered)| *delivered == id).expect("a delivery");
                let (partition, offset) = (of.1, id.offset);
                let committed = self.committed.get(&partition).copied().unwrap_or(0);
                let above = self.beside.get(&partition).into_iter().flatten();
                let durable = offset < committed || above.clone().any(|(from, to)| (*from..*to).contains(&offset));
                assert!(durable, "{offset} of {partition} confirmed, committed is {committed} and {above:?}");
                self.confirmed.insert((partition, offset));
            }
            Effect::Settled(..) | Effect::Pause(_) | Effect::Resume(_) => {}
        }
    }

    fn delivered(&mut self, index: usize, messages: Vec<Outgoing>) {
        for Outgoing { id, record } in messages {
            let confirmed = self.confirmed.contains(&(record.partition, record.offset));
            assert!(!confirmed, "{}-{} delivered after it was confirmed", record.partition, record.offset);
            self.deliveries.push((index, record.partition, id));
        }
    }

    /// One healthy member settles everything.
    fn finish(mut self) {
        let mut acked = self.deliveries.len();
        self.step(&Step::Pass { ms: 10_000 });
        for member in 0..MEMBERS {
            self.step(&Step::Resolve { member, committed: false });
        }
        for partition in 0..PARTITIONS {
            self.step(&Step::Move { partition, to: 0 });
        }
        for index in 0..MEMBERS {
            self.step(&Step::Pass { ms: 10_000 });
            self.step(&Step::Release { member: index });
        }
        for sub in 0..3 {
            self.step(&Step::Unsubscribe { member: 0, sub });
        }
        self.step(&Step::Subscribe { member: 0, sub: 9, credits: 1000 });
        let total = usize::try_from(i64::from(PARTITIONS) * MESSAGES).expect("small");
        let all: BTreeMap<i32, i64> = (0..PARTITIONS).map(|partition| (partition, MESSAGES)).collect();
        for _ in 0..10 * total {
            if self.committed == all {
                return;
            }
            self.step(&Step::Poll { member: 0 });
            for back in (0..self.deliveries.len() - acked).rev() {
                self.settle(back, Verb::Ack, false);
            }
            acked = self.deliveries.len();
            self.step(&Step::EndCommit { member: 0, lost: false });
            self.step(&Step::StartCommit { member: 0 });
            self.step(&Step::Credit { member: 0, sub: 9, more: 100 });
        }
        assert_eq!(self.committed, all, "everything is acknowledged in the end");
    }
}

fn record(partition: i32, offset: i64, generation: i32) -> ConsumedRecord {
    ConsumedRecord {
        topic: "t".into(),
        partition,
        offset,
        leader_epoch: 0,
        timestamp_ms: 0,
        generation,
        key: None,
        value: Some(bytes::Bytes::from_static(b"12345")),
        headers: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_confirmed_comes_again_and_nothing_is_skipped(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.finish();
    }
}

/// Two subscriptions, one partition: the second gets nothing while the first holds something, and all once it is gone.
#[test]
fn a_partition_changes_hands_only_while_nothing_of_it_is_held() {
    let now = Instant::now();
    let mut group = Group::new(1, 100, 100);
    group.assigned(1, &[at(0)]);
    group.subscribe(1, 2, Duration::from_secs(1));
    group.records((0..4).map(|offset| record(0, offset, 1)).collect(), |_| None);
    group.turn(now);
    let Some(Effect::Deliver(1, first)) = group.effects().pop() else { panic!("nothing for 1") };
    assert_eq!(first.len(), 2);
    group.sent(1);
    group.subscribe(2, 10, Duration::from_secs(1));
    group.turn(now);
    assert_eq!(group.effects(), [], "1 holds two");
    group.settle(Caller::Sub(1), first[0].id, Verb::Ack, now);
    group.turn(now);
    assert_eq!(group.effects(), [], "1 still holds one");
    group.settle(Caller::Sub(1), first[1].id, Verb::Ack, now);
    group.turn(now);
    let Some(Effect::Deliver(2, second)) = group.effects().pop() else { panic!("nothing for 2") };
    assert_eq!(second.iter().map(|message| message.record.offset).collect::<Vec<_>>(), [2, 3]);
}

/// A record of a generation that has ended is dropped; one of a generation whose news has not come yet is kept.
#[test]
fn records_are_judged_by_the_generation_they_came_under() {
    let now = Instant::now();
    let mut group = Group::new(1, 100, 100);
    group.subscribe(1, 10, Duration::from_secs(1));
    group.assigned(3, &[at(0)]);
    group.lost(3, &[at(0)]);
    group.records(vec![record(0, 5, 3)], |_| None);
    group.turn(now);
    assert_eq!(group.effects(), []);
    group.records(vec![record(0, 2, 4)], |_| None);
    group.turn(now);
    assert!(matches!(group.effects().as_slice(), [Effect::Deliver(1, messages)] if messages[0].record.offset == 2));
    group.assigned(4, &[at(0)]);
    group.sent(1);
    group.records(vec![record(0, 3, 4)], |_| None);
    group.turn(now);
    assert!(matches!(group.effects().as_slice(), [Effect::Deliver(1, messages)] if messages[0].record.offset == 3));
}
