//! Fetch responses, written around the records rather than over them: the stored chunks go out as they are, reference
//! counted, between small pieces of header (INV-3).
//!
//! ```text
//! new -> { topic -> { partition }* }* -> finish
//! ```
//! Topics and partitions are announced with their number and counted; a response that does not keep to it is refused.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::error::EncodeError;
use super::messages::{ApiKey, FetchResponse};
use super::response::put_header;
use crate::frame::{self, PREFIX};
use crate::limits::MAX_FRAME_BYTES;
use kafka_protocol::protocol::HeaderVersion;

/// Versions with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;
/// Versions that know topics by id.
const TOPIC_IDS: i16 = 13;

/// What stands before the topics.
#[derive(Debug, Clone, Copy)]
pub struct FetchResponseHead {
    /// The version of the request, 4 to 18.
    pub version: i16,
    /// Of the request.
    pub correlation_id: i32,
    /// Milliseconds.
    pub throttle_time_ms: i32,
    /// For the whole response, from version 7 on.
    pub error_code: i16,
    /// 0 outside a session, from version 7 on.
    pub session_id: i32,
    /// How many times [`FetchResponseWriter::topic`] will be called.
    pub topics: usize,
}

/// An aborted transaction that a consumer skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: i64,
    /// Where it began.
    pub first_offset: i64,
}

/// Who leads a partition, for a client that asked the wrong node (KIP-951), from version 12 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderHint {
    /// Node id.
    pub leader_id: i32,
    /// Its epoch.
    pub leader_epoch: i32,
}

/// A node that a [`LeaderHint`] names, from version 16 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoint<'a> {
    /// Node id.
    pub node_id: i32,
    /// Name or address.
    pub host: &'a str,
    /// TCP port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<&'a str>,
}

/// What stands before a partition's records. What a version does not have is left out.
#[derive(Debug, Clone, Copy)]
pub struct FetchPartition<'a> {
    /// Index of the partition.
    pub partition: i32,
    /// 0 is none.
    pub error_code: i16,
    /// -1 with an error.
    pub high_watermark: i64,
    /// -1 with an error.
    pub last_stable_offset: i64,
    /// From version 5 on.
    pub log_start_offset: i64,
    /// Null for readers of uncommitted records.
    pub aborted: Option<&'a [AbortedTransaction]>,
    /// From version 11 on; -1 is none.
    pub preferred_read_replica: i32,
    /// From version 12 on: largest epoch and its end offset where the reader's log diverges (KIP-595).
    pub diverging: Option<(i32, i64)>,
    /// From version 12 on.
    pub leader: Option<LeaderHint>,
}

impl FetchPartition<'_> {
    /// A partition that can't be read.
    #[must_use]
    pub fn error(partition: i32, error_code: i16) -> Self {
        Self { error_code, ..Self::new(partition, -1, -1, -1) }
    }

    /// A partition without an error.
    #[must_use]
    pub fn new(partition: i32, high_watermark: i64, last_stable_offset: i64, log_start_offset: i64) -> Self {
        Self {
            partition,
            error_code: 0,
            high_watermark,
            last_stable_offset,
            log_start_offset,
            aborted: None,
            preferred_read_replica: -1,
            diverging: None,
            leader: None,
        }
    }
}

/// Writes a Fetch response as chunks.
#[derive(Debug)]
pub struct FetchResponseWriter {
    version: i16,
    /// All that is not records.
    head: BytesMut,
    /// Records, and how many bytes of `head` stand before them.
    records: Vec<(usize, Bytes)>,
    record_bytes: usize,
    topics: Announced,
    partitions: Announced,
}

#[derive(Debug, Clone, Copy)]
struct Announced {
    announced: usize,
    written: usize,
}

impl Announced {
    fn new(announced: usize) -> Self {
        Self { announced, written: 0 }
    }

    fn check(self, what: &'static str) -> Result<(), EncodeError> {
        if self.announced == self.written {
            return Ok(());
        }
        Err(EncodeError::Count { what, announced: self.announced, written: self.written })
    }
}

fn too_large(len: usize) -> EncodeError {
    EncodeError::TooLarge { len, limit: MAX_FRAME_BYTES }
}

