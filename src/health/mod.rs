//! Active health checks: whether each backend serves, asked over and over on the control thread.
//!
//! The story: `task` keeps one loop per probed backend. A loop waits as `schedule` says, makes one
//! `probe`, and hands the verdict to the backend's `task::record`, where `hysteresis` decides whether
//! that changes its state. Only the record writes the bits `unverified`, `down` and `wrong_role`, the log
//! event and the metric of a change. Data workers never wait for any of it: they read the bits.
//!
//! What then follows for its pool, `failover` decides: which tier is in use, and of an exclusive pool which
//! backend. `task::standing` is the door that every change goes through, and does what it says.
//!
//! A new backend is `unverified` until its first verdict, which settles it at once; `apply` before a
//! swap and wait for [`task::Settled`], and no client meets a dead backend.
//!
//! Beside it, passive judgement: `flow::judge` counts how requests end, `task::outlier` brings that to the
//! pool's judge (`outlier`, with `window` and `damping`), who says which backends are ejected and until
//! when. `disagreement` is where the two do not agree.

pub mod damping;
pub mod disagreement;
pub mod failover;
pub mod hysteresis;
pub mod outlier;
pub mod probe;
pub mod schedule;
pub mod task;
pub mod window;

#[cfg(test)]
mod tests;

/// What a seeded simulation starts from; `EVENKEEL_SEED` replays one.
#[cfg(test)]
fn seed() -> u64 {
    std::env::var("EVENKEEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42)
}
