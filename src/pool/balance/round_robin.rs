//! `round_robin`: nginx's smooth weighted round robin. At each turn every member is owed its weight
//! more; the one that is owed most is next and pays the sum of all weights.
//!
//! Members of one weight always follow each other in the order of the file, so only the first of
//! each weight is looked at: a turn costs as much as there are different weights (one, mostly).
//! A member that does not serve loses its turn, which keeps the others' shares in proportion.

use super::weighted::Weighted;
use super::{Turn, View};
use crate::pool::Member;

#[derive(Debug)]
pub(super) struct RoundRobin {
    /// Places of members, by weight, then in the order of the file.
    order: Box<[u32]>,
    classes: Box<[Class]>,
    total: i64,
    weighted: Weighted,
}

/// The members of one weight: a stretch of `order`.
#[derive(Debug)]
struct Class {
    weight: i64,
    first: u32,
    len: u32,
}

impl RoundRobin {
    pub fn new(members: &[Member]) -> RoundRobin {
        let weighted = Weighted::new(members);
        let mut order: Box<[u32]> = weighted.takers().into();
        let weight = |place: u32| members[place as usize].weight;
        order.sort_by_key(|&place| weight(place));
        let mut classes: Vec<Class> = Vec::new();
        for (at, &place) in (0..).zip(&order) {
            let weight = i64::from(weight(place));
            match classes.last_mut() {
                Some(class) if class.weight == weight => class.len += 1,
                _ => classes.push(Class { weight, first: at, len: 1 }),
            }
        }
        let total = classes.iter().map(|class| class.weight * i64::from(class.len)).sum();
        RoundRobin { order, classes: classes.into(), total, weighted }
    }

    pub fn turn(&self) -> Turn {
        Turn::new(self.classes.len())
    }

    pub fn choose(&self, view: &View<'_>, turn: &Turn) -> Option<usize> {
        // With equal weights every member has had its turn after as many turns as there are members.
        // Otherwise a light one may still wait behind heavy ones that are down: then look at all.
        let turns = if self.classes.len() == 1 { 1 } else { 2 } * self.order.len();
        (0..turns).find_map(|_| self.next(turn).filter(|&i| view.may_take(i))).or_else(|| {
            let mut rng = fastrand::Rng::with_seed(view.ask.draw);
            self.weighted.scan(view, &mut rng)
        })
    }

    /// Whose turn it is, serving or not; `None` only of an empty pool.
    fn next(&self, turn: &Turn) -> Option<usize> {
        let mut best: Option<(i64, u32, usize)> = None;
        for (at, class) in self.classes.iter().enumerate() {
            let owed = turn.owed[at].get() + class.weight;
            turn.owed[at].set(owed);
            let place = self.order[(class.first + turn.next[at].get()) as usize];
            // Between equals, the order of the file.
            if best.is_none_or(|(most, first, _)| owed > most || (owed == most && place < first)) {
                best = Some((owed, place, at));
            }
        }
        let (owed, place, at) = best?;
        // The others of its weight are still owed as much; once all of them have paid, so has the
        // next one.
        let next = turn.next[at].get() + 1;
        if next == self.classes[at].len {
            turn.next[at].set(0);
            turn.owed[at].set(owed - self.total);
        } else {
            turn.next[at].set(next);
        }
        Some(place as usize)
    }
}
