//! A node that parses, answers and drops: it finds out how fast the client could go if the broker cost nothing.
//!
//! It acknowledges Produce with offsets, serves Fetch from one canned megabyte, and knows every topic that is asked
//! for. It stores nothing. One blocking thread per connection, one read and one write per batch of requests: the
//! cheapest server that still looks at each request. It must not be used for anything but measuring.

use std::collections::HashMap;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use crate::frame::{BATCH_HEADER_BYTES, LAST_OFFSET_DELTA_AT, Reader, Writer, batch};

/// The largest frame it takes.
const MAX_FRAME: usize = 64 << 20;
/// Read buffer of a connection.
const READ_BYTES: usize = 1 << 20;
/// What a fetch gets per partition.
const CANNED_BYTES: usize = 1 << 20;
/// Connections at once.
const MAX_CONNECTIONS: usize = 256;
/// Where its partitions end, as far as consumers are told.
const HIGH_WATERMARK: i64 = 1 << 40;

/// How the null node looks from outside.
#[derive(Clone, Copy, Debug)]
pub struct NullNode {
    /// Partitions of every topic.
    pub partitions: i32,
    /// Value size of the records that it serves.
    pub record_bytes: usize,
}

/// (api key, lowest version, highest version)
const APIS: [(i16, i16, i16); 7] = [
    (0, 0, 7),  // Produce
    (1, 4, 4),  // Fetch
    (2, 1, 1),  // ListOffsets
    (3, 0, 4),  // Metadata
    (10, 0, 1), // FindCoordinator
    (18, 0, 3), // ApiVersions
    (22, 0, 1), // InitProducerId
];

impl NullNode {
    /// Serves until the process ends.
    pub fn serve(self, listen: SocketAddr) -> Result<()> {
        let listener = TcpListener::bind(listen)?;
        let alive = std::sync::Arc::new(());
        for stream in listener.incoming() {
            let stream = stream?;
            if std::sync::Arc::strong_count(&alive) > MAX_CONNECTIONS {
                continue; // dropped, and so closed
            }
            stream.set_nodelay(true)?;
            let token = std::sync::Arc::clone(&alive);
            std::thread::spawn(move || {
                let _token = token;
                // A peer that goes away or talks nonsense loses its connection, and that is all.
                let _ = Connection::new(self, stream, listen).run();
            });
        }
        Ok(())
    }
}

struct Connection {
    node: NullNode,
    stream: TcpStream,
    advertised: SocketAddr,
    /// Next offset, by topic and partition.
    ends: HashMap<Vec<u8>, Vec<i64>>,
    canned: Canned,
    out: Writer,
}

/// Batches that are sent again and again, with other base offsets.
struct Canned {
    bytes: Vec<u8>,
    batch_bytes: usize,
    records_per_batch: i64,
}

impl Canned {
    fn new(record_bytes: usize) -> Canned {
        let records = (64 * 1024 / (record_bytes + 8)).max(1);
        let one = batch(records, record_bytes, 1_700_000_000_000);
        let copies = (CANNED_BYTES / one.len()).max(1);
        Canned {
            batch_bytes: one.len(),
            bytes: one.repeat(copies),
            records_per_batch: i64::try_from(records).unwrap_or(1),
        }
    }

    /// Moves the batches to where the consumer is; the base offset lies outside the checksum.
    fn rebase(&mut self, from: i64) {
        for (i, batch) in self.bytes.chunks_exact_mut(self.batch_bytes).enumerate() {
            let base = from + i64::try_from(i).unwrap_or(0) * self.records_per_batch;
            batch[..8].copy_from_slice(&base.to_be_bytes());
        }
    }
}

struct Header<'a> {
    key: i16,
    version: i16,
    correlation: i32,
    body: Reader<'a>,
}

fn header(frame: &[u8]) -> Option<Header<'_>> {
    let mut r = Reader(frame);
    let (key, version, correlation) = (r.i16()?, r.i16()?, r.i32()?);
    r.string()?; // client id
    Some(Header { key, version, correlation, body: r })
}

impl Connection {
    fn new(node: NullNode, stream: TcpStream, advertised: SocketAddr) -> Connection {
        let canned = Canned::new(node.record_bytes);
        Connection { node, stream, advertised, ends: HashMap::new(), canned, out: Writer::default() }
    }

