//! Holds back repeated log lines: so many of a kind in a second, then a count of the rest.
//!
//! Pure: `now` comes in, as the time since any fixed moment. One for each worker; it says nothing
//! itself, the caller logs.

use std::time::Duration;

/// At most `per_second` lines of each kind in a second.
#[derive(Debug)]
pub struct Limiter {
    per_second: u32,
    kinds: Box<[Kind]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    /// The second that `said` counts in.
    second: u64,
    said: u32,
    /// Held back and not reported yet.
    held: u64,
}

impl Limiter {
    /// For kinds 0 to `kinds` - 1, as `outcome::Cause::index` gives them.
    pub fn new(kinds: usize, per_second: u32) -> Limiter {
        Limiter { per_second, kinds: vec![Kind::default(); kinds].into() }
    }

    /// `Some` if a line of this kind may be logged now, with how many of its kind were held back
    /// since the last one; `None` if it is to be held back (and was counted). A kind that was not
    /// announced to [`Limiter::new`] is always held back.
    pub fn admit(&mut self, kind: usize, now: Duration) -> Option<u64> {
        let kind = self.kinds.get_mut(kind)?;
        if kind.second != now.as_secs() {
            kind.second = now.as_secs();
            kind.said = 0;
        }
        if kind.said < self.per_second {
            kind.said += 1;
            Some(std::mem::take(&mut kind.held))
        } else {
            kind.held += 1;
            None
        }
    }

    /// The kinds whose burst is over, each with what was held back and never said: call it about
    /// once a second, so that the last lines of a burst are at least counted in the log.
    pub fn leftovers(&mut self, now: Duration) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.kinds.iter_mut().enumerate().filter_map(move |(index, kind)| {
            let over = kind.held > 0 && kind.second != now.as_secs();
            over.then(|| (index, std::mem::take(&mut kind.held)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn so_many_a_second_of_each_kind_and_a_count_of_the_rest() {
        let mut limiter = Limiter::new(2, 2);
        let steps = [
            // (kind, at, what comes back)
            (0, 0, Some(0)),
            (0, 10, Some(0)),
            (0, 20, None),
            (1, 30, Some(0)),
            (0, 999, None),
            (0, 1000, Some(2)),
            (0, 1001, Some(0)),
            (0, 1002, None),
            (0, 5000, Some(1)),
            (9, 5000, None),
        ];
        for (kind, millis, expected) in steps {
            assert_eq!(limiter.admit(kind, at(millis)), expected, "kind {kind} at {millis} ms");
        }
    }

    #[test]
    fn the_end_of_a_burst_is_reported_once_and_not_while_it_lasts() {
        let mut limiter = Limiter::new(3, 1);
        for _ in 0..5 {
            limiter.admit(2, at(500));
        }
        assert_eq!(limiter.leftovers(at(900)).count(), 0);
        assert_eq!(limiter.leftovers(at(1100)).collect::<Vec<_>>(), [(2, 4)]);
        assert_eq!(limiter.leftovers(at(2100)).count(), 0);
        assert_eq!(limiter.admit(2, at(2200)), Some(0));
    }

    #[test]
    fn nothing_is_lost_and_nothing_said_too_often() {
        let seed = std::env::var("EVENKEEL_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("EVENKEEL_SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut limiter = Limiter::new(4, 3);
        let (mut now, mut came, mut told) = (0, 0, 0);
        let mut said = std::collections::HashMap::new();
        for _ in 0..20_000 {
            now += random.u64(0..200);
            let kind = random.usize(0..4);
            came += 1;
            if let Some(held) = limiter.admit(kind, at(now)) {
                told += 1 + held;
                let lines: &mut u32 = said.entry((kind, now / 1000)).or_default();
                *lines += 1;
                assert!(*lines <= 3, "seed {seed}: {lines} lines of {kind} in a second");
            }
            if random.u8(..) < 20 {
                told += limiter.leftovers(at(now)).map(|(_, held)| held).sum::<u64>();
            }
        }
        told += limiter.leftovers(at(now + 2000)).map(|(_, held)| held).sum::<u64>();
        assert_eq!(told, came, "seed {seed}");
    }
}
