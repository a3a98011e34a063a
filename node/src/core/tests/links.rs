//! Connections of other nodes beside those of clients.

use wherry_wire::codec::messages::ApiVersionsRequest;

use super::*;
use crate::cluster::links::{Class, LinkEvent, Links, SendError};
use crate::config::{ClusterConfig, Voter};
use crate::error::ConnectError;

fn clustered(node_id: i32) -> NodeConfig {
    let voter = |node_id: i32| Voter { node_id, host: format!("node-{node_id}"), port: 9092 };
    let cluster = ClusterConfig {
        voters: vec![voter(0), voter(1), voter(2)],
        seeds: vec!["seed:7".into()],
        authentication: None,
    };
    let mut config = NodeConfig { node_id, cluster: Some(cluster), cluster_id: Some("boats".into()), ..config() };
    config.limits.connections = 1;
    config
}

fn started(node_id: i32) -> Node {
    let mut node = node_with(clustered(node_id));
    node.take_effects();
    node
}

/// Node 0's dial to node 1 succeeds: its connection and the one that node 1 sees.
fn dial(from: &mut Node, to: &mut Node) -> (ConnId, ConnId) {
    let at = from.dialled.iter().position(|(_, host, _)| host == "node-1").unwrap();
    let (out, _, _) = from.dialled.remove(at);
    from.core.connect_done(from.now, out, Ok(()));
    from.take_effects();
    (out, to.connect())
}

/// Carries frames until nobody has any.
fn relay(ends: [(&mut Node, ConnId); 2]) {
    let [(a, at_a), (b, at_b)] = ends;
    loop {
        let next = |node: &mut Node, at: ConnId| node.seen.entry(at).or_default().frames.pop_front();
        match (next(a, at_a), next(b, at_b)) {
            (None, None) => return,
            (from_a, from_b) => {
                from_a.into_iter().for_each(|frame| b.send_frame(at_b, frame));
                from_b.into_iter().for_each(|frame| a.send_frame(at_a, frame));
            }
        }
    }
}

fn links(node: &mut Node) -> &mut Links {
    node.core.links.as_mut().unwrap()
}

#[test]
fn a_node_dials_the_others_that_its_settings_name() {
    let node = started(0);
    let dialled: Vec<_> = node.dialled.iter().map(|(_, host, port)| (host.as_str(), *port)).collect();
    assert_eq!(dialled, [("node-1", 9092), ("node-2", 9092), ("seed", 7)]);
    assert!(node_with(config()).dialled.is_empty());
}

#[test]
fn two_nodes_link_and_their_link_counts_as_no_client() {
    let (mut a, mut b) = (started(0), started(1));
    let (out, incoming) = dial(&mut a, &mut b);
    assert!(b.core.connected(b.now, "10.1.2.3:1".parse().unwrap()).is_err(), "one client is the bound");
    relay([(&mut a, out), (&mut b, incoming)]);
    assert_eq!((a.core.stats().links.get(), b.core.stats().links.get()), (1, 1));
    assert_eq!(b.promoted, [incoming]);
    let client = b.connect();
    b.ask(client, 3, &ApiVersionsRequest::default());
    let long = Bytes::from(vec![1; 9 << 20]);
    a.core.with_links(|links, _| links.send(1, Class::Control, vec![long.clone()]).unwrap());
    let queued_link = links(&mut a).link_to(1, Class::Control).unwrap();
    a.take_effects();
    assert_eq!(links(&mut a).queued(queued_link), 0, "the driver said that they are gone");
    relay([(&mut a, out), (&mut b, incoming)]);
    assert!(b.closed(incoming).is_none() && !b.seen[&incoming].paused);
    assert_eq!(b.core.stats().request_bytes_in_flight.get(), 0);
}

#[test]
fn a_lost_link_is_dialled_again_when_its_time_has_come() {
    let (mut a, mut b) = (started(0), started(1));
    let (out, incoming) = dial(&mut a, &mut b);
    relay([(&mut a, out), (&mut b, incoming)]);
    a.core.disconnected(out);
    b.core.disconnected(incoming);
    assert_eq!((a.core.stats().links.get(), b.core.stats().links.get()), (0, 0));
    let refused = links(&mut a).send(1, Class::Control, vec![Bytes::new()]);
    assert_eq!(refused, Err(SendError::NotConnected));
    let at = a.core.next_deadline().unwrap();
    assert!(at <= a.now.monotonic_ns + 50_000_000);
    a.advance_ms(50);
    a.turn();
    let (out, incoming) = dial(&mut a, &mut b);
    relay([(&mut a, out), (&mut b, incoming)]);
    assert_eq!(a.core.stats().links.get(), 1);
    // The other one hangs: both give it up by the clock alone.
    for node in [&mut a, &mut b] {
        node.advance_ms(2_000);
        node.turn();
        assert_eq!(node.core.stats().links.get(), 0);
    }
    assert!(a.closed(out).unwrap().contains("silent") && b.closed(incoming).unwrap().contains("silent"));
}

#[test]
fn dials_that_fail_are_forgotten_and_repeated() {
    let mut node = started(0);
    for round in 0..20 {
        assert!(!node.dialled.is_empty(), "nothing in round {round}");
        for (conn, _, _) in std::mem::take(&mut node.dialled) {
            node.core.connect_done(node.now, conn, Err(ConnectError::Refused));
            node.core.connect_done(node.now, conn, Ok(()));
        }
        node.advance_ms(1_000);
        node.turn();
    }
}

#[test]
fn a_node_without_a_cluster_takes_no_links() {
    let (mut a, mut b) = (started(0), node_with(config()));
    let (out, incoming) = dial(&mut a, &mut b);
    relay([(&mut a, out), (&mut b, incoming)]);
    assert!(b.closed(incoming).unwrap().contains("part of no cluster"));
}

#[test]
fn a_node_of_another_cluster_is_told_why() {
    let mut other = clustered(1);
    other.cluster_id = Some("ships".into());
    let (mut a, mut b) = (started(0), node_with(other));
    let (out, incoming) = dial(&mut a, &mut b);
    relay([(&mut a, out), (&mut b, incoming)]);
    assert!(b.closed(incoming).unwrap().contains("'boats'"));
    assert!(a.closed(out).unwrap().contains("'ships'"));
}

#[test]
fn a_client_does_not_turn_into_a_node() {
    let (mut a, mut b) = (started(0), started(1));
    let (out, client) = dial(&mut a, &mut b);
    b.ask(client, 3, &ApiVersionsRequest::default());
    relay([(&mut a, out), (&mut b, client)]);
    assert!(b.closed(client).is_some());
    assert_eq!(b.core.stats().links.get(), 0);
    assert_eq!(b.core.links.as_mut().and_then(Links::next_event), None::<LinkEvent>);
}
