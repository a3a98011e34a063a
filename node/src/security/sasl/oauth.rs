//! OAUTHBEARER (RFC 7628): a JSON Web Token that an issuer whose keys are known has signed for this cluster.
//!
//! Signatures are checked by a crate, claims here, against the node's clock. Symmetric keys are not taken: whoever can check
//! such a token could make one.

use std::path::PathBuf;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use super::{Known, Step};
use crate::security::text::unbase64url;

/// Longest token in bytes.
const MAX_TOKEN: usize = 64 << 10;
/// Keys of issuers.
const MAX_KEYS: usize = 100;

/// Whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OauthConfig {
    /// File with the issuer's public keys: a JSON Web Key Set, or one key in PEM. Looked at again every few seconds.
    pub keys: Option<PathBuf>,
    /// Who must have issued a token (`iss`).
    pub issuer: Option<String>,
    /// For whom it must be (`aud`): one of these.
    pub audience: Vec<String>,
    /// Claim that names the user.
    pub principal_claim: String,
    /// How far clocks may differ, in milliseconds.
    pub clock_skew_ms: i64,
    /// Tokens without a signature (`alg: none`) are taken: for tests only, as anybody can make one.
    pub allow_unsecured: bool,
}

impl Default for OauthConfig {
    fn default() -> Self {
        Self {
            keys: None,
            issuer: None,
            audience: Vec::new(),
            principal_claim: "sub".into(),
            clock_skew_ms: 30_000,
            allow_unsecured: false,
        }
    }
}

impl OauthConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        if !(0..=600_000).contains(&self.clock_skew_ms) {
            return Err(format!("sasl.oauth.clock_skew_ms {} must be from 0 to 600000", self.clock_skew_ms));
        }
        if self.allow_unsecured {
            return Ok(());
        }
        if self.keys.is_none() {
            return Err("sasl.oauth has no keys: no signature could be checked; set sasl.oauth.keys".into());
        }
        if self.issuer.is_none() || self.audience.is_empty() {
            return Err("sasl.oauth must say whose tokens for whom are taken; set sasl.oauth.issuer and \
                        sasl.oauth.audience"
                .into());
        }
        Ok(())
    }
}

/// A key, and what it may have signed with.
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Public keys of issuers, with whose tokens are taken.
#[derive(Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// A JSON Web Key Set, or one key in PEM.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with("-----BEGIN") {
            return Self::pem(text.as_bytes());
        }
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_str(text).map_err(|error| format!("no key set: {error}"))?;
        // A set may hold keys for other uses, of kinds that nobody here knows.
        let keys: Vec<Key> = set.keys.into_iter().filter_map(Key::of).collect();
        match keys.len() {
            0 => Err("a key set without a public key that signs tokens".into()),
            1..=MAX_KEYS => Ok(Self(keys)),
            many => Err(format!("{many} keys; {MAX_KEYS} are the most")),
        }
    }

    fn pem(pem: &[u8]) -> Result<Self, String> {
        use rustls::pki_types::SubjectPublicKeyInfoDer;
        use rustls::pki_types::pem::PemObject;
        use x509_parser::prelude::FromDer;
        use x509_parser::x509::SubjectPublicKeyInfo;
        let wrong = |why: &dyn std::fmt::Display| format!("no public key in PEM: {why}");
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| wrong(&error))?;
        let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|error| wrong(&error))?;
        let raw = info.subject_public_key.data.as_ref();
        let (key, algorithms) = match info.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.1" => (DecodingKey::from_rsa_der(raw), RSA.to_vec()),
            "1.2.840.10045.2.1" if raw.len() == 65 => (DecodingKey::from_ec_der(raw), vec![Algorithm::ES256]),
            "1.2.840.10045.2.1" if raw.len() == 97 => (DecodingKey::from_ec_der(raw), vec![Algorithm::ES384]),
            "1.3.101.112" => (DecodingKey::from_ed_der(raw), vec![Algorithm::EdDSA]),
            other => return Err(wrong(&format!("keys of kind {other} are not known here"))),
        };
        Ok(Self(vec![Key { id: None, algorithms, key }]))
    }
}

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

