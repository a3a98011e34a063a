//! Encrypted connections, accepted and dialled, on both drivers.

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConnection, StreamOwned};

use super::*;
use crate::security::certificates::Certificates;
use crate::security::config::ClientAuth;
use crate::security::principal::PeerCertificate;
use crate::security::test_certificates::Authority;

type Client = StreamOwned<ClientConnection, TcpStream>;

fn authority() -> Authority {
    let authority = Authority::new();
    for name in ["node", "client"] {
        authority.issue(name, None);
    }
    authority
}

/// As `both`, behind TLS.
fn both_secured(config: &NetConfig, authority: &Authority, auth: ClientAuth, test: impl Fn(&Server)) {
    let tls = Certificates::load(&authority.tls("node", auth), true).unwrap();
    let mut kinds = vec![Kind::Threads];
    kinds.extend(probe_uring().is_ok().then_some(Kind::Uring));
    for kind in kinds {
        let server = Server::secured(kind, config, 100, Some(tls.server()));
        test(&server);
        server.end().unwrap_or_else(|e| panic!("{kind:?}: {e}"));
    }
}

fn client(server: &Server, config: Arc<ClientConfig>) -> Client {
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), server.connect())
}

fn say(client: &mut Client, body: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(&frame(body))?;
    client.flush()?;
    let mut prefix = [0; 4];
    client.read_exact(&mut prefix)?;
    let mut answer = vec![0; u32::from_be_bytes(prefix) as usize];
    client.read_exact(&mut answer)?;
    Ok(answer)
}

#[test]
fn frames_of_every_size_pass() {
    let authority = authority();
    both_secured(&NetConfig::default(), &authority, ClientAuth::None, |server| {
        let mut client = client(server, authority.client(None));
        for size in [0, 1, 100, 16_383, 16_384, 16_385, 100_000, 5_000_000] {
            assert!(say(&mut client, &body(size, 3)).unwrap() == body(size, 3), "{size}");
        }
        assert_eq!(say(&mut client, b"close").unwrap(), b"close");
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).unwrap(), 0, "an end in good order, not a cut stream");
        assert_eq!(server.counts.secured.lock().unwrap().drain(..).map(|(_, s)| s.certificate).next(), Some(None));
    });
}

#[test]
fn a_peer_that_does_not_read_is_paused_and_gets_everything() {
    let authority = authority();
    // A write here may block for half a minute, once the node does not read any more: the node must not lose patience first.
    let config = NetConfig { send_timeout: Duration::from_secs(600), ..NetConfig::default() };
    both_secured(&config, &authority, ClientAuth::None, |server| {
        let mut client = client(server, authority.client(None));
        let sent = body(200_000, 9);
        let mut frames = 0;
        while server.counts.pauses.load(Ordering::SeqCst) == 0 {
            client.write_all(&frame(&sent)).unwrap();
            client.flush().unwrap();
            frames += 1;
        }
        for _ in 0..frames {
            let mut answer = vec![0; 4 + sent.len()];
            client.read_exact(&mut answer).unwrap();
            assert!(answer[4..] == sent);
        }
        assert_eq!(say(&mut client, b"hello").unwrap(), b"hello");
        assert!(server.counts.most_unsent.load(Ordering::SeqCst) < UNSENT_LIMIT + 2_000_000);
    });
}

#[test]
fn certificates_of_clients_are_told_and_may_be_required() {
    let (authority, foreign) = (authority(), authority());
    both_secured(&NetConfig::default(), &authority, ClientAuth::Required, |server| {
        let mut known = client(server, authority.client(Some("client")));
        assert_eq!(say(&mut known, b"hello").unwrap(), b"hello");
        let shown = server.counts.secured.lock().unwrap().pop().unwrap().1.certificate.unwrap();
        assert_eq!(PeerCertificate::read(&shown).unwrap().subject, "CN=client");
        let frames = server.counts.frames.load(Ordering::SeqCst);
        let mut nobody = client(server, authority.client(None));
        let refusal = say(&mut nobody, b"hello").unwrap_err().to_string();
        assert!(refusal.contains("CertificateRequired"), "{refusal}");
        let wrong = ClientConfig::clone(&foreign.client(Some("client")));
        // It trusts the node, but shows what another authority issued.
        let mut config = ClientConfig::clone(&authority.client(None));
        config.client_auth_cert_resolver = wrong.client_auth_cert_resolver;
        let mut stranger = client(server, Arc::new(config));
        let refusal = say(&mut stranger, b"hello").unwrap_err().to_string();
        assert!(refusal.contains("alert") && !refusal.contains("CertificateRequired"), "{refusal}");
        assert_eq!(server.counts.frames.load(Ordering::SeqCst), frames, "nothing of strangers got in");
    });
}

#[test]
fn what_is_no_handshake_ends_the_connection() {
    let authority = authority();
    both_secured(&NetConfig::default(), &authority, ClientAuth::None, |server| {
        let mut plain = server.connect();
        plain.write_all(&frame(b"hello")).unwrap();
        let mut rest = Vec::new();
        // An alert may come first.
        let _ended = plain.read_to_end(&mut rest);
        assert_eq!(server.counts.frames.load(Ordering::SeqCst), 0);
        until("the shard heard of it", || server.counts.disconnected.load(Ordering::SeqCst) == 1);
    });
}

#[test]
fn a_handshake_that_does_not_go_on_is_given_up() {
    let authority = authority();
    let config = NetConfig { greeting_timeout: Duration::from_millis(300), ..NetConfig::default() };
    both_secured(&config, &authority, ClientAuth::None, |server| {
        let mut silent = server.connect();
        ends(&mut silent);
        // Who is through with it may be as silent as it likes.
        let mut known = client(server, authority.client(None));
        assert_eq!(say(&mut known, b"hello").unwrap(), b"hello");
        let mut next = server.connect();
        ends(&mut next);
        assert_eq!(say(&mut known, b"hello").unwrap(), b"hello");
    });
}

#[test]
fn dialled_connections_are_encrypted_and_only_the_right_peer_is_spoken_to() {
    let (ours, theirs) = (authority(), authority());
    let tls = Certificates::load(&ours.tls("node", ClientAuth::None), true).unwrap();
    let config = NetConfig { dial_tls: tls.client(), ..NetConfig::default() };
    both(&config, 100, |server| {
        for (authority, known) in [(&ours, true), (&theirs, false)] {
            let accepting = Certificates::load(&authority.tls("node", ClientAuth::None), false).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut control = server.connect();
            let command = format!("dial localhost {}", listener.local_addr().unwrap().port());
            control.write_all(&frame(command.as_bytes())).unwrap();
            assert_eq!(read_frame(&mut control), command.as_bytes());
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let session = ServerConnection::new(accepting.server().current()).unwrap();
            let mut peer = StreamOwned::new(session, stream);
            let mut hello = [0; 9];
            let heard = peer.read_exact(&mut hello);
            if known {
                heard.unwrap();
                assert_eq!(&hello[4..], b"hello");
                peer.write_all(&frame(&body(1_000_000, 1))).unwrap();
                until("it was heard", || !server.counts.heard.lock().unwrap().is_empty());
                assert!(server.counts.heard.lock().unwrap().remove(0) == body(1_000_000, 1));
            } else {
                assert!(heard.unwrap_err().to_string().contains("alert"));
                until("it was given up", || server.counts.disconnected.load(Ordering::SeqCst) > 0);
            }
        }
    });
}
