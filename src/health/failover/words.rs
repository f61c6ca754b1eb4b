//! What the machine of tiers is asked with and what it answers: rules, tiers, moves, alarms. Decides
//! nothing.

use std::time::Duration;

use crate::config::model::{self, Failback, FailoverMode};

/// What a pool is configured to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    pub mode: FailoverMode,
    pub failback: Failback,
    pub exclusive: bool,
}

impl From<&model::Failover> for Rules {
    fn from(config: &model::Failover) -> Rules {
        let model::Failover { mode, failback, exclusive, .. } = *config;
        Rules { mode, failback, exclusive }
    }
}

/// A tier as it is now. Always handed over all together, in order, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    pub number: u8,
    /// Those that take traffic, in the order of the file, by their ids.
    pub serving: Vec<u64>,
}

/// What a pool's traffic goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub tier: u8,
    /// Of an exclusive pool.
    pub backend: Option<u64>,
}

/// Why a pool's traffic goes elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// What was in use serves nothing.
    Failover,
    /// A better tier is well again.
    Failback,
    /// An operator's word.
    Switchover,
    /// What was in use is in the configuration no more.
    Reload,
}

impl Cause {
    pub const ALL: [Cause; 4] =
        [Cause::Failover, Cause::Failback, Cause::Switchover, Cause::Reload];

    /// Its place in [`Cause::ALL`], and so its metric cell.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The metric label, and the word in the log.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Failover => "failover",
            Cause::Failback => "failback",
            Cause::Switchover => "switchover",
            Cause::Reload => "reload",
        }
    }
}

/// One move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub cause: Cause,
    pub from: Place,
    pub to: Place,
}

/// What an operator should look at. Each is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// No tier serves anything.
    NoneServing,
    /// What an operator chose serves nothing, and is not overridden.
    ChosenDead,
    /// Two of an exclusive pool claim to be the one.
    Conflict,
}

impl Alarm {
    pub const ALL: [Alarm; 3] = [Alarm::NoneServing, Alarm::ChosenDead, Alarm::Conflict];

    pub fn index(self) -> usize {
        self as usize
    }

    /// The metric label, and the word in the log.
    pub fn label(self) -> &'static str {
        match self {
            Alarm::NoneServing => "none_serving",
            Alarm::ChosenDead => "chosen_dead",
            Alarm::Conflict => "conflict",
        }
    }
}

/// Whose connections are to be closed before the seat is given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    One(u64),
    /// Those of every backend: the pool was not exclusive until now.
    All,
}

/// What follows from a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub event: Option<Event>,
    /// Close these connections everywhere, then say [`Machine::left`].
    pub leave: Option<Leave>,
    /// Look again then, if nothing happens before.
    pub next: Option<Duration>,
}

/// Why an operator's word is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the pool has no such tier")]
    UnknownTier,
    #[error("nothing there serves")]
    ServesNothing,
    #[error("it is in use already")]
    AlreadyThere,
    #[error("the pool is just closing the connections of the backend it leaves")]
    Leaving,
}
