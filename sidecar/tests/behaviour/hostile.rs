//! Careless and hostile applications: bounded, told, and no harm to others.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use wherry_proto::v1::subscribe_request::Frame;
use wherry_proto::v1::transact_request::Frame as Transact;
use wherry_proto::v1::{self, AckOutcome};
use wherry_sidecar::Limits;
use wherry_sidecar::backend::memory::MemoryCluster;

use crate::support::{connect, eventually, exchange, message, outcomes, rig, rig_with, soon, start};

#[tokio::test]
async fn a_frame_far_beyond_the_limit_ends_its_stream_only() {
    let limits = Limits { message_bytes: 1000, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    let (say, said) = mpsc::channel(8);
    let mut acks = soon(rig.publisher().publish_stream(ReceiverStream::new(said))).await.expect("opens").into_inner();
    let frame = |size: usize| v1::PublishStreamRequest {
        correlation_id: 1,
        message: Some(v1::Message { payload: vec![0; size].into(), ..message("orders", "") }),
        options: None,
    };
    say.send(frame(500)).await.expect("open");
    assert_eq!(soon(acks.message()).await.expect("answers").expect("acks").acks.len(), 1);
    say.send(frame(3 * 1024 * 1024)).await.expect("open");
    let status = soon(acks.message()).await.expect_err("ends");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("message_bytes"), "{status}");
    rig.publish("orders", ["others are served".to_owned()]).await;
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_with_a_sentence() {
    let limits = Limits { streams: 50, subscribers_per_group: 50, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    let mut open = Vec::new();
    for _ in 0..49 {
        open.push(rig.subscribe("g", "orders", 0).await);
    }
    rig.publish("orders", ["one more goes".to_owned()]).await;
    open.push(rig.subscribe("g", "orders", 0).await);
    let status = rig.try_subscribe(start("g", "orders")).await.err().expect("refused");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("limits.streams"), "{status}");
    let stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
    let (status, body) = exchange(stream, "POST", "/v1/topics/orders/messages", &[], b"x").await;
    assert_eq!(status, 429, "{body}");
    assert!(rig.sidecar.stats.refused.get() >= 2);
    open.truncate(10);
    eventually("there is room again", || rig.sidecar.stats.calls.get() < 50).await;
    rig.publish("orders", ["x".to_owned()]).await;
}

#[tokio::test]
async fn thousands_of_streams_are_served() {
    const STREAMS: usize = 3000;
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut channels = Vec::new();
    for _ in 0..4 {
        channels.push(connect(&rig.sidecar).await);
    }
    let mut open = Vec::new();
    for number in 0..STREAMS {
        let mut client =
            v1::publisher_service_client::PublisherServiceClient::new(channels[number % channels.len()].clone());
        let (say, said) = mpsc::channel(2);
        let acks = soon(client.publish_stream(ReceiverStream::new(said))).await.expect("opens").into_inner();
        open.push((say, acks));
    }
    assert_eq!(rig.sidecar.stats.publish_streams.get(), i64::try_from(STREAMS).expect("small"));
    for (say, _) in &open {
        let frame =
            v1::PublishStreamRequest { correlation_id: 1, message: Some(message("orders", "x")), options: None };
        say.send(frame).await.expect("open");
    }
    for (_, acks) in &mut open {
        assert_eq!(soon(acks.message()).await.expect("answers").expect("acks").acks.len(), 1);
    }
    drop(open);
    eventually("all are gone", || rig.sidecar.stats.publish_streams.get() == 0).await;
}

#[tokio::test]
async fn too_many_groups_and_subscriptions_are_refused() {
    let limits = Limits { groups: 2, subscribers_per_group: 2, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    let _one = rig.subscribe("g1", "orders", 0).await;
    let _two = rig.subscribe("g2", "orders", 0).await;
    let status = rig.try_subscribe(start("g3", "orders")).await.err().expect("refused");
    assert!(status.message().contains("limits.groups"), "{status}");
    let _three = rig.subscribe("g2", "orders", 0).await;
    let mut fourth = rig.subscribe("g2", "orders", 0).await;
    let status = fourth.frame().await.expect_err("refused");
    assert!(status.message().contains("subscribers_per_group"), "{status}");
}

#[tokio::test]
async fn acks_of_nothing_are_answered_and_hurt_nobody() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut subscription = rig.subscribe("g", "orders", 10).await;
    for _ in 0..20 {
        let ack_ids = vec![Bytes::from_static(&[9; 24]); 5000];
        subscription.say(Frame::Ack(v1::Acknowledge { ack_ids })).await;
    }
    let results = subscription.settled(100_000).await;
    assert!(outcomes(&results).iter().all(|outcome| *outcome == AckOutcome::Lost));
    subscription.say(Frame::Ack(v1::Acknowledge { ack_ids: vec![Bytes::new(); 10_001] })).await;
    assert_eq!(subscription.frame().await.expect_err("ends").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_application_that_reads_no_results_is_not_read_from() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let subscription = rig.subscribe("g", "orders", 10).await;
    let say = subscription.say.clone();
    let flood = tokio::spawn(async move {
        // Far more than all windows and queues together hold.
        for _ in 0..2000 {
            let ack_ids = vec![Bytes::from_static(&[9; 24]); 5000];
            let frame = v1::SubscribeRequest { frame: Some(Frame::Ack(v1::Acknowledge { ack_ids })) };
            if say.send(frame).await.is_err() {
                return;
            }
        }
        panic!("all of it was taken");
    });
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = rig.sidecar.stats.lost_acks.get();
        if now > 0 && now == before {
            break;
        }
        before = now;
    }
    assert!(before < 2_000_000, "{before}");
    rig.publish("orders", ["others are served".to_owned()]).await;
    drop(subscription);
    flood.abort();
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_holds_a_bounded_number_of_bytes() {
    let limits = Limits { window_bytes: 2 * 1024 * 1024, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    rig.publish("orders", (0..100).map(|_| "x".repeat(100_000))).await;
    let subscription = rig.subscribe("g", "orders", 100).await;
    eventually("some are held", || rig.sidecar.stats.held_bytes.get() > 0).await;
    // The cluster in memory hands out whatever it is asked for: one poll may go over the bound, not two.
    eventually("deliveries have stopped", || {
        let (before, held) = (rig.sidecar.stats.delivered.get(), rig.sidecar.stats.held_bytes.get());
        std::thread::sleep(Duration::from_millis(100));
        held > 0 && before == rig.sidecar.stats.delivered.get()
    })
    .await;
    assert!(rig.sidecar.stats.delivered.get() < 100);
    drop(subscription);
}

#[tokio::test]
async fn a_reader_of_events_that_does_not_read_holds_a_bounded_number_of_bytes() {
    let limits = Limits { window_bytes: 2 * 1024 * 1024, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    rig.publish("orders", (0..100).map(|_| "x".repeat(100_000))).await;
    let mut open = Vec::new();
    for query in ["group=g&window=1000", "mode=broadcast"] {
        let mut stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
        let head = format!("GET /v1/topics/orders/events?{query} HTTP/1.1\r\nhost: x\r\n\r\n");
        soon(stream.write_all(head.as_bytes())).await.expect("writes");
        open.push(stream);
    }
    eventually("some were sent", || rig.sidecar.stats.delivered.get() > 0).await;
    eventually("deliveries have stopped", || {
        let before = rig.sidecar.stats.delivered.get();
        std::thread::sleep(Duration::from_millis(100));
        before == rig.sidecar.stats.delivered.get()
    })
    .await;
    assert!(rig.sidecar.stats.delivered.get() < 200);
    rig.publish("orders", ["others are served".to_owned()]).await;
    drop(open);
    eventually("they are gone", || rig.sidecar.stats.subscriptions.get() == 0).await;
}

#[tokio::test]
async fn whoever_reads_no_outcomes_of_transactions_is_not_read_from() {
    const MANY: u64 = 20_000;
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let (say, said) = mpsc::channel(64);
    let _unread = soon(rig.transactions().transact(ReceiverStream::new(said))).await.expect("opens");
    let mut stuck = false;
    for transaction_id in 0..MANY {
        // The outcome of each has a few kilobytes.
        let messages = vec![message("orders", "x"); 200];
        let frames = [
            Transact::Begin(v1::TransactBegin { transaction_id, timeout: None }),
            Transact::Publish(v1::TransactPublish { messages }),
            Transact::Commit(v1::TransactCommit {}),
        ];
        for frame in frames {
            let sending = say.send(v1::TransactRequest { frame: Some(frame) });
            match tokio::time::timeout(Duration::from_secs(1), sending).await {
                Ok(sent) => sent.expect("the stream goes on"),
                Err(_) => stuck = true,
            }
        }
        if stuck {
            break;
        }
    }
    assert!(stuck, "all of it was taken");
    rig.publish("orders", ["others are served".to_owned()]).await;
}

#[tokio::test]
async fn half_sent_frames_neither_fill_memory_nor_stop_others() {
    let limits = Limits { partial_bytes: 2_000_000, partial_time: Duration::from_secs(2), ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    let mut half_sent = Vec::new();
    for _ in 0..50 {
        let mut stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
        let head = "POST /v1/topics/orders/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n";
        soon(stream.write_all(head.as_bytes())).await.expect("writes");
        half_sent.push(tokio::spawn(async move {
            let sent = stream.write_all(&vec![0; 800_000]).await;
            (stream, sent)
        }));
    }
    eventually("the bound is reached", || rig.sidecar.stats.partial_bytes.get() > 1_500_000).await;
    assert!(rig.sidecar.stats.partial_bytes.get() <= 2_000_000);
    rig.publish("orders", ["small ones go through".to_owned()]).await;
    // They are given up in time, and then large ones go through as well, whether or not the others are still connected.
    rig.publish("orders", ["x".repeat(900_000)]).await;
    eventually("their room is free again", || rig.sidecar.stats.partial_bytes.get() == 0).await;
    drop(half_sent);
}

#[tokio::test]
async fn connections_that_talk_nonsense_or_nothing_do_no_harm() {
    let rig = rig(MemoryCluster::new().with_topic("orders", 1)).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects"));
    }
    let nonsense: [&[u8]; 5] = [
        b"\x00\x00\x00\x00",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\nzzzzzzzzz",
        b"GET\r\n\r\n",
        b"\xff\xfe\xfd",
        b"POST /v1/publish HTTP/9.9\r\n\r\n",
    ];
    for bytes in nonsense {
        let mut stream = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects");
        soon(stream.write_all(bytes)).await.expect("writes");
        stream.shutdown().await.expect("shuts down");
        let mut answer = Vec::new();
        // Answered or cut off, but not kept.
        let _ = soon(stream.read_to_end(&mut answer)).await;
    }
    rig.publish("orders", ["others are served".to_owned()]).await;
    drop(silent);
    eventually("only the test's own connection is left", || rig.sidecar.stats.connections.get() == 1).await;
}

#[tokio::test]
async fn at_the_bound_new_connections_wait_for_old_ones_to_go() {
    let limits = Limits { connections: 3, ..Limits::default() };
    let rig = rig_with(MemoryCluster::new().with_topic("orders", 1), limits).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(soon(TcpStream::connect(rig.sidecar.addr)).await.expect("connects"));
    }
    eventually("the bound is reached", || rig.sidecar.stats.connections.get() == 3).await;
    rig.publish("orders", ["open connections are served".to_owned()]).await;
    let waiting = soon(TcpStream::connect(rig.sidecar.addr)).await.expect("the kernel accepts");
    let answer = tokio::spawn(exchange(waiting, "GET", "/livez", &[], b""));
    assert_eq!(rig.sidecar.stats.connections.get(), 3);
    drop(idle);
    assert_eq!(soon(answer).await.expect("ends").0, 200);
}
