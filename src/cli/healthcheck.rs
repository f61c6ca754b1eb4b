//! `evenkeel healthcheck`: asks this machine's evenkeel for `/healthz`, for containers.
//!
//! Plain blocking sockets and no dependency on the server's code: exit code 0 if the answer is 200,
//! else 1 with one line that says why.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::defaults::ADMIN_LISTEN;
use crate::config::units::duration_argument;

/// The longest status line that is read.
const LINE_BYTES: usize = 1024;

/// Ask the running evenkeel whether it lives; exit code 0 if it does
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Configuration file whose admin.listen is asked [default: the one that `run` would take]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask this address, whatever the configuration says
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<SocketAddr>,
    /// For connection and answer together, such as 500ms or 2s
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration_argument)]
    pub timeout: Duration,
}

#[derive(Debug, Error)]
enum Fault {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("no answer: {0}")]
    Read(std::io::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the answer is not HTTP; is this the admin address?")]
    NotHttp,
    #[error("the answer is {0}")]
    Status(u16),
}

/// `configured` is `admin.listen` of the configuration file, if there is one.
pub fn run(args: &Args, configured: Option<SocketAddr>) -> ExitCode {
    let address = address(args.address, configured);
    match check(address, args.timeout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("evenkeel healthcheck: http://{address}/healthz: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The command line's, else the configuration's, else the default; an address that means "all of
/// this machine's" is asked on loopback.
pub(super) fn address(given: Option<SocketAddr>, configured: Option<SocketAddr>) -> SocketAddr {
    let default = || ADMIN_LISTEN.parse().ok();
    let mut address = given
        .or(configured)
        .or_else(default)
        .unwrap_or_else(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9901));
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn check(address: SocketAddr, timeout: Duration) -> Result<(), Fault> {
    let deadline = Instant::now() + timeout;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Fault::Late(timeout)) } else { Ok(left) }
    };
    let late = |error: std::io::Error, fault: fn(std::io::Error) -> Fault| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::Late(timeout),
        _ => fault(error),
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)
        .map_err(|error| late(error, Fault::Connect))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.set_write_timeout(Some(left()?)).map_err(Fault::Connect)?;
    stream.write_all(request.as_bytes()).map_err(|error| late(error, Fault::Read))?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') && line.len() < LINE_BYTES {
        stream.set_read_timeout(Some(left()?)).map_err(Fault::Read)?;
        let mut part = [0; 256];
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(read) => line.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(late(error, Fault::Read)),
        }
    }
    match status(&line).ok_or(Fault::NotHttp)? {
        200 => Ok(()),
        other => Err(Fault::Status(other)),
    }
}

/// `HTTP/1.x NNN` at the beginning (RFC 9112 4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let ended = matches!(rest.get(5), Some(b' ' | b'\r' | b'\n'));
    let text = std::str::from_utf8(digits).ok().filter(|_| ended && rest[1] == b' ')?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn arguments() {
        let parse = |words: &[&str]| Command::try_parse_from([&["x"], words].concat());
        let plain = parse(&[]).expect("no argument is needed").args;
        assert_eq!(plain.timeout, Duration::from_secs(2));
        assert_eq!((plain.config, plain.address), (None, None));
        let cases = [
            ("250ms", Some(250)),
            ("3s", Some(3000)),
            ("0s", None),
            ("2", None),
            ("s", None),
            ("", None),
            ("2 s", None),
            ("-1s", None),
            ("99999999999s", None),
        ];
        for (text, millis) in cases {
            assert_eq!(duration_argument(text).ok(), millis.map(Duration::from_millis), "{text:?}");
        }
        assert!(parse(&["--address", "localhost"]).is_err());
    }

    #[test]
    fn the_address_that_is_asked() {
        let cases = [
            (None, None, "127.0.0.1:9901"),
            (None, Some("0.0.0.0:7"), "127.0.0.1:7"),
            (None, Some("[::]:7"), "[::1]:7"),
            (None, Some("10.0.0.1:7"), "10.0.0.1:7"),
            (Some("10.0.0.2:8"), Some("10.0.0.1:7"), "10.0.0.2:8"),
        ];
        let parse = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        for (given, configured, expected) in cases {
            assert_eq!(address(parse(given), parse(configured)).to_string(), expected);
        }
    }

    #[test]
    fn the_default_address_is_the_one_of_the_configuration() {
        assert_eq!(address(None, None).to_string(), ADMIN_LISTEN);
    }

    #[test]
    fn answers() {
        let cases: [(&[u8], Result<(), &str>); 7] = [
            (b"HTTP/1.1 200 OK\r\n\r\nok\n", Ok(())),
            (b"HTTP/1.0 200\r\n", Ok(())),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("the answer is 503")),
            (b"HTTP/1.1 2000 OK\r\n", Err("the answer is not HTTP")),
            (b"HTTP/2 200\r\n", Err("the answer is not HTTP")),
            (b"SSH-2.0-OpenSSH_9\r\n", Err("the answer is not HTTP")),
            (b"", Err("the answer is not HTTP")),
        ];
        for (answer, expected) in cases {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            let address = listener.local_addr().expect("it is bound");
            let backend = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("the check connects");
                let mut request = [0; 15];
                stream.read_exact(&mut request).expect("the check asks");
                assert_eq!(&request, b"GET /healthz HT");
                stream.write_all(answer).expect("the check reads");
                // Closing with unread bytes would reset; take the rest of the request first.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            });
            let got = check(address, Duration::from_secs(10));
            backend.join().expect("the backend had its request");
            match (got, expected) {
                (Ok(()), Ok(())) => {}
                (Err(fault), Err(text)) => {
                    assert!(fault.to_string().starts_with(text), "{fault} / {text}");
                }
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        }
    }

    #[test]
    fn nobody_there_and_somebody_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        // Accepted by the kernel, answered by nobody.
        let silent = check(address, Duration::from_millis(50));
        assert!(matches!(silent, Err(Fault::Late(_))), "{silent:?}");
        drop(listener);
        let nobody = check(address, Duration::from_secs(5));
        assert!(matches!(nobody, Err(Fault::Connect(_))), "{nobody:?}");
    }
}
