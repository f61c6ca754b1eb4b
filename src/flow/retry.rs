//! What one request may try again, and has tried: by what an attempt failed of, by what its backend may
//! have seen of the request, and by what the pool's budget has left.
//!
//! Decides and counts; picks nothing and sends nothing. The first retry of a request after `connect`, or
//! after a reset before the head of an answer, is free, so that half a tier may die unnoticed. All others
//! take their leave from the budget, for which they wait a moment, and so do hedges.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::attempt::Failed;
use super::decide::Plan;
use super::judge;
use super::record::Record;
use super::worker::Worker;
use crate::config::model::{Retry, RetryOn};
use crate::forward::http::head::{ResponseHead, number};
use crate::observe::cells::PoolCells;
use crate::outcome::{Cause, Sent, Side};
use crate::pool::budget::RetryGuard;
use crate::pool::pick::Tried;
use crate::pool::{Lease, Picker};
use crate::timer::Deadline;

/// The pause before the first retry at a backend that was tried already; each further one is twice as
/// long. Jittered down to half.
const BACK_OFF: Duration = Duration::from_millis(25);
const BACK_OFF_MOST: Duration = Duration::from_secs(1);

/// So often leave is asked for again, and after so long.
const LEAVES: u32 = 10;
const LEAVE: Duration = Duration::from_millis(10);

/// What a backend may ask for at the most.
const SPARED_SECONDS: u64 = 60;

/// What was wrong with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It brought no answer, or only part of one.
    Failed(Cause),
    /// It brought this answer, which another backend might not give.
    Status(StatusCode),
}

/// One request's attempts, as far as they count for the next.
#[derive(Debug)]
pub struct Retries {
    /// A second execution has the effect of one.
    repeatable: bool,
    pub tried: Tried,
    /// What the last attempt failed of.
    pub failed: Option<Cause>,
    /// Held while an attempt counts against the pool's budget.
    guard: Option<RetryGuard>,
    /// The same for each copy beside the first.
    hedges: Vec<RetryGuard>,
    /// Leave for the next attempt, waited for.
    granted: Option<RetryGuard>,
    /// How often all that serve had been tried.
    rounds: u32,
    /// An answer is owed to a second attempt, or to a wait.
    pub masked: bool,
}

/// A backend that answers 503 may say for how long it wants to be spared (RFC 9110 10.2.3; of the two
/// forms, the one in seconds): picks pass it over so long, if another serves.
fn spare(lease: &Lease, answer: &ResponseHead, now_nanos: u64) {
    if answer.status != StatusCode::SERVICE_UNAVAILABLE {
        return;
    }
    if let Some(seconds) = answer.fields().all("retry-after").next().and_then(number) {
        let until = now_nanos + seconds.min(SPARED_SECONDS) * 1_000_000_000;
        lease.backend().spare_until(until);
        lease.picker().pool().state.spare_until(until);
    }
}

impl Trouble {
    /// Whether the pool wants it retried.
    fn is_on(self, on: &RetryOn) -> bool {
        match self {
            Trouble::Failed(Cause::Connect | Cause::ConnectTimeout | Cause::Tls) => on.connect,
            Trouble::Failed(Cause::Reset | Cause::Released) => on.reset,
            Trouble::Failed(Cause::Garbage) => on.garbage,
            Trouble::Failed(Cause::Timeout) => on.timeout,
            Trouble::Failed(Cause::Truncated) => on.truncated,
            Trouble::Failed(cause) => cause.is_retryable(),
            Trouble::Status(StatusCode::BAD_GATEWAY) => on.status_502,
            Trouble::Status(StatusCode::SERVICE_UNAVAILABLE) => on.status_503,
            Trouble::Status(StatusCode::GATEWAY_TIMEOUT) => on.status_504,
            Trouble::Status(_) => false,
        }
    }

    fn is_free(self) -> bool {
        let Trouble::Failed(cause) = self else { return false };
        let unsent = matches!(cause, Cause::Connect | Cause::ConnectTimeout | Cause::Tls);
        unsent || matches!(cause, Cause::Reset | Cause::Released)
    }

    fn count(self, cells: &PoolCells) {
        match self {
            Trouble::Failed(cause) => cells.retries[cause.index()].inc(),
            Trouble::Status(status) => cells.retries_by_status.inc(status.as_u16()),
        }
    }
}

