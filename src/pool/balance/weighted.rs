//! Random draws in proportion to weight: an alias table (Walker, Vose), so a draw costs the same for
//! 10,000 members as for two. In whole numbers, so that no share is lost to rounding.
//!
//! Draws know nothing of who serves; a caller draws again, and after [`DRAWS`] looks at everybody.

use super::View;
use crate::pool::Member;

/// Draws in vain before a scan: with half of a pool down, one pick in 4,000,000,000 gets so far.
pub(super) const DRAWS: usize = 32;

/// The members that take traffic, and a table to draw from them by weight.
#[derive(Debug)]
pub(super) struct Weighted {
    /// Places of members with a weight above 0, in the order of the file.
    takers: Box<[u32]>,
    /// One slot a taker, each as wide as `total`; empty when all weights are equal.
    slots: Box<[Slot]>,
    /// The sum of the weights.
    total: u64,
}

#[derive(Debug)]
struct Slot {
    /// How much of the slot is the taker's own; the rest is `other`'s.
    own: u64,
    other: u32,
}

impl Weighted {
    pub fn new(members: &[Member]) -> Weighted {
        let takers: Box<[u32]> =
            (0..).zip(members).filter(|(_, m)| m.weight > 0).map(|(i, _)| i).collect();
        let weights: Vec<u64> =
            takers.iter().map(|&i| u64::from(members[i as usize].weight)).collect();
        let total = weights.iter().sum();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let slots = if equal { Box::default() } else { slots(&weights, total) };
        Weighted { takers, slots, total }
    }

    /// Places of the members with a weight above 0.
    pub fn takers(&self) -> &[u32] {
        &self.takers
    }

    /// One taker, by weight; `None` if there is none at all.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.takers.is_empty() {
            return None;
        }
        let slot = rng.usize(..self.takers.len());
        let taker = match self.slots.get(slot) {
            Some(Slot { own, other }) if rng.u64(..self.total) >= *own => *other as usize,
            _ => slot,
        };
        Some(self.takers[taker] as usize)
    }

    /// One that may be taken, by weight; `None` after [`DRAWS`] in vain.
    pub fn draw_one(&self, view: &View<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        (0..DRAWS).find_map(|_| self.draw(rng).filter(|&taker| view.may_take(taker)))
    }

    /// Looks at every taker and returns one that may be taken, by weight; `None` if there is none.
    pub fn scan(&self, view: &View<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        let mut chosen = None;
        let mut total = 0;
        for taker in self.takers.iter().map(|&i| i as usize).filter(|&i| view.may_take(i)) {
            let weight = u64::from(view.members[taker].weight);
            total += weight;
            // Each replaces the one before with its share of the total so far: in the end each has
            // been kept in proportion to its weight.
            if rng.u64(..total) < weight {
                chosen = Some(taker);
            }
        }
        chosen
    }
}

/// Vose's method: a slot is filled by one that needs less than a slot and one that needs more.
fn slots(weights: &[u64], total: u64) -> Box<[Slot]> {
    let count = weights.len() as u64;
    let mut slots: Box<[Slot]> =
        (0..).zip(weights).map(|(i, weight)| Slot { own: weight * count, other: i }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..slots.len()).partition(|&i| slots[i].own < total);
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        slots[less].other = more as u32;
        slots[more].own -= total - slots[less].own;
        if slots[more].own < total {
            large.pop();
            small.push(more);
        }
    }
    slots
}
