//! Whole handshakes in memory: what a client gets, and what it can resume where.

use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base64::Engine;
use bytes::Bytes;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, ServerConnection,
    SignatureScheme, SupportedProtocolVersion,
};

use super::certificates::{self, CertificateError, Fault};
use super::peer::Peer;
use super::server::{Kept, Server};
use super::testing::{Authority, Folder, Kind, LONG, Made, PAST, signed_by_itself};
use crate::config::model::{
    Acme, Alpn, Bundle, Certificate, ClientAuth, ListenerTls, Name, TicketKeys, TlsVersion,
};

/// Believes everything: who is who is not what these tests are about.
#[derive(Debug)]
struct Believes;

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];
const ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A client with a store of its own for sessions.
fn client(
    versions: &[&'static SupportedProtocolVersion],
    shows: Option<&Made>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believes));
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(made) => {
            let cert = CertificateDer::from_pem_slice(made.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(made.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.resumption = Resumption::in_memory_sessions(16);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// What a handshake came to, after a byte went each way (which is when TLS 1.3 brings tickets).
struct Shaken {
    server: ServerConnection,
    client: ClientConnection,
}

impl Shaken {
    fn resumed(&self) -> bool {
        assert_eq!(self.server.handshake_kind(), self.client.handshake_kind());
        self.server.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    fn shown(&self) -> &CertificateDer<'static> {
        &self.client.peer_certificates().unwrap()[0]
    }
}

fn shake(server: &Server, client: &Arc<ClientConfig>, name: &str) -> Result<Shaken, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name)?;
    let mut server = ServerConnection::new(server.config.clone())?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |from| server.read_tls(from));
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        feed(&wire, |from| client.read_tls(from));
        client.process_new_packets()?;
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok(Shaken { server, client });
        }
    }
    panic!("the handshake does not end");
}

fn feed(mut wire: &[u8], mut read: impl FnMut(&mut dyn io::Read) -> io::Result<usize>) {
    while !wire.is_empty() {
        read(&mut wire).unwrap();
    }
}

fn tls(certificates: Vec<Certificate>) -> ListenerTls {
    ListenerTls {
        named: certificates.len(),
        certificates,
        certificate_dir: None,
        strict_sni: false,
        min_version: TlsVersion::Tls12,
        client_auth: None,
        ticket_keys: None,
        alpn: vec![Alpn::H2, Alpn::Http1],
        hsts: None,
        acme: None,
    }
}

fn kept() -> Arc<Kept> {
    Arc::new(Kept::new(Instant::now()))
}

fn server(name: &str, tls: &ListenerTls, kept: &Arc<Kept>) -> Server {
    Server::new(&Name::new(name).unwrap(), tls, kept.clone()).unwrap()
}

fn web(folder: &Folder) -> Certificate {
    folder.pair("web", &signed_by_itself(&["a.example"], Kind::Ecdsa, LONG))
}

fn auth(folder: &Folder, authority: &Authority, required: bool) -> ClientAuth {
    let ca = certificates::authorities(&folder.write("ca.pem", &authority.cert)).unwrap();
    ClientAuth { required, ca, crl: None, headers: false }
}

