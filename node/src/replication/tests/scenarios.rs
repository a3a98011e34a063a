//! What has gone wrong elsewhere, step by step.

use uuid::Uuid;
use wherry_wire::types::{LeaderEpoch, Offset};

use super::super::store::{Now, ReplicaStore};
use super::super::*;
use super::disk::{Store, batch};
use super::world::{World, log};

fn world(min_insync: usize) -> World {
    let mut world = World::new(1, min_insync);
    world.settle(5);
    world
}

fn hw(world: &mut World, node: i32) -> Option<i64> {
    world.node(node).replicas.high_watermark(log(0)).map(|o| o.0)
}

fn sound(world: &mut World) {
    world.heal().unwrap();
}

/// Delivers everything that is on its way, without any disk finishing.
fn deliver_all(world: &mut World) {
    for _ in 0..50 {
        for link in world.pipes.keys().copied().collect::<Vec<_>>() {
            world.deliver(link, true);
            world.deliver(link, false);
        }
    }
}

#[test]
fn a_record_is_acknowledged_when_it_is_durable_everywhere() {
    let mut w = world(2);
    let wait = w.produce(0, log(0), true).unwrap();
    w.seal(0);
    deliver_all(&mut w);
    for node in [1, 2] {
        assert!(w.node(node).store.log(log(0)).end > 0, "the leader sends before its own write is durable");
        w.seal(node);
        w.write(node, 9);
    }
    deliver_all(&mut w);
    assert!(w.is_waiting(wait), "trap 8: the leader does not count itself before its disk has it");
    assert_eq!(hw(&mut w, 0), Some(0));
    w.write(0, 9);
    assert!(!w.is_waiting(wait));
    assert_eq!(hw(&mut w, 0), Some(w.node(0).store.log(log(0)).end));
    sound(&mut w);
}

#[test]
fn a_follower_counts_when_its_disk_has_it() {
    let mut w = world(2);
    let wait = w.produce(0, log(0), true).unwrap();
    w.seal(0);
    w.write(0, 9);
    deliver_all(&mut w);
    for node in [1, 2] {
        w.seal(node);
    }
    deliver_all(&mut w);
    assert!(w.is_waiting(wait));
    w.write(1, 9);
    deliver_all(&mut w);
    assert!(w.is_waiting(wait), "one of two is not enough");
    w.write(2, 9);
    deliver_all(&mut w);
    assert!(!w.is_waiting(wait));
    sound(&mut w);
}

#[test]
fn a_slow_replica_leaves_and_comes_back_and_the_larger_set_counts_until_the_answer() {
    let mut w = world(2);
    w.set_busy(2, true);
    let wait = w.produce(0, log(0), true).unwrap();
    for _ in 0..3 {
        for node in [0, 1] {
            w.seal(node);
            w.write(node, 9);
        }
        deliver_all(&mut w);
    }
    w.pass_ms(11_000);
    w.pass_ms(1_000);
    assert_eq!(w.changes.len(), 1, "one proposal at a time");
    assert!(w.is_waiting(wait), "trap 9: proposed is not decided");
    w.decide();
    w.view(0);
    assert!(!w.is_waiting(wait));
    assert_eq!(w.meta[&log(0)].isr, [0, 1]);
    w.set_busy(2, false);
    sound(&mut w);
    assert_eq!(w.meta[&log(0)].isr.len(), 3);
}

#[test]
fn below_the_minimum_nothing_new_is_committed() {
    let mut w = world(2);
    w.crash(1, 0);
    w.crash(2, 0);
    w.fence(1);
    w.fence(2);
    w.view(0);
    w.produce(0, log(0), false);
    w.seal(0);
    w.write(0, 9);
    assert_eq!(hw(&mut w, 0), Some(0), "KIP-966");
    assert_eq!(w.node(0).replicas.leads(log(0)), Some((LeaderEpoch(0), false)));
    sound(&mut w);
}

#[test]
fn a_new_leader_has_no_high_watermark_before_its_replicas_reported() {
    let mut w = world(2);
    w.produce(0, log(0), true).unwrap();
    w.settle(3);
    w.move_leader(log(0), 1);
    w.view(1);
    assert_eq!(hw(&mut w, 1), None, "trap 10");
    w.settle(3);
    let end = w.node(1).store.log(log(0)).end;
    assert_eq!(hw(&mut w, 1), Some(end));
    sound(&mut w);
}

#[test]
fn without_a_lease_nothing_is_acknowledged_and_with_it_again_everything() {
    let mut w = world(2);
    w.expire_lease(0);
    let wait = w.produce(0, log(0), true).unwrap();
    for _ in 0..3 {
        for node in 0..3 {
            w.seal(node);
            w.write(node, 9);
        }
        deliver_all(&mut w);
    }
    assert!(w.is_waiting(wait), "INV-4");
    w.unfence(0);
    w.turn(0);
    assert!(!w.is_waiting(wait));
}

#[test]
fn who_waits_is_told_when_leadership_is_lost() {
    let mut w = world(2);
    let wait = w.produce(0, log(0), true).unwrap();
    w.move_leader(log(0), 1);
    w.view(0);
    assert!(!w.is_waiting(wait));
    assert_eq!(w.released, 0);
    sound(&mut w);
}

