//! A file that hangs whoever opens it, as one does whose file server is gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Of Linux (asm-generic/fcntl.h); libc does not have it.
const F_SETSIG: libc::c_int = 10;

/// Until it is dropped, or for as long as the kernel has patience with us (`fs.lease-break-time`, 45 s).
#[derive(Debug)]
pub struct Hanging(File);

impl Hanging {
    /// Puts it in the place of `path`, whole at once; can be read once it hangs no more.
    #[track_caller]
    pub fn put(path: &Path, text: &str) -> Hanging {
        let new = path.with_extension("hanging");
        std::fs::write(&new, text).expect("a temporary folder");
        let file = OpenOptions::new().read(true).write(true).open(&new).expect("it is there");
        let hanging = Hanging(file);
        // Who opens it is what we are told of by a signal that nobody minds.
        hanging.fcntl(F_SETSIG, libc::SIGURG);
        hanging.fcntl(libc::F_SETLEASE, libc::F_WRLCK);
        std::fs::rename(new, path).expect("in one folder");
        hanging
    }

    /// Whether somebody hangs at it now.
    #[track_caller]
    pub fn is_met(&self) -> bool {
        self.fcntl(libc::F_GETLEASE, 0) != libc::F_WRLCK
    }

    #[track_caller]
    fn fcntl(&self, what: libc::c_int, argument: libc::c_int) -> libc::c_int {
        // SAFETY: the descriptor is that of an open file that lives across the call; none of these
        // commands has a pointer for its argument.
        let result = unsafe { libc::fcntl(self.0.as_raw_fd(), what, argument) };
        assert!(result >= 0, "fcntl {what}: {}", io::Error::last_os_error());
        result
    }
}
