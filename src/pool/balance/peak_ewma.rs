//! `peak_ewma`: least expected wait. Each backend has one estimate of the time to its response head,
//! which jumps up to a slower answer at once and forgets it over [`HALF_LIFE`]; the cost of a member
//! is estimate x (in flight + 1) / weight.
//!
//! While nobody asks a backend, its estimate sinks too, so that one that was slow is tried again.
//! One without an estimate is asked at once, but by one request at a time while others are known.

use std::sync::atomic::Ordering::Relaxed;

use super::least::Least;
use super::{Turn, View, worse_by_failures};
use crate::pool::Member;
use crate::pool::state::Load;

/// In nanoseconds: after so long an observation counts half (10 s is a common time constant).
const HALF_LIFE: u64 = 7_000_000_000;

/// What a busy backend is taken for, in nanoseconds, until its first answer.
const UNKNOWN: u64 = 1_000_000_000;

/// An hour: no estimate is above it, which also keeps costs far from overflow.
const SLOWEST: u64 = 3_600_000_000_000;

#[derive(Debug)]
pub(super) struct PeakEwma {
    least: Least,
}

impl PeakEwma {
    pub fn new(members: &[Member]) -> PeakEwma {
        PeakEwma { least: Least::new(members) }
    }

    pub fn turn(&self) -> Turn {
        self.least.turn()
    }

    pub fn choose(&self, view: &View<'_>, turn: &Turn) -> Option<usize> {
        let now = view.ask.now_nanos;
        self.least.choose(view, turn, |member| {
            let cost = match cost(&member.state.load.0, now) {
                // It is not new: it has failed from the first.
                0 if member.state.failing() > 0 => u128::from(UNKNOWN),
                cost => cost,
            };
            worse_by_failures(&member.state, cost, now)
        })
    }
}

fn cost(load: &Load, now: u64) -> u128 {
    let busy = load.in_flight.load(Relaxed);
    let estimate = match load.latency_nanos.load(Relaxed) {
        0 if busy == 0 => return 0,
        0 => UNKNOWN,
        known => decayed(known, now.saturating_sub(load.latency_at_nanos.load(Relaxed))).max(1),
    };
    u128::from(estimate) * (u128::from(busy) + 1)
}

/// Two workers that observe at the same moment may overwrite one another, or pair one's estimate
/// with the other's time: an observation among thousands is lost, which is cheaper than a lock.
pub(super) fn observe(load: &Load, took: u64, now: u64) {
    let took = took.clamp(1, SLOWEST);
    let age = now.saturating_sub(load.latency_at_nanos.load(Relaxed));
    let estimate = match load.latency_nanos.load(Relaxed) {
        0 => took,
        // The peak: believed at once.
        known if took >= decayed(known, age) => took,
        known => took + decayed(known.saturating_sub(took), age),
    };
    load.latency_nanos.store(estimate, Relaxed);
    load.latency_at_nanos.store(now, Relaxed);
}

/// Halved for each half-life of `age`, and along a straight line within one.
fn decayed(value: u64, age: u64) -> u64 {
    let halved = value.checked_shr((age / HALF_LIFE).min(64) as u32).unwrap_or(0);
    // Under 2^42 (SLOWEST) times under 2^33 (HALF_LIFE): needs more than 64 bits.
    let within = u128::from(halved) * u128::from(age % HALF_LIFE) / u128::from(2 * HALF_LIFE);
    halved - within as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_halves_in_a_half_life_and_never_rises() {
        assert_eq!(decayed(1000, 0), 1000);
        assert_eq!(decayed(1000, HALF_LIFE / 2), 750);
        assert_eq!(decayed(1000, HALF_LIFE), 500);
        assert_eq!(decayed(1000, 3 * HALF_LIFE), 125);
        assert_eq!(decayed(u64::MAX, u64::MAX), 0);
        let mut last = u64::MAX;
        for step in 0..1000 {
            let now = decayed(SLOWEST, step * HALF_LIFE / 37);
            assert!(now <= last, "step {step}: {now} > {last}");
            last = now;
        }
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let load = Load::default();
        observe(&load, 1_000_000, 0);
        assert_eq!(load.latency_nanos.load(Relaxed), 1_000_000);
        observe(&load, 80_000_000, 1000);
        assert_eq!(load.latency_nanos.load(Relaxed), 80_000_000);
        observe(&load, 1_000_000, 1000);
        assert_eq!(load.latency_nanos.load(Relaxed), 80_000_000, "no time has passed");
        observe(&load, 1_000_000, 1000 + HALF_LIFE);
        assert_eq!(load.latency_nanos.load(Relaxed), 40_500_000);
        observe(&load, 0, 1000 + 200 * HALF_LIFE);
        assert_eq!(load.latency_nanos.load(Relaxed), 1, "0 stays the word for unknown");
    }

    #[test]
    fn the_unknown_is_asked_first_and_then_waited_for() {
        let known = Load::default();
        observe(&known, 5_000_000, 0);
        let unknown = Load::default();
        assert!(cost(&unknown, 0) < cost(&known, 0));
        unknown.in_flight.store(1, Relaxed);
        assert!(cost(&unknown, 0) > cost(&known, 0));
    }

    #[test]
    fn a_slow_one_that_nobody_asks_becomes_attractive_again() {
        let (slow, quick) = (Load::default(), Load::default());
        observe(&slow, 500_000_000, 0);
        let later = 10 * HALF_LIFE;
        observe(&quick, 5_000_000, later);
        assert!(cost(&slow, 0) > cost(&quick, later));
        assert!(cost(&slow, later) < cost(&quick, later));
    }
}
