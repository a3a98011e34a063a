//! Produce: batches are checked, appended at once, and acknowledged when they are durable (INV-1): here with acks=1, on
//! every in-sync replica with acks=all. acks=0 has no response; an error closes the connection, since there is no other
//! way to tell.
//!
//! The first batch of a transaction in a partition waits until its coordinator has said that it belongs there
//! ([`crate::core::verification`]).
//!
//! Where no other node has a share, the response is encoded as soon as the offsets are known, and only its sending waits
//! for the disk.

mod ids;
mod transaction;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use wherry_metadata::acl::Operation;
use wherry_metadata::quota::QuotaKey;
use wherry_metadata::{TimestampType, Topic, TopicConfig};
use wherry_wire::batch::{self, BatchHeader, CheckedBatch, RawBatch, split};
use wherry_wire::records::{InvalidRecords, ValidateOptions, validate_records};
use wherry_wire::types::{LogId, Offset};

use super::errors::ApiError;
use super::{Ctx, Outcome, leaders, topics};
use crate::core::refusals::Sequenced;
use crate::core::store::{Appended, LogError, LogStore, Ticket};
use crate::core::verification::Verified;
use crate::core::{Awaited, Blocked, Core, Then};
use crate::limits::{MAX_INSPECTED_BATCH_BYTES, MAX_PARTITIONS_PER_REQUEST};
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::dedupe::{self, Duplicate};
use wherry_wire::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use wherry_wire::codec::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use wherry_wire::codec::messages::{ProduceRequest, ProduceResponse};

/// First version whose clients know zstd.
const ZSTD_FROM: i16 = 7;
/// First version that names topics by id.
const TOPIC_IDS_FROM: i16 = 13;
const ZSTD: u8 = 4;
/// Attribute bit: the timestamps are those of the append.
const LOG_APPEND_TIME: i16 = 0x08;
const NO_TIMESTAMP: i64 = -1;

/// A produce request that is being carried out: where it stands when the disk holds it up.
#[derive(Debug)]
pub(crate) struct ProduceOp {
    pub(crate) ctx: Ctx,
    acks: i16,
    /// It names a transactional id.
    is_transactional: bool,
    /// Its producer wants to hear which of its message ids are known.
    asks_for_duplicates: bool,
    /// What the coordinator of its transaction said.
    pub(crate) verified: Verified,
    topics: std::vec::IntoIter<TopicProduceData>,
    current: Option<(TopicProduceResponse, std::vec::IntoIter<PartitionProduceData>)>,
    retry: Option<PartitionProduceData>,
    response: ProduceResponse,
    ticket: Option<Ticket>,
    /// Records that have to be committed before the answer: those of partitions that other nodes have, too.
    awaited: SmallVec<[Awaited; 2]>,
    timeout_ms: i32,
    failed: Option<ApiError>,
}

impl ProduceOp {
    /// The answer waits for these records. What nobody else has is committed when it is durable.
    fn note(&mut self, placed: &Placed, partition: usize) {
        if self.acks == -1 && placed.replicated {
            let end = Offset(placed.appended.last_offset.0.saturating_add(1));
            let topic = self.response.responses.len();
            self.awaited.push(Awaited { log: placed.log, end, batch: placed.batch, topic, partition });
        } else {
            self.ticket = self.ticket.max(Some(placed.appended.ticket));
        }
    }
}

/// Begins a produce request.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: ProduceRequest) -> Outcome {
    let partitions: usize = request.topic_data.iter().map(|t| t.partition_data.len()).sum();
    if partitions > MAX_PARTITIONS_PER_REQUEST {
        return Outcome::Close(format!("{partitions} partitions in one request"));
    }
    let refusal = if !(-1..=1).contains(&request.acks) {
        Some(ApiError::new(ResponseError::InvalidRequiredAcks, "acks must be -1, 0 or 1"))
    } else {
        let id = request.transactional_id.as_ref();
        id.filter(|id| !core.allows_transactional_id(ctx, Operation::Write, id))
            .map(|_| ResponseError::TransactionalIdAuthorizationFailed.into())
    };
    let bytes: usize = request.topic_data.iter().flat_map(|topic| &topic.partition_data).map(record_bytes).sum();
    let throttle_ms = core.charge(ctx, QuotaKey::ProducerByteRate, bytes);
    let claims = if refusal.is_some() { Ok(Vec::new()) } else { transaction::claims(core, ctx, &request) };
    let transactional_id = request.transactional_id.as_ref().map(|id| id.to_string());
    let op = ProduceOp {
        ctx: ctx.clone(),
        acks: request.acks,
        is_transactional: transactional_id.is_some(),
        asks_for_duplicates: request.acks != 0 && dedupe::is_asked(&request.unknown_tagged_fields),
        verified: Verified::default(),
        topics: request.topic_data.into_iter(),
        current: None,
        retry: None,
        response: ProduceResponse::default().with_throttle_time_ms(throttle_ms),
        ticket: None,
        awaited: SmallVec::new(),
        timeout_ms: request.timeout_ms,
        failed: None,
    };
    match (refusal, claims, transactional_id) {
        (Some(error), ..) | (None, Err(error), _) => refuse(core, op, &error),
        (None, Ok(claims), Some(id)) if !claims.is_empty() => {
            core.verify_first(op, id, &claims, ctx.version >= transaction::ADDS_FROM);
            Outcome::Later
        }
        (None, Ok(_), _) => run(core, op),
    }
}

