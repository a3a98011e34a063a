//! What nodes say to one another on their control links. Consensus messages and proposals stay the bytes that they are,
//! and what is said about transactions and share groups has formats of its own; the rest is small and rare, so it is JSON.
//!
//! ```text
//! body = kind u8, then: Quorum | Propose | Transaction | Share: its bytes;  Other: JSON
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::asks::{Answer, Question};
use super::share::ShareMessage;
use super::transact::TransactionMessage;

const QUORUM: u8 = 0;
const PROPOSE: u8 = 1;
const OTHER: u8 = 2;
const TRANSACTION: u8 = 3;
const SHARE: u8 = 4;
/// Bytes of a JSON message: they are a few hundred.
const MAX_OTHER_BYTES: usize = 16 << 10;

/// A message between two nodes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Control {
    /// For the other's consensus.
    Quorum(Bytes),
    /// An encoded payload, for whoever leads the quorum to commit.
    Propose(Bytes),
    /// Between coordinators of transactions and leaders of partitions.
    Transaction(TransactionMessage),
    /// Between leaders of partitions and share coordinators.
    Share(ShareMessage),
    /// The small ones.
    Other(Other),
}

/// See [`Control::Other`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Other {
    /// "Here I am": each node to the leader of the quorum.
    Heartbeat(Heartbeat),
    /// The leader's answer.
    HeartbeatAnswer(HeartbeatAnswer),
    /// A node without state wants to be part of the cluster.
    Join(Join),
    /// It can't be: it must stop and say why.
    JoinRefused {
        /// A sentence.
        reason: String,
    },
    /// A question to the leader of the quorum.
    Ask {
        /// The asker's number of it.
        number: u64,
        /// What is asked.
        question: Question,
    },
    /// The leader's answer.
    Answered {
        /// Of the question.
        number: u64,
        /// The answer.
        answer: Answer,
    },
}

/// A node's sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Heartbeat {
    /// Process start that it speaks for.
    pub(crate) incarnation: Uuid,
    /// Counts up; the answer names it.
    pub(crate) sequence: u64,
    /// It wants to stop in order, and asks that its leaderships be moved.
    pub(crate) stopping: bool,
}

/// The quorum leader's answer: authority until a while after the heartbeat was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeartbeatAnswer {
    /// Of the heartbeat.
    pub(crate) sequence: u64,
    /// Of the heartbeat.
    pub(crate) incarnation: Uuid,
    /// The node leads nothing any more and may stop.
    pub(crate) may_stop: bool,
}

/// See [`Other::Join`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Join {
    /// Its id.
    pub(crate) node_id: i32,
    /// Its data directory.
    pub(crate) directory: Uuid,
    /// `host:port` where the other nodes reach it.
    pub(crate) addr: String,
}

impl Control {
    /// The body of a link message.
    pub(crate) fn encode(&self) -> Vec<Bytes> {
        match self {
            Self::Quorum(bytes) => vec![Bytes::from_static(&[QUORUM]), bytes.clone()],
            Self::Propose(bytes) => vec![Bytes::from_static(&[PROPOSE]), bytes.clone()],
            Self::Transaction(message) => vec![Bytes::from_static(&[TRANSACTION]), message.encode()],
            Self::Share(message) => vec![Bytes::from_static(&[SHARE]), message.encode()],
            Self::Other(other) => {
                let mut out = BytesMut::new().writer();
                out.get_mut().put_u8(OTHER);
                // Nothing in these types can fail to be written.
                let _written = serde_json::to_writer(&mut out, other);
                vec![out.into_inner().freeze()]
            }
        }
    }

    /// What a body says.
    ///
    /// # Errors
    /// A sentence: the other side is not what it says it is.
    pub(crate) fn decode(mut body: Bytes) -> Result<Self, String> {
        if body.is_empty() {
            return Err("an empty message".into());
        }
        let kind = body.split_to(1);
        match kind.first() {
            Some(&QUORUM) => Ok(Self::Quorum(body)),
            Some(&PROPOSE) => Ok(Self::Propose(body)),
            Some(&TRANSACTION) => TransactionMessage::decode(body).map(Self::Transaction),
            Some(&SHARE) => ShareMessage::decode(body).map(Self::Share),
            Some(&OTHER) if body.len() > MAX_OTHER_BYTES => Err(format!("a control message of {} bytes", body.len())),
            Some(&OTHER) => serde_json::from_slice(&body).map(Self::Other).map_err(|error| error.to_string()),
            other => Err(format!("a control message of the unknown kind {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::ledger::Response;

    fn round(message: &Control) -> Control {
        Control::decode(message.encode().concat().into()).unwrap()
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let heartbeat = Heartbeat { incarnation: Uuid::from_u128(3), sequence: 9, stopping: true };
        let join = Join { node_id: 4, directory: Uuid::from_u128(5), addr: "node-4:9092".into() };
        for message in [
            Control::Quorum(Bytes::from_static(b"abc")),
            Control::Propose(Bytes::new()),
            Control::Transaction(TransactionMessage::Verified { number: 8, code: 3 }),
            Control::Share(ShareMessage::Answer { number: 9, response: Response::Done }),
            Control::Other(Other::Heartbeat(heartbeat)),
            Control::Other(Other::Join(join)),
            Control::Other(Other::JoinRefused { reason: "no".into() }),
            Control::Other(Other::Ask { number: 7, question: Question::Describe }),
            Control::Other(Other::Answered { number: 7, answer: Answer::Refused { code: 41, reason: "no".into() } }),
        ] {
            assert_eq!(round(&message), message);
        }
    }

    #[test]
    fn strange_bytes_are_refused() {
        for bytes in [&b""[..], b"\x07", b"\x02", b"\x02{}", b"\x02[1]", b"\x02{\"heartbeat\":{}}"] {
            assert!(Control::decode(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
        let mut long = vec![OTHER];
        long.resize(MAX_OTHER_BYTES + 2, b' ');
        assert!(Control::decode(long.into()).is_err());
    }
}
