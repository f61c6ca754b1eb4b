//! A tier: the backends of one rank in their pool, balanced among themselves; and how much of the load
//! a tier keeps that has lost backends.

use std::ops::Range;

use super::Member;
use super::balance::Balance;
use crate::config::model;

/// The members of one rank.
#[derive(Debug)]
pub struct Tier {
    /// As in the file; tiers need not be numbered without gaps.
    pub number: u8,
    /// Places in the pool's `members`.
    pub places: Range<usize>,
    pub(super) balance: Balance,
}

/// One for each number, in order; `members` are sorted by it. Of no members one that is empty.
pub(super) fn split(config: &model::Balance, members: &[Member]) -> Box<[Tier]> {
    let tier = |number, places: Range<usize>| {
        let balance = Balance::new(config, &members[places.clone()]);
        Tier { number, places, balance }
    };
    let mut tiers = Vec::new();
    let mut first = 0;
    for run in members.chunk_by(|a, b| a.tier == b.tier) {
        tiers.push(tier(run[0].tier, first..first + run.len()));
        first += run.len();
    }
    if tiers.is_empty() {
        tiers.push(tier(0, 0..0));
    }
    tiers.into()
}

/// How much of a tier serves, by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    pub serving: u64,
    pub whole: u64,
}

impl Tier {
    /// As things are now. Looks at every member.
    pub fn weights(&self, members: &[Member]) -> Weights {
        members[self.places.clone()].iter().fold(Weights::default(), |sum, member| {
            let weight = u64::from(member.weight);
            let serving = if member.state.serving() { weight } else { 0 };
            Weights { serving: sum.serving + serving, whole: sum.whole + weight }
        })
    }
}

impl Weights {
    /// The share (0 to 1) of the load offered to it that a tier keeps where `spill_below` is so many
    /// percent: all of it while it has at least so much of its weight, and in proportion below. No
    /// cliff: what it keeps falls continuously to nothing.
    pub fn kept(self, spill_below: u32) -> f64 {
        if self.whole == 0 || spill_below == 0 {
            return if self.serving > 0 { 1.0 } else { 0.0 };
        }
        let share = self.serving as f64 / self.whole as f64;
        (share * 100.0 / f64::from(spill_below)).min(1.0)
    }
}

/// The share of a pool's load that each tier gets, in order, `floor` the place of the first that is
/// asked. What nobody keeps goes back to the first that serves anything.
pub fn shares(tiers: &[Weights], floor: usize, spill_below: Option<u32>) -> Vec<f64> {
    let mut shares = vec![0.0; tiers.len()];
    let mut left = 1.0;
    let mut first = None;
    for place in (floor..tiers.len()).chain(0..floor.min(tiers.len())) {
        if tiers[place].serving == 0 {
            continue;
        }
        let kept = spill_below.map_or(1.0, |below| tiers[place].kept(below));
        shares[place] = left * kept;
        left -= shares[place];
        first.get_or_insert(place);
        if left <= 0.0 {
            break;
        }
    }
    if let Some(first) = first {
        shares[first] += left.max(0.0);
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(serving: u64, whole: u64) -> Weights {
        Weights { serving, whole }
    }

    #[test]
    fn what_a_tier_keeps_is_continuous_and_never_grows_with_a_loss() {
        let whole = 1000;
        let mut before = 1.0;
        for serving in (0..=whole).rev() {
            let kept = weights(serving, whole).kept(70);
            assert!(kept <= before && before - kept < 0.002, "{serving}: {before} to {kept}");
            before = kept;
        }
        assert_eq!(before, 0.0);
        assert_eq!(weights(700, 1000).kept(70), 1.0);
        assert_eq!(weights(350, 1000).kept(70), 0.5);
    }

    #[test]
    fn shares_are_all_of_the_load_and_follow_the_tiers() {
        let (half, full, dead) = (weights(35, 100), weights(10, 10), weights(0, 10));
        for (tiers, floor, below, expected) in [
            (vec![full, full], 0, None, vec![1.0, 0.0]),
            (vec![full, full], 1, None, vec![0.0, 1.0]),
            (vec![full, dead], 1, None, vec![1.0, 0.0]),
            (vec![half, full], 0, None, vec![1.0, 0.0]),
            (vec![half, full], 0, Some(70), vec![0.5, 0.5]),
            (vec![half, half], 0, Some(70), vec![0.75, 0.25]),
            (vec![half, dead], 0, Some(70), vec![1.0, 0.0]),
            (vec![half, half, full], 0, Some(70), vec![0.5, 0.25, 0.25]),
            (vec![dead, dead], 0, Some(70), vec![0.0, 0.0]),
            (vec![dead, half], 0, Some(70), vec![0.0, 1.0]),
        ] {
            assert_eq!(shares(&tiers, floor, below), expected, "{tiers:?} {floor} {below:?}");
        }
    }
}
