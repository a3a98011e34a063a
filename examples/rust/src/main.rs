//! A shop's services, told by their first argument; see README.md.

use std::collections::HashMap;
use std::error::Error;
use std::process::ExitCode;

use prost_types::Duration;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use wherry::publisher_service_client::PublisherServiceClient;
use wherry::request_service_client::RequestServiceClient;
use wherry::subscribe_request::Frame;
use wherry::subscribe_response::Frame as Received;
use wherry::subscriber_service_client::SubscriberServiceClient;
use wherry::{
    AckOutcome, AckResult, Acknowledge, Credits, Message, NegativeAcknowledge, PublishRequest, PullRequest,
    ReceivedMessage, ReplyRequest, RequestRequest, SubscribeMode, SubscribeRequest, SubscribeStart,
};

mod wherry {
    tonic::include_proto!("wherry.v1");
}

type Done = Result<(), Box<dyn Error>>;

/// Longer than an outage of the cluster should last.
const PATIENCE: Duration = Duration { seconds: 90, nanos: 0 };

/// Publishes orders; has each reserved by the stock service, whose reply is the answer to the same call.
async fn orders(channel: Channel, count: u32) -> Done {
    let mut publisher = PublisherServiceClient::new(channel.clone());
    let mut requests = RequestServiceClient::new(channel);
    let run = &uuid::Uuid::new_v4().simple().to_string()[..8];
    for number in 1..=count {
        let (id, customer) = (format!("{run}-{number}"), format!("customer-{}", number % 5));
        let order = json!({"order": id, "customer": customer, "item": "oar", "quantity": number % 3 + 1});
        let key = Some(customer.into_bytes());
        let placed = Message { key: key.clone(), message_id: id.clone(), ..message("orders", &order) };
        let published = publisher.publish(PublishRequest { message: Some(placed), ..Default::default() }).await?;
        let place = published.into_inner().result.unwrap_or_default();
        say("published", json!({"order": id, "partition": place.partition, "offset": place.offset}));
        let request = Message { key, ..message("reservations", &order) };
        let answered = requests.request(RequestRequest { message: Some(request), timeout: Some(PATIENCE) }).await?;
        say("answered", parse(answered.into_inner().reply)?);
    }
    Ok(())
}

/// Takes requests one by one and replies; a reply acknowledges its request.
async fn stock(channel: Channel, count: u32) -> Done {
    let mut subscriber = SubscriberServiceClient::new(channel.clone());
    let mut requests = RequestServiceClient::new(channel);
    let (mut left, mut reserved, mut answers) = (100, 0, HashMap::new());
    while reserved < count {
        let pull = PullRequest {
            group: "stock".into(),
            topics: vec!["reservations".into()],
            max_wait: Some(Duration { seconds: 10, nanos: 0 }),
            ..Default::default()
        };
        for request in subscriber.pull(pull).await?.into_inner().messages {
            let order = parse(request.message)?;
            let id = order["order"].as_str().unwrap_or_default().to_owned();
            // The same request may come again: it gets the same answer, and takes nothing from the stock.
            let answer = answers.entry(id.clone()).or_insert_with(|| {
                let quantity = order["quantity"].as_i64().unwrap_or_default();
                let enough = left >= quantity;
                left -= if enough { quantity } else { 0 };
                json!({"order": id, "reserved": enough, "by": "rust"})
            });
            let reply = ReplyRequest { ack_id: request.ack_id, message: Some(message("", answer)), keep: false };
            match requests.reply(reply).await {
                Ok(replied) => reserved += u32::from(settled(&id, &replied.into_inner().ack.unwrap_or_default())),
                // Took too long: the request comes again, to whoever pulls.
                Err(status) if status.code() == Code::Aborted => say("lost", json!({"order": id})),
                Err(status) => return Err(status.into()),
            }
        }
    }
    Ok(())
}

