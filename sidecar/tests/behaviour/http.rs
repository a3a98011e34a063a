//! The same over HTTP/1 with JSON, on the port and on the Unix socket; what curl would send.

use serde_json::json;
use tokio::net::{TcpStream, UnixStream};
use wherry_sidecar::backend::memory::MemoryCluster;
use wherry_sidecar::{Limits, SidecarConfig};

use crate::support::{config, exchange, http, rig, soon};

#[tokio::test]
async fn a_body_is_published_as_it_is() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 2)).await;
    let stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
    let traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("content-type", "text/plain"),
        ("wherry-message-id", "m1"),
        ("wherry-header-color", "blue"),
        ("traceparent", traced),
    ];
    let (status, body) =
        exchange(stream, "POST", "/v1/topics/orders/messages?partition=1&key=k", &headers, b"\x00\xffraw").await;
    let answer: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!(status, 200, "{body}");
    assert_eq!(answer["topic"], "orders");
    assert_eq!(
        (&answer["partition"], &answer["offset"], &answer["status"]),
        (&json!(1), &json!(0), &json!("committed"))
    );
    let record = rig.cluster.records("orders", 1).remove(0);
    assert_eq!(record.value.as_deref(), Some(b"\x00\xffraw".as_slice()));
    assert_eq!(record.key.as_deref(), Some(b"k".as_slice()));
    let headers: Vec<(&str, &[u8])> =
        record.headers.iter().map(|(name, value)| (&**name, value.as_deref().unwrap_or_default())).collect();
    let expected: [(&str, &[u8]); 4] = [
        ("color", b"blue"),
        ("content-type", b"text/plain"),
        ("wherry-message-id", b"m1"),
        ("traceparent", traced.as_bytes()),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn json_messages_are_published_and_come_back() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let message = json!({
        "topic": "orders", "key": "k", "json": {"total": 1.50, "items": [1, 2]},
        "headers": [{"name": "a", "value": "1"}, {"name": "a", "value_base64": "/w=="}],
        "message_id": "m", "event_time": "2026-01-02T03:04:05.678Z"
    });
    let (status, answer) = http(&rig, "POST", "/v1/publish", &message.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["timestamp"], "2026-01-02T03:04:05.678Z");
    let batch = json!([{"payload": "text"}, {"payload_base64": "/wA="}, {"key_base64": "/w==", "tombstone": true}]);
    let (status, answer) = http(&rig, "POST", "/v1/topics/orders/messages?batch=true", &batch.to_string()).await;
    assert_eq!((status, answer["results"].as_array().map(Vec::len)), (200, Some(3)), "{answer}");

    let (status, pulled) = http(&rig, "GET", "/v1/topics/orders/messages?group=g&max=10&wait=10s", "").await;
    assert_eq!(status, 200, "{pulled}");
    let messages = pulled["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 4);
    let first = &messages[0];
    assert_eq!((&first["json"]["total"], &first["key"], &first["offset"]), (&json!(1.5), &json!("k"), &json!(0)));
    assert_eq!(first["headers"], json!([{"name": "a", "value": "1"}, {"name": "a", "value_base64": "/w=="}]));
    assert_eq!((&first["content_type"], &first["message_id"]), (&json!("application/json"), &json!("m")));
    assert_eq!(first["timestamp"], "2026-01-02T03:04:05.678Z");
    assert_eq!(messages[1]["payload"], "text");
    assert_eq!(messages[2]["payload_base64"], "/wA=");
    assert_eq!((&messages[3]["tombstone"], &messages[3]["key_base64"]), (&json!(true), &json!("/w==")));

    let ids: Vec<&serde_json::Value> = messages.iter().map(|message| &message["ack_id"]).collect();
    let (status, acked) = http(&rig, "POST", "/v1/ack", &json!({"ack_ids": ids[..2]}).to_string()).await;
    assert_eq!(status, 200, "{acked}");
    assert_eq!(acked["results"][1], json!({"ack_id": ids[1], "outcome": "acknowledged"}));
    assert_eq!(rig.cluster.committed("g", "orders", 0), Some(2));
    let (_, extended) =
        http(&rig, "POST", "/v1/extend", &json!({"ack_ids": ids[2..], "timeout": "1m"}).to_string()).await;
    assert_eq!(extended["results"][0]["outcome"], "extended");
    let (_, released) =
        http(&rig, "POST", "/v1/nack", &json!({"ack_ids": ids[2..], "delay": "10ms"}).to_string()).await;
    assert_eq!(released["results"][1]["outcome"], "released");
    let path = "/v1/topics/orders/messages?group=g&max=10&wait=10s&encoding=base64";
    let (_, again) = http(&rig, "GET", path, "").await;
    assert_eq!(
        (&again["messages"][0]["attempt"], &again["messages"][0]["payload_base64"]),
        (&json!(2), &json!("/wA="))
    );
    let (_, nothing) = http(&rig, "POST", "/v1/ack", r#"{"ack_ids": ["?", "AAAA"]}"#).await;
    assert_eq!(nothing["results"][0]["error"]["reason"], "INVALID_ACK_ID");
}

#[tokio::test]
async fn in_a_batch_every_message_has_its_own_outcome() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let batch = json!([
        {"topic": "orders", "payload": "a"}, {"topic": "nowhere", "payload": "b"},
        {"topic": "orders", "payload": "c", "json": 1}, {"payload": "d"}
    ]);
    let (status, answer) = http(&rig, "POST", "/v1/publish", &batch.to_string()).await;
    assert_eq!(status, 207, "{answer}");
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results[0]["offset"], 0);
    assert_eq!(results[1]["error"]["reason"], "UNKNOWN_TOPIC");
    assert_eq!(results[2]["error"]["reason"], "INVALID_MESSAGE");
    assert_eq!(results[3]["error"]["reason"], "INVALID_TOPIC");
}