fn record_bytes(partition: &PartitionProduceData) -> usize {
    partition.records.as_ref().map_or(0, Bytes::len)
}

fn refuse<S: LogStore>(core: &mut Core<S>, mut op: ProduceOp, error: &ApiError) -> Outcome {
    for topic in op.topics.by_ref() {
        let mut result = TopicProduceResponse::default().with_name(topic.name).with_topic_id(topic.topic_id);
        for data in topic.partition_data {
            if let Ok(Ok(log)) = find(core, &op.ctx, &result).map(|found| topics::log(found, data.index)) {
                note_refusal(core, &op.ctx, log, &data, error.error);
            }
            result.partition_responses.push(failed(core, data.index, error));
        }
        op.response.responses.push(result);
    }
    op.failed = Some(error.clone());
    answer(core, op)
}

/// Carries a produce request out, as far as the disk lets it.
pub(crate) fn run<S: LogStore>(core: &mut Core<S>, mut op: ProduceOp) -> Outcome {
    loop {
        let Some((mut result, mut partitions)) = op.current.take() else {
            let Some(topic) = op.topics.next() else { return answer(core, op) };
            let result = TopicProduceResponse::default().with_name(topic.name).with_topic_id(topic.topic_id);
            op.current = Some((result, topic.partition_data.into_iter()));
            continue;
        };
        while let Some(data) = op.retry.take().or_else(|| partitions.next()) {
            match append(core, &op, &result, &data) {
                Ok(placed) => {
                    op.note(&placed, result.partition_responses.len());
                    result.partition_responses.push(done(data.index, &placed.appended, placed.log_append_time));
                }
                Err(Failure::Busy) => {
                    op.retry = Some(data);
                    op.current = Some((result, partitions));
                    return stall(core, op);
                }
                Err(Failure::Refused(error)) => {
                    result.partition_responses.push(failed(core, data.index, &error));
                    op.failed = Some(error);
                }
                Err(Failure::Duplicates(duplicates)) => {
                    result.partition_responses.push(known_already(core, data.index, &duplicates));
                }
            }
        }
        op.response.responses.push(result);
    }
}

/// The disk can't keep up: the connection waits, in order, until it can.
fn stall<S: LogStore>(core: &mut Core<S>, op: ProduceOp) -> Outcome {
    core.stats.produce_stalls.add(1);
    if let Some(connection) = core.connection(op.ctx.id.conn) {
        connection.blocked = Blocked::Stalled;
        core.stalled.push_back(Box::new(op));
    }
    Outcome::Later
}

fn answer<S: LogStore>(core: &mut Core<S>, op: ProduceOp) -> Outcome {
    if op.acks == 0 {
        return match op.failed {
            Some(error) => Outcome::Close(format!("a produce with acks=0 failed: {}", error.message)),
            None => Outcome::Silent,
        };
    }
    if !op.awaited.is_empty() {
        // The request's own disk writes come before its high watermarks; what is not replicated has to wait for them, too.
        let ProduceOp { ctx, response, awaited, timeout_ms, ticket, .. } = op;
        core.await_acks(ctx, response, awaited.into_iter(), ticket, timeout_ms);
        return Outcome::Later;
    }
    let mut op = op;
    if op.failed.is_some() {
        leaders::hint_produce(core, &op.ctx, &mut op.response);
    }
    let chunks = match op.ctx.encode(&op.response) {
        Ok(chunks) => chunks,
        Err(reason) => return Outcome::Close(reason),
    };
    let Some(ticket) = op.ticket.filter(|ticket| !core.durable.is_durable(*ticket)) else {
        return Outcome::Reply(chunks);
    };
    let appended_ns = Some(core.now.monotonic_ns);
    core.durable.push(ticket, Then::Respond { request: op.ctx.id, chunks, appended_ns });
    Outcome::Later
}

