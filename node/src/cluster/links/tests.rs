//! Links between nodes on a network in memory.

mod net;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::frame::{Frame, Hello, encode};
use super::link::{DEAD_AFTER_NS, PING_AFTER_NS};
use super::*;
pub(super) use net::identity;
use net::{Door, MS, Net, QUEUE, body, seed, target};

/// Two nodes with a control link from the first to the second.
fn pair() -> Net {
    let mut net = Net::new(2);
    net.targets(0, &[target(1, Class::Control)]);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("+1c>", "+0c<"));
    net
}

#[test]
fn both_sides_learn_who_is_there() {
    let mut net = Net::new(2);
    net.targets(0, &[target(0, Class::Control), target(1, Class::Control)]);
    let expected = [identity(1, 2), identity(0, 1)];
    for (node, expected) in expected.into_iter().enumerate() {
        let events = net.take_events(node);
        assert!(matches!(&events[..], [LinkEvent::Up { peer, .. }] if *peer == expected), "{events:?}");
    }
    assert_eq!(net.nodes[0].dials.len(), 1, "a node does not dial itself");
}

#[test]
fn control_links_carry_the_diallers_messages_and_data_links_both_ways() {
    let mut net = Net::new(3);
    for node in 0..3 {
        net.targets(node, &[0, 1, 2].map(|n| target(n, Class::Control)));
    }
    net.targets(2, &[target(0, Class::Control), target(1, Class::Control), target(0, Class::Data)]);
    (0..3).for_each(|node| drop(net.take_events(node)));
    net.say(0, 1, Class::Control, "a").unwrap();
    net.say(1, 0, Class::Control, "b").unwrap();
    net.say(2, 0, Class::Data, "c").unwrap();
    assert_eq!(net.say(0, 2, Class::Data, "d"), Err(SendError::NotConnected), "node 0 dialled none");
    assert_eq!(net.messages(1), [(0, Class::Control, "a".into())]);
    let events = net.take_events(0);
    let LinkEvent::Message { link, node: 2, class: Class::Data, .. } = &events[1] else { panic!("{events:?}") };
    net.nodes[0].links.send_to(*link, body("e")).unwrap();
    net.settle();
    assert_eq!(net.messages(2), [(0, Class::Data, "e".into())]);
    let LinkEvent::Message { link, class: Class::Control, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!(net.nodes[0].links.send_to(*link, body("f")), Err(SendError::OneWay));
}

#[test]
fn long_messages_arrive_whole_and_too_long_ones_are_refused() {
    let mut net = pair();
    let long = Bytes::from(vec![7; 13 << 20]);
    net.nodes[0].links.send(1, Class::Control, vec![long.clone(), long.slice(..5)]).unwrap();
    net.settle();
    let events = net.take_events(1);
    assert!(matches!(&events[..], [LinkEvent::Message { body, .. }] if body.len() == long.len() + 5));
    let too_long = net.nodes[0].links.send(1, Class::Control, vec![long.clone(), long]);
    assert_eq!(too_long, Err(SendError::TooLong { bytes: 26 << 20 }));
}

/// What the dialler hears from node 1 after node 0's identity was spoiled.
fn refused(spoil: impl FnOnce(&mut Identity), target: Target) -> Net {
    let mut net = Net::new(2);
    let mut me = identity(0, 1);
    spoil(&mut me);
    net.nodes[0] = Net::node(me);
    net.targets(0, &[target]);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("", ""));
    net
}

#[test]
fn strangers_get_a_reason() {
    let spoil: fn(&mut Identity) = |me| me.cluster_id = Some("ships".into());
    let net = refused(spoil, target(1, Class::Control));
    assert!(net.nodes[0].closes[0].contains("'ships'"), "{:?}", net.nodes[0].closes);
    let net = refused(|_| (), Target { node: Some(5), ..target(1, Class::Data) });
    assert!(net.nodes[0].closes[0].contains("not node 5"), "{:?}", net.nodes[0].closes);
    let net = refused(|me| me.node = 1, Target { node: None, ..target(1, Class::Data) });
    assert!(net.nodes[0].closes[0].contains("itself"), "{:?}", net.nodes[0].closes);
}

