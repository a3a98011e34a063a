//! A connection says who it is before anything else, and again before its session ends (KIP-368).

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::connection::Wire;
use super::{NetError, codec};
use crate::security::SaslConfig;
use kafka_protocol::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::StrBytes;

/// Of both requests: every broker that is served knows them.
const VERSION: i16 = 1;
/// A session is renewed after this much of it, in percent: Kafka's clients take 85 to 95.
const RENEW_PERCENT: u32 = 85;
/// Messages in one exchange.
const MAX_STEPS: usize = 8;

/// Authenticates, and goes on doing so while the connection lives.
pub(super) async fn begin(wire: &Arc<Wire>, sasl: &SaslConfig, address: &Arc<str>) -> Result<(), NetError> {
    let lifetime = alone(wire, sasl).await.map_err(|error| refused(address, &error))?;
    if let Some(lifetime) = lifetime {
        tokio::spawn(renew(Arc::downgrade(wire), sasl.clone(), Arc::clone(address), lifetime));
    }
    Ok(())
}

fn refused(address: &str, error: &NetError) -> NetError {
    NetError::not_sent(format_args!("{address}: {error}"))
}

async fn renew(wire: Weak<Wire>, sasl: SaslConfig, address: Arc<str>, mut lifetime: Duration) {
    loop {
        let Some(over) = wire.upgrade().map(|wire| wire.over().clone()) else { return };
        let due = tokio::time::sleep(lifetime * RENEW_PERCENT / 100);
        if over.run_until_cancelled(due).await.is_none() {
            return;
        }
        let Some(wire) = wire.upgrade() else { return };
        match alone(&wire, &sasl).await {
            Ok(Some(next)) => lifetime = next,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(broker = %address, %error, "can't authenticate again");
                return wire.close(&format!("{address}: {error}"));
            }
        }
    }
}

/// One exchange, with nothing else in flight: a broker takes no other request meanwhile. Gives how long the session lasts.
async fn alone(wire: &Wire, sasl: &SaslConfig) -> Result<Option<Duration>, NetError> {
    let _places = wire.alone().await?;
    let mechanism = sasl.mechanism();
    let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
    let answer = wire.exchange_alone(&request, VERSION).await?;
    let answer: SaslHandshakeResponse = codec::decode::<SaslHandshakeRequest>(answer, VERSION)?;
    if answer.error_code != 0 {
        let offered: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
        let (code, offered) = (answer.error_code, offered.join(", "));
        return Err(NetError::not_sent(format_args!(
            "{mechanism} is refused with error {code}; the broker offers: {offered}"
        )));
    }
    let mut exchange = sasl.begin().await.map_err(NetError::not_sent)?;
    let mut message = exchange.first();
    for _ in 0..MAX_STEPS {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(message);
        let answer = wire.exchange_alone(&request, VERSION).await?;
        let answer: SaslAuthenticateResponse = codec::decode::<SaslAuthenticateRequest>(answer, VERSION)?;
        if answer.error_code != 0 {
            let why = answer.error_message.as_deref().unwrap_or("no reason given").to_owned();
            return Err(NetError::not_sent(format_args!("not authenticated: {why}")));
        }
        match exchange.next(&answer.auth_bytes).map_err(NetError::not_sent)? {
            Some(next) => message = next,
            None => {
                let lifetime = u64::try_from(answer.session_lifetime_ms).unwrap_or(0);
                return Ok((lifetime > 0).then(|| Duration::from_millis(lifetime)));
            }
        }
    }
    Err(NetError::not_sent("an authentication without end"))
}
