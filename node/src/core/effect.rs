//! What the core asks its driver to do.

use bytes::Bytes;

use super::conn::ConnId;

/// One thing to do. The driver MUST carry out the effects of one connection in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write these bytes, length prefix included; they may be shared with the log, so never written to.
    Send {
        /// To whom.
        conn: ConnId,
        /// In order.
        chunks: Vec<Bytes>,
    },
    /// Open a connection to another node; the driver answers with `connect_done`. [`Effect::Close`] cancels it.
    Connect {
        /// Its id from now on.
        conn: ConnId,
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// This accepted connection is one between nodes: what it receives has memory of its own, beside the clients'.
    Promote {
        /// Which.
        conn: ConnId,
    },
    /// This client has said who it is: it may send frames as large as any client's.
    Authenticated {
        /// Which.
        conn: ConnId,
    },
    /// Close after what was sent before. The core has forgotten the connection already.
    Close {
        /// Which.
        conn: ConnId,
        /// For the log.
        reason: String,
    },
    /// Read no more from it: frames that were read already may still be handed in.
    PauseReads {
        /// Which.
        conn: ConnId,
    },
    /// Read on.
    ResumeReads {
        /// Which.
        conn: ConnId,
    },
    /// The node can't keep its promises any more: acknowledge nothing, stop.
    Stop {
        /// For the log and the operator.
        reason: String,
    },
}
