//! A client's connection that believes nothing: it reads answers as RFC 9112 has them and says in one
//! word what is wrong with one that is not whole.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::Ask;

/// The longest silence that is waited through.
const SILENCE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Conn {
    reader: BufReader<TcpStream>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// `HTTP/1.1`.
    pub version: String,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// The statuses of answers before the final one: 100, 103.
    pub interim: Vec<u16>,
}

/// Why there is no whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// No connection could be made.
    Refused,
    /// Closed in good order before a byte of the answer.
    Closed,
    /// Reset.
    Reset,
    /// Closed in the middle of the answer.
    Short,
    /// Silent for too long.
    Silent,
    /// Not HTTP, or against its rules.
    Garbage(String),
    Other(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Broken::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Broken::Reset,
            io::ErrorKind::UnexpectedEof => Broken::Short,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Broken::Silent,
            _ => Broken::Other(error.to_string()),
        }
    }
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, target: &str) -> Result<Answer, Broken> {
    Conn::open(address)?.ask(&Ask::get(target).header("Connection", "close"))
}

impl Conn {
    pub fn open(address: SocketAddr) -> Result<Conn, Broken> {
        Conn::over(TcpStream::connect_timeout(&address, SILENCE)?)
    }

    /// From this address of ours.
    pub fn open_from(ip: IpAddr, address: SocketAddr) -> Result<Conn, Broken> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
        socket.connect_timeout(&address.into(), SILENCE)?;
        Conn::over(socket.into())
    }

    /// On a connection that is there.
    pub fn over(stream: TcpStream) -> Result<Conn, Broken> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Conn { reader: BufReader::new(stream) })
    }

    /// Ends it with a reset.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.stream());
        socket.set_linger(Some(Duration::ZERO)).expect("a socket takes this option");
    }

    /// Whether nothing has come that was not read: no byte, no end.
    pub fn is_silent(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = socket2::SockRef::from(self.stream())
            .recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
        let nothing = peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        nothing && self.reader.buffer().is_empty()
    }

    /// Waits until the other side has closed in good order, having sent nothing more.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        assert_eq!(self.rest(), Ok(Vec::new()), "after the answer");
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The longest silence that reads wait through from now on.
    pub fn patience(&mut self, silence: Duration) {
        let set = self.stream().set_read_timeout(Some(silence));
        set.expect("a time that is not zero can be set");
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, Broken> {
        // An answer may be there although not all of the request was taken.
        let sent = self.send(ask.bytes());
        match (self.answer(&ask.method), sent) {
            (Err(_), Err(error)) => Err(error),
            (answer, _) => answer,
        }
    }

    /// Sends these very bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Broken> {
        Ok(self.reader.get_mut().write_all(bytes.as_ref())?)
    }

    /// Shuts the side that writes.
    pub fn finish_writing(&self) {
        // It may be closed by the other side already.
        let _ = self.stream().shutdown(Shutdown::Write);
    }

    /// Whatever comes until the other side closes.
    pub fn rest(&mut self) -> Result<Vec<u8>, Broken> {
        let mut all = Vec::new();
        self.reader.read_to_end(&mut all)?;
        Ok(all)
    }

    /// Exactly so many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads one answer to a request of this method, whole.
    pub fn answer(&mut self, method: &str) -> Result<Answer, Broken> {
        let mut answer = self.head()?;
        answer.body = match answer.framing(method)? {
            Framing::None => Vec::new(),
            Framing::Length(length) => {
                let mut body = vec![0; length];
                self.reader.read_exact(&mut body)?;
                body
            }
            Framing::Chunked => self.chunks(&mut answer.trailers)?,
            Framing::UntilClose => self.rest()?,
        };
        Ok(answer)
    }

    /// Reads one answer's head; those before the final one are noted in it.
    pub fn head(&mut self) -> Result<Answer, Broken> {
        let mut interim = Vec::new();
        loop {
            if self.reader.fill_buf()?.is_empty() {
                return Err(Broken::Closed);
            }
            let line = self.line()?;
            let bad = || Broken::Garbage(format!("status line {line:?}"));
            let mut parts = line.splitn(3, ' ');
            let version = parts.next().filter(|v| v.starts_with("HTTP/1.")).ok_or_else(bad)?;
            let status = parts.next().filter(|s| s.len() == 3).and_then(|s| s.parse().ok());
            let status: u16 = status.ok_or_else(bad)?;
            let (version, headers) = (version.to_owned(), self.fields()?);
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
                continue;
            }
            let (body, trailers) = (Vec::new(), Vec::new());
            return Ok(Answer { status, version, headers, body, trailers, interim });
        }
    }

    fn fields(&mut self) -> Result<Vec<(String, String)>, Broken> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| Broken::Garbage(format!("field {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn chunks(&mut self, trailers: &mut Vec<(String, String)>) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| Broken::Garbage(format!("chunk size {line:?}")))?;
            if size == 0 {
                *trailers = self.fields()?;
                return Ok(body);
            }
            let start = body.len();
            body.resize(start + size, 0);
            self.reader.read_exact(&mut body[start..])?;
            if !self.line()?.is_empty() {
                return Err(Broken::Garbage("no end of line after a chunk".to_owned()));
            }
        }
    }

    /// A line without its end, which must be CRLF.
    fn line(&mut self) -> Result<String, Broken> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None if line.ends_with(b"\n") => Err(Broken::Garbage("a bare LF".to_owned())),
            None => Err(Broken::Short),
        }
    }
}

enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

impl Answer {
    /// The field's value; several are joined as RFC 9110 5.3 says.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().filter(|(n, _)| n == name);
        let values: Vec<&str> = found.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// Whether the connection ends after this answer.
    pub fn closes(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default().to_ascii_lowercase();
        let has = |option: &str| connection.split(',').any(|part| part.trim() == option);
        has("close") || (self.version == "HTTP/1.0" && !has("keep-alive"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What a test backend echoes.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|why| panic!("no JSON ({why}): {} {}", self.status, self.text()))
    }

    /// RFC 9112 6.3.
    fn framing(&self, method: &str) -> Result<Framing, Broken> {
        if method == "HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            return Ok(Framing::None);
        }
        let lengths: Vec<_> = self.headers.iter().filter(|(n, _)| n == "content-length").collect();
        let coding = self.header("transfer-encoding");
        match (coding.as_deref(), lengths.as_slice()) {
            (Some("chunked"), []) => Ok(Framing::Chunked),
            (None, [(_, length)]) => match length.parse() {
                Ok(length) => Ok(Framing::Length(length)),
                Err(_) => Err(Broken::Garbage(format!("length {length:?}"))),
            },
            (None, []) => Ok(Framing::UntilClose),
            _ => Err(Broken::Garbage(format!("framing of {:?}", self.headers))),
        }
    }
}
