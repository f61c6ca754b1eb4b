//! The door to what picks go by: whoever finds something out about a backend tells it here, and nobody
//! else writes reason bits, tier floors or the chosen backend of an exclusive pool.
//!
//! One [`Standing`], shared on the control thread by the health task, the outlier task and the operator's
//! commands ([`super::operate`]). It decides nothing of a single backend: each reason has its one writer,
//! who comes through here. What follows for the pool is `failover`'s to decide; here it is done: bits and
//! floor in the right order, orders to the workers, one log event and one metric for each move.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::Stop;
use super::operate::Words;
use super::told;
use crate::config::model::{Name, OnChange};
use crate::health::failover::{Cause, Event, Leave, Machine, Rules, Step, Tier};
use crate::pool::{BackendState, Pool, Reason};

/// What ends the work of a backend as well, where the pool's `on_down` says so. One that is ejected may
/// well finish what it has.
const LOST: [Reason; 3] = [Reason::Down, Reason::WrongRole, Reason::Disabled];

/// When workers take longer than this to close what is to be closed, it is told.
const SLOW_TO_CLOSE: Duration = Duration::from_secs(5);

/// What all workers are to end: see `flow::thread::Command::Release`.
#[derive(Clone, Debug)]
pub struct Release {
    /// By [`BackendState::id`].
    pub backend: u64,
    /// How long what is in progress may go on; `None` is not at all.
    pub after: Option<Duration>,
    /// Dropped by each worker once nothing is in progress with the backend there. When its receiver
    /// is gone, what is still to be ended may go on.
    pub done: mpsc::Sender<()>,
}

/// Brings an order to all workers.
pub type Orders = Box<dyn Fn(Release)>;

/// The door. See the file's head.
pub struct Standing {
    me: Weak<Standing>,
    /// When the process began: `came_back` counts from here, as picks do.
    epoch: std::time::Instant,
    /// The machines' time counts from here.
    began: Instant,
    orders: Orders,
    /// Every pool that there ever was: what is chosen survives, whatever is reloaded.
    pools: RefCell<HashMap<Name, Ruled>>,
    /// Orders that a recovery takes back, by backend.
    closing: RefCell<HashMap<u64, Stop>>,
    pub(super) words: Words,
}

/// What is known of one pool.
pub(super) struct Ruled {
    /// `None` while no snapshot has it.
    pub pool: Option<Arc<Pool>>,
    pub machine: Machine,
    /// Counts seats that were left: an answer to an earlier one says nothing.
    left: u64,
    timer: Option<(Duration, Stop)>,
    /// Orders that a further move takes back.
    fading: Vec<Stop>,
}

impl Standing {
    /// `epoch`: when the process began.
    pub fn new(epoch: std::time::Instant, orders: Orders) -> Rc<Standing> {
        Rc::new_cyclic(|me| Standing {
            me: me.clone(),
            epoch,
            began: Instant::now(),
            orders,
            pools: RefCell::default(),
            closing: RefCell::default(),
            words: Words::default(),
        })
    }

    /// One that nobody obeys, for tests.
    #[cfg(test)]
    pub fn alone() -> Rc<Standing> {
        Standing::new(Instant::now().into_std(), Box::new(|_| {}))
    }

    /// Sets and clears reasons of one backend, each for its one writer. `why`, a few words, stands in
    /// the log event of what follows from it. True if any bit changed.
    pub fn change(
        &self,
        backend: &Arc<BackendState>,
        set: &[Reason],
        clear: &[Reason],
        why: &str,
    ) -> bool {
        // A first verdict is no return: nothing ramps up at the start of the process.
        let first = backend.reasons().eq([Reason::Unverified]);
        let (served, lost) = (backend.serving(), is_lost(backend));
        // Sets before it clears: in between, the backend must not seem to serve.
        let mut changed = false;
        for &reason in set {
            changed |= backend.set(reason);
        }
        let serves = backend.reasons().all(|reason| clear.contains(&reason));
        if serves && !served && !first {
            // Before the bits: whoever sees that it serves sees since when.
            backend.came_back(self.nanos());
        }
        for &reason in clear {
            changed |= backend.clear(reason);
        }
        if lost && !is_lost(backend) {
            // What it failed of before is over.
            backend.forget_failures();
        }
        if is_lost(backend) != lost {
            self.closing.borrow_mut().remove(&backend.id);
        }
        if served != serves
            && let Some(ruled) = self.pools.borrow_mut().get_mut(&backend.pool)
        {
            // A better tier's floor was raised when it died, so clearing a bit there fails nothing back.
            let why = format!("{}: {why}", backend.addr);
            self.look(ruled, &why);
        }
        if is_lost(backend) && !lost {
            self.close_lost(backend);
        }
        changed
    }

