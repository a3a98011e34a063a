//! The compact forms of Kafka's flexible messages (KIP-482), as far as records need them. It must not know any record.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::groups::record::ReplayError;

pub(super) fn put_uvarint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.put_u8(value as u8);
}

fn put_length(out: &mut BytesMut, length: usize) {
    put_uvarint(out, u32::try_from(length).unwrap_or(u32::MAX - 1) + 1);
}

pub(super) fn put_compact(out: &mut BytesMut, text: &str) {
    put_length(out, text.len());
    out.put_slice(text.as_bytes());
}

pub(super) fn put_compact_option(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_compact(out, text),
        None => put_uvarint(out, 0),
    }
}

pub(super) fn put_array<T>(
    out: &mut BytesMut,
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    put: impl Fn(&mut BytesMut, T),
) {
    let items = items.into_iter();
    put_length(out, items.len());
    items.for_each(|item| put(out, item));
}

pub(super) fn put_tag(out: &mut BytesMut, tag: u32, put: impl FnOnce(&mut BytesMut)) {
    let mut field = BytesMut::new();
    put(&mut field);
    put_uvarint(out, tag);
    put_uvarint(out, u32::try_from(field.len()).unwrap_or(u32::MAX));
    out.put_slice(&field);
}

/// Whether something follows the tagged fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tags {
    Inner,
    /// Nothing may.
    Last,
}

/// What is left to read.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ReplayError> {
        let Some((head, rest)) = self.0.split_at_checked(len) else {
            return Err(ReplayError::Malformed { what: "it ends early" });
        };
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ReplayError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ReplayError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, ReplayError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, ReplayError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, ReplayError> {
        self.array().map(i64::from_be_bytes)
    }

    fn uvarint(&mut self) -> Result<u32, ReplayError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| ReplayError::Malformed { what: "a number is too large" });
            }
        }
        Err(ReplayError::Malformed { what: "a number has no end" })
    }

    /// A length, one less than what is written; `None` for null.
    fn length(&mut self) -> Result<Option<usize>, ReplayError> {
        Ok(self.uvarint()?.checked_sub(1).and_then(|length| usize::try_from(length).ok()))
    }

    /// The number of items of an array. It is not trusted with an allocation: each item must be there.
    pub(super) fn count(&mut self) -> Result<usize, ReplayError> {
        self.length()?.ok_or(ReplayError::Malformed { what: "an array is missing" })
    }

    pub(super) fn numbers(&mut self) -> Result<Vec<i32>, ReplayError> {
        let mut numbers = Vec::new();
        for _ in 0..self.count()? {
            numbers.push(self.i32()?);
        }
        Ok(numbers)
    }

    pub(super) fn compact_option(&mut self) -> Result<Option<Arc<str>>, ReplayError> {
        self.length()?.map(|length| self.text(length)).transpose()
    }

    pub(super) fn compact(&mut self) -> Result<Arc<str>, ReplayError> {
        self.compact_option()?.ok_or(ReplayError::Malformed { what: "a string is missing" })
    }

    /// A string with a length of two bytes, as keys have it.
    pub(super) fn string(&mut self) -> Result<Arc<str>, ReplayError> {
        match usize::try_from(self.i16()?) {
            Ok(length) => self.text(length),
            Err(_) => Err(ReplayError::Malformed { what: "a string is missing" }),
        }
    }

    fn text(&mut self, length: usize) -> Result<Arc<str>, ReplayError> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(text.into()),
            Err(_) => Err(ReplayError::Malformed { what: "a string is not UTF-8" }),
        }
    }

    /// Hands over each tagged field; what is not read of it is skipped.
    pub(super) fn tags(
        &mut self,
        place: Tags,
        mut take: impl FnMut(u32, &mut Reader<'_>) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = usize::try_from(self.uvarint()?).unwrap_or(usize::MAX);
            take(tag, &mut Reader(self.take(length)?))?;
        }
        match place {
            Tags::Inner => Ok(()),
            Tags::Last => self.end(),
        }
    }

    pub(super) fn end(&self) -> Result<(), ReplayError> {
        if self.0.is_empty() { Ok(()) } else { Err(ReplayError::Malformed { what: "bytes follow its end" }) }
    }
}
