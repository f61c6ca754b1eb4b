//! When to order a certificate, renew it, and try again: pure, the clock and chance come in as arguments.
//!
//! Counts in the wall clock's time, since that is what certificates are valid in; the clock may jump.

use std::time::{Duration, SystemTime};

/// So soon after an order nothing makes another: whatever a server gives us, we do not order in a circle.
pub const BETWEEN_ORDERS: Duration = Duration::from_secs(3600);

/// Wait after a first failure at which the server did not say no: it costs nobody anything to ask again.
const UNREACHED: Duration = Duration::from_secs(5);
/// And after one that may count against a limit of the server's (Let's Encrypt: five an hour and name).
const REFUSED: Duration = Duration::from_secs(60);
/// The longest that doubling waits makes. A certificate of 90 days is tried again a hundred times.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// The longest that is waited because the server said so.
pub const LONGEST_TOLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// So long after a failure who reloads may have it tried again.
const NUDGED: Duration = Duration::from_secs(5);

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// Whether it was made to replace `other`: the one that begins later was, also if it ends sooner.
    pub fn replaces(&self, other: &Validity) -> bool {
        (self.not_before, self.not_after) > (other.not_before, other.not_after)
    }

    /// With a third of its life left, or up to a thirtieth sooner: names that began together do not
    /// all renew together, nor do two load balancers that share their state.
    fn renewal(&self, draw: f64) -> SystemTime {
        let lifetime = self.lifetime();
        let left = lifetime / 3 + (lifetime / 30).mul_f64(draw);
        self.not_after.checked_sub(left).unwrap_or(self.not_before)
    }
}

/// Why there is no certificate, as far as the next try goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server was not reached, or is not well.
    Unreached,
    /// It is not well, and said when to come again.
    Closed(Duration),
    /// The server said no.
    Refused,
    /// It said no, and when to come again.
    Told(Duration),
}

/// One certificate's plan.
#[derive(Debug)]
pub struct Machine {
    held: Option<Validity>,
    failures: u32,
    /// Of the last order that was made, or tried.
    last: Option<SystemTime>,
    /// For so long after it the server does not want to be asked, whoever asks for another try.
    told: Duration,
    due: SystemTime,
}

impl Machine {
    /// With what is held already. `draw` is from 0 to 1, here and below.
    pub fn new(held: Option<Validity>, now: SystemTime, draw: f64) -> Machine {
        let due = held.map_or(now, |held| held.renewal(draw));
        Machine { held, failures: 0, last: None, told: Duration::ZERO, due }
    }

