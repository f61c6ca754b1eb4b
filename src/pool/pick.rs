//! The choice of a backend for one connection or request: a tier, then a member of it.
//!
//! Picks begin with the pool's tier floor and walk on to the next tier when one has nobody, all in one
//! pick; `manual` pools never walk, and of an `exclusive` one only the chosen backend is used. Within a
//! tier the pool's `balance` chooses, among members that serve, have room and were not tried. A [`Picker`]
//! belongs to one worker; what it asks for (key, randomness, time) comes in an [`Ask`].

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::balance::{Turn, View};
use super::state::Reasons;
use super::{Lease, Member, Pool, Tier};
use crate::config::model::WhenNoneServe;

/// Of a larger pool only so many members are begun with.
const STARTS: usize = 64;

/// So often a member is chosen again that filled up in the meantime.
const RACES: usize = 8;

/// One worker's hand on a pool: the pool as its snapshot has it, and this worker's turn in it.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    /// One a tier.
    turns: Box<[Turn]>,
    /// One a tier, where tiers spill: what it keeps, and when that was worked out.
    kept: Box<[Cell<(f64, u64)>]>,
}

/// How long what a tier keeps is believed: to work it out takes a look at every member.
const KEPT_NANOS: u64 = 10_000_000;

/// What a pick needs to know of its request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask {
    /// The hash of the key that the pool balances by, if it does (`balance::hash`).
    pub key: Option<u64>,
    /// Random bits.
    pub draw: u64,
    /// Nanoseconds since the process began.
    pub now_nanos: u64,
    /// It may be sent again elsewhere if it fails: the one to try an ejected backend with.
    pub safe: bool,
}

/// The members that earlier attempts of the same request have used.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    places: Vec<usize>,
    /// How many attempts the request has; 0: as many as there are members.
    attempts: u32,
}

impl Tried {
    pub fn add(&mut self, lease: &Lease) {
        self.places.push(lease.index());
    }

    /// So many attempts, in all, its request has.
    pub fn of_attempts(&mut self, attempts: u32) {
        self.attempts = attempts;
    }

    /// Of several attempts only one is left.
    fn is_last(&self) -> bool {
        let had = self.places.len() as u32;
        had >= 2 && self.attempts > 0 && had + 1 >= self.attempts
    }

    pub fn has(&self, index: usize) -> bool {
        self.places.contains(&index)
    }
}

/// Why no backend was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPick {
    /// None serves.
    NoneServing,
    /// All that serve have been tried.
    AllTried,
    /// All that serve and were not tried are at `max_requests`.
    Full,
}