/// Receives orders as a member of a group, until so many are acknowledged.
async fn follow(channel: Channel, count: u32, start: SubscribeStart, handle: fn(&ReceivedMessage) -> Frame) -> Done {
    // Never more frames than messages that may be out, each with its credit, and the first one.
    let (frames, outgoing) = mpsc::channel(2 * start.credits as usize + 1);
    let send = async |frame| frames.send(SubscribeRequest { frame: Some(frame) }).await;
    send(Frame::Start(SubscribeStart { topics: vec!["orders".into()], ..start })).await?;
    let mut client = SubscriberServiceClient::new(channel);
    let mut stream = client.subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
    let (mut done, mut order_of) = (0, HashMap::new());
    while done < count {
        let Some(response) = stream.message().await? else {
            return Err(format!("the subscription ended after {done} of {count} orders; is it stopping?").into());
        };
        match response.frame {
            Some(Received::Delivery(delivery)) => {
                for received in delivery.messages {
                    send(handle(&received)).await?;
                    order_of.insert(received.ack_id, received.message.unwrap_or_default().message_id);
                }
            }
            Some(Received::Settled(answers)) => {
                for result in answers.results {
                    let order = order_of.remove(&result.ack_id).unwrap_or_default();
                    done += u32::from(settled(&order, &result));
                    if done < count {
                        send(Frame::Credits(Credits { messages: 1 })).await?;
                    }
                }
            }
            Some(Received::Started(_)) | None => {}
        }
    }
    Ok(())
}

fn take(received: &ReceivedMessage) -> Frame {
    Frame::Ack(Acknowledge { ack_ids: vec![received.ack_id.clone()] })
}

/// Large orders need a second attempt: they are handed back first.
fn pack(received: &ReceivedMessage) -> Frame {
    let large = parse(received.message.clone()).is_ok_and(|order| order["quantity"] == 3);
    if large && received.attempt == 1 {
        let delay = Some(Duration { seconds: 0, nanos: 50_000_000 });
        return Frame::Nack(NegativeAcknowledge { ack_ids: vec![received.ack_id.clone()], delay });
    }
    take(received)
}

fn message(topic: &str, content: &Value) -> Message {
    Message {
        topic: topic.into(),
        payload: content.to_string().into_bytes(),
        content_type: "application/json".into(),
        ..Default::default()
    }
}

fn parse(message: Option<Message>) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&message.unwrap_or_default().payload)
}

/// Tells what became of an order; true if it is done for good. What is not will be delivered again.
fn settled(order: &str, result: &AckResult) -> bool {
    let outcome = result.outcome().as_str_name().trim_start_matches("ACK_OUTCOME_").to_lowercase();
    say(&outcome, json!({"order": order}));
    result.outcome() == AckOutcome::Acknowledged
}

fn say(event: &str, mut facts: Value) {
    facts["event"] = event.into();
    println!("{facts}");
}

async fn run(address: &str, role: &str, count: u32) -> Done {
    let channel = Endpoint::new(format!("http://{address}"))?.connect_lazy();
    let member = |credits| SubscribeStart {
        group: role.into(),
        mode: SubscribeMode::Stream.into(),
        credits,
        ..Default::default()
    };
    match role {
        "orders" => orders(channel, count).await,
        "stock" => stock(channel, count).await,
        "billing" | "shipping" => follow(channel, count, member(16), take).await,
        "packing" => follow(channel, count, member(1), pack).await,
        _ => Err("there is no such role: orders, stock, billing, shipping or packing".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, count] = &arguments[..] else {
        eprintln!("usage: shop orders|stock|billing|shipping|packing COUNT");
        return ExitCode::from(2);
    };
    let address = std::env::var("WHERRY_ADDRESS").unwrap_or_else(|_| "localhost:7070".into());
    let done = match count.parse() {
        Ok(count) => run(&address, role, count).await,
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let sentence =
                error.downcast_ref::<tonic::Status>().map_or_else(|| error.to_string(), |s| s.message().into());
            eprintln!("{role}: {sentence} (sidecar at {address})");
            ExitCode::FAILURE
        }
    }
}