impl FetchResponseWriter {
    /// Begins a response.
    ///
    /// # Errors
    /// [`EncodeError::Refused`]: a version outside 4 to 18.
    pub fn new(head: &FetchResponseHead) -> Result<Self, EncodeError> {
        let version = head.version;
        if !(4..=18).contains(&version) {
            return Err(EncodeError::refused(ApiKey::Fetch as i16, version, &"unknown version"));
        }
        let mut out = BytesMut::with_capacity(64 + head.topics.min(1024) * 128);
        out.put_bytes(0, PREFIX);
        put_header(&mut out, FetchResponse::header_version(version), head.correlation_id);
        out.put_i32(head.throttle_time_ms);
        if version >= 7 {
            out.put_i16(head.error_code);
            out.put_i32(head.session_id);
        }
        let mut writer = Self {
            version,
            head: out,
            records: Vec::new(),
            record_bytes: 0,
            topics: Announced::new(head.topics),
            partitions: Announced::new(0),
        };
        writer.put_count(head.topics)?;
        Ok(writer)
    }

    fn is_flexible(&self) -> bool {
        self.version >= FLEXIBLE
    }

    /// A count, or a length of bytes.
    fn put_count(&mut self, count: usize) -> Result<(), EncodeError> {
        let count = i32::try_from(count).ok().filter(|count| *count < i32::MAX).ok_or_else(|| too_large(count))?;
        if self.is_flexible() {
            put_uvarint(&mut self.head, count.cast_unsigned() + 1);
        } else {
            self.head.put_i32(count);
        }
        Ok(())
    }

    fn put_string(&mut self, text: &str) -> Result<(), EncodeError> {
        if self.is_flexible() {
            self.put_count(text.len())?;
        } else {
            self.head.put_i16(i16::try_from(text.len()).map_err(|_| too_large(text.len()))?);
        }
        self.head.put_slice(text.as_bytes());
        Ok(())
    }

    fn end_topic(&mut self) -> Result<(), EncodeError> {
        self.partitions.check("partitions")?;
        if self.topics.written > 0 && self.is_flexible() {
            self.head.put_u8(0);
        }
        Ok(())
    }

    /// Begins a topic; `partitions` is how many times [`FetchResponseWriter::partition`] will be called for it. Up to
    /// version 12 its name is written, from 13 on its id.
    ///
    /// # Errors
    /// [`EncodeError::Count`]: the topic before has not got what was announced.
    pub fn topic(&mut self, name: &str, id: Uuid, partitions: usize) -> Result<(), EncodeError> {
        self.end_topic()?;
        self.topics.written += 1;
        self.partitions = Announced::new(partitions);
        if self.version >= TOPIC_IDS {
            self.head.put_slice(id.as_bytes());
        } else {
            self.put_string(name)?;
        }
        self.put_count(partitions)
    }

