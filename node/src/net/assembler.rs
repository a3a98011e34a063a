//! Frames out of bytes as they arrive: a 4-byte big-endian length, then that many bytes. Sans-I/O: it says what to read
//! next and takes what was read. Must not know what a frame means, nor how it was read.
//!
//! ```text
//!           ┌── whole frames (copied: they are small) ──► out
//! Idle ─────┤ scratch bytes
//!           └── part of a frame ──► Partial: the rest is read straight into its place ── full ──► out (not copied)
//! ```
//!
//! Memory follows bytes that really arrived (INV-8): a partial frame has room for [`FIRST_PLACE`] bytes or
//! [`GROWTH`] times what it has, whichever is more, and never more than it declared. Only a connection that has just
//! completed a frame of a size gets that size at once. All of it counts against a [`Budget`] (INV-7).

use bytes::Bytes;

use super::SCRATCH_BYTES;

/// Length prefix in bytes.
const PREFIX: usize = 4;
/// Smallest room for a partial frame in bytes: what a slow or silent peer can pin.
const FIRST_PLACE: usize = 256;
/// Room grows by this factor.
const GROWTH: usize = 4;
/// Bytes to read for the beginning of a frame when the last one was large: little is copied then.
const LARGE_FRAME_SCRATCH: usize = 1 << 10;
/// From this size on a frame counts as large.
const LARGE_FRAME: usize = 8 << 10;

/// Memory of all partial frames of a driver.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: usize,
    /// At the limit one connection may go beyond, so that somebody always completes and gives memory back.
    exempt: Option<u64>,
}

impl Budget {
    /// A budget of `limit` bytes; together with one frame of the largest size it is never exceeded by more than
    /// [`SCRATCH_BYTES`] for each connection.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, used: 0, exempt: None }
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Whether a connection that has no partial frame should begin none.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used >= self.limit
    }

    /// Whether it makes sense for somebody who waits to ask again.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        !self.is_full() || self.exempt.is_none()
    }

    fn grow(&mut self, conn: u64, bytes: usize) -> bool {
        if self.used + bytes > self.limit {
            if self.exempt.is_some_and(|exempt| exempt != conn) {
                return false;
            }
            self.exempt = Some(conn);
        }
        self.used += bytes;
        true
    }

    /// For bytes that are here already.
    fn take(&mut self, bytes: usize) {
        self.used += bytes;
    }

    fn give_back(&mut self, conn: u64, bytes: usize) {
        self.used -= bytes;
        if self.exempt == Some(conn) {
            self.exempt = None;
        }
    }
}

/// Why a connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The declared length is out of bounds.
    #[error("a frame of {declared} bytes was declared; at most {limit} are accepted")]
    Length {
        /// As sent.
        declared: i32,
        /// The bound.
        limit: usize,
    },
}

/// What to read next.
#[derive(Debug, PartialEq, Eq)]
pub enum NextRead {
    /// Up to this many bytes into any memory; then [`Assembler::feed`].
    Scratch(usize),
    /// Append up to this many bytes to the buffer, which has room; then [`Assembler::place_filled`].
    Place(Place),
    /// Nothing, until the budget has room.
    Wait,
}

/// Where the rest of a frame goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// What is there already.
    pub buf: Vec<u8>,
    /// Bytes to append, at least 1; the buffer has room for them.
    pub limit: usize,
    /// These bytes complete the frame.
    pub completes: bool,
}

/// The frames of one connection.
#[derive(Debug)]
pub struct Assembler {
    conn: u64,
    max_frame: usize,
    prefix: [u8; PREFIX],
    prefix_len: usize,
    partial: Option<Partial>,
    last_frame: usize,
}

#[derive(Debug)]
struct Partial {
    /// Empty while the driver has it.
    buf: Vec<u8>,
    declared: usize,
    received: usize,
    /// Capacity that is counted in the budget.
    counted: usize,
}

impl Assembler {
    /// For connection number `conn` (unique in the driver), with frames of at most `max_frame` bytes.
    #[must_use]
    pub fn new(conn: u64, max_frame: usize) -> Self {
        Self { conn, max_frame, prefix: [0; PREFIX], prefix_len: 0, partial: None, last_frame: 0 }
    }