    /// These are the pools of the snapshot that is published next, before anything else happens.
    pub fn apply(&self, pools: &[Arc<Pool>]) {
        let mut known = self.pools.borrow_mut();
        let mut before = HashSet::new();
        for (name, ruled) in known.iter_mut() {
            if ruled.pool.take().is_some() {
                before.insert(name.clone());
            }
        }
        for pool in pools {
            self.words.repeat(pool);
            let (rules, tiers) = (Rules::from(&pool.config.failover), tiers(pool));
            let ruled = known.entry(pool.config.name.clone()).or_insert_with(|| Ruled {
                pool: None,
                machine: Machine::new(rules, &tiers),
                left: 0,
                timer: None,
                fading: Vec::new(),
            });
            ruled.pool = Some(pool.clone());
            if !before.contains(&pool.config.name) {
                ruled.machine.away();
            }
            let chosen = ruled.machine.chosen();
            let has = |id| pool.members.iter().any(|member| member.state.id == id);
            let mut leave = ruled.machine.rule(rules);
            if chosen.is_some_and(|id| !has(id)) {
                leave = leave.or_else(|| ruled.machine.gone());
            }
            if let Some(leave) = leave {
                self.leave(ruled, leave);
            }
            self.look(ruled, "the configuration was reloaded");
        }
        for ruled in known.values_mut().filter(|ruled| ruled.pool.is_none()) {
            ruled.timer = None;
        }
    }

    pub(super) fn handle(&self) -> Weak<Standing> {
        self.me.clone()
    }

