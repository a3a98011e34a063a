//! Reads ahead for whoever reads a log in order: the chunks that follow what was just served are on their way before they
//! are asked for, so that a consumer that catches up waits for the disk's throughput and not for its latency.
//!
//! A reader is known by where its last read ended. One that goes on from there gets a window, which doubles with each
//! read that goes on; one that jumps gets none.

use std::collections::VecDeque;

use wherry_wire::types::Offset;

use super::Engine;
use crate::config::{MAX_READS_IN_FLIGHT, MAX_STREAMS};
use crate::io::Disk;
use crate::segment::chunk::ChunkRef;

/// A window is at most this many times [`crate::EngineConfig::read_bytes`].
const MAX_WINDOW_READS: usize = 4;
/// Windows of all readers together take at most this part of the cache; the rest is for what was asked for.
const CACHE_SHARE: usize = 2;

/// Where readers ended; the longest unseen is forgotten first.
#[derive(Debug, Default)]
pub(super) struct Streams {
    seen: VecDeque<Stream>,
}

#[derive(Debug)]
struct Stream {
    log: usize,
    next: Offset,
    /// Bytes; 0 until it has gone on once.
    window: usize,
}

impl Streams {
    /// A read of this log begins here: the window it has earned, if it goes on from where one ended.
    pub(super) fn begin(&mut self, log: usize, from: Offset) -> Option<usize> {
        let at = self.seen.iter().position(|s| s.log == log && s.next == from)?;
        self.seen.remove(at).map(|s| s.window)
    }

    /// A read of this log ended here.
    fn ended(&mut self, log: usize, next: Offset, window: usize) {
        if let Some(same) = self.seen.iter_mut().find(|s| s.log == log && s.next == next) {
            same.window = same.window.max(window);
            return;
        }
        if self.seen.len() >= MAX_STREAMS {
            self.seen.pop_front();
        }
        self.seen.push_back(Stream { log, next, window });
    }

    fn in_order(&self) -> usize {
        self.seen.iter().filter(|s| s.window > 0).count()
    }
}

impl<D: Disk> Engine<D> {
    /// A read of segments was served up to `next`; `earned` is what [`Streams::begin`] said when it began.
    pub(super) fn read_ahead(&mut self, log: usize, next: Offset, earned: Option<usize>) {
        let unit = self.config.read_bytes;
        let window = earned.map_or(0, |window| (window * 2).clamp(unit, unit * MAX_WINDOW_READS));
        self.reads.streams.ended(log, next, window);
        if window > 0 {
            let share = self.config.read_cache_bytes / CACHE_SHARE / self.reads.streams.in_order().max(1);
            self.fetch_window(log, next, window.min(share));
        }
    }

    /// Starts reads of what is not in the cache, nor on its way, of the next `window` bytes.
    fn fetch_window(&mut self, log: usize, next: Offset, window: usize) {
        let Some(partition) = self.logs.get(log) else { return };
        // Chunk lists that are not in memory are left to the reader who comes there.
        let Ok(Some((segment, first))) = self.locate(partition, next) else { return };
        let Some(found) = partition.segments.get(segment) else { return };
        let (key, chunks) = (found.key(partition.id), found.chunks.as_deref().unwrap_or_default());
        let mut spans = Vec::new();
        let (mut at, mut ahead) = (first, 0);
        while let Some(chunk) =
            chunks.get(at).filter(|c| ahead + c.file_len() <= window && c.next <= partition.tail_start())
        {
            if self.reads.knows(key, chunk.position) {
                ahead += chunk.file_len();
                at += 1;
                continue;
            }
            let span = self.span(key, chunks, at);
            ahead += span.iter().map(ChunkRef::file_len).sum::<usize>();
            at += span.len().max(1);
            spans.push(span);
        }
        for span in spans {
            if self.reads.in_flight < MAX_READS_IN_FLIGHT / 2 {
                self.load_span(key, span);
            }
        }
    }
}