fn done(index: i32, appended: &Appended, log_append_time: Option<i64>) -> PartitionProduceResponse {
    let mut response = PartitionProduceResponse::default().with_index(index);
    response.base_offset = appended.base_offset.0;
    response.log_append_time_ms = log_append_time.unwrap_or(NO_TIMESTAMP);
    response.log_start_offset = appended.log_start.0;
    response
}

fn failed<S: LogStore>(core: &Core<S>, index: i32, error: &ApiError) -> PartitionProduceResponse {
    core.stats.errors.add(1);
    let mut response = PartitionProduceResponse::default().with_index(index);
    response.error_code = error.code();
    response.error_message = error.text();
    response.base_offset = -1;
    response.log_append_time_ms = NO_TIMESTAMP;
    response.log_start_offset = -1;
    if error.error == ResponseError::InvalidRecord {
        response.record_errors =
            vec![BatchIndexAndErrorMessage::default().with_batch_index(0).with_batch_index_error_message(error.text())];
    }
    response
}

/// Some of the records are there already, and nothing of the batch was appended.
fn known_already<S: LogStore>(core: &Core<S>, index: i32, duplicates: &[Duplicate]) -> PartitionProduceResponse {
    let text = format!("{} records have message ids that are known; the others were not appended", duplicates.len());
    let mut response = failed(core, index, &invalid(&text));
    dedupe::write_duplicates(duplicates, &mut response.unknown_tagged_fields);
    response
}

struct Placed {
    appended: Appended,
    log_append_time: Option<i64>,
    log: LogId,
    /// Which it is to its producer.
    batch: Option<Sequenced>,
    /// Other nodes have the partition, too.
    replicated: bool,
}

enum Failure {
    /// Try this partition again when there is room.
    Busy,
    Refused(ApiError),
    /// Records with these message ids are there already.
    Duplicates(Vec<Duplicate>),
}

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// The topic, if the caller may write to it.
fn find<'a, S: LogStore>(
    core: &'a Core<S>,
    ctx: &Ctx,
    topic: &TopicProduceResponse,
) -> Result<&'a Arc<Topic>, ApiError> {
    if ctx.version >= TOPIC_IDS_FROM {
        core.topic_for_id(ctx, Operation::Write, topic.topic_id)
    } else {
        core.topic_for(ctx, Operation::Write, &topic.name)
    }
}

/// Appends the batches of one partition, unless one before them was refused on this connection and has not come again.
fn append<S: LogStore>(
    core: &mut Core<S>,
    op: &ProduceOp,
    topic: &TopicProduceResponse,
    data: &PartitionProduceData,
) -> Result<Placed, Failure> {
    let ctx = &op.ctx;
    let log = topics::log(find(core, ctx, topic)?, data.index)?;
    let earlier = refused_before(core, ctx, log, data);
    if let Some((error, producer_id)) = earlier
        && !core.store.knows_producer(log, producer_id)
    {
        // To the log this would be the producer's beginning, whatever its sequence.
        return Err(error.into());
    }
    match place(core, op, topic, data, log) {
        Err(Failure::Refused(error)) => {
            let error = match earlier {
                Some((earlier, _)) if error.error == ResponseError::OutOfOrderSequenceNumber => earlier.into(),
                Some(_) | None => error,
            };
            note_refusal(core, ctx, log, data, error.error);
            Err(Failure::Refused(error))
        }
        Err(Failure::Duplicates(duplicates)) => {
            // What follows must wait until the others come again.
            note_refusal(core, ctx, log, data, ResponseError::NotEnoughReplicas);
            Err(Failure::Duplicates(duplicates))
        }
        outcome @ (Ok(_) | Err(Failure::Busy)) => outcome,
    }
}

fn sequenced(data: &PartitionProduceData) -> Option<Sequenced> {
    let header = BatchHeader::read(data.records.as_ref()?, 0).ok()?;
    Sequenced::of(&header)
}

fn refused_before<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    log: LogId,
    data: &PartitionProduceData,
) -> Option<(ResponseError, i64)> {
    let now_ns = core.now.monotonic_ns;
    let refusals = &mut core.connection(ctx.id.conn)?.refusals;
    if refusals.is_empty() {
        return None;
    }
    let batch = sequenced(data)?;
    refusals.before(now_ns, log, batch).map(|error| (error, batch.producer_id))
}

