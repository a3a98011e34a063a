//! SaslHandshake and SaslAuthenticate: clients say who they are, and prove it.

use super::{Ctx, Outcome};
use crate::core::Core;
use crate::core::gate::Progress;
use crate::core::store::LogStore;
use crate::security::sasl::Mechanism;
use wherry_wire::codec::messages::{
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use wherry_wire::codec::{ResponseError, StrBytes};

/// Begins an exchange; a client that asks for what is not offered hears what is, and has to come again.
pub(crate) fn handshake<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &SaslHandshakeRequest) -> Outcome {
    let mut response = SaslHandshakeResponse::default();
    let outcome = core.begin_exchange(ctx, &request.mechanism);
    if outcome != Err(ResponseError::IllegalSaslState) {
        let name = |mechanism: &Mechanism| StrBytes::from_static_str(mechanism.name());
        response.mechanisms = core.mechanisms().iter().map(name).collect();
    }
    match outcome {
        Ok(()) => ctx.reply(&response),
        Err(ResponseError::UnsupportedSaslMechanism) => {
            response.error_code = ResponseError::UnsupportedSaslMechanism.code();
            ctx.reply_and_close(&response, "a SASL mechanism that is not offered")
        }
        Err(error) => {
            response.error_code = error.code();
            ctx.reply(&response)
        }
    }
}

/// Goes on with it; who fails is told so, and nothing more.
pub(crate) fn authenticate<S: LogStore>(core: &mut Core<S>, ctx: &Ctx, request: &SaslAuthenticateRequest) -> Outcome {
    let mut response = SaslAuthenticateResponse::default();
    match core.authenticate(ctx.id.conn, &request.auth_bytes) {
        Ok(Progress::Challenge(bytes)) => response.auth_bytes = bytes,
        Ok(Progress::Open { bytes, session_ms }) => {
            response.auth_bytes = bytes;
            response.session_lifetime_ms = if ctx.version >= 1 { session_ms } else { 0 };
        }
        Ok(Progress::Failed(sentence)) => {
            response.error_code = ResponseError::SaslAuthenticationFailed.code();
            response.error_message = Some(StrBytes::from_string(sentence.clone()));
            return ctx.reply_and_close(&response, &sentence);
        }
        Err(error) => {
            response.error_code = error.code();
            let text = "SaslAuthenticate request received without a handshake, or after a successful authentication";
            response.error_message = Some(StrBytes::from_static_str(text));
        }
    }
    ctx.reply(&response)
}
