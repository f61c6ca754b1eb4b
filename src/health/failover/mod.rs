//! Which tier of a pool is in use, and of an exclusive pool which backend: the state machine. Pure: what
//! serves and what time it is come in, `task::standing` does what comes out.
//!
//! Its states, for one pool:
//!
//! - *Floor*: the number of the tier in use. `automatic`: as soon as that tier serves nothing the floor
//!   moves to the next that serves something, round to the first (a failover); while none serves it
//!   stays. `manual`: only an operator moves it.
//! - *Well*: since when each tier has served without a break. A better tier than the one in use takes
//!   over again (a failback) when that is as long as `failback` asks for; a flap begins it anew.
//! - *Held*: an operator has switched away from a better tier that may serve. Nothing fails back until
//!   the operator says so or the tier that was switched to serves nothing.
//! - *Seat*, of an exclusive pool: empty, taken by one backend, or being left by it: its connections are
//!   closed everywhere, and only then is the seat given to another. Who has it keeps it while it serves;
//!   the tier in use is the tier of whoever sits. A second one that serves there is an alarm.
//!
//! One step makes one move at the most, told by one [`Event`]. A reload keeps all of it; when the tier in
//! use is gone, the next one that serves follows it.

mod words;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::config::model::{Failback, FailoverMode};
pub use words::{Alarm, Cause, Event, Leave, Place, Refused, Rules, Step, Tier};

/// One pool's state. See the file's head.
#[derive(Clone, Debug)]
pub struct Machine {
    rules: Rules,
    floor: u8,
    /// By tier number.
    well: Vec<(u8, Duration)>,
    held: bool,
    seat: Seat,
    /// Who sat last.
    last: Option<Place>,
    alarms: [bool; Alarm::ALL.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    Empty,
    Taken(u64),
    Left { by: Leave, goal: Goal },
}

/// Where a seat that is being left is to go, if that still serves then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Goal {
    cause: Cause,
    tier: u8,
    backend: Option<u64>,
}

impl Machine {
    /// Begins with the first tier. `look` next.
    pub fn new(rules: Rules, tiers: &[Tier]) -> Machine {
        Machine {
            rules,
            floor: tiers.first().map_or(0, |tier| tier.number),
            well: Vec::new(),
            held: false,
            seat: Seat::Empty,
            last: None,
            alarms: [false; Alarm::ALL.len()],
        }
    }

    /// The number of the tier in use.
    pub fn floor(&self) -> u8 {
        self.floor
    }

    /// Who has the seat of an exclusive pool.
    pub fn chosen(&self) -> Option<u64> {
        match self.seat {
            Seat::Taken(id) => Some(id),
            Seat::Empty | Seat::Left { .. } => None,
        }
    }

    /// Failback waits for an operator.
    pub fn is_held(&self) -> bool {
        self.held
    }

    pub fn has(&self, alarm: Alarm) -> bool {
        self.alarms[alarm.index()]
    }

    /// A reload changed the rules; `look` next. A pool that was not exclusive closes what it has first.
    pub fn rule(&mut self, rules: Rules) -> Option<Leave> {
        let before = std::mem::replace(&mut self.rules, rules);
        if before.exclusive == rules.exclusive {
            return None;
        }
        self.last = None;
        self.seat = Seat::Empty;
        rules.exclusive.then(|| {
            let goal = Goal { cause: Cause::Reload, tier: self.floor, backend: None };
            self.seat = Seat::Left { by: Leave::All, goal };
            Leave::All
        })
    }

    /// Something may have changed.
    pub fn look(&mut self, now: Duration, tiers: &[Tier]) -> Step {
        self.note(now, tiers);
        let mut step = match self.rules.exclusive {
            true => self.look_at_seat(now, tiers),
            false => Step { event: self.look_at_tiers(now, tiers), ..Step::default() },
        };
        self.raise(tiers);
        step.next = self.next(now, tiers);
        step
    }

    /// The pool was in no snapshot for a time: how long its tiers have been well is not known.
    pub fn away(&mut self) {
        self.well.clear();
    }

    /// All connections of whoever was to leave are closed.
    pub fn left(&mut self, now: Duration, tiers: &[Tier]) -> Step {
        let Seat::Left { goal, .. } = self.seat else { return self.look(now, tiers) };
        self.note(now, tiers);
        self.seat = Seat::Empty;
        let event = self.give(goal, now, tiers);
        self.raise(tiers);
        Step { event, leave: None, next: self.next(now, tiers) }
    }

    /// An operator switches to a tier; `None`: to the next that serves.
    pub fn switch(
        &mut self,
        now: Duration,
        tiers: &[Tier],
        to: Option<u8>,
    ) -> Result<Step, Refused> {
        if matches!(self.seat, Seat::Left { .. }) {
            return Err(Refused::Leaving);
        }
        let order: Vec<&Tier> = match to {
            Some(number) => vec![find(tiers, number).ok_or(Refused::UnknownTier)?],
            None => self.round(tiers).collect(),
        };
        let here = self.here();
        let elsewhere = |tier: &&Tier| match self.rules.exclusive {
            true => tier.serving.iter().any(|id| Some(*id) != here.backend),
            false => tier.number != self.floor && !tier.serving.is_empty(),
        };
        let Some(tier) = order.into_iter().find(elsewhere) else {
            let there = to == Some(self.floor);
            return Err(if there { Refused::AlreadyThere } else { Refused::ServesNothing });
        };
        let backend = tier.serving.iter().copied().find(|id| Some(*id) != here.backend);
        let goal = Goal { cause: Cause::Switchover, tier: tier.number, backend };
        Ok(self.go(goal, now, tiers))
    }

