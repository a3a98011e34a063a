//! Whether a peer is of this cluster: by its certificate, or by a secret that all nodes have. What is not configured to be
//! proven is believed; what is, is not believed without.
//!
//! ```text
//!  Certificates:  what TLS has shown names the node that the Hello, or the Welcome, speaks of
//!  Secret:        Hello(nonce) ──► Challenge(nonce, proof over both) ──► Proof(over both) ──► Welcome
//! ```
//! Both sides prove that they know the secret, neither shows it, and neither's proof is of use to the other, or another time.

use aws_lc_rs::{constant_time, hmac};

use super::Identity;
use super::frame::{Challenge, Frame, Hello, Mac, Nonce, Reason, encode};
use super::handshake::Rejection;
use crate::security::{PeerCertificate, Principal};

/// Fewest bytes of a secret.
const MIN_SECRET: usize = 16;

/// The cluster's secret; never shown.
#[derive(Clone)]
pub struct LinkSecret(Box<hmac::Key>);

impl std::fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkSecret")
    }
}

impl LinkSecret {
    /// These bytes, without white space around them.
    ///
    /// # Errors
    /// They are too few.
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes.trim_ascii();
        if bytes.len() < MIN_SECRET {
            return Err(format!("a secret between nodes has {MIN_SECRET} bytes at least, this one {}", bytes.len()));
        }
        Ok(Self(Box::new(hmac::Key::new(hmac::HMAC_SHA256, bytes))))
    }

    fn sign(&self, parts: &[&[u8]]) -> Mac {
        let tag = hmac::sign(&self.0, &parts.concat());
        let mut mac = [0; 32];
        mac.copy_from_slice(tag.as_ref());
        mac
    }
}

/// What a peer has to prove.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Nothing.
    Anybody,
    /// That its certificate is a node's.
    Certificates {
        /// Names of nodes, in place of the one that certificates have for it.
        principals: Vec<String>,
    },
    /// That it knows the secret; without one here, nobody is trusted.
    Secret(Option<LinkSecret>),
}

fn unproven(text: impl Into<String>) -> Rejection {
    Rejection::new(Reason::Unproven, text)
}

impl Trust {
    /// Whether a peer's certificate, if that is asked for, names it.
    pub(super) fn check_certificate(
        &self,
        me: &Identity,
        peer: &Identity,
        certificate: Option<&PeerCertificate>,
    ) -> Result<(), Rejection> {
        let Self::Certificates { principals } = self else { return Ok(()) };
        let certificate = certificate.ok_or_else(|| unproven("a node without a certificate"))?;
        if !principals.is_empty() {
            let name = Principal::user(&certificate.subject);
            let known = principals.iter().any(|wanted| names(wanted, name.qualified()));
            return known.then_some(()).ok_or_else(|| unproven(format!("{name} is no principal of a node here")));
        }
        let cluster = me.cluster_id.as_deref().ok_or_else(|| unproven("this node does not know its cluster yet"))?;
        let wanted = format!("wherry://{cluster}/node/{}", peer.node);
        let known = certificate.uris.contains(&wanted);
        known.then_some(()).ok_or_else(|| {
            unproven(format!("the certificate of {} does not have the alternative name {wanted}", certificate.subject))
        })
    }

    /// What is asked of a dialler before its Hello is believed.
    pub(super) fn challenge(&self, me: &Identity, hello: &Hello, nonce: Nonce) -> Result<Option<Challenge>, Rejection> {
        let Self::Secret(secret) = self else { return Ok(None) };
        let secret = secret.as_ref().ok_or_else(|| unproven("this node has no secret yet"))?;
        let proof = secret.sign(&[b"acceptor", &said(hello), &identity(me), &nonce]);
        Ok(Some(Challenge { sender: me.clone(), nonce, proof }))
    }

    /// The dialler's proof, if the acceptor's is good.
    pub(super) fn answer(&self, hello: &Hello, challenge: &Challenge) -> Result<Mac, Rejection> {
        let Self::Secret(Some(secret)) = self else {
            return Err(unproven(
                "it wants a proof of a secret that this node does not have; set cluster.authentication",
            ));
        };
        let (said, acceptor) = (said(hello), identity(&challenge.sender));
        let wanted = secret.sign(&[b"acceptor", &said, &acceptor, &challenge.nonce]);
        same(&wanted, &challenge.proof, "it does not know the secret of this cluster")?;
        Ok(secret.sign(&[b"dialler", &said, &acceptor, &challenge.nonce]))
    }

    /// Whether a dialler's proof is good.
    pub(super) fn check_proof(&self, hello: &Hello, challenge: &Challenge, proof: &Mac) -> Result<(), Rejection> {
        let Self::Secret(Some(secret)) = self else { return Err(unproven("a proof that nobody asked for")) };
        let wanted = secret.sign(&[b"dialler", &said(hello), &identity(&challenge.sender), &challenge.nonce]);
        same(&wanted, proof, "the dialler does not know the secret of this cluster")
    }

