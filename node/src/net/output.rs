//! What one connection still has to be sent, in order. How much that may be is the core's affair: it stops reading from
//! a peer that does not read.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Chunks that wait for the socket.
#[derive(Debug, Default)]
pub struct Output {
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Output {
    /// Appends chunks; empty ones are dropped.
    pub fn push(&mut self, chunks: Vec<Bytes>) {
        for chunk in chunks {
            if !chunk.is_empty() {
                self.bytes += chunk.len();
                self.chunks.push_back(chunk);
            }
        }
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes chunks from the front: at most `max_chunks`, and no further one once they have `max_bytes`.
    pub fn take(&mut self, max_chunks: usize, max_bytes: usize) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(self.chunks.len().min(max_chunks));
        let mut bytes = 0;
        while taken.len() < max_chunks
            && bytes < max_bytes
            && let Some(chunk) = self.chunks.pop_front()
        {
            bytes += chunk.len();
            taken.push(chunk);
        }
        self.bytes -= bytes;
        taken
    }

    /// Puts back the part of `taken` behind the first `sent` bytes.
    pub fn put_back(&mut self, taken: Vec<Bytes>, sent: usize) {
        let mut skip = sent;
        let mut rest = Vec::new();
        for mut chunk in taken {
            let skipped = skip.min(chunk.len());
            chunk.advance(skipped);
            skip -= skipped;
            if !chunk.is_empty() {
                rest.push(chunk);
            }
        }
        for chunk in rest.into_iter().rev() {
            self.bytes += chunk.len();
            self.chunks.push_front(chunk);
        }
    }

    /// The chunks at the front, for a vectored write.
    pub fn front(&self, max_chunks: usize) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter().take(max_chunks)
    }

    /// Drops `sent` bytes from the front.
    pub fn advance(&mut self, mut sent: usize) {
        while sent > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let part = sent.min(chunk.len());
            chunk.advance(part);
            self.bytes -= part;
            sent -= part;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(parts: &[&'static str]) -> Output {
        let mut output = Output::default();
        output.push(parts.iter().map(|part| Bytes::from_static(part.as_bytes())).collect());
        output
    }

    fn text(output: &Output) -> String {
        let all: Vec<u8> = output.front(usize::MAX).flatten().copied().collect();
        assert_eq!(all.len(), output.bytes());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn takes_within_both_bounds() {
        let mut out = output(&["ab", "", "cd", "ef"]);
        assert_eq!(out.take(2, 100), ["ab", "cd"]);
        assert_eq!(text(&out), "ef");
        let mut out = output(&["ab", "cd", "ef"]);
        assert_eq!(out.take(100, 3), ["ab", "cd"], "the chunk that passes the bound is the last");
        assert_eq!(out.take(0, 3), Vec::<Bytes>::new());
    }

    #[test]
    fn every_partial_send_leaves_the_rest_in_order() {
        for sent in 0..=6 {
            let mut out = output(&["ab", "cd", "ef", "gh"]);
            let taken = out.take(3, 100);
            out.put_back(taken, sent);
            assert_eq!(text(&out), &"abcdefgh"[sent..]);
            let mut out = output(&["ab", "cd", "ef"]);
            out.advance(sent);
            assert_eq!(text(&out), &"abcdef"[sent..]);
        }
    }
}