#[test]
fn nodes_without_a_cluster_may_talk_until_they_belong_to_different_ones() {
    let mut net = Net::new(3);
    for node in [0, 1] {
        let lone = Identity { cluster_id: None, initialised: false, ..net.nodes[node].links.me().clone() };
        net.nodes[node] = Net::node(lone);
    }
    net.targets(0, &[target(1, Class::Control), target(2, Class::Control)]);
    let events = net.take_events(0);
    let state = |event: &LinkEvent| match event {
        LinkEvent::Up { peer, .. } => (peer.node, peer.cluster_id.clone(), peer.initialised),
        other => panic!("{other:?}"),
    };
    let states: Vec<_> = events.iter().map(state).collect();
    assert_eq!(states, [(1, None, false), (2, Some("boats".into()), true)]);
    let now_ns = net.now_ns;
    net.nodes[0].links.set_cluster(now_ns, "ships".into(), true);
    net.settle();
    assert_eq!(net.story(0), "-2c>");
    assert_eq!(net.nodes[0].links.me().cluster_id.as_deref(), Some("ships"));
}

#[test]
fn a_seed_tells_its_id_and_its_link_stays_when_it_is_a_target_by_id() {
    let mut net = Net::new(2);
    net.targets(0, &[seed(1), seed(0)]);
    assert_eq!(net.story(0), "+1c>", "dialling itself comes to nothing");
    net.say(0, 1, Class::Control, "known by now").unwrap();
    net.targets(0, &[target(1, Class::Control)]);
    net.pass_ms(3_000);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("", "+0c<"));
    net.say(0, 1, Class::Control, "still").unwrap();
}

#[test]
fn a_seed_that_is_a_target_too_does_not_displace_its_link() {
    let mut net = Net::new(2);
    net.targets(0, &[target(1, Class::Control), seed(1)]);
    net.pass_ms(5_000);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("+1c>", "+0c<"));
    assert!(net.nodes[0].dials.len() < 20, "{} dials", net.nodes[0].dials.len());
}

#[test]
fn who_is_no_target_any_more_is_closed_and_a_new_address_is_dialled() {
    let mut net = pair();
    net.targets(0, &[Target { port: 2, ..target(1, Class::Control) }]);
    assert_eq!(net.story(0), "-1c> +1c>");
    net.story(1);
    net.targets(0, &[]);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("-1c>", "-0c<"));
    net.pass_ms(5_000);
    assert_eq!(net.nodes[0].dials.len(), 2);
}

#[test]
fn the_first_of_two_addresses_of_a_node_counts() {
    let mut net = Net::new(2);
    for _ in 0..3 {
        net.targets(0, &[target(1, Class::Control), Target { port: 9, ..target(1, Class::Control) }]);
    }
    assert_eq!((net.story(0).as_str(), net.nodes[0].dials.len()), ("+1c>", 1));
}

#[test]
fn dials_are_repeated_with_growing_and_jittered_delays() {
    let mut net = Net::new(2);
    net.nodes[1].door = Door::Refuses;
    net.targets(0, &[target(1, Class::Data)]);
    net.pass_ms(10_000);
    let dials = &net.nodes[0].dials;
    let delays: Vec<u64> = dials.windows(2).map(|pair| (pair[1] - pair[0]) / MS).collect();
    for (at, delay) in delays.iter().enumerate() {
        let cap = (50 << at.min(5)).min(1_000);
        assert!((cap / 2..=cap).contains(delay), "delay {at} is {delay} ms");
    }
    assert!(delays.len() > 12 && delays[6..].windows(2).any(|pair| pair[0] != pair[1]), "{delays:?}");
    let story = net.story(0);
    assert!(story.split(' ').all(|word| word == "!1d>") && story.len() > 40, "{story}");
    net.nodes[1].door = Door::Open;
    net.pass_ms(1_000);
    assert!(net.story(0).ends_with("+1d>"));
}

#[test]
fn a_good_link_that_is_lost_is_dialled_soon() {
    let mut net = pair();
    net.pass_ms(1_500);
    let link = net.nodes[0].links.link_to(1, Class::Control).unwrap();
    let lost_ns = net.now_ns;
    net.nodes[1].door = Door::Refuses;
    net.hang_up(1, net.conns[0].ends[1].1.unwrap());
    net.pass_ms(100);
    assert!(net.nodes[0].dials[1] - lost_ns <= 50 * MS);
    assert!(net.story(0).starts_with("-1c> !1c>"), "at most 50 ms later it is known that nobody is there");
    net.nodes[1].door = Door::Open;
    net.pass_ms(1_000);
    assert_ne!(net.nodes[0].links.link_to(1, Class::Control), Some(link));
}

