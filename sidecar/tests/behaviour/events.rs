//! Server-sent events, as a browser or curl reads them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{Rig, eventually, http, rig, soon};

/// An answer that goes on.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    async fn open(rig: &Rig, query: &str) -> Self {
        let mut stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
        let head = format!("GET /v1/topics/orders/events?{query} HTTP/1.1\r\nhost: x\r\n\r\n");
        soon(stream.write_all(head.as_bytes())).await.expect("writes");
        let mut events = Self { stream, text: String::new() };
        while !events.text.contains("\r\n\r\n") {
            assert!(events.more().await, "{}", events.text);
        }
        let (head, rest) = events.text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        events.text = rest.to_owned();
        events
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = soon(self.stream.read(&mut buffer)).await.expect("reads");
        self.text.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        read > 0
    }

    /// The next event: its fields, without the lines that frame chunks. `None` at the end.
    async fn next(&mut self) -> Option<Vec<(String, String)>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let fields = event.lines().filter_map(|line| line.split_once(": "));
                let fields: Vec<_> = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                self.text = rest.to_owned();
                if !fields.is_empty() {
                    return Some(fields);
                }
            } else if !self.more().await {
                return None;
            }
        }
    }

    async fn message(&mut self) -> Value {
        let fields = self.next().await.expect("an event");
        let data = fields.iter().find(|(name, _)| name == "data").expect("data");
        let mut message: Value = serde_json::from_str(&data.1).expect("json");
        message["id"] = json!(fields.iter().find(|(name, _)| name == "id").map(|(_, id)| id));
        message
    }

    /// No message comes for a while.
    async fn silent(&mut self) {
        assert!(!self.text.contains("data:"), "{}", self.text);
        assert!(tokio::time::timeout(Duration::from_millis(150), self.more()).await.is_err(), "{}", self.text);
    }
}

async fn settle(rig: &Rig, call: &str, message: &Value) -> Value {
    let body = json!({"ack_ids": [message["ack_id"]]}).to_string();
    http(rig, "POST", call, &body).await.1["results"][0]["outcome"].clone()
}

#[tokio::test]
async fn messages_come_within_the_window_and_settling_makes_room() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", (0..5).map(|number| number.to_string())).await;
    let mut events = Events::open(&rig, "group=g&window=2").await;
    let (first, second) = (events.message().await, events.message().await);
    assert_eq!((&first["payload"], &first["id"], &first["attempt"]), (&json!("0"), &json!("0:0"), &json!(1)));
    assert_eq!((&second["payload"], &second["id"]), (&json!("1"), &json!("0:1")));
    events.silent().await;
    assert_eq!(settle(&rig, "/v1/ack", &second).await, "acknowledged");
    let third = events.message().await;
    assert_eq!(third["payload"], "2");
    events.silent().await;
    // What is handed back makes no room: it comes again itself.
    assert_eq!(settle(&rig, "/v1/nack", &first).await, "released");
    let again = events.message().await;
    assert_eq!((&again["payload"], &again["attempt"]), (&json!("0"), &json!(2)));
    drop(events);
    eventually("nobody listens any more", || rig.sidecar.stats.subscriptions.get() == 0).await;
    // What was not acknowledged comes to the next one.
    let mut events = Events::open(&rig, "group=g").await;
    let mut payloads = Vec::new();
    for _ in 0..4 {
        payloads.push(events.message().await["payload"].clone());
    }
    assert_eq!(payloads, ["0", "2", "3", "4"]);
}

#[tokio::test]
async fn payloads_with_line_breaks_stay_one_event() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let body = json!({"topic": "orders", "payload": "{\r\n \"a\":\r1\n}", "content_type": "application/json"});
    assert_eq!(http(&rig, "POST", "/v1/publish", &body.to_string()).await.0, 200);
    rig.publish("orders", ["one\r\ntwo\n\nthree".to_owned()]).await;
    let mut events = Events::open(&rig, "group=g").await;
    assert_eq!(events.message().await["json"], json!({"a": 1}));
    assert_eq!(events.message().await["payload"], "one\r\ntwo\n\nthree");
}

#[tokio::test]
async fn draining_is_told_and_what_is_out_may_still_be_settled() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", ["x".to_owned()]).await;
    let mut events = Events::open(&rig, "group=g").await;
    let message = events.message().await;
    rig.sidecar.drain();
    let told = events.next().await.expect("an event");
    assert_eq!(told[0], ("event".to_owned(), "draining".to_owned()));
    assert_eq!(settle(&rig, "/v1/ack", &message).await, "acknowledged");
    let cluster = rig.cluster.clone();
    let stopping = tokio::spawn(rig.sidecar.stop());
    let end = events.next().await.expect("an event");
    assert_eq!(end[0], ("event".to_owned(), "end".to_owned()));
    assert!(end[1].1.contains("DRAINING"), "{end:?}");
    assert_eq!(events.next().await, None);
    soon(stopping).await.expect("stops");
    assert_eq!(cluster.committed("g", "orders", 0), Some(1));
}

#[tokio::test]
async fn without_a_group_everyone_gets_everything() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", (0..150).map(|number| number.to_string())).await;
    for _ in 0..2 {
        let mut events = Events::open(&rig, "mode=broadcast").await;
        for number in 0..150 {
            let message = events.message().await;
            assert_eq!(message["payload"], number.to_string());
            assert!(message.get("ack_id").is_none(), "{message}");
        }
    }
}

#[tokio::test]
async fn wrong_queries_are_refused() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    for (query, reason) in [
        ("", "INVALID_GROUP"),
        ("group=g&window=0", "INVALID_QUERY"),
        ("group=g&window=x", "INVALID_QUERY"),
        ("group=g&mode=broadcast", "INVALID_GROUP"),
        ("group=g&ack_timeout=never", "INVALID_QUERY"),
    ] {
        let (status, refused) = http(&rig, "GET", &format!("/v1/topics/orders/events?{query}"), "").await;
        assert_eq!((status, refused["reason"].as_str()), (400, Some(reason)), "{query}: {refused}");
    }
}
