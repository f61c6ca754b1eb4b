//! When to probe next. Pure: randomness comes in as a roll from 0 to 1.
//!
//! An interval counts from the end of a probe to the start of the next, so that probes of a slow
//! backend never overlap. Jitter keeps load balancers from falling in step; the first round is spread,
//! so that the probes of one pool do not come in bursts for ever.

use std::time::Duration;

use crate::config::defaults::JITTER;
use crate::config::model::HealthCheck;

#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval: Duration,
    interval_unsettled: Duration,
}

impl From<&HealthCheck> for Schedule {
    fn from(check: &HealthCheck) -> Schedule {
        Schedule { interval: check.interval, interval_unsettled: check.interval_unsettled }
    }
}

impl Schedule {
    /// From the end of a probe to the start of the next.
    pub fn pause(&self, unsettled: bool, roll: f64) -> Duration {
        let interval = if unsettled { self.interval_unsettled } else { self.interval };
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * roll)
    }

    /// The same once, for number `place` of `of` backends that begin together: each has its own
    /// stretch of the interval, and is anywhere in it.
    pub fn spread(&self, place: usize, of: usize, roll: f64) -> Duration {
        let share = (place as f64 + roll) / of.max(place + 1) as f64;
        self.interval.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::seed;

    const USUAL: Schedule = Schedule {
        interval: Duration::from_secs(2),
        interval_unsettled: Duration::from_millis(500),
    };

    #[test]
    fn pauses_stay_within_the_jitter_and_use_all_of_it() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for (unsettled, interval) in [(false, USUAL.interval), (true, USUAL.interval_unsettled)] {
            let pauses: Vec<f64> = (0..1000)
                .map(|_| USUAL.pause(unsettled, rng.f64()).as_secs_f64() / interval.as_secs_f64())
                .collect();
            let least = pauses.iter().copied().fold(f64::INFINITY, f64::min);
            let most = pauses.iter().copied().fold(0.0, f64::max);
            assert!((0.9..0.91).contains(&least), "seed {seed}: {least}");
            assert!((1.09..=1.1).contains(&most), "seed {seed}: {most}");
        }
    }

    #[test]
    fn a_first_round_is_spread_over_the_interval() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for backends in [1_usize, 2, 7, 100] {
            let slot = USUAL.interval / backends as u32;
            for place in 0..backends {
                let pause = USUAL.spread(place, backends, rng.f64());
                let from = slot * place as u32;
                let slack = Duration::from_micros(1);
                assert!(
                    pause + slack >= from && pause <= from + slot + slack,
                    "seed {seed}: number {place} of {backends} after {pause:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_longer_than_the_interval_with_its_jitter() {
        assert_eq!(USUAL.spread(0, 0, 0.0), Duration::ZERO);
        assert!(USUAL.spread(9, 3, 1.0) <= USUAL.interval);
        assert_eq!(USUAL.pause(false, 1.0), Duration::from_millis(2200));
    }
}
