//! Reads certificates, keys, authorities, revocation lists and ticket keys from files, and proves them.
//!
//! What comes out can be served. Every file is bounded and has to be a regular one: a pipe or a device
//! would make a load wait without end. Keys appear in no error and in no `Debug`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use webpki::OwnedCertRevocationList;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use crate::config::model::{Bundle, Certificate, HostPattern, TicketKeys};

/// A chain, or a key.
const LARGEST: u64 = 1024 * 1024;
/// Authorities, or a revocation list: those of a large authority hold hundreds of thousands.
const LARGEST_BUNDLE: u64 = 64 * 1024 * 1024;
const LARGEST_TICKET_KEYS: u64 = 4096;

/// HKDF makes nothing of less (RFC 5869 3.3).
const SECRET_BYTES: usize = 32;

/// Why a file, or a pair of them, cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct CertificateError {
    pub path: PathBuf,
    pub what: Fault,
}

/// What is wrong with a file, without its name.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("holds no certificate in PEM")]
    NoCertificate,
    #[error("holds no certificate in PEM")]
    NoAuthority,
    #[error("holds a certificate that cannot be read: {0}")]
    Certificate(String),
    #[error("holds no private key in PEM")]
    NoKey,
    #[error("the key is encrypted: nobody is there to type its password")]
    Encrypted,
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// Of the key's file.
    #[error("the key does not belong to the certificate")]
    Mismatch { further_down: bool },
    #[error("holds no revocation list in PEM")]
    NoList,
    #[error("holds a revocation list that cannot be used: {0}")]
    List(String),
    #[error("line {line} {what}")]
    TicketKey { line: usize, what: String },
    #[error("holds no key")]
    NoTicketKey,
    #[error("holds no pair of files NAME.pem and NAME.key")]
    NoPair,
}

impl Fault {
    fn of(self, path: &Path) -> CertificateError {
        CertificateError { path: path.to_owned(), what: self }
    }

    /// What to do.
    pub fn help(&self) -> &'static str {
        match self {
            Fault::Read(_) => {
                "a path is relative to the configuration file, and this process must \
                               be allowed to read it"
            }
            Fault::NoCertificate => {
                "write the server's certificate, then the intermediate ones, each from -----BEGIN \
                 CERTIFICATE----- on"
            }
            Fault::NoAuthority => {
                "the certificates of those whom to trust, each from -----BEGIN CERTIFICATE----- on"
            }
            Fault::Certificate(_) => "openssl x509 -noout -text -in FILE shows what is in it",
            Fault::NoKey => {
                "a key begins with -----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY or EC PRIVATE KEY"
            }
            Fault::Encrypted => {
                "openssl pkey -in FILE -out PLAIN.key makes a plain one; guard it: chmod 600 PLAIN.key"
            }
            Fault::Key(_) => "RSA of 2048 to 8192 bits, ECDSA P-256, P-384 or P-521, or Ed25519",
            Fault::Mismatch { further_down: true } => {
                "it belongs to a certificate further down in that file: that one must be the first"
            }
            Fault::Mismatch { further_down: false } => {
                "these two must print the same: openssl x509 -pubkey -noout -in CERT; openssl pkey \
                 -pubout -in KEY"
            }
            Fault::NoList => {
                "a list begins with -----BEGIN X509 CRL-----; openssl crl -inform DER makes it of \
                 others"
            }
            Fault::List(_) => {
                "it must be whole, of version 2 and with a next update; openssl crl -noout -text -in \
                 FILE shows what is in it"
            }
            Fault::TicketKey { .. } | Fault::NoTicketKey => {
                "a line for each key, of at least 32 random bytes in base64, the newest first; make \
                 one with: head -c 32 /dev/urandom | base64"
            }
            Fault::NoPair => "a pair is, for example, example.pem and example.key",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: Certificate,
    /// Not only the owner and the group may read the key.
    pub exposed: bool,
}

/// A certificate with its chain, and the key to it.
pub fn pair(cert: &Path, key: &Path) -> Result<Pair, CertificateError> {
    let chain = certificates(cert, LARGEST)?;
    let (bytes, exposed) = read(key, LARGEST)?;
    let certificate = proved(cert, chain, key, private_key(&bytes, key)?)?;
    Ok(Pair { certificate, exposed })
}

/// The same of one text with both, which stands in the file `path`, or is to.
pub fn of_text(pem: &[u8], path: &Path) -> Result<Certificate, CertificateError> {
    proved(path, chain(pem, path)?, path, private_key(pem, path)?)
}

/// The certificate, if the two belong together.
fn proved(
    cert: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: &Path,
    signing: SigningKey,
) -> Result<Certificate, CertificateError> {
    let wrong = |what: String| Fault::Certificate(what).of(cert);
    // Each one: a client would choke on a chain of which a later part is broken.
    let parsed = chain.iter().map(parse).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let leaf = parsed.first().ok_or_else(|| Fault::NoCertificate.of(cert))?;
    let (names, not_before, not_after) = facts(leaf);
    let spki = signing.public_key();
    let fits = |certificate: &X509Certificate<'_>| {
        spki.as_ref().is_some_and(|spki| spki.as_ref() == certificate.public_key().raw)
    };
    if !fits(leaf) {
        let further_down = parsed.iter().skip(1).any(fits);
        return Err(Fault::Mismatch { further_down }.of(key));
    }
    let certified = CertifiedKey::new(chain, signing);
    // What rustls would find out at the first handshake.
    certified.keys_match().map_err(|error| wrong(error.to_string()))?;
    Ok(Certificate {
        cert: cert.to_owned(),
        key: key.to_owned(),
        certified: Arc::new(certified),
        names,
        not_before,
        not_after,
    })
}

