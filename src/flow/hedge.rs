//! Copies of one request in a race: a further one goes out each time that no answer has begun in time, the
//! first good answer wins, and the losers are dropped with their connections.
//!
//! Only for requests that are safe and have no body; the client's side is not touched before there is a
//! winner. A further copy counts as an attempt and takes its leave from the pool's retry budget.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::attempt::{Answered, Attempt, Failed};
use super::judge;
use super::record::Record;
use super::retry::{Retries, Trouble};
use crate::config::model::HedgeAfter;
use crate::forward::http::Front;
use crate::forward::http::exchange::Clocks;
use crate::forward::http::head::{Framing, RequestHead};
use crate::observe::cells::{BUCKETS_MICROS, PoolCells};
use crate::outcome::{self, Cause, Sent, Side};
use crate::pool::{Lease, Pool};
use crate::timer::Deadline;

/// How long a percentile is looked back for, and how many answers it needs.
const WINDOW: Duration = Duration::from_secs(10);
const ANSWERS: u64 = 100;
/// How often it is worked out anew.
const REFRESH: Duration = Duration::from_secs(1);

/// After so long a copy is asked for again: where the budget had no leave (another may have given its own
/// back), where no other backend was to be had, and where it has had all its attempts.
const REFUSED: Duration = Duration::from_millis(20);
const NOBODY: Duration = Duration::from_millis(100);
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// When a second copy of this request is to go out; `None`: never.
pub fn after(attempt: &Attempt<'_>, percentiles: &Percentiles) -> Option<Duration> {
    let pool = attempt.plan.picker.pool();
    let hedge = pool.config.retry.hedge?;
    let head = attempt.head;
    let fits = outcome::is_safe(&head.method) && bodiless(head) && attempt.upgrade.is_none();
    match hedge {
        _ if !fits => None,
        HedgeAfter::Time(after) => Some(after),
        HedgeAfter::P99 => percentiles.of(pool, Instant::now()),
    }
}

fn bodiless(head: &RequestHead) -> bool {
    matches!(head.framing, Framing::None | Framing::Length(0))
}

/// One copy on its way.
type Copy<'a> = Pin<Box<dyn Future<Output = (Lease, Result<Answered, Failed>)> + 'a>>;

/// How the race stands.
struct Race<'a> {
    attempt: &'a Attempt<'a>,
    copies: Vec<Copy<'a>>,
    /// An answer that another backend might do better than.
    spare: Option<(Lease, Answered)>,
    failed: Option<Failed>,
}

/// Runs one attempt at the backend of `lease`, and others beside it, each when no answer has begun
/// `after` so long. Of the backends that failed on the way `retries` is told.
pub async fn race(
    attempt: &Attempt<'_>,
    lease: Lease,
    after: Duration,
    retries: &mut Retries,
    record: &Record,
    front: &mut Front<'_>,
) -> Result<(Lease, Answered), Failed> {
    let timer = Deadline::new(&attempt.client.worker.wheel);
    timer.set(after);
    let first = lease.index();
    retries.leave(&lease);
    let mut race = Race { attempt, copies: Vec::new(), spare: None, failed: None };
    race.enter(lease);
    let mut latest = Latest::new(attempt, first);
    let mut refused = false;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = race.poll(cx, retries, record.attempts.get()) {
            return Poll::Ready(ended);
        }
        // It is off; whoever cuts the session wakes who polled it.
        let _ = attempt.clocks.step.poll(cx);
        if front.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failed { cause: Cause::ClientGone, sent: Sent::Lost }));
        }
        if timer.poll(cx).is_ready() {
            let frozen = latest.is_frozen(attempt);
            let more = match race.copies.len() {
                // One beside the first in any case; a third only for two that look frozen.
                1 => hedge(attempt, retries, record),
                _ if frozen => hedge(attempt, retries, record),
                _ => Err(after),
            };
            match more {
                Ok(lease) => {
                    latest = Latest::new(attempt, lease.index());
                    race.enter(lease);
                    timer.set(after);
                    let _ = timer.poll(cx);
                    return race.poll(cx, retries, record.attempts.get());
                }
                Err(wait) => {
                    if wait == REFUSED && !std::mem::replace(&mut refused, true) {
                        cells(attempt).retry_budget_exhausted.inc();
                    }
                    timer.set(wait);
                    let _ = timer.poll(cx);
                }
            }
        }
        Poll::Pending
    });
    let ended = ended.await;
    if let Ok((lease, _)) = &ended
        && lease.index() != first
    {
        cells(attempt).hedges_won.inc();
        retries.masked = true;
    }
    ended
}

