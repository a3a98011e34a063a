//! AddPartitionsToTxn. To version 3 a client adds to its one transaction; from 4 on those that lead partitions add, or only ask
//! (KIP-890), for many transactions at once.

use super::{by_topic, older_fencing, shared, wire};
use crate::api::{Ctx, Outcome};
use crate::core::Core;
use crate::core::store::LogStore;
use crate::core::transactions::Waiter;
use crate::limits::{MAX_PARTITIONS_PER_REQUEST, MAX_TRANSACTIONS_PER_REQUEST};
use crate::transactions::types::{AddRequest, VerifyRequest};
use crate::transactions::{Producer, Request, Response, TopicPartition, TransactionVersion};
use wherry_metadata::acl::Operation;
use wherry_wire::codec::ResponseError;
use wherry_wire::codec::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use wherry_wire::codec::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use wherry_wire::codec::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, TopicName, TransactionalId};

/// First version for many transactions.
const MANY_FROM: i16 = 4;
/// From this version on clients know PRODUCER_FENCED.
const FENCED_FROM: i16 = 2;

/// A request whose transactions are being looked at.
#[derive(Debug)]
pub(crate) struct AddOp {
    ctx: Ctx,
    transactions: Vec<One>,
    left: usize,
}

/// One transaction of it.
#[derive(Debug)]
struct One {
    transactional_id: String,
    results: Vec<(TopicPartition, Option<ResponseError>)>,
}

/// Which transaction of which request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AddPart {
    op: u64,
    at: usize,
}

/// Hands each transaction to its coordinator.
pub(crate) fn handle<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &AddPartitionsToTxnRequest) -> Outcome {
    let asked = if ctx.version >= MANY_FROM { many(request) } else { vec![single(request)] };
    let partitions: usize = asked.iter().map(|(_, results)| results.len()).sum();
    if asked.len() > MAX_TRANSACTIONS_PER_REQUEST || partitions > MAX_PARTITIONS_PER_REQUEST {
        return Outcome::Close(format!("{} transactions with {partitions} partitions at once", asked.len()));
    }
    // Only nodes ask for many.
    if ctx.version >= MANY_FROM && !core.allows_cluster(ctx, Operation::ClusterAction) {
        let error = ResponseError::ClusterAuthorizationFailed;
        return ctx.reply(&AddPartitionsToTxnResponse::default().with_error_code(error.code()));
    }
    let mut parts = Vec::with_capacity(asked.len());
    let mut op = AddOp { ctx: ctx.clone(), transactions: Vec::with_capacity(asked.len()), left: 0 };
    for (at, (body, partitions)) in asked.into_iter().enumerate() {
        let (results, is_refused) = judge(core, ctx, body.transactional_id(), partitions);
        op.transactions.push(One { transactional_id: body.transactional_id().to_string(), results });
        if !is_refused {
            parts.push((at, body));
        }
    }
    op.left = parts.len();
    if parts.is_empty() {
        return respond(&op);
    }
    let number = core.enter_add(op);
    for (at, body) in parts {
        core.ask_transactions(Waiter::Add(AddPart { op: number, at }), body);
    }
    // If it was answered, its slot is filled already.
    Outcome::Later
}

fn single(request: &AddPartitionsToTxnRequest) -> (Request, Vec<TopicPartition>) {
    let producer = Producer {
        transactional_id: shared(&request.v3_and_below_transactional_id),
        producer_id: request.v3_and_below_producer_id.0,
        producer_epoch: request.v3_and_below_producer_epoch,
    };
    let partitions = named(&request.v3_and_below_topics);
    let version = TransactionVersion::V1;
    (Request::Add(AddRequest { producer, partitions: partitions.clone(), version }), partitions)
}

fn many(request: &AddPartitionsToTxnRequest) -> Vec<(Request, Vec<TopicPartition>)> {
    let one = request.transactions.iter().map(|transaction| {
        let producer = Producer {
            transactional_id: shared(&transaction.transactional_id),
            producer_id: transaction.producer_id.0,
            producer_epoch: transaction.producer_epoch,
        };
        let all = named(&transaction.topics);
        let partitions = all.clone();
        let body = if transaction.verify_only {
            Request::Verify(VerifyRequest { producer, partitions })
        } else {
            Request::Add(AddRequest { producer, partitions, version: TransactionVersion::V2 })
        };
        (body, all)
    });
    one.collect()
}

