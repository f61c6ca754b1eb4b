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

impl Default for Folder {
    fn default() -> Folder {
        Folder::new()
    }
}

impl Folder {
    pub fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-tls-{}-{number}", std::process::id());
        Folder::made(std::env::temp_dir().join(name))
    }

    /// On the same file system, so that it can take the place of `path`.
    fn beside(path: &Path) -> Folder {
        Folder::made(path.with_extension(format!("tmp-{}", std::process::id())))
    }

    fn made(path: PathBuf) -> Folder {
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

/// What the fixtures of configurations name in their folder `certs`, made once: in `valid` and in
/// `invalid` the same. Complete or not there, as several test programs may be at it at once.
pub fn fixtures() {
    static MADE: std::sync::Once = std::sync::Once::new();
    MADE.call_once(|| {
        for kind in ["valid", "invalid"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config");
            let certs = root.join(kind).join("certs");
            if certs.join("complete").exists() {
                continue;
            }
            let folder = Folder::beside(&certs);
            write_fixtures(&folder);
            let _ = std::fs::remove_dir_all(&certs);
            // Another program may have been quicker.
            let _ = std::fs::rename(folder.path(), &certs);
        }
    });
}

fn write_fixtures(folder: &Folder) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(folder.path().join("live")).expect("a folder");
    std::fs::create_dir_all(folder.path().join("none")).expect("a folder");
    let pair = |name: &str, made: &Made| {
        folder.write(&format!("{name}.pem"), &made.cert);
        folder.write(&format!("{name}.key"), &made.key);
    };
    let names = ["example.com", "*.example.com"];
    let web = signed_by_itself(&names, Kind::Ecdsa, LONG);
    pair("web", &web);
    pair("web-rsa", &signed_by_itself(&names, Kind::Rsa, LONG));
    pair("live/other", &signed_by_itself(&["other.example"], Kind::Ecdsa, LONG));
    pair("past", &signed_by_itself(&["past.example", "www.past.example"], Kind::Ecdsa, PAST));
    pair("nameless", &signed_by_itself(&[], Kind::Ecdsa, LONG));
    let open = folder.path().join("past.key");
    std::fs::set_permissions(open, PermissionsExt::from_mode(0o644)).expect("our own file");
    let authority = Authority::new("clients");
    folder.write("clients.pem", &authority.cert);
    folder.write("clients.crl", &authority.revoke(&[7]));
    folder.write("tickets.key", &format!("# newest first\n{}\n", "A".repeat(43)));
    folder.write("short.key", "YWJj\n");
    folder.write("empty.pem", "");
    folder.write("backwards.pem", &format!("{}{}", authority.cert, web.cert));
    let end = "-----END ENCRYPTED PRIVATE KEY-----";
    folder.write("encrypted.key", &format!("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n{end}\n"));
    folder.write("complete", "");
}
