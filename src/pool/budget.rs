//! The retry budget: how many requests of a pool may be in a retry at once, so that a dying pool is
//! not finished off by its own retries.
//!
//! A share of the requests in progress, and at least a few. Requests are counted in the cell of their
//! worker (no shared line per request) and summed only when a retry asks. Guards end by `Drop`.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Picker, Pool, PoolState};
use crate::config::model::Retry;

/// Retries allowed at once while `requests` are in progress.
fn allowed(retry: &Retry, requests: u64) -> u32 {
    let share = requests.saturating_mul(u64::from(retry.budget_percent)) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).max(retry.budget_min)
}

/// A request in progress, from its head to the last byte of its answer.
#[derive(Debug)]
pub struct RequestGuard {
    picker: Rc<Picker>,
    worker: usize,
}

/// A request in a retry that counts against the budget. Drop it with the attempt.
#[derive(Debug)]
pub struct RetryGuard {
    picker: Rc<Picker>,
}

impl Picker {
    /// Counts a request until the guard is dropped. `worker` is the number of the calling worker, the
    /// only writer of its cell.
    pub fn begin_request(self: &Rc<Self>, worker: usize) -> RequestGuard {
        self.pool().state.cells.of(worker).in_progress.inc();
        RequestGuard { picker: self.clone(), worker }
    }

    /// Leave for one more retry; `None` if the budget is spent. (The caller counts that: the metric
    /// `retry_budget_exhausted` is its worker's.) A request's first retry is free and asks nothing.
    pub fn try_retry(self: &Rc<Self>) -> Option<RetryGuard> {
        let Pool { config, state, .. } = &**self.pool();
        take_one(&state.retries.0, allowed(&config.retry, state.requests()))
            .then(|| RetryGuard { picker: self.clone() })
    }
}

impl PoolState {
    /// Requests in progress, over all workers; a moment old.
    pub fn requests(&self) -> u64 {
        self.cells.sum(|cells| cells.in_progress.get())
    }

    /// Requests in a retry that counts against the budget.
    pub fn retries(&self) -> u32 {
        self.retries.0.load(Ordering::Relaxed)
    }
}

/// Adds one unless there are `allowed` already; no two threads can both have the last one.
fn take_one(retries: &AtomicU32, allowed: u32) -> bool {
    let more = |now: u32| (now < allowed).then(|| now + 1);
    retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.picker.pool().state.cells.of(self.worker).in_progress.dec();
    }
}

impl Drop for RetryGuard {
    fn drop(&mut self) {
        self.picker.pool().state.retries.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{defaults, model};
    use crate::pool::{Member, sample};

    #[test]
    fn a_budget_is_a_share_and_at_least_a_few() {
        for (requests, expected) in
            [(0, 3), (15, 3), (19, 3), (20, 4), (100, 20), (u64::MAX, u32::MAX)]
        {
            assert_eq!(allowed(&defaults::RETRY, requests), expected, "{requests} requests");
        }
    }

    #[test]
    fn retries_end_with_their_guards_and_grow_with_the_requests() {
        let picker = Rc::new(Picker::new(sample::pool(model::Balance::First, &[1])));
        let state = picker.pool().state.clone();
        let few: Vec<_> = (0..4).map(|_| picker.try_retry()).collect();
        assert_eq!(few.iter().flatten().count(), 3);
        let requests: Vec<_> = (0..20).map(|_| picker.begin_request(0)).collect();
        assert_eq!((state.requests(), state.retries()), (20, 3));
        let one_more = picker.try_retry();
        assert!(one_more.is_some() && picker.try_retry().is_none());
        drop(requests);
        assert!(picker.try_retry().is_none());
        drop((few, one_more));
        assert_eq!((state.requests(), state.retries()), (0, 0));
    }

    #[test]
    fn no_number_of_threads_exceeds_the_budget() {
        let usual = sample::pool(model::Balance::First, &[1]);
        let retry = Retry { budget_percent: 0, budget_min: 5, ..defaults::RETRY };
        let config = model::Pool { retry, ..usual.config.clone() };
        let member = Member::new(usual.members[0].state.clone(), 1);
        let pool = Arc::new(Pool::new(config, [member].into(), usual.state.clone()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let pool = pool.clone();
                scope.spawn(move || {
                    let picker = Rc::new(Picker::new(pool));
                    for _ in 0..5_000 {
                        let held = [picker.try_retry(), picker.try_retry()];
                        assert!(picker.pool().state.retries() <= 5);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(pool.state.retries(), 0);
    }
}