impl Picker {
    /// One a worker and snapshot: the first takes its turns from the first member on, each further
    /// one of the same pool from one later, so that neither idle workers nor frequent reloads favour
    /// the first backends.
    pub fn new(pool: Arc<Pool>) -> Picker {
        let turns = pool.tiers.iter().map(|tier| tier.balance.turn()).collect();
        let begun = pool.state.begun.fetch_add(1, Ordering::Relaxed);
        let kept = pool.tiers.iter().map(|_| Cell::new((0.0, u64::MAX))).collect();
        let picker = Picker { pool, turns, kept };
        let tried = Tried::default();
        for (tier, turn) in picker.pool.tiers.iter().zip(&picker.turns) {
            let view = picker.view(tier, Ask::default(), &tried);
            for _ in 0..begun % tier.places.len().clamp(1, STARTS) {
                tier.balance.choose(&view, turn);
            }
        }
        picker
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// A serving backend that was not tried yet and has room.
    pub fn pick(self: &Rc<Self>, ask: Ask, tried: &Tried) -> Result<Lease, NoPick> {
        let failover = &self.pool.config.failover;
        if failover.exclusive {
            return self.chosen(tried);
        }
        if self.pool.state.trials() > 0
            && let Some(lease) = self.trial(ask, tried)
        {
            return Ok(lease);
        }
        let spilled = failover.spill_below.and_then(|below| self.spill(below, ask, tried));
        let lease = spilled.or_else(|| self.sound(ask, tried));
        if let Some(lease) = lease.or_else(|| self.walk(ask, tried, Reasons::ALL)) {
            return Ok(lease);
        }
        match self.why(Reasons::ALL, tried) {
            NoPick::NoneServing => self.at_worst(ask, tried),
            why => Err(why),
        }
    }

    /// None serves: then one that is only ejected is better than nothing, and with `try_all` any.
    fn at_worst(self: &Rc<Self>, ask: Ask, tried: &Tried) -> Result<Lease, NoPick> {
        let try_all = self.pool.config.failover.when_none_serve == WhenNoneServe::TryAll;
        let mut why = NoPick::NoneServing;
        for against in [Reasons::BUT_EJECTED, Reasons::BINDING] {
            if why == NoPick::NoneServing && (against == Reasons::BUT_EJECTED || try_all) {
                match self.walk(ask, tried, against) {
                    Some(lease) => return Ok(lease),
                    None => why = self.why(against, tried),
                }
            }
        }
        Err(why)
    }

    /// The same in the order of those who wait: while somebody does, nobody who comes later goes first.
    pub fn pick_in_turn(self: &Rc<Self>, ask: Ask, tried: &Tried) -> Result<Lease, NoPick> {
        if self.pool.config.queue.is_some() && !self.pool.state.waiting.is_empty() {
            return Err(self.why(Reasons::ALL, tried));
        }
        self.pick(ask, tried)
    }

    /// The member at `index`, for a client that sticks to it: also while it drains, but only in a tier
    /// that is in use, so that a switchover and a failback take those clients along.
    pub fn stick(self: &Rc<Self>, index: usize) -> Option<Lease> {
        let member = self.pool.members.get(index)?;
        let exclusive = self.pool.config.failover.exclusive;
        if member.weight == 0
            || member.state.any(Reasons::BUT_DRAINING)
            || !self.is_in_use(index)
            || (exclusive && self.pool.state.chosen() != Some(member.state.id))
        {
            return None;
        }
        Lease::new(self.clone(), index)
    }

    /// Whether picks come to the tier of the member at `index`.
    fn is_in_use(&self, index: usize) -> bool {
        let spill_below = self.pool.config.failover.spill_below;
        for place in self.pool.order() {
            let tier = &self.pool.tiers[place];
            if tier.places.contains(&index) {
                return true;
            }
            if tier.weights(&self.pool.members).kept(spill_below.unwrap_or(0)) >= 1.0 {
                return false;
            }
        }
        false
    }

    /// The first tier that has somebody, not minding other reasons than these.
    fn walk(self: &Rc<Self>, ask: Ask, tried: &Tried, against: Reasons) -> Option<Lease> {
        self.pool.order().find_map(|place| self.of(place, ask, tried, against))
    }

    /// For a request that has failed at a backend: one that has not failed lately, if need be of another
    /// tier, and for its last attempt rather of one where it has tried nobody; failing that one that is
    /// out, but has done nothing wrong of late. So a tier that has just died as a whole costs nobody an
    /// answer before that is known of it.
    fn sound(self: &Rc<Self>, ask: Ask, tried: &Tried) -> Option<Lease> {
        let tiers = &self.pool.tiers;
        if tried.places.is_empty() {
            return None;
        }
        let last = tried.is_last();
        if tiers.len() == 1 && !last {
            return None; // the usual pick comes to the same
        }
        let order = || self.pool.order();
        let untried =
            |&place: &usize| !tried.places.iter().any(|at| tiers[place].places.contains(at));
        let of = |place| self.of_those(place, ask, tried, Reasons::ALL, true);
        let out = |place| self.of_those(place, ask, tried, Reasons::BUT_EJECTED, true);
        let elsewhere = order().filter(|place| last && untried(place)).find_map(of);
        let serving = elsewhere.or_else(|| order().find_map(of));
        serving.or_else(|| order().filter(|_| last).find_map(out))
    }

    /// The same, each tier passing on what it does not keep; `None` where that finds nobody.
    fn spill(self: &Rc<Self>, below: u32, ask: Ask, tried: &Tried) -> Option<Lease> {
        let mut rng = fastrand::Rng::with_seed(!ask.draw);
        let keeps = |&place: &usize| rng.f64() < self.kept(place, below, ask.now_nanos);
        self.pool.order().filter(keeps).find_map(|place| self.of(place, ask, tried, Reasons::ALL))
    }

    fn kept(&self, place: usize, below: u32, now_nanos: u64) -> f64 {
        let (kept, at) = self.kept[place].get();
        if at <= now_nanos && now_nanos - at < KEPT_NANOS {
            return kept;
        }
        let kept = self.pool.tiers[place].weights(&self.pool.members).kept(below);
        self.kept[place].set((kept, now_nanos));
        kept
    }

    /// A member of one tier, not minding other reasons than these.
    fn of(
        self: &Rc<Self>,
        place: usize,
        ask: Ask,
        tried: &Tried,
        against: Reasons,
    ) -> Option<Lease> {
        self.of_those(place, ask, tried, against, false)
    }

    /// The same; `sound`: of those that have not failed lately.
    fn of_those(
        self: &Rc<Self>,
        place: usize,
        ask: Ask,
        tried: &Tried,
        against: Reasons,
        sound: bool,
    ) -> Option<Lease> {
        let (tier, turn) = (&self.pool.tiers[place], &self.turns[place]);
        let spare = self.pool.state.spares(ask.now_nanos);
        let mut view = View { against, spare, sound, ..self.view(tier, ask, tried) };
        for _ in 0..RACES {
            let chosen = tier.balance.choose(&view, turn).or_else(|| {
                // Nobody but those that are ramping up, or want to be spared: then they take it all.
                if view.slow_start_nanos.is_none() && !view.spare {
                    return None;
                }
                view = View { slow_start_nanos: None, spare: false, ..view };
                tier.balance.choose(&view, turn)
            });
            match Lease::new(self.clone(), tier.places.start + chosen?) {
                // Another worker took its last place: look again.
                None => continue,
                lease => return lease,
            }
        }
        None
    }

    fn view<'a>(&'a self, tier: &Tier, ask: Ask, tried: &'a Tried) -> View<'a> {
        View {
            members: &self.pool.members[tier.places.clone()],
            first: tier.places.start,
            tried,
            ask,
            against: Reasons::ALL,
            spare: false,
            sound: false,
            slow_start_nanos: self.pool.config.slow_start.map(|ramp| ramp.as_nanos() as u64),
        }
    }

    /// The one that is used of an exclusive pool.
    fn chosen(self: &Rc<Self>, tried: &Tried) -> Result<Lease, NoPick> {
        let chosen = self.pool.state.chosen().ok_or(NoPick::NoneServing)?;
        let mut members = self.pool.members.iter();
        let index = members.position(|m| m.state.id == chosen && m.state.serving());
        let index = index.ok_or(NoPick::NoneServing)?;
        if tried.has(index) {
            return Err(NoPick::AllTried);
        }
        Lease::new(self.clone(), index).ok_or(NoPick::Full)
    }

    /// Why nobody was found, where other reasons than these are not minded.
    fn why(&self, against: Reasons, tried: &Tried) -> NoPick {
        let mut why = NoPick::NoneServing;
        for place in self.pool.order() {
            for index in self.pool.tiers[place].places.clone() {
                let Member { state, weight, .. } = &self.pool.members[index];
                if *weight == 0 || state.any(against) {
                    continue;
                }
                if !tried.has(index) {
                    return NoPick::Full;
                }
                why = NoPick::AllTried;
            }
        }
        why
    }
}
