//! Frames between nodes, after the length prefix: `[api_key i16 = 30000][kind u8][body]`. Bytes only: who may say what
//! to whom is [`super::handshake`]'s.
//!
//! ```text
//!  1 Hello, 2 Welcome: version u16, sender i32, cluster id (u8 length, 0 = none), incarnation 16, directory 16,
//!                      initialised u8; a Hello goes on with to i32 (-1 = whoever answers), class u8, nonce 32
//!  3 Reject:           reason u8, text (u16 length)
//!  4 Ping, 5 Pong:     nothing
//!  8 Challenge:        as a Welcome, then nonce 32, proof 32;   9 Proof: proof 32
//!  6 Message:          the last part of a message, or all of it;   7 Part: a part with more to come
//! ```
//! All numbers are big-endian. Nothing is allocated beyond the frame that is there, and handshakes are short.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::{Class, Identity};

/// No request of Kafka's has this key.
pub const API_KEY: i16 = 30_000;
/// Of the handshake; a node speaks with its own version only.
pub(super) const VERSION: u16 = 2;
/// Longest handshake in bytes.
const MAX_HANDSHAKE_BYTES: usize = 1024;
/// Length prefix, key, kind.
pub(super) const HEADER_BYTES: usize = 4 + 2 + 1;
/// `to` of a Hello for whoever answers.
const ANYONE: i32 = -1;

/// First frame of a dialler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) sender: Identity,
    /// Whom it wants; none takes whoever answers.
    pub(super) to: Option<i32>,
    pub(super) class: Class,
    /// Random: what is proven is proven for this link.
    pub(super) nonce: Nonce,
}

/// Random bytes.
pub(super) type Nonce = [u8; 32];
/// HMAC-SHA-256 under the cluster's secret.
pub(super) type Mac = [u8; 32];

/// What an acceptor says before it takes a dialler's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) sender: Identity,
    pub(super) nonce: Nonce,
    /// That the acceptor knows the secret.
    pub(super) proof: Mac,
}

/// Why a node refuses a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The first frame makes no sense.
    Malformed,
    /// It speaks another version.
    Version,
    /// It belongs to another cluster.
    Cluster,
    /// It wants another node.
    WrongNode,
    /// It is this very node.
    Myself,
    /// A newer process of that node was here already.
    Superseded,
    /// There is a link already, and the dialler knew not whom it dials.
    Duplicate,
    /// The bound on links is reached.
    Full,
    /// It can't prove that it is of this cluster.
    Unproven,
}

const REASONS: [Reason; 9] = [
    Reason::Malformed,
    Reason::Version,
    Reason::Cluster,
    Reason::WrongNode,
    Reason::Myself,
    Reason::Superseded,
    Reason::Duplicate,
    Reason::Full,
    Reason::Unproven,
];

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Hello(Hello),
    Welcome(Identity),
    Reject { reason: Reason, text: String },
    Ping,
    Pong,
    Message(Bytes),
    Part(Bytes),
    Challenge(Challenge),
    Proof(Mac),
}

/// Bytes that are no frame between nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame between nodes of kind {0}; kinds are 1 to 9")]
    Kind(u8),
    #[error("a frame between nodes that is cut short or goes on too long ({0} bytes)")]
    Length(usize),
    #[error("it speaks version {0} between nodes, this node version {VERSION}; run the same release on all nodes")]
    Version(u16),
    #[error("a link of class {0}; classes are 1 and 2")]
    Class(u8),
    #[error("text between nodes that is not UTF-8")]
    Text,
}

/// Whether a frame is one between nodes.
pub(crate) fn is_node_frame(frame: &[u8]) -> bool {
    frame.first_chunk().is_some_and(|key| i16::from_be_bytes(*key) == API_KEY)
}

/// The beginning of a frame with a body of `body` bytes.
pub(super) fn header(kind: u8, body: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES);
    out.put_u32(u32::try_from(HEADER_BYTES - 4 + body).unwrap_or(u32::MAX));
    out.put_i16(API_KEY);
    out.put_u8(kind);
    out.freeze()
}