#[test]
fn names_versions_and_protocols_are_settled() {
    let folder = Folder::new();
    let mut tls = tls(vec![
        web(&folder),
        folder.pair("b", &signed_by_itself(&["*.b.example"], Kind::Rsa, LONG)),
    ]);
    let open = server("web", &tls, &kept());
    for (name, expected) in [("a.example", 0), ("x.b.example", 1), ("other.example", 0)] {
        let shaken = shake(&open, &client(BOTH, None, &[b"http/1.1", b"h2"]), name).unwrap();
        assert_eq!(*shaken.shown(), tls.certificates[expected].certified.cert[0], "{name}");
        assert_eq!(shaken.server.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(
            shaken.server.negotiated_key_exchange_group().unwrap().name(),
            rustls::NamedGroup::X25519MLKEM768
        );
    }
    assert!(shake(&open, &client(ONLY_12, None, &[]), "a.example").is_ok());
    // No SNI is sent for an address.
    assert!(shake(&open, &client(BOTH, None, &[]), "127.0.0.1").is_ok());

    tls.min_version = TlsVersion::Tls13;
    tls.strict_sni = true;
    let strict = server("web", &tls, &kept());
    assert!(shake(&strict, &client(ONLY_12, None, &[]), "a.example").is_err());
    assert!(shake(&strict, &client(BOTH, None, &[]), "other.example").is_err());
    assert!(shake(&strict, &client(BOTH, None, &[]), "127.0.0.1").is_err());
    assert!(shake(&strict, &client(BOTH, None, &[]), "x.b.example").is_ok());
}

#[test]
fn sessions_resume_after_a_renewal_and_at_the_other_of_a_pair() {
    let folder = Folder::new();
    let mut tls = tls(vec![web(&folder)]);
    for versions in [BOTH, ONLY_12] {
        let kept = kept();
        let client = client(versions, None, &[]);
        let first = server("web", &tls, &kept);
        assert!(!shake(&first, &client, "a.example").unwrap().resumed());
        assert!(shake(&first, &client, "a.example").unwrap().resumed());
        let renewed = ListenerTls { certificates: vec![web(&folder)], ..tls.clone() };
        assert!(!first.is_of(&renewed));
        let second = server("web", &renewed, &kept);
        assert!(shake(&second, &client, "a.example").unwrap().resumed());
        // Another process knows nothing of random secrets.
        let other = server("web", &tls, &self::kept());
        assert!(!shake(&other, &client, "a.example").unwrap().resumed());
    }
    let secrets = Arc::from([Bytes::from_static(&[7; 32])]);
    tls.ticket_keys = Some(TicketKeys { path: "tickets.key".into(), secrets });
    let client = client(BOTH, None, &[]);
    assert!(!shake(&server("web", &tls, &kept()), &client, "a.example").unwrap().resumed());
    assert!(shake(&server("web", &tls, &kept()), &client, "a.example").unwrap().resumed());
}

/// The hole that one ticketer for all listeners would be: rustls lets a session resume wherever its
/// ticket can be read, and asks for no certificate then.
#[test]
fn no_session_resumes_where_more_is_asked_of_clients() {
    let folder = Folder::new();
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let secrets: Arc<[Bytes]> = Arc::from([Bytes::from_static(&[7; 32])]);
    let keys = TicketKeys { path: "tickets.key".into(), secrets };
    let open = ListenerTls { ticket_keys: Some(keys), ..tls(vec![web(&folder)]) };
    let with = |auth| ListenerTls { client_auth: Some(auth), ..open.clone() };
    let required = with(auth(&folder, &authority, true));
    let optional = with(auth(&folder, &authority, false));
    let good = authority.issue(&["app"], 5, LONG);
    for versions in [BOTH, ONLY_12] {
        let kept = kept();
        let resumes = |from: &ListenerTls, to: &ListenerTls, shows: Option<&Made>| {
            let client = client(versions, shows, &[]);
            shake(&server("web", from, &kept), &client, "a.example").unwrap();
            shake(&server("web", to, &kept), &client, "a.example").map(|shaken| shaken.resumed())
        };
        assert!(resumes(&open, &required, None).is_err(), "no certificate, no way in");
        assert!(resumes(&optional, &required, None).is_err());
        assert_eq!(resumes(&required, &required, Some(&good)), Ok(true));
        for (from, to) in [(&open, &required), (&optional, &required), (&required, &optional)] {
            assert_eq!(resumes(from, to, Some(&good)), Ok(false), "a handshake of its own");
        }
        // Another authority, another list: who was let in before is looked at again.
        let changed = with(auth(&folder, &other, true));
        assert!(resumes(&required, &changed, Some(&good)).is_err());
        let list = |serials: &[u64]| {
            let path = folder.write("crl.pem", &authority.revoke(serials));
            let crl = Some(certificates::revocations(&path).unwrap());
            with(ClientAuth { crl, ..auth(&folder, &authority, true) })
        };
        assert_eq!(resumes(&required, &list(&[4]), Some(&good)), Ok(false));
        assert!(resumes(&list(&[4]), &list(&[4, 5]), Some(&good)).is_err(), "revoked since");
    }
}

#[test]
fn a_session_of_another_listener_does_not_resume() {
    let folder = Folder::new();
    let tls = tls(vec![web(&folder)]);
    let kept = kept();
    for versions in [BOTH, ONLY_12] {
        let client = client(versions, None, &[]);
        shake(&server("web", &tls, &kept), &client, "a.example").unwrap();
        let there = server("other", &tls, &kept);
        assert!(!shake(&there, &client, "a.example").unwrap().resumed());
    }
}

#[test]
fn clients_prove_who_they_are() {
    let folder = Folder::new();
    let authority = Authority::new("clients");
    let good = authority.issue(&["app.example"], 5, LONG);
    let expired = authority.issue(&["app.example"], 6, PAST);
    let stranger = Authority::new("others").issue(&["app.example"], 5, LONG);
    let with = |required| ListenerTls {
        client_auth: Some(auth(&folder, &authority, required)),
        ..tls(vec![web(&folder)])
    };
    for (required, shows, passes) in [
        (true, Some(&good), true),
        (true, None, false),
        (true, Some(&expired), false),
        (true, Some(&stranger), false),
        (false, Some(&good), true),
        (false, None, true),
        // Who shows one that is wrong is not let in as if there were none.
        (false, Some(&expired), false),
        (false, Some(&stranger), false),
    ] {
        let server = server("web", &with(required), &kept());
        let shaken = shake(&server, &client(BOTH, shows, &[]), "a.example");
        assert_eq!(shaken.is_ok(), passes, "required {required}, {:?}", shows.map(|m| &m.cert));
        let peer = shaken.ok().and_then(|shaken| Peer::of(&shaken.server));
        assert_eq!(peer.is_some(), passes && shows.is_some());
        if let Some(peer) = peer {
            assert_eq!((&*peer.subject, &*peer.sans), ("CN=app.example", "DNS:app.example"));
            assert!(peer.not_after > SystemTime::now());
        }
    }
}

#[test]
fn a_resumed_session_still_knows_the_client() {
    let folder = Folder::new();
    let authority = Authority::new("clients");
    let made = authority.issue(&["app.example"], 5, LONG);
    let auth = Some(auth(&folder, &authority, true));
    let tls = ListenerTls { client_auth: auth, ..tls(vec![web(&folder)]) };
    let server = server("web", &tls, &kept());
    for versions in [BOTH, ONLY_12] {
        let client = client(versions, Some(&made), &[]);
        let first = Peer::of(&shake(&server, &client, "a.example").unwrap().server);
        let again = shake(&server, &client, "a.example").unwrap();
        assert!(again.resumed() && first.is_some());
        assert_eq!(Peer::of(&again.server), first);
    }
}

#[test]
fn what_acme_brings_is_served_at_once() {
    let folder = Folder::new();
    let acme = Acme {
        domains: vec!["a.example".into()],
        contact: None,
        directory: "https://acme.example/directory".into(),
        state_dir: "state".into(),
        ca: None,
    };
    let tls = ListenerTls { acme: Some(acme), strict_sni: true, ..tls(vec![]) };
    let kept = kept();
    let server_one = server("web", &tls, &kept);
    let plain = client(BOTH, None, &[b"h2"]);
    assert!(shake(&server_one, &plain, "a.example").is_err(), "nothing to show yet");
    let issued = web(&folder);
    server_one.issue(vec![issued.clone()]);
    // Also in the next configuration of the same listener.
    for server in [&server_one, &server("web", &tls, &kept)] {
        let shaken = shake(server, &plain, "a.example").unwrap();
        assert_eq!(*shaken.shown(), issued.certified.cert[0]);
        assert_eq!(server.certificates(), std::slice::from_ref(&issued));
    }
    // Not where none are ordered any more.
    let without = server("web", &ListenerTls { acme: None, ..tls }, &kept);
    assert!(without.certificates().is_empty());
}

#[test]
fn bad_files_say_what_is_wrong_and_what_to_do() {
    let folder = Folder::new();
    let made = signed_by_itself(&["a.example"], Kind::Ecdsa, LONG);
    let other = signed_by_itself(&["b.example"], Kind::Ecdsa, LONG);
    let good = folder.write("good.pem", &made.cert);
    let key = folder.write("good.key", &made.key);
    let fails = |cert: &str, key_text: &str| {
        let cert = folder.write("x.pem", cert);
        let key = folder.write("x.key", key_text);
        certificates::pair(&cert, &key).expect_err("a bad pair")
    };
    let broken = made.cert.replacen("MII", "MIJ", 1);
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    let chain = format!("{}{}", other.cert, made.cert);
    for (error, message, help) in [
        (fails("", &made.key), "holds no certificate", "BEGIN CERTIFICATE"),
        (fails(&made.key, &made.key), "holds no certificate", "BEGIN CERTIFICATE"),
        (fails(&made.cert, ""), "holds no private key", "BEGIN PRIVATE KEY"),
        (fails(&made.cert, encrypted), "encrypted", "openssl pkey"),
        (fails(&made.cert, &other.key), "does not belong", "must print the same"),
        (fails(&chain, &made.key), "does not belong", "must be the first"),
        (fails(&broken, &made.key), "cannot be read", "openssl x509"),
        (
            certificates::pair(folder.path(), &key).unwrap_err(),
            "it is not a file",
            "allowed to read",
        ),
        (certificates::pair(&good, "/dev/zero".as_ref()).unwrap_err(), "it is not a file", ""),
        (fails(&"x".repeat(2 << 20), &made.key), "larger than 1 MiB", ""),
    ] {
        let text = error.to_string();
        assert!(text.contains(message) && error.what.help().contains(help), "{text}");
        assert!(!text.contains("BEGIN"), "no content of a key file: {text}");
    }
    let leak = format!("{:?}", certificates::pair(&good, &key).unwrap());
    let secret = made.key.lines().nth(1).unwrap();
    assert!(!leak.contains(secret) && leak.len() < 400, "{leak}");
}

#[test]
fn keys_of_every_usual_form_are_read() {
    let folder = Folder::new();
    for (program, header) in [
        (&["ecparam", "-name", "prime256v1", "-genkey", "-noout"][..], "EC PRIVATE KEY"),
        (&["genrsa", "-traditional", "2048"], "RSA PRIVATE KEY"),
        (&["genpkey", "-algorithm", "ED25519"], "PRIVATE KEY"),
    ] {
        let key = folder.path().join("k.key");
        let cert = folder.path().join("k.pem");
        let run = |args: &[&std::ffi::OsStr]| {
            std::process::Command::new("openssl")
                .args(args)
                .output()
                .is_ok_and(|o| o.status.success())
        };
        let mut args: Vec<&std::ffi::OsStr> = program.iter().map(std::ffi::OsStr::new).collect();
        // The size of an RSA key comes last.
        args.splice(1..1, ["-out".as_ref(), key.as_os_str()]);
        if !run(&args) {
            eprintln!("skipped: no openssl");
            assert_ne!(std::env::var("EVENKEEL_TEST_REQUIRE").as_deref(), Ok("all"));
            return;
        }
        let subject =
            ["req", "-x509", "-subj", "/CN=x", "-days", "9", "-key"].map(std::ffi::OsStr::new);
        let files = [key.as_os_str(), "-out".as_ref(), cert.as_os_str()];
        assert!(run(&[&subject[..], &files].concat()));
        assert!(std::fs::read_to_string(&key).unwrap().contains(header));
        certificates::pair(&cert, &key).unwrap_or_else(|error| panic!("{header}: {error}"));
    }
}

#[test]
fn who_may_read_a_key_is_seen_and_ticket_keys_are_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let made = signed_by_itself(&["a.example"], Kind::Ecdsa, LONG);
    let (cert, key) = (folder.write("a.pem", &made.cert), folder.write("a.key", &made.key));
    for (mode, exposed) in [(0o600, false), (0o640, false), (0o644, true)] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(certificates::pair(&cert, &key).unwrap().exposed, exposed, "{mode:o}");
    }
    let one = "A".repeat(43);
    let two = format!("{}A=", "b".repeat(42));
    for (text, expected) in [
        (format!("{one}\n"), Ok(1)),
        (format!("# newest\n{one}\r\n\n{two}"), Ok(2)),
        (String::new(), Err("holds no key")),
        ("# none\n".into(), Err("holds no key")),
        (format!("{one}\nnot base64!\n"), Err("line 2 is no base64")),
        ("YWJj\n".into(), Err("line 1 is a key of 3 bytes: too short")),
        ("x".repeat(5000), Err("larger than 4 KiB")),
    ] {
        match certificates::ticket_keys(&folder.write("tickets.key", &text)) {
            Ok((keys, _)) => assert_eq!(Ok(keys.secrets.len()), expected, "{text}"),
            Err(error) => {
                let said = error.to_string();
                assert!(expected.is_err_and(|part| said.contains(part)), "{said}");
            }
        }
    }
}

