//! A backend that does, byte by byte, what its test says: a socket of the test's own thread.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use std::{fmt, mem};

use super::{PATIENCE, address, eventually};

/// Shown as its address, so that it can stand in a configuration.
#[derive(Debug)]
pub struct RawBackend {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl fmt::Display for RawBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl RawBackend {
    pub fn open() -> RawBackend {
        let listener = TcpListener::bind((address::own_ip(), 0)).expect("a loopback address");
        listener.set_nonblocking(true).expect("a socket takes this option");
        let address = listener.local_addr().expect("a bound socket has an address");
        RawBackend { listener, address }
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> RawPeer {
        let mut peer = None;
        eventually("the backend gets a connection", PATIENCE, || {
            peer = self.try_accept();
            peer.is_some()
        });
        peer.expect("it has just been seen")
    }

    /// Whether a connection is there that was not accepted yet; it is dropped.
    pub fn is_called(&self) -> bool {
        self.try_accept().is_some()
    }

    /// The next connection, if it is there already.
    pub fn try_accept(&self) -> Option<RawPeer> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(false).expect("a socket takes this option");
        stream.set_nodelay(true).expect("a socket takes this option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time that is not zero");
        Some(RawPeer { reader: BufReader::new(stream) })
    }
}

/// An address whose connections are never completed: its queue is full.
#[derive(Debug)]
pub struct Blackhole {
    pub address: SocketAddr,
    _listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl fmt::Display for Blackhole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Blackhole {
    pub fn open() -> Blackhole {
        let new = || {
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM,
                Some(socket2::Protocol::TCP),
            );
            socket.expect("a socket can be made")
        };
        let listener = new();
        let any = SocketAddr::new(address::own_ip(), 0);
        listener.bind(&any.into()).expect("a loopback address can be bound");
        listener.listen(0).expect("a bound socket can listen");
        let address = listener.local_addr().ok().and_then(|a| a.as_socket());
        let address = address.expect("a bound socket has an address");
        // A queue of none takes one or two; the kernel drops what comes after them.
        let queued = (0..8).map(|_| {
            let socket = new();
            socket.set_nonblocking(true).expect("a socket takes this option");
            // In progress for good.
            let _ = socket.connect(&address.into());
            socket
        });
        let queued = queued.collect();
        Blackhole { address, _listener: listener, _queued: queued }
    }
}

/// A connection of the load balancer's.
#[derive(Debug)]
pub struct RawPeer {
    reader: BufReader<TcpStream>,
}

/// A request's head as it came.
#[derive(Clone, Debug)]
pub struct Head {
    /// The first line.
    pub line: String,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Every value of the field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    /// The field's only value.
    #[track_caller]
    pub fn one(&self, name: &str) -> &str {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {self:?}");
        all[0]
    }
}

impl RawPeer {
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next request's head; `None` if the connection ended in good order.
    pub fn head_or_end(&mut self) -> io::Result<Option<Head>> {
        let line = self.line()?;
        if line.is_empty() {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let field = self.line()?;
            if field.is_empty() {
                return Ok(Some(Head { line, headers }));
            }
            let (name, value) = field.split_once(": ").unwrap_or((&field, ""));
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    #[track_caller]
    pub fn head(&mut self) -> Head {
        self.head_or_end().expect("a head comes").expect("the connection is open")
    }

    /// The body of a request with this head.
    #[track_caller]
    pub fn body(&mut self, head: &Head) -> Vec<u8> {
        if head.all("transfer-encoding").is_empty() {
            let length = head.all("content-length").first().map_or(0, |l| l.parse().unwrap());
            return self.bytes(length);
        }
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk();
            if chunk.is_empty() {
                return body;
            }
            body.extend(chunk);
        }
    }

    /// The next chunk; the last one, without trailers, is empty.
    #[track_caller]
    pub fn chunk(&mut self) -> Vec<u8> {
        let size = self.line().expect("a chunk comes");
        let size = usize::from_str_radix(&size, 16).expect("a size in hexadecimal");
        let chunk = self.bytes(size);
        assert_eq!(self.line().expect("the chunk ends"), "");
        chunk
    }

    #[track_caller]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).expect("so many bytes come");
        bytes
    }

    /// Whatever comes until the other side closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader.read_to_end(&mut all)?;
        Ok(all)
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).expect("it is taken");
    }

    /// Answers 200 with this text.
    #[track_caller]
    pub fn answer(&mut self, text: &str) {
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
    }

    pub fn finish_writing(&self) {
        // It may be closed by the other side already.
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// Ends it with a reset.
    pub fn reset(self) {
        reset(self.stream());
        mem::drop(self);
    }

    /// A line without its end; empty at the end of the connection.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None if line.is_empty() => Ok(line),
            None => Err(io::Error::other(format!("no end of line: {line:?}"))),
        }
    }
}

/// Makes the close that follows a reset.
pub fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("a socket takes this option");
}
