//! What the process knows of itself, for `/readyz` and `/metrics`: phase, reloads, limits.
//!
//! Each field has one writer, named beside it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::phase::Phase;

/// Pipes of all workers. So many of 256 KiB the kernel grants to a user who is not privileged
/// (`fs.pipe-user-pages-soft`, 64 MiB).
const PIPES: u64 = 256;

/// What a worker may have however many workers there are; the kernel may refuse some.
const PIPES_AT_LEAST: usize = 8;

#[derive(Debug)]
pub struct Status {
    pub started: SystemTime,
    pub workers: usize,
    /// What `RLIMIT_NOFILE` was raised to.
    pub open_files_limit: u64,
    /// Written by `app`.
    pub phase: watch::Sender<Phase>,
    /// Written by `lifecycle::reload`.
    pub reload: Mutex<Reload>,
    /// Written by `lifecycle::{reload,renew}`.
    pub certificates: CertificateReloads,
    pub limits: Limits,
    /// Client connections that each worker has open, or is about to be handed; written by
    /// `listen::gate`.
    pub open_by_worker: Box<[AtomicUsize]>,
    /// Panics caught; written by the panic hook.
    pub panics: AtomicU64,
    /// Connections cut at the end of a drain.
    pub cut: AtomicU64,
}

/// How the last reload went. The start counts as a successful one.
#[derive(Clone, Debug)]
pub struct Reload {
    pub succeeded: u64,
    pub failed: u64,
    /// When the configuration in force was loaded.
    pub loaded_at: SystemTime,
    /// Why the last attempt failed; `None` if it succeeded.
    pub error: Option<String>,
    /// Changes that wait for a restart.
    pub needs_restart: Vec<String>,
}

/// Certificates, keys, authorities and lists whose files changed while the process ran.
#[derive(Debug, Default)]
pub struct CertificateReloads {
    pub succeeded: AtomicU64,
    /// What was in force goes on.
    pub failed: AtomicU64,
}

/// How often each limit was hit; written by any worker, rarely.
#[derive(Debug, Default)]
pub struct Limits {
    /// Open client connections of the whole process.
    pub open: AtomicUsize,
    /// Accept had to wait for `limits.connections`.
    pub connections: AtomicU64,
    pub connections_per_client: AtomicU64,
    pub request_head: AtomicU64,
    pub request_body: AtomicU64,
    /// Accept, or a connection to a backend, ran out of file descriptors.
    pub open_files: AtomicU64,
    /// A rate limit had no room left for another key, and forgot the one that owed least.
    pub rate_limit_keys: AtomicU64,
    /// A TLS handshake was ended to make room for a newer one.
    pub handshakes: AtomicU64,
    /// Bulk was copied for want of a pipe.
    pub pipes: AtomicU64,
}

impl Limits {
    pub fn count_request_head(&self) {
        self.request_head.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_open_files(&self) {
        self.open_files.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_handshakes(&self) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_rate_limit_keys(&self) {
        self.rate_limit_keys.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_pipes(&self) {
        self.pipes.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_request_body(&self) {
        self.request_body.fetch_add(1, Ordering::Relaxed);
    }
}

impl Status {
    pub fn new(workers: usize, open_files_limit: u64) -> Status {
        let now = SystemTime::now();
        Status {
            started: now,
            workers,
            open_files_limit,
            phase: watch::Sender::new(Phase::Starting),
            reload: Mutex::new(Reload {
                succeeded: 1,
                failed: 0,
                loaded_at: now,
                error: None,
                needs_restart: Vec::new(),
            }),
            certificates: CertificateReloads::default(),
            limits: Limits::default(),
            open_by_worker: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            panics: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        }
    }

    /// Client connections that the open-files limit has room for: each may take one file more for
    /// its backend, and some are kept for listeners, probes, the admin server, reloads and pipes.
    pub fn connections_possible(&self) -> usize {
        if self.open_files_limit == 0 {
            return usize::MAX; // not known
        }
        let kept = (self.open_files_limit / 4).min(256 + 2 * PIPES);
        usize::try_from((self.open_files_limit - kept) / 2).unwrap_or(usize::MAX).max(1)
    }

    /// Pipes that a worker may have for bulk, of two descriptors each.
    pub fn pipes_per_worker(&self) -> usize {
        let all = match self.open_files_limit {
            0 => PIPES, // not known
            limit => PIPES.min(limit / 16),
        };
        (all as usize / self.workers.max(1)).max(PIPES_AT_LEAST)
    }

    /// How the last reload went. Never held across an await.
    pub fn reload(&self) -> MutexGuard<'_, Reload> {
        // Whoever panicked while holding it left whole values: each field is set at once.
        self.reload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
