//! Takes a header off a socket, and not a byte of what comes behind it: that may be a TLS handshake, or a
//! request, which others read.

use std::future::poll_fn;
use std::io;
use std::task::ready;

use tokio::io::{AsyncReadExt, Interest};

use super::{Header, Refused, Step, parse};
use crate::listen::{ClientStream, Socket};
use crate::sys::socket;

/// Looked at first: nearly every header fits.
const LOOK_BYTES: usize = 256;

/// Why a connection brought no header.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It ended or broke before.
    #[error("it ended before its PROXY header was whole")]
    Gone,
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Failed {
        Failed::Gone
    }
}

/// Reads the header that must come first. Whoever calls bounds it in time.
///
/// What has come is looked at in the socket. Where the header ends there, exactly that much is taken;
/// otherwise all of it is the header's, and is taken, so that waiting for more is waiting indeed.
pub async fn read(stream: &mut ClientStream) -> Result<Header, Failed> {
    let mut seen = Vec::new();
    let mut look = LOOK_BYTES;
    loop {
        let had = seen.len();
        seen.resize(had + look, 0);
        let came = peek(stream, &mut seen[had..]).await?;
        if came == 0 {
            return Err(Failed::Gone);
        }
        let step = parse(&seen[..had + came])?;
        let taken = match &step {
            Step::Whole(_, end) => *end,
            Step::More(_) => had + came,
        };
        stream.read_exact(&mut seen[had..taken]).await?;
        match step {
            Step::Whole(header, _) => return Ok(header),
            Step::More(least) => look = (least - taken).max(LOOK_BYTES),
        }
        seen.truncate(taken);
    }
}

/// Waits until something has come, and copies it. 0 is the end of the stream.
pub async fn peek(stream: &ClientStream, to: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| {
        loop {
            let Some(plain) = stream.plain() else {
                return Err(io::ErrorKind::Unsupported.into()).into();
            };
            ready!(plain.poll_read_ready(cx))?;
            match plain.try_io(Interest::READABLE, |fd| socket::peek(fd, to)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done.into(),
            }
        }
    })
    .await
}
