//! Files: the limit on open ones, raised to the hard limit at start, as every connection takes one;
//! and locks.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Raises the soft limit to the hard limit. Gives the soft limit in force afterwards.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that lives across the call, which only writes to it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `wanted` is a valid rlimit that lives across the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } == 0 {
        return Ok(wanted.rlim_cur);
    }
    Ok(limit.rlim_cur)
}

/// Takes the lock of an open file, unless another process or handle has it: then false. It is let go
/// when the file is closed.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is that of an open file that lives across the call.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}