#[test]
fn a_folder_gives_its_pairs_by_name() {
    let folder = Folder::new();
    for name in ["b.pem", "b.key", "a.pem", "a.key", "lonely.pem", "c.key", "d.crt", "d.key"] {
        folder.write(name, "");
    }
    // A key that is there, and cannot be got at.
    folder.write("e.pem", "");
    std::os::unix::fs::symlink("e.key", folder.path().join("e.key")).unwrap();
    let pairs = certificates::folder(folder.path()).unwrap();
    let names: Vec<_> = pairs.iter().map(|(cert, _)| cert.file_name().unwrap()).collect();
    assert_eq!(names, ["a.pem", "b.pem", "e.pem"]);
    assert!(matches!(
        certificates::folder(&folder.path().join("none")),
        Err(CertificateError { what: Fault::Read(_), .. })
    ));
}

#[test]
fn bundles_are_proved() {
    let folder = Folder::new();
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let both = folder.write("ca.pem", &format!("{}{}", one.cert, two.cert));
    let Bundle { der, .. } = certificates::authorities(&both).unwrap();
    assert_eq!(der.len(), 2);
    assert!(certificates::authorities(&folder.write("none.pem", "hello")).is_err());
    let list = folder.write("crl.pem", &one.revoke(&[1]));
    assert!(certificates::revocations(&list).unwrap().next_update.is_some());
    assert!(matches!(
        certificates::revocations(&both),
        Err(CertificateError { what: Fault::NoList, .. })
    ));
}

