//! Names, troubles and settings, without a socket.

use bytes::Bytes;
use rustls::pki_types::IpAddr;

use super::*;

fn tls(server_name: Option<&str>) -> BackendTls {
    let server_name = server_name.map(|name| ServerName::try_from(name.to_owned()).unwrap());
    let config = settings(None, None, false, Protocol::Http1).unwrap();
    BackendTls { ca: None, server_name, client: None, verify: false, config }
}

#[test]
fn the_name_is_the_pools_or_the_backends_or_its_address() {
    let addr: SocketAddr = "[fd00::1]:443".parse().unwrap();
    let named = |host: &str| BackendHost::Name { host: host.to_owned(), port: 443 };
    let name = |set: Option<&str>, host: &BackendHost| {
        server_name(&tls(set), host, addr).to_str().into_owned()
    };
    assert_eq!(name(Some("web.internal"), &named("a.test")), "web.internal");
    assert_eq!(name(None, &named("a.test")), "a.test");
    assert_eq!(name(None, &named("a.test.")), "a.test");
    assert_eq!(name(None, &named("web_1")), "web_1");
    let by_ip = server_name(&tls(None), &BackendHost::Addr(addr), addr);
    assert!(matches!(by_ip, ServerName::IpAddress(IpAddr::V6(_))), "{by_ip:?}");
}

#[test]
fn protocols_are_offered_by_what_the_pool_speaks() {
    let offered = |protocol| {
        let config = settings(None, None, false, protocol).unwrap();
        config.alpn_protocols.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect()
    };
    let offered = |protocol| -> Vec<String> { offered(protocol) };
    assert_eq!(offered(Protocol::Http1), ["http/1.1"]);
    assert_eq!(offered(Protocol::H2), ["h2"]);
    assert_eq!(offered(Protocol::Auto), ["h2", "http/1.1"]);
    let of_one = with_sessions(&settings(None, None, false, Protocol::H2).unwrap());
    assert_eq!(of_one.alpn_protocols, [b"h2"]);
}

#[test]
fn a_ca_that_is_none_is_told_by_its_number() {
    let der = [Bytes::from_static(b"no certificate")].into();
    let ca = Bundle { path: "ca.pem".into(), der, next_update: None };
    let error = settings(Some(&ca), None, true, Protocol::Http1).unwrap_err().to_string();
    assert!(error.starts_with("certificate number 1 of the file cannot be used"), "{error}");
}

#[test]
fn troubles_are_told_apart_and_cannot_write_lines_of_their_own() {
    let trouble = |error: CertificateError| {
        let error = rustls::Error::InvalidCertificate(error);
        Trouble::from_io(&io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let expired = CertificateError::ExpiredContext {
        time: UnixTime::since_unix_epoch(Duration::from_secs(10)),
        not_after: UnixTime::since_unix_epoch(Duration::from_secs(0)),
    };
    let expired = trouble(expired);
    assert_eq!(expired.kind, Kind::Expired);
    assert_eq!(expired.to_string(), "its certificate has expired on Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(trouble(CertificateError::UnknownIssuer).kind, Kind::UnknownIssuer);
    let presented = (0..9).map(|n| format!("DnsName(\"n{n}\nERROR\")")).collect();
    let expected = ServerName::try_from("a.test").unwrap();
    let name = trouble(CertificateError::NotValidForNameContext { expected, presented });
    assert_eq!(name.kind, Kind::WrongName);
    assert!(
        !name.to_string().contains('\n')
            && name.to_string().contains("for a.test but for n0 ERROR, n1")
    );
    assert_eq!(trouble(CertificateError::Revoked).kind, Kind::Handshake);
    let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    let plain = Trouble::from_io(&io::Error::new(io::ErrorKind::InvalidData, plain));
    assert!(plain.to_string().starts_with("it does not speak TLS there"), "{plain}");
    let gone = Trouble::from_io(&io::ErrorKind::ConnectionReset.into());
    assert_eq!(gone.to_string(), "the TLS handshake failed: connection reset");
}
