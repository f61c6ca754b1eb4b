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

#[cfg(test)]
mod tests {
    use super::*;

    fn split(weights: &[u32]) -> Split {
        Split::new(weights.iter().enumerate().map(|(id, &weight)| (PoolId(id), weight))).unwrap()
    }

    #[test]
    fn the_whole_range_of_draws_is_shared_out() {
        let split = split(&[0, 1, 0, 3, 0]);
        let quarter = u64::MAX / 4 + 1;
        for (draw, pool) in
            [(0, 1), (quarter - 1, 1), (quarter, 3), (u64::MAX / 2, 3), (u64::MAX, 3)]
        {
            assert_eq!(split.choose(draw), PoolId(pool), "{draw}");
        }
    }

    #[test]
    fn shares_are_in_proportion_to_the_weights() {
        let weights = [95, 5, u32::MAX, 0];
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        let split = split(&weights);
        // Evenly spaced draws: the shares are exact but for the rounding at the borders.
        let draws = 100_000_u64;
        let mut counts = [0_u64; 4];
        for step in 0..draws {
            counts[split.choose(step * (u64::MAX / draws)).0] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let expected = f64::from(weight) / total * draws as f64;
            assert!((count as f64 - expected).abs() <= 2.0, "{count} for {expected}");
        }
    }

    #[test]
    fn without_weight_there_is_no_split() {
        assert!(Split::new([(PoolId(0), 0)]).is_none());
        assert!(Split::new([]).is_none());
    }
}