#[tokio::test]
async fn mistakes_are_answered_with_a_status_a_reason_and_a_sentence() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let refused = async |method: &str, path: &str, body: &str, status: u16, reason: &str| {
        let (got, answer) = http(&rig, method, path, body).await;
        assert_eq!((got, answer["reason"].as_str()), (status, Some(reason)), "{method} {path}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| message.len() > 20), "{answer}");
        assert!(answer["code"].is_string() && answer["retryable"].is_boolean(), "{answer}");
    };
    refused("POST", "/v1/topics/nowhere/messages", "x", 404, "UNKNOWN_TOPIC").await;
    refused("POST", "/v1/topics/a%20b/messages", "x", 400, "INVALID_TOPIC").await;
    refused("POST", "/v1/topics/orders/messages?partition=x", "x", 400, "INVALID_QUERY").await;
    refused("POST", "/v1/topics/orders/messages?prtition=1", "x", 400, "INVALID_QUERY").await;
    refused("POST", "/v1/topics/orders/messages?delivery=effectively_once", "x", 501, "NOT_OFFERED").await;
    refused("POST", "/v1/topics/orders/messages?batch=true", "x", 400, "INVALID_JSON").await;
    refused("POST", "/v1/publish", r#"{"topic": "orders", "paylod": "x"}"#, 400, "INVALID_JSON").await;
    refused("POST", "/v1/publish", r#"{"topic": "orders", "payload_base64": "?"}"#, 400, "INVALID_BASE64").await;
    refused("GET", "/v1/topics/orders/messages", "", 400, "INVALID_QUERY").await;
    refused("GET", "/v1/topics/orders/messages?group=g&wait=soon", "", 400, "INVALID_QUERY").await;
    refused("GET", "/v1/topics/nowhere", "", 404, "UNKNOWN_TOPIC").await;
    refused("POST", "/v1/ack", "[]", 400, "INVALID_JSON").await;
    refused("DELETE", "/v1/publish", "", 405, "WRONG_METHOD").await;
    refused("GET", "/v2/anything", "", 501, "NO_SUCH_CALL").await;
    let large = "x".repeat(Limits::default().message_bytes + 1);
    refused("POST", "/v1/topics/orders/messages", &large, 413, "MESSAGE_TOO_LARGE").await;
}

#[tokio::test]
async fn topics_are_made_and_described() {
    let rig = rig(MemoryCluster::new()).await;
    assert_eq!(
        http(&rig, "PUT", "/v1/topics/t", r#"{"partitions": 3}"#).await,
        (201, json!({"name": "t", "partitions": 3}))
    );
    assert_eq!(http(&rig, "PUT", "/v1/topics/t", "").await, (200, json!({"name": "t", "partitions": 3})));
    let bounds: Vec<_> = (0..3).map(|n| json!({"partition": n, "first_offset": 0, "end_offset": 0})).collect();
    let described = json!({"name": "t", "partitions": 3, "bounds": bounds, "settings": {}});
    assert_eq!(http(&rig, "GET", "/v1/topics/t", "").await, (200, described));
    assert_eq!(http(&rig, "PUT", "/v1/topics/t", r#"{"partitions": -1}"#).await.0, 400);
}

#[tokio::test]
async fn probes_and_metrics_answer() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.publish("orders", ["x".to_owned()]).await;
    assert_eq!(http(&rig, "GET", "/livez", "").await.0, 200);
    assert_eq!(http(&rig, "GET", "/readyz", "").await, (200, json!("ok\n")));
    rig.cluster.away(true);
    let (status, text) = http(&rig, "GET", "/readyz", "").await;
    assert_eq!(status, 200, "an outage of the cluster does not make the application unready");
    assert!(text.as_str().is_some_and(|text| text.contains("not been reached")), "{text}");
    let (status, metrics) = http(&rig, "GET", "/metrics", "").await;
    let metrics = metrics.as_str().expect("text").to_owned();
    assert_eq!(status, 200);
    assert!(metrics.contains("wherry_sidecar_published_messages_total 1"), "{metrics}");
    rig.sidecar.drain();
    assert_eq!(http(&rig, "GET", "/readyz", "").await.0, 503);
    assert_eq!(http(&rig, "GET", "/livez", "").await.0, 200);
}

#[tokio::test]
async fn the_unix_socket_serves_http_and_grpc() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("wherry.sock");
    // A socket that a dead sidecar left behind.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
    assert!(path.exists());
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    let config = || SidecarConfig { socket: Some(path.clone()), ..config() };
    let sidecar = wherry_sidecar::spawn_on(config(), cluster.clone()).await.expect("starts");
    let stream = soon(UnixStream::connect(&path)).await.expect("connects");
    let (status, _) = exchange(stream, "POST", "/v1/topics/orders/messages", &[], b"x").await;
    assert_eq!(status, 200);
    let grpc = format!("unix://{}", path.display());
    let channel = tonic::transport::Endpoint::from_shared(grpc).expect("address").connect().await.expect("connects");
    let mut client = wherry_proto::v1::topic_service_client::TopicServiceClient::new(channel);
    let request = wherry_proto::v1::GetTopicRequest { name: "orders".into() };
    let topic = soon(client.get_topic(request)).await.expect("described").into_inner().topic.expect("a topic");
    assert_eq!(topic.partitions, 1);
    let refused = wherry_sidecar::spawn_on(config(), cluster.clone()).await.expect_err("it is served already");
    assert!(refused.to_string().contains("wherry.sock"), "{refused}");
    sidecar.stop().await;
    assert!(!path.exists(), "the socket goes with the sidecar");
}

#[tokio::test]
async fn cloudevents_are_published_in_every_mode_and_come_back_structured() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let post = async |headers: &[(&str, &str)], body: &str| {
        let stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
        exchange(stream, "POST", "/v1/topics/orders/messages", headers, body.as_bytes()).await
    };
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b1"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "caf%C3%A9"),
        ("ce-time", "2026-01-02T03:04:05Z"),
        ("ce-partitionkey", "k"),
        ("content-type", "application/json"),
    ];
    assert_eq!(post(&binary, r#"{"n": 1}"#).await.0, 200);
    let event = |id: &str| json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "t", "data": {"n": 2}});
    let structured = [("content-type", "application/cloudevents+json; charset=UTF-8")];
    assert_eq!(post(&structured, &event("s1").to_string()).await.0, 200);
    let batch = [("content-type", "application/cloudevents-batch+json")];
    let (status, answer) = post(&batch, &json!([event("s2"), {"id": "wrong"}]).to_string()).await;
    assert!(status == 207 && answer.contains("INVALID_CLOUDEVENT"), "{answer}");
    let (status, answer) = post(&binary[..3], "").await;
    assert!(status == 400 && answer.contains("INVALID_CLOUDEVENT"), "a required attribute is missing: {answer}");

    let record = rig.cluster.records("orders", 0).remove(0);
    assert_eq!((record.key.as_deref(), record.timestamp_ms), (Some(b"k".as_slice()), 1_767_323_045_000));
    let header = |name: &str| {
        let (_, value) = record.headers.iter().find(|(found, _)| &**found == name).expect("a header");
        String::from_utf8(value.clone().expect("a value").into()).expect("text")
    };
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "b1"),
        ("ce_subject", "café"),
        ("content-type", "application/json"),
        ("wherry-message-id", "b1"),
    ] {
        assert_eq!(header(name), value, "{name}");
    }
    let stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
    let path = "/v1/topics/orders/messages?group=g&max=10&wait=10s";
    let (status, body) = exchange(stream, "GET", path, &[("accept", "application/cloudevents+json")], b"").await;
    let events: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!((status, events.as_array().map(Vec::len)), (200, Some(3)), "{body}");
    assert_eq!((&events[0]["subject"], &events[0]["data"]), (&json!("café"), &json!({"n": 1})));
    let ids: Vec<&serde_json::Value> = [0, 1, 2].iter().map(|at| &events[at]["wherryackid"]).collect();
    let (_, acked) = http(&rig, "POST", "/v1/ack", &json!({"ack_ids": ids}).to_string()).await;
    assert_eq!(acked["results"][2]["outcome"], "acknowledged", "{acked}");
}

#[tokio::test]
async fn an_array_can_be_published_as_a_whole_or_not_at_all() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let batch =
        |second: &str| json!([{"topic": "orders", "payload": "a"}, {"topic": second, "payload": "b"}]).to_string();
    let (status, refused) = http(&rig, "POST", "/v1/publish?atomic=true", &batch("nowhere")).await;
    assert_eq!((status, refused["reason"].as_str()), (404, Some("UNKNOWN_TOPIC")), "{refused}");
    assert!(rig.cluster.records("orders", 0).is_empty());
    let (status, done) = http(&rig, "POST", "/v1/publish?atomic=true", &batch("orders")).await;
    assert_eq!((status, &done["results"][1]["offset"]), (200, &json!(1)), "{done}");
}

#[tokio::test]
async fn the_sidecar_describes_its_own_calls() {
    let rig = rig(MemoryCluster::new()).await;
    let (status, document) = http(&rig, "GET", "/v1/openapi.json", "").await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    assert!(document["paths"]["/v1/publish"]["post"].is_object());
}
