//! A bounded table of what keys owe: the generic cell rate algorithm for many keys in fixed memory.
//!
//! The algorithm is that of ITU-T I.371, annex A, as virtual scheduling: one time a key, until which its
//! requests so far are paid for. Keys come in as hashes that nobody outside can foresee, `now` comes in as
//! well; how many are admitted of a key is never more than its burst and what its rate brings. That holds
//! whatever is forgotten: where room must be made, whoever owes least goes, and who is not known begins
//! with what was owed by those that were forgotten in its place. So no flood of other keys forgives a debt.

use std::sync::{Mutex, PoisonError};

/// Keys that a bucket holds.
const WAYS: usize = 7;

/// Each with a lock of its own.
const SHARDS: usize = 16;

/// Buckets of a shard; a power of two.
const BUCKETS: usize = 1024;

/// Keys that may owe something at once. Up to half as many none is ever forgotten.
pub const KEYS: usize = SHARDS * BUCKETS * WAYS;

/// Two cache lines: keys with the time until which they have paid, and as the last pair the latest time
/// of any that was forgotten here. All zero is empty, so that pages nobody needs are never touched.
type Bucket = [[u64; 2]; WAYS + 1];

const KEY: usize = 0;
const UNTIL: usize = 1;

/// What a request costs, and how far a key may be in debt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Nanoseconds of debt that a request makes; at least 1.
    pub step: u64,
    /// The most that a key may owe; at least one step.
    pub most: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admitted,
    /// And to make room a key was forgotten that owed something.
    AdmittedForgetting,
    /// The next one is admitted after so many nanoseconds.
    Refused(u64),
}

#[derive(Debug)]
pub struct Debts {
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    /// The latest `now`: threads may come here in another order than they looked at the clock.
    now: u64,
    buckets: Box<[Bucket]>,
}

impl Debts {
    /// 2 MiB, of which the system gives only what is written to.
    pub fn new() -> Debts {
        let shard = || Shard { now: 0, buckets: vec![Bucket::default(); BUCKETS].into() };
        Debts { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect() }
    }

    /// One request of the key with this hash. `now` is in nanoseconds since any fixed moment.
    pub fn admit(&self, key: u64, now: u64, terms: Terms) -> Verdict {
        let shard = &self.shards[(key >> 60) as usize % SHARDS];
        // Whoever panicked while holding it left whole numbers.
        shard.lock().unwrap_or_else(PoisonError::into_inner).admit(key, now, terms)
    }
}

impl Default for Debts {
    fn default() -> Debts {
        Debts::new()
    }
}

impl Shard {
    fn admit(&mut self, key: u64, now: u64, terms: Terms) -> Verdict {
        self.now = self.now.max(now);
        let now = self.now;
        let places = places(key);
        let slots = || places.into_iter().flat_map(|place| (0..WAYS).map(move |way| (place, way)));
        let known = slots().find(|&(place, way)| {
            let slot = &self.buckets[place][way];
            slot[KEY] == key && slot[UNTIL] > now
        });
        let owed = match known {
            Some((place, way)) => self.buckets[place][way][UNTIL],
            None => {
                places.iter().fold(0, |latest, &place| latest.max(self.buckets[place][WAYS][UNTIL]))
            }
        };
        let until = owed.max(now).saturating_add(terms.step);
        let debt = until - now;
        if debt > terms.most {
            return Verdict::Refused(debt - terms.most);
        }
        if let Some((place, way)) = known {
            self.buckets[place][way][UNTIL] = until;
            return Verdict::Admitted;
        }
        // Into the emptier of its two buckets: so they fill evenly.
        let owing = |place: usize| {
            self.buckets[place][..WAYS].iter().filter(|slot| slot[UNTIL] > now).count()
        };
        let place = if owing(places[1]) < owing(places[0]) { places[1] } else { places[0] };
        let bucket = &mut self.buckets[place];
        if let Some(free) = bucket[..WAYS].iter_mut().find(|slot| slot[UNTIL] <= now) {
            *free = [key, until];
            return Verdict::Admitted;
        }
        self.forget_least(slots(), [key, until]);
        Verdict::AdmittedForgetting
    }

    /// Of the keys in these slots and the new one the one that owes least is forgotten.
    fn forget_least(&mut self, slots: impl Iterator<Item = (usize, usize)>, new: [u64; 2]) {
        let until = |&(place, way): &(usize, usize)| self.buckets[place][way][UNTIL];
        // A key has two buckets, and so fourteen slots.
        let Some((place, way)) = slots.min_by_key(until) else { return };
        let least = &mut self.buckets[place][way];
        let gone = if least[UNTIL] < new[UNTIL] { std::mem::replace(least, new) } else { new };
        let forgotten = &mut self.buckets[place][WAYS][UNTIL];
        *forgotten = gone[UNTIL].max(*forgotten);
    }
}

