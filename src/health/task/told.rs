//! What an operator is told of a pool's tiers: one log event and one count for each move, one event when
//! an alarm begins and one when it ends. Decides nothing.

use std::fmt::Write;

use crate::health::failover::{Alarm, Cause, Event, Machine, Place};
use crate::pool::Pool;

/// One move was made.
pub(super) fn moved(pool: &Pool, event: &Event, why: &str) {
    pool.state.tiers.moves[event.cause.index()].inc();
    let (name, weights) = (&pool.config.name, weights(pool));
    let (from, to) = (place(pool, event.from), place(pool, event.to));
    let cause = event.cause.label();
    macro_rules! event {
        ($level:ident, $message:literal) => {
            tracing::$level!(pool = %name, from, to, cause, why, weights, $message)
        };
    }
    match event.cause {
        Cause::Failover => event!(warn, "failover"),
        Cause::Failback => event!(info, "failback"),
        Cause::Switchover => event!(info, "switchover"),
        Cause::Reload => event!(info, "another tier by reload"),
    }
}

/// Tells what is new about alarms.
pub(super) fn alarms(pool: &Pool, before: &Machine, now: &Machine, why: &str) {
    let name = &pool.config.name;
    for alarm in Alarm::ALL {
        let on = now.has(alarm);
        pool.state.tiers.alarms[alarm.index()].set(on);
        if before.has(alarm) == on {
            continue;
        }
        let (alarm, weights, meaning) = (alarm.label(), weights(pool), meaning(alarm));
        match on {
            true => tracing::warn!(pool = %name, alarm, meaning, why, weights, "alarm"),
            false => tracing::info!(pool = %name, alarm, why, weights, "alarm is over"),
        }
    }
}

/// A switch waits for connections that do not close.
pub(super) fn slow_to_close(pool: &Pool) {
    tracing::warn!(
        pool = %pool.config.name,
        "no backend is used before all connections to the former are closed, and some are not yet"
    );
}

fn meaning(alarm: Alarm) -> &'static str {
    match alarm {
        Alarm::NoneServing => "no backend of the pool serves",
        Alarm::ChosenDead => "what an operator chose serves nothing; only he switches",
        Alarm::Conflict => "more than one claims to be the one; the present one stays",
    }
}

/// `tier 1`, or `tier 1 (10.0.0.1:5432)`.
fn place(pool: &Pool, place: Place) -> String {
    let of = |id| pool.members.iter().find(|member| member.state.id == id);
    match place.backend.map(of) {
        None => format!("tier {}", place.tier),
        Some(None) => format!("tier {} (gone)", place.tier),
        Some(Some(member)) => format!("tier {} ({})", place.tier, member.state.addr),
    }
}

/// What serves of each tier: `tier 0: 0 of 2, tier 1: 1 of 1`.
fn weights(pool: &Pool) -> String {
    let mut text = String::new();
    for tier in &pool.tiers {
        let weights = tier.weights(&pool.members);
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a String never fails.
        let _ =
            write!(text, "{comma}tier {}: {} of {}", tier.number, weights.serving, weights.whole);
    }
    text
}
