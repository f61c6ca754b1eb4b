//! The inside of a test backend: a small HTTP/1 server with a thread per connection, in a process of
//! its own, that does what `backend` has in its table.
//!
//! Told what to do by lines on its standard input, whose end is its own end.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::backend::VARIABLE;

struct Backend {
    name: String,
    ledger: Mutex<File>,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    act: String,
    healthy: bool,
}

struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
}

/// No test: what `Backend::start` makes the test binary do in a child process.
#[test]
fn backend_process() {
    let Ok(what) = std::env::var(VARIABLE) else { return };
    let parts: Vec<&str> = what.splitn(4, '|').collect();
    let [name, address, ledger, act] = parts[..] else { panic!("four parts in {what}") };
    let address: SocketAddr = address.parse().expect("an address");
    let ledger = File::options().create(true).append(true).open(ledger).expect("the ledger");
    let listener = TcpListener::bind(address).expect("the address is free");
    let state = Mutex::new(State { act: act.to_owned(), healthy: true });
    let name = name.to_owned();
    let backend = Arc::new(Backend { name, ledger: Mutex::new(ledger), state });
    // The test runner's own words may stand on the line: begin a new one.
    println!("\n@listening {}", listener.local_addr().expect("it is bound"));
    let told = backend.clone();
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let mut state = told.state.lock().unwrap_or_else(PoisonError::into_inner);
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("act", act) => state.act = act.to_owned(),
                ("healthy", _) => state.healthy = true,
                ("ill", _) => state.healthy = false,
                _ => panic!("told {line:?}"),
            }
            drop(state);
            println!("@did {line}");
        }
        std::process::exit(0);
    });
    for stream in listener.incoming().flatten() {
        let backend = backend.clone();
        // A client that goes away is nothing to report.
        std::thread::spawn(move || drop(backend.serve(stream)));
    }
}

