//! What leaders of partitions ask the share coordinators of other nodes, on their control links. Every acknowledgement takes
//! one such question, so it is short and binary.
//!
//! ```text
//! message = kind u8, number u64, then                                        str, spans: `share/code.rs`
//!   Read      key, writer                        Found      kept u8 (0: that is all), state epoch i32, start i64, spans
//!   Write     key, writer, state epoch i32, initial u8, start i64, spans     Done
//!   Describe  group str                          Described  count u32, (topic 16, partition i32, start i64, epoch i32)*
//!   Reset     group str, count u32, (topic 16, partition i32, start i64)*
//!   Delete    group str, all u8, count u32, (topic 16)*                      Refused    why u8
//!   Letter    topic 16, partition i32, one batch of records                  LetterTaken  committed u8
//! key = group str, topic 16, partition i32     writer = leader epoch i32, sequence u64      integers are big-endian
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;
use wherry_metadata::PartitionId;

use crate::limits::MAX_SHARE_NAMES_PER_REQUEST;
use crate::share::code::{put_spans, put_str, short, take_spans, take_str};
use crate::share::ledger::{Described, Found, Key, Refusal, Request, Response, Writer};

const READ: u8 = 1;
const WRITE: u8 = 2;
const DESCRIBE: u8 = 3;
const RESET: u8 = 4;
const DELETE: u8 = 5;
const FOUND: u8 = 6;
const DONE: u8 = 7;
const DESCRIBED: u8 = 8;
const REFUSED: u8 = 9;
const LETTER: u8 = 10;
const LETTER_TAKEN: u8 = 11;

/// A message; `number` is the asker's, and comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShareMessage {
    /// For the coordinator of a group.
    Ask { number: u64, request: Request },
    /// What it says.
    Answer { number: u64, response: Response },
    /// A dead letter, for who leads its partition.
    Letter { number: u64, to: PartitionId, batch: Bytes },
    /// What became of it.
    LetterTaken { number: u64, committed: bool },
}

impl ShareMessage {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(96);
        match self {
            Self::Ask { number, request } => put_request(&mut out, *number, request),
            Self::Answer { number, response } => put_response(&mut out, *number, response),
            Self::Letter { number, to, batch } => {
                head(&mut out, LETTER, *number);
                out.put_slice(to.topic.as_bytes());
                out.put_i32(to.partition);
                out.put_slice(batch);
            }
            Self::LetterTaken { number, committed } => {
                head(&mut out, LETTER_TAKEN, *number);
                out.put_u8(u8::from(*committed));
            }
        }
        out.freeze()
    }

    /// What a message says.
    ///
    /// # Errors
    /// A sentence: the other side is not what it says it is.
    pub(crate) fn decode(mut body: Bytes) -> Result<Self, String> {
        let message = read(&mut body).map_err(|what| format!("a message about a share group: {what}"))?;
        if body.has_remaining() {
            return Err(format!("a message about a share group has {} bytes too many", body.remaining()));
        }
        Ok(message)
    }
}

fn head(out: &mut BytesMut, kind: u8, number: u64) {
    out.put_u8(kind);
    out.put_u64(number);
}

fn put_key(out: &mut BytesMut, key: &Key, writer: Writer) {
    put_str(out, &key.group);
    out.put_slice(key.topic.as_bytes());
    out.put_i32(key.partition);
    out.put_i32(writer.leader_epoch);
    out.put_u64(writer.sequence);
}

