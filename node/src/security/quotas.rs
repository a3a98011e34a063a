//! How much callers have used of what they may: a bucket for each that a quota is about, which fills at the quota's rate
//! and may run into debt. Whoever is in debt waits until it is paid.
//!
//! Which quota holds for a user and a client id is Kafka's order (KIP-55): the most specific one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use wherry_metadata::quota::{QuotaEntity, QuotaKey, QuotaName, QuotaSet};

use crate::limits::MAX_QUOTA_BUCKETS;

/// What may be used at once, in seconds of the quota: Kafka averages over as many.
pub(crate) const BURST_S: f64 = 10.0;
const NS_PER_S: f64 = 1_000_000_000.0;

type Table = BTreeMap<QuotaEntity, QuotaSet>;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// What may be used; below zero after more was.
    left: f64,
    at_ns: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    buckets: HashMap<(QuotaKey, QuotaEntity), Bucket, RandomState>,
}

/// A quota, and whose bucket counts against it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Quota {
    of: QuotaEntity,
    pub(crate) per_s: f64,
}

impl Quotas {
    /// Uses so much of a quota; gives how long whoever did has to wait, in nanoseconds.
    pub(crate) fn charge(&mut self, key: QuotaKey, quota: Quota, amount: f64, now_ns: u64) -> u64 {
        let Quota { of, per_s } = quota;
        self.make_room(now_ns);
        let full = Bucket { left: per_s * BURST_S, at_ns: now_ns };
        let bucket = self.buckets.entry((key, of)).or_insert(full);
        refill(bucket, per_s, now_ns);
        bucket.left -= amount;
        wait_ns(bucket.left, per_s)
    }

    /// Whether somebody may use so much of a quota; it is used then.
    pub(crate) fn take(&mut self, key: QuotaKey, quota: Quota, amount: f64, now_ns: u64) -> bool {
        let Quota { of, per_s } = quota;
        self.make_room(now_ns);
        let full = Bucket { left: (per_s * BURST_S).max(1.0), at_ns: now_ns };
        let bucket = self.buckets.entry((key, of)).or_insert(full);
        refill(bucket, per_s, now_ns);
        let may = bucket.left >= amount;
        if may {
            bucket.left -= amount;
        }
        may
    }

