//! One attempt to connect to a backend. Whoever calls bounds it in time.
//!
//! Every call to the kernel here is made for each connection, so there is none that could go: socket,
//! setsockopt, connect, and the runtime's registration (docs/performance.md lists them).

use std::io;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use crate::pool::BackendAddr;
use crate::sys::ports;
use crate::sys::socket::{begin_connect, keepalive};

/// A connected socket with TCP_NODELAY.
pub async fn connect(addr: BackendAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(addr.0), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    begin_connect(&socket, addr.0)?;
    let stream = TcpStream::from_std(socket.into())?;
    // A connection that failed is reported as closed: only then there is an error to ask for.
    if stream.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = stream.take_error()?
    {
        return Err(error);
    }
    if is_self_connected(&stream, addr) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// The same, and the first that the backend is told is `opening`.
pub async fn connect_and_say(addr: BackendAddr, opening: Option<&[u8]>) -> io::Result<TcpStream> {
    let mut stream = connect(addr).await?;
    if let Some(opening) = opening {
        stream.write_all(opening).await?;
    }
    Ok(stream)
}

/// For streams without an idle time-out of minutes: lets the kernel find a dead backend.
pub fn keep_alive(stream: &TcpStream) {
    // Without it the stream works all the same, until `tcp_idle`.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive());
}

/// A connection attempt to a free local port in the ephemeral range can meet itself (simultaneous
/// open): nobody listens there, so it counts as refused.
fn is_self_connected(stream: &TcpStream, to: BackendAddr) -> bool {
    ports::ephemeral().contains(&to.0.port()) && stream.local_addr().is_ok_and(|own| own == to.0)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn outcome(addr: SocketAddr) -> Result<SocketAddr, io::ErrorKind> {
        let connected = tokio::time::timeout(Duration::from_secs(10), connect(BackendAddr(addr)));
        let stream = connected.await.expect("in time").map_err(|error| error.kind())?;
        Ok(stream.peer_addr().expect("it is connected"))
    }

    #[tokio::test]
    async fn a_connection_is_made_or_refused() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any).await else { continue };
            let addr = listener.local_addr().unwrap();
            assert_eq!(outcome(addr).await, Ok(addr));
            drop(listener);
            assert_eq!(outcome(addr).await, Err(io::ErrorKind::ConnectionRefused));
        }
        // No route leads to port 0.
        outcome(([127, 0, 0, 1], 0).into()).await.unwrap_err();
    }

    #[tokio::test]
    async fn meeting_oneself_is_being_refused() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let own = socket.local_addr().unwrap();
        let stream = socket.connect(own).await.unwrap();
        assert!(is_self_connected(&stream, BackendAddr(own)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = BackendAddr(listener.local_addr().unwrap());
        assert!(!is_self_connected(&connect(addr).await.unwrap(), addr));
    }
}
