//! SCRAM (RFC 5802, RFC 7677), the node's side. What is kept of a password can't be used to log in, and the password never
//! passes the wire.
//!
//! ```text
//!  n,,n=user,r=c ──► First ── r=c+s,s=salt,i=n ──► c=biws,r=c+s,p=proof ──► Final ── v=signature
//! ```

use aws_lc_rs::{constant_time, digest, hmac};
use wherry_metadata::{ScramCredential, ScramMechanism as Hash};

use super::{Known, Step};
use crate::security::text::{base64, unbase64};

/// Fewest iterations that a password is stretched by (RFC 7677).
pub const MIN_ITERATIONS: i32 = 4_096;
/// Most, as Kafka has it: clients have to do them.
pub const MAX_ITERATIONS: i32 = 16_384;
/// Bytes of the salt that an unknown user is told: as many as Kafka's tools make.
const MADE_UP_SALT: usize = 26;
/// Longest message of a client in bytes.
const MAX_MESSAGE: usize = 4_096;

fn algorithm(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha512 => &digest::SHA512,
    }
}

fn mac(hash: Hash, key: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
}

fn hashed(hash: Hash, message: &[u8]) -> Vec<u8> {
    digest::digest(algorithm(hash), message).as_ref().to_vec()
}

/// The credential of a password that somebody else has salted and stretched.
pub(crate) fn of_salted(hash: Hash, salt: Vec<u8>, iterations: i32, salted_password: &[u8]) -> ScramCredential {
    let client_key = mac(hash, salted_password, b"Client Key");
    ScramCredential {
        salt,
        iterations,
        stored_key: hashed(hash, &client_key),
        server_key: mac(hash, salted_password, b"Server Key"),
    }
}

/// What an unknown user is asked: the same each time, so that nobody learns who is known.
fn made_up(hash: Hash, secret: &[u8], user: &str) -> ScramCredential {
    let mut salt = mac(hash, secret, user.as_bytes());
    let nobody_s = mac(hash, secret, &salt);
    salt.truncate(MADE_UP_SALT);
    of_salted(hash, salt, MIN_ITERATIONS, &nobody_s)
}

#[derive(Debug)]
enum State {
    First,
    Final { user: String, known: bool, credential: ScramCredential, gs2: String, nonce: String, so_far: String },
    Over,
}

/// One exchange.
#[derive(Debug)]
pub struct ScramServer {
    hash: Hash,
    nonce: String,
    state: State,
}

impl ScramServer {
    /// Begins; `nonce` is random and printable, without commas.
    #[must_use]
    pub fn new(hash: Hash, nonce: String) -> Self {
        Self { hash, nonce, state: State::First }
    }

