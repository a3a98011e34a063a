//! A client that keeps one append in flight on a plain socket: the latency of the broker with next to nothing added.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;

use crate::frame::{Reader, Writer, batch};

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 1 << 20;
const PRODUCE_VERSION: i16 = 7;

/// A connection that appends one batch at a time to partition 0 of a topic.
#[derive(Debug)]
pub struct Appender {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Appender {
    /// Connects; each append will carry one record of `size` bytes.
    pub fn connect(addr: SocketAddr, topic: &str, size: usize) -> Result<Appender> {
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let records = batch(1, size, i64::try_from(now.as_millis())?);
        Ok(Appender { stream, request: produce(topic, &records), answer: Vec::new() })
    }

    /// Appends, and waits for the acknowledgement. Returns the record's offset; a refusal is an error.
    pub fn append(&mut self) -> Result<i64> {
        match self.try_append()? {
            (0, offset) => Ok(offset),
            (error, _) => bail!("produce answered with error {error}"),
        }
    }

    /// Appends, and waits for the answer: the protocol's error code (0 is none) and the record's offset.
    pub fn try_append(&mut self) -> Result<(i16, i64)> {
        self.stream.write_all(&self.request)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(length <= MAX_ANSWER, "an answer of {length} bytes");
        self.answer.resize(length, 0);
        self.stream.read_exact(&mut self.answer)?;
        answered(&self.answer).context("an answer that ends early")
    }

    /// Appends `count` times; latencies in nanoseconds. The first tenth warms up and is not counted.
    pub fn measure(&mut self, count: usize) -> Result<Histogram<u64>> {
        let mut histogram = Histogram::new(3)?;
        for i in 0..count {
            let begin = Instant::now();
            self.append()?;
            if i >= count / 10 {
                histogram.record(u64::try_from(begin.elapsed().as_nanos())?)?;
            }
        }
        Ok(histogram)
    }
}

/// The time since `begin` at which an append to `topic` is acknowledged, trying until then.
pub fn first_ack(addr: SocketAddr, topic: &str, begin: Instant, patience: Duration) -> Result<Duration> {
    loop {
        let tried = Appender::connect(addr, topic, 1024).and_then(|mut a| a.append());
        match tried {
            Ok(_) => return Ok(begin.elapsed()),
            Err(e) if begin.elapsed() > patience => return Err(e.context("no first acknowledgement")),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn produce(topic: &str, records: &[u8]) -> Vec<u8> {
    let mut w = Writer::default();
    w.i32(0); // length, below
    w.i16(0); // Produce
    w.i16(PRODUCE_VERSION);
    w.i32(1); // correlation id
    w.string(b"wherry-bench");
    w.i16(-1); // no transaction
    w.i16(-1); // acks=all
    w.i32(10_000); // timeout
    w.len(1);
    w.string(topic.as_bytes());
    w.len(1);
    w.i32(0); // partition
    w.bytes(records);
    w.close_frame(0);
    w.0
}

/// Error code and base offset.
fn answered(answer: &[u8]) -> Option<(i16, i64)> {
    let mut r = Reader(answer);
    r.i32()?; // correlation id
    r.count()?;
    r.string()?;
    r.count()?;
    r.i32()?;
    Some((r.i16()?, r.i64()?))
}
