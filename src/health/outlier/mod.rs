//! Passive judgement: which backends of a pool real traffic speaks against, and until when.
//!
//! In comes what is seen of each backend (counts, failures in a row, what the health check says); out
//! come orders: out, on trial, back. `judged` knows one backend; here is what holds for the pool: never
//! the last that serves, standby tiers counted; at most a share of a tier, and always at least one; the
//! worst first. Where only ejected ones are left they are back at once.
//!
//! Pure: `now` and randomness come in. Writes no bit, no log, no metric; `task::outlier` does.
//!
//! In a `manual` pool no pick leaves its tier, so each tier is a pool of its own. In an `exclusive` one
//! nothing is tried: one whose time is over may be used again, and the present one stays.

mod judged;
mod order;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use judged::Judged;
pub use order::{Back, Order, Why};

use crate::config::model::Outlier;

/// What a pool is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    pub outlier: &'a Outlier,
    /// Only an operator changes the tier.
    pub manual: bool,
    /// At most one backend serves.
    pub exclusive: bool,
}

/// What is seen of one backend at a sweep. Times count from the begin of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub id: u64,
    pub tier: u8,
    /// Its weight is above 0.
    pub takes: bool,
    /// Nothing but an ejection stands against it.
    pub otherwise: bool,
    /// What its health check says; `None` without one.
    pub passing: Option<bool>,
    /// Changes of its state by the health check, so far.
    pub changes: u64,
    /// Requests and streams that went well, so far, and those that failed.
    pub good: u64,
    pub bad: u64,
    /// Failures in a row, and when the last was.
    pub failing: u32,
    pub failed_at: Duration,
    /// The median of its times to answer in the window, and of how many.
    pub median: Option<(Duration, u64)>,
    /// How its trial ended, if one did since the last sweep.
    pub trial: Option<bool>,
    /// A request is trying it now.
    pub on_trial: bool,
    /// Requests come to its tier that could try it.
    pub asked: bool,
}

impl Seen {
    fn median_of(&self, at_least: u32) -> Option<Duration> {
        self.median.filter(|&(_, of)| of >= u64::from(at_least.max(1))).map(|(median, _)| median)
    }
}

/// The judge of one pool.
#[derive(Debug, Default)]
pub struct Judge {
    /// In the order of the last sweep.
    judged: Vec<Judged>,
}

/// How many of a tier take requests, are out, and serve.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    takers: usize,
    out: usize,
    serving: usize,
}

