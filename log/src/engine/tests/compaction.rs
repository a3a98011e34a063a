//! Compaction: the newest record of each key stays, at its offset; everything else may go; a crash at any point harms
//! nothing.

use std::collections::BTreeMap;

use wherry_wire::compress::Codec;
use wherry_wire::records::{BatchBuilder, Stamp, records};

use super::crashes::Dice;
use super::*;
use crate::config::Cleanup;
use crate::io::Survive;

const LOG: u128 = 1;

/// Offset, key, value (`None` is a tombstone).
type Record = (i64, String, Option<String>);

fn keyed(codec: Codec, list: &[(String, Option<String>)]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(codec, None);
    for (key, value) in list {
        let value = value.as_ref().map(String::as_bytes);
        builder.append(7, Some(key.as_bytes()), value, &[("h", "v")]).unwrap();
    }
    let bytes = builder.build(Stamp::NONE).unwrap();
    batch::split(bytes).next().unwrap().unwrap().check().unwrap()
}

fn read_records(rig: &mut Rig) -> Vec<Record> {
    let id = log_id(LOG);
    let info = rig.engine.info(id).unwrap();
    let (mut from, mut out) = (info.log_start, Vec::new());
    while from < info.durable_end {
        let served = match rig.engine.read(id, from, ReadUpTo::Offset(info.durable_end), 6 << 10, true).unwrap() {
            Read::Ready(served) => served,
            Read::Pending(token) => rig.wait_read(token).unwrap(),
        };
        assert!(served.next > from, "a reader at {from} gets no further");
        for bytes in &served.batches {
            let checked = batch::split(bytes.clone()).next().unwrap().unwrap().check().unwrap();
            let header = *checked.header();
            for record in &records(&header, checked.bytes(), 1 << 20).unwrap() {
                let record = record.unwrap();
                let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                let offset = header.base_offset.0 + i64::from(record.offset_delta);
                out.push((offset, text(record.key.unwrap()), record.value.map(text)));
            }
        }
        from = served.next;
    }
    out
}

fn newest(list: &[Record]) -> BTreeMap<&str, (i64, Option<&str>)> {
    list.iter().map(|(o, k, v)| (k.as_str(), (*o, v.as_deref().map(|v| v.get(..12).unwrap_or(v))))).collect()
}

fn compacted_rig(seed: u64, delete_retention_ms: i64) -> Rig {
    let mut rig = Rig::new(seed, small());
    rig.log_config = LogConfig {
        segment_bytes: 12 << 10,
        cleanup: Cleanup::Compact,
        min_cleanable_permille: 300,
        delete_retention_ms,
        ..LogConfig::default()
    };
    let t = rig.create(log_id(LOG));
    rig.until_durable(t);
    rig
}

fn fill(rig: &mut Rig, dice: &mut Dice, batches: u64, all: &mut Vec<Record>) {
    for _ in 0..batches {
        let codec = [Codec::None, Codec::Lz4, Codec::Gzip, Codec::Zstd][dice.roll(4) as usize];
        let list: Vec<_> = (0..1 + dice.roll(6))
            .map(|_| {
                let value = (dice.roll(12) != 0).then(|| format!("{}-{}", dice.roll(1 << 30), "v".repeat(600)));
                (format!("key-{}", dice.roll(25)), value)
            })
            .collect();
        let done = rig.engine.append(log_id(LOG), &[keyed(codec, &list)], LeaderEpoch(0), 0).unwrap();
        rig.until_durable(done.ticket);
        for (i, (key, value)) in list.into_iter().enumerate() {
            all.push((done.base_offset.0 + i as i64, key, value));
        }
    }
}

#[test]
fn the_newest_record_of_each_key_stays_where_it_was() {
    let mut rig = compacted_rig(1, i64::MAX);
    let (mut dice, mut all) = (Dice::new(1), Vec::new());
    fill(&mut rig, &mut dice, 200, &mut all);
    rig.until("compacted", |r| r.engine.stats().compactions > 0);
    rig.until("old files gone", |r| r.engine.sync.is_clean());
    let read = read_records(&mut rig);
    assert!(read.len() * 2 < all.len(), "{} of {} records are left", read.len(), all.len());
    assert_eq!(newest(&read), newest(&all));
    assert!(read.iter().all(|r| all.contains(r)), "a record that was never written, or another offset");
    assert!(read.is_sorted_by_key(|r| r.0));
}

#[test]
fn tombstones_go_after_their_time_and_their_keys_with_them() {
    let mut rig = compacted_rig(2, 0);
    let mut dice = Dice::new(2);
    let dead = keyed(Codec::None, &[("dead".into(), Some("x".into()))]);
    let grave = keyed(Codec::None, &[("dead".into(), None)]);
    for b in [dead, grave] {
        let done = rig.engine.append(log_id(LOG), &[b], LeaderEpoch(0), 0).unwrap();
        rig.until_durable(done.ticket);
    }
    let mut all = Vec::new();
    fill(&mut rig, &mut dice, 100, &mut all);
    rig.until("compacted", |r| r.engine.stats().compactions > 0);
    assert!(read_records(&mut rig).iter().all(|r| r.1 != "dead"));
}

#[test]
fn a_crash_at_any_point_of_a_compaction_loses_no_key() {
    for seed in 0..60 {
        let (mut dice, mut all) = (Dice::new(seed), Vec::new());
        let mut rig = compacted_rig(seed, i64::MAX);
        for round in 0..4 {
            let batches = 20 + dice.roll(40);
            fill(&mut rig, &mut dice, batches, &mut all);
            for _ in 0..dice.roll(150) {
                rig.turn();
            }
            let survive = Survive::Seeded(dice.roll(1 << 40));
            let crash = dice.roll(2) == 0;
            let disk = rig.engine.disk_mut();
            let disk = if crash { disk.crash(survive) } else { disk.kill(survive) };
            let config = rig.log_config.clone();
            let context = format!("seed {seed} round {round}");
            rig = Rig::open(disk, small(), Model::new()).unwrap_or_else(|e| panic!("{context}: {e}")).0;
            rig.engine.configure(log_id(LOG), config.clone()).unwrap();
            rig.log_config = config;
            let read = read_records(&mut rig);
            assert_eq!(newest(&read), newest(&all), "{context}");
            assert!(read.iter().all(|r| all.contains(r)), "{context}");
        }
    }
}