    /// When the next order is to be made; it may be past.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    pub fn held(&self) -> Option<Validity> {
        self.held
    }

    /// Tries that failed since the last that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long from `now` until the next order; none: it is time.
    pub fn wait(&self, now: SystemTime) -> Duration {
        self.due.duration_since(now).unwrap_or_default()
    }

    /// To be told the time before it is asked for a wait: a clock that was set back keeps nothing
    /// waiting for longer than was planned, from now on.
    pub fn rebase(&mut self, now: SystemTime) {
        if let Some(last) = self.last.filter(|last| now < *last) {
            let planned = self.due.duration_since(last).unwrap_or_default();
            self.last = Some(now);
            self.due = now + planned;
        }
    }

    /// An order brought a certificate.
    pub fn got(&mut self, got: Validity, now: SystemTime, draw: f64) {
        self.held = Some(got);
        self.failures = 0;
        self.last = Some(now);
        // A short life asks for a shorter pause, of a sixth of it: it would be renewed at two thirds.
        let pause = BETWEEN_ORDERS.min(got.lifetime() / 6).max(NUDGED);
        self.due = got.renewal(draw).max(now + pause);
    }

    /// Another, who shares our state, brought one.
    pub fn found(&mut self, found: Validity, draw: f64) {
        self.held = Some(found);
        self.failures = 0;
        self.due = found.renewal(draw);
    }

    /// An order brought nothing: what is held is kept, and the next try waits twice as long as the
    /// last, more or less by a quarter.
    pub fn failed(&mut self, failure: Failure, now: SystemTime, draw: f64) {
        let doubled =
            |first: Duration| first.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        let told = match failure {
            Failure::Told(after) | Failure::Closed(after) => after.min(LONGEST_TOLD),
            Failure::Unreached | Failure::Refused => Duration::ZERO,
        };
        let wait = match failure {
            Failure::Unreached => doubled(UNREACHED).mul_f64(0.75 + draw / 2.0),
            Failure::Refused => doubled(REFUSED).mul_f64(0.75 + draw / 2.0),
            // Later, but never sooner than it says.
            Failure::Told(_) => doubled(REFUSED).max(told).mul_f64(1.0 + draw / 4.0),
            Failure::Closed(_) => doubled(UNREACHED).max(told).mul_f64(1.0 + draw / 4.0),
        };
        self.told = told;
        self.failures = self.failures.saturating_add(1);
        self.last = Some(now);
        self.due = now + wait;
    }

    /// Somebody who may have mended what failed asks for another try; it is none that the server
    /// said not to make.
    pub fn nudge(&mut self, now: SystemTime) {
        self.rebase(now);
        if let Some(last) = self.last.filter(|_| self.failures > 0) {
            self.due = self.due.min((last + NUDGED.max(self.told)).max(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn days(from: SystemTime, days: u32) -> Validity {
        Validity { not_before: from, not_after: from + DAY * days }
    }

    #[test]
    fn a_certificate_is_renewed_with_a_third_of_its_life_left_or_a_little_more() {
        let now = at(1_000_000_000);
        for (draw, after) in [(0.0, 60), (1.0, 57)] {
            let machine = Machine::new(Some(days(now, 90)), now, draw);
            assert_eq!(machine.due(), now + DAY * after);
        }
        assert_eq!(Machine::new(None, now, 0.5).wait(now), Duration::ZERO);
    }

    #[test]
    fn what_was_made_later_replaces_also_what_ends_later() {
        let now = at(1_000_000_000);
        let (long, short) = (days(now, 90), days(now + DAY, 47));
        assert!(short.replaces(&long) && !long.replaces(&short) && !long.replaces(&long));
        assert!(long.replaces(&days(now, 47)));
    }

    #[test]
    fn failures_are_tried_again_after_longer_and_longer() {
        let now = at(1_000_000_000);
        for (failure, waits) in [
            (Failure::Unreached, [5, 10, 20, 40]),
            (Failure::Refused, [60, 120, 240, 480]),
            (Failure::Told(Duration::from_secs(100)), [112, 135, 270, 540]),
            (Failure::Closed(Duration::from_secs(16)), [18, 18, 22, 45]),
        ] {
            let mut machine = Machine::new(None, now, 0.0);
            for seconds in waits {
                machine.failed(failure, now, 0.5);
                assert_eq!(machine.wait(now).as_secs(), seconds, "{failure:?}");
            }
            for _ in 0..40 {
                machine.failed(failure, now, 0.5);
            }
            assert!(machine.wait(now) <= LONGEST.mul_f64(1.25));
        }
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_nothing_waiting_for_longer() {
        let now = at(1_000_000_000);
        let mut machine = Machine::new(None, now, 0.0);
        machine.failed(Failure::Refused, now, 0.5);
        let mut now = now - DAY * 400;
        let back = now;
        for _ in 0..6 {
            machine.rebase(now);
            if machine.wait(now).is_zero() {
                break;
            }
            now += machine.wait(now).min(Duration::from_secs(25));
        }
        assert_eq!(now.duration_since(back).unwrap().as_secs(), 60);
        assert!(machine.wait(now).is_zero());
    }

    #[test]
    fn who_reloads_has_what_failed_tried_again_but_not_what_went_well() {
        let now = at(1_000_000_000);
        let mut machine = Machine::new(None, now, 0.0);
        machine.failed(Failure::Refused, now, 0.5);
        machine.nudge(now);
        assert_eq!(machine.wait(now), NUDGED);
        machine.nudge(now + Duration::from_secs(30));
        assert_eq!(machine.wait(now + Duration::from_secs(30)), Duration::ZERO);
        // What the server said still counts (RFC 8555 6.6).
        machine.failed(Failure::Told(Duration::from_secs(900)), now, 1.0);
        machine.nudge(now);
        assert_eq!(machine.wait(now).as_secs(), 900);
        machine.got(days(now, 90), now, 0.0);
        machine.nudge(now);
        assert_eq!(machine.due(), now + DAY * 60);
    }

    /// Years of a server that fails, gives short or already old certificates, and of a clock that
    /// jumps. Whatever comes, orders keep apart; and where the server mends, a certificate is renewed
    /// before it ends.
    #[test]
    fn orders_keep_apart_and_certificates_do_not_run_out() {
        let seed = match std::env::var("EVENKEEL_SEED") {
            Ok(text) => text.parse().expect("EVENKEEL_SEED is a number"),
            Err(_) => fastrand::u64(..),
        };
        let mut rng = fastrand::Rng::with_seed(seed);
        for round in 0..500 {
            let say = format!("EVENKEEL_SEED={seed}, round {round}");
            let mut now = at(1_000_000_000);
            let mut machine = Machine::new(None, now, rng.f64());
            let life =
                Duration::from_secs(*rng.choice(&[300, 86_400, 6 * 86_400, 90 * 86_400]).unwrap());
            // Of a hundred tries so many fail.
            let bad = *rng.choice(&[0, 20, 60]).unwrap();
            let mut recent = std::collections::VecDeque::new();
            for _ in 0..200 {
                let wait = machine.wait(now);
                assert!(wait <= LONGEST_TOLD.mul_f64(1.25).max(life), "{say}: waits {wait:?}");
                now += wait;
                recent.push_back(now);
                if recent.len() > 6 {
                    let first = recent.pop_front().unwrap();
                    let took = now.duration_since(first).unwrap();
                    assert!(took >= Duration::from_secs(30), "{say}: 6 orders within {took:?}");
                }
                let held = machine.held();
                if rng.u32(..100) < bad {
                    let failure = match rng.u32(..10) {
                        0 => Failure::Told(Duration::from_secs(rng.u64(..100_000))),
                        9 => Failure::Closed(Duration::from_secs(rng.u64(..100_000))),
                        1..=4 => Failure::Refused,
                        _ => Failure::Unreached,
                    };
                    machine.failed(failure, now, rng.f64());
                    assert_eq!(machine.held(), held, "{say}: a failure took the certificate");
                } else {
                    if let Some(held) = held.filter(|_| bad == 0) {
                        assert!(held.not_after > now, "{say}: it ran out");
                    }
                    // Some servers date back, some by nearly all of its life.
                    let back = if rng.u32(..10) == 0 && bad > 0 { 0.9 } else { 0.001 };
                    let not_before = now - life.mul_f64(back);
                    let got = Validity { not_before, not_after: not_before + life };
                    machine.got(got, now, rng.f64());
                    assert_eq!(machine.failures(), 0);
                }
            }
        }
    }
}
