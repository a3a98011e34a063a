//! Clients that have to say who they are.

use aws_lc_rs::{digest, hmac, pbkdf2};
use wherry_wire::codec::messages::alter_user_scram_credentials_request::{
    ScramCredentialDeletion, ScramCredentialUpsertion,
};
use wherry_wire::codec::messages::describe_user_scram_credentials_request::UserName;
use wherry_wire::codec::messages::{
    AlterUserScramCredentialsRequest, ApiVersionsRequest, DescribeUserScramCredentialsRequest, MetadataRequest,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
};
use wherry_wire::codec::{ApiRequest, ResponseError};

use super::*;
use crate::security::config::{ListenerConfig, Protocol};
use crate::security::sasl::{MECHANISMS, SaslConfig};
use crate::security::secrets::Secrets;

fn guarded(change: impl FnOnce(&mut SaslConfig)) -> Node {
    let listener = |name: &str, protocol| ListenerConfig {
        name: name.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertised: None,
        protocol,
        tls: None,
    };
    let mut sasl = SaslConfig {
        mechanisms: MECHANISMS.to_vec(),
        allow_plain_without_tls: true,
        plain_users: Some("users".into()),
        oauth: Some(crate::security::sasl::oauth::OauthConfig { allow_unsecured: true, ..Default::default() }),
        ..SaslConfig::default()
    };
    change(&mut sasl);
    let listeners = vec![listener("guarded", Protocol::SaslPlaintext), listener("open", Protocol::Plaintext)];
    let mut node = node_with(NodeConfig { listeners, sasl: Some(sasl), ..config() });
    let secrets = Secrets::default();
    secrets.set_plain_users("alice:secret\nbob:other\n").unwrap();
    node.core.use_secrets(secrets);
    node
}

impl Node {
    fn connect_to(&mut self, listener: u8) -> ConnId {
        let peer = "10.1.2.3:4567".parse().unwrap();
        let id = self.core.connected_to(self.now, super::super::ListenerId(listener), peer).unwrap();
        self.seen.insert(id, Seen::default());
        id
    }

    fn handshake(&mut self, conn: ConnId, version: i16, mechanism: &str) -> i16 {
        let request = SaslHandshakeRequest::default().with_mechanism(text(mechanism));
        self.ask(conn, version, &request).error_code
    }

    fn token(&mut self, conn: ConnId, token: &str) -> SaslAuthenticateResponse {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::copy_from_slice(token.as_bytes()));
        self.ask(conn, 2, &request)
    }

    fn plain(&mut self, conn: ConnId, user: &str, password: &str) -> SaslAuthenticateResponse {
        assert_eq!(self.handshake(conn, 1, "PLAIN"), 0);
        self.token(conn, &format!("\0{user}\0{password}"))
    }

    fn works(&mut self, conn: ConnId) -> bool {
        self.send(conn, 9, &MetadataRequest::default());
        self.settle();
        self.try_receive::<MetadataRequest>(conn, 9).is_some()
    }
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

#[test]
fn nothing_is_begun_before_a_client_has_said_who_it_is() {
    let mut node = guarded(|_| {});
    let conn = node.connect_to(0);
    let versions = node.ask(conn, 3, &api_versions());
    assert!(versions.api_keys.iter().any(|api| api.api_key == 36));
    assert!(!node.works(conn));
    assert!(node.closed(conn).unwrap().contains("not authenticated"));
    for early in [true, false] {
        let conn = node.connect_to(0);
        if !early {
            assert_eq!(node.handshake(conn, 1, "PLAIN"), 0);
        }
        node.send(conn, 9, &produce("t", 1, &[(0, batch(&["x"]))]));
        assert!(node.closed(conn).is_some());
    }
    let open = node.connect_to(1);
    assert!(node.works(open), "the other listener asks nobody");
    assert_eq!(node.handshake(open, 1, "PLAIN"), code(ResponseError::IllegalSaslState));
    assert_eq!(node.token(open, "\0alice\0secret").error_code, code(ResponseError::IllegalSaslState));
    assert_eq!(node.authenticated, []);
}

fn api_versions() -> ApiVersionsRequest {
    ApiVersionsRequest::default().with_client_software_name(text("a")).with_client_software_version(text("1"))
}

#[test]
fn plain_lets_in_who_knows_the_password() {
    let mut node = guarded(|_| {});
    let conn = node.connect_to(0);
    let passed = node.plain(conn, "alice", "secret");
    assert_eq!((passed.error_code, passed.session_lifetime_ms), (0, 0));
    assert!(node.works(conn));
    assert_eq!(node.authenticated, [conn]);
    assert_eq!(node.core.connection(conn).unwrap().caller.principal.qualified(), "User:alice");
    assert_eq!(node.token(conn, "\0alice\0secret").error_code, code(ResponseError::IllegalSaslState));
    for (user, password) in [("alice", "wrong"), ("carol", "secret"), ("", "")] {
        let conn = node.connect_to(0);
        let refused = node.plain(conn, user, password);
        assert_eq!(refused.error_code, code(ResponseError::SaslAuthenticationFailed));
        assert!(refused.error_message.unwrap().contains("invalid credentials"));
        assert!(node.closed(conn).is_some(), "the answer is the last thing that it hears");
    }
    assert_eq!(node.core.stats().authentications_failed.get(), 3);
}

