//! Starting, health, reflection, stopping.

use std::time::{Duration, Instant};

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use wherry_proto::v1;
use wherry_sidecar::SidecarConfig;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{config, connect, eventually, http, message, rig, soon, texts};

#[tokio::test]
async fn health_says_whether_it_serves() {
    let rig = rig(MemoryCluster::new()).await;
    let mut health = HealthClient::new(rig.channel.clone());
    let mut status = async |service: &str| {
        let request = HealthCheckRequest { service: service.into() };
        soon(health.check(request)).await.expect("answers").into_inner().status()
    };
    assert_eq!(status("").await, ServingStatus::Serving);
    assert_eq!(status("wherry.v1.PublisherService").await, ServingStatus::Serving);
    rig.sidecar.drain();
    while status("wherry.v1.SubscriberService").await != ServingStatus::NotServing {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let rig = rig(MemoryCluster::new()).await;
    let request =
        |message_request| ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
    let requests = [
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol("wherry.v1.PublisherService".into())),
    ];
    let mut client = ServerReflectionClient::new(rig.channel.clone());
    let answers =
        soon(client.server_reflection_info(tokio_stream::iter(requests))).await.expect("answers").into_inner();
    let answers: Vec<_> = soon(answers.collect::<Vec<_>>()).await;
    let Some(Ok(Some(MessageResponse::ListServicesResponse(list)))) =
        answers.first().map(|answer| answer.as_ref().map(|answer| answer.message_response.clone()))
    else {
        panic!("{answers:?}");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["wherry.v1.PublisherService", "wherry.v1.SubscriberService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(matches!(
        answers.get(1).map(|answer| answer.as_ref().map(|answer| answer.message_response.clone())),
        Some(Ok(Some(MessageResponse::FileDescriptorResponse(_))))
    ));
}

#[tokio::test]
async fn starting_does_not_wait_for_the_cluster() {
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
    let config = SidecarConfig {
        bootstrap: vec![nobody.to_string()],
        cluster_wait: Duration::from_millis(200),
        drain_timeout: Duration::from_secs(1),
        ..config()
    };
    let sidecar = soon(wherry_sidecar::spawn(config)).await.expect("starts");
    let mut client = v1::publisher_service_client::PublisherServiceClient::new(connect(&sidecar).await);
    let request = v1::PublishRequest { message: Some(message("orders", "x")), delivery: 0 };
    let status = soon(client.publish(request)).await.expect_err("no cluster");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("try again later"), "{status}");
    soon(sidecar.stop()).await;
}