#[test]
fn a_dial_and_a_hello_that_nobody_answers_end() {
    let mut net = Net::new(2);
    net.nodes[1].door = Door::Silent;
    net.targets(0, &[target(1, Class::Data)]);
    net.pass_ms(10_000);
    assert!((3..=4).contains(&net.nodes[0].dials.len()), "{:?}", net.nodes[0].dials);
    assert!(net.nodes[0].closes.iter().all(|why| why.contains("in time")));
    assert_eq!(net.story(0), "", "a silent address is no proof of anything");
}

#[test]
fn quiet_links_stay_and_silent_peers_are_given_up() {
    let mut net = pair();
    net.pass_ms(600_000);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("", ""));
    net.conns[0].stalled = true;
    let began_ns = net.now_ns;
    net.pass_ms((DEAD_AFTER_NS - PING_AFTER_NS) / MS - 1);
    assert_eq!(net.story(0), "", "too early");
    net.pass_ms(PING_AFTER_NS / MS + 200);
    assert_eq!((net.story(0).as_str(), net.story(1).as_str()), ("-1c> +1c>", "-0c< +0c<"));
    assert!(net.nodes[0].dials[1] - began_ns <= DEAD_AFTER_NS + 100 * MS);
}

#[test]
fn who_takes_bytes_is_alive() {
    let mut net = pair();
    net.conns[0].stalled = true;
    let link = net.nodes[0].links.link_to(1, Class::Control).unwrap();
    net.say(0, 1, Class::Control, &"x".repeat(QUEUE)).unwrap();
    for _ in 0..10 {
        net.now_ns += 1_000 * MS;
        let now_ns = net.now_ns;
        net.nodes[0].links.sent(now_ns, link, 100);
        net.nodes[0].links.turn(now_ns);
        net.settle();
    }
    assert_eq!(net.story(0), "");
    net.pass_ms(2_000);
    assert!(net.story(0).starts_with("-1c>"));
}

#[test]
fn a_newer_process_supersedes_the_links_of_the_older() {
    let mut net = Net::new(2);
    net.targets(0, &[target(1, Class::Control), target(1, Class::Data)]);
    net.targets(1, &[target(0, Class::Control)]);
    (0..2).for_each(|node| drop(net.take_events(node)));
    let old: Vec<LinkId> = net.conns.iter().flat_map(|c| c.ends).filter_map(|(n, l)| l.filter(|_| n == 1)).collect();
    let old = old[0];
    let late = net.conns[0].ends[1];
    assert_eq!(late.1, Some(old));
    net.restart(0);
    net.targets(0, &[target(1, Class::Control)]);
    let story = net.story(1);
    assert_eq!(story, "-0c< -0d< -0c> +0c<", "both of the old process's, and this node's own to it");
    let now_ns = net.now_ns;
    let [header, message] = <[Bytes; 2]>::try_from(encode(&Frame::Message(Bytes::from_static(b"late")))).unwrap();
    net.nodes[1].links.received(now_ns, old, [header, message].concat().split_off(4).into());
    net.settle();
    assert_eq!(net.messages(1), []);
    net.pass_ms(200);
    assert_eq!(net.story(1), "+0c>");
}

#[test]
fn a_superseded_process_has_no_way_back() {
    let mut net = Net::new(2);
    let hello = |incarnation| {
        hello_bytes(Hello { sender: identity(0, incarnation), to: Some(1), class: Class::Data, nonce: [0; 32] })
    };
    let accept = |net: &mut Net, frame| {
        let now_ns = net.now_ns;
        net.nodes[1].links.accept(now_ns, frame, None).map_err(|refusal| refusal.reason)
    };
    for incarnation in 1..=5 {
        accept(&mut net, hello(incarnation)).unwrap();
    }
    for incarnation in 1..5 {
        assert!(accept(&mut net, hello(incarnation)).unwrap_err().contains("newer process"));
    }
    accept(&mut net, hello(5)).unwrap();
    net.settle();
    assert_eq!(net.story(1), "+0d< -0d< +0d< -0d< +0d< -0d< +0d< -0d< +0d< -0d< +0d<");
    assert_eq!(net.nodes[1].links.count(), 1);
}

fn hello_bytes(hello: Hello) -> Bytes {
    Bytes::from(encode(&Frame::Hello(hello)).concat()).slice(4..)
}