/// A frame with its length prefix.
pub(super) fn encode(frame: &Frame) -> Vec<Bytes> {
    let mut body = BytesMut::new();
    let kind = match frame {
        Frame::Hello(hello) => {
            put_identity(&mut body, &hello.sender);
            body.put_i32(hello.to.unwrap_or(ANYONE));
            body.put_u8(hello.class.code());
            body.put_slice(&hello.nonce);
            1
        }
        Frame::Welcome(identity) => {
            put_identity(&mut body, identity);
            2
        }
        Frame::Reject { reason, text } => {
            let code = REASONS.iter().position(|r| r == reason).unwrap_or(0);
            let text = &text.as_bytes()[..text.floor_char_boundary(MAX_HANDSHAKE_BYTES / 2)];
            body.put_u8(u8::try_from(code).unwrap_or(0));
            body.put_u16(u16::try_from(text.len()).unwrap_or(0));
            body.put_slice(text);
            3
        }
        Frame::Challenge(challenge) => {
            put_identity(&mut body, &challenge.sender);
            body.put_slice(&challenge.nonce);
            body.put_slice(&challenge.proof);
            8
        }
        Frame::Proof(proof) => {
            body.put_slice(proof);
            9
        }
        Frame::Ping => 4,
        Frame::Pong => 5,
        Frame::Message(payload) => return vec![header(6, payload.len()), payload.clone()],
        Frame::Part(payload) => return vec![header(7, payload.len()), payload.clone()],
    };
    vec![header(kind, body.len()), body.freeze()]
}

fn put_identity(out: &mut BytesMut, identity: &Identity) {
    let cluster = identity.cluster_id.as_deref().unwrap_or_default().as_bytes();
    let cluster = &cluster[..cluster.len().min(255)];
    out.put_u16(VERSION);
    out.put_i32(identity.node);
    out.put_u8(u8::try_from(cluster.len()).unwrap_or(0));
    out.put_slice(cluster);
    out.put_slice(identity.incarnation.as_bytes());
    out.put_slice(identity.directory.as_bytes());
    out.put_u8(u8::from(identity.initialised));
}

/// Reads a frame without its length prefix; a payload shares the frame's memory.
pub(super) fn decode(mut frame: Bytes) -> Result<Frame, FrameError> {
    let length = frame.len();
    if length < HEADER_BYTES - 4 {
        return Err(FrameError::Length(length));
    }
    frame.advance(2);
    let kind = frame.get_u8();
    if !matches!(kind, 6 | 7) && length > MAX_HANDSHAKE_BYTES {
        return Err(FrameError::Length(length));
    }
    let mut body = Body { bytes: frame, length };
    let frame = match kind {
        1 => Frame::Hello(body.hello()?),
        2 => Frame::Welcome(body.identity()?),
        3 => body.reject()?,
        4 => Frame::Ping,
        5 => Frame::Pong,
        6 => return Ok(Frame::Message(body.bytes)),
        7 => return Ok(Frame::Part(body.bytes)),
        8 => Frame::Challenge(Challenge { sender: body.identity()?, nonce: body.bytes32()?, proof: body.bytes32()? }),
        9 => Frame::Proof(body.bytes32()?),
        kind => return Err(FrameError::Kind(kind)),
    };
    if body.bytes.is_empty() { Ok(frame) } else { Err(FrameError::Length(length)) }
}

/// What is left of a handshake.
struct Body {
    bytes: Bytes,
    /// Of the whole frame, for errors.
    length: usize,
}

impl Body {
    fn hello(&mut self) -> Result<Hello, FrameError> {
        let sender = self.identity()?;
        let to = self.i32()?;
        let code = self.u8()?;
        let class = Class::from_code(code).ok_or(FrameError::Class(code))?;
        let nonce = self.bytes32()?;
        Ok(Hello { sender, to: (to != ANYONE).then_some(to), class, nonce })
    }

    fn identity(&mut self) -> Result<Identity, FrameError> {
        // What follows the version is the version's affair.
        let version = self.u16()?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let node = self.i32()?;
        let cluster = usize::from(self.u8()?);
        let cluster = self.text(cluster)?;
        let incarnation = self.uuid()?;
        let directory = self.uuid()?;
        let initialised = self.u8()? != 0;
        Ok(Identity { node, incarnation, directory, cluster_id: (!cluster.is_empty()).then_some(cluster), initialised })
    }

    fn reject(&mut self) -> Result<Frame, FrameError> {
        let code = usize::from(self.u8()?);
        // A reason that a later version has is a reason all the same.
        let reason = REASONS.get(code).copied().unwrap_or(Reason::Malformed);
        let text = usize::from(self.u16()?);
        Ok(Frame::Reject { reason, text: self.text(text)? })
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.bytes.try_get_u8().map_err(|_| FrameError::Length(self.length))
    }