fn note_refusal<S: LogStore>(
    core: &mut Core<S>,
    ctx: &Ctx,
    log: LogId,
    data: &PartitionProduceData,
    error: ResponseError,
) {
    if let Some(batch) = sequenced(data) {
        core.note_refusal(ctx.id.conn, log, batch, error);
    }
}

fn place<S: LogStore>(
    core: &mut Core<S>,
    op: &ProduceOp,
    topic: &TopicProduceResponse,
    data: &PartitionProduceData,
    log: LogId,
) -> Result<Placed, Failure> {
    let found = find(core, &op.ctx, topic)?.clone();
    topics::check_not_internal(&found, "producing to")?;
    let epoch = core.leads(log)?;
    if op.acks == -1 {
        check_in_sync(&found, data.index)?;
    }
    let rules = Rules { topic: &found, version: op.ctx.version, now_ms: core.now.wall_ms };
    let batches = rules.check(data.records.clone().unwrap_or_default())?;
    let log_append_time = rules.log_append_time();
    let replicated = found.partition(data.index).is_some_and(|partition| partition.replicas.len() > 1);
    transaction::check(core, op, log, epoch, &batches)?;
    let ids = ids::check(core, op, &found, log, epoch, &batches)?;
    let appended = store(core, log, &batches, epoch)?;
    if let Some(ids) = ids.filter(|_| !appended.duplicate) {
        ids.remember(core, log, &batches, &appended);
    }
    let batch = batches.first().and_then(|batch| Sequenced::of(batch.header()));
    Ok(Placed { appended, log_append_time, log, batch, replicated })
}

/// As many replicas are in sync as the topic requires, or all that there are.
fn check_in_sync(topic: &Topic, partition: i32) -> Result<(), ApiError> {
    let Some(partition) = topic.partition(partition) else { return Ok(()) };
    let (in_sync, required) = (partition.isr.len(), partition.effective_min(topic.min_insync()));
    if in_sync >= required {
        return Ok(());
    }
    let text = format!("{required} in-sync replicas are required; there are {in_sync} now");
    Err(ApiError::new(ResponseError::NotEnoughReplicas, text))
}

fn store<S: LogStore>(
    core: &mut Core<S>,
    log: LogId,
    batches: &[CheckedBatch],
    epoch: wherry_wire::types::LeaderEpoch,
) -> Result<Appended, Failure> {
    let appended = core.store.append(log, batches, epoch, core.now.wall_ms).map_err(|error| match error {
        LogError::Busy { .. } => Failure::Busy,
        error => Failure::Refused(ApiError::from(&error)),
    })?;
    if appended.duplicate {
        core.stats.duplicates.add(1);
    } else {
        for one in batches {
            core.stats.batches_appended.add(1);
            core.stats.records_appended.add(u64::try_from(one.header().record_count).unwrap_or(0));
            core.stats.bytes_appended.add(one.len() as u64);
        }
    }
    Ok(appended)
}

/// What a topic asks of batches.
struct Rules<'a> {
    topic: &'a Topic,
    version: i16,
    now_ms: i64,
}