/// KIP-101: a former leader has more than was committed, knows an old high watermark only, and cuts its log by epoch:
/// what was committed stays, so it may lead again.
#[test]
pub(super) fn truncation_by_epoch_keeps_what_is_committed() {
    let mut w = world(2);
    let wait = w.produce(0, log(0), true).unwrap();
    w.settle(3);
    assert!(!w.is_waiting(wait));
    let committed = w.node(0).store.log(log(0)).end;
    // One record that only its own disk has; then another leads, and its new process knows no high watermark.
    w.produce(0, log(0), false);
    w.seal(0);
    w.crash(0, 9);
    assert!(w.node(0).store.log(log(0)).end > committed);
    w.restart(0);
    let leader = w.meta[&log(0)].leader.unwrap();
    assert_ne!(leader, 0);
    w.view(leader);
    w.produce(leader, log(0), false);
    w.connect();
    deliver_all(&mut w);
    assert_eq!(w.node(0).store.log(log(0)).end, committed);
    sound(&mut w);
}

/// Trap 20: what reached a follower before the leader's own disk does not come back under the same epoch.
#[test]
fn a_restarted_leader_leads_in_another_epoch() {
    let mut w = world(2);
    w.produce(0, log(0), true).unwrap();
    w.seal(0);
    deliver_all(&mut w);
    w.crash(0, 0);
    assert_eq!(w.node(0).store.log(log(0)).end, 0);
    w.restart(0);
    assert!(w.meta[&log(0)].leader_epoch > 0);
    sound(&mut w);
}

/// A store that a leader deleted the beginning of: who has less starts again there.
#[test]
fn a_replica_that_is_too_far_behind_starts_again() {
    let mut w = world(2);
    w.crash(2, 0);
    w.fence(2);
    for _ in 0..5 {
        w.produce(0, log(0), true);
        w.settle(2);
    }
    let middle = w.node(0).store.log(log(0)).batches[3].header.base_offset;
    for node in [0, 1] {
        w.node(node).store.delete_records(log(0), middle).unwrap();
    }
    w.node(0).replicas.start_moved(log(0));
    sound(&mut w);
    assert_eq!(w.node(2).store.log(log(0)).start, middle.0);
}

/// KIP-279: after several fast elections the logs part at an epoch that only one of them has.
#[test]
fn logs_that_parted_more_than_once_are_made_equal() {
    let (mut leader, mut follower) = (Store::default(), Store::default());
    for (store, epochs) in [(&mut leader, [0, 0, 1, 1, 5]), (&mut follower, [0, 0, 2, 2, 3])] {
        store.create(log(0));
        for (n, epoch) in (1u64..).zip(epochs) {
            store.append(log(0), &batch(n * 100 + u64::try_from(epoch).unwrap(), 1), LeaderEpoch(epoch));
        }
        store.seal();
        store.write(99);
    }
    let mut w = world(1);
    for (node, store) in [(0, leader), (2, follower)] {
        w.node(node).store = store;
    }
    w.crash(1, 0);
    w.crash(0, 9);
    w.crash(2, 9);
    let meta = w.meta.get_mut(&log(0)).unwrap();
    (meta.leader_epoch, meta.isr) = (6, vec![0]);
    w.restart(0);
    sound(&mut w);
    let epochs: Vec<i32> = w.node(2).store.log(log(0)).batches.iter().map(|b| b.header.leader_epoch.0).collect();
    assert_eq!(epochs, [0, 0, 1, 1, 5]);
}

fn alone(partitions: i32) -> (Replicas, Store) {
    let (mut replicas, mut store) = (Replicas::new(ReplicationConfig::new(0)), Store::default());
    replicas.set_lease(true);
    for p in 0..partitions {
        store.create(log(p));
        let role = LeaderRole {
            leader_epoch: LeaderEpoch(0),
            partition_epoch: 0,
            replicas: vec![0],
            isr: vec![0],
            min_insync_replicas: 2,
        };
        replicas.partition(&mut store, log(p), Role::Leader(role));
    }
    (replicas, store)
}

#[test]
fn a_sole_replica_commits_what_is_durable() {
    let (mut replicas, mut store) = alone(1);
    replicas.turn(&mut store);
    let (_, end) = store.append(log(0), &batch(1, 2), LeaderEpoch(0));
    replicas.wait_for(log(0), end, WaitId(5));
    store.seal();
    replicas.sealed(log(0));
    replicas.turn(&mut store);
    assert_eq!(replicas.outputs().collect::<Vec<_>>(), [Output::HighWatermark(log(0))], "established");
    store.write(1);
    replicas.advanced(&mut store, log(0));
    replicas.turn(&mut store);
    let out: Vec<Output> = replicas.outputs().collect();
    assert_eq!(out, [Output::Released(WaitId(5)), Output::HighWatermark(log(0))]);
    assert_eq!(replicas.high_watermark(log(0)), Some(Offset(2)));
}

#[test]
fn idle_partitions_ask_for_nothing() {
    let (mut replicas, mut store) = alone(10_000);
    replicas.turn(&mut store);
    replicas.outputs().for_each(drop);
    assert_eq!(replicas.next_deadline(), None);
    replicas.set_now(Now { monotonic_ns: 1_000_000_000_000, wall_ms: 0 });
    replicas.turn(&mut store);
    assert_eq!(replicas.outputs().count(), 0);
}

#[test]
fn a_damaged_message_closes_the_link() {
    let (mut replicas, mut store) = alone(1);
    replicas.link_up(LinkId(1), 2, Uuid::nil(), Side::Accepted);
    replicas.message(&mut store, LinkId(1), Bytes::from_static(&[99]));
    assert!(replicas.outputs().any(|o| matches!(o, Output::DropLink { link: LinkId(1), .. })));
    replicas.message(&mut store, LinkId(1), Bytes::from_static(&[4, 0, 0, 0, 1]));
    assert!(!replicas.outputs().any(|o| matches!(o, Output::DropLink { .. })), "it is forgotten");
}