impl Backend {
    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let act = self.state().act;
        if act.starts_with("tcp_") {
            return tcp(&act, stream);
        }
        loop {
            let act = self.state().act;
            let idle = act.strip_prefix("close_idle ").map(|ms| Duration::from_millis(number(ms)));
            stream.set_read_timeout(idle)?;
            let Some(asked) = read_head(&mut reader)? else { return Ok(()) };
            stream.set_read_timeout(None)?;
            if !self.answer(&asked, &mut reader, &stream)? || asked.closes() {
                return Ok(());
            }
        }
    }

    /// True if the connection may go on.
    fn answer(
        &self,
        asked: &Asked,
        reader: &mut BufReader<TcpStream>,
        stream: &TcpStream,
    ) -> io::Result<bool> {
        let state = self.state();
        if asked.target == "/healthz" {
            let status = if state.healthy { 200 } else { 503 };
            return reply(asked, stream, status, &[], b"health\n").map(|()| true);
        }
        if let Some(id) = asked.header("x-id") {
            let line = format!("{} {id}\n", asked.method);
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.write_all(line.as_bytes())?;
        }
        let act = asked.header("x-do").unwrap_or(&state.act).to_owned();
        let (word, rest) = act.split_once(' ').unwrap_or((&act, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        if word.starts_with("early") {
            self.echo(asked, stream, b"")?;
            return Ok(word == "early" && read_body(asked, reader).is_ok());
        }
        if asked.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            (&*stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = read_body(asked, reader)?;
        match word {
            "slow" => {
                std::thread::sleep(Duration::from_millis(number(first)));
                self.echo(asked, stream, &body)?;
            }
            "close_after" => {
                // Held back until the end, which then is in the same packet: whoever has the answer
                // can know of the close.
                socket2::SockRef::from(stream).set_tcp_cork(true)?;
                self.echo(asked, stream, &body)?;
                return Ok(false);
            }
            "status" => reply(asked, stream, number(first) as u16, &[], b"as told\n")?,
            "bytes" => reply(asked, stream, 200, &[], &pattern(number(first) as usize))?,
            "chunked" => chunked(stream, pattern(number(first) as usize).chunks(1000), 0)?,
            "drip" => {
                let pieces = vec![b"drip drip\n".as_slice(); number(first) as usize];
                chunked(stream, pieces.into_iter(), number(second))?;
            }
            "upgrade" => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ";
                let protocol = asked.header("upgrade").unwrap_or("none");
                (&*stream).write_all(format!("{head}{protocol}\r\n\r\n").as_bytes())?;
                io::copy(reader, &mut &*stream)?;
                return Ok(false);
            }
            "never" => {
                io::copy(reader, &mut io::sink())?;
                return Ok(false);
            }
            _ if broken(word, rest, stream)? => return Ok(false),
            // `answer`, `close_idle`
            _ => self.echo(asked, stream, &body)?,
        }
        Ok(true)
    }

    fn echo(&self, asked: &Asked, stream: &TcpStream, body: &[u8]) -> io::Result<()> {
        let json = serde_json::json!({
            "backend": self.name,
            "method": asked.method,
            "target": asked.target,
            "headers": asked.headers,
            "body": String::from_utf8_lossy(body),
        });
        let id = asked.header("x-id").unwrap_or("none");
        let headers = [("x-backend", self.name.as_str()), ("x-echo-id", id)];
        reply(asked, stream, 200, &headers, json.to_string().as_bytes())
    }
}

/// The acts that end in a failure. False if `word` is none of them.
fn broken(word: &str, rest: &str, mut stream: &TcpStream) -> io::Result<bool> {
    const LONG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n";
    match word {
        "close" => {}
        "reset" => reset(stream),
        "reset_after" | "truncate" => {
            stream.write_all(LONG.as_bytes())?;
            stream.write_all(&pattern(number(rest) as usize))?;
            if word == "reset_after" {
                reset(stream);
            }
        }
        "truncate_chunked" => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            let bytes = pattern(number(rest) as usize);
            stream.write_all(format!("{head}{:x}\r\n", bytes.len()).as_bytes())?;
            stream.write_all(&bytes)?;
            stream.write_all(b"\r\n")?;
        }
        "garbage" => stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n")?,
        "until_close" => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")?,
        "raw" => stream.write_all(&unescape(rest))?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn tcp(act: &str, mut stream: TcpStream) -> io::Result<()> {
    let mut words = act.split(' ').skip(1);
    let mut next = || words.next().map_or(0, number);
    match act.split(' ').next().unwrap_or_default() {
        "tcp_echo" => drop(io::copy(&mut stream.try_clone()?, &mut stream)?),
        "tcp_late" => {
            let mut all = Vec::new();
            stream.read_to_end(&mut all)?;
            stream.write_all(&all)?;
        }
        "tcp_reset" => {
            stream.read_exact(&mut vec![0; next() as usize])?;
            reset(&stream);
            return Ok(());
        }
        "tcp_drip" => {
            let (count, pause) = (next(), next());
            for _ in 0..count {
                stream.write_all(b"drip drip\n")?;
                std::thread::sleep(Duration::from_millis(pause));
            }
        }
        other => panic!("no act {other}"),
    }
    stream.shutdown(Shutdown::Write)
}

fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Asked>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.trim_end().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let mut headers = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&line);
        let Some((name, value)) = line.trim_end().split_once(':') else {
            return Ok(Some(Asked { method, target, headers }));
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_body(asked: &Asked, reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if asked.header("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            reader.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                return Ok(body);
            }
        }
    }
    body.resize(asked.header("content-length").map_or(0, number) as usize, 0);
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn reply(
    asked: &Asked,
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} As Told\r\n");
    let bodiless = matches!(status, 204 | 304);
    if !bodiless {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body = if bodiless || asked.method == "HEAD" { b"" } else { body };
    // One write: a proxy that was sent a whole answer has no excuse.
    stream.write_all(&[head.as_bytes(), body].concat())
}

fn chunked<'a>(
    mut stream: &TcpStream,
    pieces: impl Iterator<Item = &'a [u8]>,
    pause_ms: u64,
) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for piece in pieces {
        let size = format!("{:x}\r\n", piece.len());
        stream.write_all(&[size.as_bytes(), piece, b"\r\n"].concat())?;
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    stream.write_all(b"0\r\n\r\n")
}

/// Makes the close that follows a reset.
fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).expect("a socket takes this option");
}

/// So many bytes, each told from its neighbours.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|i| b'a' + (i % 26) as u8).collect()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let meant = match (byte, if byte == b'\\' { rest.next() } else { None }) {
            (b'\\', Some(b'r')) => b'\r',
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b'0')) => 0,
            (b'\\', Some(b'x')) => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
            }
            (_, Some(other)) => other,
            (byte, None) => byte,
        };
        bytes.push(meant);
    }
    bytes
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}