impl Retries {
    /// `repeatable`: a second execution has the effect of one.
    pub fn new(repeatable: bool) -> Retries {
        let tried = Tried::default();
        Retries {
            repeatable,
            tried,
            failed: None,
            guard: None,
            hedges: Vec::new(),
            granted: None,
            rounds: 0,
            masked: false,
        }
    }

    /// Whether attempt number `attempts`, if that is its trouble, may be followed by another, as far as
    /// the request and the pool's `retry` go.
    pub fn may(&self, trouble: Trouble, sent: Sent, retry: &Retry, attempts: u32) -> bool {
        attempts < retry.attempts
            && trouble.is_on(&retry.on)
            && sent.allows_another(self.repeatable)
    }

    /// The attempt before has ended, and with it what it counted.
    fn end(&mut self) {
        self.guard = None;
        self.hedges.clear();
    }

    /// Waits for leave for one more attempt after number `attempts`, if that is what it needs, but not
    /// for long: a burst of failures is worked off in turn.
    async fn reserve(
        &mut self,
        trouble: Trouble,
        picker: &Rc<Picker>,
        worker: &Worker,
        attempts: u32,
    ) {
        if attempts == 1 && trouble.is_free() {
            return;
        }
        self.end();
        let timer = Deadline::new(&worker.wheel);
        for _ in 0..LEAVES {
            self.granted = picker.try_retry();
            if self.granted.is_some() {
                return;
            }
            timer.set(LEAVE);
            poll_fn(|cx| timer.poll(cx)).await;
        }
    }

    /// Asks for leave for one more attempt after number `attempts`, and counts it. `false`: the budget
    /// is spent.
    fn take(
        &mut self,
        trouble: Trouble,
        picker: &Rc<Picker>,
        cells: &PoolCells,
        attempts: u32,
    ) -> bool {
        self.end();
        if attempts > 1 || !trouble.is_free() {
            match self.granted.take().or_else(|| picker.try_retry()) {
                None => {
                    cells.retry_budget_exhausted.inc();
                    return false;
                }
                guard => self.guard = guard,
            }
        }
        trouble.count(cells);
        self.masked = true;
        true
    }

    /// After an attempt that failed: another may follow, or this is what the request failed of.
    pub async fn again(
        &mut self,
        record: &Record,
        picker: &Rc<Picker>,
        Failed { cause, sent }: Failed,
    ) -> Result<(), Cause> {
        let (attempts, worker) = (record.attempts.get(), &record.client.worker);
        let trouble = Trouble::Failed(cause);
        if !self.may(trouble, sent, &picker.pool().config.retry, attempts) {
            return Err(cause);
        }
        self.reserve(trouble, picker, worker, attempts).await;
        if !self.take(trouble, picker, picker.pool().state.cells.of(worker.id), attempts) {
            return Err(cause);
        }
        self.failed = Some(cause);
        Ok(())
    }

    /// After an answer that tells of trouble at its backend: a lease of another one that serves, to be
    /// asked instead. `None`: this answer it is.
    pub async fn instead(
        &mut self,
        record: &Record,
        plan: &Plan<'_>,
        lease: &Lease,
        answer: &ResponseHead,
        sent: Sent,
    ) -> Option<Lease> {
        let (attempts, worker) = (record.attempts.get(), &record.client.worker);
        let (trouble, picker) = (Trouble::Status(answer.status), &plan.picker);
        spare(lease, answer, worker.nanos(Instant::now()));
        if !self.may(trouble, sent, &picker.pool().config.retry, attempts) {
            return None;
        }
        self.reserve(trouble, picker, worker, attempts).await;
        self.leave(lease);
        let other = picker.pick_in_turn(plan.again(worker), &self.tried).ok()?;
        let cells = picker.pool().state.cells.of(worker.id);
        self.take(trouble, picker, cells, attempts).then_some(other)
    }

    /// The attempt at this backend has failed.
    pub fn left(&mut self, worker: &Worker, lease: &Lease, cause: Cause) {
        if cause.side() == Side::Backend {
            judge::failed(worker, lease, cause);
        }
        self.leave(lease);
    }

    /// Asks for leave for a further copy beside the first. `false`: the budget is spent.
    pub fn take_hedge(&mut self, picker: &Rc<Picker>) -> bool {
        let guard = picker.try_retry();
        let granted = guard.is_some();
        self.hedges.extend(guard);
        granted
    }

    /// The attempt at this backend is over; no other goes there while another serves.
    pub fn leave(&mut self, lease: &Lease) {
        self.tried.add(lease);
    }