impl Judge {
    /// Looks at all backends of the pool; ids that are not in `seen` are forgotten.
    pub fn sweep(
        &mut self,
        rules: &Rules<'_>,
        seen: &[Seen],
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Vec<Order> {
        self.align(seen, now);
        let takers = self.tally(seen, |seen| seen.tier);
        for (judged, seen) in self.judged.iter_mut().zip(seen) {
            judged.alone = takers.get(&seen.tier).is_none_or(|tier| tier.takers <= 1);
        }
        let mut orders = Vec::new();
        for (judged, seen) in self.judged.iter_mut().zip(seen) {
            judged.observe(seen, rules, now);
            orders.extend(judged.returning(seen, rules, now, rng));
        }
        let mut worlds = self.tally(seen, |seen| world(seen, rules));
        let mut tiers = self.tally(seen, |seen| seen.tier);
        for (place, why) in self.accused(seen, rules, now) {
            let one = &seen[place];
            // Both have whoever takes requests, and nobody else is accused.
            let Some(world) = worlds.get_mut(&world(one, rules)) else { continue };
            let Some(tier) = tiers.get_mut(&one.tier) else { continue };
            // What flaps is kept out to spare the others the changes: who is alone in its tier has no others.
            let alone = matches!(why, Why::Flapping(_)) && tier.serving <= 1;
            let last = one.otherwise && (world.serving <= 1 || alone);
            if last || tier.out >= most_out(tier.takers, rules) {
                continue;
            }
            tier.out += 1;
            world.serving -= usize::from(one.otherwise);
            tier.serving -= usize::from(one.otherwise);
            orders.push(self.judged[place].eject(one, why, rules, now, rng));
        }
        self.rescue(seen, rules, &worlds, now, &mut orders);
        orders
    }

    /// Ends every ejection, and forgets.
    pub fn off(&mut self) -> Vec<Order> {
        let out = self.judged.drain(..).filter(Judged::is_out);
        out.map(|judged| Order::Back { id: judged.id, why: Back::Off }).collect()
    }

    /// When the next sweep is wanted at the latest, beyond the usual ones.
    pub fn due(&self) -> Option<Duration> {
        self.judged.iter().filter_map(Judged::due).min()
    }

    /// What traffic says of each backend, in the order of the last sweep: mostly well, mostly not, or
    /// nothing.
    pub fn verdicts(&self) -> impl Iterator<Item = (u64, Option<bool>)> {
        self.judged.iter().map(|judged| {
            let [good, bad] = judged.counted();
            let said = judged.is_accused().then_some(false);
            let counted = (good != bad).then_some(good > bad);
            (judged.id, counted.or(said))
        })
    }

    /// Makes `judged` go with `seen`, one by one.
    fn align(&mut self, seen: &[Seen], now: Duration) {
        let same = self.judged.len() == seen.len()
            && self.judged.iter().zip(seen).all(|(judged, seen)| judged.id == seen.id);
        if same {
            return;
        }
        let mut known: BTreeMap<u64, Judged> =
            self.judged.drain(..).map(|judged| (judged.id, judged)).collect();
        self.judged = seen
            .iter()
            .map(|seen| known.remove(&seen.id).unwrap_or_else(|| Judged::new(seen, now)))
            .collect();
    }

    /// Those that something speaks against, the worst first.
    fn accused(&self, seen: &[Seen], rules: &Rules<'_>, now: Duration) -> Vec<(usize, Why)> {
        let medians = self.medians(seen, rules);
        let all = self.judged.iter().zip(seen).enumerate();
        let mut accused: Vec<(usize, Why)> = all
            .filter_map(|(place, (judged, seen))| {
                let tier = medians.get(&seen.tier).copied();
                Some((place, judged.accused(seen, rules, tier, now)?))
            })
            .collect();
        accused.sort_by(|(_, a), (_, b)| {
            a.index().cmp(&b.index()).then(badness(*b).total_cmp(&badness(*a)))
        });
        accused
    }

    /// The median of each tier's medians (of two the better one), where two or more say something.
    fn medians(&self, seen: &[Seen], rules: &Rules<'_>) -> BTreeMap<u8, Duration> {
        let mut all: BTreeMap<u8, Vec<Duration>> = BTreeMap::new();
        if rules.outlier.latency_times.is_none() {
            return BTreeMap::new();
        }
        for (judged, seen) in self.judged.iter().zip(seen) {
            if let Some(median) = seen.median_of(rules.outlier.min_requests)
                && !judged.is_out()
            {
                all.entry(seen.tier).or_default().push(median);
            }
        }
        all.retain(|_, medians| medians.len() > 1);
        let middle = |(tier, mut medians): (u8, Vec<Duration>)| {
            medians.sort();
            (tier, medians[(medians.len() - 1) / 2])
        };
        all.into_iter().map(middle).collect()
    }

    /// As things stand, by a number that `by` gives.
    fn tally(&self, seen: &[Seen], by: impl Fn(&Seen) -> u8) -> BTreeMap<u8, Tally> {
        let mut tallies: BTreeMap<u8, Tally> = BTreeMap::new();
        for (judged, seen) in self.judged.iter().zip(seen).filter(|(_, seen)| seen.takes) {
            let tally = tallies.entry(by(seen)).or_default();
            tally.takers += 1;
            tally.out += usize::from(judged.is_out());
            tally.serving += usize::from(seen.otherwise && !judged.is_out());
        }
        tallies
    }

    /// Where nothing serves, what is out is better than nothing.
    fn rescue(
        &mut self,
        seen: &[Seen],
        rules: &Rules<'_>,
        worlds: &BTreeMap<u8, Tally>,
        now: Duration,
        orders: &mut Vec<Order>,
    ) {
        for (judged, seen) in self.judged.iter_mut().zip(seen) {
            let alone = worlds.get(&world(seen, rules)).is_some_and(|w| w.serving == 0);
            if alone && judged.is_out() && seen.otherwise && seen.takes {
                orders.retain(|order| order.id() != judged.id);
                orders.push(judged.back(seen, Back::Alone, now));
            }
        }
    }
}

/// How many of a tier may be out at once.
fn most_out(takers: usize, rules: &Rules<'_>) -> usize {
    (takers * rules.outlier.eject_at_most as usize).div_ceil(100).max(1)
}

/// Among which backends the last that serves is looked for.
fn world(seen: &Seen, rules: &Rules<'_>) -> u8 {
    if rules.manual { seen.tier } else { 0 }
}

/// Among reasons of one kind.
fn badness(why: Why) -> f64 {
    match why {
        Why::Consecutive(row) => f64::from(row),
        Why::Share { failed, of } => failed as f64 / of as f64,
        Why::Latency { median, .. } => median.as_secs_f64(),
        Why::Flapping(flaps) => flaps,
        Why::Trial => 0.0,
    }
}
