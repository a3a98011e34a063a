//! The little of the Kafka protocol that the null node and the lone-append client need, written by hand so that they
//! cost next to nothing and share no code with what they measure. Non-flexible versions only, but for ApiVersions.

/// Reads big-endian fields of a request; an end that comes too early is `None`.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A 16-bit integer.
    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    /// A 32-bit integer.
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// A 64-bit integer.
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A string; a null one is empty.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let n = self.i16()?;
        self.take(usize::try_from(n).unwrap_or(0))
    }

    /// A byte field; a null one is empty.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.i32()?;
        self.take(usize::try_from(n).unwrap_or(0))
    }

    /// The length of an array; a null one is empty.
    pub fn count(&mut self) -> Option<usize> {
        self.i32().map(|n| usize::try_from(n).unwrap_or(0))
    }
}

/// Appends big-endian fields.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// An 8-bit integer.
    pub fn i8(&mut self, v: i8) {
        self.0.extend(v.to_be_bytes());
    }

    /// A 16-bit integer.
    pub fn i16(&mut self, v: i16) {
        self.0.extend(v.to_be_bytes());
    }

    /// A 32-bit integer.
    pub fn i32(&mut self, v: i32) {
        self.0.extend(v.to_be_bytes());
    }

    /// A 64-bit integer.
    pub fn i64(&mut self, v: i64) {
        self.0.extend(v.to_be_bytes());
    }

    /// A string; longer than the protocol allows is cut.
    pub fn string(&mut self, v: &[u8]) {
        let n = v.len().min(i16::MAX as usize);
        self.i16(i16::try_from(n).unwrap_or(i16::MAX));
        self.0.extend_from_slice(&v[..n]);
    }

    /// A length in the protocol's 32 bits.
    pub fn len(&mut self, n: usize) {
        self.i32(i32::try_from(n).unwrap_or(i32::MAX));
    }

    /// A byte field.
    pub fn bytes(&mut self, v: &[u8]) {
        self.len(v.len());
        self.0.extend_from_slice(v);
    }

    /// Overwrites the length prefix at `at` with the number of bytes after it.
    pub fn close_frame(&mut self, at: usize) {
        self.close_frame_before(at, 0);
    }

    /// The same where `more` bytes of the frame are sent from elsewhere.
    pub fn close_frame_before(&mut self, at: usize, more: usize) {
        let n = i32::try_from(self.0.len() - at - 4 + more).unwrap_or(i32::MAX);
        self.0[at..at + 4].copy_from_slice(&n.to_be_bytes());
    }
}

/// A request to which its body is still to be added, and then [`Writer::close_frame`] at 0.
pub fn request(key: i16, version: i16, correlation: i32) -> Writer {
    let mut w = Writer::default();
    w.i32(0); // length
    w.i16(key);
    w.i16(version);
    w.i32(correlation);
    w.string(b"wherry-bench");
    w
}

fn varint(out: &mut Vec<u8>, v: i64) {
    let mut v = ((v << 1) ^ (v >> 63)).cast_unsigned();
    while v >= 0x80 {
        out.push(u8::try_from(v & 0x7f).unwrap_or(0) | 0x80);
        v >>= 7;
    }
    out.push(u8::try_from(v).unwrap_or(0));
}

/// Where a batch keeps its last offset delta (int32).
pub const LAST_OFFSET_DELTA_AT: usize = 23;
/// The shortest batch there is.
pub const BATCH_HEADER_BYTES: usize = 61;

/// An uncompressed, non-idempotent record batch (v2) of `count` records with values of `size` bytes.
pub fn batch(count: usize, size: usize, timestamp_ms: i64) -> Vec<u8> {
    let value: Vec<u8> = (0..size).map(|i| b'A' + u8::try_from((i * 7 + i / 26) % 26).unwrap_or(0)).collect();
    let mut records = Vec::new();
    for i in 0..count {
        let mut record = vec![0]; // attributes
        varint(&mut record, 0); // timestamp delta
        varint(&mut record, i64::try_from(i).unwrap_or(0)); // offset delta
        varint(&mut record, -1); // no key
        varint(&mut record, i64::try_from(size).unwrap_or(0));
        record.extend_from_slice(&value);
        varint(&mut record, 0); // no headers
        varint(&mut records, i64::try_from(record.len()).unwrap_or(0));
        records.extend(record);
    }
    let mut tail = Writer::default(); // what the CRC covers
    tail.i16(0); // attributes: no compression
    tail.i32(i32::try_from(count).unwrap_or(1) - 1);
    tail.i64(timestamp_ms);
    tail.i64(timestamp_ms);
    tail.i64(-1); // producer id
    tail.i16(-1); // producer epoch
    tail.i32(-1); // base sequence
    tail.len(count);
    tail.0.extend(records);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &tail.0);
    let mut batch = Writer::default();
    batch.i64(0); // base offset
    batch.len(tail.0.len() + 9);
    batch.i32(-1); // leader epoch
    batch.i8(2); // magic
    batch.0.extend(u32::try_from(crc).unwrap_or(0).to_be_bytes());
    batch.0.extend(tail.0);
    batch.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_laid_out_as_the_protocol_says() {
        let b = batch(3, 10, 7);
        let mut r = Reader(&b);
        assert_eq!((r.i64(), r.i32()), (Some(0), i32::try_from(b.len() - 12).ok()));
        assert_eq!(i32::from_be_bytes(b[LAST_OFFSET_DELTA_AT..LAST_OFFSET_DELTA_AT + 4].try_into().unwrap()), 2);
        assert_eq!(b.len(), BATCH_HEADER_BYTES + 3 * (1 + 6 + 10));
    }

    #[test]
    fn a_request_that_ends_early_is_none() {
        assert_eq!(Reader(&[0, 5, b'a']).string(), None);
        assert_eq!(Reader(&[0, 0, 0]).i32(), None);
    }
}