    /// An operator wants the best tier that serves. No event: nothing better serves yet, but failback
    /// is no longer held.
    pub fn back(&mut self, now: Duration, tiers: &[Tier]) -> Result<Step, Refused> {
        if matches!(self.seat, Seat::Left { .. }) {
            return Err(Refused::Leaving);
        }
        if tiers.first().is_none_or(|tier| tier.number >= self.floor) {
            return Err(Refused::AlreadyThere);
        }
        match tiers.iter().find(|tier| tier.number < self.floor && !tier.serving.is_empty()) {
            Some(tier) => {
                let backend = tier.serving.first().copied();
                let goal = Goal { cause: Cause::Failback, tier: tier.number, backend };
                Ok(self.go(goal, now, tiers))
            }
            None if self.held => {
                self.held = false;
                Ok(self.look(now, tiers))
            }
            None => Err(Refused::ServesNothing),
        }
    }

    fn go(&mut self, goal: Goal, now: Duration, tiers: &[Tier]) -> Step {
        self.note(now, tiers);
        let mut step = Step::default();
        match self.seat {
            Seat::Taken(id) => step.leave = self.leave(id, goal),
            _ if self.rules.exclusive => step.event = self.give(goal, now, tiers),
            _ => step.event = Some(self.moved(goal.cause, goal.tier, None, tiers)),
        }
        self.raise(tiers);
        step.next = self.next(now, tiers);
        step
    }

    /// Since when tiers serve.
    fn note(&mut self, now: Duration, tiers: &[Tier]) {
        let serves = |number| find(tiers, number).is_some_and(|tier| !tier.serving.is_empty());
        self.well.retain(|(number, _)| serves(*number));
        for tier in tiers.iter().filter(|tier| !tier.serving.is_empty()) {
            if !self.well.iter().any(|(number, _)| *number == tier.number) {
                self.well.push((tier.number, now));
            }
        }
    }

    fn look_at_tiers(&mut self, now: Duration, tiers: &[Tier]) -> Option<Event> {
        let automatic = self.rules.mode == FailoverMode::Automatic;
        let next = self.round(tiers).find(|tier| !tier.serving.is_empty());
        if find(tiers, self.floor).is_none() {
            let heir = next.filter(|_| automatic).or_else(|| self.round(tiers).next())?;
            return Some(self.moved(Cause::Reload, heir.number, None, tiers));
        }
        if !automatic {
            return None;
        }
        let next = next?.number;
        if next == self.floor {
            let better = self.better(now, tiers)?;
            return Some(self.moved(Cause::Failback, better, None, tiers));
        }
        self.held = false;
        let heir = self.better(now, tiers).unwrap_or(next);
        Some(self.moved(Cause::Failover, heir, None, tiers))
    }

    fn look_at_seat(&mut self, now: Duration, tiers: &[Tier]) -> Step {
        let mut step = Step::default();
        match self.seat {
            Seat::Left { .. } => {}
            Seat::Empty => {
                let cause = match self.rules.mode {
                    FailoverMode::Automatic => Cause::Failover,
                    // Only a reload empties it.
                    FailoverMode::Manual => Cause::Reload,
                };
                let goal = Goal { cause, tier: self.floor, backend: None };
                step.event = self.give(goal, now, tiers);
            }
            Seat::Taken(id) => match self.seat_of(id, tiers) {
                // It goes on where a reload has put it.
                Some(tier) if tier != self.floor => {
                    step.event = Some(self.moved(Cause::Reload, tier, Some(id), tiers));
                }
                Some(_) => {
                    if let Some(tier) = self.better(now, tiers) {
                        let backend = find(tiers, tier).and_then(|t| t.serving.first().copied());
                        let goal = Goal { cause: Cause::Failback, tier, backend };
                        step.leave = self.leave(id, goal);
                    }
                }
                // What an operator chose is not overridden.
                None if self.rules.mode == FailoverMode::Manual => {}
                None => {
                    let goal = Goal { cause: Cause::Failover, tier: self.floor, backend: None };
                    step.leave = self.leave(id, goal);
                }
            },
        }
        step
    }

    /// The one in the seat is in the configuration no more, whatever the mode: its connections are
    /// closed, and another may follow. To be said before the `look` that a reload asks for.
    pub fn gone(&mut self) -> Option<Leave> {
        let Seat::Taken(id) = self.seat else { return None };
        let goal = Goal { cause: Cause::Reload, tier: self.floor, backend: None };
        self.leave(id, goal)
    }