    /// Whether a backend that was tried may be tried again. One that let its time pass may not: that
    /// would be so long a wait once more.
    pub fn may_go_round(&self) -> bool {
        self.failed != Some(Cause::Timeout)
    }

    /// All that serve have been tried: the next attempt goes to one of them again, after this pause.
    pub fn go_round(&mut self, random: f64) -> Duration {
        self.tried = Tried::default();
        let pause = BACK_OFF.saturating_mul(1 << self.rounds.min(16)).min(BACK_OFF_MOST);
        self.rounds += 1;
        pause.mul_f64(0.5 + random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults::RETRY;
    use crate::config::model::Balance;
    use crate::pool::sample;

    const TROUBLES: [Trouble; 11] = [
        Trouble::Failed(Cause::Connect),
        Trouble::Failed(Cause::ConnectTimeout),
        Trouble::Failed(Cause::Tls),
        Trouble::Failed(Cause::Reset),
        Trouble::Failed(Cause::Garbage),
        Trouble::Failed(Cause::Timeout),
        Trouble::Failed(Cause::Truncated),
        Trouble::Failed(Cause::Released),
        Trouble::Status(StatusCode::BAD_GATEWAY),
        Trouble::Status(StatusCode::SERVICE_UNAVAILABLE),
        Trouble::Status(StatusCode::GATEWAY_TIMEOUT),
    ];

    #[test]
    fn nothing_that_counts_is_ever_executed_twice() {
        let (once, often) = (Retries::new(false), Retries::new(true));
        for trouble in TROUBLES {
            assert!(once.may(trouble, Sent::Nothing, &RETRY, 1), "{trouble:?}");
            assert!(often.may(trouble, Sent::Replayable, &RETRY, 1), "{trouble:?}");
            assert!(!once.may(trouble, Sent::Replayable, &RETRY, 1), "{trouble:?}");
            assert!(!often.may(trouble, Sent::Lost, &RETRY, 1), "{trouble:?}");
            assert!(!often.may(trouble, Sent::Nothing, &RETRY, 3), "{trouble:?}: three in all");
            let none = Retry { on: RetryOn::NONE, ..RETRY };
            assert!(!often.may(trouble, Sent::Nothing, &none, 1), "{trouble:?}");
        }
    }

    #[test]
    fn what_is_no_backends_doing_is_not_tried_again() {
        let often = Retries::new(true);
        for cause in Cause::ALL {
            let known = TROUBLES.contains(&Trouble::Failed(cause));
            let may = often.may(Trouble::Failed(cause), Sent::Nothing, &RETRY, 1);
            assert_eq!(may, known, "{}", cause.label());
        }
        for status in [200, 301, 404, 429, 500, 501, 505] {
            let trouble = Trouble::Status(StatusCode::from_u16(status).unwrap());
            assert!(!often.may(trouble, Sent::Nothing, &RETRY, 1), "{status}");
        }
    }

    #[test]
    fn the_first_one_after_connect_or_reset_is_free() {
        let pool = sample::pool(Balance::Random, &[1]);
        let (picker, cells) = (Rc::new(Picker::new(pool)), PoolCells::default());
        let spent: Vec<_> = std::iter::from_fn(|| picker.try_retry()).collect();
        assert_eq!(spent.len(), RETRY.budget_min as usize);
        let mut retries = Retries::new(true);
        let mut take =
            |cause, attempts| retries.take(Trouble::Failed(cause), &picker, &cells, attempts);
        assert!(take(Cause::Connect, 1) && !take(Cause::Connect, 2));
        assert!(take(Cause::Reset, 1) && !take(Cause::Reset, 2));
        assert!(take(Cause::ConnectTimeout, 1) && !take(Cause::ConnectTimeout, 2));
        assert!(!take(Cause::Garbage, 1) && !take(Cause::Truncated, 1) && !take(Cause::Timeout, 1));
        assert_eq!(cells.retry_budget_exhausted.get(), 6);
        drop(spent);
        assert!(take(Cause::Garbage, 1));
        assert_eq!(picker.pool().state.retries(), 1, "held for as long as the attempt");
    }

    #[test]
    fn a_pause_grows_and_is_bounded() {
        let mut retries = Retries::new(true);
        let pauses: Vec<_> = (0..30).map(|_| retries.go_round(1.0).as_millis()).collect();
        assert_eq!(pauses[..7], [25, 50, 100, 200, 400, 800, 1000]);
        assert!(pauses[7..].iter().all(|&pause| pause == 1000));
        assert_eq!(Retries::new(true).go_round(0.0), BACK_OFF / 2);
    }
}