#[test]
fn a_full_queue_refuses_and_one_message_always_goes() {
    let mut net = pair();
    net.conns[0].stalled = true;
    net.say(0, 1, Class::Control, &"x".repeat(2 * QUEUE)).unwrap();
    let queued = net.nodes[0].links.queued(net.nodes[0].links.link_to(1, Class::Control).unwrap());
    assert_eq!(net.say(0, 1, Class::Control, "y"), Err(SendError::Full { queued }));
    assert!((2 * QUEUE..2 * QUEUE + 100).contains(&queued));
    let (link, now_ns) = (net.nodes[0].links.link_to(1, Class::Control).unwrap(), net.now_ns);
    net.nodes[0].links.sent(now_ns, link, queued - 10);
    net.say(0, 1, Class::Control, "y").unwrap();
}

#[test]
fn a_peer_that_asks_without_end_does_not_fill_the_queue() {
    let mut net = pair();
    net.conns[0].stalled = true;
    let (now_ns, link) = (net.now_ns, net.conns[0].ends[1].1.unwrap());
    let ping = Bytes::from(encode(&Frame::Ping).concat()).slice(4..);
    for _ in 0..1_000 {
        net.nodes[1].links.received(now_ns, link, ping.clone());
    }
    assert!(net.nodes[1].links.queued(link) < 20);
}

#[test]
fn frames_out_of_place_and_garbage_end_the_link() {
    let frames = [
        Frame::Hello(Hello { sender: identity(1, 2), to: None, class: Class::Data, nonce: [0; 32] }),
        Frame::Welcome(identity(1, 2)),
        Frame::Reject { reason: frame::Reason::Full, text: "late".into() },
        Frame::Message(Bytes::from_static(b"the wrong way")),
        Frame::Part(Bytes::from_static(b"the wrong way")),
    ];
    let mut bytes: Vec<Bytes> = frames.iter().map(|f| Bytes::from(encode(f).concat()).slice(4..)).collect();
    bytes.extend([Bytes::new(), Bytes::from_static(&[0x75, 0x30]), Bytes::from_static(&[0x75, 0x30, 99])]);
    for frame in bytes {
        let mut net = pair();
        let (now_ns, link) = (net.now_ns, net.nodes[0].links.link_to(1, Class::Control).unwrap());
        net.nodes[0].links.received(now_ns, link, frame.clone());
        net.settle();
        assert_eq!(net.story(0), "-1c>", "{frame:?}");
    }
}

#[test]
fn a_message_without_end_ends_the_link() {
    let mut net = pair();
    let (now_ns, link) = (net.now_ns, net.conns[0].ends[1].1.unwrap());
    let part = Bytes::from(encode(&Frame::Part(vec![0; 1 << 20].into())).concat()).slice(4..);
    for _ in 0..21 {
        net.nodes[1].links.received(now_ns, link, part.clone());
    }
    net.settle();
    assert!(net.story(1).starts_with("-0c<"));
}

#[test]
fn hostile_first_frames_get_a_reason_and_no_link() {
    let mut net = Net::new(2);
    let good = hello_bytes(Hello { sender: identity(0, 1), to: Some(1), class: Class::Data, nonce: [0; 32] });
    let mut class = good.to_vec();
    let at = class.len() - 33;
    class[at] = 77;
    let mut version = good.to_vec();
    version[4] = 9;
    let negative = hello_bytes(Hello { sender: identity(-3, 1), to: Some(1), class: Class::Data, nonce: [0; 32] });
    let cases: [(Bytes, &str); 6] = [
        (class.into(), "class 77"),
        (version.into(), "version 9"),
        (negative, "negative"),
        (good.slice(..20), "cut short"),
        (Bytes::from(encode(&Frame::Ping).concat()).slice(4..), "must be a Hello"),
        (Bytes::from_static(&[0x75]), "cut short"),
    ];
    let now_ns = net.now_ns;
    for (frame, word) in cases {
        let refusal = net.nodes[1].links.accept(now_ns, frame, None).unwrap_err();
        assert!(refusal.reason.contains(word), "{} instead of {word}", refusal.reason);
        assert!(matches!(frame::decode(Bytes::from(refusal.chunks.concat()).slice(4..)), Ok(Frame::Reject { .. })));
    }
    assert_eq!(net.nodes[1].links.count(), 0);
}

