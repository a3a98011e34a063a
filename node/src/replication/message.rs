//! The messages of a data link, as bytes. A link frames them; here a body becomes a message and back.
//!
//! Batches are neither copied into a message nor out of it. Everything a peer declares is compared with the bytes that
//! are there before anything is allocated (INV-8); a body must be used up exactly.
//!
//! ```text
//! body: tag u8, then (big endian)
//!  1 Subscribe    count u32, count x { alias u32, topic 16, partition i32, leader epoch i32, log end i64, last epoch i32
//!                 (-1: the log is empty), durable end i64, log start i64 }
//!  2 Unsubscribe  count u32, count x alias u32
//!  3 Progress     count u32, count x { alias u32, durable end i64 }
//!  4 Credit       bytes u32
//!  5 Data         count u32, count x { alias u32, high watermark i64 (-1: none), log start i64, from i64, length u32 },
//!                 then the batches of each, one after the other
//!  6 Diverged     alias u32, epoch i32, end offset i64
//!  7 Refused      alias u32, reason u8, log start i64
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;
use wherry_wire::types::{LeaderEpoch, LogId, Offset};

const SUBSCRIBE: u8 = 1;
const UNSUBSCRIBE: u8 = 2;
const PROGRESS: u8 = 3;
const CREDIT: u8 = 4;
const DATA: u8 = 5;
const DIVERGED: u8 = 6;
const REFUSED: u8 = 7;

const SUBSCRIBE_LEN: usize = 4 + 16 + 4 + 4 + 8 + 4 + 8 + 8;
const ALIAS_LEN: usize = 4;
const PROGRESS_LEN: usize = 12;
const PART_LEN: usize = 4 + 8 + 8 + 8 + 4;
const DIVERGED_LEN: usize = 16;
const REFUSED_LEN: usize = 13;

/// Names a subscription on its link; the follower chooses it and never uses one twice on a link, so what is still on its
/// way for an earlier subscription is told from what belongs to this one.
pub type Alias = u32;

/// A follower's log as it stands, and its wish to go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe {
    /// See [`Alias`].
    pub alias: Alias,
    /// Which partition.
    pub log: LogId,
    /// In which epoch the follower follows.
    pub leader_epoch: LeaderEpoch,
    /// Where it wants to go on.
    pub log_end: Offset,
    /// Epoch of its newest batch; `None` for an empty log.
    pub last_epoch: Option<LeaderEpoch>,
    /// What is on its disk.
    pub durable_end: Offset,
    /// Its first offset.
    pub log_start: Offset,
}

/// Batches of one partition; without any, news of the high watermark and the log's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPart {
    /// See [`Alias`].
    pub alias: Alias,
    /// The leader's; `None` until its epoch has established one.
    pub high_watermark: Option<Offset>,
    /// The leader's.
    pub log_start: Offset,
    /// Where the leader began to read: the follower's log end, or something was lost between the two.
    pub from: Offset,
    /// Whole batches. One buffer when received, one or more when sent.
    pub batches: Vec<Bytes>,
}

impl DataPart {
    /// Bytes of the batches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }

    /// Whether there are no batches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.iter().all(Bytes::is_empty)
    }
}

/// Why a subscription is not served (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Another node leads.
    NotLeader,
    /// The node knows of no such partition, or not of this replica.
    UnknownPartition,
    /// The follower's epoch is over.
    FencedEpoch,
    /// The follower's epoch is not known here yet.
    UnknownEpoch,
    /// The follower's log doesn't reach what the leader has: it starts again at the leader's log start.
    OutOfRange {
        /// First offset of the leader's log.
        log_start: Offset,
    },
}

/// One message of a data link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// From the follower: serve these.
    Subscribe(Vec<Subscribe>),
    /// From the follower: stop serving these.
    Unsubscribe(Vec<Alias>),
    /// From the follower: its durable ends.
    Progress(Vec<(Alias, Offset)>),
    /// From the follower: so many more bytes of batches may be sent.
    Credit(u32),
    /// From the leader.
    Data(Vec<DataPart>),
    /// From the leader: the logs part; its newest epoch not above the follower's, and where that ends (KIP-101).
    Diverged {
        /// See [`Alias`].
        alias: Alias,
        /// An epoch of the leader's log.
        epoch: LeaderEpoch,
        /// Where it ends there.
        end_offset: Offset,
    },
    /// From the leader.
    Refused {
        /// See [`Alias`].
        alias: Alias,
        /// The reason.
        why: Why,
    },
}

