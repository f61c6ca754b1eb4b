//! Certificates for tests, made when they are needed: no key is ever committed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

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

    fn issue_for(&self, names: &[&str], years: [i32; 2]) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let params = params(names, names.first().unwrap_or(&"nobody"), years);
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
    /// Writes `NAME.pem` and `NAME.key`, which nobody else may read.
    pub fn write(&self, folder: &Folder, name: &str) {
        folder.file(&format!("{name}.pem"), &self.cert);
        let key = folder.file(&format!("{name}.key"), &self.key);
        std::fs::set_permissions(key, Permissions::from_mode(0o600)).expect("our own file");
    }
}
