//! `random`: by weight, without a memory; the same cost for any number of members.

use super::View;
use super::weighted::Weighted;
use crate::pool::Member;

#[derive(Debug)]
pub(super) struct Random {
    weighted: Weighted,
}

impl Random {
    pub fn new(members: &[Member]) -> Random {
        Random { weighted: Weighted::new(members) }
    }

    pub fn choose(&self, view: &View<'_>) -> Option<usize> {
        let mut rng = fastrand::Rng::with_seed(view.ask.draw);
        self.weighted.draw_one(view, &mut rng).or_else(|| self.weighted.scan(view, &mut rng))
    }
}
