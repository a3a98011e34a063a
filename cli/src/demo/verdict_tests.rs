//! Every kind of wrong that the verdict must see, and what it must not mind.

use bytes::Bytes;

use super::super::ledger::{MessageId, Place, Published, Received};
use super::{Run, Verdict, judge};

const RUN: Run = Run { planned: 6, records_in_log: 6, kills_planned: 1, kills_survived: 1 };

fn id(producer: u32, sequence: u32) -> MessageId {
    MessageId { producer, sequence }
}

/// Producer p writes to partition p, sequence s at offset s.
fn place(id: MessageId) -> Place {
    Place { partition: i32::try_from(id.producer).unwrap(), offset: i64::from(id.sequence) }
}

fn everything() -> impl Iterator<Item = MessageId> {
    (0..2).flat_map(|producer| (0..3).map(move |sequence| id(producer, sequence)))
}

fn published() -> Published {
    let mut published = Published::new(2);
    for each in everything() {
        assert_eq!(published.sent(each.producer, 1), Some(each));
        assert!(published.acknowledged(each, place(each), 2));
    }
    published
}

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn empty() -> Received {
    Received::new(&[3, 3])
}

fn deliver(group: &mut Received, each: MessageId) {
    group.delivered(each, key(), place(each), 3);
}

fn received() -> Received {
    let mut group = empty();
    for each in everything() {
        deliver(&mut group, each);
        group.confirmed(each);
    }
    group
}

fn verdict(published: &Published, group: &Received) -> Verdict {
    judge(RUN, published, &[("g", group)])
}

/// Exactly the checks with these words fail.
#[track_caller]
fn fails(verdict: &Verdict, words: &[&str]) {
    let failed: Vec<_> = verdict.checks.iter().filter(|check| !check.ok).collect();
    assert_eq!(failed.len(), words.len(), "{failed:?}");
    for word in words {
        assert!(failed.iter().any(|check| check.what.contains(word)), "{word:?} not among {failed:?}");
    }
    assert_eq!(verdict.good, words.is_empty());
    assert!(failed.iter().all(|check| !check.found.is_empty()), "{failed:?}");
}

#[test]
fn a_good_run_is_good() {
    let verdict = verdict(&published(), &received());
    fails(&verdict, &[]);
    assert_eq!((verdict.sent, verdict.acknowledged), (6, 6));
}

#[test]
fn redelivery_before_the_confirmation_is_allowed() {
    let mut group = empty();
    for each in everything() {
        deliver(&mut group, each);
    }
    for each in everything() {
        deliver(&mut group, each);
        group.confirmed(each);
    }
    let verdict = verdict(&published(), &group);
    fails(&verdict, &[]);
    assert_eq!(verdict.groups[0].redelivered, 6);
}

#[test]
fn a_lost_message_is_seen() {
    let mut group = empty();
    for each in everything().filter(|each| *each != id(1, 1)) {
        deliver(&mut group, each);
        group.confirmed(each);
    }
    let verdict = verdict(&published(), &group);
    fails(&verdict, &["nothing lost", "every message was acknowledged"]);
    assert_eq!(verdict.groups[0].lost, 1);
}

#[test]
fn losing_the_last_message_is_seen() {
    let mut group = empty();
    for each in everything().filter(|each| *each != id(1, 2)) {
        deliver(&mut group, each);
        group.confirmed(each);
    }
    fails(&verdict(&published(), &group), &["nothing lost", "every message was acknowledged"]);
}

#[test]
fn an_unacknowledged_publish_is_not_lost_but_bad() {
    let mut published = published();
    assert!(published.sent(0, 5).is_some());
    published.failed("OUTCOME_UNKNOWN");
    let verdict = judge(Run { planned: 7, ..RUN }, &published, &[("g", &received())]);
    fails(&verdict, &["every publish was acknowledged"]);
    assert_eq!(verdict.groups[0].lost, 0);
}

#[test]
fn a_second_acknowledgement_is_noted() {
    let mut published = published();
    assert!(!published.acknowledged(id(0, 0), place(id(0, 0)), 9));
    assert!(!published.acknowledged(id(7, 0), place(id(0, 0)), 9));
    assert_eq!(published.failures().len(), 1);
}

