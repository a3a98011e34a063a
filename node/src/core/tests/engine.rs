//! The core over the real engine on a simulated disk: the same requests, and crashes that take what was not durable.

use wherry_log::io::{SimConfig, SimDisk, Survive};
use wherry_wire::codec::messages::offset_fetch_request::OffsetFetchRequestGroup;
use wherry_wire::codec::messages::{FindCoordinatorRequest, OffsetFetchRequest, ProduceRequest};

use super::*;
use crate::config::EngineOptions;
use crate::core::store::Engine;

fn small() -> NodeConfig {
    let engine =
        EngineOptions { journal_bytes: 16 << 20, tail_bytes: 8 << 20, reserve_bytes: 0, ..EngineOptions::default() };
    NodeConfig { engine, ..config() }
}

fn open(disk: SimDisk) -> Node<Engine<SimDisk>> {
    let (engine, _) = Engine::open(disk, small().engine.engine_config(), start_time(), Uuid::from_u128(1)).unwrap();
    Node::new(small(), engine)
}

fn fresh(seed: u64) -> Node<Engine<SimDisk>> {
    open(SimDisk::new(SimConfig { seed, ..SimConfig::default() }))
}

/// Turns until a response is there.
#[track_caller]
fn ask<R: ApiRequest>(node: &mut Node<Engine<SimDisk>>, conn: ConnId, version: i16, request: &R) -> R::Response {
    node.send(conn, version, request);
    for _ in 0..10_000 {
        node.advance_ms(1);
        node.turn();
        if let Some((_, response)) = node.try_receive::<R>(conn, version) {
            return response;
        }
    }
    panic!("no response");
}

#[test]
fn produce_fetch_and_a_crash_at_any_moment() {
    for seed in 0..30 {
        let mut node = fresh(seed);
        let conn = node.connect();
        assert_eq!(ask(&mut node, conn, 7, &create("t", 1, &[])).topics[0].error_code, 0);
        let mut acknowledged = Vec::new();
        for n in 0..40 {
            node.send(conn, 9, &produce("t", -1, &[(0, batch(&[&format!("{seed}-{n}")]))]));
            if n % 3 == 0 {
                node.turn();
            }
            while let Some((_, response)) = node.try_receive::<ProduceRequest>(conn, 9) {
                assert_eq!(produced(&response).error_code, 0);
                acknowledged.push(produced(&response).base_offset);
            }
        }
        for _ in 0..seed {
            node.turn();
        }
        while let Some((_, response)) = node.try_receive::<ProduceRequest>(conn, 9) {
            acknowledged.push(produced(&response).base_offset);
        }
        let store = std::mem::replace(node.core.store_mut(), fresh(0).core.into_store());
        let mut node = open(store.into_disk().crash(Survive::Seeded(seed)));
        let conn = node.connect();
        let response = ask(&mut node, conn, 11, &fetch("t", 0));
        let found = values(&first(&response).records);
        assert!(
            found.len() >= acknowledged.len(),
            "seed {seed}: {} acknowledged, {} found",
            acknowledged.len(),
            found.len()
        );
        for (n, (offset, value)) in found.iter().enumerate() {
            assert_eq!((*offset, value.as_str()), (i64::try_from(n).unwrap(), format!("{seed}-{n}").as_str()));
        }
    }
}

#[test]
fn an_orderly_stop_and_start() {
    let mut node = fresh(5);
    let conn = node.connect();
    ask(&mut node, conn, 7, &create("t", 2, &[]));
    for n in 0..10 {
        ask(&mut node, conn, 9, &produce("t", -1, &[(n % 2, batch(&["x"]))]));
    }
    let now = node.now;
    node.core.close(now).unwrap();
    let mut node = open(node.core.into_store().into_disk());
    let conn = node.connect();
    let response = ask(&mut node, conn, 11, &fetch("t", 0));
    assert_eq!(values(&first(&response).records).len(), 5, "served from segments");
    assert_eq!(produced(&ask(&mut node, conn, 9, &produce("t", -1, &[(0, batch(&["y"]))]))).base_offset, 5);
}

/// A recovered log is configured only after the metadata is read: until then nothing of it may be deleted.
#[test]
fn a_start_long_after_deletes_nothing_that_is_to_be_kept() {
    let mut node = fresh(6);
    let conn = node.connect();
    ask(&mut node, conn, 7, &create("forever", 1, &[("retention.ms", "-1"), ("segment.bytes", "1048576")]));
    let value = "x".repeat(200_000);
    for _ in 0..20 {
        ask(&mut node, conn, 9, &produce("forever", -1, &[(0, batch(&[&value]))]));
    }
    let now = node.now;
    node.core.close(now).unwrap();
    let disk = node.core.into_store().into_disk();
    let later = Now { monotonic_ns: 0, wall_ms: WALL_MS + 400 * 24 * 3600 * 1000 };
    let (engine, _) = Engine::open(disk, small().engine.engine_config(), later, Uuid::from_u128(1)).unwrap();
    let core = Core::with_store(small(), advertised(), engine, later).unwrap();
    let mut node = Node::from_core(core, later);
    for _ in 0..20 {
        node.advance_ms(6_000);
        node.turn();
    }
    let conn = node.connect();
    let response = ask(&mut node, conn, 11, &fetch("forever", 0));
    assert_eq!((first(&response).error_code, first(&response).log_start_offset), (0, 0));
}

/// Groups are read from segments, a piece at a time, while clients are told to come again.
#[test]
fn groups_of_many_partitions_are_read_back() {
    let mut node = fresh(7);
    let conn = node.connect();
    ask(&mut node, conn, 7, &create("t", 1, &[]));
    let find = FindCoordinatorRequest::default().with_key(text("g"));
    assert_eq!(ask(&mut node, conn, 3, &find).error_code, 0);
    let commits = |round: i64| {
        (0..40i64).map(move |n| (n + round, groups::commit(&format!("group-{n}"), "", -1, "t", n + round)))
    };
    for (_, commit) in (0..5).flat_map(commits) {
        assert_eq!(ask(&mut node, conn, 7, &commit).topics[0].partitions[0].error_code, 0);
    }
    let now = node.now;
    node.core.close(now).unwrap();
    let mut node = open(node.core.into_store().into_disk());
    let conn = node.connect();
    for (offset, commit) in commits(4) {
        let one = OffsetFetchRequestGroup::default().with_group_id(commit.group_id).with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![one]);
        let found = loop {
            let response = ask(&mut node, conn, 8, &request);
            match response.groups[0].error_code {
                14 => {}
                code => break (code, response.groups[0].topics[0].partitions[0].committed_offset),
            }
        };
        assert_eq!(found, (0, offset));
    }
}