impl Key {
    fn of(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA.to_vec(),
            AlgorithmParameters::EllipticCurve(ec) => match ec.curve {
                EllipticCurve::P256 => vec![Algorithm::ES256],
                EllipticCurve::P384 => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(_) => vec![Algorithm::EdDSA],
            AlgorithmParameters::OctetKey(_) => return None,
        };
        if let Some(only) = jwk.common.key_algorithm {
            let name = only.to_string();
            algorithms.retain(|algorithm| format!("{algorithm:?}") == name);
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self { id: jwk.common.key_id, algorithms, key })
    }
}

/// Why there is no success.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The message makes no sense.
    Malformed(String),
    /// The token is not taken.
    Token(String),
}

/// Takes the client's first message.
pub(super) fn step(message: &[u8], known: &Known<'_>) -> Result<Step, Refusal> {
    let malformed = || Refusal::Malformed("an OAUTHBEARER message that makes no sense".into());
    let text = std::str::from_utf8(message).map_err(|_| malformed())?;
    let (authzid, token) = token_of(text).ok_or_else(malformed)?;
    let Some(config) = known.oauth else {
        return Err(Refusal::Token("no tokens are taken here".into()));
    };
    let (user, until_ms) = check(token, config, known).map_err(Refusal::Token)?;
    if !authzid.is_empty() && authzid != user {
        return Err(Refusal::Token("a client that wants to act for somebody else".into()));
    }
    Ok(Step::Success { user, bytes: Vec::new(), until_ms: Some(until_ms) })
}

/// `n,a=authzid,^Aauth=Bearer TOKEN^Akey=value^A^A`.
fn token_of(text: &str) -> Option<(&str, &str)> {
    let (gs2, rest) = text.split_once('\x01')?;
    let authzid = gs2.strip_prefix("n,")?.strip_suffix(',')?;
    let authzid = if authzid.is_empty() { "" } else { authzid.strip_prefix("a=")? };
    let auth = rest.strip_suffix("\x01\x01")?.split('\x01').find_map(|pair| pair.strip_prefix("auth="))?;
    let (scheme, token) = auth.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| (authzid, token.trim_start()))
}

/// The user, and when the token ends.
fn check(token: &str, config: &OauthConfig, known: &Known<'_>) -> Result<(String, i64), String> {
    if token.len() > MAX_TOKEN {
        return Err(format!("a token of {} bytes", token.len()));
    }
    let claims = known.secrets.with_keys(|keys| verified(token, config, keys))?;
    if let Some(issuer) = &config.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err("a token of another issuer".into());
    }
    if !config.audience.is_empty() && !is_for(&claims, &config.audience) {
        return Err("a token for somebody else".into());
    }
    let until_ms = time_of(&claims, "exp")?.ok_or("a token without an end")?;
    if known.wall_ms >= until_ms.saturating_add(config.clock_skew_ms) {
        return Err("a token that has ended".into());
    }
    for begin in ["nbf", "iat"] {
        if time_of(&claims, begin)?.is_some_and(|at| at > known.wall_ms.saturating_add(config.clock_skew_ms)) {
            return Err("a token of the future".into());
        }
    }
    match claims.get(&config.principal_claim).and_then(Value::as_str) {
        Some(user) if !user.is_empty() => Ok((user.to_owned(), until_ms)),
        Some(_) | None => Err(format!("a token without the claim '{}'", config.principal_claim)),
    }
}

fn verified(token: &str, config: &OauthConfig, keys: &Keys) -> Result<Value, String> {
    if let Some(claims) = config.allow_unsecured.then(|| unsecured(token)).flatten() {
        return Ok(claims);
    }
    let header = decode_header(token).map_err(|error| format!("no token: {error}"))?;
    if header.crit.is_some() {
        return Err("a token with critical extensions".into());
    }
    let may_be = |key: &&Key| match (&header.kid, &key.id) {
        (Some(wanted), Some(id)) => wanted == id,
        (_, _) => true,
    };
    for key in keys.0.iter().filter(may_be).filter(|key| key.algorithms.contains(&header.alg)) {
        let mut validation = Validation::new(header.alg);
        // The claims are checked against the node's own clock.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        if let Ok(verified) = decode::<Value>(token, &key.key, &validation) {
            return Ok(verified.claims);
        }
    }
    Err("a token that no known key has signed".into())
}

