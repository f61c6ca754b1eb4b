//! What `/api/v1/` says and takes, in JSON: pools with their tiers and backends, what came of an order, and
//! why one was refused.
//!
//! Pure; reads what picks read. Fields are added, and never renamed: scripts may rely on them.

use serde::{Deserialize, Serialize};

use super::tiers;
use crate::config::model::FailoverMode;
use crate::health::failover::Alarm;
use crate::health::outlier::Why;
use crate::pool::tier::Weights;
use crate::pool::{self, Member, Reason};

#[derive(Debug, Serialize)]
pub struct Pools {
    pub pools: Vec<Pool>,
}

#[derive(Debug, Serialize)]
pub struct Pool {
    pub name: String,
    /// `automatic` or `manual`.
    pub mode: &'static str,
    /// At most one backend is used.
    pub exclusive: bool,
    /// The tier that traffic goes to first.
    pub active_tier: u8,
    /// An operator has switched: nothing fails back by itself.
    pub held: bool,
    /// Backends that serve.
    pub serving: usize,
    /// What an operator should look at.
    pub alarms: Vec<&'static str>,
    pub tiers: Vec<Tier>,
}

#[derive(Debug, Serialize)]
pub struct Tier {
    pub tier: u8,
    pub active: bool,
    pub weight: u64,
    pub serving_weight: u64,
    /// Of the pool's new work, 0 to 1.
    pub share: f64,
    pub backends: Vec<Backend>,
}

#[derive(Debug, Serialize)]
pub struct Backend {
    pub address: String,
    pub weight: u32,
    pub serving: bool,
    /// Why it does not serve.
    pub reasons: Vec<&'static str>,
    /// Out by what its traffic showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected: Option<Ejected>,
    /// Requests and streams in progress.
    pub in_flight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// In an exclusive pool: all traffic goes to this one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
}

#[derive(Debug, Serialize)]
pub struct Ejected {
    /// As in `/readyz?verbose`.
    pub cause: &'static str,
    /// In milliseconds since 1970; after it the backend waits for its trial.
    pub until_unix_ms: u64,
}

/// What came of an order.
#[derive(Debug, Serialize)]
pub struct Done {
    /// `moved`, `closing`, `no_longer_held`, `changed` or `unchanged`.
    pub done: &'static str,
    /// One sentence for people.
    pub message: String,
    /// The pool as it is now.
    pub pool: Pool,
}

#[derive(Debug, Serialize)]
pub struct Problem {
    /// One sentence for people.
    pub error: String,
    /// What there is in place of what was named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switchover {
    /// To the next that serves, if it is left out.
    pub tier: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// As in the configuration: `30s`.
    pub deadline: Option<String>,
}

/// Nothing is to be said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl Pool {
    pub fn of(pool: &pool::Pool) -> Pool {
        let failover = &pool.config.failover;
        let alarms = Alarm::ALL.iter().zip(&pool.state.tiers.alarms);
        let active_tier = tiers::in_use(pool).number;
        let tier = |(tier, share): (&pool::Tier, f64)| {
            let Weights { serving, whole } = tier.weights(&pool.members);
            Tier {
                tier: tier.number,
                active: tier.number == active_tier,
                weight: whole,
                serving_weight: serving,
                share,
                backends: pool.members[tier.places.clone()]
                    .iter()
                    .map(|member| Backend::of(pool, member))
                    .collect(),
            }
        };
        Pool {
            name: pool.config.name.to_string(),
            mode: match failover.mode {
                FailoverMode::Automatic => "automatic",
                FailoverMode::Manual => "manual",
            },
            exclusive: failover.exclusive,
            active_tier,
            held: pool.state.tiers.held.get(),
            serving: pool.serving(),
            alarms: alarms.filter(|(_, on)| on.get()).map(|(alarm, _)| alarm.label()).collect(),
            tiers: pool.tiers.iter().zip(tiers::shares(pool)).map(tier).collect(),
        }
    }
}

impl Backend {
    fn of(pool: &pool::Pool, member: &Member) -> Backend {
        let state = &member.state;
        Backend {
            address: state.addr.to_string(),
            weight: member.weight,
            serving: state.serving(),
            reasons: state.reasons().map(|reason| reason.label()).collect(),
            ejected: ejected(member),
            in_flight: state.in_flight(),
            max_requests: member.max_requests,
            chosen: pool.config.failover.exclusive && pool.state.chosen() == Some(state.id),
        }
    }
}

fn ejected(member: &Member) -> Option<Ejected> {
    let passive = &member.state.passive;
    let cause = Why::LABELS.get(passive.cause.get() as usize);
    let cause = cause.filter(|_| member.state.has(Reason::Ejected))?;
    Some(Ejected { cause, until_unix_ms: passive.until_millis.get() })
}
