//! Long messages are cut into frames of bounded size: no frame keeps a link silent for long, and a node needs memory for
//! what has arrived, never for what is declared.

use bytes::{Buf, Bytes};

use super::frame::{HEADER_BYTES, header};
use crate::limits::MAX_LINK_FRAME_BYTES;

/// Payload bytes of one frame.
pub(super) const PART_BYTES: usize = MAX_LINK_FRAME_BYTES - HEADER_BYTES;

const MESSAGE: u8 = 6;
const PART: u8 = 7;

/// Bytes of a message in its frames.
pub(super) fn framed_bytes(message: usize) -> usize {
    message + HEADER_BYTES * message.div_ceil(PART_BYTES).max(1)
}

/// Frames of a message, length prefixes included; the payload is not copied.
pub(super) fn cut(chunks: Vec<Bytes>) -> Vec<Bytes> {
    let mut left: usize = chunks.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(chunks.len() + 1);
    let mut room = 0;
    let begin = |left: usize, out: &mut Vec<Bytes>| {
        let kind = if left > PART_BYTES { PART } else { MESSAGE };
        out.push(header(kind, left.min(PART_BYTES)));
        left.min(PART_BYTES)
    };
    if left == 0 {
        begin(0, &mut out);
    }
    for mut chunk in chunks {
        while chunk.has_remaining() {
            if room == 0 {
                room = begin(left, &mut out);
            }
            let part = chunk.split_to(room.min(chunk.len()));
            room -= part.len();
            left -= part.len();
            out.push(part);
        }
    }
    out
}

/// The parts of a message that is not complete.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    parts: Vec<u8>,
}

impl Joiner {
    /// Keeps a part; false if the message is longer than `limit`.
    pub(super) fn part(&mut self, part: &[u8], limit: usize) -> bool {
        let fits = self.parts.len() + part.len() <= limit;
        if fits {
            self.parts.extend_from_slice(part);
        }
        fits
    }

    /// The last part makes the message; one that came in one piece is not copied.
    pub(super) fn finish(&mut self, last: Bytes, limit: usize) -> Option<Bytes> {
        if self.parts.is_empty() && last.len() <= limit {
            return Some(last);
        }
        self.part(&last, limit).then(|| std::mem::take(&mut self.parts).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::links::frame::{Frame, decode};

    fn join(framed: &[Bytes]) -> Vec<Bytes> {
        let mut bytes: Bytes = framed.concat().into();
        let (mut joiner, mut out) = (Joiner::default(), Vec::new());
        while bytes.has_remaining() {
            let length = usize::try_from(bytes.get_u32()).unwrap();
            assert!(length <= MAX_LINK_FRAME_BYTES);
            match decode(bytes.split_to(length)).unwrap() {
                Frame::Part(part) => assert!(joiner.part(&part, usize::MAX)),
                Frame::Message(last) => out.push(joiner.finish(last, usize::MAX).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        out
    }

    #[test]
    fn messages_of_any_length_come_back_whole() {
        let sizes: [&[usize]; 9] = [
            &[],
            &[0],
            &[5],
            &[3, 0, 4],
            &[PART_BYTES],
            &[PART_BYTES + 1],
            &[2 * PART_BYTES],
            &[PART_BYTES - 1, 2, 2 * PART_BYTES],
            &[1, PART_BYTES - 1, 1],
        ];
        for sizes in sizes {
            let fill = |(i, size): (usize, &usize)| Bytes::from(vec![u8::try_from(i).unwrap(); *size]);
            let chunks: Vec<Bytes> = sizes.iter().enumerate().map(fill).collect();
            let whole: Bytes = chunks.concat().into();
            let framed = cut(chunks);
            assert_eq!(framed.concat().len(), framed_bytes(whole.len()), "{sizes:?}");
            assert!(join(&framed) == [whole], "{sizes:?}");
        }
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut joiner = Joiner::default();
        assert!(joiner.part(&[0; 60], 100));
        assert!(!joiner.part(&[0; 41], 100));
        assert_eq!(joiner.finish(Bytes::from_static(&[0; 41]), 100), None);
        assert_eq!(Joiner::default().finish(Bytes::from_static(&[0; 101]), 100), None);
    }
}