/// The pairs of a folder, NAME.pem and NAME.key, by name; a file without its other half is none.
pub fn folder(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, CertificateError> {
    let wrong = |error| Fault::Read(error).of(folder);
    let mut pairs = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(wrong)? {
        let cert = entry.map_err(wrong)?.path();
        if cert.extension().is_some_and(|extension| extension == "pem") {
            let key = cert.with_extension("key");
            // One that cannot be asked for may be there: to read it says what is wrong.
            if !matches!(key.try_exists(), Ok(false)) {
                pairs.push((cert, key));
            }
        }
    }
    pairs.sort();
    if pairs.is_empty() { Err(Fault::NoPair.of(folder)) } else { Ok(pairs) }
}

/// Authorities, for a list of those whom to trust.
pub fn authorities(path: &Path) -> Result<Bundle, CertificateError> {
    let wrong = |what: String| Fault::Certificate(what).of(path);
    let certificates = certificates(path, LARGEST_BUNDLE).map_err(|error| match error.what {
        Fault::NoCertificate => Fault::NoAuthority.of(path),
        _ => error,
    })?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        parse(certificate).map_err(wrong)?;
        store.add(certificate.clone()).map_err(|error| wrong(error.to_string()))?;
    }
    let der = certificates.iter().map(|der| Bytes::copy_from_slice(der)).collect();
    Ok(Bundle { path: path.to_owned(), der, next_update: None })
}

/// Lists of revoked certificates.
pub fn revocations(path: &Path) -> Result<Bundle, CertificateError> {
    let (bytes, _) = read(path, LARGEST_BUNDLE)?;
    let mut lists = Vec::new();
    let mut next_update: Option<SystemTime> = None;
    for list in CertificateRevocationListDer::pem_slice_iter(&bytes) {
        let wrong = |what: String| Fault::List(what).of(path);
        let list = list.map_err(|error| wrong(error.to_string()))?;
        let next = usable(&list).map_err(wrong)?;
        next_update = Some(next_update.map_or(next, |first| first.min(next)));
        lists.push(Bytes::copy_from_slice(&list));
    }
    if lists.is_empty() {
        return Err(Fault::NoList.of(path));
    }
    Ok(Bundle { path: path.to_owned(), der: lists.into(), next_update })
}

