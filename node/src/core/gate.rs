//! The gate of a listener with SASL: until a client has said who it is, and proven it, nothing else is begun.
//!
//! ```text
//!  Closed ── SaslHandshake ──► Exchanging ── SaslAuthenticate, or bare tokens (handshake v0) ... ──► Open
//!    Open ── SaslHandshake (KIP-368) ──► Exchanging again, as the same user ──► Open
//!    Open ── the session ends ──► whatever is asked next closes the connection
//! ```

use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use wherry_wire::codec::{ApiKey, ResponseError};

use super::store::LogStore;
use super::{ConnId, Core, Effect};
use crate::api::{Ctx, Outcome};
use crate::limits::MIN_REAUTH_INTERVAL_NS;
use crate::security::sasl::{Exchange, Known, Mechanism, Step};
use crate::security::secrets::Secrets;
use crate::security::{Caller, Principal};

/// Requests that anybody may send: those that lead through the gate.
const BEFORE: [i16; 3] = [ApiKey::ApiVersions as i16, ApiKey::SaslHandshake as i16, ApiKey::SaslAuthenticate as i16];

#[derive(Debug)]
enum Stage {
    Closed,
    Exchanging { mechanism: Mechanism, exchange: Exchange, bare: bool },
    Open,
}

/// Who a client has proven to be.
#[derive(Debug)]
struct Proven {
    principal: Principal,
    mechanism: Mechanism,
    /// End of its session.
    until_ns: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    stage: Stage,
    proven: Option<Proven>,
    handshake_ns: Option<u64>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Closed, proven: None, handshake_ns: None }
    }

    fn has_ended(&self, now_ns: u64) -> bool {
        self.proven.as_ref().and_then(|proven| proven.until_ns).is_some_and(|until| now_ns >= until)
    }

    /// Why a request may not be begun.
    fn refuses(&self, api_key: i16, now_ns: u64) -> Option<String> {
        match self.stage {
            Stage::Open if !self.has_ended(now_ns) => None,
            Stage::Open if api_key == ApiKey::SaslHandshake as i16 => None,
            Stage::Open => Some("its session has ended and it did not authenticate itself again".into()),
            Stage::Closed | Stage::Exchanging { .. } if BEFORE.contains(&api_key) => None,
            Stage::Closed | Stage::Exchanging { .. } => {
                Some(format!("a request of API {api_key} from a client that has not authenticated itself"))
            }
        }
    }
}

/// How an exchange goes on.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The client is to answer this.
    Challenge(Bytes),
    /// It is through.
    Open { bytes: Bytes, session_ms: i64 },
    /// It is not; a sentence for the client.
    Failed(String),
}

impl<S: LogStore> Core<S> {
    /// What is known of users from files.
    pub fn use_secrets(&mut self, secrets: Secrets) {
        self.secrets = secrets;
    }

    /// A frame that may be begun as a request comes back.
    pub(super) fn pass_gate(&mut self, conn: ConnId, frame: Bytes) -> Option<Bytes> {
        let now_ns = self.now.monotonic_ns;
        let connection = self.conns.get_mut(conn)?;
        let Some(gate) = &connection.gate else { return Some(frame) };
        if let Stage::Exchanging { bare: true, .. } = gate.stage {
            self.bare_token(conn, &frame);
            return None;
        }
        let api_key = frame.first_chunk().map_or(-1, |key| i16::from_be_bytes(*key));
        match gate.refuses(api_key, now_ns) {
            None => Some(frame),
            Some(reason) => {
                self.close_connection(conn, reason);
                None
            }
        }
    }

    /// After a handshake of version 0 the client sends its messages as they are, and gets the answers so.
    fn bare_token(&mut self, conn: ConnId, frame: &Bytes) {
        let now_ns = self.now.monotonic_ns;
        let Some(connection) = self.conns.get_mut(conn) else { return };
        let id = connection.open(ApiKey::SaslAuthenticate as i16, frame.len(), now_ns);
        match self.authenticate(conn, frame) {
            Ok(Progress::Challenge(bytes) | Progress::Open { bytes, .. }) => {
                let mut framed = BytesMut::with_capacity(4 + bytes.len());
                framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                framed.put_slice(&bytes);
                self.conclude(id, Outcome::Reply(vec![framed.freeze()]));
            }
            Ok(Progress::Failed(reason)) => self.close_connection(conn, reason),
            Err(error) => self.close_connection(conn, format!("a token where none is expected ({error:?})")),
        }
    }

    /// The mechanisms that this node offers.
    pub(crate) fn mechanisms(&self) -> &[Mechanism] {
        self.config.sasl.as_ref().map_or(&[], |sasl| sasl.mechanisms.as_slice())
    }

