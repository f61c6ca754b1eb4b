//! Opens a listening socket, or says why it cannot. Options that accepted sockets inherit on Linux
//! (TCP_NODELAY, keep-alive) are set here, once.
//!
//! No SO_REUSEPORT: a second process on the same address must fail rather than share it silently.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::model::BindAddr;
use crate::sys::socket::keepalive;

/// Connections that the kernel queues for us; it caps this by `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}{}", advice(.source))]
pub struct BindError {
    pub addr: BindAddr,
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another process has it, or this one under another spelling, such as 0.0.0.0)"
        }
        io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        _ => "",
    }
}

/// A bound, listening, non-blocking socket. Those workers that accept have duplicates of it.
#[derive(Debug)]
pub enum Bound {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl Bound {
    pub fn open(addr: &BindAddr) -> Result<Bound, BindError> {
        let opened = match addr {
            BindAddr::Tcp(addr) => tcp(*addr).map(Bound::Tcp),
            BindAddr::Unix(path) => unix(path).map(Bound::Unix),
        };
        opened.map_err(|source| BindError { addr: addr.clone(), source })
    }

    /// The address in force: where port 0 was asked for, the one that the kernel chose.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(_) => None,
        }
    }

    /// Another descriptor of the same socket, for one worker.
    pub fn duplicate(&self) -> io::Result<Bound> {
        Ok(match self {
            Bound::Tcp(listener) => Bound::Tcp(listener.try_clone()?),
            Bound::Unix(listener) => Bound::Unix(listener.try_clone()?),
        })
    }
}

impl From<Bound> for OwnedFd {
    fn from(bound: Bound) -> OwnedFd {
        match bound {
            Bound::Tcp(listener) => listener.into(),
            Bound::Unix(listener) => listener.into(),
        }
    }
}

fn tcp(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Lets a restart bind while connections of the predecessor are in TIME_WAIT; it does not let
    // two listeners share an address.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn unix(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        other => other?,
    };
    socket2::SockRef::from(&listener.as_fd()).listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket file that nobody listens on any more: what a killed process leaves behind.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    is_socket && refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_listener_on_an_address_is_refused_with_advice() {
        let first = Bound::open(&BindAddr::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let addr = BindAddr::Tcp(first.local_addr().unwrap());
        let error = Bound::open(&addr).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {addr}: ")), "{error}");
        assert!(error.contains("another process has it"), "{error}");
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("evenkeel-bind-{}", std::process::id()));
        let addr = BindAddr::Unix(path.clone());
        let live = Bound::open(&addr).unwrap();
        assert_eq!(Bound::open(&addr).unwrap_err().source.kind(), io::ErrorKind::AddrInUse);
        drop(live);
        Bound::open(&addr).unwrap();
        std::fs::write(path.with_extension("txt"), "kept").unwrap();
        Bound::open(&BindAddr::Unix(path.with_extension("txt"))).unwrap_err();
        std::fs::remove_file(path.with_extension("txt")).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
