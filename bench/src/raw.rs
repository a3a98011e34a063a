//! Producers on a plain socket, for what a client library would hide: [`Appender`] keeps one append in flight (the latency
//! of the broker with next to nothing added), [`run`] keeps many, round robin over any number of topics (a client library
//! keeps a queue per topic, and is itself the bound with thousands of them).

use std::io::{BufReader, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::frame::{Reader, batch, request};

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 1 << 20;
/// The key of Produce.
pub const PRODUCE: i16 = 0;
/// The version of it that is written here.
pub const PRODUCE_VERSION: i16 = 7;

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
        let records = batch(1, size, now_ms()?);
        let mut request = head(topic, 0, records.len());
        request.extend(records);
        Ok(Appender { stream: connect(addr)?, request, answer: Vec::new() })
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
        read_answer(&mut self.stream, &mut self.answer)
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

/// What the pipelined producer does.
#[derive(Clone, Debug, Args)]
pub struct PipelineArgs {
    /// The broker.
    #[arg(long)]
    pub broker: SocketAddr,
    /// The topic; with more than one they are called `TOPIC-0`, `TOPIC-1` and so on.
    #[arg(long)]
    pub topic: String,
    /// How many topics, in turn.
    #[arg(long, default_value_t = 1)]
    pub topics: usize,
    /// Size of a message.
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// Bytes of messages in a request; a request is one batch for one topic.
    #[arg(long, default_value_t = 16 << 10)]
    pub batch_bytes: usize,
    /// Requests in flight.
    #[arg(long, default_value_t = 512)]
    pub in_flight: usize,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    pub secs: f64,
}

/// Sends for the time that is asked for, waits for all answers, and returns what a load client reports.
pub fn run(args: &PipelineArgs) -> Result<Value> {
    let count = (args.batch_bytes / args.size.max(1)).max(1);
    let records = batch(count, args.size, now_ms()?);
    let name = |i: usize| if args.topics == 1 { args.topic.clone() } else { format!("{}-{i}", args.topic) };
    let heads: Vec<_> = (0..args.topics).map(|i| head(&name(i), 0, records.len())).collect();
    let stream = connect(args.broker)?;
    let answers = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let begin = Instant::now();
    let (sent, to_answer) = sync_channel(args.in_flight.max(1));
    let end = begin + Duration::from_secs_f64(args.secs);
    let latencies = std::thread::scope(|threads| {
        let reader = threads.spawn(move || read_answers(answers, &to_answer));
        let written = write_requests(stream, &heads, &records, &sent, end);
        drop(sent);
        let latencies = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
        // What the broker said against it tells more than the socket that it closed.
        latencies.and_then(|latencies| written.map(|()| latencies))
    })?;
    let secs = begin.elapsed().as_secs_f64();
    let messages = latencies.len() as f64 * count as f64;
    let at = |q| latencies.value_at_quantile(q) / 1000;
    Ok(json!({
        "msgs": messages, "rate": messages / secs, "mb_s": messages / secs * args.size as f64 / 1e6,
        "ack_us": { "p50": at(0.5), "p99": at(0.99), "p999": at(0.999) },
    }))
}

fn write_requests(
    mut stream: TcpStream,
    heads: &[Vec<u8>],
    records: &[u8],
    sent: &SyncSender<Instant>,
    end: Instant,
) -> Result<()> {
    for head in heads.iter().cycle() {
        let now = Instant::now();
        // The reader ends only when the broker refused something, and says so itself.
        if now >= end || sent.send(now).is_err() {
            return Ok(());
        }
        write_both(&mut stream, head, records)?;
    }
    Ok(())
}

/// Writes both, in one call where the socket takes them at once.
pub fn write_both(stream: &mut TcpStream, head: &[u8], records: &[u8]) -> Result<()> {
    let written = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(records)])?;
    if let Some(rest) = head.get(written..) {
        stream.write_all(rest)?;
    }
    if let Some(rest) = records.get(written.saturating_sub(head.len())..) {
        stream.write_all(rest)?;
    }
    Ok(())
}

fn read_answers(mut stream: impl Read, sent: &Receiver<Instant>) -> Result<Histogram<u64>> {
    let (mut histogram, mut answer) = (Histogram::new(3)?, Vec::new());
    for begin in sent {
        let (error, _) = read_answer(&mut stream, &mut answer)?;
        ensure!(error == 0, "produce answered with error {error}");
        histogram.record(u64::try_from(begin.elapsed().as_nanos())?)?;
    }
    Ok(histogram)
}

/// A connection that waits [`TIMEOUT`] for an answer, and no longer.
pub fn connect(addr: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// The time of day, for records.
pub fn now_ms() -> Result<i64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_millis())?)
}

/// Reads one answer to a request with one batch: error code and base offset.
pub fn read_answer(stream: &mut impl Read, answer: &mut Vec<u8>) -> Result<(i16, i64)> {
    read_frame(stream, answer, MAX_ANSWER)?;
    answered(answer).context("an answer that ends early")
}

/// Reads one frame of at most `most` bytes, without its length.
pub fn read_frame(stream: &mut impl Read, frame: &mut Vec<u8>, most: usize) -> Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length))?;
    ensure!(length <= most, "an answer of {length} bytes");
    frame.resize(length, 0);
    Ok(stream.read_exact(frame)?)
}

/// A Produce request for one batch of `records` bytes, without the batch, which is its last field.
pub fn head(topic: &str, partition: i32, records: usize) -> Vec<u8> {
    let mut w = request(PRODUCE, PRODUCE_VERSION, 1);
    w.i16(-1); // no transaction
    w.i16(-1); // acks=all
    w.i32(10_000); // timeout
    w.len(1);
    w.string(topic.as_bytes());
    w.len(1);
    w.i32(partition);
    w.len(records);
    w.close_frame_before(0, records);
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
