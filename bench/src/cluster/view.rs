//! Who leads what, asked from outside with Metadata, as any client would; and the one request that an operator would send,
//! ElectLeaders. It must not know why somebody wants to know.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::frame::{Reader, Writer, request};
use crate::raw::read_frame;

const METADATA: (i16, i16) = (3, 7);
const ELECT_LEADERS: (i16, i16) = (43, 1);
/// Ten thousand partitions take less than 1 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// A broker that does not answer in this time is left for the next one.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Creating the answer for many partitions may take a while, and so may an election of all.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);

/// A partition as a broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its topic.
    pub topic: String,
    /// Its index.
    pub index: i32,
    /// Its leader.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub epoch: i32,
    /// Its replicas, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those in sync.
    pub in_sync: Vec<i32>,
}

impl Partition {
    /// Whether it is as it was created: all in sync, led by the preferred one.
    pub fn whole(&self) -> bool {
        self.in_sync.len() == self.replicas.len() && self.leader == self.replicas.first().copied()
    }
}

/// The cluster as one broker sees it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Brokers that live, by id.
    pub brokers: BTreeMap<i32, SocketAddr>,
    /// Partitions of the topics that were asked for.
    pub partitions: Vec<Partition>,
}

/// A connection to whichever broker answers.
#[derive(Debug)]
pub struct Guide {
    addresses: Vec<SocketAddr>,
    at: usize,
    stream: Option<TcpStream>,
    timeout: Duration,
}

impl Guide {
    /// One that asks these brokers, in turn when one fails.
    pub fn new(addresses: Vec<SocketAddr>) -> Guide {
        Guide { addresses, at: 0, stream: None, timeout: TIMEOUT }
    }

    /// The same, for answers that may take long.
    pub fn patient(addresses: Vec<SocketAddr>) -> Guide {
        Guide { timeout: LONG_TIMEOUT, ..Guide::new(addresses) }
    }

    /// The cluster and these topics.
    pub fn view(&mut self, topics: &[String]) -> Result<View> {
        let mut w = request(METADATA.0, METADATA.1, 1);
        w.len(topics.len());
        topics.iter().for_each(|t| w.string(t.as_bytes()));
        w.i8(0); // create nothing
        let answer = self.exchange(w)?;
        read_view(&answer).context("Metadata answered with something that ends early")?
    }

    /// Gives every partition back to its preferred leader. That some have it already is no error.
    pub fn elect_preferred(&mut self) -> Result<()> {
        let mut w = request(ELECT_LEADERS.0, ELECT_LEADERS.1, 1);
        w.i8(0); // preferred
        w.i32(-1); // all partitions
        w.i32(i32::try_from(self.timeout.as_millis())?);
        let answer = self.exchange(w)?;
        let mut r = Reader(&answer);
        let error = (r.i32(), r.i32(), r.i16()).2.context("ElectLeaders answered with something that ends early")?;
        ensure!(error == 0, "ElectLeaders answered with error {error}");
        Ok(())
    }

    /// Sends a request and awaits its answer; after a failure the next broker is asked the next time.
    fn exchange(&mut self, mut request: Writer) -> Result<Vec<u8>> {
        request.close_frame(0);
        let answer = self.try_exchange(&request.0);
        if answer.is_err() {
            self.stream = None;
            self.at += 1;
        }
        answer
    }

    fn try_exchange(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(request)?;
        let mut answer = Vec::new();
        read_frame(&mut stream, &mut answer, MAX_ANSWER)?;
        self.stream = Some(stream);
        Ok(answer)
    }

    fn connect(&self) -> Result<TcpStream> {
        let addr = self.addresses.get(self.at % self.addresses.len().max(1)).context("no brokers")?;
        let stream = TcpStream::connect_timeout(addr, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        Ok(stream)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Metadata version 7; `None` where the answer ends early.
fn read_view(answer: &[u8]) -> Option<Result<View>> {
    let mut r = Reader(answer);
    r.i32()?; // correlation id, throttling
    r.i32()?;
    let mut view = View::default();
    for _ in 0..r.count()? {
        let (id, host, port, _rack) = (r.i32()?, text(r.string()?), r.i32()?, r.string()?);
        match format!("{host}:{port}").parse() {
            Ok(addr) => view.brokers.insert(id, addr),
            Err(e) => return Some(Err(e).with_context(|| format!("broker {id} is at {host}:{port}"))),
        };
    }
    r.string()?; // cluster, controller
    r.i32()?;
    for _ in 0..r.count()? {
        let (error, topic, _internal) = (r.i16()?, text(r.string()?), r.take(1)?);
        // A topic that is new or gone has no partitions yet; each of those says for itself whether it has a leader.
        let _ = error;
        for _ in 0..r.count()? {
            view.partitions.push(read_partition(&mut r, &topic)?);
        }
    }
    Some(Ok(view))
}

fn read_partition(r: &mut Reader<'_>, topic: &str) -> Option<Partition> {
    let (_error, index, leader, epoch) = (r.i16()?, r.i32()?, r.i32()?, r.i32()?);
    let (replicas, in_sync, _offline) = (nodes(r)?, nodes(r)?, nodes(r)?);
    let leader = Some(leader).filter(|l| *l >= 0);
    Some(Partition { topic: topic.into(), index, leader, epoch, replicas, in_sync })
}

fn nodes(r: &mut Reader<'_>) -> Option<Vec<i32>> {
    (0..r.count()?).map(|_| r.i32()).collect()
}

/// Errors of Produce after which a client asks who leads, and tries again: the partition is unknown or has no leader (3, 5),
/// is led elsewhere (6), took too long (7), the replica is not there (9), the connection broke (13), too few replicas are in sync
/// before or after the append (19, 20), the leader's epoch is older or newer than the request's (74, 75).
pub fn retriable(error: i16) -> bool {
    matches!(error, 3 | 5 | 6 | 7 | 9 | 13 | 19 | 20 | 74 | 75)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let mut w = Writer::default();
        w.i32(1);
        w.i32(0);
        w.len(1);
        w.i32(2);
        w.string(b"127.0.0.1");
        w.i32(9092);
        w.i16(-1);
        w.string(b"cluster");
        w.i32(2);
        w.len(1);
        w.i16(0);
        w.string(b"t");
        w.i8(0);
        w.len(1);
        w.i16(5);
        w.i32(7);
        w.i32(-1);
        w.i32(4);
        for nodes in [&[2, 0][..], &[2], &[]] {
            w.len(nodes.len());
            nodes.iter().for_each(|n| w.i32(*n));
        }
        w.0
    }

    #[test]
    fn metadata_is_read() {
        let view = read_view(&answer()).unwrap().unwrap();
        assert_eq!(view.brokers, [(2, "127.0.0.1:9092".parse().unwrap())].into());
        let (replicas, in_sync) = (vec![2, 0], vec![2]);
        let one = Partition { topic: "t".into(), index: 7, leader: None, epoch: 4, replicas, in_sync };
        assert!(!one.whole());
        assert_eq!(view.partitions, [one]);
    }

    #[test]
    fn metadata_that_ends_early_is_none() {
        let answer = answer();
        assert!((0..answer.len()).all(|n| read_view(&answer[..n]).is_none()));
    }
}
