//! Where requests wait while no backend of their pool can take them: in order, over all workers.
//!
//! The lock is entered only by who waits, and by who makes room while somebody does. The first in the
//! queue is woken when a lease ends or something comes back, picks for itself, and when it has left wakes
//! the next; nobody who comes later goes before it. Knows no time: who waits bounds that itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::PoolState;

/// Those who wait for a pool.
#[derive(Debug, Default)]
pub struct Waiting {
    /// How many there are; read without the lock.
    length: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// The first is the next to be served.
    waiters: BTreeMap<Turn, Option<Waker>>,
    /// Tickets that were handed out.
    tickets: u64,
}

/// Higher priorities first, then in the order of their coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    behind: i64,
    ticket: u64,
}

/// A place in the queue; dropping it leaves the queue.
pub struct Place {
    state: Arc<PoolState>,
    turn: Turn,
}

impl Waiting {
    /// How many wait; a moment old.
    pub fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Something may have room now: the first is to look.
    pub fn wake(&self) {
        if !self.is_empty() {
            self.line().wake();
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Whoever panicked while holding it left a whole map.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn wake(&mut self) {
        if let Some(mut first) = self.waiters.first_entry()
            && let Some(waker) = first.get_mut().take()
        {
            waker.wake();
        }
    }
}

impl Place {
    /// A place behind all of the same `priority` (greater goes first); `None` if `most` wait already.
    pub fn take(state: &Arc<PoolState>, priority: i32, most: usize) -> Option<Place> {
        let mut line = state.waiting.line();
        if line.waiters.len() >= most {
            return None;
        }
        line.tickets += 1;
        let turn = Turn { behind: -i64::from(priority), ticket: line.tickets };
        line.waiters.insert(turn, None);
        state.waiting.length.store(line.waiters.len(), Ordering::SeqCst);
        Some(Place { state: state.clone(), turn })
    }

    /// Whether it is the first; `waker` is woken when it may be worth its while to ask (and to pick)
    /// again. To be called before each pick, so that no room that is made in between is missed.
    pub fn is_first(&self, waker: &Waker) -> bool {
        let mut line = self.state.waiting.line();
        if let Some(known) = line.waiters.get_mut(&self.turn) {
            *known = Some(waker.clone());
        }
        line.waiters.first_key_value().is_some_and(|(first, _)| *first == self.turn)
    }
}

impl Drop for Place {
    /// The next one may find that there is more room.
    fn drop(&mut self) {
        let mut line = self.state.waiting.line();
        line.waiters.remove(&self.turn);
        self.state.waiting.length.store(line.waiters.len(), Ordering::SeqCst);
        line.wake();
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("turn", &self.turn).finish_non_exhaustive()
    }
}