    /// Adds a partition with its records: whole batches, in order, which are not copied.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    pub fn partition(
        &mut self,
        partition: &FetchPartition<'_>,
        records: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), EncodeError> {
        self.partitions.written += 1;
        self.put_fixed(partition)?;
        let first = self.records.len();
        self.records.extend(records.into_iter().filter(|chunk| !chunk.is_empty()).map(|chunk| (0, chunk)));
        let len: usize = self.records.get(first..).unwrap_or_default().iter().map(|(_, chunk)| chunk.len()).sum();
        self.record_bytes += len;
        if self.record_bytes > MAX_FRAME_BYTES {
            return Err(too_large(self.record_bytes));
        }
        self.put_count(len)?;
        let at = self.head.len();
        for (before, _) in self.records.get_mut(first..).unwrap_or_default() {
            *before = at;
        }
        if self.is_flexible() {
            self.put_partition_tags(partition);
        }
        Ok(())
    }

    fn put_fixed(&mut self, partition: &FetchPartition<'_>) -> Result<(), EncodeError> {
        self.head.reserve(80);
        self.head.put_i32(partition.partition);
        self.head.put_i16(partition.error_code);
        self.head.put_i64(partition.high_watermark);
        self.head.put_i64(partition.last_stable_offset);
        if self.version >= 5 {
            self.head.put_i64(partition.log_start_offset);
        }
        match partition.aborted {
            Some(aborted) => self.put_aborted(aborted)?,
            None if self.is_flexible() => self.head.put_u8(0),
            None => self.head.put_i32(-1),
        }
        if self.version >= 11 {
            self.head.put_i32(partition.preferred_read_replica);
        }
        Ok(())
    }

    fn put_aborted(&mut self, aborted: &[AbortedTransaction]) -> Result<(), EncodeError> {
        self.put_count(aborted.len())?;
        for transaction in aborted {
            self.head.put_i64(transaction.producer_id);
            self.head.put_i64(transaction.first_offset);
            if self.is_flexible() {
                self.head.put_u8(0);
            }
        }
        Ok(())
    }

    fn put_partition_tags(&mut self, partition: &FetchPartition<'_>) {
        self.head.put_u8(u8::from(partition.diverging.is_some()) + u8::from(partition.leader.is_some()));
        if let Some((epoch, end_offset)) = partition.diverging {
            self.head.put_slice(&[0, 4 + 8 + 1]);
            self.head.put_i32(epoch);
            self.head.put_i64(end_offset);
            self.head.put_u8(0);
        }
        if let Some(leader) = partition.leader {
            self.head.put_slice(&[1, 4 + 4 + 1]);
            self.head.put_i32(leader.leader_id);
            self.head.put_i32(leader.leader_epoch);
            self.head.put_u8(0);
        }
    }

    fn put_endpoints(&mut self, endpoints: &[NodeEndpoint<'_>]) -> Result<(), EncodeError> {
        if endpoints.is_empty() || self.version < 16 {
            self.head.put_u8(0);
            return Ok(());
        }
        // The length of a tagged field stands before it, so it is written apart.
        let outer = std::mem::take(&mut self.head);
        let written = self.endpoints(endpoints);
        let field = std::mem::replace(&mut self.head, outer);
        written?;
        self.head.put_slice(&[1, 0]);
        put_uvarint(&mut self.head, u32::try_from(field.len()).map_err(|_| too_large(field.len()))?);
        self.head.put_slice(&field);
        Ok(())
    }

    fn endpoints(&mut self, endpoints: &[NodeEndpoint<'_>]) -> Result<(), EncodeError> {
        self.put_count(endpoints.len())?;
        for endpoint in endpoints {
            self.head.put_i32(endpoint.node_id);
            self.put_string(endpoint.host)?;
            self.head.put_i32(endpoint.port);
            match endpoint.rack {
                Some(rack) => self.put_string(rack)?,
                None => self.head.put_u8(0),
            }
            self.head.put_u8(0);
        }
        Ok(())
    }

    /// Bytes so far, length prefix included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a response is never empty: it has a header")]
    pub fn len(&self) -> usize {
        self.head.len() + self.record_bytes
    }

    /// Ends the response; `endpoints` are the nodes that leader hints name. The chunks in order are the frame, length
    /// prefix included.
    ///
    /// # Errors
    /// [`EncodeError::Count`]: fewer or more topics or partitions than announced. [`EncodeError::TooLarge`].
    pub fn finish(mut self, endpoints: &[NodeEndpoint<'_>]) -> Result<Vec<Bytes>, EncodeError> {
        self.end_topic()?;
        self.topics.check("topics")?;
        if self.is_flexible() {
            self.put_endpoints(endpoints)?;
        }
        let len = self.len() - PREFIX;
        frame::put_length(&mut self.head, len)?;
        Ok(weave(self.head.freeze(), self.records))
    }
}

/// Cuts `head` where records belong.
fn weave(mut head: Bytes, records: Vec<(usize, Bytes)>) -> Vec<Bytes> {
    let mut chunks = Vec::with_capacity(records.len() * 2 + 1);
    let mut cut = 0;
    for (at, chunk) in records {
        if at > cut {
            chunks.push(head.split_to(at - cut));
            cut = at;
        }
        chunks.push(chunk);
    }
    if !head.is_empty() {
        chunks.push(head);
    }
    chunks
}

fn put_uvarint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}
