//! What a certificate must be to serve, and the one that answers a TLS-ALPN-01 challenge.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;

use super::machine::Validity;
use crate::config::model::{Certificate, HostPattern};
use crate::tls;

/// The certificate, if it is good for this name now.
pub fn fit(read: Certificate, domain: &str, now: SystemTime) -> Result<Certificate, String> {
    if !read.names.iter().any(|name| matches!(name, HostPattern::Exact(name) if name == domain)) {
        return Err(format!("it is not for {domain}"));
    }
    if read.not_after <= now {
        return Err("it has expired".to_owned());
    }
    Ok(read)
}

pub fn validity_of(certificate: &Certificate) -> Validity {
    Validity { not_before: certificate.not_before, not_after: certificate.not_after }
}

/// RFC 8737, 3: for the name alone, with the digest of the key authorization in a critical extension.
pub fn of_challenge(domain: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    // What rcgen would make of anything else is a panic.
    if digest.len() != 32 {
        return Err("a digest of another kind than SHA-256".to_owned());
    }
    let wrong = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new([domain.to_owned()]).map_err(wrong)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(wrong)?;
    let certificate = params.self_signed(&key).map_err(wrong)?;
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let signing = tls::provider().key_provider.load_private_key(der.into());
    let signing = signing.map_err(|error| error.to_string())?;
    // Not proved to belong together: that would read the certificate, and stumble over the extension.
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use x509_parser::certificate::X509Certificate;
    use x509_parser::prelude::FromDer;

    use super::*;
    use crate::tls::certificates;

    #[test]
    fn a_certificate_is_used_only_for_its_name_and_in_its_time() {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        let pem = key.serialize_pem() + &params.self_signed(&key).unwrap().pem();
        let got = certificates::of_text(pem.as_bytes(), Path::new("a.example.pem")).unwrap();
        let now = SystemTime::now();
        assert!(fit(got.clone(), "a.example", now).is_ok());
        assert!(fit(got.clone(), "c.example", now).is_err());
        assert!(fit(got.clone(), "a.example", got.not_after).is_err());
    }

    #[test]
    fn the_answer_to_a_challenge_holds_its_digest_in_a_critical_extension() {
        let certified = of_challenge("a.example", &[7; 32]).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certified.cert[0]).unwrap();
        // id-pe-acmeIdentifier (RFC 8737, 6.1): an OCTET STRING of 32 bytes.
        let extension =
            parsed.extensions().iter().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let extension = extension.unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32][..], &[7; 32]].concat());
        assert!(of_challenge("a.example", &[7; 31]).is_err());
    }
}
