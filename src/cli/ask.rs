//! Asks the running evenkeel, over its admin address: one request, one answer of JSON.
//!
//! Plain blocking sockets and no dependency on the server's code. Where it is asked: `--admin`, else what the
//! configuration file says, else the default.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use super::{healthcheck, run};

/// For a connection, and for each part of an answer.
const SILENCE: Duration = Duration::from_secs(5);

/// An answer is at most so long: a pool of 10,000 backends takes two million bytes.
const ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// How the running evenkeel is reached
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Reach {
    /// Configuration file whose admin.listen is asked [default: the one that `run` would take]
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Ask this address, whatever the configuration says
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
}

/// Why there is no good answer.
#[derive(Debug, Error)]
pub enum Fault {
    #[error("no connection to evenkeel at {0}: {1}\nis it running, and is this its admin.listen?")]
    Connect(SocketAddr, std::io::Error),
    #[error("no answer from evenkeel at {0}: {1}")]
    Read(SocketAddr, std::io::Error),
    #[error("what answers at {0} is not evenkeel's admin server")]
    NotOurs(SocketAddr),
    /// Its own words.
    #[error("{0}")]
    Refused(String),
}

impl Reach {
    /// The address to ask.
    pub fn address(&self, env: &dyn Fn(&str) -> Option<String>) -> SocketAddr {
        let configured = || {
            let path = self.config.clone().or_else(run::default_path)?;
            // Without a readable file the default address is asked.
            Some(crate::config::load(&path, env).ok()?.config.admin.listen)
        };
        healthcheck::address(self.admin, self.admin.map_or_else(configured, Some))
    }
}

/// Asks; `order` makes it a POST.
pub fn ask(address: SocketAddr, path: &str, order: Option<&Value>) -> Result<Value, Fault> {
    let mut stream = TcpStream::connect_timeout(&address, SILENCE)
        .map_err(|error| Fault::Connect(address, error))?;
    let read = |error| Fault::Read(address, error);
    stream.set_read_timeout(Some(SILENCE)).map_err(read)?;
    stream.set_write_timeout(Some(SILENCE)).map_err(read)?;
    let (method, body) = match order {
        Some(order) => ("POST", order.to_string()),
        None => ("GET", String::new()),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).map_err(read)?;
    let mut answer = Vec::new();
    match stream.take(ANSWER_BYTES).read_to_end(&mut answer) {
        Ok(_) => {}
        // Whoever refuses may reset once its answer is out.
        Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {}
        Err(error) => return Err(read(error)),
    }
    let (status, body) = split(&answer).ok_or(Fault::NotOurs(address))?;
    let value: Value = serde_json::from_slice(body).map_err(|_| Fault::NotOurs(address))?;
    if status == 200 {
        return Ok(value);
    }
    let error = value["error"].as_str().ok_or(Fault::NotOurs(address))?;
    let known: Vec<&str> =
        value["known"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Err(Fault::Refused(match known.is_empty() {
        true => error.to_owned(),
        false => format!("{error}; there is: {}", known.join(", ")),
    }))
}

/// The status of an answer and its body, which is all that follows the head: the connection ends with it.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let status = std::str::from_utf8(answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?;
    Some((status.parse().ok()?, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(split(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}"), Some((200, &b"{}"[..])));
        assert_eq!(split(b"HTTP/1.1 404 Not Found\r\n\r\n"), Some((404, &b""[..])));
        for wrong in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(split(wrong), None);
        }
    }
}
