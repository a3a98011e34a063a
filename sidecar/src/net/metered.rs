//! A request's body, metered: what has come of a message that is not whole yet counts against a bound that all calls share.
//!
//! Without it, thousands of calls could each leave a large message unfinished, and what reads whole messages would keep all of them in
//! memory. Small messages do not touch the bound, so they get through whatever large ones do. A large one reserves all the room that it
//! needs before it is read on: so those that are being read can finish, and the others hold next to nothing while they wait, with their
//! flow control windows closed. One that has its room and is not finished in time ends its call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::PollSemaphore;
use tonic::Status;

use crate::limits;
use crate::stats::Gauge;

/// Reserved at a time where the length is not known: what one read may bring.
const STEP: usize = 16 * 1024;

/// The bound, shared by all bodies.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    room: Arc<Semaphore>,
    bytes: usize,
    time: Duration,
    gauge: Arc<Gauge>,
}

impl Meter {
    pub(crate) fn new(bytes: usize, time: Duration, gauge: Arc<Gauge>) -> Self {
        // Always enough for one step.
        let bytes = bytes.max(STEP);
        Self { room: Arc::new(Semaphore::new(bytes)), bytes, time, gauge }
    }

    /// This body, metered.
    pub(crate) fn meter(&self, inner: Body, shape: Shape) -> Body {
        Body::new(Metered {
            inner,
            shape,
            partial: 0,
            room: PollSemaphore::new(self.room.clone()),
            most: self.bytes,
            reserved: None,
            gauge: self.gauge.clone(),
            time: self.time,
            deadline: None,
        })
    }
}

/// What a body consists of.
#[derive(Debug)]
pub(crate) enum Shape {
    /// One message.
    Whole,
    /// gRPC messages.
    Frames(Framing),
    /// A message on each line.
    Lines,
}

struct Metered {
    inner: Body,
    shape: Shape,
    /// Bytes of the message that is not whole.
    partial: usize,
    room: PollSemaphore,
    /// All the room there is: whoever needs more than that gets on with that.
    most: usize,
    reserved: Option<OwnedSemaphorePermit>,
    gauge: Arc<Gauge>,
    time: Duration,
    /// Runs while a large message has its room and is not whole.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Metered {
    fn reserved(&self) -> usize {
        self.reserved.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// The room that the message at hand needs before it is read on; none while it is small.
    fn need(&self) -> usize {
        if self.partial < limits::PARTIAL_FREE_BYTES {
            return 0;
        }
        let rest = match &self.shape {
            Shape::Frames(framing) => framing.missing,
            Shape::Lines => STEP,
            Shape::Whole => {
                self.inner.size_hint().exact().map_or(STEP, |rest| usize::try_from(rest).unwrap_or(usize::MAX))
            }
        };
        self.partial.saturating_add(rest).min(self.most)
    }

    /// Reserves that room, then gives the message its time.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let need = self.need();
        while self.reserved() < need {
            let more = need - self.reserved();
            let permit = self.room.poll_acquire_many(context, u32::try_from(more).unwrap_or(u32::MAX));
            // The semaphore is never closed.
            let Some(permit) = ready!(permit) else { return Poll::Pending };
            self.gauge.add(i64::try_from(more).unwrap_or(i64::MAX));
            match &mut self.reserved {
                Some(reserved) => reserved.merge(permit),
                None => self.reserved = Some(permit),
            }
        }
        if need > 0 && self.deadline.is_none() {
            self.deadline = Some(Box::pin(tokio::time::sleep(self.time)));
        }
        Poll::Ready(())
    }

    fn release(&mut self) {
        self.gauge.add(-i64::try_from(self.reserved()).unwrap_or(i64::MAX));
        self.reserved = None;
        self.deadline = None;
    }