/// The claims of a token that says itself that it is not signed.
fn unsecured(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let header: Value = serde_json::from_slice(&unbase64url(header)?).ok()?;
    let is_none = header.get("alg").and_then(Value::as_str) == Some("none");
    let whole = is_none && signature.is_empty() && parts.next().is_none();
    whole.then(|| serde_json::from_slice(&unbase64url(claims)?).ok()).flatten()
}

fn is_for(claims: &Value, audience: &[String]) -> bool {
    let wanted = |value: &Value| value.as_str().is_some_and(|name| audience.iter().any(|wanted| wanted == name));
    match claims.get("aud") {
        Some(Value::Array(names)) => names.iter().any(wanted),
        Some(name) => wanted(name),
        None => false,
    }
}

/// A claim in seconds, perhaps with a fraction.
fn time_of(claims: &Value, name: &str) -> Result<Option<i64>, String> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = value.as_i64().and_then(|seconds| seconds.checked_mul(1000));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it saturates, and what is so far off is refused or never ends"
    )]
    let part = || value.as_f64().filter(|seconds| seconds.is_finite()).map(|seconds| (seconds * 1000.0) as i64);
    whole.or_else(part).map(Some).ok_or_else(|| format!("a token whose '{name}' is no time"))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};
    use serde_json::json;

    use super::*;
    use crate::security::secrets::Secrets;

    const NOW_S: i64 = 1_700_000_000;

    fn config() -> OauthConfig {
        OauthConfig { issuer: Some("https://i".into()), audience: vec!["boats".into()], ..OauthConfig::default() }
    }

    fn claims() -> Value {
        json!({"iss": "https://i", "aud": ["x", "boats"], "sub": "alice", "exp": NOW_S + 60, "iat": NOW_S, "nbf": NOW_S})
    }

    fn ask(config: &OauthConfig, keys: Keys, message: &str) -> Result<Step, Refusal> {
        let secrets = Secrets::default();
        secrets.set_keys(keys);
        step(
            message.as_bytes(),
            &Known { secrets: &secrets, oauth: Some(config), scram: &|_| None, wall_ms: NOW_S * 1000 },
        )
    }

    fn message(token: &str) -> String {
        format!("n,,\x01auth=Bearer {token}\x01ext=1\x01\x01")
    }

    fn passes(outcome: Result<Step, Refusal>) -> bool {
        let alice = Step::Success { user: "alice".into(), bytes: Vec::new(), until_ms: Some((NOW_S + 60) * 1000) };
        match outcome {
            Ok(step) => {
                assert_eq!(step, alice);
                true
            }
            Err(_) => false,
        }
    }

    struct Issuer {
        key: KeyPair,
        algorithm: Algorithm,
    }

    impl Issuer {
        fn new(algorithm: Algorithm) -> Self {
            let kind = if algorithm == Algorithm::ES256 { &PKCS_ECDSA_P256_SHA256 } else { &PKCS_ED25519 };
            Self { key: KeyPair::generate_for(kind).unwrap(), algorithm }
        }

        fn sign(&self, header: &Header, claims: &Value) -> String {
            let der = self.key.serialize_der();
            let key = match self.algorithm {
                Algorithm::ES256 => EncodingKey::from_ec_der(&der),
                _ => EncodingKey::from_ed_der(&der),
            };
            encode(header, claims, &key).unwrap()
        }

        fn token(&self, claims: &Value) -> String {
            self.sign(&Header::new(self.algorithm), claims)
        }

        fn pem(&self) -> Keys {
            Keys::parse(&self.key.public_key_pem()).unwrap()
        }

        /// A set with this key under an id, among keys that are of no use here.
        fn set(&self, id: &str) -> Keys {
            let url = |bytes: &[u8]| {
                use base64::Engine;
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
            };
            let raw = self.key.der_bytes();
            let mut jwk = match self.algorithm {
                Algorithm::ES256 => json!({"kty": "EC", "crv": "P-256", "x": url(&raw[1..33]), "y": url(&raw[33..])}),
                _ => json!({"kty": "OKP", "crv": "Ed25519", "x": url(raw)}),
            };
            jwk["kid"] = id.into();
            let set = json!({"keys": [{"kty": "new"}, {"kty": "oct", "k": "c2VjcmV0", "kid": id}, jwk]});
            Keys::parse(&set.to_string()).unwrap()
        }
    }

    #[test]
    fn signed_tokens_pass_and_others_do_not() {
        for algorithm in [Algorithm::ES256, Algorithm::EdDSA] {
            let (issuer, other) = (Issuer::new(algorithm), Issuer::new(algorithm));
            let token = issuer.token(&claims());
            assert!(passes(ask(&config(), issuer.pem(), &message(&token))));
            assert!(passes(ask(&config(), issuer.set("k1"), &message(&token))), "a token may not say which key");
            assert!(!passes(ask(&config(), other.pem(), &message(&token))));
            assert!(!passes(ask(&config(), Keys::default(), &message(&token))));
            let mut header = Header::new(algorithm);
            header.kid = Some("k2".into());
            let named = issuer.sign(&header, &claims());
            assert!(passes(ask(&config(), issuer.set("k2"), &message(&named))));
            assert!(!passes(ask(&config(), issuer.set("k1"), &message(&named))), "another key is meant");
            let (head, _) = token.rsplit_once('.').unwrap();
            assert!(!passes(ask(&config(), issuer.pem(), &message(&format!("{head}.")))));
        }
    }

    #[test]
    fn a_secret_in_the_set_signs_nothing() {
        let issuer = Issuer::new(Algorithm::ES256);
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("k1".into());
        let forged = encode(&header, &claims(), &EncodingKey::from_secret(b"secret")).unwrap();
        assert!(!passes(ask(&config(), issuer.set("k1"), &message(&forged))));
        let pem = issuer.key.public_key_pem();
        let confused = encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(pem.as_bytes()));
        assert!(!passes(ask(&config(), issuer.pem(), &message(&confused.unwrap()))));
    }

    #[test]
    fn every_claim_counts() {
        let issuer = Issuer::new(Algorithm::EdDSA);
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            passes(ask(&config(), issuer.pem(), &message(&issuer.token(&claims))))
        };
        assert!(with("aud", json!("boats")) && with("exp", json!(f64::from(60) + 1_700_000_000.0)));
        for (name, value) in [
            ("iss", json!("https://j")),
            ("iss", json!(null)),
            ("aud", json!("ships")),
            ("aud", json!([])),
            ("aud", json!(null)),
            ("exp", json!(NOW_S - 30)),
            ("exp", json!("soon")),
            ("exp", json!(null)),
            ("nbf", json!(NOW_S + 31)),
            ("iat", json!(NOW_S + 31)),
            ("sub", json!("")),
            ("sub", json!(7)),
        ] {
            assert!(!with(name, value.clone()), "{name} {value}");
        }
    }

    #[test]
    fn tokens_without_signature_are_taken_only_where_asked_for() {
        let token = |alg: &str| {
            use base64::Engine;
            let url = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
            format!("{}.{}.", url(json!({"alg": alg}).to_string()), url(claims().to_string()))
        };
        let open = || OauthConfig { allow_unsecured: true, ..config() };
        assert!(passes(ask(&open(), Keys::default(), &message(&token("none")))));
        assert!(!passes(ask(&config(), Keys::default(), &message(&token("none")))));
        assert!(!passes(ask(&open(), Keys::default(), &message(&token("ES256")))));
    }

    #[test]
    fn messages_that_make_no_sense_are_refused() {
        for text in [
            "",
            "n,,",
            "n,,\x01auth=Bearer x",
            "n,,\x01auth=Basic x\x01\x01",
            "y,,\x01auth=Bearer x\x01\x01",
            "n,,\x01host=x\x01\x01",
        ] {
            assert!(matches!(ask(&config(), Keys::default(), text), Err(Refusal::Malformed(_))), "{text:?}");
        }
        let issuer = Issuer::new(Algorithm::ES256);
        let acting = format!("n,a=bob,\x01auth=Bearer {}\x01\x01", issuer.token(&claims()));
        assert!(matches!(ask(&config(), issuer.pem(), &acting), Err(Refusal::Token(_))));
        for bad in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#, "-----BEGIN RUBBISH-----"]
        {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
    }
}
