//! What is removed gives its space back, slowly while there is room and at once when there is not, and whatever happens meanwhile.

use super::super::trash::PIECES_PER_S;
use super::*;
use crate::io::Survive;

/// Four pieces of 4 KiB every quarter of a second.
const RATE: u64 = 64 << 10;

/// A log in several segments, beside one that stays.
fn two_logs(seed: u64, config: EngineConfig) -> (Rig, LogId) {
    let mut rig = Rig::new(seed, config);
    let (goes, stays) = (log_id(1), log_id(2));
    for id in [goes, stays] {
        rig.fill(id);
    }
    let config = rig.config.clone();
    (rig.closed_and_opened(config), goes)
}

fn files(rig: &mut Rig, directory: &str) -> Vec<(String, u64)> {
    let disk = rig.engine.disk_mut();
    let paths = disk.paths().into_iter().filter(|p| p.parent().is_some_and(|d| d.ends_with(directory)));
    let paths: Vec<_> = paths.collect();
    paths.into_iter().map(|p| (p.display().to_string(), disk.contents(&p).unwrap().len() as u64)).collect()
}

fn bytes(files: &[(String, u64)]) -> u64 {
    files.iter().map(|(_, len)| len).sum()
}

#[test]
fn a_removed_log_gives_its_space_back_a_piece_at_a_time() {
    let (mut rig, id) = two_logs(1, EngineConfig { erase_bytes_per_s: RATE, ..small() });
    let of_log = |rig: &mut Rig| {
        files(rig, "segments").into_iter().filter(|(name, _)| name.contains(&id.topic.to_string())).collect::<Vec<_>>()
    };
    let all = bytes(&of_log(&mut rig));
    assert!(all > 90_000, "{all}");
    let free = rig.engine.disk_mut().free();
    let (t, began_ns) = (rig.delete(id), rig.now.monotonic_ns);
    rig.until_durable(t);
    let mut most = 0;
    rig.until("it is in the trash", |rig| {
        most = most.max(rig.engine.trash.queue.len());
        most > 2
    });
    assert!(of_log(&mut rig).is_empty(), "none of it has its name any more");
    let (mut before, mut largest) = (bytes(&files(&mut rig, "trash")), 0);
    while rig.engine.trash.next_deadline().is_some() || rig.engine.trash.on_its_way {
        rig.turn();
        let now = bytes(&files(&mut rig, "trash"));
        largest = largest.max(before.saturating_sub(now));
        before = now;
    }
    assert!(files(&mut rig, "trash").is_empty());
    assert!(largest <= RATE / PIECES_PER_S, "{largest} bytes at once");
    let took_ns = rig.now.monotonic_ns - began_ns;
    assert!(took_ns > (all - 8192) * 1_000_000_000 / RATE, "{took_ns} ns for {all} bytes");
    // The journal took some meanwhile.
    assert!(rig.engine.disk_mut().free() >= free + all / 2);
    assert_eq!(rig.observed(), rig.model());
}

#[test]
fn without_room_all_of_it_is_given_back_at_once() {
    let (mut rig, id) = two_logs(2, EngineConfig { erase_bytes_per_s: RATE, reserve_bytes: 40 << 20, ..small() });
    rig.until("free space is known", |rig| rig.engine.stats().disk_free_bytes > 0);
    let reserve = rig.engine.stats().disk_free_bytes * 2 / 3;
    rig.engine.config.reserve_bytes = reserve;
    let (t, began_ns) = (rig.delete(id), rig.now.monotonic_ns);
    rig.until_durable(t);
    rig.until("it is in the trash", |rig| !rig.engine.trash.queue.is_empty());
    rig.until("it is gone", |rig| rig.engine.trash.queue.is_empty());
    assert!(files(&mut rig, "trash").is_empty());
    let took_ns = rig.now.monotonic_ns - began_ns;
    assert!(took_ns < 500_000_000, "{took_ns} ns");
}

#[test]
fn a_start_goes_on_with_what_the_process_before_left() {
    for seed in 0..30 {
        let (mut rig, id) = two_logs(seed, EngineConfig { erase_bytes_per_s: RATE, ..small() });
        let t = rig.delete(id);
        rig.until_durable(t);
        for _ in 0..seed * 20 {
            rig.turn();
        }
        let base = rig.model();
        let disk = if seed % 2 == 0 {
            rig.engine.disk_mut().kill(Survive::Seeded(seed))
        } else {
            rig.engine.disk_mut().crash(Survive::Seeded(seed))
        };
        let (mut rig, _) = Rig::open(disk, rig.config, base).unwrap();
        let over = |rig: &Rig| rig.engine.trash.queue.is_empty() && !rig.engine.trash.on_its_way;
        // Names that were not yet moved are, in the first turns.
        (0..50).for_each(|_| rig.turn());
        rig.until("it is gone", over);
        assert!(files(&mut rig, "trash").is_empty(), "seed {seed}");
        let left = files(&mut rig, "segments").into_iter().filter(|(name, _)| name.contains(&id.topic.to_string()));
        assert_eq!(left.count(), 0, "seed {seed}");
        assert_eq!(rig.observed(), rig.model(), "seed {seed}");
    }
}
