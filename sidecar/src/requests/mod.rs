//! Requests and their replies, over topics.
//!
//! ```text
//!   requester --> sidecar --request, with headers--> topic --> sidecar --> responder
//!       ^            |                                            |
//!       +-- waiting -+ <-- one partition of the reply topic <-----+ reply
//! ```
//! A sidecar reads one partition of the reply topic, from its end when the first request is made, and says in each request where
//! that is. [`waiting`] knows who waits for what; [`address`] is how a request says where its reply goes.

pub(crate) mod address;
mod replies;
pub(crate) mod waiting;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use wherry_client::{ConsumedRecord, ProduceRecord};
use wherry_proto::v1;

use crate::backend::{Backend, Taken};
use crate::delivery::ack_id::AckId;
use crate::delivery::driver::Ask;
use crate::delivery::group::Verb;
use crate::delivery::message::message;
use crate::delivery::registry::not_an_ack_id;
use crate::error::Failure;
use crate::limits;
use crate::publish::one;
use crate::publish::record::{self, TopicNames, TraceContext};
use crate::shared::Shared;
use address::Address;
pub(crate) use replies::Requests;

/// How long to wait for a reply: as asked, within bounds.
pub(crate) fn patience(asked: Option<Duration>, call: Option<Duration>, most: Duration) -> Duration {
    let asked = asked.unwrap_or(limits::REQUEST_DEFAULT);
    call.map_or(asked, |call| call.min(asked)).min(most)
}

/// Publishes a request and waits for its reply.
pub(crate) async fn request<B: Backend>(
    shared: &Shared<B>,
    message: v1::Message,
    patience: Duration,
    trace: &TraceContext,
) -> Result<v1::RequestResponse, Failure> {
    if shared.phase.stopping.is_cancelled() {
        return Err(Failure::draining());
    }
    let deadline = Instant::now() + patience;
    let late = |_| no_reply(patience);
    let home = timeout_at(deadline, shared.requests.home(shared)).await.map_err(late)??;
    let mut request = record_of(shared, message, None, trace)?;
    let (waiting, reply) = shared.requests.wait(&shared.stats)?;
    Address { topic: home.topic, partition: home.partition, correlation: waiting.correlation() }.write(&mut request);
    let receipt = timeout_at(deadline, send(shared, request)).await.map_err(late)??;
    let published = timeout_at(deadline, receipt).await.map_err(late)??;
    let reply = timeout_at(deadline, reply).await.map_err(late)?.map_err(|_| replies_lost())?;
    shared.stats.replies.add(1);
    Ok(v1::RequestResponse { reply: Some(reply_message(reply)), request: Some(one::committed(&published)) })
}

/// Publishes the reply to a request, and acknowledges that.
pub(crate) async fn reply<B: Backend>(
    shared: &Shared<B>,
    ack_id: Bytes,
    message: v1::Message,
    keep: bool,
    trace: &TraceContext,
) -> Result<v1::ReplyResponse, Failure> {
    let id = AckId::decode(&ack_id).ok_or_else(not_an_ack_id)?;
    let request = shared.groups.ask(id.session, |answer| Ask::Peek { id, answer }).await.flatten();
    let request = request.ok_or_else(request_lost)?;
    let address = Address::read(&request).ok_or_else(not_a_request)?;
    address.check(&shared.requests.topic)?;
    if !message.topic.is_empty() || message.partition.is_some() {
        return Err(Failure::invalid(
            "INVALID_MESSAGE",
            "a reply goes where its request says; leave out `topic` and `partition`",
        ));
    }
    let mut reply = record_of(shared, message, Some(&address), trace)?;
    address.answer(&mut reply);
    let published = send(shared, reply).await?.await?;
    let ack = if keep { None } else { shared.groups.settle(vec![ack_id], Verb::Ack).await.pop() };
    Ok(v1::ReplyResponse { result: Some(one::committed(&published)), ack })
}

fn record_of<B: Backend>(
    shared: &Shared<B>,
    message: v1::Message,
    to: Option<&Address>,
    trace: &TraceContext,
) -> Result<ProduceRecord, Failure> {
    let size = record::size(&message);
    let topic = match to {
        Some(address) => address.topic.clone(),
        None => TopicNames::default().get(&message.topic)?,
    };
    record::record(message, topic, size, shared.limits.message_bytes, trace)
}

async fn send<B: Backend>(shared: &Shared<B>, record: ProduceRecord) -> Result<B::Receipt, Failure> {
    let receipt = match shared.backend.try_send(record)? {
        Taken::Now(receipt) => receipt,
        Taken::Later(record) => shared.backend.send(record).await?,
    };
    shared.stats.published.add(1);
    Ok(receipt)
}

/// A reply, as the requester gets it.
fn reply_message(record: ConsumedRecord) -> v1::Message {
    let mut reply = message(record);
    reply.headers.retain(|header| header.name != address::CORRELATION_ID);
    v1::Message { topic: String::new(), partition: None, ..reply }
}

fn no_reply(patience: Duration) -> Failure {
    Failure::passing(
        Code::DeadlineExceeded,
        "NO_REPLY",
        format!(
            "no reply within {patience:?}; the request may be handled all the same: look whether anybody reads its topic, or allow more `timeout`"
        ),
    )
}

fn replies_lost() -> Failure {
    Failure::passing(
        Code::Unavailable,
        "REPLIES_LOST",
        "the reply topic can't be read any more, so the reply can't be received; the request may be handled all the same",
    )
}

fn request_lost() -> Failure {
    Failure::lasting(
        Code::Aborted,
        "ACK_LOST",
        "the request is not yours any more: it was settled, its timeout ran out, or its partition moved; nothing was replied, whoever has it now replies",
    )
}

fn not_a_request() -> Failure {
    Failure::lasting(
        Code::FailedPrecondition,
        "NOT_A_REQUEST",
        "this message asks for no reply: it does not have the headers of a request; publish to a topic instead",
    )
}

/// The topic in which replies are looked for unless another is configured; every sidecar replies to topics that begin so.
pub const REPLY_TOPIC: &str = "wherry.replies";

/// Whether a sidecar may be asked to reply to this topic. A request names it, and whoever sends one must not be able to make a
/// responder publish anywhere else.
fn may_reply_to(topic: &str, ours: &Arc<str>) -> bool {
    topic == &**ours || topic.starts_with(REPLY_TOPIC)
}