#[test]
fn what_is_not_offered_is_refused_with_what_is() {
    let mut node = guarded(|sasl| sasl.mechanisms.truncate(1));
    let conn = node.connect_to(0);
    let request = SaslHandshakeRequest::default().with_mechanism(text("SCRAM-SHA-256"));
    let refused = node.ask(conn, 1, &request);
    assert_eq!(refused.error_code, code(ResponseError::UnsupportedSaslMechanism));
    assert_eq!(refused.mechanisms, [text("PLAIN")]);
    assert!(node.closed(conn).is_some());
}

#[test]
fn old_clients_send_their_tokens_bare() {
    let mut node = guarded(|_| {});
    let conn = node.connect_to(0);
    assert_eq!(node.handshake(conn, 0, "PLAIN"), 0);
    node.send_frame(conn, Bytes::from_static(b"\0alice\0secret"));
    assert_eq!(node.seen.get_mut(&conn).unwrap().frames.pop_front(), Some(Bytes::new()));
    assert!(node.works(conn));
    let conn = node.connect_to(0);
    assert_eq!(node.handshake(conn, 0, "PLAIN"), 0);
    node.send_frame(conn, Bytes::from_static(b"\0alice\0wrong"));
    assert!(node.closed(conn).is_some());
    assert!(node.seen[&conn].frames.is_empty());
}

/// A client of SCRAM; gives the last answer.
fn scram(node: &mut Node, conn: ConnId, user: &str, password: &str) -> SaslAuthenticateResponse {
    assert_eq!(node.handshake(conn, 1, "SCRAM-SHA-256"), 0);
    let bare = format!("n={user},r=abc");
    let challenge = node.token(conn, &format!("n,,{bare}"));
    assert_eq!(challenge.error_code, 0);
    let challenge = String::from_utf8(challenge.auth_bytes.to_vec()).unwrap();
    let field = |n: usize| challenge.split(',').nth(n).unwrap()[2..].to_owned();
    let (nonce, salt, iterations) = (field(0), field(1), field(2));
    use base64::Engine;
    let b64 = base64::engine::general_purpose::STANDARD;
    let salted = salted(&b64.decode(salt).unwrap(), iterations.parse().unwrap(), password);
    let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let client_key = sign(&salted, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client_key.as_ref());
    let without_proof = format!("c=biws,r={nonce}");
    let signature = sign(stored.as_ref(), format!("{bare},{challenge},{without_proof}").as_bytes());
    let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    node.token(conn, &format!("{without_proof},p={}", b64.encode(proof)))
}

fn salted(salt: &[u8], iterations: u32, password: &str) -> Vec<u8> {
    let mut salted = vec![0; 32];
    let iterations = iterations.try_into().unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
    salted
}

fn upsert(user: &str, mechanism: i8, iterations: i32, password: &str) -> ScramCredentialUpsertion {
    ScramCredentialUpsertion::default()
        .with_name(text(user))
        .with_mechanism(mechanism)
        .with_iterations(iterations)
        .with_salt(Bytes::from_static(b"salt"))
        .with_salted_password(salted(b"salt", 4096, password).into())
}

