//! HTTPS to the ACME server: a connection for each request, with a deadline and a bound on the answer.
//!
//! Certificates are always verified, by the system's roots or by a CA that the configuration names.
//! A dozen requests make an order: kept connections would be worth less than their care.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::machine::LONGEST_TOLD;
use crate::config::model::Bundle;

/// For one request, from the look-up of the name to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// For one address to take the connection: a host has several, and one from which nothing comes must leave
/// time for the next.
const EACH_ADDRESS: Duration = Duration::from_secs(5);

/// A directory, an order, a chain: none comes near.
const LARGEST: usize = 1024 * 1024;

type Cause = Box<dyn StdError + Send + Sync>;

/// What is to be known of the server's last words beside what they say.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Last>);

#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// `None`: no answer has come.
    status: Option<StatusCode>,
    /// When it wants to be asked again.
    retry_after: Option<Duration>,
}

impl Heard {
    pub fn retry_after(&self) -> Option<Duration> {
        self.last().retry_after
    }

    /// It, or what stands before it, does not serve us just now (RFC 9110 15.6.4, RFC 6585 4).
    pub fn is_closed(&self) -> bool {
        let closed = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS];
        self.last().status.is_some_and(|status| closed.contains(&status))
    }

    pub fn hear(&self, status: StatusCode, headers: &HeaderMap) {
        let told = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = told.and_then(|text| delay(text.trim(), SystemTime::now()));
        *self.last() = Last { status: Some(status), retry_after };
    }

    /// What was said to an earlier request does not count for this one.
    fn forget(&self) {
        *self.last() = Last::default();
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 9110 10.2.3: seconds, or a date.
fn delay(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok().map(|at| at.duration_since(now).unwrap_or_default())
}

pub struct Https {
    connector: TlsConnector,
    heard: Arc<Heard>,
}

impl Https {
    pub fn new(ca: Option<&Bundle>, heard: Arc<Heard>) -> Result<Https, Cause> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(ca) => {
                for der in &*ca.der {
                    roots.add(CertificateDer::from(der.to_vec()))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                let (added, _) = roots.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err(
                        "the system has no root certificates (install ca-certificates, or \
                                name the server's CA: `ca: FILE`)"
                            .into(),
                    );
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Https { connector: TlsConnector::from(Arc::new(config)), heard })
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (connector, heard) = (self.connector.clone(), self.heard.clone());
        Box::pin(async move {
            heard.forget();
            let mut answer = match timeout(PATIENCE, exchange(connector, request)).await {
                Ok(answer) => answer.map_err(Error::Other)?,
                Err(_) => {
                    let text = format!("no answer within {} s", PATIENCE.as_secs());
                    return Err(Error::Other(text.into()));
                }
            };
            let status = answer.status();
            heard.hear(status, answer.headers());
            bound(answer.headers_mut(), heard.retry_after());
            if !status.is_success() && !says_why(answer.headers()) {
                return Err(Error::Other(format!("the server answers {status}").into()));
            }
            Ok(BytesResponse::from(answer))
        })
    }
}

/// What is longer than anybody waits would be reckoned with, and past the end of time.
fn bound(headers: &mut HeaderMap, told: Option<Duration>) {
    if told.is_some_and(|after| after > LONGEST_TOLD) {
        headers.insert(RETRY_AFTER, LONGEST_TOLD.as_secs().into());
    }
}

/// RFC 8555 6.7: an error of the server's own, and not of something before it.
fn says_why(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("application/problem+json")
}

/// The request's URI is absolute; on the wire its path goes alone (RFC 9112 3.2.1).
async fn exchange(
    connector: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, Cause> {
    let uri = request.uri().clone();
    if uri.scheme_str() != Some("https") {
        return Err(format!("{uri} is not https").into());
    }
    let authority = uri.authority().ok_or("a URL without a host")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(443);
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = Uri::try_from(target)?;
    request.headers_mut().insert(HOST, host_field(authority)?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let socket = connect(&host, port)
        .await
        .map_err(|error| format!("cannot connect to {authority}: {error}"))?;
    let name = ServerName::try_from(host)?;
    let stream = connector
        .connect(name, socket)
        .await
        .map_err(|error| format!("no TLS with {authority}: {error}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
        Ok::<_, Cause>(Response::from_parts(parts, Full::new(body)))
    };
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            // All that came is in hand.
            answer.await
        }
    }
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    connect_any(lookup_host((host, port)).await?, EACH_ADDRESS).await
}

/// To the first of them that takes the connection in its time.
async fn connect_any(
    addresses: impl Iterator<Item = SocketAddr>,
    each: Duration,
) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        failed = match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
    }
    Err(failed)
}

/// Without the port where it is the usual one.
fn host_field(authority: &Authority) -> Result<HeaderValue, Cause> {
    let text = match authority.port_u16() {
        Some(443) | None => authority.host(),
        Some(_) => authority.as_str(),
    };
    Ok(HeaderValue::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use rustls::sign::SingleCertAndKey;
    use socket2::{Domain, Socket, Type};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::tls::testing::{Authority, Folder, LONG};
    use crate::tls::{self, certificates};

    /// An address that takes no connection and refuses none: its queue is full, and nobody empties it.
    #[tokio::test]
    async fn an_address_from_which_nothing_comes_leaves_time_for_the_next() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&any.into()).unwrap();
        full.listen(0).unwrap();
        let full_at = full.local_addr().unwrap().as_socket().unwrap();
        let each = Duration::from_millis(100);
        let mut queued = Vec::new();
        for _ in 0..8 {
            match timeout(each, TcpStream::connect(full_at)).await {
                Ok(socket) => queued.push(socket.unwrap()),
                Err(_) => break,
            }
        }
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        let good = listener.local_addr().unwrap();
        let socket = connect_any([full_at, good].into_iter(), each).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), good);
        let error = connect_any([full_at].into_iter(), each).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_was_said_to_an_earlier_request_does_not_count() {
        let (folder, authority) = (Folder::new(), Authority::new("acme"));
        let pair = folder.pair("server", &authority.issue(&["localhost"], 1, LONG));
        let ca = certificates::authorities(&folder.write("ca.pem", &authority.cert)).unwrap();
        let shown = Arc::new(SingleCertAndKey::from(pair.certified));
        let server = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(shown);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let served = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(socket).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 503 No\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let heard = Arc::new(Heard::default());
        let https = Https::new(Some(&ca), heard.clone()).unwrap();
        let ask = || https.request(Request::get(&url).body(BodyWrapper::default()).unwrap());
        assert!(ask().await.is_err());
        let told = Some(Duration::from_secs(120));
        assert!(heard.is_closed() && heard.retry_after() == told);
        served.await.unwrap();
        // Nobody listens any more.
        assert!(ask().await.is_err());
        assert!(!heard.is_closed() && heard.retry_after().is_none());
    }

    /// The crate adds it to the time of day.
    #[test]
    fn a_wait_without_end_is_bounded_before_anybody_reckons_with_it() {
        let heard = Heard::default();
        for (said, passed_on) in [
            ("18446744073709551615", "604800"),
            ("Fri, 31 Dec 9999 23:59:59 GMT", "604800"),
            ("604801", "604800"),
            ("604800", "604800"),
            ("120", "120"),
            ("soon", "soon"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(said));
            heard.hear(StatusCode::OK, &headers);
            bound(&mut headers, heard.retry_after());
            assert_eq!(headers[RETRY_AFTER], passed_on, "{said}");
        }
    }

    #[test]
    fn when_to_ask_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(delay(text, now).map(|after| after.as_secs()), seconds, "{text}");
        }
    }
}
