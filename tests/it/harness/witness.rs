//! A backend that writes down what reaches it, read as strictly as can be, and answers as its test
//! says: on threads of the test's own.
//!
//! A request counts when it is whole, to the last byte of its trailers. What is cut off, or is against
//! the rules, is written down as broken.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, thread};

use super::{PATIENCE, Proxy, address, eventually};

/// A request that came whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Got {
    /// The number of its connection, in the order in which they were accepted.
    pub conn: usize,
    /// The first line.
    pub line: String,
    /// Names as they came, in their order.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

/// What to do about a request.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub then: Then,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    #[default]
    Keep,
    /// Ends it in good order.
    Close,
    /// Ends it with a reset.
    Reset,
}

#[derive(Debug, Default)]
struct Book {
    whole: Vec<Got>,
    broken: Vec<String>,
    accepted: usize,
    /// Connections with part of a request on them.
    within: usize,
}

/// Shown as its address, so that it can stand in a configuration.
pub struct Witness {
    pub address: SocketAddr,
    book: Arc<Mutex<Book>>,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The answer 200 with this text.
pub fn ok(text: &str) -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
    Reply { bytes: [head.as_bytes(), text.as_bytes()].concat(), then: Then::Keep }
}

impl Got {
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of the field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }
}

impl Witness {
    /// One that answers every request with its target.
    pub fn open() -> Witness {
        Witness::saying(|got| ok(if got.method() == "HEAD" { "" } else { got.target() }))
    }

    /// One that answers as `reply` says.
    pub fn saying(reply: impl Fn(&Got) -> Reply + Send + Sync + 'static) -> Witness {
        let listener = TcpListener::bind((address::own_ip(), 0)).expect("a loopback address");
        let address = listener.local_addr().expect("a bound socket has an address");
        let book = Arc::new(Mutex::new(Book::default()));
        let (kept, reply) = (book.clone(), Arc::new(reply));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let conn = {
                    let mut book = lock(&kept);
                    book.accepted += 1;
                    book.accepted
                };
                let (book, reply) = (kept.clone(), reply.clone());
                thread::spawn(move || serve(conn, &stream, &book, &*reply));
            }
        });
        Witness { address, book }
    }

    pub fn whole(&self) -> Vec<Got> {
        lock(&self.book).whole.clone()
    }

    /// What the whole requests ask for, in their order.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.book).whole.iter().map(|got| got.line.clone()).collect()
    }

    /// What was not whole, or not sound.
    pub fn broken(&self) -> Vec<String> {
        lock(&self.book).broken.clone()
    }

    /// Waits until all that the load balancer has sent is written down: every connection that it has
    /// made is here, and none is in the middle of a request.
    #[track_caller]
    pub fn settle(&self, proxy: &Proxy) {
        let made = proxy.metric("evenkeel_backend_connections_total", &[]) as usize;
        eventually("the backend has read everything", PATIENCE, || {
            let book = lock(&self.book);
            book.accepted >= made && book.within == 0
        });
    }
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(conn: usize, stream: &TcpStream, book: &Mutex<Book>, reply: &dyn Fn(&Got) -> Reply) {
    // A socket takes this option; without it the tests are only slower.
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    // `Ok(true)`: the next request's first byte is here.
    while reader.fill_buf().is_ok_and(|bytes| !bytes.is_empty()) {
        lock(book).within += 1;
        let read = request(&mut reader, stream);
        let mut book_now = lock(book);
        book_now.within -= 1;
        let mut got = match read {
            Ok(got) => got,
            Err(why) => return book_now.broken.push(why.to_string()),
        };
        got.conn = conn;
        book_now.whole.push(got.clone());
        drop(book_now);
        let Reply { bytes, then } = reply(&got);
        // Whoever does not want it has closed.
        let _ = { stream }.write_all(&bytes);
        match then {
            Then::Keep => {}
            Then::Close => return drop(stream.shutdown(Shutdown::Both)),
            Then::Reset => return super::raw::reset(stream),
        }
    }
}

fn bad(what: &str, line: impl fmt::Debug) -> io::Error {
    io::Error::other(format!("{what}: {line:?}"))
}

/// Reads one request; says 100 if it is waited for.
fn request(reader: &mut impl BufRead, mut stream: &TcpStream) -> io::Result<Got> {
    let line = line(reader)?;
    let mut words = line.split(' ');
    let version = words.nth(2);
    if version != Some("HTTP/1.1") || words.next().is_some() {
        return Err(bad("request line", &line));
    }
    let fields = fields(reader)?;
    let mut got = Got { line, fields, ..Got::default() };
    if got.all("host").len() != 1 {
        return Err(bad("hosts", &got));
    }
    if got.all("expect") == ["100-continue"] {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let lengths: Vec<u64> = got.all("content-length").iter().flat_map(|v| v.parse()).collect();
    match (got.all("transfer-encoding")[..].to_vec(), &lengths[..]) {
        (codings, []) if codings == ["chunked"] => chunks(reader, &mut got)?,
        (codings, [length]) if codings.is_empty() => {
            let mut whole = reader.take(*length);
            whole.read_to_end(&mut got.body)?;
            if (got.body.len() as u64) < *length {
                return Err(bad("cut short", &got));
            }
        }
        (codings, []) if codings.is_empty() => {}
        _ => return Err(bad("framing", &got)),
    }
    Ok(got)
}

fn chunks(reader: &mut impl BufRead, got: &mut Got) -> io::Result<()> {
    loop {
        let size = line(reader)?;
        let digits = size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let length = usize::from_str_radix(&size, 16).ok().filter(|_| digits);
        let length = length.ok_or_else(|| bad("chunk size", &size))?;
        if length == 0 {
            got.trailers = fields(reader)?;
            return Ok(());
        }
        let start = got.body.len();
        reader.take(length as u64).read_to_end(&mut got.body)?;
        if got.body.len() < start + length || !line(reader)?.is_empty() {
            return Err(bad("chunk", size));
        }
    }
}

fn fields(reader: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = line(reader)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(": ").ok_or_else(|| bad("field", &line))?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let sound = !name.is_empty()
            && name.bytes().all(token)
            && !value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f);
        if !sound {
            return Err(bad("field", &line));
        }
        fields.push((name.to_owned(), value.to_owned()));
    }
}

/// A line without its CRLF. Bytes beyond ASCII are taken for Latin-1, so that none is lost.
fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) if !line.contains(&b'\r') => Ok(line.iter().copied().map(char::from).collect()),
        _ => Err(bad("line", String::from_utf8_lossy(&line))),
    }
}
