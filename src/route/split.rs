//! A weighted choice between pools. The randomness is the caller's: one draw a request.

use super::PoolId;

/// Pools with their weights, as running totals.
#[derive(Debug)]
pub struct Split {
    /// Ascending; pools of weight 0 are left out.
    totals: Box<[(u64, PoolId)]>,
}

impl Split {
    /// `None` if no weight is above 0.
    pub fn new(weights: impl IntoIterator<Item = (PoolId, u32)>) -> Option<Split> {
        let mut total = 0;
        let totals: Box<[_]> = weights
            .into_iter()
            .filter(|&(_, weight)| weight > 0)
            .map(|(pool, weight)| {
                total += u64::from(weight);
                (total, pool)
            })
            .collect();
        (!totals.is_empty()).then_some(Split { totals })
    }

    /// The pool that `draw`, 64 random bits, falls on. Its share is exact to within 2^-64 times the
    /// sum of the weights: multiplied and shifted, not taken modulo.
    pub fn choose(&self, draw: u64) -> PoolId {
        // `new` never makes an empty split.
        let last = self.totals[self.totals.len() - 1];
        let point = (u128::from(draw) * u128::from(last.0)) >> 64;
        let slot = self.totals.partition_point(|&(upto, _)| u128::from(upto) <= point);
        self.totals.get(slot).unwrap_or(&last).1
    }
}
