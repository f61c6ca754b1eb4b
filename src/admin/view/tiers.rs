//! The lines of `/readyz?verbose` for a pool's tiers: what serves of each, which one is in use, and what
//! share of the load each gets, with the arithmetic. Pure; reads what picks read.

use std::fmt::Write;

use crate::config::model::FailoverMode;
use crate::health::failover::Alarm;
use crate::pool::tier::{self, Weights};
use crate::pool::{Pool, Tier};

/// The tier that picks begin with.
pub fn in_use(pool: &Pool) -> &Tier {
    &pool.tiers[place_in_use(pool)]
}

fn place_in_use(pool: &Pool) -> usize {
    let floor = pool.state.floor();
    // As picks do: a floor above every tier is left over from an older configuration.
    pool.tiers.iter().position(|tier| tier.number >= floor).unwrap_or(0)
}

/// The share of the load that each tier gets, in order, 0 to 1.
pub(super) fn shares(pool: &Pool) -> Vec<f64> {
    let weights: Vec<Weights> = pool.tiers.iter().map(|tier| tier.weights(&pool.members)).collect();
    let first = place_in_use(pool);
    let failover = &pool.config.failover;
    let alone = |serves: bool| {
        let share = if serves { 1.0 } else { 0.0 };
        (0..weights.len()).map(|place| if place == first { share } else { 0.0 }).collect()
    };
    if failover.exclusive {
        let chosen = pool.state.chosen();
        let serves = |m: &crate::pool::Member| Some(m.state.id) == chosen && m.state.serving();
        return alone(pool.members.iter().any(serves));
    }
    match failover.mode {
        FailoverMode::Manual => alone(weights[first].serving > 0),
        FailoverMode::Automatic => tier::shares(&weights, first, failover.spill_below),
    }
}

pub(super) fn tier(text: &mut String, pool: &Pool, tier: &Tier, share: f64) {
    let Weights { serving, whole } = tier.weights(&pool.members);
    let used = if tier.number == in_use(pool).number { ", in use" } else { "" };
    // Writing to a String never fails.
    let _ = write!(
        text,
        "  tier {}{used}: weight {serving} of {whole} serves, {:.1} % of the load",
        tier.number,
        share * 100.0
    );
    let failover = &pool.config.failover;
    if let Some(below) = failover.spill_below.filter(|_| !failover.exclusive && whole > 0) {
        let kept = Weights { serving, whole }.kept(below) * 100.0;
        let _ = write!(
            text,
            " (keeps min(1, {serving} / {whole} / {below} %) = {kept:.1} % of what it is offered)"
        );
    }
    if failover.exclusive && in_use(pool).number == tier.number {
        let chosen = pool.members.iter().find(|m| Some(m.state.id) == pool.state.chosen());
        let _ = match chosen {
            Some(member) => write!(text, ", all of it to {}", member.state.addr),
            None => write!(text, ", nobody is chosen"),
        };
    }
    text.push('\n');
}

pub(super) fn alarms(text: &mut String, pool: &Pool) {
    if pool.state.tiers.held.get() {
        text.push_str("  failback is held: an operator has switched\n");
    }
    for (alarm, on) in Alarm::ALL.iter().zip(&pool.state.tiers.alarms) {
        if on.get() {
            let _ = writeln!(text, "  alarm: {}", alarm.label());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::defaults;
    use crate::config::model::{Failover, Name};
    use crate::pool::sample;
    use crate::pool::{Member, Reason};

    #[test]
    fn the_lines_show_what_serves_where_and_why_it_gets_its_share() {
        let name = Name::new("web").expect("a valid name");
        let failover = Failover { spill_below: Some(80), ..defaults::FAILOVER };
        let sample = sample::pool(crate::config::model::Balance::Random, &[1, 1, 2]);
        let members = sample.members.iter().enumerate().map(|(place, member)| Member {
            tier: u8::from(place == 2),
            ..Member::new(member.state.clone(), member.weight)
        });
        let config = crate::config::model::Pool { failover, ..defaults::pool(name) };
        let pool = Pool::new(config, members.collect(), sample.state.clone());
        pool.members[0].state.set(Reason::Down);
        pool.state.tiers.alarms[Alarm::Conflict.index()].set(true);
        pool.state.tiers.held.set(true);
        let mut text = String::new();
        alarms(&mut text, &pool);
        for (one, share) in pool.tiers.iter().zip(shares(&pool)) {
            tier(&mut text, &pool, one, share);
        }
        let expected = "  failback is held: an operator has switched
  alarm: conflict
  tier 0, in use: weight 1 of 2 serves, 62.5 % of the load (keeps min(1, 1 / 2 / 80 %) = 62.5 % of what \
                        it is offered)
  tier 1: weight 2 of 2 serves, 37.5 % of the load (keeps min(1, 2 / 2 / 80 %) = 100.0 % of what it is \
                        offered)
";
        assert_eq!(text, expected);
    }
}
