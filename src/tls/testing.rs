//! Certificates for tests, made when they are needed: no key is ever committed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    date_time_ymd,
};

use crate::config::model::Certificate;

/// A folder of its own, which goes with the value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-tls-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        write_private(&path, text);
        path
    }

    /// `NAME.pem` and `NAME.key`, as a certificate.
    pub fn pair(&self, name: &str, made: &Made) -> Certificate {
        let cert = self.write(&format!("{name}.pem"), &made.cert);
        let key = self.write(&format!("{name}.key"), &made.key);
        crate::tls::certificates::pair(&cert, &key).expect("a pair").certificate
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("writing a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("our own file");
}

/// In PEM.
#[derive(Debug)]
pub struct Made {
    pub cert: String,
    pub key: String,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

/// Years: from the first day of the one to the first day of the other.
#[derive(Clone, Copy, Debug)]
pub struct Years(pub i32, pub i32);

pub const LONG: Years = Years(2020, 2049);
pub const PAST: Years = Years(2020, 2021);

pub fn key(kind: Kind) -> KeyPair {
    match kind {
        Kind::Ecdsa => KeyPair::generate(),
        Kind::Rsa => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
    }
    .expect("a key")
}

fn params(names: &[&str], years: Years) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names.clone()).expect("names");
    params.distinguished_name = DistinguishedName::new();
    let subject = names.first().map_or("nobody", |name| name);
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    params
}

pub fn signed_by_itself(names: &[&str], kind: Kind, years: Years) -> Made {
    let key = key(kind);
    let cert = params(names, years).self_signed(&key).expect("a certificate");
    Made { cert: cert.pem(), key: key.serialize_pem() }
}

/// An authority for client certificates.
#[derive(Debug)]
pub struct Authority {
    pub cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = params(&[name], LONG);
        params.subject_alt_names.clear();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key(Kind::Ecdsa);
        let cert = params.self_signed(&key).expect("a certificate").pem();
        Authority { cert, issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, names: &[&str], serial: u64, years: Years) -> Made {
        let key = key(Kind::Ecdsa);
        let mut params = params(names, years);
        params.serial_number = Some(SerialNumber::from(serial));
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Made { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
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
}
