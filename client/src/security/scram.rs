//! SCRAM (RFC 5802), the client's side: the password stays here, and the broker has to prove that it knows it too.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ScramHash;

/// Most iterations that a broker may ask for: each costs time here.
const MAX_ITERATIONS: u32 = 1_000_000;
/// Longest message of a broker in bytes.
const MAX_MESSAGE: usize = 4_096;

enum State {
    First,
    /// The proof was sent: this signature is due.
    Last(Vec<u8>),
    Over,
}

/// One exchange.
pub(crate) struct ScramClient {
    hash: ScramHash,
    bare: String,
    nonce: String,
    password: String,
    state: State,
}

/// Printable, and nobody's yet.
pub(super) fn nonce() -> Result<String, String> {
    let mut bytes = [0; 18];
    rand::fill(&mut bytes).map_err(|_| "the system has no randomness".to_owned())?;
    Ok(STANDARD.encode(bytes))
}

impl ScramClient {
    pub(super) fn new(hash: ScramHash, user: &str, password: &str, nonce: String) -> Self {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Self { hash, bare: format!("n={user},r={nonce}"), nonce, password: password.into(), state: State::First }
    }

    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    pub(super) fn next(&mut self, answer: &[u8]) -> Result<Option<String>, String> {
        let text = std::str::from_utf8(answer).ok().filter(|text| text.len() <= MAX_MESSAGE);
        let text = text.ok_or("an answer that is no text, or too long")?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::First => self.prove(text).map(Some),
            State::Last(due) => {
                let signature = text.strip_prefix("v=").and_then(|v| STANDARD.decode(v).ok());
                let signature = signature.ok_or("an answer without a signature")?;
                constant_time::verify_slices_are_equal(&signature, &due)
                    .map_err(|_| "the broker does not know the password either; don't trust it".to_owned())?;
                Ok(None)
            }
            State::Over => Err("an answer after the end".into()),
        }
    }

    fn prove(&mut self, challenge: &str) -> Result<String, String> {
        let mut fields = challenge.split(',');
        let mut field =
            |name: &str| fields.next().and_then(|f| f.strip_prefix(name)).ok_or("a challenge that makes no sense");
        let (nonce, salt, iterations) = (field("r=")?, field("s=")?, field("i=")?);
        let salt = STANDARD.decode(salt).map_err(|_| "a salt that is not in base64")?;
        let iterations = iterations.parse().ok().filter(|n| *n <= MAX_ITERATIONS).and_then(NonZeroU32::new);
        let iterations = iterations.ok_or("a number of iterations that makes no sense")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("a challenge to somebody else".into());
        }
        let salted = self.salted(&salt, iterations);
        let without_proof = format!("c=biws,r={nonce}");
        let whole = format!("{},{challenge},{without_proof}", self.bare);
        let client_key = self.sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.digest(), &client_key);
        let signature = self.sign(stored_key.as_ref(), whole.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server_key = self.sign(&salted, b"Server Key");
        self.state = State::Last(self.sign(&server_key, whole.as_bytes()));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }

    fn salted(&self, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let algorithm = match self.hash {
            ScramHash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            ScramHash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = vec![0; self.digest().output_len()];
        pbkdf2::derive(algorithm, iterations, salt, self.password.as_bytes(), &mut salted);
        salted
    }

    fn digest(&self) -> &'static digest::Algorithm {
        match self.hash {
            ScramHash::Sha256 => &digest::SHA256,
            ScramHash::Sha512 => &digest::SHA512,
        }
    }

    fn sign(&self, key: &[u8], message: &[u8]) -> Vec<u8> {
        let algorithm = match self.hash {
            ScramHash::Sha256 => hmac::HMAC_SHA256,
            ScramHash::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, section 3.
    const CHALLENGE: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client() -> ScramClient {
        ScramClient::new(ScramHash::Sha256, "user", "pencil", "rOprNGfwEbeRWgbNEkqO".into())
    }

    #[test]
    fn the_exchange_of_the_rfc() {
        let mut client = client();
        assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let proof = client.next(CHALLENGE.as_bytes()).unwrap().unwrap();
        assert!(proof.ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), "{proof}");
        assert_eq!(client.next(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(None));
        assert!(client.next(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
    }

    #[test]
    fn a_broker_that_makes_no_sense_is_not_believed() {
        for challenge in [
            "",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=100000000",
        ] {
            assert!(client().next(challenge.as_bytes()).is_err(), "{challenge}");
        }
        let mut cheated = client();
        cheated.next(CHALLENGE.as_bytes()).unwrap();
        assert!(cheated.next(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap_err().contains("trust"));
    }

    #[test]
    fn names_are_escaped() {
        let client = ScramClient::new(ScramHash::Sha512, "a=b,c", "p", "n".into());
        assert_eq!(client.first(), "n,,n=a=3Db=2Cc,r=n");
    }
}
