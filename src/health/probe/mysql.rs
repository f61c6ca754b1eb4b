//! The MySQL and MariaDB probe: a greeting is awaited and a login made; where a role is wanted, the
//! server is asked for `read_only`.
//!
//! A client of its own, since all that is needed of the protocol is a login and one answer of one
//! value, and the crates that speak it bring connection pools and TLS stacks. Without a user it logs in
//! as nobody and takes the refusal for a sign of life: a server counts connections that end within the
//! greeting as errors of this host, and after `max_connect_errors` of them it would turn away the
//! clients as well. Ways to log in: `mysql_native_password`, and `caching_sha2_password` for a
//! password that the server has in its cache; what else that knows wants TLS.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::wire::{Said, Wire};
use super::{Failure, Verdict};
use crate::config::model::{MysqlProbe, MysqlRole};
use crate::forward::backend_stream::BackendStream;

const NOT_MYSQL: Failure = Failure::Protocol("its answer is not that of a MySQL server");
const QUERY: &[u8] = b"\x03SELECT @@global.read_only";
const QUIT: &[u8] = b"\x01";
/// Who the probe says it is where no user is configured.
const NOBODY: &str = "evenkeel_probe";
const NATIVE: &[u8] = b"mysql_native_password";
const CACHING: &[u8] = b"caching_sha2_password";

// What we and the server can do; the names are those of the protocol's documentation.
const LONG_PASSWORD: u32 = 1;
const PROTOCOL_41: u32 = 1 << 9;
const TRANSACTIONS: u32 = 1 << 13;
const SECURE_CONNECTION: u32 = 1 << 15;
const PLUGIN_AUTH: u32 = 1 << 19;

/// Passes if the server lets us in (or refuses nobody in particular) and has the role that is wanted.
pub(super) async fn exchange(stream: BackendStream, ask: &MysqlProbe) -> Result<Verdict, Failure> {
    let mut link = Link { wire: Wire::new(stream), sequence: 0 };
    let found = judge(&mut link, ask).await;
    link.wire.leave(&packet(QUIT, 0)).await;
    let verdict = match found {
        Err(Failure::Login(_)) if ask.user.is_none() => Verdict::Pass,
        found => found?,
    };
    Ok(verdict)
}

async fn judge(link: &mut Link, ask: &MysqlProbe) -> Result<Verdict, Failure> {
    let greeting = greeting(link.next().await?)?;
    log_in(link, ask, greeting).await?;
    if ask.role == MysqlRole::Any {
        return Ok(Verdict::Pass);
    }
    link.sequence = 0;
    link.send(QUERY).await?;
    Ok(match (ask.role, read_only(link).await?) {
        (MysqlRole::Writable, true) => Verdict::WrongRole("its `read_only` is on"),
        (MysqlRole::ReadOnly, false) => Verdict::WrongRole("its `read_only` is off"),
        _ => Verdict::Pass,
    })
}

/// What of a server's greeting matters.
struct Greeting {
    capabilities: u32,
    challenge: Vec<u8>,
    plugin: Vec<u8>,
}

fn greeting(body: &[u8]) -> Result<Greeting, Failure> {
    let mut body = Reader(body);
    if body.take(1)? != [10] {
        return Err(NOT_MYSQL);
    }
    body.until_zero()?;
    // The number of the connection.
    body.take(4)?;
    let mut challenge = body.take(8)?.to_vec();
    body.take(1)?;
    let mut capabilities = u32::from(body.two()?);
    // Character set and status.
    body.take(3)?;
    capabilities |= u32::from(body.two()?) << 16;
    let length = usize::from(body.take(1)?[0]);
    body.take(10)?;
    if capabilities & (PROTOCOL_41 | SECURE_CONNECTION) != PROTOCOL_41 | SECURE_CONNECTION {
        return Err(Failure::Protocol("the server is older than MySQL 4.1"));
    }
    let second = body.take(length.saturating_sub(8).max(13))?;
    challenge.extend_from_slice(second.strip_suffix(&[0]).unwrap_or(second));
    let plugin = match capabilities & PLUGIN_AUTH {
        0 => NATIVE.to_vec(),
        // Some old servers leave the zero out.
        _ => body.0.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
    };
    Ok(Greeting { capabilities, challenge, plugin })
}

async fn log_in(link: &mut Link, ask: &MysqlProbe, greeting: Greeting) -> Result<(), Failure> {
    let password = ask.password.as_ref().map_or(&b""[..], |password| &password.0[..]);
    // Of a plugin that we do not know the server will let us switch to the user's own.
    let known = greeting.plugin == CACHING;
    let mut plugin = if known { CACHING.to_vec() } else { NATIVE.to_vec() };
    let wanted = LONG_PASSWORD | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION | PLUGIN_AUTH;
    let capabilities = wanted & greeting.capabilities;
    let mut hello = Vec::new();
    hello.extend_from_slice(&capabilities.to_le_bytes());
    // The largest packet that we want to hear, and the character set: utf8mb4.
    hello.extend_from_slice(&(super::ANSWER_BYTES as u32).to_le_bytes());
    hello.push(45);
    hello.extend_from_slice(&[0; 23]);
    hello.extend_from_slice(ask.user.as_deref().unwrap_or(NOBODY).as_bytes());
    hello.push(0);
    let proof = proof(&plugin, password, &greeting.challenge)?;
    // 20 or 32 bytes.
    hello.push(proof.len() as u8);
    hello.extend_from_slice(&proof);
    if capabilities & PLUGIN_AUTH != 0 {
        hello.extend_from_slice(&plugin);
        hello.push(0);
    }
    link.send(&hello).await?;
    loop {
        let reply = match link.next().await? {
            [0, ..] => return Ok(()),
            // The server found the password in its cache; its OK follows.
            [1, 3] if plugin == CACHING => continue,
            asked => reply(asked, &mut plugin, password),
        };
        match reply {
            Ok(reply) => link.send(&reply).await?,
            Err(failure) => {
                // An empty proof, which is refused: were the connection just closed, the server would
                // count that as an error of this host, as it does within the greeting.
                link.send(&[]).await?;
                let _ = link.next().await;
                return Err(failure);
            }
        }
    }
}

