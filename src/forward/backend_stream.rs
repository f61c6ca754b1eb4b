//! A connection to a backend, in clear or over TLS, as one type for the rest of the data path.
//!
//! Moves bytes and tells whether anything has come; the handshake is `flow::dial`'s to bound and to
//! judge. What TLS was given to write may rest with it until it is flushed.

use std::io::{self, Read};
use std::sync::Arc;
use std::task::Context;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ahead::Ahead;
use super::buffers::Buffers;
use crate::listen::{Plain, Socket, pass_on};
use crate::sys::socket;

#[derive(Debug)]
pub enum BackendStream {
    Tcp(TcpStream),
    Tls(Box<Tls>),
}

/// What the handshake says of the protocol within (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// What the pool speaks.
    Protocol,
    /// HTTP/1.1, whatever the pool speaks.
    Http1,
    /// HTTP/2 likewise.
    Http2,
    /// PostgreSQL, whose servers (17 and later) take TLS from the first byte only with this.
    Postgres,
    /// Nothing: what goes by is the client's matter.
    Nothing,
}

/// A stream over TLS. Dropped, it tells the backend that this was all (RFC 8446 6.1).
#[derive(Debug)]
pub struct Tls {
    stream: TlsStream<Ahead<TcpStream>>,
    /// What it was made by: after a reload another may be asked for.
    config: Arc<ClientConfig>,
    /// What was sent is not whole, and is not to look so.
    broken: bool,
}

impl BackendStream {
    /// Shakes hands with the backend that `name` says this is; reads by `buffers`. Whoever calls bounds it
    /// in time.
    pub async fn handshake(
        stream: TcpStream,
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
        offer: Offer,
        buffers: &Buffers,
    ) -> io::Result<BackendStream> {
        let stream = Ahead::new(stream, buffers);
        let connector = TlsConnector::from(config.clone());
        let offered = match offer {
            Offer::Protocol => config.alpn_protocols.clone(),
            Offer::Http1 => vec![b"http/1.1".to_vec()],
            Offer::Http2 => vec![b"h2".to_vec()],
            Offer::Postgres => vec![b"postgresql".to_vec()],
            Offer::Nothing => Vec::new(),
        };
        let stream = connector.with_alpn(offered).connect(name, stream).await?;
        let (config, broken) = (config.clone(), false);
        Ok(BackendStream::Tls(Box::new(Tls { stream, config, broken })))
    }

    /// Whether it is what these settings would make.
    pub fn suits(&self, tls: Option<&Arc<ClientConfig>>) -> bool {
        match (self, tls) {
            (BackendStream::Tcp(_), None) => true,
            (BackendStream::Tls(own), Some(wanted)) => Arc::ptr_eq(&own.config, wanted),
            (BackendStream::Tcp(_), Some(_)) | (BackendStream::Tls(_), None) => false,
        }
    }

    /// The protocol that TLS has settled, if it was asked to.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            BackendStream::Tcp(_) => None,
            BackendStream::Tls(tls) => tls.stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The socket below, whatever is spoken on it.
    pub fn socket(&self) -> &TcpStream {
        match self {
            BackendStream::Tcp(stream) => stream,
            BackendStream::Tls(tls) => tls.stream.get_ref().0.get_ref(),
        }
    }

    /// Whether nothing has come, not even an end, as far as the runtime has heard. What TLS says on its
    /// own account (session tickets) is taken in on the way and is nothing.
    pub fn is_quiet(&mut self) -> bool {
        match self {
            BackendStream::Tcp(stream) => {
                // A task that has used up its turn is told that nothing has come, whatever has.
                if !tokio::task::coop::has_budget_remaining() {
                    return is_quiet_now(stream);
                }
                let mut byte = [0];
                let mut byte = ReadBuf::new(&mut byte);
                let mut nobody = Context::from_waker(std::task::Waker::noop());
                stream.poll_peek(&mut nobody, &mut byte).is_pending()
            }
            BackendStream::Tls(tls) => tls.is_quiet(|socket, to| socket.try_read(to)),
        }
    }

    /// Like `is_quiet`, but asks the kernel itself: the runtime may not have heard yet.
    pub fn is_quiet_now(&mut self) -> bool {
        match self {
            BackendStream::Tcp(stream) => is_quiet_now(stream),
            BackendStream::Tls(tls) => {
                tls.is_quiet(|socket, to| (&*SockRef::from(socket)).read(to))
            }
        }
    }
}

fn is_quiet_now(stream: &TcpStream) -> bool {
    let mut byte = [std::mem::MaybeUninit::uninit()];
    let peeked = SockRef::from(stream).peek(&mut byte);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Tls {
    /// Takes in what `read` brings, until that is nothing (good), or something that is the reader's.
    fn is_quiet(&mut self, read: impl Fn(&TcpStream, &mut [u8]) -> io::Result<usize>) -> bool {
        let (ahead, session) = self.stream.get_mut();
        let mut records = Records { ahead, read };
        loop {
            let Ok(state) = session.process_new_packets() else { return false };
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                return false;
            }
            match session.read_tls(&mut records) {
                Ok(1..) => {}
                Ok(0) => return false,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if self.broken {
            return;
        }
        let (ahead, session) = self.stream.get_mut();
        session.send_close_notify();
        // A courtesy: what the socket does not take at once is not waited for.
        let _ = session.write_tls(&mut Alerts(ahead.get_ref()));
    }
}

/// What comes from below TLS as `std` reads.
struct Records<'a, R> {
    ahead: &'a mut Ahead<TcpStream>,
    read: R,
}

impl<R: Fn(&TcpStream, &mut [u8]) -> io::Result<usize>> Read for Records<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.ahead.hand_out(to) {
            0 => (self.read)(self.ahead.get_ref(), to),
            n => Ok(n),
        }
    }
}