#[test]
fn scram_credentials_are_made_used_changed_and_deleted() {
    let mut node = guarded(|_| {});
    let admin = node.connect_to(1);
    let alter = |upsertions: Vec<_>, deletions: Vec<_>| {
        AlterUserScramCredentialsRequest::default().with_upsertions(upsertions).with_deletions(deletions)
    };
    let delete =
        |user: &str, mechanism| ScramCredentialDeletion::default().with_name(text(user)).with_mechanism(mechanism);
    let made = node.ask(admin, 0, &alter(vec![upsert("carol", 1, 4096, "pencil")], vec![]));
    assert_eq!(made.results[0].error_code, 0);
    let conn = node.connect_to(0);
    let passed = scram(&mut node, conn, "carol", "pencil");
    assert_eq!(passed.error_code, 0);
    assert!(passed.auth_bytes.starts_with(b"v="));
    assert!(node.works(conn));
    for (user, password) in [("carol", "pencils"), ("dave", "pencil")] {
        let conn = node.connect_to(0);
        let refused = scram(&mut node, conn, user, password);
        assert_eq!(refused.error_code, code(ResponseError::SaslAuthenticationFailed), "{user}");
        assert!(node.closed(conn).is_some());
    }

    let users = |names: &[&str]| {
        let names = names.iter().map(|name| UserName::default().with_name(text(name))).collect();
        DescribeUserScramCredentialsRequest::default().with_users(Some(names))
    };
    let all = node.ask(admin, 0, &DescribeUserScramCredentialsRequest::default().with_users(None));
    let found: Vec<_> = all.results.iter().map(|r| (r.user.as_str(), r.credential_infos[0].iterations)).collect();
    assert_eq!(found, [("carol", 4096)]);
    let some = node.ask(admin, 0, &users(&["dave", "carol", "carol"]));
    let codes: Vec<_> = some.results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [code(ResponseError::ResourceNotFound), code(ResponseError::DuplicateResource)]);

    // The credential lives in the metadata log, and is there after a restart.
    let config = node.core.config.clone();
    let mut node = node.restart(config);
    let conn = node.connect_to(0);
    assert_eq!(scram(&mut node, conn, "carol", "pencil").error_code, 0);
    let admin = node.connect_to(1);
    for (upsertions, deletions, wanted) in [
        (vec![upsert("", 1, 4096, "p")], vec![], ResponseError::UnacceptableCredential),
        (vec![upsert("x", 1, 4095, "p")], vec![], ResponseError::UnacceptableCredential),
        (vec![upsert("x", 1, 16385, "p")], vec![], ResponseError::UnacceptableCredential),
        (vec![upsert("x", 3, 4096, "p")], vec![], ResponseError::UnsupportedSaslMechanism),
        (vec![upsert("x", 1, 4096, "p"), upsert("x", 1, 4096, "q")], vec![], ResponseError::DuplicateResource),
        (vec![upsert("carol", 1, 4096, "p")], vec![delete("carol", 1)], ResponseError::DuplicateResource),
        (vec![], vec![delete("carol", 2)], ResponseError::ResourceNotFound),
        (vec![], vec![delete("x", 1)], ResponseError::ResourceNotFound),
    ] {
        let refused = node.ask(admin, 0, &alter(upsertions, deletions));
        assert_eq!(refused.results[0].error_code, code(wanted));
    }
    assert_eq!(node.ask(admin, 0, &alter(vec![], vec![delete("carol", 1)])).results[0].error_code, 0);
    let conn = node.connect_to(0);
    assert_eq!(scram(&mut node, conn, "carol", "pencil").error_code, code(ResponseError::SaslAuthenticationFailed));
}

fn unsecured(sub: &str, exp_s: i64) -> String {
    use base64::Engine;
    let url = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"sub":"{sub}","exp":{exp_s}}}"#);
    format!("n,,\x01auth=Bearer {}.{}.\x01\x01", url(r#"{"alg":"none"}"#.into()), url(claims))
}

#[test]
fn a_session_ends_with_its_token_unless_the_client_comes_again_as_the_same() {
    let mut node = guarded(|sasl| sasl.max_reauth_ms = 60_000);
    let now_s = WALL_MS / 1000;
    let open = |node: &mut Node, exp_s| {
        let conn = node.connect_to(0);
        assert_eq!(node.handshake(conn, 1, "OAUTHBEARER"), 0);
        let passed = node.token(conn, &unsecured("carol", exp_s));
        assert_eq!(passed.error_code, 0);
        (conn, passed.session_lifetime_ms)
    };
    let (bounded, lifetime) = open(&mut node, now_s + 3_600);
    assert_eq!(lifetime, 60_000);
    let (conn, lifetime) = open(&mut node, now_s + 10);
    assert_eq!(lifetime, 10_000);
    node.advance_ms(9_000);
    assert!(node.works(conn));
    assert_eq!(node.handshake(conn, 1, "OAUTHBEARER"), 0);
    assert_eq!(node.token(conn, &unsecured("carol", now_s + 20)).session_lifetime_ms, 11_000);
    node.advance_ms(10_000);
    assert!(node.works(conn), "longer than the first session");
    node.advance_ms(2_000);
    assert!(!node.works(conn));
    assert!(node.closed(conn).unwrap().contains("session"));
    assert_eq!(node.handshake(bounded, 1, "PLAIN"), code(ResponseError::IllegalSaslState), "another way");
    assert_eq!(node.handshake(bounded, 1, "OAUTHBEARER"), 0);
    let other = node.token(bounded, &unsecured("dave", now_s + 3_600));
    assert_eq!(other.error_code, code(ResponseError::SaslAuthenticationFailed));
    assert!(node.closed(bounded).is_some());
    assert_eq!(node.authenticated.len(), 2);
}

#[test]
fn a_token_that_is_not_taken_is_refused_in_two_steps() {
    let mut node = guarded(|_| {});
    let conn = node.connect_to(0);
    assert_eq!(node.handshake(conn, 1, "OAUTHBEARER"), 0);
    let told = node.token(conn, &unsecured("carol", WALL_MS / 1000 - 3_600));
    assert_eq!((told.error_code, told.auth_bytes.as_ref()), (0, br#"{"status":"invalid_token"}"#.as_ref()));
    let refused = node.token(conn, "\x01");
    assert_eq!(refused.error_code, code(ResponseError::SaslAuthenticationFailed));
    assert!(node.closed(conn).is_some());
    assert_eq!(SaslHandshakeRequest::KEY, 17);
}