/// Where the latest copy went, and how many answers this worker had had from there by then.
struct Latest {
    index: usize,
    answers: u64,
}

impl Latest {
    fn new(attempt: &Attempt<'_>, index: usize) -> Latest {
        Latest { index, answers: Latest::answers(attempt, index) }
    }

    fn answers(attempt: &Attempt<'_>, index: usize) -> u64 {
        let backend = &attempt.plan.picker.pool().members[index].state;
        backend.cells.of(attempt.client.worker.id).requests.total()
    }

    /// Whether it has answered nobody meanwhile; then it is not where further copies should go, whoever
    /// sends them.
    fn is_frozen(&self, attempt: &Attempt<'_>) -> bool {
        let frozen = Latest::answers(attempt, self.index) == self.answers;
        if frozen {
            let now_nanos = attempt.client.worker.nanos(Instant::now());
            attempt.plan.picker.pool().members[self.index].state.late(now_nanos);
        }
        frozen
    }
}

/// Leave for a further copy, and where it goes; or when to ask again.
fn hedge(attempt: &Attempt<'_>, retries: &mut Retries, record: &Record) -> Result<Lease, Duration> {
    let (picker, worker) = (&attempt.plan.picker, &attempt.client.worker);
    let attempts = record.attempts.get();
    if attempts >= picker.pool().config.retry.attempts {
        return Err(NEVER);
    }
    let ask = attempt.plan.again(worker);
    let lease = picker.pick_in_turn(ask, &retries.tried).map_err(|_| NOBODY)?;
    if !retries.take_hedge(picker) {
        return Err(REFUSED);
    }
    retries.leave(&lease);
    record.attempts.set(attempts + 1);
    cells(attempt).hedges.inc();
    Ok(lease)
}

fn cells<'a>(attempt: &'a Attempt<'_>) -> &'a PoolCells {
    attempt.plan.picker.pool().state.cells.of(attempt.client.worker.id)
}

impl Race<'_> {
    fn enter(&mut self, lease: Lease) {
        let attempt = self.attempt;
        self.copies.push(Box::pin(async move {
            let step = Deadline::new(&attempt.client.worker.wheel);
            let clocks = Clocks { step, overall: attempt.clocks.overall.clone() };
            let answered = attempt.run_alone(&lease, &clocks).await;
            (lease, answered)
        }));
    }

    /// Ready with the first good answer, or when no copy is left.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        retries: &Retries,
        attempts: u32,
    ) -> Poll<Result<(Lease, Answered), Failed>> {
        let mut at = 0;
        while let Some(copy) = self.copies.get_mut(at) {
            let Poll::Ready((lease, ended)) = copy.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            drop(self.copies.swap_remove(at));
            match ended {
                Ok(mut answered) => {
                    let trouble = Trouble::Status(answered.answer.status);
                    let config = &self.attempt.plan.picker.pool().config.retry;
                    let poor = retries.may(trouble, Sent::Replayable, config, attempts.min(1));
                    // From here on the request waits by its own deadline.
                    answered.entered.wait_by(&self.attempt.clocks.step);
                    if !poor {
                        return Poll::Ready(Ok((lease, answered)));
                    }
                    self.spare = Some((lease, answered));
                }
                Err(failed) => {
                    if failed.cause.side() == Side::Backend {
                        judge::failed(&self.attempt.client.worker, &lease, failed.cause);
                    }
                    self.failed = Some(failed);
                }
            }
        }
        if !self.copies.is_empty() {
            return Poll::Pending;
        }
        match (self.spare.take(), self.failed) {
            (Some(spare), _) => Poll::Ready(Ok(spare)),
            (None, Some(failed)) => Poll::Ready(Err(failed)),
            (None, None) => Poll::Pending, // there was at least one copy, and how it ended is in these
        }
    }
}

