//! Connections of the steady producer, one to each broker, made anew as long as the process lives.
//! A thread connects and reads; the producer's own thread writes.

use std::collections::VecDeque;
use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Event;
use crate::frame::{Reader, request};
use crate::raw::{PRODUCE, PRODUCE_VERSION, read_frame};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const RECONNECT: Duration = Duration::from_millis(20);
const MAX_ANSWER: usize = 1 << 20;
/// What a broker is given to bring a batch to all in-sync replicas.
const ACK_TIMEOUT_MS: i32 = 10_000;

/// One connection of many to the same broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: i32,
    number: u64,
}

#[cfg(test)]
impl Life {
    pub(super) fn first(node: i32) -> Life {
        Life { node, number: 0 }
    }
}

/// The way to a broker.
#[derive(Debug)]
pub(super) struct Link {
    stream: Option<(Life, TcpStream)>,
    /// When the requests on the way were sent, the oldest first.
    sent: VecDeque<Instant>,
}

impl Link {
    /// A link whose connections are reported as events.
    pub(super) fn open(node: i32, addr: SocketAddr, events: SyncSender<Event>) -> Link {
        std::thread::spawn(move || keep(node, addr, &events));
        Link { stream: None, sent: VecDeque::new() }
    }

    pub(super) fn up(&mut self, life: Life, stream: TcpStream) {
        self.sent.clear();
        self.stream = Some((life, stream));
    }

    pub(super) fn down(&mut self, life: Life) {
        if self.is(life) {
            self.stream = None;
        }
    }

    pub(super) fn answered(&mut self, life: Life) {
        if self.is(life) {
            self.sent.pop_front();
        }
    }

    fn is(&self, life: Life) -> bool {
        self.stream.as_ref().is_some_and(|(mine, _)| *mine == life)
    }

    /// Gives a connection up whose oldest request waits for longer than `timeout`; its end will be reported.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration) {
        if self.silent_for(now) > timeout {
            self.abandon();
        }
    }

    /// How long its oldest request has waited.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        self.sent.front().map_or(Duration::ZERO, |at| now.saturating_duration_since(*at))
    }

    fn abandon(&mut self) {
        self.sent.clear();
        if let Some((_, stream)) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Sends the same records to each of these partitions in one request. `None` when there is no connection.
    pub(super) fn send(&mut self, now: Instant, topic: &str, indexes: &[i32], records: &[u8]) -> Option<Life> {
        let (life, stream) = self.stream.as_mut()?;
        let life = *life;
        let written = stream.write_all(&produce(topic, indexes, records));
        self.sent.push_back(now);
        if written.is_err() {
            self.abandon(); // the end of the connection gives the batches back
        }
        Some(life)
    }
}

fn produce(topic: &str, indexes: &[i32], records: &[u8]) -> Vec<u8> {
    let mut w = request(PRODUCE, PRODUCE_VERSION, 1);
    w.i16(-1); // no transaction
    w.i16(-1); // acks=all
    w.i32(ACK_TIMEOUT_MS);
    w.len(1);
    w.string(topic.as_bytes());
    w.len(indexes.len());
    for index in indexes {
        w.i32(*index);
        w.bytes(records);
    }
    w.close_frame(0);
    w.0
}

/// Connects and reads, again and again, until nobody listens.
fn keep(node: i32, addr: SocketAddr, events: &SyncSender<Event>) {
    for number in 0.. {
        let life = Life { node, number };
        if let Ok(stream) = connect(addr) {
            let _ = converse(life, stream, events);
            if events.send(Event::Down(life)).is_err() {
                return;
            }
        }
        std::thread::sleep(RECONNECT);
    }
}

fn connect(addr: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)?;
    stream.set_nodelay(true)?;
    // A stopped broker takes no bytes; what is due there must not keep what is due elsewhere.
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    Ok(stream)
}

/// Reports a connection and its answers until it ends.
fn converse(life: Life, stream: TcpStream, events: &SyncSender<Event>) -> Result<()> {
    let mut answers = BufReader::new(stream.try_clone()?);
    events.send(Event::Up(life, stream))?;
    let mut frame = Vec::new();
    loop {
        read_frame(&mut answers, &mut frame, MAX_ANSWER)?;
        let at = Instant::now();
        let results = results(&frame).context("an answer that ends early")?;
        events.send(Event::Answer(life, at, results))?;
    }
}

/// Partitions and their error codes.
fn results(answer: &[u8]) -> Option<Vec<(i32, i16)>> {
    let mut r = Reader(answer);
    r.i32()?; // correlation id
    let mut results = Vec::new();
    for _ in 0..r.count()? {
        r.string()?;
        for _ in 0..r.count()? {
            results.push((r.i32()?, r.i16()?));
            r.i64()?; // offset, time, start of the log
            r.i64()?;
            r.i64()?;
        }
    }
    Some(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Writer;

    #[test]
    fn errors_of_several_partitions_are_read() {
        let mut w = Writer::default();
        w.i32(1);
        w.len(1);
        w.string(b"t");
        w.len(2);
        for (index, error) in [(3, 0), (9, 6)] {
            w.i32(index);
            w.i16(error);
            w.i64(1);
            w.i64(-1);
            w.i64(0);
        }
        w.i32(0); // throttling
        assert_eq!(results(&w.0), Some(vec![(3, 0), (9, 6)]));
        assert_eq!(results(&w.0[..w.0.len() - 10]), None);
    }
}
