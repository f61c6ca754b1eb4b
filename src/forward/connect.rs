//! One attempt to connect to a backend. Whoever calls bounds it in time.

use std::io;

use tokio::net::{TcpSocket, TcpStream};

use crate::pool::BackendAddr;

/// A connected socket with TCP_NODELAY, and keep-alive so that a dead backend is found.
pub async fn connect(addr: BackendAddr) -> io::Result<TcpStream> {
    let socket = match addr.0.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    socket.set_nodelay(true)?;
    let stream = socket.connect(addr.0).await?;
    if is_self_connected(&stream) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// For streams without an idle time-out of minutes: lets the kernel find a dead backend.
pub fn keep_alive(stream: &TcpStream) {
    // Without it the stream works all the same, until `tcp_idle`.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&crate::sys::socket::keepalive());
}

/// A connection attempt to a free local port in the ephemeral range can meet itself (simultaneous
/// open): nobody listens there, so it counts as refused.
fn is_self_connected(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local == peer,
        _ => false,
    }
}