    fn came(&mut self, data: &[u8]) {
        let grown = self.partial + data.len();
        self.partial = match &mut self.shape {
            Shape::Frames(framing) => framing.came(data, self.partial),
            Shape::Lines => data.iter().rev().position(|byte| *byte == b'\n').unwrap_or(grown),
            Shape::Whole => grown,
        };
        if self.partial < grown {
            // A message became whole; what follows has its own time.
            self.deadline = None;
        }
        if self.partial < limits::PARTIAL_FREE_BYTES && self.reserved.is_some() {
            self.release();
        }
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            Some(deadline) => deadline.poll_unpin(context),
            None => Poll::Pending,
        }
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        // Twice: whoever waits for more room may run out of time, and whoever has just got it has to be woken when time is up.
        let late = this.poll_deadline(context).is_ready();
        if late || (this.poll_room(context).is_ready() && this.poll_deadline(context).is_ready()) {
            this.release();
            return Poll::Ready(Some(Err(axum::Error::new(too_slow()))));
        }
        if this.reserved() < this.need() {
            return Poll::Pending;
        }
        let frame = ready!(this.inner.frame().poll_unpin(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.came(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.release();
    }
}

fn too_slow() -> Status {
    Status::deadline_exceeded("the rest of a message did not come within limits.partial_time; send it again, faster")
}

/// Follows the length-prefixed messages of a gRPC body: one byte of flags, four of length, then the message.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    prefix: [u8; 5],
    prefix_len: usize,
    /// Bytes of the message that are still to come.
    missing: usize,
}

impl Framing {
    /// Data came; answers with the bytes of the message that is not whole after it.
    fn came(&mut self, mut data: &[u8], mut partial: usize) -> usize {
        while !data.is_empty() {
            let take =
                if self.missing > 0 { self.missing } else { self.prefix.len() - self.prefix_len }.min(data.len());
            let (part, rest) = data.split_at(take);
            data = rest;
            partial += take;
            if self.missing > 0 {
                self.missing -= take;
            } else {
                self.prefix[self.prefix_len..self.prefix_len + take].copy_from_slice(part);
                self.prefix_len += take;
                if self.prefix_len < self.prefix.len() {
                    continue;
                }
                self.prefix_len = 0;
                let [_, a, b, c, d] = self.prefix;
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
            }
            if self.missing == 0 {
                partial = 0;
            }
        }
        partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).expect("short").to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    #[test]
    fn partial_bytes_are_those_after_the_last_whole_message() {
        let stream: Vec<u8> = [0, 1, 300, 0, 7].into_iter().flat_map(message).collect();
        let ends: Vec<usize> = [5, 11, 316, 321, 333].into();
        for step in 1..=stream.len() {
            let (mut framing, mut partial, mut seen) = (Framing::default(), 0, 0);
            for chunk in stream.chunks(step) {
                partial = framing.came(chunk, partial);
                seen += chunk.len();
                let last = ends.iter().copied().filter(|end| *end <= seen).max().unwrap_or(0);
                assert_eq!(partial, seen - last, "after {seen} in steps of {step}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unfinished_message_is_given_up_and_frees_its_room() {
        let gauge = Arc::new(Gauge::default());
        let meter = Meter::new(64 * 1024, Duration::from_secs(30), gauge.clone());
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![0; 20_000]))]);
        let never = futures::StreamExt::chain(first, futures::stream::pending());
        let mut body = meter.meter(Body::from_stream(never), Shape::Whole);
        assert!(body.frame().await.expect("some").is_ok());
        let error = body.frame().await.expect("some").expect_err("too slow");
        assert!(error.to_string().contains("did not come"), "{error}");
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_room_is_not_blamed_for_it() {
        let gauge = Arc::new(Gauge::default());
        let meter = Meter::new(64 * 1024, Duration::from_secs(30), gauge.clone());
        let framed = |sent: usize| {
            let first = Bytes::from(message(50_000)).slice(..sent);
            let rest = Bytes::from(message(50_000)).slice(sent..);
            let first = futures::stream::iter([Ok::<_, std::io::Error>(first)]);
            (first, futures::stream::iter([Ok::<_, std::io::Error>(rest)]))
        };
        let (half, _) = framed(6000);
        let mut half = meter.meter(
            Body::from_stream(futures::StreamExt::chain(half, futures::stream::pending())),
            Shape::Frames(Framing::default()),
        );
        assert!(half.frame().await.expect("some").is_ok());
        assert!(futures::poll!(Box::pin(half.frame())).is_pending(), "it has its room, and sends nothing");
        assert_eq!(gauge.get(), 50_005);
        let (first, rest) = framed(6000);
        let honest =
            meter.meter(Body::from_stream(futures::StreamExt::chain(first, rest)), Shape::Frames(Framing::default()));
        let (given_up, whole) = tokio::join!(half.frame(), honest.collect());
        assert!(given_up.expect("some").is_err());
        assert_eq!(whole.expect("whole").to_bytes().len(), 50_005);
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test]
    async fn large_messages_wait_for_each_other_and_small_ones_do_not() {
        let gauge = Arc::new(Gauge::default());
        let meter = Meter::new(64 * 1024, Duration::from_secs(30), gauge.clone());
        let body = |size: usize| {
            let chunks = (0..size / 1000).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1000])));
            meter.meter(Body::from_stream(futures::stream::iter(chunks)), Shape::Whole)
        };
        let mut large = body(40_000);
        for _ in 0..40 {
            assert!(large.frame().await.expect("some").is_ok());
        }
        let mut second = Box::pin(body(40_000).collect());
        assert!(futures::poll!(&mut second).is_pending(), "there is no room for both");
        assert!(body(3000).collect().await.is_ok(), "small ones go through");
        drop(large);
        assert_eq!(second.await.expect("whole").to_bytes().len(), 40_000);
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_of_lines_may_be_long_and_take_long() {
        let gauge = Arc::new(Gauge::default());
        let meter = Meter::new(64 * 1024, Duration::from_secs(30), gauge.clone());
        // Each line comes in two pieces.
        let piece = |count: u32| Bytes::from([vec![b'x'; 20_000], vec![b'\n'; (count % 2) as usize]].concat());
        let lines = futures::stream::unfold(0, move |count| async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            (count < 20).then(|| (Ok::<_, std::io::Error>(piece(count)), count + 1))
        });
        let body = meter.meter(Body::from_stream(lines), Shape::Lines);
        assert_eq!(body.collect().await.expect("whole").to_bytes().len(), 20 * 20_000 + 10);
        // A line that does not end is given up.
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 20_000]))]);
        let never = futures::StreamExt::chain(first, futures::stream::pending());
        assert!(meter.meter(Body::from_stream(never), Shape::Lines).collect().await.is_err());
        assert_eq!(gauge.get(), 0);
    }
}
