//! What this process uses: CPU, memory, open files, read from `/proc` at each scrape.
//!
//! Only reads, no `unsafe`. What cannot be read (another system, `/proc` not mounted) is `None`,
//! and its metric is absent rather than wrong.

use std::fs;
use std::time::Duration;

/// Ticks a second of the times in `/proc/self/stat`. It is part of Linux's user-space ABI
/// (`USER_HZ`) and 100 on every architecture that Rust builds for with std.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, all threads. Resolution: 10 ms.
    pub cpu: Option<Duration>,
    pub resident_bytes: Option<u64>,
    /// File descriptors in use.
    pub open_files: Option<u64>,
    /// The soft limit on them; `None` also if there is none.
    pub max_files: Option<u64>,
}

/// Reads it all now; some tens of microseconds.
pub fn usage() -> Usage {
    let read = |path: &str| fs::read_to_string(path).ok();
    Usage {
        cpu: read("/proc/self/stat").as_deref().and_then(cpu),
        resident_bytes: read("/proc/self/status").as_deref().and_then(resident_bytes),
        open_files: open_files(),
        max_files: read("/proc/self/limits").as_deref().and_then(max_files),
    }
}

/// `utime` and `stime`: fields 14 and 15 of proc_pid_stat(5). Field 2, the command, may hold spaces
/// and brackets, so counting starts behind its last bracket, with field 3.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(14 - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?;
    Some(Duration::from_millis(ticks.checked_mul(1000 / TICKS_PER_SECOND)?))
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<u64> {
    // Linux 6.2 and up gives the number as the folder's size; reading the folder of a process with
    // a hundred thousand sockets would take the control thread some 50 ms.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // One of them is the descriptor of the folder that is being read.
        0 => Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1)),
        number => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read_as_they_are_documented() {
        let rest = "S 1 7 7 0 -1 4194560 1165 0 2 0 250 51 0 0 20 0 4 0 3357 1 2 3";
        for command in ["evenkeel", "a b", "even) keel (2"] {
            let stat = format!("7 ({command}) {rest}");
            assert_eq!(cpu(&stat), Some(Duration::from_millis(3010)), "{stat}");
        }
        for broken in ["", "7 (x", "7 (x) S 1", "7 (x) S 1 7 7 0 -1 4 1 0 2 0 a b 0"] {
            assert_eq!(cpu(broken), None, "{broken:?}");
        }

        let status = "Name:\tevenkeel\nVmHWM:\t    9000 kB\nVmRSS:\t    8168 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(8168 * 1024));
        assert_eq!(resident_bytes("VmRSS:\t eight kB\n"), None);
        assert_eq!(resident_bytes(""), None);

        let head = "Limit                     Soft Limit           Hard Limit           Units\n";
        let limits =
            format!("{head}Max open files            1024                 524288   files\n");
        assert_eq!(max_files(&limits), Some(1024));
        assert_eq!(max_files("Max open files   unlimited   unlimited   files\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_something() {
        let before = usage();
        let files: Vec<_> =
            (0..20).filter_map(|_| fs::File::open("/proc/self/stat").ok()).collect();
        let after = usage();
        assert!(after.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{after:?}");
        assert!(after.cpu >= before.cpu && after.cpu.is_some(), "{before:?} {after:?}");
        // Other tests open and close files at the same time; twenty more is what we hold.
        assert!(after.open_files.is_some_and(|open| open >= files.len() as u64), "{after:?}");
    }
}
