//! Connections that the node opens, on both drivers.

use std::os::fd::OwnedFd;

use super::*;

/// Has a server dial.
fn dial(server: &Server, host: &str, port: u16) -> TcpStream {
    let mut control = server.connect();
    command(&mut control, &format!("dial {host} {port}"));
    control
}

fn command(control: &mut TcpStream, command: &str) {
    control.write_all(&frame(command.as_bytes())).unwrap();
    assert_eq!(read_frame(control), command.as_bytes(), "echoed");
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// The outcome of the only dial.
fn outcome(server: &Server) -> Result<(), ConnectError> {
    until("the dial has an outcome", || !server.counts.dials.lock().unwrap().is_empty());
    let mut dials = server.counts.dials.lock().unwrap();
    assert_eq!(dials.len(), 1);
    dials.remove(0)
}

#[test]
fn a_dialled_connection_carries_frames_both_ways_until_the_peer_dies() {
    both(&NetConfig::default(), 100, |server| {
        for host in ["127.0.0.1", "localhost"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let _control = dial(server, host, listener.local_addr().unwrap().port());
            let mut peer = accept(&listener);
            assert_eq!(read_frame(&mut peer), b"hello");
            assert_eq!(outcome(server), Ok(()));
            for size in [3, 100_000, 4_000_000] {
                peer.write_all(&frame(&body(size, 5))).unwrap();
                until("it was heard", || !server.counts.heard.lock().unwrap().is_empty());
                assert!(server.counts.heard.lock().unwrap().remove(0) == body(size, 5));
            }
            let gone = server.counts.disconnected.load(Ordering::SeqCst);
            drop(peer);
            until("the peer's death is noticed", || server.counts.disconnected.load(Ordering::SeqCst) > gone);
        }
    });
}

#[test]
fn a_dialled_connection_can_be_closed_and_ends_with_its_driver() {
    both(&NetConfig::default(), 100, |server| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut control = dial(server, "127.0.0.1", port);
        let mut peer = accept(&listener);
        assert_eq!(read_frame(&mut peer), b"hello");
        command(&mut control, "hang up");
        ends(&mut peer);
        command(&mut control, &format!("dial 127.0.0.1 {port}"));
        assert_eq!(read_frame(&mut accept(&listener)), b"hello");
        // One more, left open for the driver's end.
        command(&mut control, &format!("dial 127.0.0.1 {port}"));
    });
}

#[test]
fn a_peer_that_is_not_there_refuses_and_a_name_that_is_none_is_unreachable() {
    both(&NetConfig::default(), 100, |server| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _control = dial(server, "localhost", port);
        assert_eq!(outcome(server), Err(ConnectError::Refused));
        for nowhere in ["no-such-host.invalid", ""] {
            let _control = dial(server, nowhere, port);
            assert!(matches!(outcome(server), Err(ConnectError::Unreachable(_))), "{nowhere}");
        }
    });
}

/// A listener that answers nobody: its backlog is full.
fn silent_listener() -> (TcpListener, Vec<OwnedFd>) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, listen, socket_with};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&listener, 0).unwrap();
    let addr = listener.local_addr().unwrap();
    let fill = (0..4).map(|_| {
        let socket =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
                .unwrap();
        let _in_progress = connect(&socket, &addr);
        socket
    });
    let fill = fill.collect();
    (listener, fill)
}

#[test]
fn a_silent_peer_is_unreachable_after_a_time() {
    both(&NetConfig::default(), 100, |server| {
        let (listener, _fill) = silent_listener();
        let _control = dial(server, "127.0.0.1", listener.local_addr().unwrap().port());
        assert!(matches!(outcome(server), Err(ConnectError::Unreachable(_))));
    });
}

#[test]
fn a_close_cancels_dials_under_way_and_those_that_wait() {
    both(&NetConfig::default(), 100, |server| {
        let (listener, _fill) = silent_listener();
        let mut control = dial(server, "127.0.0.1", listener.local_addr().unwrap().port());
        for _ in 0..dialer::MAX_DIALS + 10 {
            command(&mut control, &format!("dial 127.0.0.1 {}", listener.local_addr().unwrap().port()));
        }
        command(&mut control, "hang up");
        // The next one is served when the threads of the others are through with theirs, which nobody hears of.
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        command(&mut control, &format!("dial 127.0.0.1 {}", other.local_addr().unwrap().port()));
        assert_eq!(read_frame(&mut accept(&other)), b"hello");
        assert_eq!(outcome(server), Ok(()));
        // Some are left for the driver's end.
        for _ in 0..dialer::MAX_DIALS + 10 {
            command(&mut control, &format!("dial 127.0.0.1 {}", listener.local_addr().unwrap().port()));
        }
    });
}