/// A key's two buckets.
fn places(key: u64) -> [usize; 2] {
    let first = key as usize % BUCKETS;
    let second = (key >> 20) as usize % BUCKETS;
    [first, if first == second { second ^ 1 } else { second }]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn seed() -> u64 {
        let seed = std::env::var("EVENKEEL_SEED").ok().and_then(|s| s.parse().ok());
        seed.unwrap_or_else(|| fastrand::u64(..))
    }

    fn terms(rate: u64, burst: u64) -> Terms {
        Terms { step: SECOND / rate, most: burst * (SECOND / rate) }
    }

    #[test]
    fn a_burst_goes_through_and_then_what_the_rate_brings() {
        let debts = Debts::new();
        let terms = terms(10, 3);
        for n in 0..3 {
            assert_eq!(debts.admit(7, 5, terms), Verdict::Admitted, "{n}");
        }
        assert_eq!(debts.admit(7, 5, terms), Verdict::Refused(SECOND / 10));
        assert_eq!(debts.admit(8, 5, terms), Verdict::Admitted, "another key");
        let soon = 5 + SECOND / 10;
        assert_eq!(debts.admit(7, soon - 1, terms), Verdict::Refused(1));
        assert_eq!(debts.admit(7, soon, terms), Verdict::Admitted);
        assert_eq!(debts.admit(7, soon, terms), Verdict::Refused(SECOND / 10));
        // A clock that another thread read earlier changes nothing.
        assert_eq!(debts.admit(7, 5, terms), Verdict::Refused(SECOND / 10));
        for n in 0..3 {
            assert_eq!(debts.admit(7, 10 * SECOND, terms), Verdict::Admitted, "{n}");
        }
        assert!(matches!(debts.admit(7, 10 * SECOND, terms), Verdict::Refused(_)));
    }

    /// Random keys, some of them far too fast, in a shard that is much too small for them: whatever is
    /// forgotten, between any two moments no key gets more than its burst and what its rate brings.
    #[test]
    fn no_key_ever_gets_more_than_its_burst_and_its_rate() {
        let first = seed();
        for seed in first..first.wrapping_add(300) {
            let mut rng = fastrand::Rng::with_seed(seed);
            // Few buckets, so that all of it happens in them.
            let mut shard = Shard { now: 0, buckets: vec![Bucket::default(); BUCKETS].into() };
            let terms = terms(rng.u64(1..200), rng.u64(1..20));
            let places = rng.usize(2..6);
            let keys: Vec<u64> = (0..rng.u64(5..80))
                .map(|n| {
                    let (a, b) = (rng.usize(..places) as u64, rng.usize(..places) as u64);
                    a | (b << 20) | (n << 40)
                })
                .collect();
            let mut now = 0;
            let mut admitted: HashMap<u64, Vec<u64>> = HashMap::new();
            for _ in 0..2_000 {
                if rng.u8(..4) == 0 {
                    now += rng.u64(..terms.step * 3);
                }
                // A few hot ones, and the flood.
                let of = if rng.bool() { 3.min(keys.len()) } else { keys.len() };
                let key = keys[rng.usize(..of)];
                if !matches!(shard.admit(key, now, terms), Verdict::Refused(_)) {
                    admitted.entry(key).or_default().push(now);
                }
            }
            for (key, times) in &admitted {
                for (from, start) in times.iter().enumerate() {
                    for (count, end) in (1..).zip(&times[from..]) {
                        let most = (terms.most + end - start) / terms.step;
                        let what = "EVENKEEL_SEED";
                        assert!(count <= most, "{what}={seed}: {key} got {count}, not {most}");
                    }
                }
            }
        }
    }

    /// As many keys as half the table has room for, each at its rate or under it.
    #[test]
    fn a_key_under_its_rate_is_never_refused_while_there_is_room() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        let debts = Debts::new();
        let terms = terms(1, 2);
        let keys: Vec<u64> = (0..KEYS / 2).map(|_| rng.u64(..)).collect();
        for second in 0..4 {
            for key in &keys {
                let now = second * SECOND + rng.u64(..SECOND);
                let verdict = debts.admit(*key, now, terms);
                assert_eq!(verdict, Verdict::Admitted, "EVENKEEL_SEED={seed}: {key} in {second}");
            }
        }
    }

    #[test]
    fn a_flood_of_a_million_keys_neither_grows_the_table_nor_forgives_a_debt() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        let debts = Debts::new();
        let terms = terms(1, 5);
        let hot = rng.u64(..);
        for _ in 0..5 {
            assert_eq!(debts.admit(hot, 0, terms), Verdict::Admitted);
        }
        let mut forgotten = 0;
        for _ in 0..1_000_000 {
            if debts.admit(rng.u64(..), 0, terms) == Verdict::AdmittedForgetting {
                forgotten += 1;
            }
        }
        assert!(forgotten > 0, "EVENKEEL_SEED={seed}: a million keys had room");
        assert!(matches!(debts.admit(hot, 0, terms), Verdict::Refused(_)), "EVENKEEL_SEED={seed}");
        assert_eq!(debts.admit(hot, SECOND, terms), Verdict::Admitted, "its own second");
        assert!(matches!(debts.admit(hot, SECOND, terms), Verdict::Refused(_)));
        let bytes: usize =
            debts.shards.iter().map(|s| size_of_val(&*s.lock().unwrap().buckets)).sum();
        assert_eq!(bytes, 2 << 20);
    }
}
