//! The stable text of `/readyz`: whether this process wants traffic, and with `?verbose` why.
//! `tiers` writes the lines of a pool's tiers, `pools` what `/api/v1/` says.
//!
//! Pure: `now` comes in, the facts are read off the snapshot and the status. Scripts may rely on
//! the first line and on the form of the lines below it; changes here are announced.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use crate::health::outlier::Why;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::status::Status;
use crate::pool::{Member, Pool, Reason};
use crate::snapshot::Snapshot;

pub mod pools;
mod tiers;
pub use tiers::in_use;

/// With more backends than this in the snapshot, only those that do not serve are listed.
const LISTED_BACKENDS: usize = 1000;

/// Why the process is not ready, a line each; empty if it is.
pub fn readiness(snapshot: &Snapshot, phase: Phase) -> Vec<String> {
    let mut why = Vec::new();
    if phase != Phase::Running {
        why.push(format!("phase is {}", phase.label()));
    }
    for name in &snapshot.config.admin.ready_requires {
        let serving = snapshot.pool_named(name).map_or(0, |pool| pool.serving());
        if serving == 0 {
            why.push(format!("pool {name} has no serving backend"));
        }
    }
    why
}

/// `ready` or `not ready`, and why not.
pub fn brief(why: &[String]) -> String {
    if why.is_empty() {
        return "ready\n".to_owned();
    }
    let mut text = "not ready\n".to_owned();
    for line in why {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// [`brief`], then phase, reload, and each pool with its backends and their reasons.
pub fn verbose(snapshot: &Snapshot, status: &Status, now: SystemTime) -> String {
    let phase = *status.phase.borrow();
    let mut text = brief(&readiness(snapshot, phase));
    text.push('\n');
    // Writing to a String never fails.
    let _ = writeln!(text, "version: {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "phase: {}", phase.label());
    reload(&mut text, snapshot, status, now);
    certificates(&mut text, status, now);
    let total: usize = snapshot.pools.iter().map(|pool| pool.members.len()).sum();
    for one in &snapshot.pools {
        pool(&mut text, one, total <= LISTED_BACKENDS, now);
    }
    text
}

fn reload(text: &mut String, snapshot: &Snapshot, status: &Status, now: SystemTime) {
    let reload = status.reload();
    let age = now.duration_since(reload.loaded_at).unwrap_or_default().as_secs();
    let generation = snapshot.generation;
    let _ = writeln!(text, "configuration: generation {generation}, loaded {age} s ago");
    match &reload.error {
        None => text.push_str("last reload: ok\n"),
        Some(error) => {
            text.push_str("last reload: failed, nothing was changed\n");
            for line in error.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    for change in &reload.needs_restart {
        let _ = writeln!(text, "restart needed: {change}");
    }
}

/// How it stands with those that are ordered from an ACME server.
fn certificates(text: &mut String, status: &Status, now: SystemTime) {
    for (domain, state) in &*status.acme() {
        let left = |at: SystemTime| about(at.duration_since(now).unwrap_or_default());
        let _ = match state.not_after {
            None => write!(text, "certificate {domain}: none yet"),
            Some(end) if end <= now => write!(text, "certificate {domain}: expired"),
            Some(end) => write!(text, "certificate {domain}: good for {}", left(end)),
        };
        let _ = writeln!(text, ", next order in {}", left(state.due));
        if let Some(error) = &state.error {
            let _ = writeln!(text, "  the last order failed: {error}");
        }
    }
}

/// As exactly as anybody wants to know it.
fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn pool(text: &mut String, pool: &Pool, list_all: bool, now: SystemTime) {
    let (name, all) = (&pool.config.name, pool.members.len());
    let _ = write!(text, "\npool {name}: {} of {all} serving", pool.serving());
    text.push_str(if list_all { "\n" } else { " (only the others are listed)\n" });
    tiers::alarms(text, pool);
    let shares = tiers::shares(pool);
    for (tier, share) in pool.tiers.iter().zip(shares) {
        if pool.tiers.len() > 1 || pool.config.failover.exclusive {
            tiers::tier(text, pool, tier, share);
        }
        members(text, &pool.members[tier.places.clone()], list_all, now);
    }
}

fn members(text: &mut String, members: &[Member], list_all: bool, now: SystemTime) {
    for member in members {
        let mut reasons = member.state.reasons().map(|reason| reason.label()).peekable();
        if reasons.peek().is_some() {
            let reasons = reasons.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "  {} {reasons}{}", member.state.addr, ejection(member, now));
        } else if list_all {
            let _ = writeln!(text, "  {} serving", member.state.addr);
        }
    }
}

/// Why it is ejected, and for how long yet.
fn ejection(member: &Member, now: SystemTime) -> String {
    let passive = &member.state.passive;
    let cause = Why::LABELS.get(passive.cause.get() as usize);
    let Some(cause) = cause.filter(|_| member.state.has(Reason::Ejected)) else {
        return String::new();
    };
    let until = SystemTime::UNIX_EPOCH + Duration::from_millis(passive.until_millis.get());
    match until.duration_since(now) {
        Ok(left) => format!(" ({cause}, {} s to go)", left.as_secs() + 1),
        Err(_) => format!(" ({cause}, waits for its trial)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::scene;

    #[test]
    fn ready_means_running_and_every_required_pool_serving() {
        use Phase::*;
        let cases: [(Phase, &[&str], bool, &[&str]); 7] = [
            (Running, &[], false, &[]),
            (Running, &[], true, &[]),
            (Running, &["web"], false, &[]),
            (Running, &["web"], true, &["pool web has no serving backend"]),
            (Starting, &[], false, &["phase is starting"]),
            (Draining, &["web"], true, &["phase is draining", "pool web has no serving backend"]),
            (Running, &["gone"], false, &["pool gone has no serving backend"]),
        ];
        for (phase, required, all_down, expected) in cases {
            let snapshot = scene().requires(required).backends(2).build();
            for member in &snapshot.pools[0].members {
                if all_down {
                    member.state.set(Reason::Down);
                }
            }
            let why = readiness(&snapshot, phase);
            assert_eq!(why, expected, "{phase:?} {required:?} all down: {all_down}");
        }
    }

    #[test]
    fn the_verbose_text_is_stable() {
        let snapshot = scene().requires(&["web"]).backends(3).build();
        snapshot.pools[0].members[1].state.set(Reason::Down);
        snapshot.pools[0].members[2].state.set(Reason::Down);
        snapshot.pools[0].members[2].state.set(Reason::Unverified);
        let status = Status::new(2, 1024);
        status.phase.send_replace(Phase::Running);
        let now = status.reload().loaded_at + Duration::from_secs(35);
        let version = env!("CARGO_PKG_VERSION");
        let pools = "
pool web: 1 of 3 serving
  10.0.0.0:80 serving
  10.0.0.1:80 down
  10.0.0.2:80 unverified, down
";
        let expected = format!(
            "ready\n\nversion: {version}\nphase: running\n\
             configuration: generation 7, loaded 35 s ago\nlast reload: ok\n{pools}"
        );
        assert_eq!(verbose(&snapshot, &status, now), expected);

        status.phase.send_replace(Phase::Leaving);
        status.reload().error = Some("a.yaml:3:1: unknown key\n  did you mean pools?".into());
        status.reload().needs_restart.push("workers: 2 -> 4".into());
        let expected = format!(
            "not ready\nphase is leaving\n\nversion: {version}\nphase: leaving\n\
             configuration: generation 7, loaded 35 s ago\n\
             last reload: failed, nothing was changed\n  a.yaml:3:1: unknown key\n    \
             did you mean pools?\nrestart needed: workers: 2 -> 4\n{pools}"
        );
        assert_eq!(verbose(&snapshot, &status, now), expected);
    }

    #[test]
    fn an_ejected_one_is_told_with_its_cause_and_its_time() {
        let snapshot = scene().backends(1).build();
        let state = &snapshot.pools[0].members[0].state;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        state.set(Reason::Ejected);
        state.passive.cause.set(1);
        state.passive.until_millis.set(1_007_500);
        let text = |now| verbose(&snapshot, &Status::new(1, 0), now);
        assert!(text(now).ends_with("  10.0.0.0:80 ejected (share, 8 s to go)\n"), "{}", text(now));
        let later = text(now + Duration::from_secs(10));
        assert!(later.ends_with("ejected (share, waits for its trial)\n"), "{later}");
    }

    #[test]
    fn with_many_backends_only_those_that_do_not_serve_are_listed() {
        let snapshot = scene().backends(20_000).build();
        snapshot.pools[0].members[77].state.set(Reason::Down);
        let text = verbose(&snapshot, &Status::new(1, 0), SystemTime::now());
        let pools = "pool web: 19999 of 20000 serving (only the others are listed)\n  \
                     10.0.0.77:80 down\n";
        assert!(text.ends_with(pools), "{text}");
    }
}