    pub(super) fn step(&mut self, message: &[u8], known: &Known<'_>) -> Step {
        let text = std::str::from_utf8(message).ok().filter(|text| text.len() <= MAX_MESSAGE);
        let Some(text) = text else { return Step::Failure("a SCRAM message that is no text, or too long".into()) };
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::First => self.first(text, known),
            State::Final { user, known, credential, gs2, nonce, so_far } => {
                let proven = self.last(text, &credential, &gs2, &nonce, &so_far);
                match proven {
                    Some(bytes) if known => Some(Step::Success { user, bytes, until_ms: None }),
                    Some(_) | None => Some(Step::Failure("a wrong user or password".into())),
                }
            }
            State::Over => None,
        };
        step.unwrap_or_else(|| Step::Failure("a SCRAM message that makes no sense here".into()))
    }

    fn first(&mut self, text: &str, known: &Known<'_>) -> Option<Step> {
        let (gs2, bare, authzid) = split_gs2(text)?;
        let mut fields = bare.split(',');
        let user = unescape(fields.next()?.strip_prefix("n=")?)?;
        let client_nonce = fields.next()?.strip_prefix("r=")?;
        if user.is_empty() || client_nonce.is_empty() || !client_nonce.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return None;
        }
        if !authzid.is_empty() && unescape(authzid)? != user {
            return Some(Step::Failure("a client that wants to act for somebody else".into()));
        }
        let found = (known.scram)(&user);
        let is_known = found.is_some();
        let credential = found.unwrap_or_else(|| made_up(self.hash, known.secrets.mask(), &user));
        let nonce = format!("{client_nonce}{}", self.nonce);
        let challenge = format!("r={nonce},s={},i={}", base64(&credential.salt), credential.iterations);
        let so_far = format!("{bare},{challenge}");
        self.state = State::Final { user, known: is_known, credential, gs2: gs2.to_owned(), nonce, so_far };
        Some(Step::Challenge(challenge.into_bytes()))
    }

    /// The signature that proves who this is, if the client's proof is right.
    fn last(&self, text: &str, credential: &ScramCredential, gs2: &str, nonce: &str, so_far: &str) -> Option<Vec<u8>> {
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let mut fields = without_proof.split(',');
        let binding = fields.next()?.strip_prefix("c=")?;
        let echoed = fields.next()?.strip_prefix("r=")?;
        // librdkafka before 2.6.1 puts its own nonce before it once more; Kafka lets that pass, and the proof covers it.
        if unbase64(binding)? != gs2.as_bytes() || !echoed.ends_with(nonce) {
            return None;
        }
        let whole = format!("{so_far},{without_proof}");
        let signature = mac(self.hash, &credential.stored_key, whole.as_bytes());
        let proof = unbase64(proof).filter(|proof| proof.len() == signature.len())?;
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        constant_time::verify_slices_are_equal(&hashed(self.hash, &client_key), &credential.stored_key).ok()?;
        let answer = mac(self.hash, &credential.server_key, whole.as_bytes());
        Some(format!("v={}", base64(&answer)).into_bytes())
    }
}

/// The header (no channel binding), what follows it, and for whom the client wants to act.
fn split_gs2(text: &str) -> Option<(&str, &str, &str)> {
    let rest = text.strip_prefix("n,").or_else(|| text.strip_prefix("y,"))?;
    let (authzid, bare) = rest.split_once(',')?;
    let gs2 = &text[..text.len() - bare.len()];
    let authzid = if authzid.is_empty() { "" } else { authzid.strip_prefix("a=")? };
    Some((gs2, bare, authzid))
}

