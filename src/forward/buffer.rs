//! A borrowed buffer with bytes in it: read into at its end, used up from its start.
//!
//! In front of the bytes some room is left, so that a head can be put before a body that was read
//! already and both go out in one write, without a copy of the body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::Buffers;

/// Room in front of the bytes: what a head may grow by on its way without moving the body after it.
const HEADROOM: usize = 1024;

/// Room behind the bytes that a read leaves: a chunk's end, or the end of a chunked body.
const TAILROOM: usize = 8;

/// Dropped, it goes back to its worker.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    home: Buffers,
}

impl Buffer {
    /// An empty one.
    pub fn borrow(home: &Buffers) -> Buffer {
        let bytes = home.borrow();
        Buffer { bytes, start: HEADROOM, end: HEADROOM, home: home.clone() }
    }

    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first `n` bytes have been used.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.start += n;
    }

    /// Only the first `n` bytes count.
    pub fn truncate(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.end = self.start + n;
    }

    /// Splits off what stands behind the first `n` bytes; `None` if that is nothing.
    pub fn split_off(&mut self, n: usize) -> Option<Buffer> {
        if n == self.len() {
            return None;
        }
        let mut rest = Buffer::borrow(&self.home);
        rest.extend(&self.data()[n..]);
        self.truncate(n);
        Some(rest)
    }

    /// Appends `more`; grows if it must.
    pub fn extend(&mut self, more: &[u8]) {
        if more.len() > self.bytes.len() - self.end {
            self.grow(more.len());
        }
        self.bytes[self.end..][..more.len()].copy_from_slice(more);
        self.end += more.len();
    }

    /// Puts `head` in front of what is there.
    pub fn prepend(&mut self, head: &[u8]) {
        if head.len() <= self.start {
            self.start -= head.len();
            self.bytes[self.start..][..head.len()].copy_from_slice(head);
            return;
        }
        let mut both = Buffer::borrow(&self.home);
        both.extend(head);
        both.extend(self.data());
        *self = both;
    }

    /// Room for at least `more` bytes.
    fn grow(&mut self, more: usize) {
        let needed = HEADROOM + self.len() + more + TAILROOM;
        if needed <= self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, HEADROOM);
        } else {
            let mut bytes = vec![0; needed.next_power_of_two()].into_boxed_slice();
            bytes[HEADROOM..][..self.len()].copy_from_slice(self.data());
            // Only buffers of the usual size are kept by their worker.
            self.home.give_back(std::mem::replace(&mut self.bytes, bytes));
        }
        self.end = HEADROOM + self.len();
        self.start = HEADROOM;
    }

    /// Reads once, behind what is there. 0 is the end of the stream.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        if self.end + TAILROOM >= self.bytes.len() {
            self.grow(1);
        }
        let most = self.bytes.len() - TAILROOM;
        let mut room = ReadBuf::new(&mut self.bytes[self.end..most]);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// Writes once, and uses up what was written.
    pub fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(to).poll_write(cx, self.data()))?;
        self.consume(n);
        Poll::Ready(Ok(n))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffers::BUFFER_BYTES;
    use super::*;

    #[test]
    fn bytes_are_appended_used_up_and_split() {
        let home = Buffers::default();
        let mut buffer = Buffer::borrow(&home);
        buffer.extend(b"one two");
        buffer.consume(4);
        let rest = buffer.split_off(1);
        assert_eq!((buffer.data(), rest.unwrap().data()), (&b"t"[..], &b"wo"[..]));
        assert!(buffer.split_off(1).is_none());
        drop(buffer);
        assert_eq!(home.at_rest(), 2);
    }

    #[test]
    fn a_head_goes_in_front_however_long_it_is() {
        let home = Buffers::default();
        for length in [3, HEADROOM, HEADROOM + 1, BUFFER_BYTES] {
            let mut buffer = Buffer::borrow(&home);
            buffer.extend(b"body");
            let head = vec![b'h'; length];
            buffer.prepend(&head);
            assert_eq!(buffer.data(), [head, b"body".to_vec()].concat());
        }
    }

    #[test]
    fn it_grows_and_one_that_has_grown_is_not_kept() {
        let home = Buffers::default();
        let mut buffer = Buffer::borrow(&home);
        let piece: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        for _ in 0..5 {
            buffer.extend(&piece);
        }
        assert_eq!(buffer.data(), piece.repeat(5));
        drop(buffer);
        assert_eq!(home.at_rest(), 1, "the one that it began with");
        // Used up at its start, it has room again without growing.
        let mut buffer = Buffer::borrow(&home);
        buffer.extend(&piece);
        buffer.consume(39_999);
        buffer.extend(&piece);
        assert_eq!(buffer.data().len(), 40_001);
        drop(buffer);
        assert_eq!(home.at_rest(), 1);
    }
}
