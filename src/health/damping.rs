//! Flap damping: a backend that changes its state over and over stays out until it has been quiet, each
//! time in a row for longer.
//!
//! After RFC 2439: each change adds to a penalty that halves in a fixed time. Above one bound the
//! backend is held back, below another it may return. Pure: changes and `now` come in; that a last
//! serving backend is never held back is `outlier`'s to see to.

use std::time::Duration;

/// What one change adds: going out and coming back are one flap.
const CHANGE: f64 = 0.5;

/// Above so many flaps it is held back: at the fourth in a short time.
const HOLD_ABOVE: f64 = 3.0;

/// Below so many it may return, the first time; each further time in a row, half of that.
const BACK_BELOW: f64 = 1.5;

/// The most that is held against it.
const MOST: f64 = 12.0;

/// How many times in a row are told apart.
const ROW: u32 = 16;

/// How fast it forgets.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// In so long the penalty halves.
    pub half_life: Duration,
    /// So long after its last change a backend may return at the latest.
    pub longest: Duration,
}

/// The penalty of one backend.
#[derive(Clone, Debug)]
pub struct Damper {
    penalty: f64,
    /// When it was that.
    at: Duration,
    /// When the last change was.
    changed: Duration,
    held: bool,
    /// Times in a row that it was held back.
    row: u32,
}

impl Damper {
    pub fn new(now: Duration) -> Damper {
        Damper { penalty: 0.0, at: now, changed: now, held: false, row: 0 }
    }

    /// So many changes since the last call, either way; true if it is to be held back.
    pub fn observe(&mut self, changes: u64, now: Duration, pace: Pace) -> bool {
        self.penalty *= 0.5_f64.powf(ratio(now.saturating_sub(self.at), pace.half_life));
        self.at = now;
        if changes > 0 {
            self.penalty = (self.penalty + CHANGE * changes as f64).min(MOST);
            self.changed = now;
        }
        if !self.held && changes > 0 && self.penalty > HOLD_ABOVE {
            self.held = true;
            self.row = (self.row + 1).min(ROW);
        } else if self.held && self.back_at(pace) <= now {
            self.held = false;
        } else if !self.held && now.saturating_sub(self.changed) > pace.longest {
            self.row = 0;
        }
        self.held
    }

    /// When it may return, if it stays quiet. Says nothing of one that is not held back.
    pub fn back_at(&self, pace: Pace) -> Duration {
        let halvings = (self.penalty / self.bound()).log2().max(0.0);
        (self.at + pace.half_life.mul_f64(halvings)).min(self.changed + pace.longest)
    }

    /// Flaps that are held against it.
    pub fn penalty(&self) -> f64 {
        self.penalty
    }

    fn bound(&self) -> f64 {
        BACK_BELOW * 0.5_f64.powi(self.row.saturating_sub(1) as i32)
    }
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::seed;

    const SECOND: Duration = Duration::from_secs(1);
    const PACE: Pace =
        Pace { half_life: Duration::from_secs(60), longest: Duration::from_secs(300) };

    /// Feeds changes until it is held back; the time of that.
    fn flap(damper: &mut Damper, mut now: Duration, every: Duration) -> Duration {
        for _ in 0..100 {
            if damper.observe(1, now, PACE) {
                return now;
            }
            now += every;
        }
        panic!("never held back: {damper:?}");
    }

    #[test]
    fn a_few_changes_are_nothing_and_many_hold_it_back() {
        let mut damper = Damper::new(Duration::ZERO);
        for second in 0..6 {
            assert!(!damper.observe(1, second * SECOND, PACE), "three flaps: {damper:?}");
        }
        let mut slow = Damper::new(Duration::ZERO);
        for minute in 0..1000 {
            assert!(!slow.observe(1, minute * 60 * SECOND, PACE), "a change a minute: {slow:?}");
        }
        assert!(flap(&mut Damper::new(Duration::ZERO), Duration::ZERO, SECOND) < 10 * SECOND);
    }

    #[test]
    fn each_time_in_a_row_it_stays_out_for_longer_up_to_the_longest() {
        let mut damper = Damper::new(Duration::ZERO);
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        for round in 0..8 {
            let held = flap(&mut damper, now, SECOND);
            now = damper.back_at(PACE);
            let out = now - held;
            assert!(out <= PACE.longest, "round {round}: {out:?}");
            assert!(out > last || out == PACE.longest, "round {round}: {out:?} after {last:?}");
            if round == 0 {
                assert!((50..120).contains(&out.as_secs()), "{out:?}");
            }
            last = out;
            assert!(damper.observe(0, now - SECOND / 10, PACE), "round {round}: too early");
            assert!(!damper.observe(0, now + SECOND / 10, PACE), "round {round}: it is time");
        }
        assert_eq!(last, PACE.longest);
        // Quiet for long, and it begins anew.
        now += PACE.longest + SECOND;
        damper.observe(0, now, PACE);
        let held = flap(&mut damper, now, SECOND);
        assert!(damper.back_at(PACE) - held < 120 * SECOND);
    }

    #[test]
    fn whatever_the_changes_it_returns_when_it_is_quiet_and_never_early() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for case in 0..2000 {
            let pace = Pace {
                half_life: Duration::from_millis(rng.u64(100..100_000)),
                longest: Duration::from_millis(rng.u64(100..500_000)),
            };
            let mut damper = Damper::new(Duration::ZERO);
            let (mut now, mut changed) = (Duration::ZERO, Duration::ZERO);
            let often = rng.f64();
            for step in 0..100 {
                now += pace.half_life.mul_f64(rng.f64() * 0.3);
                let changes = if rng.f64() < often { rng.u64(1..3) } else { 0 };
                let before = damper.held;
                let held = damper.observe(changes, now, pace);
                changed = if changes > 0 { now } else { changed };
                let told = || format!("seed {seed}, case {case}, step {step}: {damper:?}");
                assert!(damper.penalty <= MOST, "{}", told());
                if held {
                    assert!(damper.back_at(pace) <= changed + pace.longest, "{}", told());
                    assert!(damper.back_at(pace) > now, "{}", told());
                } else if before {
                    assert!(
                        damper.penalty <= BACK_BELOW + 1e-9 || now >= changed + pace.longest,
                        "{}",
                        told()
                    );
                }
            }
            assert!(!damper.observe(0, changed + pace.longest, pace), "seed {seed}, case {case}");
        }
    }
}