/// The socket below TLS as `std` writes.
struct Alerts<'a>(&'a TcpStream);

impl io::Write for Alerts<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for BackendStream {
    fn reset_on_close(&mut self) {
        socket::reset_on_close(self.socket());
        if let BackendStream::Tls(tls) = self {
            tls.broken = true;
        }
    }

    fn break_off(&mut self) {
        match self {
            BackendStream::Tcp(stream) => stream.break_off(),
            BackendStream::Tls(tls) => tls.broken = true,
        }
    }

    fn is_delivered(&self) -> Option<bool> {
        Some(socket::is_delivered(self.socket()))
    }

    fn plain(&self) -> Option<Plain<'_>> {
        match self {
            BackendStream::Tcp(stream) => stream.plain(),
            BackendStream::Tls(_) => None,
        }
    }
}

// Flushed, the kernel has all of what was written. Shut down over TLS, it says close_notify and then
// ends the socket's side; what the backend still says can be read.
pass_on!(BackendStream { Tcp(stream) => stream, Tls(tls) => &mut tls.stream });

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream as ServerStream;

    use super::*;
    use crate::config::model::{Bundle, Protocol};
    use crate::tls::testing::{Authority, Folder, LONG};
    use crate::tls::{certificates, client, provider};

    /// Both ends of a connection that has been used: what comes with a handshake has been read.
    async fn pair() -> (BackendStream, ServerStream<TcpStream>) {
        let (folder, authority) = (Folder::new(), Authority::new("a test's authority"));
        let certificate = folder.pair("web", &authority.issue(&["web.test"], 1, LONG));
        let ca: Bundle =
            certificates::authorities(&folder.write("ca.pem", &authority.cert)).unwrap();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                certificate.certified.clone(),
            )));
        let config = client::settings(Some(&ca), None, true, Protocol::Http1).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let near = async {
            let stream = TcpStream::connect(addr).await.unwrap();
            let name = ServerName::try_from("web.test").unwrap();
            let buffers = Buffers::default();
            BackendStream::handshake(stream, &config, name, Offer::Nothing, &buffers).await.unwrap()
        };
        let far = async {
            let (stream, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(server)).accept(stream).await.unwrap()
        };
        let (mut near, mut far) = tokio::join!(near, far);
        assert!(near.suits(Some(&config)) && !near.suits(None));
        assert!(!near.suits(Some(&client::with_sessions(&config))));
        far.write_all(b"hello").await.unwrap();
        far.flush().await.unwrap();
        let mut hello = [0; 5];
        near.read_exact(&mut hello).await.unwrap();
        assert!(near.is_quiet() && near.is_quiet_now() && near.plain().is_none());
        (near, far)
    }

    #[tokio::test]
    async fn what_tls_says_on_its_own_account_is_nothing() {
        for now in [false, true] {
            let (mut near, mut far) = pair().await;
            let quiet = |near: &mut BackendStream| match now {
                true => near.is_quiet_now(),
                false => near.is_quiet(),
            };
            for _ in 0..3 {
                far.get_mut().1.refresh_traffic_keys().unwrap();
                far.flush().await.unwrap();
                near.socket().readable().await.unwrap();
                assert!(quiet(&mut near), "new keys");
            }
            // And it works on behind them, both ways.
            far.write_all(b"data").await.unwrap();
            far.flush().await.unwrap();
            near.socket().readable().await.unwrap();
            assert!(!quiet(&mut near), "data");
            let mut data = [0; 4];
            near.read_exact(&mut data).await.unwrap();
            assert_eq!(&data, b"data");
            assert!(quiet(&mut near));
            near.write_all(b"back").await.unwrap();
            near.flush().await.unwrap();
            far.read_exact(&mut data).await.unwrap();
            assert_eq!(&data, b"back");
            far.shutdown().await.unwrap();
            near.socket().readable().await.unwrap();
            assert!(!quiet(&mut near), "close_notify");
        }
    }

    #[tokio::test]
    async fn an_end_is_none_of_it_however_it_comes() {
        let (mut near, far) = pair().await;
        drop(far);
        near.socket().readable().await.unwrap();
        assert!(!near.is_quiet() && !near.is_quiet_now());
        let (mut near, far) = pair().await;
        socket::reset_on_close(far.get_ref().0);
        drop(far);
        near.socket().readable().await.unwrap();
        assert!(!near.is_quiet_now());
    }

    #[tokio::test]
    async fn the_other_side_is_told_of_a_good_end_and_of_no_other() {
        let (near, mut far) = pair().await;
        drop(near);
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0, "close_notify");
        let (mut near, mut far) = pair().await;
        near.write_all(b"half of ").await.unwrap();
        near.flush().await.unwrap();
        near.reset_on_close();
        drop(near);
        let mut all = Vec::new();
        assert!(far.read_to_end(&mut all).await.is_err(), "a reset");
    }

    /// Whatever the socket takes at once, a flush sees the rest on its way.
    #[tokio::test]
    async fn what_was_written_is_flushed_and_can_be_half_closed() {
        let (mut near, mut far) = pair().await;
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|n| (n >> 3) as u8).collect();
        let write = async {
            near.write_all(&bytes).await.unwrap();
            near.flush().await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let read = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            far.write_all(b"got it").await.unwrap();
            far.shutdown().await.unwrap();
            all
        };
        let (answer, all) = tokio::join!(write, read);
        assert!(all == bytes && answer == b"got it");
    }
}