/// `=2C` is a comma and `=3D` an equals sign; nothing else may follow one.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let rest = match part.get(..2)? {
            "2C" => {
                out.push(',');
                &part[2..]
            }
            "3D" => {
                out.push('=');
                &part[2..]
            }
            _ => return None,
        };
        out.push_str(rest);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::secrets::Secrets;

    /// RFC 7677, section 3.
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                                p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn credential(hash: Hash, salt: &[u8], password: &str) -> ScramCredential {
        let mut salted = vec![0; hash.key_bytes()];
        let algorithm = match hash {
            Hash::Sha256 => aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let iterations = std::num::NonZeroU32::new(4096).unwrap();
        aws_lc_rs::pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        of_salted(hash, salt.to_vec(), 4096, &salted)
    }

    fn run(messages: &[&str]) -> Vec<Step> {
        let secrets = Secrets::default();
        let salt = unbase64("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let of_user = |user: &str| (user == "user").then(|| credential(Hash::Sha256, &salt, "pencil"));
        let known = Known { secrets: &secrets, oauth: None, scram: &of_user, wall_ms: 0 };
        let mut server = ScramServer::new(Hash::Sha256, SERVER_NONCE.into());
        messages.iter().map(|message| server.step(message.as_bytes(), &known)).collect()
    }

    #[test]
    fn the_exchange_of_the_rfc() {
        let steps = run(&[CLIENT_FIRST, CLIENT_FINAL, CLIENT_FINAL]);
        assert_eq!(steps[0], Step::Challenge(SERVER_FIRST.into()));
        assert_eq!(steps[1], Step::Success { user: "user".into(), bytes: SERVER_FINAL.into(), until_ms: None });
        assert!(matches!(steps[2], Step::Failure(_)), "once only");
    }

    #[test]
    fn nothing_else_passes() {
        for (first, last) in [
            (CLIENT_FIRST, CLIENT_FINAL.replace("dHzb", "eHzb")),
            (CLIENT_FIRST, CLIENT_FINAL.replace("biws", "eSws")),
            (CLIENT_FIRST, CLIENT_FINAL.replace("hNlF", "hNlf")),
            (CLIENT_FIRST, CLIENT_FINAL.replace(",p=", ",x=")),
            (CLIENT_FIRST, CLIENT_FINAL.replace("ndVQ=", "ndVQ")),
            (CLIENT_FIRST, String::new()),
            ("y,,n=user,r=rOprNGfwEbeRWgbNEkqO", CLIENT_FINAL.to_owned()),
            ("n,a=user,n=user,r=rOprNGfwEbeRWgbNEkqO", CLIENT_FINAL.to_owned()),
        ] {
            let steps = run(&[first, &last]);
            assert!(matches!(steps[0], Step::Challenge(_)), "{first}");
            assert!(matches!(steps[1], Step::Failure(_)), "{last}");
        }
        for first in [
            "",
            "n,,",
            "n,,n=user",
            "p=tls-unique,,n=user,r=x",
            "n,,m=x,n=user,r=x",
            "n,,n=,r=x",
            "n,,n=user,r=",
            "n,,n=u=41,r=x",
            "n,a=other,n=user,r=x",
            "x,,n=user,r=x",
        ] {
            assert!(matches!(run(&[first])[0], Step::Failure(_)), "{first}");
        }
        let long = format!("n,,n=user,r={}", "x".repeat(5_000));
        assert!(matches!(run(&[&long])[0], Step::Failure(_)));
    }

    /// As librdkafka did it before 2.6.1.
    #[test]
    fn a_nonce_that_is_said_twice_is_taken_with_the_right_proof() {
        let without_proof = CLIENT_FINAL.split(",p=").next().unwrap().replace("r=rOpr", "r=rOprNGfwEbeRWgbNEkqOrOpr");
        let credential = credential(Hash::Sha256, &unbase64("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), "pencil");
        let whole = format!("{},{SERVER_FIRST},{without_proof}", &CLIENT_FIRST[3..]);
        let signature = mac(Hash::Sha256, &credential.stored_key, whole.as_bytes());
        let mut salted = [0; 32];
        let iterations = std::num::NonZeroU32::new(4096).unwrap();
        let algorithm = aws_lc_rs::pbkdf2::PBKDF2_HMAC_SHA256;
        aws_lc_rs::pbkdf2::derive(algorithm, iterations, &credential.salt, b"pencil", &mut salted);
        let client_key = mac(Hash::Sha256, &salted, b"Client Key");
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let steps = run(&[CLIENT_FIRST, &format!("{without_proof},p={}", base64(&proof))]);
        assert!(matches!(&steps[1], Step::Success { user, .. } if user == "user"));
        assert!(matches!(
            run(&[CLIENT_FIRST, &format!("{without_proof},p={}", base64(&[0; 32]))])[1],
            Step::Failure(_)
        ));
    }

    #[test]
    fn who_is_unknown_is_asked_like_everybody_else() {
        let secrets = Secrets::default();
        let known = Known { secrets: &secrets, oauth: None, scram: &|_| None, wall_ms: 0 };
        let ask = |user: &str| {
            let mut server = ScramServer::new(Hash::Sha512, "nonce".into());
            let first = server.step(format!("n,,n={user},r=x").as_bytes(), &known);
            let last = server.step(b"c=biws,r=xnonce,p=AAAA", &known);
            assert_eq!(last, Step::Failure("a wrong user or password".into()));
            first
        };
        assert!(matches!(ask("nobody"), Step::Challenge(_)));
        assert_eq!(ask("nobody"), ask("nobody"));
        assert_ne!(ask("nobody"), ask("nobody2"));
    }

    #[test]
    fn names_are_unescaped() {
        assert_eq!(unescape("a=2Cb=3D").as_deref(), Some("a,b="));
        for bad in ["a=", "a=2", "a=2c", "a=41", "=é"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}