/// What the verifier would refuse is refused when it is read.
#[test]
fn a_revocation_list_is_one_that_the_verifier_takes() {
    let folder = Folder::new();
    let authority = Authority::new("clients");
    let pem = authority.revoke(&[1]);
    let list = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
    // Its number made the mark of a delta (RFC 5280 5.2.3, 5.2.4).
    let number = memchr::memmem::find(&list, b"\x55\x1d\x14").unwrap();
    let delta = [&list[..number + 2], b"\x1b", &list[number + 3..]].concat();
    for (der, said) in [
        (without(&list, b""), None),
        (without(&list, b"\x02\x01\x01"), Some("version 2")),
        (without(&list, b"\x17\x0d490101000000Z"), Some("no next update")),
        (delta, Some("a delta")),
    ] {
        let body = base64::prelude::BASE64_STANDARD.encode(der);
        let text = format!("-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n");
        let path = folder.write("crl.pem", &text);
        let read = certificates::revocations(&path);
        match said {
            None => {
                let crl = Some(read.unwrap());
                let client_auth = Some(ClientAuth { crl, ..auth(&folder, &authority, true) });
                let tls = ListenerTls { client_auth, ..tls(vec![web(&folder)]) };
                server("web", &tls, &kept());
            }
            Some(said) => {
                let text = read.unwrap_err().to_string();
                assert!(text.contains(said), "{text}");
            }
        }
    }
}

/// A revocation list less the first such bytes of what is signed (RFC 5280 5.1).
fn without(list: &[u8], part: &[u8]) -> Vec<u8> {
    let (signed, _) = content(list);
    let (fields, rest) = content(signed);
    let at = memchr::memmem::find(fields, part).unwrap();
    let fields = [&fields[..at], &fields[at + part.len()..]].concat();
    sequence(&[&sequence(&fields), rest].concat())
}

/// What is in the DER sequence that `der` begins with, and what comes after it.
fn content(der: &[u8]) -> (&[u8], &[u8]) {
    let (bytes, len) = match der[1] {
        long @ 0x81.. => {
            let bytes = usize::from(long & 0x7f);
            (bytes, der[2..2 + bytes].iter().fold(0, |len, byte| len << 8 | usize::from(*byte)))
        }
        short => (0, usize::from(short)),
    };
    der[2 + bytes..].split_at(len)
}

fn sequence(content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match content.len() {
        0..0x80 => vec![0x30, low],
        0x80..0x100 => vec![0x30, 0x81, low],
        _ => vec![0x30, 0x82, high, low],
    };
    [header, content.to_vec()].concat()
}
