//! The operator's hand: switch a pool to another tier and back; disable, drain and enable a backend.
//!
//! For whoever takes orders on the control thread (the admin server): keep an `Rc<Standing>`, call
//! [`Standing::operate`] with an [`Order`], and show the [`Done`] or the [`Refusal`]. Both are there at
//! once; what takes time afterwards (connections that close, a drain) shows in `/readyz?verbose` and in
//! `evenkeel_backend_in_flight`.
//!
//! What an operator said holds until he takes it back or the process ends: over reloads, and also for a
//! backend that leaves the configuration and comes back. A switch survives a reload as long as the pool
//! has the tier. The one writer of the reasons `disabled` and `draining`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Stop;
use super::standing::{Standing, tiers};
use crate::config::model::Name;
use crate::health::failover::{Machine, Place, Refused, Step, Tier};
use crate::pool::{BackendAddr, Member, Pool, Reason};

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// To this tier; `None`: to the next that serves. In an exclusive pool another backend of the same
    /// tier counts as next. Automatic failback is then held, until `Failback` or until the tier dies.
    Switchover { pool: Name, to: Option<u8> },
    /// To the best tier that serves, however long it has been well.
    Failback { pool: Name },
    /// No new work, and `on_down` for what is in progress.
    Disable { pool: Name, backend: BackendAddr },
    /// No new work; what is in progress may finish, until the deadline if there is one. In an exclusive
    /// pool another takes over when it has finished.
    Drain { pool: Name, backend: BackendAddr, deadline: Option<Duration> },
    /// Takes `Disable` and `Drain` back.
    Enable { pool: Name, backend: BackendAddr },
}

/// What an order has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The pool's traffic goes there from now on.
    Moved { from: Place, to: Place },
    /// An exclusive pool closes the connections of the backend it leaves, and switches then.
    Closing,
    /// No better tier serves yet; the first that does takes over by the rules of `failback`.
    NoLongerHeld,
    /// The backend's standing is as it was wanted; `false`: it was so before.
    Standing { changed: bool },
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no such pool")]
    UnknownPool,
    #[error("the pool has no such backend")]
    UnknownBackend,
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What operators have said of backends.
#[derive(Default)]
pub(super) struct Words(RefCell<HashMap<(Name, BackendAddr), Word>>);

enum Word {
    Disabled,
    Draining {
        until: Option<Instant>,
        /// What is left is closed then.
        _deadline: Option<Stop>,
    },
}

impl Standing {
    /// Carries out an order, or says why not.
    pub fn operate(&self, order: Order) -> Result<Done, Refusal> {
        tracing::info!(?order, "an operator's order");
        match order {
            Order::Switchover { pool, to } => {
                self.switch(&pool, |machine, now, tiers| machine.switch(now, tiers, to))
            }
            Order::Failback { pool } => {
                self.switch(&pool, |machine, now, tiers| machine.back(now, tiers))
            }
            Order::Disable { pool, backend } => {
                self.word(pool, backend, Some(Word::Disabled), "an operator disabled it")
            }
            Order::Drain { pool, backend, deadline } => {
                let _deadline = deadline.map(|after| self.at_deadline(&pool, backend, after));
                let until = deadline.map(|after| Instant::now() + after);
                let word = Word::Draining { until, _deadline };
                self.word(pool, backend, Some(word), "an operator drains it")
            }
            Order::Enable { pool, backend } => {
                self.word(pool, backend, None, "an operator enabled it")
            }
        }
    }

    fn switch(
        &self,
        pool: &Name,
        word: impl FnOnce(&mut Machine, Duration, &[Tier]) -> Result<Step, Refused>,
    ) -> Result<Done, Refusal> {
        let done = self.with(pool, |ruled, pool| {
            let before = ruled.machine.clone();
            let step = word(&mut ruled.machine, self.now(), &tiers(pool))?;
            self.perform(ruled, pool, &before, step, "an operator's order");
            Ok(match (step.event, step.leave) {
                (Some(event), _) => Done::Moved { from: event.from, to: event.to },
                (None, Some(_)) => Done::Closing,
                (None, None) => Done::NoLongerHeld,
            })
        });
        done.ok_or(Refusal::UnknownPool)?
    }

    /// `None` takes back what was said.
    fn word(
        &self,
        pool: Name,
        addr: BackendAddr,
        word: Option<Word>,
        why: &str,
    ) -> Result<Done, Refusal> {
        let find = |pool: &Pool| pool.members.iter().find(|m| m.state.addr == addr).map(state);
        let backend = self.with(&pool, |_, pool| find(pool)).ok_or(Refusal::UnknownPool)?;
        let backend = backend.ok_or(Refusal::UnknownBackend)?;
        let (set, clear): (&[Reason], &[Reason]) = match &word {
            Some(Word::Disabled) => (&[Reason::Disabled], &[Reason::Draining]),
            Some(Word::Draining { .. }) => (&[Reason::Draining], &[Reason::Disabled]),
            None => (&[], &[Reason::Disabled, Reason::Draining]),
        };
        let mut words = self.words.0.borrow_mut();
        match word {
            Some(word) => drop(words.insert((pool, addr), word)),
            None => drop(words.remove(&(pool, addr))),
        }
        drop(words);
        Ok(Done::Standing { changed: self.change(&backend, set, clear, why) })
    }

    /// Closes what a drain has left.
    fn at_deadline(&self, pool: &Name, addr: BackendAddr, after: Duration) -> Stop {
        let (me, pool) = (self.handle(), pool.clone());
        Stop(tokio::task::spawn_local(async move {
            sleep(after).await;
            let Some(standing) = me.upgrade() else { return };
            let find = |pool: &Pool| pool.members.iter().find(|m| m.state.addr == addr).map(state);
            let Some(backend) = standing.with(&pool, |_, pool| find(pool)).flatten() else {
                return;
            };
            tracing::info!(%pool, backend = %addr, "a drain's deadline has come");
            let order = standing.release(backend.id, None);
            drop(standing);
            order.ended().await;
        }))
    }
}

impl Words {
    /// Says again, before a pool is published, what was said of its backends.
    pub fn repeat(&self, pool: &Pool) {
        let words = self.0.borrow();
        if words.is_empty() {
            return;
        }
        for member in &pool.members {
            match words.get(&(pool.config.name.clone(), member.state.addr)) {
                Some(Word::Disabled) => member.state.set(Reason::Disabled),
                Some(Word::Draining { .. }) => member.state.set(Reason::Draining),
                None => continue,
            };
        }
    }

    /// How long a backend that an exclusive pool leaves may finish what it has: only one that drains
    /// and is well may; without a deadline for as long as it takes.
    pub fn grace(&self, pool: &Pool, id: u64) -> Option<Duration> {
        let member = pool.members.iter().find(|member| member.state.id == id)?;
        if !member.state.reasons().eq([Reason::Draining]) {
            return None;
        }
        match self.0.borrow().get(&(pool.config.name.clone(), member.state.addr))? {
            Word::Disabled => None,
            Word::Draining { until: None, .. } => Some(Duration::MAX),
            Word::Draining { until: Some(until), .. } => {
                Some(until.saturating_duration_since(Instant::now()))
            }
        }
    }
}

fn state(member: &Member) -> std::sync::Arc<crate::pool::BackendState> {
    member.state.clone()
}
