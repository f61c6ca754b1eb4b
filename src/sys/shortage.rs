//! Tells what this machine lacked from what the other end did.

use std::io;

/// Whether a socket could not be made, accepted or connected for want of something on our side: file
/// descriptors, memory, buffers, local ports. Says nothing of the other end; it may pass.
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRNOTAVAIL
                | libc::EAGAIN
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_is_told_from_what_the_other_end_does() {
        for (code, ours) in [
            (libc::EMFILE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::ECONNREFUSED, false),
            (libc::ETIMEDOUT, false),
            (libc::EHOSTUNREACH, false),
        ] {
            assert_eq!(is_shortage(&io::Error::from_raw_os_error(code)), ours, "{code}");
        }
        assert!(!is_shortage(&io::ErrorKind::ConnectionRefused.into()));
    }
}