    /// The time of the machines.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn nanos(&self) -> u64 {
        Instant::now().into_std().duration_since(self.epoch).as_nanos() as u64
    }

    /// Whatever is known of a pool of the snapshot in force.
    pub(super) fn with<T>(
        &self,
        pool: &Name,
        work: impl FnOnce(&mut Ruled, &Arc<Pool>) -> T,
    ) -> Option<T> {
        let mut known = self.pools.borrow_mut();
        let ruled = known.get_mut(pool)?;
        let pool = ruled.pool.clone()?;
        Some(work(ruled, &pool))
    }

    /// Asks the machine, and does what it says.
    fn look(&self, ruled: &mut Ruled, why: &str) {
        let Some(pool) = ruled.pool.clone() else { return };
        let before = ruled.machine.clone();
        let step = ruled.machine.look(self.now(), &tiers(&pool));
        self.perform(ruled, &pool, &before, step, why);
    }

    /// Does what the machine says, who was `before` as it was before.
    pub(super) fn perform(
        &self,
        ruled: &mut Ruled,
        pool: &Arc<Pool>,
        before: &Machine,
        step: Step,
        why: &str,
    ) {
        // First what picks go by; the order to close finds nobody who came after it.
        pool.state.set_floor(ruled.machine.floor());
        pool.state.choose(ruled.machine.chosen());
        pool.state.tiers.held.set(ruled.machine.is_held());
        // Whoever is parked may find somebody now.
        pool.state.waiting.wake();
        if let Some(event) = step.event {
            ruled.fading.clear();
            if event.cause == Cause::Failback {
                self.come_back(ruled, pool, event);
            }
            told::moved(pool, &event, why);
        }
        told::alarms(pool, before, &ruled.machine, why);
        if let Some(leave) = step.leave {
            self.leave(ruled, leave);
        }
        self.wind(ruled, pool, step.next);
    }

    /// The better tier has the load again.
    fn come_back(&self, ruled: &mut Ruled, pool: &Pool, event: Event) {
        for member in pool.members.iter().filter(|member| member.tier == event.to.tier) {
            member.state.came_back(self.nanos());
        }
        let Some(after) = delay(pool.config.failover.on_failback) else { return };
        for member in pool.members.iter().filter(|member| member.tier > event.to.tier) {
            ruled.fading.push(self.release(member.state.id, after));
        }
    }

    /// Sets the timer to when the machine wants to be asked again.
    fn wind(&self, ruled: &mut Ruled, pool: &Pool, next: Option<Duration>) {
        if ruled.timer.as_ref().map(|(due, _)| *due) == next {
            return;
        }
        let timer = next.map(|due| {
            let (me, name, at) = (self.me.clone(), pool.config.name.clone(), self.began + due);
            let timer = tokio::task::spawn_local(async move {
                sleep_until(at).await;
                if let Some(me) = me.upgrade()
                    && let Some(ruled) = me.pools.borrow_mut().get_mut(&name)
                {
                    // Not aborted in the middle: there is nothing to wait for from here on.
                    let timer = ruled.timer.take();
                    me.look(ruled, "the better tier has been well for long enough");
                    drop(timer);
                }
            });
            (due, Stop(timer))
        });
        ruled.timer = timer;
    }

    /// What is in progress with a backend that is lost.
    fn close_lost(&self, backend: &BackendState) {
        let known = self.pools.borrow();
        let pool = known.get(&backend.pool).and_then(|ruled| ruled.pool.as_ref());
        if let Some(after) = pool.and_then(|pool| delay(pool.config.failover.on_down)) {
            let stop = self.release(backend.id, after);
            self.closing.borrow_mut().insert(backend.id, stop);
        }
    }

    /// Orders the workers to end what they have with a backend. In a task: it goes out after the swap
    /// that it may belong to. Dropping the result takes back what has not happened yet.
    pub(super) fn release(&self, backend: u64, after: Option<Duration>) -> Stop {
        let me = self.me.clone();
        Stop(tokio::task::spawn_local(async move {
            let (done, mut left) = mpsc::channel(1);
            let Some(standing) = me.upgrade() else { return };
            (standing.orders)(Release { backend, after, done });
            drop(standing);
            while left.recv().await.is_some() {}
        }))
    }

    /// Closes what is to be closed everywhere before the seat of an exclusive pool is given on.
    fn leave(&self, ruled: &mut Ruled, leave: Leave) {
        let Some(pool) = ruled.pool.clone() else { return };
        ruled.left += 1;
        let round = ruled.left;
        let backends: Vec<(u64, Option<Duration>)> = match leave {
            Leave::One(id) => vec![(id, self.words.grace(&pool, id))],
            Leave::All => pool.members.iter().map(|member| (member.state.id, None)).collect(),
        };
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            let (done, mut left) = mpsc::channel(1);
            let Some(standing) = me.upgrade() else { return };
            let grace = backends.iter().filter_map(|(_, after)| *after).max().unwrap_or_default();
            for (backend, after) in backends {
                (standing.orders)(Release { backend, after, done: done.clone() });
            }
            drop((done, standing));
            let mut all_left = async || while left.recv().await.is_some() {};
            if timeout(grace.saturating_add(SLOW_TO_CLOSE), all_left()).await.is_err() {
                told::slow_to_close(&pool);
                all_left().await;
            }
            if let Some(me) = me.upgrade() {
                me.left(&pool.config.name, round);
            }
        });
    }

    fn left(&self, name: &Name, round: u64) {
        self.with(name, |ruled, pool| {
            if ruled.left == round {
                let before = ruled.machine.clone();
                let step = ruled.machine.left(self.now(), &tiers(pool));
                self.perform(
                    ruled,
                    pool,
                    &before,
                    step,
                    "the connections to the former are closed",
                );
            }
        });
    }
}

/// Who serves, tier by tier. Of a pool that is not exclusive the first one is enough to know.
pub(super) fn tiers(pool: &Pool) -> Vec<Tier> {
    let most = if pool.config.failover.exclusive { usize::MAX } else { 1 };
    let tiers = pool.tiers.iter().map(|tier| {
        let members = pool.members[tier.places.clone()].iter();
        let serving = members.filter(|member| member.weight > 0 && member.state.serving());
        Tier { number: tier.number, serving: serving.map(|m| m.state.id).take(most).collect() }
    });
    tiers.collect()
}

fn is_lost(backend: &BackendState) -> bool {
    LOST.iter().any(|reason| backend.has(*reason))
}

/// How long what is open may stay; `None` is for ever.
fn delay(on: OnChange) -> Option<Option<Duration>> {
    match on {
        OnChange::Keep => None,
        OnChange::Close => Some(None),
        OnChange::CloseAfter(after) => Some(Some(after)),
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("pools", &self.pools.borrow().len()).finish()
    }
}

#[cfg(test)]
mod tests;
