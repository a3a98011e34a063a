//! Principals: names of users, and what a certificate says of its owner.

use std::fmt;
use std::rc::Rc;

use x509_parser::der_parser::asn1_rs::{Oid, ToDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Type of every principal here.
pub const USER_TYPE: &str = "User";
const ANONYMOUS: &str = "ANONYMOUS";

/// A user, with its type, as Kafka shows it: `User:alice`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Principal(Rc<str>);

impl Principal {
    /// A user of that name.
    #[must_use]
    pub fn user(name: &str) -> Self {
        Self(Rc::from(format!("{USER_TYPE}:{name}")))
    }

    /// Whoever has not said who it is.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::user(ANONYMOUS)
    }

    /// Its name, without the type.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, name)| name)
    }

    /// Its name, with the type.
    #[must_use]
    pub fn qualified(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a certificate says of its owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerCertificate {
    /// Subject, written as Java's `X500Principal.getName()` (RFC 2253), so that names in ACLs are the same as Kafka's.
    pub subject: String,
    /// Subject alternative names that are URIs.
    pub uris: Vec<String>,
}

impl PeerCertificate {
    /// Reads a certificate in DER that was checked before.
    ///
    /// # Errors
    /// It is none.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|e| format!("an unreadable certificate: {e}"))?;
        let names = certificate.subject_alternative_name().map_err(|e| format!("its alternative names: {e}"))?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uri = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        };
        Ok(Self { subject: rfc2253(certificate.subject()), uris: names.iter().filter_map(uri).collect() })
    }
}

/// RFC 2253: the last name first, `,` between names, `+` within one.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> =
        name.iter_rdn().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let value = match attribute.as_str() {
        Ok(text) => text.to_owned(),
        Err(_) => return hex_attribute(attribute),
    };
    match short_name(attribute.attr_type()) {
        Some(short) => format!("{short}={}", escaped(&value)),
        None => hex_attribute(attribute),
    }
}

/// What RFC 2253 has no name for is written as its encoding.
fn hex_attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let der = attribute.attr_value().to_der_vec_raw().unwrap_or_default();
    let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}=#{hex}", attribute.attr_type().to_id_string())
}

fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    let short = match oid.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        _ => return None,
    };
    Some(short)
}

fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        let edge_space = c == ' ' && (at == 0 || at == last);
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') || edge_space || (c == '#' && at == 0) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[(DnType, &str)], uri: Option<&str>) -> PeerCertificate {
        let mut params = CertificateParams::new(vec!["host.test".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        PeerCertificate::read(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn subjects_are_written_as_java_writes_them() {
        let names = [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Boats, Inc."),
            (DnType::OrganizationalUnitName, "#1 \"harbour\""),
            (DnType::CommonName, " a+b "),
        ];
        let subject = certificate(&names, None).subject;
        assert_eq!(subject, r#"CN=\ a\+b\ ,OU=\#1 \"harbour\",O=Boats\, Inc.,C=DE"#);
        let odd = certificate(&[(DnType::CustomDnType(vec![1, 2, 3]), "x"), (DnType::CommonName, "n")], None);
        assert_eq!(odd.subject, "CN=n,1.2.3=#0c0178");
    }

    #[test]
    fn uris_are_found_and_rubbish_is_refused() {
        let found = certificate(&[(DnType::CommonName, "n")], Some("wherry://boats/node/1"));
        assert_eq!(found.uris, ["wherry://boats/node/1"]);
        assert!(PeerCertificate::read(b"rubbish").is_err());
        assert_eq!(Principal::user("CN=n").to_string(), "User:CN=n");
    }
}
