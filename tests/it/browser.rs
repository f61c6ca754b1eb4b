//! A browser over HTTPS, by either HTTP: Chromium loads a page whose script fetches many things at once,
//! uploads, and opens a WebSocket.

use std::net::SocketAddr;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::harness::{Authority, Child, Folder, PATIENCE, Pair, Proxy, program, setup};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/browser");

/// By what Chromium is told to trust it.
fn key_digest(pair: &Pair) -> String {
    let der = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("a certificate");
    let (_, certificate) = X509Certificate::from_der(&der).expect("a certificate");
    STANDARD.encode(Sha256::digest(certificate.public_key().raw))
}

/// Shows it `https://site.example/`, which is at `address`; it can reach nothing else.
fn chromium(profile: &Folder, pair: &Pair, address: SocketAddr) -> Child {
    let mut command = Command::new("chromium");
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .arg(format!("--host-resolver-rules=MAP site.example {address}, MAP * ~NOTFOUND"))
        .arg(format!("--ignore-certificate-errors-spki-list={}", key_digest(pair)))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--remote-debugging-port=0")
        .arg("https://site.example/");
    Child::start("chromium", &mut command)
}

#[test]
fn a_browser_fetches_uploads_and_talks_by_websocket() {
    if !program("chromium") || !program("python3") {
        return;
    }
    let mut command = Command::new("python3");
    let mut site = Child::start("site", command.arg(format!("{FOLDER}/server.py")));
    let address =
        site.wait_line(0, PATIENCE, |line| line.strip_prefix("@listening ").map(str::to_owned));
    let pair = Authority::new("authority").issue(&["site.example"]);
    let folder = Folder::new();
    pair.write(&folder, "a");
    let of = |alpn| {
        let tls = format!("certificates: [{{cert: a.pem, key: a.key}}], alpn: [{alpn}]");
        format!("tls: {{{tls}, strict_sni: true}}, routes: [{{pool: web}}]")
    };
    let config = setup().listener("new", &of("h2")).listener("old", &of("http/1.1"));
    let proxy = Proxy::start_beside(folder, config.pool("web", [&address], ""));
    // Where only one protocol is to be had, the WebSocket comes by it as well.
    for (listener, protocol) in [("new", "h2"), ("old", "http/1.1")] {
        let seen = site.lines().len();
        let profile = Folder::new();
        let mut browser = chromium(&profile, &pair, proxy.address(listener));
        let told =
            site.wait_line(seen, PATIENCE, |line| line.strip_prefix("@result ").map(str::to_owned));
        browser.kill();
        let expected = json!({
            "pieces": 30,
            "uploaded": "1048576",
            "socket": ["hello", 100_000],
            "closed": 1000,
            "protocols": [protocol],
        });
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!(told, expected, "{listener}");
    }
}