    /// Whether a frame has begun and is not complete.
    #[must_use]
    pub fn in_frame(&self) -> bool {
        self.prefix_len > 0 || self.partial.is_some()
    }

    /// What to read now. After `Place`, the buffer MUST come back before the next call.
    pub fn next_read(&mut self, budget: &mut Budget) -> NextRead {
        let Some(partial) = &mut self.partial else {
            // Bytes of a frame that has begun must come in; a new frame need not begin.
            if budget.is_full() && self.prefix_len == 0 {
                return NextRead::Wait;
            }
            return NextRead::Scratch(self.scratch_limit());
        };
        if partial.received == partial.counted && !partial.grow(self.conn, self.last_frame, budget) {
            return NextRead::Wait;
        }
        let end = partial.counted.min(partial.declared);
        NextRead::Place(Place {
            buf: std::mem::take(&mut partial.buf),
            limit: end - partial.received,
            completes: end == partial.declared,
        })
    }

    /// As [`Assembler::next_read`], for bytes that pass a stage between the socket and here: they come from memory of their
    /// own, by [`Assembler::feed`].
    pub fn next_fed(&mut self, budget: &mut Budget) -> NextRead {
        let may = match &mut self.partial {
            None => !budget.is_full() || self.prefix_len > 0,
            Some(partial) => partial.received < partial.counted || partial.grow(self.conn, self.last_frame, budget),
        };
        if may { NextRead::Scratch(SCRATCH_BYTES) } else { NextRead::Wait }
    }

    /// Frames that begin from now on may be as long as this.
    pub fn set_max_frame(&mut self, max_frame: usize) {
        self.max_frame = max_frame;
    }

    /// Bytes to read for the beginning of the next frame.
    #[must_use]
    pub fn scratch_limit(&self) -> usize {
        let large = self.last_frame >= LARGE_FRAME || self.partial.as_ref().is_some_and(|p| p.declared >= LARGE_FRAME);
        if large { LARGE_FRAME_SCRATCH } else { SCRATCH_BYTES }
    }

    /// Takes bytes from any memory; whole frames go to `out`.
    ///
    /// # Errors
    /// The connection must be closed. Frames before the bad one are in `out`.
    pub fn feed(&mut self, mut bytes: &[u8], budget: &mut Budget, out: &mut Vec<Bytes>) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if let Some(partial) = &mut self.partial {
                let part = bytes.len().min(partial.declared - partial.received);
                partial.append(&bytes[..part], budget);
                bytes = &bytes[part..];
                self.finish_if_full(budget, out);
                continue;
            }
            let part = bytes.len().min(PREFIX - self.prefix_len);
            self.prefix[self.prefix_len..self.prefix_len + part].copy_from_slice(&bytes[..part]);
            self.prefix_len += part;
            bytes = &bytes[part..];
            if self.prefix_len == PREFIX {
                bytes = self.begin(bytes, budget, out)?;
            }
        }
        Ok(())
    }

    /// The prefix is complete: a frame that is here already is copied out, the beginning of another gets its place.
    fn begin<'a>(
        &mut self,
        bytes: &'a [u8],
        budget: &mut Budget,
        out: &mut Vec<Bytes>,
    ) -> Result<&'a [u8], FrameError> {
        let signed = i32::from_be_bytes(self.prefix);
        let bad = FrameError::Length { declared: signed, limit: self.max_frame };
        let declared = usize::try_from(signed).map_err(|_| bad)?;
        if declared > self.max_frame {
            return Err(bad);
        }
        self.prefix_len = 0;
        if let Some((frame, rest)) = bytes.split_at_checked(declared) {
            self.last_frame = declared;
            out.push(Bytes::copy_from_slice(frame));
            return Ok(rest);
        }
        let mut partial = Partial { buf: Vec::new(), declared, received: 0, counted: 0 };
        partial.append(bytes, budget);
        self.partial = Some(partial);
        Ok(&[])
    }

    /// Takes the buffer of [`NextRead::Place`] back, longer by what was read.
    pub fn place_filled(&mut self, buf: Vec<u8>, budget: &mut Budget, out: &mut Vec<Bytes>) {
        let Some(partial) = &mut self.partial else { return };
        partial.received = buf.len();
        partial.buf = buf;
        self.finish_if_full(budget, out);
    }

    fn finish_if_full(&mut self, budget: &mut Budget, out: &mut Vec<Bytes>) {
        if let Some(partial) = self.partial.take_if(|partial| partial.received >= partial.declared) {
            budget.give_back(self.conn, partial.counted);
            self.last_frame = partial.declared;
            out.push(partial.buf.into());
        }
    }

    /// Counts against another budget from now on, with another bound for frames that begin.
    pub fn change_over(&mut self, max_frame: usize, from: &mut Budget, to: &mut Budget) {
        self.max_frame = max_frame;
        if let Some(partial) = &self.partial {
            from.give_back(self.conn, partial.counted);
            to.take(partial.counted);
        }
    }

    /// Gives back what is counted; the connection is gone.
    pub fn close(&mut self, budget: &mut Budget) {
        if let Some(partial) = self.partial.take() {
            budget.give_back(self.conn, partial.counted);
        }
    }
}