    /// A client wants to authenticate itself, in that way.
    ///
    /// # Errors
    /// It may not, now or in this way.
    pub(crate) fn begin_exchange(&mut self, ctx: &Ctx, name: &str) -> Result<(), ResponseError> {
        let now_ns = self.now.monotonic_ns;
        let offered = Mechanism::named(name).filter(|mechanism| self.mechanisms().contains(mechanism));
        let nonce = format!("{}{}", self.entropy.uuid().simple(), self.entropy.uuid().simple());
        let connection = self.conns.get_mut(ctx.id.conn);
        let gate = connection.and_then(|connection| connection.gate.as_mut()).ok_or(ResponseError::IllegalSaslState)?;
        let too_soon = gate.handshake_ns.is_some_and(|at| now_ns < at + MIN_REAUTH_INTERVAL_NS);
        match gate.stage {
            Stage::Closed => {}
            Stage::Open if !too_soon => {}
            Stage::Open | Stage::Exchanging { .. } => return Err(ResponseError::IllegalSaslState),
        }
        let mechanism = offered.ok_or(ResponseError::UnsupportedSaslMechanism)?;
        if gate.proven.as_ref().is_some_and(|proven| proven.mechanism != mechanism) {
            return Err(ResponseError::IllegalSaslState);
        }
        gate.handshake_ns = Some(now_ns);
        let exchange = Exchange::begin(mechanism, nonce);
        gate.stage = Stage::Exchanging { mechanism, exchange, bare: ctx.version == 0 };
        Ok(())
    }

    /// A client's message in an exchange.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn authenticate(&mut self, conn: ConnId, message: &[u8]) -> Result<Progress, ResponseError> {
        let Some(connection) = self.conns.get_mut(conn) else { return Err(ResponseError::IllegalSaslState) };
        let stage = connection.gate.as_mut().map(|gate| &mut gate.stage);
        let Some(Stage::Exchanging { mechanism, exchange, .. }) = stage else {
            return Err(ResponseError::IllegalSaslState);
        };
        let mechanism = *mechanism;
        let meta = &self.meta;
        let scram = |user: &str| meta.scram(user, mechanism.scram()?).cloned();
        let known = Known {
            secrets: &self.secrets,
            oauth: self.config.sasl.as_ref().and_then(|sasl| sasl.oauth.as_ref()),
            scram: &scram,
            wall_ms: self.now.wall_ms,
        };
        Ok(match exchange.step(message, &known) {
            Step::Challenge(bytes) => Progress::Challenge(bytes.into()),
            Step::Success { user, bytes, until_ms } => self.proven(conn, mechanism, &user, bytes.into(), until_ms),
            Step::Failure(why) => self.not_proven(conn, mechanism, &why),
        })
    }

    fn proven(
        &mut self,
        conn: ConnId,
        mechanism: Mechanism,
        user: &str,
        bytes: Bytes,
        until_ms: Option<i64>,
    ) -> Progress {
        let principal = Principal::user(user);
        let session_ms = self.session_ms(until_ms);
        let now_ns = self.now.monotonic_ns;
        let Some(connection) = self.conns.get_mut(conn) else { return Progress::Failed("it is gone".into()) };
        let Some(gate) = &mut connection.gate else { return Progress::Failed("it needs no authentication".into()) };
        let before = gate.proven.as_ref().map(|proven| &proven.principal);
        if before.is_some_and(|before| *before != principal) {
            return self.not_proven(conn, mechanism, "a client that authenticates itself again as somebody else");
        }
        let is_first = before.is_none();
        let until_ns = session_ms.map(|ms| now_ns.saturating_add(ms.unsigned_abs().saturating_mul(1_000_000)));
        gate.stage = Stage::Open;
        gate.proven = Some(Proven { principal: principal.clone(), mechanism, until_ns });
        connection.caller = Rc::new(Caller { principal, ..connection.caller.as_ref().clone() });
        self.stats.authentications.add(1);
        if is_first {
            self.effects.push(Effect::Authenticated { conn });
        }
        Progress::Open { bytes, session_ms: session_ms.unwrap_or(0) }
    }

    /// How long a session lasts: as long as the token, and as the settings let it; none: as long as the connection.
    fn session_ms(&self, until_ms: Option<i64>) -> Option<i64> {
        let most = self.config.sasl.as_ref().map_or(0, |sasl| sasl.max_reauth_ms);
        let most = (most > 0).then(|| i64::try_from(most).unwrap_or(i64::MAX));
        let left = until_ms.map(|until| until.saturating_sub(self.now.wall_ms).max(0));
        [most, left].into_iter().flatten().min()
    }

    fn not_proven(&mut self, conn: ConnId, mechanism: Mechanism, why: &str) -> Progress {
        self.stats.authentications_failed.add(1);
        let host = self.conns.get_mut(conn).map(|connection| connection.caller.host);
        tracing::info!(?host, mechanism = mechanism.name(), why, "a client could not authenticate itself");
        let name = mechanism.name();
        Progress::Failed(format!(
            "Authentication failed during authentication due to invalid credentials with SASL mechanism {name}"
        ))
    }
}