    /// Whether a Welcome may come without a proof of the acceptor before it.
    pub(super) fn check_welcome(&self, peer: &Identity, proven: Option<&Identity>) -> Result<(), Rejection> {
        match (self, proven) {
            (Self::Secret(_), None) => Err(unproven("it did not prove that it knows the secret of this cluster")),
            (Self::Secret(_), Some(proven)) if proven != peer => {
                Err(unproven("it is not who proved to be of this cluster"))
            }
            (Self::Secret(_) | Self::Anybody | Self::Certificates { .. }, _) => Ok(()),
        }
    }
}

fn same(wanted: &Mac, found: &Mac, otherwise: &str) -> Result<(), Rejection> {
    constant_time::verify_slices_are_equal(wanted, found).map_err(|_| unproven(otherwise))
}

fn said(hello: &Hello) -> Vec<u8> {
    encode(&Frame::Hello(hello.clone())).concat()
}

fn identity(of: &Identity) -> Vec<u8> {
    encode(&Frame::Welcome(of.clone())).concat()
}

/// A `*` at the end stands for any rest.
fn names(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Class;
    use super::super::tests::identity as node;
    use super::*;

    fn hello() -> Hello {
        Hello { sender: node(1, 1), to: Some(2), class: Class::Data, nonce: [7; 32] }
    }

    fn secret(text: &str) -> Trust {
        Trust::Secret(Some(LinkSecret::new(text.as_bytes()).unwrap()))
    }

    #[test]
    fn both_sides_prove_that_they_know_the_secret() {
        let trust = secret("sixteen bytes or more\n");
        let challenge = trust.challenge(&node(2, 2), &hello(), [9; 32]).unwrap().unwrap();
        let proof = trust.answer(&hello(), &challenge).unwrap();
        assert_eq!(trust.check_proof(&hello(), &challenge, &proof), Ok(()));
        assert_eq!(trust.check_welcome(&node(2, 2), Some(&node(2, 2))), Ok(()));
        assert!(trust.check_welcome(&node(2, 2), None).is_err());
        assert!(trust.check_welcome(&node(3, 2), Some(&node(2, 2))).is_err());
        let other = secret("another secret of a cluster");
        assert!(other.answer(&hello(), &challenge).is_err());
        assert!(other.check_proof(&hello(), &challenge, &proof).is_err());
        assert!(trust.check_proof(&hello(), &challenge, &challenge.proof).is_err(), "not the acceptor's own");
        let replayed = Challenge { nonce: [8; 32], ..challenge.clone() };
        assert!(trust.check_proof(&hello(), &replayed, &proof).is_err());
        assert!(trust.answer(&Hello { nonce: [6; 32], ..hello() }, &challenge).is_err());
        assert!(Trust::Anybody.answer(&hello(), &challenge).is_err());
    }

    #[test]
    fn without_its_secret_a_node_trusts_nobody() {
        assert!(Trust::Secret(None).challenge(&node(2, 2), &hello(), [9; 32]).is_err());
        assert!(Trust::Secret(None).check_welcome(&node(2, 2), None).is_err());
        assert!(LinkSecret::new(b"   too short    ").is_err());
        assert!(!format!("{:?}", secret("sixteen bytes or more")).contains("sixteen"));
    }

    #[test]
    fn certificates_name_nodes() {
        let (me, peer) = (node(2, 2), node(1, 1));
        let uri = |uri: &str| PeerCertificate { subject: "CN=x".into(), uris: vec![uri.into()] };
        let own = Trust::Certificates { principals: Vec::new() };
        let check =
            |trust: &Trust, certificate: Option<&PeerCertificate>| trust.check_certificate(&me, &peer, certificate);
        assert_eq!(check(&own, Some(&uri("wherry://boats/node/1"))), Ok(()));
        for wrong in ["wherry://boats/node/2", "wherry://ships/node/1", "wherry://boats/node/11", "x"] {
            assert!(check(&own, Some(&uri(wrong))).is_err(), "{wrong}");
        }
        assert!(check(&own, None).is_err());
        let listed = Trust::Certificates { principals: vec!["User:CN=node-*".into(), "User:CN=a".into()] };
        let named = |subject: &str| PeerCertificate { subject: subject.into(), uris: Vec::new() };
        assert_eq!(check(&listed, Some(&named("CN=node-7,O=boats"))), Ok(()));
        assert_eq!(check(&listed, Some(&named("CN=a"))), Ok(()));
        for wrong in ["CN=ab", "CN=nod", "O=boats,CN=node-7"] {
            assert!(check(&listed, Some(&named(wrong))).is_err(), "{wrong}");
        }
        assert_eq!(check(&Trust::Anybody, None), Ok(()));
    }
}