    /// At the bound those that were not used for long are forgotten, and if that does not help, all: nobody is held up then.
    fn make_room(&mut self, now_ns: u64) {
        if self.buckets.len() < MAX_QUOTA_BUCKETS {
            return;
        }
        let burst_ns = 2 * 1_000_000_000 * 10;
        self.buckets.retain(|_, bucket| bucket.left < 0.0 || now_ns < bucket.at_ns.saturating_add(burst_ns));
        if self.buckets.len() >= MAX_QUOTA_BUCKETS {
            tracing::warn!("{MAX_QUOTA_BUCKETS} users and clients are counted for quotas; beginning anew");
            self.buckets.clear();
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bucket need not be exact to the nanosecond")]
fn refill(bucket: &mut Bucket, per_s: f64, now_ns: u64) {
    let passed_s = now_ns.saturating_sub(bucket.at_ns) as f64 / NS_PER_S;
    bucket.left = (bucket.left + passed_s * per_s).min((per_s * BURST_S).max(1.0));
    bucket.at_ns = now_ns;
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is above zero, and saturates")]
fn wait_ns(left: f64, per_s: f64) -> u64 {
    if left >= 0.0 { 0 } else { (-left / per_s * NS_PER_S).ceil() as u64 }
}

/// The quota that holds for a user with a client id.
pub(crate) fn of_client(table: &Table, key: QuotaKey, user: &str, client_id: &str) -> Option<Quota> {
    let user = || Some(QuotaName::Named(user.to_owned()));
    let client = || Some(QuotaName::Named(client_id.to_owned()));
    let any = || Some(QuotaName::Default);
    let entity = |user: Option<QuotaName>, client_id: Option<QuotaName>| QuotaEntity { user, client_id, ip: None };
    // What is looked for, and who shares a bucket.
    let candidates = [
        (entity(user(), client()), entity(user(), client())),
        (entity(user(), any()), entity(user(), client())),
        (entity(user(), None), entity(user(), None)),
        (entity(any(), client()), entity(user(), client())),
        (entity(any(), any()), entity(user(), client())),
        (entity(any(), None), entity(user(), None)),
        (entity(None, client()), entity(None, client())),
        (entity(None, any()), entity(None, client())),
    ];
    let find =
        |(wanted, of): (QuotaEntity, QuotaEntity)| Some(Quota { of, per_s: table.get(&wanted)?.get(&key)?.get() });
    candidates.into_iter().find_map(find)
}

/// The quota that holds for an address.
pub(crate) fn of_address(table: &Table, key: QuotaKey, host: IpAddr) -> Option<Quota> {
    let entity = |ip| QuotaEntity { user: None, client_id: None, ip: Some(ip) };
    let own = entity(QuotaName::Named(host.to_string()));
    let found = table.get(&own).and_then(|set| set.get(&key));
    let per_s = found.or_else(|| table.get(&entity(QuotaName::Default))?.get(&key))?.get();
    Some(Quota { of: own, per_s })
}

#[cfg(test)]
mod tests {
    use wherry_metadata::quota::QuotaValue;

    use super::*;

    const KEY: QuotaKey = QuotaKey::ProducerByteRate;
    const S: u64 = 1_000_000_000;

    fn name(text: &str) -> Option<QuotaName> {
        match text {
            "-" => None,
            "*" => Some(QuotaName::Default),
            name => Some(QuotaName::Named(name.into())),
        }
    }

    fn table(rows: &[(&str, &str, f64)]) -> Table {
        let row = |(user, client, rate): &(&str, &str, f64)| {
            let entity = QuotaEntity { user: name(user), client_id: name(client), ip: None };
            (entity, QuotaSet::from([(KEY, QuotaValue::new(*rate).unwrap())]))
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn the_most_specific_quota_holds() {
        let rows = [
            ("u", "c", 1.0),
            ("u", "*", 2.0),
            ("u", "-", 3.0),
            ("*", "c", 4.0),
            ("*", "*", 5.0),
            ("*", "-", 6.0),
            ("-", "c", 7.0),
            ("-", "*", 8.0),
        ];
        for first in 0..rows.len() {
            let quota = of_client(&table(&rows[first..]), KEY, "u", "c").unwrap();
            assert_eq!(quota.per_s, rows[first].2);
        }
        assert_eq!(of_client(&table(&rows), QuotaKey::ConsumerByteRate, "u", "c"), None);
        assert_eq!(of_client(&table(&rows), KEY, "u", "d").unwrap().per_s, 2.0);
        assert_eq!(of_client(&table(&rows), KEY, "v", "d").unwrap().per_s, 5.0);
        let shared = |user, client| of_client(&table(&[("*", "-", 1.0)]), KEY, user, client).unwrap().of;
        assert_eq!(shared("u", "c"), shared("u", "d"), "a user's clients share the user's bucket");
        assert_ne!(shared("u", "c"), shared("v", "c"), "each user has one of its own");
    }

    #[test]
    fn debt_is_waited_for() {
        let mut quotas = Quotas::default();
        let rows = table(&[("u", "-", 100.0)]);
        let mut charge = |amount, now_ns| quotas.charge(KEY, of_client(&rows, KEY, "u", "c").unwrap(), amount, now_ns);
        assert_eq!(charge(1_000.0, 0), 0, "what a burst may have");
        assert_eq!(charge(100.0, 0), S);
        assert_eq!(charge(100.0, S), S, "the debt is paid, and another made");
        assert_eq!(charge(0.0, 100 * S), 0);
        assert_eq!(charge(1_000.0, 100 * S), 0, "no more is saved than a burst");
        assert_eq!(charge(50.0, 100 * S), S / 2);
    }

    #[test]
    fn connections_are_taken_or_refused() {
        let mut quotas = Quotas::default();
        let key = QuotaKey::ConnectionCreationRate;
        let entity = QuotaEntity { ip: Some(QuotaName::Default), ..QuotaEntity::default() };
        let rows = Table::from([(entity, QuotaSet::from([(key, QuotaValue::new(0.2).unwrap())]))]);
        let mut take =
            |host: &str, now_ns| quotas.take(key, of_address(&rows, key, host.parse().unwrap()).unwrap(), 1.0, now_ns);
        assert!(take("10.0.0.1", 0) && take("10.0.0.1", 0), "ten seconds' worth");
        assert!(!take("10.0.0.1", 0));
        assert!(take("10.0.0.2", 0), "each address has its own");
        assert!(take("10.0.0.1", 5 * S) && !take("10.0.0.1", 5 * S));
    }

    #[test]
    fn buckets_are_bounded() {
        let mut quotas = Quotas::default();
        for n in 0..MAX_QUOTA_BUCKETS + 10 {
            let quota = of_client(&table(&[("*", "-", 1.0)]), KEY, &n.to_string(), "c").unwrap();
            quotas.charge(KEY, quota, 1.0, 0);
        }
        assert!(quotas.buckets.len() <= MAX_QUOTA_BUCKETS);
    }
}
