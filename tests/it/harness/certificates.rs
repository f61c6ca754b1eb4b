//! Certificates for tests, made when they are needed: no key is ever committed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Folder;

/// Somebody who signs certificates.
#[derive(Debug)]
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = params(&[], name, [2020, 2049]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// For these names and IP addresses, the first of which is the subject.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_for(names, [2020, 2049])
    }

    pub fn issue_expired(&self, names: &[&str]) -> Pair {
        self.issue_for(names, [2020, 2021])
    }

    /// With a key of RSA.
    pub fn issue_rsa(&self, names: &[&str]) -> Pair {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
        self.sign(params(names, names.first().unwrap_or(&"nobody"), [2020, 2049]), key)
    }

    /// With a serial number by which it can be revoked.
    pub fn issue_numbered(&self, names: &[&str], serial: u64) -> Pair {
        let mut params = params(names, names.first().unwrap_or(&"nobody"), [2020, 2049]);
        params.serial_number = Some(SerialNumber::from(serial));
        self.sign(params, KeyPair::generate().expect("a key"))
    }

    /// A list, in PEM, of certificates that are good no more.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2049, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }

    fn issue_for(&self, names: &[&str], years: [i32; 2]) -> Pair {
        let params = params(names, names.first().unwrap_or(&"nobody"), years);
        self.sign(params, KeyPair::generate().expect("a key"))
    }

    fn sign(&self, params: CertificateParams, key: KeyPair) -> Pair {
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { cert: cert.pem(), key: key.serialize_pem() }
    }
}

fn params(names: &[&str], subject: &str, years: [i32; 2]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = date_time_ymd(years[0], 1, 1);
    params.not_after = date_time_ymd(years[1], 1, 1);
    params
}

impl Pair {
    /// For a server of ours that shows it and speaks these.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.cert.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Writes `NAME.pem` and `NAME.key`, which nobody else may read.
    pub fn write(&self, folder: &Folder, name: &str) {
        folder.file(&format!("{name}.pem"), &self.cert);
        let key = folder.file(&format!("{name}.key"), &self.key);
        std::fs::set_permissions(key, Permissions::from_mode(0o600)).expect("our own file");
    }
}