/// Bytes that are no message, or a message that makes no sense: the link is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("replication link: {0}")]
pub struct LinkError(pub String);

impl Message {
    /// The body, in pieces: the batches are not copied.
    #[must_use]
    pub fn encode(&self) -> Vec<Bytes> {
        let mut head = BytesMut::new();
        let mut chunks = Vec::new();
        match self {
            Self::Subscribe(list) => {
                begin(&mut head, SUBSCRIBE, list.len(), SUBSCRIBE_LEN);
                list.iter().for_each(|one| put_subscribe(&mut head, one));
            }
            Self::Unsubscribe(list) => {
                begin(&mut head, UNSUBSCRIBE, list.len(), ALIAS_LEN);
                list.iter().for_each(|alias| head.put_u32(*alias));
            }
            Self::Progress(list) => {
                begin(&mut head, PROGRESS, list.len(), PROGRESS_LEN);
                for (alias, end) in list {
                    head.put_u32(*alias);
                    head.put_i64(end.0);
                }
            }
            Self::Credit(bytes) => {
                head.put_u8(CREDIT);
                head.put_u32(*bytes);
            }
            Self::Data(parts) => {
                begin(&mut head, DATA, parts.len(), PART_LEN);
                for part in parts {
                    put_part(&mut head, part);
                    chunks.extend(part.batches.iter().filter(|b| !b.is_empty()).cloned());
                }
            }
            Self::Diverged { alias, epoch, end_offset } => {
                head.put_u8(DIVERGED);
                head.put_u32(*alias);
                head.put_i32(epoch.0);
                head.put_i64(end_offset.0);
            }
            Self::Refused { alias, why } => put_refused(&mut head, *alias, *why),
        }
        chunks.insert(0, head.freeze());
        chunks
    }

    /// Reads a body. Batches stay where they are; what is in them is not looked at.
    ///
    /// # Errors
    /// [`LinkError`]: not what a node of this version sends.
    pub fn decode(mut body: Bytes) -> Result<Self, LinkError> {
        let tag = body.try_get_u8().map_err(|_| LinkError("an empty message".into()))?;
        match tag {
            SUBSCRIBE => list(body, SUBSCRIBE_LEN, get_subscribe).map(Self::Subscribe),
            UNSUBSCRIBE => list(body, ALIAS_LEN, |b| Ok(b.get_u32())).map(Self::Unsubscribe),
            PROGRESS => list(body, PROGRESS_LEN, |b| Ok((b.get_u32(), offset(b.get_i64())?))).map(Self::Progress),
            CREDIT => exactly(&body, 4).map(|()| Self::Credit(body.get_u32())),
            DATA => get_data(body).map(Self::Data),
            DIVERGED => {
                exactly(&body, DIVERGED_LEN)?;
                let (alias, epoch) = (body.get_u32(), LeaderEpoch(body.get_i32()));
                Ok(Self::Diverged { alias, epoch, end_offset: offset(body.get_i64())? })
            }
            REFUSED => {
                exactly(&body, REFUSED_LEN)?;
                let alias = body.get_u32();
                Ok(Self::Refused { alias, why: get_why(&mut body)? })
            }
            other => Err(LinkError(format!("unknown message {other}"))),
        }
    }
}

fn begin(head: &mut BytesMut, tag: u8, count: usize, each: usize) {
    head.reserve(5 + count * each);
    head.put_u8(tag);
    head.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
}

fn put_subscribe(head: &mut BytesMut, one: &Subscribe) {
    head.put_u32(one.alias);
    head.put_slice(one.log.topic.as_bytes());
    head.put_i32(one.log.partition);
    head.put_i32(one.leader_epoch.0);
    head.put_i64(one.log_end.0);
    head.put_i32(one.last_epoch.map_or(-1, |e| e.0));
    head.put_i64(one.durable_end.0);
    head.put_i64(one.log_start.0);
}

