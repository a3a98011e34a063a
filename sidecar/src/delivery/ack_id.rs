//! What names one delivery of one message: opaque to applications, 24 bytes to us.
//!
//! ```text
//!   session (8)   window (4)   attempt (4)   offset (8)      big endian
//! ```
//! The session is drawn at random by each group task, so an ack id of another sidecar process, or of an earlier membership, is not
//! mistaken for one of ours. The window stands for one uninterrupted ownership of one partition.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of an encoded ack id.
pub const LENGTH: usize = 24;

/// A decoded ack id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AckId {
    /// The membership that delivered it.
    pub session: u64,
    /// The ownership of the partition that it was delivered from.
    pub window: u32,
    /// Which delivery of the message.
    pub attempt: u32,
    /// The message's offset.
    pub offset: i64,
}

impl AckId {
    /// Reads one; `None` for bytes that are not an ack id.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LENGTH {
            return None;
        }
        let session = bytes.get_u64();
        let window = bytes.get_u32();
        let attempt = bytes.get_u32();
        Some(Self { session, window, attempt, offset: bytes.get_i64() })
    }

    /// Appends it.
    pub fn write(&self, to: &mut BytesMut) {
        to.put_u64(self.session);
        to.put_u32(self.window);
        to.put_u32(self.attempt);
        to.put_i64(self.offset);
    }

    /// Many at once, sharing one allocation.
    pub fn encode_all(ids: impl ExactSizeIterator<Item = Self>) -> impl Iterator<Item = Bytes> {
        let mut all = BytesMut::with_capacity(ids.len() * LENGTH);
        ids.for_each(|id| id.write(&mut all));
        let all = all.freeze();
        (0..all.len() / LENGTH).map(move |at| all.slice(at * LENGTH..(at + 1) * LENGTH))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went() {
        let ids = [
            AckId { session: u64::MAX, window: 1, attempt: 2, offset: i64::MAX },
            AckId { session: 0, window: u32::MAX, attempt: 0, offset: 0 },
        ];
        let decoded: Vec<_> = AckId::encode_all(ids.into_iter()).map(|bytes| AckId::decode(&bytes)).collect();
        assert_eq!(decoded, ids.map(Some));
    }

    #[test]
    fn other_bytes_are_not_ack_ids() {
        for length in [0, 1, LENGTH - 1, LENGTH + 1, 1000] {
            assert_eq!(AckId::decode(&vec![7; length]), None);
        }
    }
}