#[test]
fn links_of_many_strangers_are_bounded() {
    let mut net = Net::new(2);
    let now_ns = net.now_ns;
    let mut refused = 0;
    for node in 10..10 + 2 * i32::try_from(crate::limits::MAX_LINKS).unwrap() {
        let hello = hello_bytes(Hello { sender: identity(node, 1), to: None, class: Class::Data, nonce: [0; 32] });
        refused += usize::from(net.nodes[1].links.accept(now_ns, hello, None).is_err());
    }
    assert_eq!((net.nodes[1].links.count(), refused), (crate::limits::MAX_LINKS, crate::limits::MAX_LINKS));
}

#[test]
fn every_up_has_one_down_whatever_happens() {
    let random = crate::entropy::Entropy::seeded(11);
    let mut net = Net::new(3);
    let all: Vec<Target> = (0..3).flat_map(|n| [target(n, Class::Control), target(n, Class::Data), seed(n)]).collect();
    let mut up: BTreeMap<(usize, LinkId), bool> = BTreeMap::new();
    for _ in 0..3_000 {
        let node = usize::try_from(random.seed() % 3).unwrap();
        match random.seed() % 8 {
            0 => {
                let some: Vec<Target> = all.iter().filter(|_| random.seed().is_multiple_of(2)).cloned().collect();
                net.targets(node, &some);
            }
            1 => net.nodes[node].door = [Door::Open, Door::Refuses, Door::Silent][(random.seed() % 3) as usize],
            2 => net.conns.iter_mut().for_each(|conn| conn.stalled |= random.seed().is_multiple_of(4)),
            3 => net.nodes[node].door = Door::Open,
            _ => net.pass_ms(random.seed() % 700),
        }
        for node in 0..3 {
            for event in net.take_events(node) {
                match event {
                    LinkEvent::Up { link, .. } => assert_eq!(up.insert((node, link), true), None),
                    LinkEvent::Down { refused: true, link, .. } => assert_eq!(up.get(&(node, link)), None),
                    LinkEvent::Down { link, .. } => assert_eq!(up.insert((node, link), false), Some(true)),
                    LinkEvent::Message { .. } => {}
                }
            }
            let alive = up.iter().filter(|((n, _), up)| *n == node && **up).count();
            assert_eq!(alive, net.nodes[node].links.count());
        }
    }
    assert!(up.len() > 100, "{} links only", up.len());
    net.conns.retain(|conn| conn.ends[0].1.is_some());
    net.nodes.iter_mut().for_each(|node| node.door = Door::Open);
    for node in 0..3 {
        net.targets(node, &[0, 1, 2].map(|n| target(n, Class::Control)));
    }
    net.pass_ms(10_000);
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        net.say(from, to, Class::Control, "at last").unwrap();
    }
}

fn secret(text: &str) -> Trust {
    Trust::Secret(Some(LinkSecret::new(text.as_bytes()).unwrap()))
}

/// Two nodes that dial each other, with what each of them wants proven.
fn two(first: Trust, second: Trust) -> Net {
    let mut net = Net::new(2);
    for (n, trust) in [first, second].into_iter().enumerate() {
        let me = net.nodes[n].links.me().clone();
        net.nodes[n].links = net::trusting(me, trust);
    }
    net.targets(0, &[target(1, Class::Control)]);
    net.targets(1, &[target(0, Class::Control)]);
    net
}

#[test]
fn nodes_that_know_the_secret_are_linked() {
    let mut net = two(secret("the secret of the boats"), secret("the secret of the boats"));
    assert_eq!(net.story(0), "+1c> +1c<");
    assert_eq!(net.story(1), "+0c< +0c>");
    assert_eq!(net.say(0, 1, Class::Control, "hello"), Ok(()));
    assert_eq!(net.messages(1), [(0, Class::Control, "hello".to_owned())]);
}

#[test]
fn nodes_that_do_not_know_the_secret_are_not_linked() {
    for (first, second) in [
        (secret("the secret of the boats"), secret("the secret of the ships")),
        (secret("the secret of the boats"), Trust::Anybody),
        (secret("the secret of the boats"), Trust::Secret(None)),
        (Trust::Certificates { principals: Vec::new() }, Trust::Anybody),
    ] {
        let mut net = two(first, second);
        net.pass_ms(3_000);
        assert_eq!(net.story(0), "", "who wants a proof has no link without");
        assert_eq!(net.say(0, 1, Class::Control, "hello"), Err(SendError::NotConnected));
    }
}
