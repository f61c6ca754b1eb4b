//! The trial of an ejected backend: which request may be it, and where it may go.
//!
//! A trial is armed by the outlier task and taken by a pick, before any other choice. It goes to no tier
//! behind the one that is in use, and never out of a `manual` pool's tier: it shall tell of a backend,
//! not change where clients are served.

use std::rc::Rc;

use super::pick::{Ask, Tried};
use super::state::{Reason, Reasons, Trial};
use super::{Lease, Picker, Pool};
use crate::config::model::{Failback, FailoverMode};

impl Pool {
    /// The places of the tiers in the order in which picks ask them.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let floor = self.state.floor();
        let first = match self.tiers.len() {
            1 => 0,
            // A floor above every tier is left over from an older configuration.
            _ => self.tiers.iter().position(|tier| tier.number >= floor).unwrap_or(0),
        };
        let all = self.tiers.len();
        let most = if self.config.failover.mode == FailoverMode::Manual { 1 } else { all };
        (0..most).map(move |step| (first + step) % all)
    }

    /// Whether a request may try an ejected backend of this tier: picks come by there, or it is a better
    /// tier, back to which the pool goes by itself.
    pub fn may_try(&self, tier: u8) -> bool {
        for place in self.order() {
            let this = &self.tiers[place];
            if this.number == tier {
                return true;
            }
            let mut members = self.members[this.places.clone()].iter();
            if members.any(|member| member.weight > 0 && member.state.serving()) {
                break;
            }
        }
        let failover = &self.config.failover;
        let by_itself =
            failover.mode == FailoverMode::Automatic && failover.failback != Failback::Manual;
        by_itself && tier < self.state.floor()
    }
}