/// What to say to a server that asks for more.
fn reply(asked: &[u8], plugin: &mut Vec<u8>, password: &[u8]) -> Result<Vec<u8>, Failure> {
    match asked {
        [0xfe] => Err(refused("it asks for the way to log in of before MySQL 4.1")),
        [0xfe, rest @ ..] => {
            let mut rest = Reader(rest);
            *plugin = rest.until_zero()?.to_vec();
            proof(plugin, password, rest.0.strip_suffix(&[0]).unwrap_or(rest.0))
        }
        [1, 4] if plugin == CACHING => Err(refused(
            "the password is not in the server's cache of caching_sha2_password, and to send it takes \
             TLS: log in once as this user, or give it mysql_native_password",
        )),
        _ => Err(NOT_MYSQL),
    }
}

/// The password is never sent: only what proves that we know it.
fn proof(plugin: &[u8], password: &[u8], challenge: &[u8]) -> Result<Vec<u8>, Failure> {
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect();
    Ok(match plugin {
        CACHING | NATIVE if password.is_empty() => Vec::new(),
        NATIVE => {
            let once = Sha1::digest(password);
            let twice = Sha1::digest(once);
            let mixed = Sha1::new().chain_update(challenge).chain_update(twice).finalize();
            xor(&once, &mixed)
        }
        CACHING => {
            let once = Sha256::digest(password);
            let twice = Sha256::digest(once);
            let mixed = Sha256::new().chain_update(twice).chain_update(challenge).finalize();
            xor(&once, &mixed)
        }
        other => {
            let mut why = b"probes do not have the way to log in that it asks for: ".to_vec();
            why.extend_from_slice(&other[..other.len().min(60)]);
            return Err(Failure::Login(Said::new(&why)));
        }
    })
}

/// The one value of the one row of the answer.
async fn read_only(link: &mut Link) -> Result<bool, Failure> {
    if link.next().await? != [1] {
        return Err(NOT_MYSQL);
    }
    // The column's description, and the end of descriptions.
    link.next().await?;
    if !matches!(link.next().await?, [0xfe, ..]) {
        return Err(NOT_MYSQL);
    }
    match link.next().await? {
        // MariaDB 12 has several ways to be read-only, and words for them.
        [1, b'0'] | [3, b'O', b'F', b'F'] => Ok(false),
        [length, value @ ..] if usize::from(*length) == value.len() => Ok(true),
        _ => Err(NOT_MYSQL),
    }
}

fn refused(why: &str) -> Failure {
    Failure::Login(Said::new(why.as_bytes()))
}

/// The connection, and the number of the packet that was last sent or received.
struct Link {
    wire: Wire,
    sequence: u8,
}

fn packet(body: &[u8], sequence: u8) -> Vec<u8> {
    // What we send is far below the 16 MiB that three bytes count.
    let mut packet = (body.len() as u32).to_le_bytes().to_vec();
    packet[3] = sequence;
    packet.extend_from_slice(body);
    packet
}

impl Link {
    /// The body of the next packet. An error is a failure.
    async fn next(&mut self) -> Result<&[u8], Failure> {
        let mut head = [0; 4];
        head.copy_from_slice(self.wire.take(4).await?);
        let [a, b, c, sequence] = head;
        self.sequence = sequence.wrapping_add(1);
        let body = self.wire.take(u32::from_le_bytes([a, b, c, 0]) as usize).await?;
        match body {
            [] => Err(NOT_MYSQL),
            [0xff, rest @ ..] => Err(error(rest)),
            body => Ok(body),
        }
    }

    async fn send(&mut self, body: &[u8]) -> Result<(), Failure> {
        let packet = packet(body, self.sequence);
        self.wire.send(&packet).await
    }
}

/// A number, after the handshake's beginning a state of six bytes, and a text.
fn error(body: &[u8]) -> Failure {
    let Some((code, rest)) = body.split_first_chunk() else { return NOT_MYSQL };
    let said = match rest.split_at_checked(6) {
        Some(([b'#', ..], text)) => text,
        _ => rest,
    };
    match u16::from_le_bytes(*code) {
        // Access denied, with and without a password; this host may not; account locked; password
        // expired.
        1044 | 1045 | 1130 | 1698 | 1820 | 1862 | 3118 | 4151 => Failure::Login(Said::new(said)),
        _ => Failure::ServerError(Said::new(said)),
    }
}

/// What is left of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Failure> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(NOT_MYSQL)?;
        self.0 = rest;
        Ok(taken)
    }

    fn two(&mut self) -> Result<u16, Failure> {
        let bytes = self.take(2)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn until_zero(&mut self) -> Result<&'a [u8], Failure> {
        let end = memchr::memchr(0, self.0).ok_or(NOT_MYSQL)?;
        let text = self.take(end)?;
        self.take(1)?;
        Ok(text)
    }
}
