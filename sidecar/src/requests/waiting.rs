//! Who waits for which reply. Pure.
//!
//! A correlation id is the number of a request behind a prefix that this sidecar has drawn, so replies to other sidecars on the same
//! partition are told apart from replies that come too late.

use std::collections::HashMap;

use bytes::Bytes;

/// What became of a reply that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrived<T> {
    /// Somebody waits for it.
    Awaited(T),
    /// Nobody waits for it any more.
    Late,
    /// It is for another sidecar.
    NotOurs,
}

/// Requests without a reply, and whoever `T` tells of it.
#[derive(Debug)]
pub(crate) struct Waiting<T> {
    prefix: u64,
    next: u64,
    most: usize,
    open: HashMap<u64, T>,
}

impl<T> Waiting<T> {
    /// None; at most `most` at a time.
    pub(crate) fn new(prefix: u64, most: usize) -> Self {
        Self { prefix, next: 0, most, open: HashMap::new() }
    }

    /// Somebody waits; `None` at the bound.
    pub(crate) fn open(&mut self, who: T) -> Option<u64> {
        if self.open.len() >= self.most {
            return None;
        }
        self.next += 1;
        self.open.insert(self.next, who);
        Some(self.next)
    }

    /// The correlation id of a request.
    pub(crate) fn correlation(&self, number: u64) -> Bytes {
        format!("{:016x}-{number}", self.prefix).into()
    }

    /// Nobody waits any more.
    pub(crate) fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// A reply came.
    pub(crate) fn arrived(&mut self, correlation: &[u8]) -> Arrived<T> {
        match self.number(correlation) {
            None => Arrived::NotOurs,
            Some(number) => self.open.remove(&number).map_or(Arrived::Late, Arrived::Awaited),
        }
    }

    fn number(&self, correlation: &[u8]) -> Option<u64> {
        let (prefix, number) = std::str::from_utf8(correlation).ok()?.split_once('-')?;
        let ours = u64::from_str_radix(prefix, 16).ok()? == self.prefix && prefix.len() == 16;
        number.parse().ok().filter(|_| ours)
    }

    /// All replies are lost.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_finds_its_request_once() {
        let mut waiting = Waiting::new(0xabc, 2);
        let (one, two) = (waiting.open("one").expect("room"), waiting.open("two").expect("room"));
        assert_eq!(waiting.open("three"), None);
        let (first, second) = (waiting.correlation(one), waiting.correlation(two));
        assert_eq!(waiting.arrived(&second), Arrived::Awaited("two"));
        assert_eq!(waiting.arrived(&second), Arrived::Late);
        waiting.close(one);
        assert_eq!(waiting.arrived(&first), Arrived::Late);
        assert!(waiting.open("three").is_some());
    }

    #[test]
    fn replies_to_others_are_not_ours() {
        let mut waiting = Waiting::<()>::new(0xabc, 2);
        let other = Waiting::<()>::new(0xabd, 2);
        assert_eq!(waiting.arrived(&other.correlation(1)), Arrived::NotOurs);
        for other in [&b""[..], b"-", b"abc-1", b"\xff\xff", b"0000000000000abc-", b"0000000000000abc-x"] {
            assert_eq!(waiting.arrived(other), Arrived::NotOurs, "{other:?}");
        }
        assert_eq!(waiting.arrived(b"0000000000000abc-9"), Arrived::Late);
    }
}
