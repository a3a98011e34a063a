//! Connections between nodes: who is dialled, who may connect, whether the other side is alive, and messages of any
//! length over them. Sans-I/O: [`Links`] takes time and frames and gives [`Action`]s and [`LinkEvent`]s. It must not know
//! what messages mean.
//!
//! ```text
//!  set_targets ──► dial ─ Hello ─► ... ─ Welcome ─► Up ─ Message ... ─► Down ──► dial again, a little later
//!  accept (a stranger's Hello) ──────────────────► Up ─ Message ... ─► Down
//! ```
//! A pair of nodes has one link per class and direction of dialling:
//! - [`Class::Control`] carries the dialler's messages only: each of the two dials the other, and what one of them has to
//!   say never waits for what it is told.
//! - [`Class::Data`] carries messages both ways; a follower dials its leader's node.
//!
//! Every link has its own bounded queue (trap 14). A silent peer is pinged, and given up after
//! two seconds: neither the kernel's keepalive nor a driver's idle timeout has a say in it.

mod dials;
mod frame;
mod handshake;
mod link;
mod manager;
mod parts;
mod processes;
mod trust;

use bytes::Bytes;
use uuid::Uuid;

pub use frame::API_KEY;
pub(crate) use frame::is_node_frame;
pub use manager::{Challenged, Greeted, Links, Refusal};
pub use trust::{LinkSecret, Trust};

/// A link; never reused for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub(crate) u64);

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Metadata and heartbeats, one-way from the dialler.
    Control,
    /// Replication, both ways.
    Data,
}

impl Class {
    fn code(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Data => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Control),
            2 => Some(Self::Data),
            _ => None,
        }
    }
}

/// Who a node says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id in the cluster, not negative.
    pub node: i32,
    /// This start of its process.
    pub incarnation: Uuid,
    /// Its data directory.
    pub directory: Uuid,
    /// Its cluster, if it knows; 1 to 255 bytes.
    pub cluster_id: Option<String>,
    /// Whether it holds any state of a cluster.
    pub initialised: bool,
}

/// Bounds and identity of a node's links.
#[derive(Debug, Clone)]
pub struct LinksConfig {
    /// This node.
    pub me: Identity,
    /// Of what is random: delays. Two starts should differ.
    pub seed: u64,
    /// Longest message in bytes that is taken from a peer.
    pub max_message_bytes: usize,
    /// Bytes that may wait on one link; one message goes out whatever its length when nothing waits.
    pub queue_bytes: usize,
    /// What peers have to prove.
    pub trust: Trust,
}

/// A peer to keep dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its id; none if an address is all that is known.
    pub node: Option<i32>,
    /// What for.
    pub class: Class,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What the driver of [`Links`] has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect; the answer is [`Links::connect_done`].
    Connect {
        /// For whom.
        link: LinkId,
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Send these bytes, length prefixes included; [`Links::sent`] says when they are gone.
    Send {
        /// Over which.
        link: LinkId,
        /// In order.
        chunks: Vec<Bytes>,
    },
    /// Close after what was sent before, or stop connecting. The link is forgotten already.
    Close {
        /// Which.
        link: LinkId,
        /// For the log.
        reason: String,
    },
}

/// What happened to links. Every `Up` is followed by exactly one `Down` that is not `refused`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Messages may be sent, or will come.
    Up {
        /// Which.
        link: LinkId,
        /// What for.
        class: Class,
        /// This node dialled.
        outgoing: bool,
        /// Who is there.
        peer: Identity,
    },
    /// A whole message.
    Message {
        /// Over which.
        link: LinkId,
        /// From whom.
        node: i32,
        /// Of the link.
        class: Class,
        /// As sent.
        body: Bytes,
    },
    /// The link is gone; nothing more comes of it.
    Down {
        /// Which.
        link: LinkId,
        /// To whom.
        node: i32,
        /// What for.
        class: Class,
        /// This node dialled.
        outgoing: bool,
        /// It never was: the node's address refused the connection at once, so no process listens there. Comes again
        /// with each attempt.
        refused: bool,
    },
}

/// A message that was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such link now.
    #[error("there is no link")]
    NotConnected,
    /// Messages go the other way on this one.
    #[error("messages on this link go the other way only")]
    OneWay,
    /// The bound is reached.
    #[error("{queued} bytes wait on the link already")]
    Full {
        /// What waits.
        queued: usize,
    },
    /// No peer takes such a message.
    #[error("a message of {bytes} bytes is longer than nodes take")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests;