fn put_part(head: &mut BytesMut, part: &DataPart) {
    head.put_u32(part.alias);
    head.put_i64(part.high_watermark.map_or(-1, |o| o.0));
    head.put_i64(part.log_start.0);
    head.put_i64(part.from.0);
    head.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
}

fn put_refused(head: &mut BytesMut, alias: Alias, why: Why) {
    let (reason, log_start) = match why {
        Why::NotLeader => (0, 0),
        Why::UnknownPartition => (1, 0),
        Why::FencedEpoch => (2, 0),
        Why::UnknownEpoch => (3, 0),
        Why::OutOfRange { log_start } => (4, log_start.0),
    };
    head.put_u8(REFUSED);
    head.put_u32(alias);
    head.put_u8(reason);
    head.put_i64(log_start);
}

fn get_why(body: &mut Bytes) -> Result<Why, LinkError> {
    let (reason, log_start) = (body.get_u8(), body.get_i64());
    Ok(match reason {
        0 => Why::NotLeader,
        1 => Why::UnknownPartition,
        2 => Why::FencedEpoch,
        3 => Why::UnknownEpoch,
        4 => Why::OutOfRange { log_start: offset(log_start)? },
        other => return Err(LinkError(format!("unknown reason {other}"))),
    })
}

fn exactly(body: &Bytes, len: usize) -> Result<(), LinkError> {
    if body.len() == len { Ok(()) } else { Err(LinkError(format!("{} bytes where {len} belong", body.len()))) }
}

fn offset(value: i64) -> Result<Offset, LinkError> {
    if value < 0 { Err(LinkError(format!("offset {value}"))) } else { Ok(Offset(value)) }
}

/// The declared count, compared with the bytes there.
fn counted(body: &mut Bytes, each: usize) -> Result<usize, LinkError> {
    let count = body.try_get_u32().map_err(|_| LinkError("a list without its length".into()))? as usize;
    if count.checked_mul(each).is_none_or(|need| need > body.len()) {
        return Err(LinkError(format!("{count} entries declared in {} bytes", body.len())));
    }
    Ok(count)
}

fn list<T>(
    mut body: Bytes,
    each: usize,
    read: impl Fn(&mut Bytes) -> Result<T, LinkError>,
) -> Result<Vec<T>, LinkError> {
    let count = counted(&mut body, each)?;
    exactly(&body, count * each)?;
    (0..count).map(|_| read(&mut body)).collect()
}

fn get_subscribe(body: &mut Bytes) -> Result<Subscribe, LinkError> {
    let alias = body.get_u32();
    let topic = Uuid::from_u128(body.get_u128());
    let log = LogId { topic, partition: body.get_i32() };
    let leader_epoch = LeaderEpoch(body.get_i32());
    let log_end = offset(body.get_i64())?;
    let last_epoch = Some(LeaderEpoch(body.get_i32())).filter(|e| e.0 >= 0);
    let durable_end = offset(body.get_i64())?;
    let log_start = offset(body.get_i64())?;
    if log_start > log_end || durable_end > log_end {
        return Err(LinkError(format!("log {log} from {log_start} to {log_end}, durable to {durable_end}")));
    }
    Ok(Subscribe { alias, log, leader_epoch, log_end, last_epoch, durable_end, log_start })
}

fn get_data(mut body: Bytes) -> Result<Vec<DataPart>, LinkError> {
    let count = counted(&mut body, PART_LEN)?;
    let mut batches = body.split_off(count * PART_LEN);
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let alias = body.get_u32();
        let high_watermark = Some(body.get_i64()).filter(|hw| *hw >= 0).map(Offset);
        let (log_start, from) = (offset(body.get_i64())?, offset(body.get_i64())?);
        let len = body.get_u32() as usize;
        if len > batches.len() {
            return Err(LinkError(format!("{len} bytes of batches declared, {} are there", batches.len())));
        }
        let batches = if len == 0 { Vec::new() } else { vec![batches.split_to(len)] };
        parts.push(DataPart { alias, high_watermark, log_start, from, batches });
    }
    exactly(&batches, 0).map(|()| parts)
}