/// When a list should be replaced, if the verifier of client certificates takes it. That reads it with
/// webpki, which wants more than RFC 5280 does, and would refuse it only when a listener is made.
fn usable(list: &[u8]) -> Result<SystemTime, String> {
    let (_, parsed) =
        CertificateRevocationList::from_der(list).map_err(|error| error.to_string())?;
    if parsed.version() != Some(X509Version::V2) {
        return Err("it is not of version 2".to_owned());
    }
    let next = parsed.next_update().ok_or("it has no next update")?;
    OwnedCertRevocationList::from_der(list).map_err(|error| match error {
        webpki::Error::UnsupportedDeltaCrl => "it is a delta of another list".to_owned(),
        webpki::Error::UnsupportedIndirectCrl => "it speaks for other authorities".to_owned(),
        webpki::Error::UnsupportedRevocationReasonsPartitioning => {
            "it is of some reasons alone".to_owned()
        }
        other => other.to_string(),
    })?;
    Ok(at(next.timestamp()))
}

/// One secret a line, in base64; empty lines and those that begin with `#` are passed over. True if
/// others than the owner and the group may read the file.
pub fn ticket_keys(path: &Path) -> Result<(TicketKeys, bool), CertificateError> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&alphabet::STANDARD, lenient);
    let (bytes, exposed) = read(path, LARGEST_TICKET_KEYS)?;
    let mut secrets = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = |what: String| Fault::TicketKey { line: number + 1, what }.of(path);
        let secret = base64.decode(line).map_err(|_| wrong("is no base64".to_owned()))?;
        if secret.len() < SECRET_BYTES {
            return Err(wrong(format!("is a key of {} bytes: too short", secret.len())));
        }
        secrets.push(Bytes::from(secret));
    }
    if secrets.is_empty() {
        return Err(Fault::NoTicketKey.of(path));
    }
    Ok((TicketKeys { path: path.to_owned(), secrets: secrets.into() }, exposed))
}

fn certificates(
    path: &Path,
    largest: u64,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let (bytes, _) = read(path, largest)?;
    chain(&bytes, path)
}

fn chain(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Fault::Certificate(error.to_string()).of(path))?;
    if chain.is_empty() {
        return Err(Fault::NoCertificate.of(path));
    }
    Ok(chain)
}

type SigningKey = Arc<dyn rustls::sign::SigningKey>;

fn private_key(pem: &[u8], path: &Path) -> Result<SigningKey, CertificateError> {
    let encrypted = [&b"ENCRYPTED PRIVATE KEY-----"[..], b"Proc-Type: 4,ENCRYPTED"];
    if encrypted.iter().any(|mark| memchr::memmem::find(pem, mark).is_some()) {
        return Err(Fault::Encrypted.of(path));
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Fault::NoKey.of(path))?;
    super::provider().key_provider.load_private_key(key).map_err(|error| {
        // rustls says what it wanted, never what it got.
        Fault::Key(error.to_string()).of(path)
    })
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match X509Certificate::from_der(der) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(error.to_string()),
    }
}

/// The DNS names (RFC 9525 6.3: the common name is none), and the time in which it is good.
fn facts(leaf: &X509Certificate<'_>) -> (Vec<HostPattern>, SystemTime, SystemTime) {
    let mut names = Vec::new();
    if let Ok(Some(extension)) = leaf.subject_alternative_name() {
        for name in &extension.value.general_names {
            if let GeneralName::DNSName(name) = name
                && let Some(name) = dns_name(name)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
    }
    let validity = leaf.validity();
    (names, at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
}

/// A star stands for the whole first label or for nothing (RFC 9525 6.3).
fn dns_name(name: &str) -> Option<HostPattern> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let ok = |host: &str| {
        let label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        host.split('.').all(label)
    };
    match name.strip_prefix('*') {
        Some(suffix) => {
            let rest = suffix.strip_prefix('.')?;
            ok(rest).then(|| HostPattern::Wildcard(suffix.to_owned()))
        }
        None => ok(&name).then_some(HostPattern::Exact(name)),
    }
}

/// What stands before 1970 was over then, too.
fn at(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The bytes, and whether all the world may read them.
fn read(path: &Path, largest: u64) -> Result<(Vec<u8>, bool), CertificateError> {
    let inner = || {
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(largest + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > largest {
            let limit = size(largest);
            return Err(io::Error::other(format!("it is larger than {limit}")));
        }
        Ok((bytes, metadata.permissions().mode() & 0o004 != 0))
    };
    inner().map_err(|error| Fault::Read(error).of(path))
}

fn size(bytes: u64) -> String {
    match bytes / (1024 * 1024) {
        0 => format!("{} KiB", bytes / 1024),
        mib => format!("{mib} MiB"),
    }
}
