//! The member of least cost: what `least_requests` and `peak_ewma` have in common.
//!
//! Up to [`FEW`] members all are compared; above that, the better of two drawn by weight, which is
//! nearly as good and costs the same for any number (Mitzenmacher, "The Power of Two Choices").
//! A cost is per unit of weight: costs are compared crosswise, without a division.

use super::weighted::{DRAWS, Weighted};
use super::{Turn, View};
use crate::pool::Member;

/// All of so many are compared.
pub(super) const FEW: usize = 8;

/// Chooses by a cost that each way defines for itself; 0 is "as good as can be", whatever the weight.
#[derive(Debug)]
pub(super) struct Least {
    weighted: Weighted,
}

impl Least {
    pub fn new(members: &[Member]) -> Least {
        Least { weighted: Weighted::new(members) }
    }

    pub fn turn(&self) -> Turn {
        let takers = self.weighted.takers().len();
        Turn::new(if takers <= FEW { takers } else { 0 })
    }

    pub fn choose(
        &self,
        view: &View<'_>,
        turn: &Turn,
        cost: impl Fn(&Member) -> u128,
    ) -> Option<usize> {
        if self.weighted.takers().len() <= FEW {
            return self.of_few(view, turn, cost);
        }
        let mut rng = fastrand::Rng::with_seed(view.ask.draw);
        self.of_two(view, &cost, &mut rng).or_else(|| self.of_all(view, cost, &mut rng))
    }

    /// Ties go by turns in proportion to weight (smooth weighted round robin among those that tie),
    /// so that a pool whose backends are all idle shares its work as configured.
    fn of_few(
        &self,
        view: &View<'_>,
        turn: &Turn,
        cost: impl Fn(&Member) -> u128,
    ) -> Option<usize> {
        let takers = self.weighted.takers();
        let mut least: Option<Cost> = None;
        let mut ties = 0_u32;
        for (at, &taker) in takers.iter().enumerate() {
            if !view.may_take(taker as usize) {
                continue;
            }
            let this = Cost::of(&view.members[taker as usize], &cost);
            if least.is_none_or(|least| this.less_than(least)) {
                (least, ties) = (Some(this), 1 << at);
            } else if least.is_some_and(|least| !least.less_than(this)) {
                ties |= 1 << at;
            }
        }
        let mut best: Option<(i64, usize)> = None;
        let mut total = 0;
        for at in (0..takers.len()).filter(|at| ties & (1 << at) != 0) {
            let weight = i64::from(view.members[takers[at] as usize].weight);
            let owed = turn.owed[at].get() + weight;
            turn.owed[at].set(owed);
            total += weight;
            if best.is_none_or(|(most, _)| owed > most) {
                best = Some((owed, at));
            }
        }
        let (owed, at) = best?;
        turn.owed[at].set(owed - total);
        Some(takers[at] as usize)
    }

    /// A tie goes to the first that was drawn, and so by weight. `None` if no draw hit.
    fn of_two(
        &self,
        view: &View<'_>,
        cost: impl Fn(&Member) -> u128,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let one = self.weighted.draw_one(view, rng)?;
        let two = (0..DRAWS).find_map(|_| {
            self.weighted.draw(rng).filter(|&taker| taker != one && view.may_take(taker))
        });
        let Some(two) = two else { return Some(one) };
        let costs = [one, two].map(|taker| Cost::of(&view.members[taker], &cost));
        Some(if costs[1].less_than(costs[0]) { two } else { one })
    }

    /// The exception: most of the pool is down. Ties by chance, in proportion to weight.
    fn of_all(
        &self,
        view: &View<'_>,
        cost: impl Fn(&Member) -> u128,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let mut least: Option<(Cost, usize)> = None;
        let mut total = 0;
        for taker in self.weighted.takers().iter().map(|&taker| taker as usize) {
            if !view.may_take(taker) {
                continue;
            }
            let this = Cost::of(&view.members[taker], &cost);
            let weight = u64::from(view.members[taker].weight);
            if least.is_none_or(|(least, _)| this.less_than(least)) {
                (least, total) = (Some((this, taker)), weight);
            } else if least.is_some_and(|(least, _)| !least.less_than(this)) {
                total += weight;
                if rng.u64(..total) < weight {
                    least = Some((this, taker));
                }
            }
        }
        least.map(|(_, taker)| taker)
    }
}

#[derive(Clone, Copy)]
struct Cost {
    cost: u128,
    weight: u128,
}

impl Cost {
    fn of(member: &Member, cost: impl Fn(&Member) -> u128) -> Cost {
        Cost { cost: cost(member), weight: u128::from(member.weight) }
    }

    /// Per unit of weight. No overflow: a cost is under 2^96, a weight under 2^32.
    fn less_than(self, other: Cost) -> bool {
        self.cost * other.weight < other.cost * self.weight
    }
}