#[tokio::test]
async fn a_configuration_that_makes_no_sense_is_refused() {
    let start = async |config: SidecarConfig| {
        wherry_sidecar::spawn_on(config, MemoryCluster::new()).await.expect_err("refused").to_string()
    };
    let remote = SidecarConfig { listen: "0.0.0.0:0".parse().expect("address"), ..config() };
    assert!(start(remote).await.contains("allow_remote"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let listen = taken.local_addr().expect("bound");
    assert!(start(SidecarConfig { listen, ..config() }).await.contains("can't listen"));
    let socket = Some("/nowhere/at/all.sock".into());
    assert!(start(SidecarConfig { socket, ..config() }).await.contains("all.sock"));
}

#[tokio::test]
async fn stopping_answers_what_was_taken() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    rig.cluster.hold(true);
    let (say, said) = tokio::sync::mpsc::channel(8);
    let outbound = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut acks = soon(rig.publisher().publish_stream(outbound)).await.expect("opens").into_inner();
    for correlation_id in 0..5 {
        let message = Some(message("orders", "x"));
        say.send(v1::PublishStreamRequest { correlation_id, message, options: None }).await.expect("open");
    }
    eventually("all are taken", || rig.sidecar.stats.publish_in_flight.get() == 5).await;
    let cluster = rig.cluster.clone();
    let stopping = tokio::spawn(rig.sidecar.stop());
    cluster.hold(false);
    let mut count = 0;
    let end = loop {
        match soon(acks.message()).await {
            Ok(Some(response)) => count += response.acks.len(),
            Ok(None) => panic!("the stream must say that it did not end by itself"),
            Err(status) => break status,
        }
    };
    assert_eq!((count, end.code()), (5, Code::Unavailable));
    soon(stopping).await.expect("stops");
}

#[tokio::test]
async fn stopping_does_not_take_longer_than_it_may() {
    let cluster = MemoryCluster::new().with_topic("orders", 1);
    let config = SidecarConfig { drain_timeout: Duration::from_millis(300), ..config() };
    let sidecar = wherry_sidecar::spawn_on(config, cluster.clone()).await.expect("starts");
    let channel = connect(&sidecar).await;
    cluster.hold(true);
    let mut client = v1::publisher_service_client::PublisherServiceClient::new(channel);
    let stats = sidecar.stats.clone();
    let publish = tokio::spawn(async move {
        client.publish(v1::PublishRequest { message: Some(message("orders", "x")), delivery: 0 }).await
    });
    eventually("it is taken", || stats.published.get() == 1).await;
    let started = Instant::now();
    soon(sidecar.stop()).await;
    assert!(started.elapsed() >= Duration::from_millis(300), "it did try");
    assert!(soon(publish).await.expect("ends").is_err());
}

#[tokio::test]
async fn draining_waits_for_acknowledgements_and_hands_back_what_was_fetched_ahead() {
    let first = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    first.publish("orders", (0..5).map(|number| number.to_string())).await;
    let mut subscription = first.subscribe("g", "orders", 1).await;
    let out = subscription.take(1).await;
    let (status, answer) = http(&first, "POST", "/v1/drain?timeout=50ms", "").await;
    assert_eq!((status, &answer["drained"], &answer["groups"]), (200, &false.into(), &1.into()), "{answer}");
    let (_, phase) = http(&first, "GET", "/v1/status", "").await;
    assert_eq!((&phase["phase"], &phase["groups"][0]["group"]), (&"draining".into(), &"g".into()), "{phase}");
    subscription.ack(&out).await;
    let (status, answer) = http(&first, "POST", "/v1/drain?timeout=20s", "").await;
    assert_eq!((status, &answer["drained"], &answer["groups"]), (200, &true.into(), &0.into()), "{answer}");
    assert_eq!(first.cluster.members("g"), 0, "the group is left");
    first.publish("orders", ["publishing goes on".to_owned()]).await;
    let (status, _) = http(&first, "GET", "/readyz", "").await;
    assert_eq!(status, 503);
    // Another sidecar gets the rest at once.
    let sidecar = wherry_sidecar::spawn_on(config(), first.cluster.clone()).await.expect("starts");
    let second = crate::support::Rig { cluster: first.cluster.clone(), channel: connect(&sidecar).await, sidecar };
    let mut subscription = second.subscribe("g", "orders", 10).await;
    assert_eq!(texts(&subscription.take(5).await), ["1", "2", "3", "4", "publishing goes on"]);
    drop(first);
}

#[tokio::test]
async fn status_tells_whether_the_cluster_answers() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let (status, answer) = http(&rig, "GET", "/v1/status", "").await;
    assert_eq!(
        (status, &answer["cluster"]["reachable"], &answer["spool"]),
        (200, &true.into(), &serde_json::Value::Null)
    );
    assert!(answer["memory"]["residentBytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{answer}");
    rig.cluster.away(true);
    let (_, answer) = http(&rig, "GET", "/v1/status", "").await;
    assert_eq!(answer["cluster"]["reachable"], false);
    assert!(answer["cluster"]["cause"].as_str().is_some_and(|cause| cause.contains("no node answers")), "{answer}");
    assert_eq!(http(&rig, "GET", "/startupz", "").await.0, 200, "the cluster is not waited for");
}
