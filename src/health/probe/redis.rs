//! The Redis probe (and Valkey's): PING, and ROLE where a role is wanted, after AUTH where there is a
//! password. All of it is sent at once, so that a probe takes one round trip.
//!
//! PING comes before ROLE, since a server that loads its data set answers ROLE as if all were well.

use super::wire::{Said, Wire};
use super::{Failure, Verdict};
use crate::config::model::{RedisProbe, RedisRole};
use crate::forward::backend_stream::BackendStream;

const NOT_REDIS: Failure = Failure::Protocol("its answer is not that of a Redis server");

/// Passes if the server takes commands and has the role that is wanted.
pub(super) async fn exchange(stream: BackendStream, ask: &RedisProbe) -> Result<Verdict, Failure> {
    let mut wire = Wire::new(stream);
    wire.send(&commands(ask)).await?;
    let verdict = judge(&mut wire, ask).await;
    wire.leave(b"").await;
    verdict
}

fn commands(ask: &RedisProbe) -> Vec<u8> {
    let mut all = Vec::new();
    let password = ask.password.as_ref().map(|password| &password.0[..]);
    match (&ask.user, password) {
        // A user may have no password at all; then any is right.
        (Some(user), password) => {
            command(&mut all, &[b"AUTH", user.as_bytes(), password.unwrap_or(b"")]);
        }
        (None, Some(password)) => command(&mut all, &[b"AUTH", password]),
        (None, None) => {}
    }
    command(&mut all, &[b"PING"]);
    if ask.role != RedisRole::Any {
        command(&mut all, &[b"ROLE"]);
    }
    all
}

fn command(all: &mut Vec<u8>, words: &[&[u8]]) {
    all.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        all.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        all.extend_from_slice(word);
        all.extend_from_slice(b"\r\n");
    }
}

async fn judge(wire: &mut Wire, ask: &RedisProbe) -> Result<Verdict, Failure> {
    if ask.user.is_some() || ask.password.is_some() {
        simple(wire, b"OK").await?;
    }
    simple(wire, b"PONG").await?;
    let wanted = ask.role;
    if wanted == RedisRole::Any {
        return Ok(Verdict::Pass);
    }
    // An array whose first item is the role; a master's replicas follow, and are not looked at.
    if first_byte(line(wire).await?)? != b'*' {
        return Err(NOT_REDIS);
    }
    let role = bulk(wire).await?;
    match (wanted, role) {
        (RedisRole::Master, b"master") => Ok(Verdict::Pass),
        (RedisRole::Replica, b"master") => Ok(Verdict::WrongRole("it is a master")),
        (RedisRole::Master, b"slave") => Ok(Verdict::WrongRole("it is a replica")),
        (RedisRole::Replica, b"slave") => {
            // Its master's host and port, then the state of the link.
            bulk(wire).await?;
            if first_byte(line(wire).await?)? != b':' {
                return Err(NOT_REDIS);
            }
            match bulk(wire).await? {
                b"connected" => Ok(Verdict::Pass),
                state => Err(Failure::Replication(Said::new(state))),
            }
        }
        (_, b"sentinel") => Ok(Verdict::WrongRole("it is a sentinel")),
        _ => Err(NOT_REDIS),
    }
}

/// `+WORD`, or the server's error.
async fn simple(wire: &mut Wire, word: &[u8]) -> Result<(), Failure> {
    match line(wire).await?.strip_prefix(b"+") {
        Some(said) if said == word => Ok(()),
        _ => Err(NOT_REDIS),
    }
}

async fn bulk(wire: &mut Wire) -> Result<&[u8], Failure> {
    let length = line(wire).await?.strip_prefix(b"$").ok_or(NOT_REDIS)?;
    let length = std::str::from_utf8(length).ok().and_then(|digits| digits.parse::<u32>().ok());
    // A negative one (no text at all) has no place in these answers.
    let length = length.ok_or(NOT_REDIS)? as usize;
    match wire.take(length.saturating_add(2)).await?.strip_suffix(b"\r\n") {
        Some(text) => Ok(text),
        None => Err(NOT_REDIS),
    }
}

/// A line that is no error.
async fn line(wire: &mut Wire) -> Result<&[u8], Failure> {
    let line = wire.line().await?;
    match line.strip_prefix(b"-") {
        Some(said) if is_about_login(said) => Err(Failure::Login(Said::new(said))),
        Some(said) => Err(Failure::ServerError(Said::new(said))),
        None => Ok(line),
    }
}

fn first_byte(line: &[u8]) -> Result<u8, Failure> {
    line.first().copied().ok_or(NOT_REDIS)
}

/// Old servers have no word of their own for it: `ERR invalid password`, `ERR Client sent AUTH, but ..`.
fn is_about_login(said: &[u8]) -> bool {
    let contains = |word: &[u8]| memchr::memmem::find(said, word).is_some();
    [&b"WRONGPASS"[..], b"NOAUTH", b"DENIED"].iter().any(|word| said.starts_with(word))
        || contains(b" AUTH")
        || contains(b"invalid password")
}