    fn leave(&mut self, id: u64, goal: Goal) -> Option<Leave> {
        let by = Leave::One(id);
        self.seat = Seat::Left { by, goal };
        Some(by)
    }

    /// Gives the empty seat to whoever `goal` means, or to whoever serves.
    fn give(&mut self, goal: Goal, now: Duration, tiers: &[Tier]) -> Option<Event> {
        let Goal { cause, tier, backend } = goal;
        let meant = find(tiers, tier);
        let named = backend.filter(|id| meant.is_some_and(|tier| tier.serving.contains(id)));
        let manual = self.rules.mode == FailoverMode::Manual;
        let (number, id) = match named.or_else(|| meant?.serving.first().copied()) {
            Some(id) => (tier, id),
            // Nobody serves where an operator wants it: that one has the seat all the same.
            None if manual && meant.is_some() => (tier, backend?),
            None => {
                let next = self.round(tiers).find(|tier| !tier.serving.is_empty())?;
                self.held = false;
                let better = self.better(now, tiers).filter(|_| cause == Cause::Failover);
                let heir = better.and_then(|number| find(tiers, number)).unwrap_or(next);
                (heir.number, heir.serving.first().copied()?)
            }
        };
        let cause = match cause {
            Cause::Reload => Cause::Reload,
            cause if number == tier => cause,
            Cause::Failover | Cause::Failback | Cause::Switchover => Cause::Failover,
        };
        let before = self.here();
        self.seat = Seat::Taken(id);
        if before == (Place { tier: number, backend: Some(id) }) {
            return None; // it is back in its seat
        }
        let first = self.last.is_none() && number == self.floor;
        let event = self.moved(cause, number, Some(id), tiers);
        (!first).then_some(event)
    }

    /// Makes a move.
    fn moved(&mut self, cause: Cause, tier: u8, backend: Option<u64>, tiers: &[Tier]) -> Event {
        let from = self.here();
        let to = Place { tier, backend };
        self.floor = tier;
        self.last = backend.map(|_| to);
        let better = tiers.iter().any(|each| each.number < tier);
        self.held = match cause {
            Cause::Switchover => better,
            Cause::Failover | Cause::Failback => false,
            Cause::Reload => self.held && better,
        };
        Event { cause, from, to }
    }

    /// What is in use, or was last.
    fn here(&self) -> Place {
        self.last.unwrap_or(Place { tier: self.floor, backend: None })
    }

    /// The tier in which this one serves.
    fn seat_of(&self, id: u64, tiers: &[Tier]) -> Option<u8> {
        tiers.iter().find(|tier| tier.serving.contains(&id)).map(|tier| tier.number)
    }

    /// The best tier that may take over again by itself.
    fn better(&self, now: Duration, tiers: &[Tier]) -> Option<u8> {
        let mut ripe = tiers.iter().map(|tier| tier.number).take_while(|n| *n < self.floor);
        ripe.find(|number| self.ripens(*number).is_some_and(|at| at <= now))
    }

    /// When this tier may take over again.
    fn ripens(&self, number: u8) -> Option<Duration> {
        if self.held || self.rules.mode == FailoverMode::Manual {
            return None;
        }
        let (_, since) = self.well.iter().find(|(of, _)| *of == number)?;
        match self.rules.failback {
            Failback::Automatic => Some(*since),
            Failback::After(stable) => Some(since.saturating_add(stable)),
            Failback::Manual => None,
        }
    }

    fn next(&self, now: Duration, tiers: &[Tier]) -> Option<Duration> {
        if matches!(self.seat, Seat::Left { .. }) {
            return None;
        }
        let better = tiers.iter().map(|tier| tier.number).take_while(|n| *n < self.floor);
        // A second move that is due follows in a step of its own.
        better.filter_map(|number| self.ripens(number)).min().map(|at| at.max(now))
    }

    /// The tiers from the one in use on, round to those before it.
    fn round<'a>(&self, tiers: &'a [Tier]) -> impl Iterator<Item = &'a Tier> + use<'a> {
        let first = tiers.iter().position(|tier| tier.number >= self.floor).unwrap_or(0);
        tiers[first..].iter().chain(&tiers[..first])
    }

    fn raise(&mut self, tiers: &[Tier]) {
        let none = tiers.iter().all(|tier| tier.serving.is_empty());
        let in_use = find(tiers, self.floor);
        let serves = match (self.rules.exclusive, self.seat) {
            (true, Seat::Taken(id)) => self.seat_of(id, tiers).is_some(),
            (true, Seat::Left { .. }) => true,
            (true, Seat::Empty) => false,
            (false, _) => in_use.is_some_and(|tier| !tier.serving.is_empty()),
        };
        let dead = self.rules.mode == FailoverMode::Manual && !serves;
        let claim = in_use.map_or(0, |tier| tier.serving.len());
        self.alarms[Alarm::NoneServing.index()] = none;
        self.alarms[Alarm::ChosenDead.index()] = dead;
        self.alarms[Alarm::Conflict.index()] = self.rules.exclusive && claim > 1;
    }
}

fn find(tiers: &[Tier], number: u8) -> Option<&Tier> {
    tiers.iter().find(|tier| tier.number == number)
}