#[test]
fn too_few_sent_is_seen() {
    fails(&judge(Run { planned: 7, ..RUN }, &published(), &[("g", &received())]), &["everything was sent"]);
}

#[test]
fn two_records_for_one_publish_are_seen() {
    let mut group = received();
    group.delivered(id(0, 1), key(), Place { partition: 0, offset: 77 }, 9);
    fails(&verdict(&published(), &group), &["nothing duplicated"]);
}

#[test]
fn a_second_record_that_no_group_got_is_seen_in_the_log() {
    let run = Run { records_in_log: 7, ..RUN };
    fails(&judge(run, &published(), &[("g", &received())]), &["one record for each publish"]);
}

#[test]
fn a_delivery_after_the_confirmation_is_seen() {
    let mut group = received();
    deliver(&mut group, id(1, 0));
    fails(&verdict(&published(), &group), &["nothing duplicated"]);
}

#[test]
fn a_swap_within_a_key_is_seen() {
    let mut group = empty();
    for each in [id(0, 1), id(0, 0), id(0, 2), id(1, 0), id(1, 1), id(1, 2)] {
        deliver(&mut group, each);
        group.confirmed(each);
    }
    fails(&verdict(&published(), &group), &["nothing out of order"]);
}

#[test]
fn other_keys_and_producers_have_their_own_order() {
    let mut group = empty();
    for each in [id(1, 0), id(0, 0), id(1, 1), id(0, 1), id(0, 2), id(1, 2)] {
        deliver(&mut group, each);
        group.confirmed(each);
    }
    fails(&verdict(&published(), &group), &[]);
    let mut group = empty();
    for (each, key) in
        [(id(0, 1), "a"), (id(0, 0), "b"), (id(0, 2), "a"), (id(1, 0), "a"), (id(1, 1), "a"), (id(1, 2), "a")]
    {
        group.delivered(each, Bytes::from_static(key.as_bytes()), place(each), 3);
        group.confirmed(each);
    }
    fails(&verdict(&published(), &group), &[]);
}

#[test]
fn a_message_in_another_place_than_the_producer_was_told_is_seen() {
    let mut group = empty();
    for each in everything() {
        let told = place(each);
        group.delivered(each, key(), Place { offset: told.offset + 100, ..told }, 3);
        group.confirmed(each);
    }
    fails(&verdict(&published(), &group), &["misplaced"]);
}

#[test]
fn damaged_and_unknown_messages_are_seen() {
    let spoil: [fn(&mut Received); 4] = [
        Received::damaged,
        Received::stranger,
        |group| group.delivered(id(0, 3), key(), Place { partition: 0, offset: 3 }, 3),
        |group| group.delivered(id(9, 0), key(), Place { partition: 0, offset: 3 }, 3),
    ];
    for spoil in spoil {
        let mut group = received();
        spoil(&mut group);
        fails(&verdict(&published(), &group), &["damaged"]);
    }
}

#[test]
fn an_acknowledgement_that_was_never_confirmed_is_seen() {
    let mut group = empty();
    for each in everything() {
        deliver(&mut group, each);
        if each != id(0, 2) {
            group.confirmed(each);
        }
    }
    fails(&verdict(&published(), &group), &["acknowledged, durably"]);
}

#[test]
fn a_confirmation_of_what_was_not_delivered_counts_for_nothing() {
    let mut group = empty();
    group.confirmed(id(0, 0));
    assert_eq!(group.counts().confirmed, 0);
}

#[test]
fn a_kill_that_did_not_happen_is_seen() {
    let run = Run { kills_survived: 0, ..RUN };
    fails(&judge(run, &published(), &[("g", &received())]), &["killed"]);
}

#[test]
fn one_bad_group_among_good_ones_is_enough() {
    let good = received();
    let mut bad = received();
    deliver(&mut bad, id(0, 0));
    let verdict = judge(RUN, &published(), &[("a", &good), ("b", &bad), ("c", &good)]);
    fails(&verdict, &["b: nothing duplicated"]);
}

#[test]
fn without_groups_nothing_is_proved() {
    fails(&judge(RUN, &published(), &[]), &["somebody received"]);
}