fn named(topics: &[AddPartitionsToTxnTopic]) -> Vec<TopicPartition> {
    let of_topic = |topic: &AddPartitionsToTxnTopic| {
        let name = shared(&topic.name);
        topic.partitions.iter().map(move |partition| (name.clone(), *partition)).collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}

/// If one partition does not exist, or may not be written to, nothing is done for the others of its transaction.
fn judge<S: LogStore>(
    core: &Core<S>,
    ctx: &Ctx,
    transactional_id: &str,
    partitions: Vec<TopicPartition>,
) -> (Vec<(TopicPartition, Option<ResponseError>)>, bool) {
    // Whom a node speaks for was asked by that node.
    let by_client = ctx.version < MANY_FROM;
    if by_client && !core.allows_transactional_id(ctx, Operation::Write, transactional_id) {
        let error = Some(ResponseError::TransactionalIdAuthorizationFailed);
        return (partitions.into_iter().map(|partition| (partition, error)).collect(), true);
    }
    let wrong = |(topic, partition): &TopicPartition| {
        if by_client && !core.allows_topic(ctx, Operation::Write, topic) {
            return Some(ResponseError::TopicAuthorizationFailed);
        }
        let exists = core.meta.topic(topic).is_some_and(|topic| topic.partition(*partition).is_some());
        (!exists).then_some(ResponseError::UnknownTopicOrPartition)
    };
    let verdicts: Vec<Option<ResponseError>> = partitions.iter().map(wrong).collect();
    if verdicts.iter().all(Option::is_none) {
        return (partitions.into_iter().map(|partition| (partition, None)).collect(), false);
    }
    let verdict = |error: Option<ResponseError>| Some(error.unwrap_or(ResponseError::OperationNotAttempted));
    (partitions.into_iter().zip(verdicts.into_iter().map(verdict)).collect(), true)
}

/// A coordinator's answer.
pub(crate) fn answered<S: LogStore>(core: &mut Core<S>, part: AddPart, response: Response) {
    let Some(op) = core.add_op(part.op) else { return };
    let knows = op.ctx.version >= FENCED_FROM;
    if let Some(one) = op.transactions.get_mut(part.at) {
        match response {
            Response::Add(Ok(strangers)) => {
                for (partition, result) in &mut one.results {
                    let refused = strangers.iter().find(|(stranger, _)| stranger == partition);
                    *result = refused.map(|(_, error)| older_fencing(*error, knows));
                }
            }
            Response::Add(Err(error)) => {
                one.results.iter_mut().for_each(|(_, result)| *result = Some(older_fencing(error, knows)));
            }
            Response::Init(_) | Response::End(_) => {}
        }
    }
    op.left -= 1;
    if op.left == 0
        && let Some(op) = core.leave_add(part.op)
    {
        let outcome = respond(&op);
        core.finish(op.ctx.id, outcome);
    }
}

fn respond(op: &AddOp) -> Outcome {
    let mut response = AddPartitionsToTxnResponse::default();
    if op.ctx.version >= MANY_FROM {
        let result = |one: &One| {
            AddPartitionsToTxnResult::default()
                .with_transactional_id(TransactionalId(wire(&one.transactional_id)))
                .with_topic_results(topics(one))
        };
        response.results_by_transaction = op.transactions.iter().map(result).collect();
    } else {
        response.results_by_topic_v3_and_below = op.transactions.iter().flat_map(topics).collect();
    }
    op.ctx.reply(&response)
}

fn topics(one: &One) -> Vec<AddPartitionsToTxnTopicResult> {
    let partition = |(index, error): (i32, Option<ResponseError>)| {
        AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(index)
            .with_partition_error_code(error.map_or(0, |error| error.code()))
    };
    let topic = |(name, partitions): (std::sync::Arc<str>, Vec<_>)| {
        AddPartitionsToTxnTopicResult::default()
            .with_name(TopicName(wire(&name)))
            .with_results_by_partition(partitions.into_iter().map(partition).collect())
    };
    by_topic(one.results.iter().cloned()).into_iter().map(topic).collect()
}
