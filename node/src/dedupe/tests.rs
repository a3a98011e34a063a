use std::collections::BTreeMap;

use super::*;

fn id(n: u64) -> MessageId {
    MessageId::of(7, &n.to_be_bytes())
}

fn at(found: Option<Found>) -> Option<i64> {
    match found {
        Some(Found::At(offset)) => Some(offset.0),
        Some(Found::Undecided) => Some(-1),
        None => None,
    }
}

#[test]
fn an_id_is_known_for_its_window() {
    let mut ids = Ids::default();
    for n in 0..10 {
        ids.insert(id(n), Offset(i64::try_from(n).unwrap()), n, None);
    }
    ids.forget(4, 100);
    assert_eq!(at(ids.find(id(3), None)), None);
    assert_eq!(at(ids.find(id(4), None)), Some(4));
    ids.forget(0, 3);
    assert_eq!((at(ids.find(id(6), None)), at(ids.find(id(7), None)), ids.len()), (None, Some(7), 3));
}

#[test]
fn what_a_transaction_brought_is_undecided_to_others_until_it_ends() {
    for commit in [true, false] {
        let mut ids = Ids::default();
        ids.insert(id(1), Offset(0), 0, None);
        ids.begin(5, Offset(1));
        ids.insert(id(2), Offset(1), 0, Some(5));
        assert_eq!(at(ids.find(id(2), Some(5))), Some(1), "its own");
        assert_eq!(at(ids.find(id(2), None)), Some(-1));
        assert_eq!(at(ids.find(id(2), Some(6))), Some(-1));
        ids.end(6, false);
        ids.end(5, commit);
        assert_eq!(at(ids.find(id(2), None)), commit.then_some(1));
        assert_eq!(at(ids.find(id(1), None)), Some(0));
    }
}

#[test]
fn a_second_record_with_an_id_takes_it_over() {
    let mut ids = Ids::default();
    ids.insert(id(1), Offset(0), 0, None);
    ids.insert(id(1), Offset(1), 50, None);
    ids.forget(50, 100);
    assert_eq!(at(ids.find(id(1), None)), Some(1));
}

#[test]
fn what_was_read_back_and_what_came_meanwhile_become_one() {
    let (mut read, mut fresh) = (Ids::default(), Ids::default());
    read.begin(5, Offset(0));
    read.insert(id(1), Offset(0), 0, Some(5));
    fresh.begin(5, Offset(3));
    fresh.insert(id(2), Offset(3), 0, Some(5));
    read.absorb(fresh);
    read.end(5, false);
    assert_eq!((at(read.find(id(1), None)), at(read.find(id(2), None))), (None, None));
}

/// Against a model that keeps everything.
#[test]
fn random_histories() {
    for seed in 0..300u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % n
        };
        let (mut ids, mut offset) = (Ids::default(), 0);
        // Id to its offset, time, and the transaction it is undecided in.
        let mut model: BTreeMap<u64, (i64, u64, Option<i64>)> = BTreeMap::new();
        let mut open: BTreeMap<i64, i64> = BTreeMap::new();
        for now in 0..200u64 {
            let producer = i64::try_from(draw(3)).unwrap();
            match draw(10) {
                0 => {
                    let commit = draw(2) == 0;
                    ids.end(producer, commit);
                    open.remove(&producer);
                    model.retain(|_, (_, _, of)| *of != Some(producer) || commit);
                    model.values_mut().filter(|v| v.2 == Some(producer)).for_each(|v| v.2 = None);
                }
                1 => {
                    ids.forget(now.saturating_sub(60), 1000);
                    model.retain(|_, (_, at, _)| *at >= now.saturating_sub(60));
                }
                _ => {
                    let n = draw(40);
                    let of = (draw(3) == 0).then_some(producer);
                    let found = at(ids.find(id(n), of));
                    let expected = model.get(&n).map(|(offset, _, whose)| match whose {
                        Some(whose) if of != Some(*whose) => -1,
                        Some(_) | None => *offset,
                    });
                    assert_eq!(found, expected, "seed {seed}, {now}, id {n}");
                    if found.is_none() {
                        if let Some(of) = of {
                            ids.begin(of, Offset(offset));
                            open.entry(of).or_insert(offset);
                        }
                        ids.insert(id(n), Offset(offset), now, of);
                        model.insert(n, (offset, now, of));
                    }
                    offset += 1;
                }
            }
        }
    }
}
