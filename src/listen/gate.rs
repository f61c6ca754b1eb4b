//! Counts open connections, of the process, of each worker and of each client, and holds the limits:
//! of the whole process (accept waits) and of one client (it is refused).
//!
//! Counting a connection is two atomic additions; the map behind the per-client limit is locked only
//! while that limit is on. A [`Permit`] counts while it lives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::lifecycle::status::Status;
use crate::listen::{ClientAddr, share};

/// Counts the open client connections. Their number is `status.limits.open`, that of each worker
/// `status.open_by_worker`.
#[derive(Debug)]
pub struct Gate {
    status: Arc<Status>,
    waiting: AtomicUsize,
    freed: Notify,
    /// Only clients that have a connection open are in it.
    per_client: Mutex<HashMap<IpAddr, u32>>,
}

/// One open client connection.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    client: Option<IpAddr>,
    /// For which it counts; none before it was decided.
    worker: Option<usize>,
}

impl Gate {
    pub fn new(status: Arc<Status>) -> Arc<Gate> {
        Arc::new(Gate {
            status,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            per_client: Mutex::default(),
        })
    }

    /// Waits until fewer than `limit()` connections are open. `limit` is asked anew each time a
    /// connection ends, so that a reload may raise it.
    pub async fn enter(self: &Arc<Self>, limit: impl Fn() -> usize) -> Permit {
        let open = &self.status.limits.open;
        let mut counted = false;
        loop {
            if open.fetch_add(1, Ordering::AcqRel) < limit() {
                return Permit { gate: self.clone(), client: None, worker: None };
            }
            // Register before giving the place back: a release in between must not be missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let _waiting = Waiting::new(&self.waiting);
            open.fetch_sub(1, Ordering::AcqRel);
            if !std::mem::replace(&mut counted, true) {
                self.status.limits.connections.fetch_add(1, Ordering::Relaxed);
            }
            if open.load(Ordering::Acquire) >= limit() {
                freed.await;
            }
        }
    }

    /// Wakes those that wait, after the limit was raised.
    pub fn recheck(&self) {
        self.freed.notify_waiters();
    }
}

/// One that waits; it may be dropped before its time.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(number: &AtomicUsize) -> Waiting<'_> {
        number.fetch_add(1, Ordering::AcqRel);
        Waiting(number)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Permit {
    /// Decides which worker is to serve this connection, which worker `own` accepted, and counts it
    /// for that one from now on: the next decision must know of it, though the connection may take
    /// a while to get there.
    pub fn place(&mut self, own: usize) -> usize {
        let worker = share::fewest(&self.gate.status.open_by_worker, own);
        self.count_for(worker);
        worker
    }

    /// This worker serves it, whatever was decided before.
    pub fn count_for(&mut self, worker: usize) {
        self.uncount();
        self.gate.status.open_by_worker[worker].fetch_add(1, Ordering::Relaxed);
        self.worker = Some(worker);
    }

    fn uncount(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.gate.status.open_by_worker[worker].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts this connection for its client; `false` if the client has `limit` open already.
    pub fn admit(&mut self, client: ClientAddr, limit: Option<u32>) -> bool {
        let (Some(limit), Some(ip)) = (limit, client.ip()) else { return true };
        let key = client_key(ip);
        let mut map = self.gate.per_client.lock().unwrap_or_else(PoisonError::into_inner);
        let open = map.entry(key).or_insert(0);
        if *open >= limit {
            self.gate.status.limits.connections_per_client.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        *open += 1;
        self.client = Some(key);
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.uncount();
        if let Some(key) = self.client {
            let mut map = self.gate.per_client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(open) = map.get_mut(&key) {
                *open -= 1;
                if *open == 0 {
                    map.remove(&key);
                }
            }
        }
        self.gate.status.limits.open.fetch_sub(1, Ordering::AcqRel);
        if self.gate.waiting.load(Ordering::Acquire) > 0 {
            self.gate.freed.notify_waiters();
        }
    }
}

/// An IPv6 client is its /64: within one it can take any address it likes.
fn client_key(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate() -> Arc<Gate> {
        Gate::new(Arc::new(Status::new(1, 1024)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_place_is_waited_for() {
        let gate = gate();
        let first = gate.enter(|| 1).await;
        let soon = Duration::from_secs(1);
        tokio::time::timeout(soon, gate.enter(|| 1)).await.unwrap_err();
        let freed = async {
            tokio::time::sleep(soon).await;
            drop(first);
        };
        let (_second, ()) = tokio::join!(gate.enter(|| 1), freed);
        assert_eq!(gate.status.limits.open.load(Ordering::Relaxed), 1);
        assert_eq!(gate.status.limits.connections.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_connection_counts_for_the_worker_that_serves_it() {
        let gate = Gate::new(Arc::new(Status::new(2, 1024)));
        let open = || {
            let loads = gate.status.open_by_worker.iter();
            loads.map(|load| load.load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        let mut first = gate.enter(|| 9).await;
        assert_eq!((first.place(1), open()), (1, vec![0, 1]));
        let mut second = gate.enter(|| 9).await;
        assert_eq!((second.place(1), open()), (0, vec![1, 1]));
        second.count_for(1);
        assert_eq!(open(), [0, 2]);
        drop(first);
        assert_eq!(open(), [0, 1]);
        drop(second);
        assert_eq!(open(), [0, 0]);
    }

    #[tokio::test]
    async fn one_client_is_refused_beyond_its_limit_and_counted_by_its_64() {
        let gate = gate();
        let client = |text: &str| ClientAddr::Ip(text.parse().unwrap());
        let mut first = gate.enter(|| 9).await;
        assert!(first.admit(client("[2001:db8::1]:1"), Some(1)));
        let mut second = gate.enter(|| 9).await;
        assert!(!second.admit(client("[2001:db8::2]:2"), Some(1)));
        assert!(second.admit(client("[2001:db8:0:1::2]:2"), Some(1)));
        drop(first);
        let mut third = gate.enter(|| 9).await;
        assert!(third.admit(client("[2001:db8::3]:3"), Some(1)));
        drop((second, third));
        assert!(gate.per_client.lock().unwrap().is_empty());
    }
}
