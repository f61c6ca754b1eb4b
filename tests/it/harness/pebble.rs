//! A real ACME server: Pebble, of the people of Let's Encrypt, with its DNS server that says of every
//! name that it is at one address of ours.
//!
//! It checks signatures and refuses nonces now and then, makes each order's challenges anew, and looks
//! at them on the two ports that it is told. What it knows goes with its process.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Child, Folder, PATIENCE, address, program};

/// Where Pebble looks for challenges.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    pub ip: IpAddr,
    pub http: u16,
    pub tls: u16,
}

impl Site {
    /// An address with two free ports.
    pub fn new() -> Site {
        let free = |ip| std::net::TcpListener::bind((ip, 0)).expect("a loopback address");
        let ip = address::own_ip();
        let (http, tls) = (free(ip), free(ip));
        let port = |socket: std::net::TcpListener| socket.local_addr().expect("it is bound").port();
        Site { ip, http: port(http), tls: port(tls) }
    }

    pub fn http(&self) -> SocketAddr {
        (self.ip, self.http).into()
    }

    pub fn tls(&self) -> SocketAddr {
        (self.ip, self.tls).into()
    }
}

#[derive(Debug)]
pub struct Pebble {
    /// `None` while it is stopped.
    process: Option<Child>,
    _dns: Child,
    server: SocketAddr,
    management: SocketAddr,
    resolver: SocketAddr,
    folder: Folder,
}

impl Pebble {
    /// `None`, and the test is skipped, if it is not installed.
    #[track_caller]
    pub fn start(site: Site) -> Option<Pebble> {
        let mut pebble = Pebble::stopped(site)?;
        pebble.run();
        Some(pebble)
    }

    /// One that does not run yet.
    #[track_caller]
    pub fn stopped(site: Site) -> Option<Pebble> {
        if !program("pebble") || !program("pebble-challtestsrv") || !program("curl") {
            return None;
        }
        let server = address::free_address();
        let management = SocketAddr::new(server.ip(), address::free_address().port());
        let (resolver, told) = (address::free_address(), address::free_address());
        let folder = Folder::new();
        certificates(&folder, server.ip());
        let settings = serde_json::json!({"pebble": {
            "listenAddress": server.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": folder.path().join("server.pem"),
            "privateKey": folder.path().join("server.key"),
            "httpPort": site.http,
            "tlsPort": site.tls,
        }});
        folder.file("pebble.json", settings.to_string());
        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]);
        dns.args(["-defaultIPv4", &site.ip.to_string()]);
        dns.args(["-dns01", &resolver.to_string(), "-management", &told.to_string()]);
        let mut dns = Child::start("challtestsrv", &mut dns);
        dns.wait_line(0, PATIENCE, |line| {
            line.contains("Starting management server").then_some(())
        });
        Some(Pebble { process: None, _dns: dns, server, management, resolver, folder })
    }

    /// Starts it, or starts it again: with another account for everybody, and another root.
    #[track_caller]
    pub fn run(&mut self) {
        self.stop();
        let mut pebble = Command::new("pebble");
        pebble.arg("-config").arg(self.folder.path().join("pebble.json"));
        pebble.args(["-dnsserver", &self.resolver.to_string()]);
        // It looks at once. (By itself it refuses one nonce of twenty.)
        pebble.env("PEBBLE_VA_NOSLEEP", "1");
        let mut child = Child::start("pebble", &mut pebble);
        child.wait_line(0, PATIENCE, |line| line.contains("Listening on: ").then_some(()));
        self.process = Some(child);
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The URL that clients are told.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.server)
    }

    /// Whom to trust as this server.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Whom to trust as what it certifies.
    #[track_caller]
    pub fn root(&self) -> CertificateDer<'static> {
        let url = format!("https://{}/roots/0", self.management);
        let got = Command::new("curl")
            .args(["-sS", "--fail", "--max-time", "10", "--retry", "5"])
            .arg("--retry-connrefused")
            .arg("--cacert")
            .arg(self.ca())
            .arg(url)
            .output();
        let got = got.expect("curl runs");
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        CertificateDer::from_pem_slice(&got.stdout).expect("a certificate in PEM")
    }

    /// What it says of its work.
    pub fn lines(&self) -> Vec<String> {
        self.process.as_ref().map(Child::lines).unwrap_or_default()
    }

    /// How often it has looked for a challenge: in all, and over HTTP. (It says no more of TLS.)
    pub fn validations(&self) -> (usize, usize) {
        let lines = self.lines();
        let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        (count("Pulled a task from the Tasks queue"), count("Attempting to validate w/ HTTP"))
    }
}

/// Of the server itself: an authority, and what it certifies.
fn certificates(folder: &Folder, ip: IpAddr) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    // Who is called as its issuer is taken for signed by itself.
    ca.distinguished_name.push(DnType::CommonName, "the authority of the ACME server");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate").pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([ip.to_string()]).expect("a name");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    folder.file("ca.pem", ca_pem);
    folder.file("server.pem", certificate.pem());
    folder.file("server.key", key.serialize_pem());
}

/// A certificate for a name that nobody trusts, and its key, in one PEM text: good from `since` to
/// `until`, in days from today.
pub fn self_signed(domain: &str, since: i64, until: i64) -> String {
    let today = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64;
    let day = |days: i64| {
        let seconds = u64::try_from(today + days * 86_400).expect("after 1970");
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([domain.to_owned()]).expect("a name");
    params.not_before = day(since);
    params.not_after = day(until);
    key.serialize_pem() + &params.self_signed(&key).expect("a certificate").pem()
}

/// A folder's files with their permissions, by name.
pub fn listing(folder: &Path) -> Vec<(String, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let mode = entry.metadata().expect("a file's mode").permissions().mode() & 0o777;
        found.push((entry.file_name().to_string_lossy().into_owned(), mode));
    }
    found.sort();
    found
}
