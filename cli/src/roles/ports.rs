//! Ports that are free at the moment, for nodes that must know each other's before they start.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, ensure};

/// Where the kernel begins to give ports to outgoing connections, if it does not say.
const EPHEMERAL: u16 = 32_768;
/// Below it are the ports of well-known services.
const LOWEST: u16 = 10_000;

/// So many different free ports on localhost.
///
/// They lie below those that the kernel gives to outgoing connections: whoever keeps trying to reach a node that is down
/// could be given that node's own port in the end, and hold it.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let end = first_ephemeral();
    let span = u32::from(end.saturating_sub(LOWEST).max(1));
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    let start = u32::try_from(random % u64::from(span)).unwrap_or(0);
    let candidates = (0..span).filter_map(|n| u16::try_from(u32::from(LOWEST) + (start + n) % span).ok());
    // Held until all are found, so that they differ.
    let held: Vec<_> = candidates.filter_map(|port| Some((port, bind(port)?))).take(count).collect();
    ensure!(held.len() == count, "no {count} free ports between {LOWEST} and {end}; stop something that listens there");
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// `first`, then the next ports above it that are free, in order.
pub(crate) fn ports_from(first: u16, count: usize) -> Result<Vec<u16>> {
    let more = (first..=u16::MAX).skip(1).filter(|port| bind(*port).is_some());
    let ports: Vec<_> = std::iter::once(first).chain(more).take(count).collect();
    ensure!(ports.len() == count, "no {count} free ports from {first} on; choose a lower --port");
    Ok(ports)
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}

fn first_ephemeral() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range
        .split_whitespace()
        .next()
        .and_then(|port| port.parse().ok())
        .filter(|port| *port > LOWEST)
        .unwrap_or(EPHEMERAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let mut ports = free_ports(5).unwrap();
        assert!(ports.iter().all(|port| bind(*port).is_some() && *port < first_ephemeral()));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 5);
    }

    #[test]
    fn a_taken_port_is_left_out() {
        let first = free_ports(1).unwrap()[0];
        let taken = bind(first + 1);
        let ports = ports_from(first, 3).unwrap();
        assert_eq!(ports[0], first);
        assert!(taken.is_none() || !ports.contains(&(first + 1)));
        assert!(ports_from(u16::MAX, 2).is_err());
    }
}