    fn run(mut self) -> Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut filled = 0;
        loop {
            let n = self.stream.read(&mut buffer[filled..])?;
            if n == 0 {
                return Ok(());
            }
            filled += n;
            let mut at = 0;
            while let Some(end) = frame_end(&buffer[at..filled])? {
                self.answer(&buffer[at + 4..at + end])?;
                at += end;
            }
            self.flush()?;
            let need = frame_need(&buffer[at..filled])?;
            buffer.copy_within(at..filled, 0);
            filled -= at;
            if need > buffer.len() {
                buffer.resize(need, 0);
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.out.0.is_empty() {
            self.stream.write_all(&self.out.0)?;
            self.out.0.clear();
        }
        Ok(())
    }

    fn answer(&mut self, frame: &[u8]) -> Result<()> {
        let Some(h) = header(frame) else { bail!("no header") };
        let at = self.out.0.len();
        self.out.i32(0);
        self.out.i32(h.correlation);
        let answered = match h.key {
            0 => match self.produce(h.version, h.body) {
                Some(true) => Some(()),
                Some(false) => {
                    self.out.0.truncate(at); // acks=0 gets no response
                    return Ok(());
                }
                None => None,
            },
            1 => return self.fetch(h.correlation, h.body, at),
            2 => self.list_offsets(h.body),
            3 => self.metadata(h.version, h.body),
            10 => self.find_coordinator(h.version),
            18 => self.api_versions(h.version),
            22 => self.init_producer_id(),
            other => bail!("api {other} is not served"),
        };
        answered.context("a request that ends early")?;
        self.out.close_frame(at);
        Ok(())
    }

    /// False when the producer wants no answer.
    fn produce(&mut self, version: i16, mut r: Reader<'_>) -> Option<bool> {
        if version >= 3 {
            r.string()?; // transactional id
        }
        let acks = r.i16()?;
        r.i32()?; // timeout
        let topics = r.count()?;
        self.out.len(topics);
        for _ in 0..topics {
            let name = r.string()?;
            if !self.ends.contains_key(name) {
                self.ends.insert(name.to_vec(), vec![0; usize::try_from(self.node.partitions).unwrap_or(1)]);
            }
            let ends = self.ends.get_mut(name)?;
            self.out.string(name);
            let partitions = r.count()?;
            self.out.len(partitions);
            for _ in 0..partitions {
                let index = r.i32()?;
                let records = records_in(r.bytes()?)?;
                let end = usize::try_from(index).ok().and_then(|i| ends.get_mut(i))?;
                self.out.i32(index);
                self.out.i16(0);
                self.out.i64(*end);
                *end += records;
                if version >= 2 {
                    self.out.i64(-1); // log append time
                }
                if version >= 5 {
                    self.out.i64(0); // log start offset
                }
            }
        }
        if version >= 1 {
            self.out.i32(0); // throttle
        }
        Some(acks != 0)
    }

    fn fetch(&mut self, correlation: i32, mut r: Reader<'_>, at: usize) -> Result<()> {
        self.out.0.truncate(at);
        self.flush()?;
        let wanted = fetch_wants(&mut r).context("a fetch that ends early")?;
        let partitions = wanted.iter().map(|(_, p)| p.len()).sum::<usize>();
        let per_partition = 4 + 2 + 8 + 8 + 4 + 4 + self.canned.bytes.len();
        let names: usize = wanted.iter().map(|(n, _)| 2 + n.len() + 4).sum();
        let mut head = Writer::default();
        head.len(4 + 4 + 4 + names + partitions * per_partition);
        head.i32(correlation);
        head.i32(0); // throttle
        head.len(wanted.len());
        for (name, partitions) in wanted {
            head.string(name);
            head.len(partitions.len());
            for (index, offset) in partitions {
                head.i32(index);
                head.i16(0);
                head.i64(HIGH_WATERMARK);
                head.i64(HIGH_WATERMARK);
                head.len(0); // aborted transactions
                head.len(self.canned.bytes.len());
                self.canned.rebase(offset);
                write_both(&mut self.stream, &head.0, &self.canned.bytes)?;
                head.0.clear();
            }
        }
        self.stream.write_all(&head.0)?;
        Ok(())
    }

    fn list_offsets(&mut self, mut r: Reader<'_>) -> Option<()> {
        r.i32()?; // replica
        let topics = r.count()?;
        self.out.len(topics);
        for _ in 0..topics {
            self.out.string(r.string()?);
            let partitions = r.count()?;
            self.out.len(partitions);
            for _ in 0..partitions {
                let (index, time) = (r.i32()?, r.i64()?);
                self.out.i32(index);
                self.out.i16(0);
                self.out.i64(-1);
                self.out.i64(if time == -2 { 0 } else { HIGH_WATERMARK });
            }
        }
        Some(())
    }

    fn metadata(&mut self, version: i16, mut r: Reader<'_>) -> Option<()> {
        let mut names = Vec::new();
        for _ in 0..r.count()? {
            names.push(r.string()?);
        }
        if version >= 3 {
            self.out.i32(0); // throttle
        }
        self.out.len(1);
        self.broker();
        if version >= 1 {
            self.out.i16(-1); // rack
        }
        if version >= 2 {
            self.out.string(b"null");
        }
        if version >= 1 {
            self.out.i32(1); // controller
        }
        self.out.len(names.len());
        for name in names {
            self.topic(version, name);
        }
        Some(())
    }

    fn topic(&mut self, version: i16, name: &[u8]) {
        self.out.i16(0);
        self.out.string(name);
        if version >= 1 {
            self.out.i8(0); // not internal
        }
        self.out.i32(self.node.partitions);
        for p in 0..self.node.partitions {
            self.out.i16(0);
            self.out.i32(p);
            self.out.i32(1); // leader
            for _ in ["replicas", "in sync"] {
                self.out.len(1);
                self.out.i32(1);
            }
        }
    }

    fn broker(&mut self) {
        self.out.i32(1);
        self.out.string(self.advertised.ip().to_string().as_bytes());
        self.out.i32(i32::from(self.advertised.port()));
    }

    fn find_coordinator(&mut self, version: i16) -> Option<()> {
        if version >= 1 {
            self.out.i32(0);
        }
        self.out.i16(0);
        if version >= 1 {
            self.out.i16(-1);
        }
        self.broker();
        Some(())
    }

    fn init_producer_id(&mut self) -> Option<()> {
        self.out.i32(0);
        self.out.i16(0);
        self.out.i64(1);
        self.out.i16(0);
        Some(())
    }

    /// Version 3 is a flexible one, with a header that is not.
    fn api_versions(&mut self, version: i16) -> Option<()> {
        let flexible = version == 3;
        self.out.i16(if (0..=3).contains(&version) { 0 } else { 35 });
        if flexible {
            self.out.i8(i8::try_from(APIS.len() + 1).ok()?);
        } else {
            self.out.len(APIS.len());
        }
        for (key, low, high) in APIS {
            self.out.i16(key);
            self.out.i16(low);
            self.out.i16(high);
            if flexible {
                self.out.i8(0);
            }
        }
        if (1..=3).contains(&version) {
            self.out.i32(0); // throttle
        }
        if flexible {
            self.out.i8(0);
        }
        Some(())
    }
}

fn frame_need(bytes: &[u8]) -> Result<usize> {
    let Some(n) = Reader(bytes).i32() else { return Ok(4) };
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    ensure!(n <= MAX_FRAME, "a frame of {n} bytes");
    Ok(n + 4)
}

fn frame_end(bytes: &[u8]) -> Result<Option<usize>> {
    let need = frame_need(bytes)?;
    Ok((bytes.len() >= 4 && bytes.len() >= need).then_some(need))
}

type Wanted<'a> = Vec<(&'a [u8], Vec<(i32, i64)>)>;

