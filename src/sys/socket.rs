//! What both ends of the proxy ask of their sockets, in as few calls as there can be.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use socket2::{SockFilter, SockRef, Socket, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Finds dead peers well before `tcp_idle` does: after two minutes of silence, within 45 s. That is
/// with the kernel's own number of probes, nine (`net.ipv4.tcp_keepalive_probes`): each value that is
/// set is one more call for every connection to a backend.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(120)).with_interval(Duration::from_secs(5))
}

/// Registers a descriptor with the current runtime, to wait until it can be read from.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its one descriptor open for as long as it lives, here until the
    // `AsyncFd` that owns it is gone or has given it back; it always names the same one.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Takes a connection from a listening socket: non-blocking and closed on exec from the start, and
/// with its other end's address; it has none if that is a UNIX socket.
pub fn accept(listener: impl AsFd) -> io::Result<(Socket, Option<SocketAddr>)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (socket, addr) = SockRef::from(&listener).accept4(flags)?;
    Ok((socket, addr.as_socket()))
}

/// Copies what has come, and leaves it there. 0 is the end of the stream.
pub fn peek(socket: impl AsFd, to: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `to.len()` bytes
    // to `to`, which has that many.
    let n = unsafe { libc::recv(fd, to.as_mut_ptr().cast(), to.len(), libc::MSG_PEEK) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// When it is closed the other side gets a reset instead of an orderly end, and what was not yet
/// sent to it is lost.
pub fn reset_on_close(socket: impl AsFd) {
    // A socket that is already broken needs no reset.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// The other side's kernel has all that was written, or never will: the connection is over.
pub fn is_delivered(socket: impl AsFd) -> bool {
    let mut unacknowledged: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes one `int`, which
    // `unacknowledged` is.
    let failed = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut unacknowledged) };
    failed != 0 || unacknowledged == 0 || !matches!(SockRef::from(&socket).take_error(), Ok(None))
}

/// How many connections wait to be accepted. Only TCP can tell.
pub fn queued(listener: impl AsFd) -> io::Result<u32> {
    /// `tcpi_unacked`, of which listening sockets make their queue's length; 24 bytes into `tcp_info`.
    const UNACKED: usize = 6;
    let mut info = [0_u32; UNACKED + 1];
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `bytes` bytes to
    // `info`, which has that many and may hold any, and their number to `bytes`.
    let failed = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut bytes,
        )
    };
    match failed {
        0 if bytes as usize == size_of_val(&info) => Ok(info[UNACKED]),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A listening TCP socket takes no new clients from now on: the first packet of a handshake is
/// dropped, for the client to try again and find the port closed. Handshakes under way may finish.
/// Says nothing to a UNIX socket.
pub fn turn_away(listener: impl AsFd) -> io::Result<()> {
    /// The byte of a TCP header that has the flags, and two of them (RFC 9293 3.1).
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const DROP: u32 = 0;
    let step = |code: u32, otherwise, k| SockFilter::new(code as u16, 0, otherwise, k);
    SockRef::from(&listener).attach_filter(&[
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, FLAGS),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, SYN | ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, DROP),
        step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ])
}

/// Begins to connect a non-blocking socket. It is connected, or not, once it can be written to.
pub fn begin_connect(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match socket.connect(&addr.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_nobody_takes_is_not_delivered_until_the_connection_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert!(is_delivered(&near));
        near.set_nonblocking(true).unwrap();
        while (&near).write(&[0; 1 << 16]).is_ok() {}
        assert!(!is_delivered(&near));
        let mut took = [0; 1];
        far.read_exact(&mut took).unwrap();
        reset_on_close(&far);
        drop(far);
        near.set_nonblocking(false).unwrap();
        // Waits for the reset, and leaves it to be found.
        let mut poll = libc::pollfd { fd: near.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 60_000) }, 1);
        assert!(is_delivered(&near));
    }

    #[test]
    fn who_is_turned_away_waits_and_who_was_queued_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(queued(&listener).unwrap(), 0);
        let client = TcpStream::connect(addr).unwrap();
        assert_eq!(queued(&listener).unwrap(), 1);
        turn_away(&listener).unwrap();
        let late = TcpStream::connect_timeout(&addr, Duration::from_millis(100)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let (accepted, from) = accept(&listener).unwrap();
        assert_eq!(from, Some(client.local_addr().unwrap()));
        assert_eq!(queued(&listener).unwrap(), 0);
        assert!(accepted.nonblocking().unwrap());
        assert_eq!(accept(&listener).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
