//! What passive judgement knows of one backend: its window, its ejections, its trial.
//!
//! Says what speaks against it and when it may return. Whether it may be spared is the pool's to say
//! (`outlier`).

use std::time::Duration;

use super::order::{Back, Order, Why};
use super::{Rules, Seen};
use crate::health::damping::{Damper, Pace};
use crate::health::window::Window;

/// So long a trial waits for a request that is safe to send twice; then any may be it.
const SAFE_ONLY: Duration = Duration::from_secs(1);

/// How much the length of an ejection varies, up and down, so that what went out together does not come
/// back together.
const JITTER: f64 = 0.1;

/// The penalty of a flapping backend halves in so many times `eject_for`: a minute, by default.
const HALF_LIFE: u32 = 6;

/// Ejections double no more often than this.
const DOUBLINGS: u32 = 20;

/// A tier's median counts as this at least: a difference of microseconds is no reason.
pub const LEAST_MEDIAN: Duration = Duration::from_millis(1);

/// One backend.
#[derive(Clone, Debug)]
pub struct Judged {
    pub id: u64,
    place: Place,
    window: Window<2>,
    damper: Damper,
    /// It is to be held back for its flapping.
    held: bool,
    /// It is the only one of its tier that takes requests: it is not held back.
    pub alone: bool,
    /// Changes of its state that were ours, for the damper.
    own_changes: u64,
    /// Changes by the health check that the damper has seen.
    seen_changes: u64,
    /// Ejections in a row.
    row: u32,
    /// Since when it has served without a break, or since when its row was last shortened.
    well_since: Duration,
    /// Failures in a row that it has paid for with an ejection.
    paid: u32,
    /// What the health check said last; `None` without one.
    passing: Option<bool>,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    In,
    Out {
        until: Duration,
        flapping: bool,
    },
    /// Its time is over: it waits for its trial.
    Half {
        since: Duration,
        armed: Armed,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Armed {
    No,
    Safe { since: Duration },
    Any,
}

impl Judged {
    pub fn new(seen: &Seen, now: Duration) -> Judged {
        Judged {
            id: seen.id,
            place: Place::In,
            window: Window::new([seen.good, seen.bad], now),
            damper: Damper::new(now),
            held: false,
            alone: false,
            own_changes: 0,
            seen_changes: seen.changes,
            row: 0,
            well_since: now,
            paid: seen.failing,
            passing: seen.passing,
        }
    }

    pub fn is_out(&self) -> bool {
        self.place != Place::In
    }

    /// Out for what traffic said.
    pub fn is_accused(&self) -> bool {
        self.is_out() && !matches!(self.place, Place::Out { flapping: true, .. })
    }

    /// When something is due that no other event brings.
    pub fn due(&self) -> Option<Duration> {
        match self.place {
            Place::Out { until, .. } => Some(until),
            Place::In | Place::Half { .. } => None,
        }
    }

    /// Answered well and failed, in the window.
    pub fn counted(&self) -> [u64; 2] {
        // An answer that broke off takes back one that was counted as good, perhaps before the window.
        self.window.counted().map(|count| (count as i64).max(0) as u64)
    }

    /// Takes in what is seen now.
    pub fn observe(&mut self, seen: &Seen, rules: &Rules<'_>, now: Duration) {
        self.window.observe([seen.good, seen.bad], now, rules.outlier.window);
        self.paid = self.paid.min(seen.failing);
        let changes = seen.changes.wrapping_sub(self.seen_changes);
        self.seen_changes = seen.changes;
        let changes = changes + std::mem::take(&mut self.own_changes);
        let held = self.damper.observe(changes, now, pace(rules));
        self.held = held && rules.outlier.flap_damping;
        if self.is_out() || !seen.otherwise {
            self.well_since = now;
        } else if self.row > 0 && now.saturating_sub(self.well_since) >= length(self.row, rules) {
            self.row -= 1;
            self.well_since = now;
        }
    }

    /// What speaks against it, if it is in and serves; `tier` is the median of its tier.
    pub fn accused(
        &self,
        seen: &Seen,
        rules: &Rules<'_>,
        tier: Option<Duration>,
        now: Duration,
    ) -> Option<Why> {
        let outlier = rules.outlier;
        if self.is_out() || !seen.takes {
            return None;
        }
        if self.held {
            return Some(Why::Flapping(self.damper.penalty()));
        }
        if !seen.otherwise {
            return None;
        }
        let row = seen.failing.saturating_sub(self.paid);
        let recent = now.saturating_sub(seen.failed_at) <= outlier.window;
        if recent && outlier.consecutive_failures.is_some_and(|most| row >= most) {
            return Some(Why::Consecutive(row));
        }
        let [good, failed] = self.counted();
        let of = good + failed;
        let enough = of >= u64::from(outlier.min_requests.max(1));
        if enough
            && outlier.failure_share.is_some_and(|share| failed * 100 >= u64::from(share) * of)
        {
            return Some(Why::Share { failed, of });
        }
        let (times, tier) = (outlier.latency_times?, tier?);
        let median = seen.median_of(outlier.min_requests)?;
        let slow = median > tier.max(LEAST_MEDIAN).mul_f64(times);
        slow.then_some(Why::Latency { median, tier })
    }

    /// Takes it out.
    pub fn eject(
        &mut self,
        seen: &Seen,
        why: Why,
        rules: &Rules<'_>,
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Order {
        let flapping = matches!(why, Why::Flapping(_));
        let until = if flapping {
            self.damper.back_at(pace(rules))
        } else {
            self.row += 1;
            now + length(self.row, rules).mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64())
        };
        if self.place == Place::In && seen.otherwise && !flapping {
            self.own_changes += 1;
        }
        self.place = Place::Out { until, flapping };
        Order::Eject { id: self.id, why, until }
    }

    /// What an ejected one is to do now, if anything.
    pub fn returning(
        &mut self,
        seen: &Seen,
        rules: &Rules<'_>,
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Option<Order> {
        let before = std::mem::replace(&mut self.passing, seen.passing);
        let recovered = before == Some(false) && seen.passing == Some(true);
        let (since, armed) = match self.place {
            Place::In => return None,
            Place::Out { flapping: true, .. } if self.held => {
                let until = self.damper.back_at(pace(rules));
                self.place = Place::Out { until, flapping: true };
                return None;
            }
            Place::Out { flapping: true, .. } => return Some(self.back(seen, Back::Quiet, now)),
            // What was on its way as it went out is no trial, and has no verdict.
            Place::Out { until, .. } if now < until && !recovered => return None,
            Place::Out { .. } => (now, Armed::No),
            Place::Half { since, armed } => (since, armed),
        };
        match seen.trial {
            Some(false) => return Some(self.eject(seen, Why::Trial, rules, now, rng)),
            Some(true) => return Some(self.returned(seen, Back::Trial, rules, now)),
            None => {}
        }
        if recovered {
            return Some(self.returned(seen, Back::Recovered, rules, now));
        }
        if rules.exclusive {
            // Two at once is what must not be: no trial; what is used now stays.
            return Some(self.returned(seen, Back::Untried, rules, now));
        }
        // While something else stands against it as well, nothing can be tried.
        let since = if seen.otherwise { since } else { now };
        self.place = Place::Half { since, armed };
        if !seen.otherwise || seen.on_trial {
            return None;
        }
        let waited = now.saturating_sub(since) >= rules.outlier.eject_for;
        if waited && seen.passing == Some(true) {
            return Some(self.returned(seen, Back::Probes, rules, now));
        }
        if waited && !seen.asked {
            return Some(self.returned(seen, Back::Untried, rules, now));
        }
        let (armed, any) = match armed {
            _ if !seen.asked => return None,
            Armed::No => (Armed::Safe { since: now }, false),
            Armed::Safe { since } if now.saturating_sub(since) >= SAFE_ONLY => (Armed::Any, true),
            Armed::Safe { .. } | Armed::Any => return None,
        };
        self.place = Place::Half { since, armed };
        Some(Order::Trial { id: self.id, any })
    }

    /// Back, unless it is to be held back for its flapping.
    fn returned(&mut self, seen: &Seen, why: Back, rules: &Rules<'_>, now: Duration) -> Order {
        if !self.held || self.alone {
            return self.back(seen, why, now);
        }
        let until = self.damper.back_at(pace(rules));
        self.place = Place::Out { until, flapping: true };
        Order::Eject { id: self.id, why: Why::Flapping(self.damper.penalty()), until }
    }

    /// It serves again, with a clean slate; what it did stays known.
    pub fn back(&mut self, seen: &Seen, why: Back, now: Duration) -> Order {
        let flapping = matches!(self.place, Place::Out { flapping: true, .. });
        if seen.otherwise && !flapping {
            self.own_changes += 1;
        }
        self.place = Place::In;
        self.window.restart(now);
        self.paid = seen.failing;
        self.well_since = now;
        Order::Back { id: self.id, why }
    }
}

/// How long ejection number `row` in a row is, before its jitter.
pub fn length(row: u32, rules: &Rules<'_>) -> Duration {
    let doubled = 1 << row.saturating_sub(1).min(DOUBLINGS);
    rules.outlier.eject_for.saturating_mul(doubled).min(rules.outlier.eject_for_max)
}

fn pace(rules: &Rules<'_>) -> Pace {
    let half_life = rules.outlier.eject_for.saturating_mul(HALF_LIFE);
    Pace { half_life, longest: rules.outlier.eject_for_max }
}