/// Lists are bounded by what checks requests.
fn put_count(out: &mut BytesMut, length: usize) {
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

fn put_request(out: &mut BytesMut, number: u64, request: &Request) {
    match request {
        Request::Read { key, writer } => {
            head(out, READ, number);
            put_key(out, key, *writer);
        }
        Request::Write { key, writer, state_epoch, initial, start, spans } => {
            head(out, WRITE, number);
            put_key(out, key, *writer);
            out.put_i32(*state_epoch);
            out.put_u8(u8::from(*initial));
            out.put_i64(*start);
            put_spans(out, spans);
        }
        Request::Describe { group } => {
            head(out, DESCRIBE, number);
            put_str(out, group);
        }
        Request::Reset { group, starts } => {
            head(out, RESET, number);
            put_str(out, group);
            put_count(out, starts.len());
            for (topic, partition, start) in starts {
                out.put_slice(topic.as_bytes());
                out.put_i32(*partition);
                out.put_i64(*start);
            }
        }
        Request::Delete { group, topics } => {
            head(out, DELETE, number);
            put_str(out, group);
            out.put_u8(u8::from(topics.is_none()));
            let topics = topics.as_deref().unwrap_or_default();
            put_count(out, topics.len());
            topics.iter().for_each(|topic| out.put_slice(topic.as_bytes()));
        }
    }
}

fn put_response(out: &mut BytesMut, number: u64, response: &Response) {
    match response {
        Response::Found(found) => {
            head(out, FOUND, number);
            out.put_u8(u8::from(found.is_some()));
            if let Some(found) = found {
                out.put_i32(found.state_epoch);
                out.put_i64(found.start);
                put_spans(out, &found.spans);
            }
        }
        Response::Done => head(out, DONE, number),
        Response::Described(lines) => {
            head(out, DESCRIBED, number);
            put_count(out, lines.len());
            for line in lines {
                out.put_slice(line.topic.as_bytes());
                out.put_i32(line.partition);
                out.put_i64(line.start);
                out.put_i32(line.leader_epoch);
            }
        }
        Response::Refused(refusal) => {
            head(out, REFUSED, number);
            let at = Refusal::ALL.iter().position(|one| one == refusal).unwrap_or(0);
            out.put_u8(u8::try_from(at).unwrap_or(0));
        }
    }
}

fn flag(body: &mut Bytes) -> Result<bool, &'static str> {
    match body.try_get_u8().map_err(short)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err("neither yes nor no"),
    }
}

fn uuid(body: &mut Bytes) -> Result<Uuid, &'static str> {
    body.try_get_u128().map(Uuid::from_u128).map_err(short)
}

fn key(body: &mut Bytes) -> Result<(Key, Writer), &'static str> {
    let group = take_str(body)?;
    let key = Key { group, topic: uuid(body)?, partition: body.try_get_i32().map_err(short)? };
    let leader_epoch = body.try_get_i32().map_err(short)?;
    Ok((key, Writer { leader_epoch, sequence: body.try_get_u64().map_err(short)? }))
}

/// A count is believed only if so many are there (INV-8).
fn list<T>(
    body: &mut Bytes,
    bytes_each: usize,
    most: usize,
    one: impl Fn(&mut Bytes) -> Result<T, &'static str>,
) -> Result<Vec<T>, &'static str> {
    let count = body.try_get_u32().map_err(short)? as usize;
    if count > most || count * bytes_each > body.remaining() {
        return Err("a list is shorter than it says, or too long");
    }
    (0..count).map(|_| one(body)).collect()
}

