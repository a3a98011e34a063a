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
