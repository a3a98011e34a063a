//! The ids that applications give their messages: a header of the record.

use bytes::Bytes;

use super::parse::{RecordError, RecordRef, RecordsError, records};
use super::validate::InvalidRecords;
use crate::batch::BatchHeader;

/// Name of the header whose value is the id of a message.
pub const MESSAGE_ID_HEADER: &str = "wherry-message-id";

impl<'a> RecordRef<'a> {
    /// The application's id of the message. Of several such headers the first counts; an empty id is none.
    #[must_use]
    pub fn message_id(&self) -> Option<&'a [u8]> {
        let (_, id) = self.headers().find(|(name, _)| *name == MESSAGE_ID_HEADER.as_bytes())?;
        id.filter(|id| !id.is_empty())
    }
}

/// Hands over each record's place in its batch, relative to the base offset, and its id; records without one are left out. At most `max_len` bytes are decompressed.
///
/// # Errors
/// [`InvalidRecords::Unreadable`], [`InvalidRecords::Record`]; ids before the error were handed over.
pub fn message_ids(
    header: &BatchHeader,
    batch: &Bytes,
    max_len: usize,
    mut take: impl FnMut(i32, &[u8]),
) -> Result<(), InvalidRecords> {
    let set = records(header, batch, max_len).map_err(|error: RecordsError| InvalidRecords::Unreadable(error))?;
    for record in &set {
        let record = record.map_err(|error: RecordError| InvalidRecords::Record(error))?;
        if let Some(id) = record.message_id() {
            take(record.offset_delta, id);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::split;
    use crate::compress::Codec;
    use crate::records::{BatchBuilder, Stamp};

    fn ids_of(batch: &Bytes, max_len: usize) -> Result<Vec<(i32, Vec<u8>)>, InvalidRecords> {
        let raw = split(batch.clone()).next().unwrap().unwrap();
        let mut ids = Vec::new();
        message_ids(raw.header(), batch, max_len, |index, id| ids.push((index, id.to_vec())))?;
        Ok(ids)
    }

    #[test]
    fn ids_are_found_whatever_the_compression() {
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new(codec, None);
            let named = |id: &'static str| [("a", &b"1"[..]), (MESSAGE_ID_HEADER, id.as_bytes())];
            builder.append(0, None, Some(b"x"), &named("one")).unwrap();
            builder.append(0, None, Some(b"x"), &[("other", &b"two"[..])]).unwrap();
            builder.append(0, None, Some(b"x"), &named("")).unwrap();
            builder.append(0, None, Some(b"x"), &[named("three"), named("four")].concat()).unwrap();
            let batch = builder.build(Stamp::NONE).unwrap();
            assert_eq!(ids_of(&batch, 1 << 20).unwrap(), [(0, b"one".to_vec()), (3, b"three".to_vec())]);
            assert!(matches!(ids_of(&batch, 16), Err(InvalidRecords::Unreadable(_))), "{codec:?}");
        }
    }
}
