//! Whom a client's certificate names, as text that is safe in a header field. (P)
//!
//! The certificate was verified in the handshake, of this session or of the one it resumes.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use rustls::ServerConnection;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName};

/// No text of a certificate is longer: a request head has to have room for it.
const LONGEST: usize = 4096;

/// A client's verified certificate. All text is printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// As in RFC 2253, `CN=app,O=Example`: the last part first. Empty if it is longer than 4 KiB: half
    /// a name would be another's.
    pub subject: String,
    /// `DNS:app.example,URI:spiffe://example/app,IP:10.0.0.1,email:app@example`; those for which 4 KiB
    /// leave no room are left out.
    pub sans: String,
    /// SHA-256 of the certificate, in lower-case hex.
    pub fingerprint: String,
    /// A session may resume after that; who must not, is to be sent away.
    pub not_after: SystemTime,
}

impl Peer {
    /// `None` if the client has shown none.
    pub fn of(connection: &ServerConnection) -> Option<Peer> {
        Peer::of_der(connection.peer_certificates()?.first()?)
    }

    /// `None` if it is no certificate, which the handshake has ruled out.
    pub fn of_der(der: &[u8]) -> Option<Peer> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut fingerprint = String::with_capacity(64);
        for byte in Sha256::digest(der) {
            // Writing to a text cannot fail.
            let _ = write!(fingerprint, "{byte:02x}");
        }
        let not_after = certificate.validity().not_after.timestamp();
        let not_after = Duration::from_secs(u64::try_from(not_after).unwrap_or(0));
        Some(Peer {
            subject: subject(&certificate),
            sans: sans(&certificate),
            fingerprint,
            not_after: SystemTime::UNIX_EPOCH + not_after,
        })
    }
}

/// RFC 2253 2.1: the parts in reverse order.
fn subject(certificate: &X509Certificate<'_>) -> String {
    let parts: Vec<_> = certificate.subject().iter().collect();
    let text = parts.iter().rev().map(|part| relative(part)).collect::<Vec<_>>().join(",");
    if text.len() > LONGEST { String::new() } else { text }
}

fn relative(part: &RelativeDistinguishedName<'_>) -> String {
    part.iter().map(attribute).collect::<Vec<_>>().join("+")
}

/// RFC 2253 2.3 and 2.4: what has no short name is its OID, and its value is the DER in hex.
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let known = TYPES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    match (known, attribute.as_str()) {
        (Some(name), Ok(value)) => format!("{name}={}", escaped(value, true)),
        _ => {
            let mut text = format!("{}=#", known.unwrap_or(&oid));
            for byte in attribute.as_slice() {
                let _ = write!(text, "{byte:02X}");
            }
            text
        }
    }
}

/// RFC 2253 2.3, and what OpenSSL adds to it.
const TYPES: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.5", "serialNumber"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// RFC 2253 2.4; what is not printable ASCII as a backslash and the hex of each byte, so that no
/// certificate can write a line of its own into a head.
fn escaped(value: &str, is_dn: bool) -> String {
    let mut text = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (i, byte) in value.bytes().enumerate() {
        let special = match byte {
            b',' | b'\\' => true,
            b'+' | b'"' | b'<' | b'>' | b';' => is_dn,
            b' ' => is_dn && (i == 0 || i == last),
            b'#' => is_dn && i == 0,
            _ => false,
        };
        match byte {
            b' '..=b'~' => {
                if special {
                    text.push('\\');
                }
                text.push(char::from(byte));
            }
            other => {
                let _ = write!(text, "\\{other:02X}");
            }
        }
    }
    text
}

fn sans(certificate: &X509Certificate<'_>) -> String {
    let mut text = String::new();
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return text };
    for name in &extension.value.general_names {
        let one = match name {
            GeneralName::DNSName(name) => format!("DNS:{}", escaped(name, false)),
            GeneralName::URI(uri) => format!("URI:{}", escaped(uri, false)),
            GeneralName::RFC822Name(name) => format!("email:{}", escaped(name, false)),
            GeneralName::IPAddress(bytes) => match ip(bytes) {
                Some(ip) => format!("IP:{ip}"),
                None => continue,
            },
            _ => continue,
        };
        if text.len() + one.len() >= LONGEST {
            continue;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&one);
    }
    text
}

fn ip(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn peer(subject: &[(DnType, &str)], sans: Vec<SanType>) -> Peer {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = sans;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Peer::of_der(certificate.der()).unwrap()
    }

    #[test]
    fn a_subject_is_written_as_rfc_2253_has_it() {
        let email = DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]);
        let odd = DnType::CustomDnType(vec![1, 2, 3, 4]);
        for (subject, expected) in [
            (&[(DnType::CountryName, "DE"), (DnType::CommonName, "app")][..], "CN=app,C=DE"),
            (&[(DnType::OrganizationName, "A, B + \"C\"")], "O=A\\, B \\+ \\\"C\\\""),
            (&[(DnType::CommonName, " #x ")], "CN=\\ #x\\ "),
            (&[(DnType::CommonName, "#x<>;\\")], "CN=\\#x\\<\\>\\;\\\\"),
            (&[(DnType::CommonName, "a\r\nX-Admin: yes")], "CN=a\\0D\\0AX-Admin: yes"),
            (&[(DnType::CommonName, "é")], "CN=\\C3\\A9"),
            (&[(email, "a@b")], "emailAddress=a@b"),
            (&[(odd, "ab")], "1.2.3.4=#6162"),
            (&[], ""),
        ] {
            assert_eq!(peer(subject, Vec::new()).subject, expected);
        }
        assert_eq!(peer(&[(DnType::CommonName, &"x".repeat(5000))], Vec::new()).subject, "");
    }

    #[test]
    fn other_names_cannot_be_mistaken_for_one_another() {
        let text = |text: &str| Ia5String::try_from(text).unwrap();
        let sans = vec![
            SanType::DnsName(text("app.example")),
            SanType::URI(text("spiffe://example/a,DNS:admin.example\r\nx")),
            SanType::Rfc822Name(text("a@example")),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::IpAddress("fd00::1".parse().unwrap()),
        ];
        assert_eq!(
            peer(&[], sans).sans,
            "DNS:app.example,URI:spiffe://example/a\\,DNS:admin.example\\0D\\0Ax,\
             email:a@example,IP:10.0.0.1,IP:fd00::1"
        );
        let long = (0..200).map(|i| SanType::DnsName(text(&format!("{i}.{}", "x".repeat(60)))));
        assert!(peer(&[], long.collect()).sans.len() < LONGEST);
    }

    #[test]
    fn the_fingerprint_is_of_the_whole_certificate() {
        let peer = peer(&[(DnType::CommonName, "app")], Vec::new());
        assert!(
            peer.fingerprint.len() == 64 && peer.fingerprint.bytes().all(|b| b.is_ascii_hexdigit())
        );
    }
}
