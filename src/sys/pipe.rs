//! A pipe that bytes pass from socket to socket through without leaving the kernel: splice(2).
//!
//! Only the calls. Who may hold a pipe, and what an EAGAIN means, is `forward::splice`'s to know.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// Both ends of a pipe; neither ever blocks, neither is handed to a child.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// A pipe that holds `bytes` at least. Fails with EPERM when the user has no pages left for it
    /// (`fs.pipe-user-pages-soft`) or `bytes` is above `fs.pipe-max-size`, with EMFILE or ENFILE
    /// when there are no descriptors.
    pub fn new(bytes: usize) -> io::Result<Pipe> {
        let mut ends = [-1; 2];
        // SAFETY: `ends` is valid for the two descriptors that the call writes.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so both are open, and nobody else knows of them.
        let (read, write) =
            unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        // SAFETY: no pointer is passed; the descriptor is open for as long as `write` lives.
        if unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, wanted) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Pipe { read, write })
    }

    /// Moves up to `most` bytes from a socket into the pipe; 0 at the socket's end. EAGAIN: the
    /// socket is empty, or the pipe full, or something else than plain data is next.
    pub fn fill(&self, from: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        splice(from.as_raw_fd(), self.write.as_raw_fd(), most)
    }

    /// Moves up to `most` bytes from the pipe into a socket. May move less than the socket has room
    /// for (a signal came), so that only EAGAIN says that it is full; or that the pipe is empty.
    pub fn drain(&self, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        splice(self.read.as_raw_fd(), to.as_raw_fd(), most)
    }
}

/// Whether `fill` failed because the kernel (or its sandbox) cannot splice from that socket at all.
pub fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM))
}

/// A broken socket raises SIGPIPE here as there is no MSG_NOSIGNAL; Rust's start-up code ignores it.
fn splice(from: i32, to: i32, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    loop {
        // SAFETY: null offsets are what sockets and pipes want; the callers hold both descriptors.
        let n = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), most, flags) };
        if let Ok(n) = usize::try_from(n) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_nothing_blocks() {
        let (mut client, near) = UnixStream::pair().unwrap();
        let (far, mut backend) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let pipe = Pipe::new(256 * 1024).unwrap();
        let nothing = pipe.fill(near.as_fd(), 100).unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        client.write_all(b"one and two").unwrap();
        assert_eq!(pipe.fill(near.as_fd(), 3).unwrap(), 3);
        assert_eq!(pipe.drain(far.as_fd(), 100).unwrap(), 3);
        let mut got = [0; 16];
        assert_eq!(backend.read(&mut got).unwrap(), 3);
        assert_eq!(&got[..3], b"one");
        assert_eq!(pipe.drain(far.as_fd(), 1).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(client);
        assert_eq!(pipe.fill(near.as_fd(), 100).unwrap(), 8);
        assert_eq!(pipe.fill(near.as_fd(), 100).unwrap(), 0);
        drop(backend);
        assert_eq!(pipe.drain(far.as_fd(), 8).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_pipe_that_is_too_large_is_refused() {
        // The kernel has no memory for 2 GiB of slots, whoever asks.
        assert!(Pipe::new(usize::MAX).is_err());
    }
}
