//! What happened, as one number: two runs of a seed that differ anywhere differ here.

use std::fmt::Arguments;

/// A running hash of everything that happened, and the text of it where somebody wants to read.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, print }
    }

    /// Something happened at this time; `bytes` is what it carried.
    pub(crate) fn event(&mut self, now_ns: u64, what: Arguments<'_>, bytes: &[u8]) {
        let text = what.to_string();
        self.feed(&now_ns.to_le_bytes());
        self.feed(text.as_bytes());
        self.feed(bytes);
        self.events += 1;
        if self.print {
            self.line(now_ns, &text, bytes.len());
        }
    }

    #[expect(clippy::print_stderr, reason = "a trace that was asked for")]
    fn line(&self, now_ns: u64, text: &str, len: usize) {
        eprintln!("{:>14.6} ms  {:016x}  {text} ({len} bytes)", now_ns as f64 / 1e6, self.hash);
    }

    /// FNV-1a (Fowler, Noll, Vo).
    fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}