/// Of each pool the 99th percentile of the time to the head of an answer, lately.
#[derive(Debug, Default)]
pub struct Percentiles(RefCell<FxHashMap<usize, Times>>);

const COUNTS: usize = BUCKETS_MICROS.len() + 1;

#[derive(Debug)]
struct Times {
    /// Counts at the beginning of the window before, and of this one.
    bases: [[u64; COUNTS]; 2],
    begun: Instant,
    refreshed: Instant,
    p99: Option<Duration>,
}

impl Percentiles {
    /// `None` while too few answers are known to say.
    fn of(&self, pool: &Pool, now: Instant) -> Option<Duration> {
        let mut all = self.0.borrow_mut();
        let key = std::ptr::from_ref(&*pool.state) as usize;
        let counts = || {
            let mut counts = [0; COUNTS];
            for cells in pool.state.cells.iter() {
                cells.first_byte.add_to(&mut counts);
            }
            counts
        };
        let times = all.entry(key).or_insert_with(|| Times {
            bases: [counts(); 2],
            begun: now,
            refreshed: now,
            p99: None,
        });
        if now - times.refreshed >= REFRESH {
            times.refreshed = now;
            let counts = counts();
            times.p99 = p99(&times.bases[0], &counts);
            if now - times.begun >= WINDOW {
                times.begun = now;
                times.bases = [times.bases[1], counts];
            }
        }
        times.p99
    }
}

/// The bound under which 99 of 100 lie, in proportion within its bucket.
fn p99(from: &[u64; COUNTS], to: &[u64; COUNTS]) -> Option<Duration> {
    let counts: Vec<u64> = to.iter().zip(from).map(|(to, from)| to.saturating_sub(*from)).collect();
    let all: u64 = counts.iter().sum();
    if all < ANSWERS {
        return None;
    }
    let rank = all * 99 / 100;
    let mut below = 0;
    for (at, &count) in counts.iter().enumerate() {
        if below + count > rank {
            let low = if at == 0 { 0 } else { BUCKETS_MICROS[at - 1] };
            let high = BUCKETS_MICROS.get(at).copied().unwrap_or(low);
            let share = (rank - below + 1) as f64 / count as f64;
            return Some(Duration::from_micros(low + ((high - low) as f64 * share) as u64));
        }
        below += count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_lies_in_its_bucket_and_needs_some_answers() {
        let none = [0; COUNTS];
        let mut some = none;
        some[4] = ANSWERS - 1; // up to 2.5 ms
        assert_eq!(p99(&none, &some), None);
        some[4] = 1000;
        let micros = |to: &[u64; COUNTS]| p99(&none, to).expect("enough").as_micros();
        assert!((2480..=2500).contains(&micros(&some)), "{}", micros(&some));
        some[8] = 9;
        assert!((2490..=2500).contains(&micros(&some)), "{}", micros(&some));
        some[8] = 11; // 25 to 50 ms
        assert!((25_000..=50_000).contains(&micros(&some)), "{}", micros(&some));
        some[COUNTS - 1] = 100;
        assert_eq!(micros(&some), 60_000_000, "above all bounds");
        // What was before the window does not count.
        let mut more = some;
        more[0] += 500;
        assert!(p99(&some, &more).expect("enough") <= Duration::from_micros(100));
    }
}