    fn u16(&mut self) -> Result<u16, FrameError> {
        self.bytes.try_get_u16().map_err(|_| FrameError::Length(self.length))
    }

    fn i32(&mut self) -> Result<i32, FrameError> {
        self.bytes.try_get_i32().map_err(|_| FrameError::Length(self.length))
    }

    fn uuid(&mut self) -> Result<Uuid, FrameError> {
        self.bytes.try_get_u128().map(Uuid::from_u128).map_err(|_| FrameError::Length(self.length))
    }

    fn bytes32(&mut self) -> Result<[u8; 32], FrameError> {
        let mut out = [0; 32];
        self.bytes.try_copy_to_slice(&mut out).map_err(|_| FrameError::Length(self.length))?;
        Ok(out)
    }

    fn text(&mut self, length: usize) -> Result<String, FrameError> {
        if length > self.bytes.len() {
            return Err(FrameError::Length(self.length));
        }
        String::from_utf8(self.bytes.split_to(length).into()).map_err(|_| FrameError::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            node: 7,
            incarnation: Uuid::from_u128(1),
            directory: Uuid::from_u128(2),
            cluster_id: Some("boats".into()),
            initialised: true,
        }
    }

    fn every() -> Vec<Frame> {
        let nobody = Identity { cluster_id: None, initialised: false, ..identity() };
        let mut frames = vec![
            Frame::Hello(Hello { sender: identity(), to: Some(3), class: Class::Data, nonce: [1; 32] }),
            Frame::Hello(Hello { sender: nobody.clone(), to: None, class: Class::Control, nonce: [2; 32] }),
            Frame::Challenge(Challenge { sender: nobody.clone(), nonce: [3; 32], proof: [4; 32] }),
            Frame::Proof([5; 32]),
            Frame::Welcome(nobody),
            Frame::Ping,
            Frame::Pong,
            Frame::Message(Bytes::new()),
            Frame::Part(Bytes::from_static(b"payload")),
        ];
        frames.extend(REASONS.map(|reason| Frame::Reject { reason, text: "no".into() }));
        frames
    }

    fn bytes_of(frame: &Frame) -> Bytes {
        encode(frame).concat().into()
    }

    #[test]
    fn frames_come_back_as_they_were() {
        for frame in every() {
            let mut bytes = bytes_of(&frame);
            assert_eq!(usize::try_from(bytes.get_u32()).unwrap(), bytes.len());
            assert!(is_node_frame(&bytes));
            assert_eq!(decode(bytes), Ok(frame));
        }
    }

    #[test]
    fn cut_and_longer_handshakes_are_errors() {
        for frame in every() {
            let bytes = bytes_of(&frame).slice(4..);
            if matches!(frame, Frame::Message(_) | Frame::Part(_)) {
                continue;
            }
            for cut in 0..bytes.len() {
                assert!(decode(bytes.slice(..cut)).is_err(), "{frame:?} cut at {cut}");
            }
            assert!(decode([bytes.as_ref(), b"x"].concat().into()).is_err());
            assert!(decode([bytes.as_ref(), &[0; 2000]].concat().into()).is_err());
        }
    }

    #[test]
    fn kinds_classes_and_versions_that_nobody_knows_are_errors() {
        for kind in [0, 10, 255] {
            assert_eq!(decode(header(kind, 0).slice(4..)), Err(FrameError::Kind(kind)));
        }
        let hello = Hello { sender: identity(), to: None, class: Class::Data, nonce: [0; 32] };
        let hello = bytes_of(&Frame::Hello(hello)).slice(4..);
        let mut unknown = hello.to_vec();
        let class = unknown.len() - 33;
        unknown[class] = 9;
        assert_eq!(decode(unknown.into()), Err(FrameError::Class(9)));
        let mut newer = hello.to_vec();
        newer[4] = 3;
        newer.truncate(6);
        assert_eq!(decode(newer.into()), Err(FrameError::Version(3)));
    }

    #[test]
    fn a_long_reason_is_cut() {
        let frame = bytes_of(&Frame::Reject { reason: Reason::Cluster, text: "ä".repeat(5000) }).slice(4..);
        assert!(matches!(decode(frame), Ok(Frame::Reject { text, .. }) if text.len() == 512));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..11_u8) {
            let _any = decode(bytes.clone().into());
            let mut framed = header(kind, 0).slice(4..).to_vec();
            framed.extend(bytes);
            let _any = decode(framed.into());
        }
    }
}