impl Picker {
    /// One that is ejected and may show with this request whether it is well again.
    pub(super) fn trial(self: &Rc<Self>, ask: Ask, tried: &Tried) -> Option<Lease> {
        let pool = self.pool();
        let (index, member) = pool.members.iter().enumerate().find(|(index, member)| {
            let state = &member.state;
            state.has_trial()
                && member.weight > 0
                && !tried.has(*index)
                && state.has(Reason::Ejected)
                && !state.any(Reasons::BUT_EJECTED)
                && pool.may_try(member.tier)
                && state.take_trial(ask.safe)
        })?;
        match Lease::new(self.clone(), index) {
            Some(lease) => Some(lease.into_trial()),
            None => {
                // It is full: whoever comes next may try.
                member.state.move_trial(Trial::Taken, Trial::Safe);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::defaults;
    use crate::config::model::{self, Failover, Name};
    use crate::pool::{BackendAddr, BackendState, Member, PoolState};

    /// Two members in each of these tiers.
    fn pool(tiers: &[u8], failover: Failover) -> Arc<Pool> {
        let name = Name::new("web").expect("a valid name");
        let config = model::Pool { failover, ..defaults::pool(name.clone()) };
        let members = tiers.iter().flat_map(|tier| [*tier, *tier]).zip(1..).map(|(tier, port)| {
            let addr = BackendAddr(([10, 0, 0, 1], port).into());
            let state = Arc::new(BackendState::new(name.clone(), addr, 1));
            Member { tier, ..Member::new(state, 1) }
        });
        Arc::new(Pool::new(config, members.collect(), Arc::new(PoolState::new(1))))
    }

    fn eject(pool: &Pool, index: usize) {
        pool.members[index].state.set(Reason::Ejected);
        pool.members[index].state.set_trial(Trial::Safe);
        pool.state.set_trials(1);
    }

    const SAFE: Ask = Ask { key: None, draw: 1, now_nanos: 0, safe: true };

    fn tries(pool: &Arc<Pool>, ask: Ask) -> Option<usize> {
        let lease = Rc::new(Picker::new(pool.clone())).pick(ask, &Tried::default()).ok()?;
        lease.on_trial().then(|| lease.index())
    }

    #[test]
    fn a_trial_goes_to_no_tier_behind_the_active_one() {
        let auto = defaults::FAILOVER;
        let by_hand = Failover { failback: Failback::Manual, ..auto };
        let manual = Failover { mode: FailoverMode::Manual, ..auto };
        // The pool, its floor, tiers in which nothing serves, the ejected one's tier, if it is tried.
        for (failover, floor, dead, tier, tried) in [
            (&auto, 0, vec![], 0, true),
            (&auto, 0, vec![], 1, false),
            (&auto, 0, vec![0], 1, true),
            (&auto, 0, vec![0], 2, false),
            (&auto, 1, vec![], 0, true),
            (&auto, 1, vec![], 1, true),
            (&auto, 1, vec![], 2, false),
            (&auto, 1, vec![1, 2], 0, true),
            (&by_hand, 1, vec![], 0, false),
            (&by_hand, 1, vec![], 1, true),
            (&manual, 1, vec![], 0, false),
            (&manual, 1, vec![], 1, true),
            (&manual, 1, vec![], 2, false),
        ] {
            let pool = pool(&[0, 1, 2], failover.clone());
            pool.state.set_floor(floor);
            let of = |tier: u8| 2 * usize::from(tier);
            for tier in &dead {
                pool.members[of(*tier)].state.set(Reason::Down);
                pool.members[of(*tier) + 1].state.set(Reason::Down);
            }
            eject(&pool, of(tier));
            let expected = tried.then(|| of(tier));
            let told = format!("{failover:?} from {floor}, dead {dead:?}");
            assert_eq!(tries(&pool, SAFE), expected, "{told}: tier {tier}");
        }
    }

    #[test]
    fn one_request_at_a_time_tries_and_says_how_it_went() {
        let pool = pool(&[0], defaults::FAILOVER);
        let picker = Rc::new(Picker::new(pool.clone()));
        let state = &pool.members[0].state;
        let pick = |ask| picker.pick(ask, &Tried::default()).expect("somebody serves");
        eject(&pool, 0);
        assert!(!pick(Ask { safe: false, ..SAFE }).on_trial(), "not with what is not safe");
        let trial = pick(SAFE);
        assert!(trial.on_trial() && !pick(SAFE).on_trial());
        drop(trial);
        assert_eq!(state.trial(), Trial::Safe, "nobody knows how it went: the next one");
        let trial = pick(SAFE);
        trial.failed(1, false);
        drop(trial);
        assert_eq!(state.trial(), Trial::Failed);
        assert!(!pick(SAFE).on_trial());
        state.set_trial(Trial::Any);
        let trial = pick(Ask { safe: false, ..SAFE });
        assert!(trial.on_trial() && trial.went_well() && !trial.went_well());
        trial.failed(2, true);
        assert_eq!(state.trial(), Trial::Failed, "it broke off");
        state.set_trial(Trial::Safe);
        let trial = pick(SAFE);
        trial.went_well();
        assert_eq!(state.trial(), Trial::Reached, "it may break off yet");
        drop(trial);
        assert_eq!(state.trial(), Trial::Passed);
        state.set_trial(Trial::Safe);
        let stream = pick(SAFE);
        stream.reached();
        assert_eq!(state.trial(), Trial::Reached);
        drop(stream);
        assert_eq!(state.trial(), Trial::Passed, "it had a connection, and came to its end");
        state.set_trial(Trial::Safe);
        for (reason, why) in [(Reason::Down, "dead"), (Reason::Disabled, "taken out by hand")] {
            state.set(reason);
            assert!(!pick(SAFE).on_trial(), "{why}");
            state.clear(reason);
        }
        state.clear(Reason::Ejected);
        assert!((0..9).all(|_| !pick(SAFE).on_trial()), "it is back");
    }

    #[test]
    fn a_full_one_is_tried_later() {
        let usual = pool(&[0], defaults::FAILOVER);
        let members = usual.members.iter().map(|member| {
            let max_requests = Some(1);
            Member { max_requests, ..Member::new(member.state.clone(), 1) }
        });
        let pool =
            Arc::new(Pool::new(usual.config.clone(), members.collect(), usual.state.clone()));
        let picker = Rc::new(Picker::new(pool.clone()));
        let all: Vec<_> =
            (0..2).filter_map(|_| picker.pick(SAFE, &Tried::default()).ok()).collect();
        assert_eq!(all.len(), 2);
        eject(&pool, 0);
        assert!(picker.pick(SAFE, &Tried::default()).is_err());
        assert!(pool.members[0].state.has_trial());
        drop(all);
        assert_eq!(tries(&pool, SAFE), Some(0));
    }

    #[test]
    fn what_is_only_ejected_serves_where_nothing_else_does() {
        let pool = pool(&[0, 1], defaults::FAILOVER);
        let picker = Rc::new(Picker::new(pool.clone()));
        for index in 0..4 {
            pool.members[index].state.set(if index < 2 { Reason::Ejected } else { Reason::Down });
        }
        let lease = picker.pick(SAFE, &Tried::default()).expect("better than none");
        assert!(lease.index() < 2 && !lease.on_trial());
        pool.members[0].state.set(Reason::Down);
        pool.members[1].state.set(Reason::Disabled);
        assert!(picker.pick(SAFE, &Tried::default()).is_err());
    }

    #[test]
    fn rows_of_failures_end_as_they_should() {
        let pool = pool(&[0], defaults::FAILOVER);
        let picker = Rc::new(Picker::new(pool.clone()));
        let pick = || {
            pool.members[1].state.set(Reason::Down);
            picker.pick(SAFE, &Tried::default()).expect("the first serves")
        };
        let state = &pool.members[0].state;
        assert_eq!(pick().failed(1, false), (1, false));
        assert_eq!(pick().failed(1, false), (2, false));
        pick().went_well();
        assert_eq!(state.failing(), 0, "an answer's head ends it");
        for row in 1..4 {
            let lease = pick();
            lease.went_well();
            assert_eq!(state.failing(), row - 1, "it may break off yet");
            assert_eq!(lease.failed(1, true), (row, true));
        }
        pick().went_well();
        assert_eq!(state.failing(), 0, "a whole one ends it");
    }
}