fn fetch_wants<'a>(r: &mut Reader<'a>) -> Option<Wanted<'a>> {
    r.take(4 + 4 + 4 + 4 + 1)?; // replica, wait, min and max bytes, isolation
    let mut wanted = Vec::new();
    for _ in 0..r.count()? {
        let name = r.string()?;
        let mut partitions = Vec::new();
        for _ in 0..r.count()? {
            let (index, offset) = (r.i32()?, r.i64()?);
            r.i32()?; // max bytes
            partitions.push((index, offset));
        }
        wanted.push((name, partitions));
    }
    Some(wanted)
}

/// How many records the batches hold, by their headers alone.
fn records_in(mut batches: &[u8]) -> Option<i64> {
    let mut records = 0;
    while batches.len() >= BATCH_HEADER_BYTES {
        let length = usize::try_from(Reader(&batches[8..]).i32()?).ok()?;
        records += i64::from(Reader(&batches[LAST_OFFSET_DELTA_AT..]).i32()?) + 1;
        batches = batches.get(12 + length..)?;
    }
    Some(records)
}

fn write_both(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> Result<()> {
    let n = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
    ensure!(n > 0, "the peer takes no more");
    if n < head.len() {
        stream.write_all(&head[n..])?;
        stream.write_all(body)?;
    } else {
        stream.write_all(&body[n - head.len()..])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_over_batches() {
        let mut two = batch(3, 100, 0);
        two.extend(batch(5, 9, 0));
        assert_eq!(records_in(&two), Some(8));
        assert_eq!(records_in(&two[..two.len() - 1]), None);
    }

    #[test]
    fn canned_batches_follow_each_other() {
        let mut canned = Canned::new(1024);
        canned.rebase(1000);
        let bases: Vec<i64> = canned.bytes.chunks(canned.batch_bytes).map(|b| Reader(b).i64().unwrap()).collect();
        assert_eq!(bases[0], 1000);
        assert!(bases.windows(2).all(|w| w[1] - w[0] == canned.records_per_batch));
    }

    #[test]
    fn a_frame_that_is_too_large_is_refused() {
        assert!(frame_need(&[0x7f, 0, 0, 0]).is_err());
        assert!(frame_need(&[0xff, 0, 0, 0]).is_err());
        assert_eq!(frame_end(&[0, 0, 0, 1]).unwrap(), None);
        assert_eq!(frame_end(&[0, 0, 0, 1, 9]).unwrap(), Some(5));
    }
}