impl Partial {
    /// More room: by what has arrived, or at once by the size of the frame before. False if the budget has none.
    fn grow(&mut self, conn: u64, last_frame: usize, budget: &mut Budget) -> bool {
        let wanted = (self.received * GROWTH).max(FIRST_PLACE).max(last_frame).min(self.declared);
        if !budget.grow(conn, wanted - self.counted) {
            return false;
        }
        self.make_room(wanted);
        true
    }

    /// Bytes that are here already are kept whatever the budget says.
    fn append(&mut self, bytes: &[u8], budget: &mut Budget) {
        let needed = self.received + bytes.len();
        if needed > self.counted {
            budget.take(needed - self.counted);
            self.make_room(needed);
        }
        self.buf.extend_from_slice(bytes);
        self.received = needed;
    }

    fn make_room(&mut self, capacity: usize) {
        self.buf.reserve_exact(capacity - self.buf.len());
        self.counted = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn frame(len: usize, fill: u8) -> Vec<u8> {
        let mut bytes = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        bytes.resize(PREFIX + len, fill);
        bytes
    }

    /// Feeds a stream through whatever the assembler asks for, at most `step(i)` bytes in the i-th read.
    fn run(stream: &[u8], budget: &mut Budget, mut step: impl FnMut(usize) -> usize) -> Result<Vec<Bytes>, FrameError> {
        let mut assembler = Assembler::new(1, MAX);
        let mut out = Vec::new();
        let mut at = 0;
        let mut reads = 0;
        while at < stream.len() {
            let most = step(reads).max(1).min(stream.len() - at);
            reads += 1;
            match assembler.next_read(budget) {
                NextRead::Scratch(limit) => {
                    assert!(limit > 0);
                    let n = most.min(limit);
                    assembler.feed(&stream[at..at + n], budget, &mut out)?;
                    at += n;
                }
                NextRead::Place(Place { mut buf, limit, .. }) => {
                    assert!(limit > 0 && buf.capacity() - buf.len() >= limit);
                    let n = most.min(limit);
                    buf.extend_from_slice(&stream[at..at + n]);
                    assembler.place_filled(buf, budget, &mut out);
                    at += n;
                }
                NextRead::Wait => panic!("nothing to wait for"),
            }
        }
        assert!(!assembler.in_frame());
        Ok(out)
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let sizes = [0, 1, 3, 255, 256, 257, 5000, 20_000, 1, 70_000, 70_000, 300_000, 0, 9];
        let mut stream = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            stream.extend(frame(*size, u8::try_from(index).unwrap()));
        }
        let steps: [&dyn Fn(usize) -> usize; 6] =
            [&|_| usize::MAX, &|_| 1, &|_| 7, &|i| i % 5000, &|i| if i % 2 == 0 { 4 } else { 100_000 }, &|i| {
                1 << (i % 18)
            }];
        for step in steps {
            let mut budget = Budget::new(MAX);
            let out = run(&stream, &mut budget, step).unwrap();
            assert_eq!(out.iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
            for (index, bytes) in out.iter().enumerate() {
                assert!(bytes.iter().all(|byte| usize::from(*byte) == index));
            }
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_anything_is_allocated() {
        for declared in [-1, i32::MIN, i32::MAX, i32::try_from(MAX).unwrap() + 1] {
            let mut assembler = Assembler::new(1, MAX);
            let mut budget = Budget::new(MAX);
            let mut out = Vec::new();
            let mut stream = frame(2, 1);
            stream.extend(declared.to_be_bytes());
            let error = assembler.feed(&stream, &mut budget, &mut out);
            assert_eq!(error, Err(FrameError::Length { declared, limit: MAX }));
            assert_eq!((out.len(), budget.used()), (1, 0));
        }
    }

    #[test]
    fn memory_follows_what_arrived() {
        let mut assembler = Assembler::new(1, MAX);
        let mut budget = Budget::new(usize::MAX / 2);
        let mut out = Vec::new();
        assembler.feed(&frame(MAX, 1)[..PREFIX], &mut budget, &mut out).unwrap();
        let mut received = 0;
        loop {
            let NextRead::Place(Place { mut buf, .. }) = assembler.next_read(&mut budget) else { panic!() };
            assert!(buf.capacity() <= FIRST_PLACE.max(received * GROWTH), "{} for {received}", buf.capacity());
            buf.push(1);
            received += 1;
            assembler.place_filled(buf, &mut budget, &mut out);
            assert!(budget.used() <= FIRST_PLACE.max(received * GROWTH));
            if received == 5000 {
                break;
            }
        }
        assembler.close(&mut budget);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_connection_that_sends_large_frames_gets_their_size_at_once() {
        let mut assembler = Assembler::new(1, MAX);
        let mut budget = Budget::new(MAX);
        let mut out = Vec::new();
        assembler.feed(&frame(100_000, 1), &mut budget, &mut out).unwrap();
        assert_eq!(assembler.next_read(&mut budget), NextRead::Scratch(LARGE_FRAME_SCRATCH));
        assembler.feed(&frame(100_000, 1)[..LARGE_FRAME_SCRATCH], &mut budget, &mut out).unwrap();
        let NextRead::Place(Place { buf, limit, completes }) = assembler.next_read(&mut budget) else { panic!() };
        assert_eq!((limit, completes), (100_000 + PREFIX - LARGE_FRAME_SCRATCH, true));
        let place = buf.as_ptr();
        let mut buf = buf;
        buf.resize(100_000, 1);
        assembler.place_filled(buf, &mut budget, &mut out);
        assert_eq!(out[1].as_ptr(), place, "read into its place, not copied");
    }

    #[test]
    fn at_the_bound_new_frames_wait_and_one_begun_frame_goes_on() {
        let mut budget = Budget::new(10_000);
        let mut out = Vec::new();
        let mut conns: Vec<Assembler> = (0..20).map(|i| Assembler::new(i, MAX)).collect();
        for conn in &mut conns {
            conn.feed(&frame(100_000, 1)[..1000], &mut budget, &mut out).unwrap();
        }
        assert!(budget.is_full());
        let mut fresh = Assembler::new(100, MAX);
        assert_eq!(fresh.next_read(&mut budget), NextRead::Wait, "a new frame does not begin");
        let mut going_on = Vec::new();
        for (index, conn) in conns.iter_mut().enumerate() {
            if let NextRead::Place(Place { buf, .. }) = conn.next_read(&mut budget) {
                conn.place_filled(buf, &mut budget, &mut out);
                going_on.push(index);
            }
        }
        assert_eq!(going_on.len(), 1);
        let one = &mut conns[going_on[0]];
        while out.is_empty() {
            let NextRead::Place(Place { mut buf, limit, .. }) = one.next_read(&mut budget) else { panic!("stuck") };
            buf.resize(buf.len() + limit, 1);
            one.place_filled(buf, &mut budget, &mut out);
        }
        let next = conns.iter_mut().filter(|c| c.in_frame()).find_map(|conn| match conn.next_read(&mut budget) {
            NextRead::Place(place) => Some((conn, place.buf)),
            NextRead::Scratch(_) | NextRead::Wait => None,
        });
        assert!(next.is_some(), "then it is another one's turn");
        for conn in &mut conns {
            conn.close(&mut budget);
        }
        assert_eq!(budget.used(), 0);
        assert!(matches!(fresh.next_read(&mut budget), NextRead::Scratch(_)));
    }
}
