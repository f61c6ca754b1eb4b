//! A connection that a database's probe talks over: reads by count or by line, and never much.
//!
//! Of one connection at most [`ANSWER_BYTES`] are read and kept, whatever lengths the server claims: a
//! claim beyond that ends the probe before anything is read for it. Time is bounded by who calls.

use std::fmt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ANSWER_BYTES, Failure, part};
use crate::forward::backend_stream::BackendStream;
use crate::observe::printable::printable;

/// How much of a server's words is shown.
const SAID_CHARS: usize = 200;

/// Words of a server's, fit to stand in a log: of one line, of bounded length, without anything that
/// moves a cursor or turns the direction of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said(String);

impl Said {
    pub fn new(bytes: &[u8]) -> Said {
        // A character has at most four bytes.
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SAID_CHARS)]);
        Said(text.trim_ascii().chars().take(SAID_CHARS).map(printable).collect())
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: BackendStream,
    /// All that was read; at most [`ANSWER_BYTES`].
    seen: Vec<u8>,
    /// So much of it was taken.
    taken: usize,
}

impl Wire {
    pub fn new(stream: BackendStream) -> Wire {
        Wire { stream, seen: Vec::new(), taken: 0 }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|error| Failure::from_io(&error))?;
        self.stream.flush().await.map_err(|error| Failure::from_io(&error))
    }

    /// The next `count` bytes.
    pub async fn take(&mut self, count: usize) -> Result<&[u8], Failure> {
        if count > ANSWER_BYTES - self.taken {
            return Err(Failure::Protocol("its answer is longer than any that was asked for"));
        }
        while self.seen.len() - self.taken < count {
            self.read().await?;
        }
        let from = self.taken;
        self.taken += count;
        Ok(&self.seen[from..from + count])
    }

    /// The next line, without its CRLF.
    pub async fn line(&mut self) -> Result<&[u8], Failure> {
        let from = self.taken;
        let mut looked = from;
        let end = loop {
            let found = memchr::memmem::find(&self.seen[looked..], b"\r\n");
            if let Some(at) = found {
                break looked + at;
            }
            // The CR may be there already.
            looked = self.seen.len().saturating_sub(1).max(from);
            if self.seen.len() == ANSWER_BYTES {
                return Err(Failure::Protocol("its answer is longer than any that was asked for"));
            }
            self.read().await?;
        };
        self.taken = end + 2;
        Ok(&self.seen[from..end])
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let mut space = [0; 1024];
        let room = space.len().min(ANSWER_BYTES - self.seen.len());
        let read = self.stream.read(&mut space[..room]).await;
        match read.map_err(|error| Failure::from_io(&error))? {
            0 => Err(Failure::Closed),
            read => {
                self.seen.extend_from_slice(&space[..read]);
                Ok(())
            }
        }
    }

    /// Says goodbye in the words of the protocol, if it has any, and leaves in good order.
    pub async fn leave(mut self, goodbye: &[u8]) {
        // If the server has gone already, so be it: it has told us all we wanted.
        let _ = self.stream.write_all(goodbye).await;
        let _ = self.stream.shutdown().await;
        tokio::task::spawn_local(part(self.stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_cannot_write_lines_of_its_own() {
        let said = Said::new(b"no\r\nWARN backend is up \x1b[2J\x00 \xff \xe2\x80\xae end ");
        assert_eq!(said.to_string(), "no  WARN backend is up ?[2J? \u{fffd} ? end");
        assert_eq!(Said::new(&[b'x'; 100_000]).to_string().len(), SAID_CHARS);
        assert_eq!(Said::new(&[0xff; 100_000]).to_string().chars().count(), SAID_CHARS);
        assert_eq!(Said::new(b"").to_string(), "");
    }
}