fn read(body: &mut Bytes) -> Result<ShareMessage, &'static str> {
    let kind = body.try_get_u8().map_err(short)?;
    let number = body.try_get_u64().map_err(short)?;
    let ask = |request| Ok(ShareMessage::Ask { number, request });
    let answer = |response| Ok(ShareMessage::Answer { number, response });
    match kind {
        READ => {
            let (key, writer) = key(body)?;
            ask(Request::Read { key, writer })
        }
        WRITE => {
            let (key, writer) = key(body)?;
            let state_epoch = body.try_get_i32().map_err(short)?;
            let initial = flag(body)?;
            let start = body.try_get_i64().map_err(short)?;
            ask(Request::Write { key, writer, state_epoch, initial, start, spans: take_spans(body)? })
        }
        DESCRIBE => ask(Request::Describe { group: take_str(body)? }),
        RESET => {
            let group = take_str(body)?;
            let one = |body: &mut Bytes| {
                Ok((uuid(body)?, body.try_get_i32().map_err(short)?, body.try_get_i64().map_err(short)?))
            };
            ask(Request::Reset { group, starts: list(body, 28, MAX_SHARE_NAMES_PER_REQUEST, one)? })
        }
        DELETE => {
            let group = take_str(body)?;
            let all = flag(body)?;
            let topics = list(body, 16, MAX_SHARE_NAMES_PER_REQUEST, uuid)?;
            ask(Request::Delete { group, topics: (!all).then_some(topics) })
        }
        FOUND if flag(body)? => {
            let state_epoch = body.try_get_i32().map_err(short)?;
            let start = body.try_get_i64().map_err(short)?;
            answer(Response::Found(Some(Found { state_epoch, start, spans: take_spans(body)? })))
        }
        FOUND => answer(Response::Found(None)),
        DONE => answer(Response::Done),
        DESCRIBED => {
            let one = |body: &mut Bytes| {
                Ok(Described {
                    topic: uuid(body)?,
                    partition: body.try_get_i32().map_err(short)?,
                    start: body.try_get_i64().map_err(short)?,
                    leader_epoch: body.try_get_i32().map_err(short)?,
                })
            };
            // As many as the coordinator keeps: the frame bounds them.
            answer(Response::Described(list(body, 32, usize::MAX, one)?))
        }
        REFUSED => {
            let at = usize::from(body.try_get_u8().map_err(short)?);
            answer(Response::Refused(*Refusal::ALL.get(at).ok_or("refused for an unknown reason")?))
        }
        LETTER => {
            let to = PartitionId { topic: uuid(body)?, partition: body.try_get_i32().map_err(short)? };
            // Whether it is a batch is for who appends it to say.
            Ok(ShareMessage::Letter { number, to, batch: body.split_off(0) })
        }
        LETTER_TAKEN => Ok(ShareMessage::LetterTaken { number, committed: flag(body)? }),
        _ => Err("its kind is unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::{Kept, Span};

    fn samples() -> Vec<ShareMessage> {
        let key = Key { group: "g".into(), topic: Uuid::from_u128(7), partition: 3 };
        let writer = Writer { leader_epoch: 4, sequence: u64::MAX };
        let spans = vec![Span { first: 5, last: 9, kept: Kept::Acknowledged }];
        let topic = key.topic;
        let requests = vec![
            Request::Read { key: key.clone(), writer },
            Request::Write { key, writer, state_epoch: 2, initial: true, start: 5, spans: spans.clone() },
            Request::Describe { group: "g".into() },
            Request::Reset { group: "g".into(), starts: vec![(topic, 1, 2), (topic, 3, 4)] },
            Request::Delete { group: "g".into(), topics: Some(vec![topic]) },
            Request::Delete { group: "g".into(), topics: None },
        ];
        let mut responses = vec![
            Response::Found(None),
            Response::Found(Some(Found { state_epoch: 1, start: 2, spans })),
            Response::Done,
            Response::Described(vec![Described { topic, partition: 1, start: 2, leader_epoch: 3 }]),
        ];
        responses.extend(Refusal::ALL.map(Response::Refused));
        let asks = requests.into_iter().map(|request| ShareMessage::Ask { number: 8, request });
        asks.chain(responses.into_iter().map(|response| ShareMessage::Answer { number: 9, response })).collect()
    }

    #[test]
    fn letters_come_back_as_they_were() {
        let to = PartitionId { topic: Uuid::from_u128(7), partition: 3 };
        for message in [
            ShareMessage::Letter { number: 1, to, batch: Bytes::from_static(b"batch") },
            ShareMessage::LetterTaken { number: 1, committed: true },
        ] {
            assert_eq!(ShareMessage::decode(message.encode()), Ok(message));
        }
    }

    #[test]
    fn messages_come_back_as_they_were() {
        for message in samples() {
            assert_eq!(ShareMessage::decode(message.encode()), Ok(message));
        }
    }

    #[test]
    fn every_cut_and_every_extension_is_refused() {
        for bytes in samples().iter().map(ShareMessage::encode) {
            for length in 0..bytes.len() {
                assert!(ShareMessage::decode(bytes.slice(..length)).is_err(), "{bytes:?} cut to {length}");
            }
            assert!(ShareMessage::decode([&bytes[..], &[0]].concat().into()).is_err());
        }
    }
}
