//! The PostgreSQL probe: logs in (trust, MD5, SCRAM-SHA-256) and asks whether the server is in
//! recovery, which a replica is and a primary is not.
//!
//! Messages are put together and the password is proved by `postgres-protocol`; what comes back is
//! read here, by length, so that a server cannot make the probe keep more than [`super::ANSWER_BYTES`].
//! A password never goes over the connection as it is: a server that asks for it in clear text is told
//! nothing. Ends with Terminate, so that the server's log has no word of it.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

use super::wire::{Said, Wire};
use super::{Failure, Verdict};
use crate::config::model::{PostgresProbe, PostgresRole};
use crate::forward::backend_stream::BackendStream;

const NOT_POSTGRES: Failure = Failure::Protocol("its answer is not that of a PostgreSQL server");
const QUERY: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// Passes if the server answers and has the role that is wanted.
pub(super) async fn exchange(
    stream: BackendStream,
    ask: &PostgresProbe,
) -> Result<Verdict, Failure> {
    let mut wire = Wire::new(stream);
    let mut out = BytesMut::new();
    let hello = [
        ("user", ask.user.as_str()),
        ("database", ask.database.as_str()),
        ("application_name", "evenkeel probe"),
        ("client_encoding", "UTF8"),
    ];
    // Fails on a zero byte only, which the configuration does not let in.
    frontend::startup_message(hello, &mut out).map_err(|_| NOT_POSTGRES)?;
    wire.send(&out).await?;
    let found = ask_role(&mut wire, ask).await;
    out.clear();
    frontend::terminate(&mut out);
    wire.leave(&out).await;
    Ok(match (ask.role, found?) {
        (PostgresRole::Primary, true) => Verdict::WrongRole("it is a replica (in recovery)"),
        (PostgresRole::Replica, false) => Verdict::WrongRole("it is a primary (not in recovery)"),
        _ => Verdict::Pass,
    })
}

/// Whether the server is in recovery.
async fn ask_role(wire: &mut Wire, ask: &PostgresProbe) -> Result<bool, Failure> {
    log_in(wire, ask).await?;
    // What the server says of itself, until it is ready.
    while next(wire).await?.0 != b'Z' {}
    let mut out = BytesMut::new();
    // Fails on a zero byte only.
    frontend::query(QUERY, &mut out).map_err(|_| NOT_POSTGRES)?;
    wire.send(&out).await?;
    loop {
        match next(wire).await? {
            // One column of one byte.
            (b'D', [0, 1, 0, 0, 0, 1, b't']) => return Ok(true),
            (b'D', [0, 1, 0, 0, 0, 1, b'f']) => return Ok(false),
            (b'T' | b'S', _) => {}
            _ => return Err(NOT_POSTGRES),
        }
    }
}

async fn log_in(wire: &mut Wire, ask: &PostgresProbe) -> Result<(), Failure> {
    let password = || match &ask.password {
        Some(password) => Ok(&password.0[..]),
        None => Err(refused("it asks for a password, and `password_file` is not given")),
    };
    let mut scram = None;
    loop {
        let (kind, body) = next(wire).await?;
        let (code, rest) = match (kind, body.split_first_chunk()) {
            (b'R', Some((code, rest))) => (u32::from_be_bytes(*code), rest),
            // It speaks only an older version of the protocol, which will do.
            (b'v', _) => continue,
            _ => return Err(NOT_POSTGRES),
        };
        let mut out = BytesMut::new();
        let answer = match code {
            0 => return Ok(()),
            5 => {
                let salt = rest.try_into().map_err(|_| NOT_POSTGRES)?;
                let hash = md5_hash(ask.user.as_bytes(), password()?, salt);
                frontend::password_message(hash.as_bytes(), &mut out)
            }
            10 => {
                let offered = rest.split(|byte| *byte == 0);
                if !offered.into_iter().any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(refused("it asks for a proof other than SCRAM-SHA-256"));
                }
                let begun = ScramSha256::new(password()?, ChannelBinding::unsupported());
                let sent =
                    frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut out);
                scram = Some(begun);
                sent
            }
            11 => {
                let proved = prove(scram.take(), rest.to_vec()).await?;
                let sent = frontend::sasl_response(proved.message(), &mut out);
                scram = Some(proved);
                sent
            }
            12 => {
                let mut proved = scram.take().ok_or(NOT_POSTGRES)?;
                proved.finish(rest).map_err(|_| {
                    refused("it does not know the password itself: is this the right server?")
                })?;
                continue;
            }
            3 => return Err(refused("it asks for the password in clear text, which is not sent")),
            _ => return Err(refused("it asks for a way to log in that probes do not have")),
        };
        // Fails on lengths only that no answer of ours has.
        answer.map_err(|_| NOT_POSTGRES)?;
        wire.send(&out).await?;
    }
}

/// Thousands of hashes, as many as the server says (100,000 at the most, says the crate): not on the
/// control thread.
async fn prove(scram: Option<ScramSha256>, challenge: Vec<u8>) -> Result<ScramSha256, Failure> {
    let mut scram = scram.ok_or(NOT_POSTGRES)?;
    let proving = tokio::task::spawn_blocking(move || {
        let proved = scram.update(&challenge);
        proved.map(|()| scram)
    });
    match proving.await {
        Ok(Ok(proved)) => Ok(proved),
        Ok(Err(_)) | Err(_) => Err(Failure::Protocol("its part of SCRAM makes no sense")),
    }
}

/// The next message that is no notice: its kind and its body. An error is a failure.
async fn next(wire: &mut Wire) -> Result<(u8, &[u8]), Failure> {
    loop {
        let mut head = [0; 5];
        head.copy_from_slice(wire.take(5).await?);
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length).checked_sub(4).ok_or(NOT_POSTGRES)?;
        // Longer than what one of these may be: not a length, perhaps, but another protocol.
        if !b"REvSKZTDCN".contains(&kind) {
            return Err(NOT_POSTGRES);
        }
        let count = usize::try_from(length).map_err(|_| NOT_POSTGRES)?;
        match kind {
            b'N' => drop(wire.take(count).await?),
            b'E' => return Err(error(wire.take(count).await?)),
            _ => return Ok((kind, wire.take(count).await?)),
        }
    }
}

fn refused(why: &str) -> Failure {
    Failure::Login(Said::new(why.as_bytes()))
}

/// Fields of one letter and a text each; `C` is the code, `M` the message.
fn error(body: &[u8]) -> Failure {
    let field = |letter: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        fields.find_map(|field| field.strip_prefix(&[letter])).unwrap_or_default()
    };
    let said = Said::new(field(b'M'));
    // Class 28: invalid authorization specification.
    if field(b'C').starts_with(b"28") { Failure::Login(said) } else { Failure::ServerError(said) }
}
