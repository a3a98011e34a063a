//! Connections that have to prove who they are, again and again, while they work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use support::{PATIENCE, config};
use wherry_client::{Client, ClientConfig, SaslConfig, SecurityConfig};
use wherry_node::NodeConfig;
use wherry_node::security::config::{ListenerConfig, Protocol};
use wherry_node::security::sasl::oauth::OauthConfig;
use wherry_node::security::sasl::{Mechanism, SaslConfig as NodeSasl};

/// A token that nobody has signed, good for this long.
fn write_token(file: &Path, good_for: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let url = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = format!(r#"{{"sub":"alice","exp":{}}}"#, (now + good_for).as_secs());
    std::fs::write(file, format!("{}.{}.\n", url(r#"{"alg":"none"}"#), url(&claims))).unwrap();
}

fn node(dir: &Path) -> wherry_node::NodeHandle {
    let listener = ListenerConfig {
        name: "guarded".into(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertised: None,
        protocol: Protocol::SaslPlaintext,
        tls: None,
    };
    let sasl = NodeSasl {
        mechanisms: vec![Mechanism::OauthBearer],
        oauth: Some(OauthConfig { allow_unsecured: true, ..OauthConfig::default() }),
        // Each session is as short as may be: a second authentication within the first second is refused.
        max_reauth_ms: 1_500,
        ..NodeSasl::default()
    };
    let config =
        NodeConfig { listeners: vec![listener], sasl: Some(sasl), data_dir: dir.join("data"), ..NodeConfig::default() };
    wherry_node::spawn(config).unwrap()
}

fn with_token(address: &str, token_file: &Path) -> ClientConfig {
    let sasl = Some(SaslConfig::OauthBearer { token_file: token_file.to_owned() });
    ClientConfig { security: SecurityConfig { tls: None, sasl }, ..config(address) }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_renewed_on_the_connections_that_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let address = node.addr().to_string();
    let token = dir.path().join("token");
    write_token(&token, Duration::from_secs(3_600));
    let client = Client::connect(with_token(&address, &token)).await.unwrap();
    client.admin().list_topics().await.unwrap();
    let connections = node.stats().connections_accepted.get();
    let renewed = async {
        while node.stats().authentications.get() < connections + 3 {
            client.admin().list_topics().await.expect("calls go on while sessions are renewed");
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("sessions are renewed");
    assert_eq!(node.stats().connections_accepted.get(), connections, "no connection was lost");
    assert_eq!(node.stats().authentications_failed.get(), 0);
    drop(client);
    node.stop();
    node.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_good_token_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let address = node.addr().to_string();
    let token = dir.path().join("token");
    let impatient =
        |security: SecurityConfig| ClientConfig { security, call_timeout: Duration::from_secs(1), ..config(&address) };
    let sasl = Some(SaslConfig::OauthBearer { token_file: token.clone() });
    std::fs::write(&token, "rubbish").unwrap();
    let refusal = Client::connect(impatient(SecurityConfig { tls: None, sasl: sasl.clone() })).await.unwrap_err();
    assert!(refusal.to_string().contains("invalid credentials"), "{refusal}");
    std::fs::remove_file(&token).unwrap();
    let refusal = Client::connect(impatient(SecurityConfig { tls: None, sasl })).await.unwrap_err();
    assert!(refusal.to_string().contains("token"), "{refusal}");
    assert!(Client::connect(impatient(SecurityConfig::default())).await.is_err(), "nobody gets in without");
    node.stop();
    node.join().unwrap();
}