impl Rules<'_> {
    fn config(&self) -> &TopicConfig {
        &self.topic.config
    }

    fn log_append_time(&self) -> Option<i64> {
        (self.config().timestamp_type == TimestampType::LogAppendTime).then_some(self.now_ms)
    }

    /// The batches of one partition, fit to be appended.
    fn check(&self, records: Bytes) -> Result<Vec<CheckedBatch>, ApiError> {
        let mut batches = Vec::with_capacity(1);
        for raw in split(records) {
            let raw = raw.map_err(|error| ApiError::from(&error))?;
            self.check_header(raw.header())?;
            let checked = raw.check().map_err(|error| ApiError::from(&error))?;
            self.check_keys(&checked)?;
            batches.push(self.stamped(checked)?);
        }
        match batches.as_slice() {
            [] => Err(invalid("there is no record batch for this partition")),
            [_] => Ok(batches),
            several if several.iter().any(|b| b.header().producer().is_some()) => {
                Err(invalid("an idempotent producer sends one batch per partition and request"))
            }
            _ => Ok(batches),
        }
    }

    fn check_header(&self, header: &BatchHeader) -> Result<(), ApiError> {
        let limit = self.config().max_message_bytes;
        if header.len > limit {
            let text = format!(
                "a batch of {} bytes, where max.message.bytes of topic '{}' is {limit}",
                header.len, self.topic.name
            );
            return Err(ApiError::new(ResponseError::MessageTooLarge, text));
        }
        if header.record_count < 1 || header.last_offset_delta != header.record_count - 1 {
            return Err(invalid("the record count of the batch does not fit its last offset"));
        }
        if header.is_control() {
            return Err(invalid("clients don't send control batches"));
        }
        if header.is_transactional() && header.producer().is_none() {
            return Err(invalid("a batch of a transaction needs a producer id"));
        }
        self.check_producer(header)?;
        self.check_compression(header)?;
        self.check_timestamps(header)
    }

    fn check_producer(&self, header: &BatchHeader) -> Result<(), ApiError> {
        if header.producer().is_some() && (header.producer_epoch < 0 || header.base_sequence < 0) {
            return Err(invalid("a batch with a producer id needs an epoch and a sequence"));
        }
        Ok(())
    }

    fn check_compression(&self, header: &BatchHeader) -> Result<(), ApiError> {
        let unsupported = |text| Err(ApiError::new(ResponseError::UnsupportedCompressionType, text));
        match header.compression() {
            ZSTD if self.version < ZSTD_FROM => unsupported("zstd needs Produce version 7 or newer"),
            0..=ZSTD => Ok(()),
            _ => unsupported("unknown compression"),
        }
    }

    fn check_timestamps(&self, header: &BatchHeader) -> Result<(), ApiError> {
        if self.log_append_time().is_some() {
            return Ok(());
        }
        let wrong = |text: String| Err(ApiError::new(ResponseError::InvalidTimestamp, text));
        if header.attributes & LOG_APPEND_TIME != 0 {
            return wrong("the batch says that its timestamps are of its append".into());
        }
        for timestamp in [header.base_timestamp, header.max_timestamp] {
            if timestamp == NO_TIMESTAMP {
                continue;
            }
            let oldest = self.now_ms.saturating_sub(self.config().timestamp_before_max_ms);
            let newest = self.now_ms.saturating_add(self.config().timestamp_after_max_ms);
            if timestamp < oldest || timestamp > newest {
                return wrong(format!(
                    "timestamp {timestamp} is outside {oldest} to {newest}, the range that topic '{}' allows now",
                    self.topic.name
                ));
            }
        }
        Ok(())
    }

    /// A compacted topic keeps the last record of each key: one without a key could never go.
    fn check_keys(&self, checked: &CheckedBatch) -> Result<(), ApiError> {
        if !self.config().is_compacted() {
            return Ok(());
        }
        let options = ValidateOptions { require_keys: true, max_len: MAX_INSPECTED_BATCH_BYTES };
        match validate_records(checked.header(), checked.bytes(), options) {
            Ok(_) => Ok(()),
            Err(error @ (InvalidRecords::Keyless { .. } | InvalidRecords::Disagrees { .. })) => {
                Err(ApiError::new(ResponseError::InvalidRecord, error.to_string()))
            }
            Err(error @ (InvalidRecords::Unreadable(_) | InvalidRecords::Record(_))) => {
                Err(ApiError::new(ResponseError::CorruptMessage, error.to_string()))
            }
        }
    }

    /// With LogAppendTime the batch gets the node's time: attributes and largest timestamp are under the CRC, so it is
    /// computed again (one of the exceptions of INV-3).
    fn stamped(&self, checked: CheckedBatch) -> Result<CheckedBatch, ApiError> {
        let Some(now_ms) = self.log_append_time() else { return Ok(checked) };
        let mut bytes = BytesMut::from(checked.bytes().as_ref());
        let attributes = checked.header().attributes | LOG_APPEND_TIME;
        patch(&mut bytes, 21, &attributes.to_be_bytes());
        patch(&mut bytes, 35, &now_ms.to_be_bytes());
        let crc = batch::crc32c(bytes.get(batch::CRC_START..).unwrap_or_default());
        patch(&mut bytes, 17, &crc.to_be_bytes());
        let stamped = split(bytes.freeze()).next().ok_or_else(|| invalid("an empty batch"))?;
        stamped.and_then(RawBatch::check).map_err(|error| ApiError::from(&error))
    }
}

fn patch(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(at..at + value.len()) {
        target.copy_from_slice(value);
    }
}

fn invalid(text: &str) -> ApiError {
    ApiError::new(ResponseError::InvalidRecord, text)
}
