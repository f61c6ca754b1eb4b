//! How a pool's tiers take over from one another: each key proved, then a pool's own keys over those of
//! `pool_defaults`.

use super::cx::Cx;
use super::words::{flag, or_off, positive_duration, word};
use crate::config::defaults::FAILOVER;
use crate::config::model::{Failback, Failover, FailoverMode, OnChange, WhenNoneServe};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::config::units::{duration, percent};

const MODES: [(&str, FailoverMode); 2] =
    [("automatic", FailoverMode::Automatic), ("manual", FailoverMode::Manual)];
const NONE_SERVE: [(&str, WhenNoneServe); 2] =
    [("reject", WhenNoneServe::Reject), ("try_all", WhenNoneServe::TryAll)];

/// Each key, proved; `None` is silence.
#[derive(Debug, Default)]
pub struct Keys {
    mode: Option<FailoverMode>,
    spill_below: Option<Option<u32>>,
    failback: Option<Failback>,
    when_none_serve: Option<WhenNoneServe>,
    exclusive: Option<bool>,
    on_down: Option<OnChange>,
    on_failback: Option<OnChange>,
}

pub fn keys(cx: &mut Cx<'_>, at: &Path, raw: raw::Failover) -> Keys {
    let mode = cx.text(&at.key("mode"), raw.mode.as_ref(), |text| word(text, &MODES));
    let spill_below = cx.text(&at.key("spill_below"), raw.spill_below.as_ref(), |text| {
        or_off(text, |text| percent(text, 1..=100))
    });
    let failback = raw.failback.and_then(|raw| failback(cx, &at.key("failback"), raw));
    let when_none_serve =
        cx.text(&at.key("when_none_serve"), raw.when_none_serve.as_ref(), |text| {
            word(text, &NONE_SERVE)
        });
    let exclusive = cx.text(&at.key("exclusive"), raw.exclusive.as_ref(), flag);
    let on_down = raw.on_down.and_then(|raw| on_change(cx, &at.key("on_down"), raw));
    let on_failback = raw.on_failback.and_then(|raw| on_change(cx, &at.key("on_failback"), raw));
    Keys { mode, spill_below, failback, when_none_serve, exclusive, on_down, on_failback }
}

fn failback(cx: &mut Cx<'_>, at: &Path, raw: raw::Failback) -> Option<Failback> {
    match raw {
        raw::Failback::Word(text) => cx.text(at, Some(&text), |text| {
            word(text, &[("automatic", Failback::Automatic), ("manual", Failback::Manual)]).map_err(
                |mut wrong| {
                    wrong.allowed = Some("automatic, manual, {after: DURATION}".to_owned());
                    let help = match text {
                        _ if positive_duration(text).is_ok() => {
                            Some(format!("write failback: {{after: {text}}}"))
                        }
                        "off" | "never" => Some("for never by itself write manual".to_owned()),
                        _ => None,
                    };
                    wrong.help_if(help)
                },
            )
        }),
        raw::Failback::Parts { after } => {
            cx.missing(at, "after", "failback: {after: 30s}");
            cx.text(&at.key("after"), after.as_ref(), |text| {
                let help = match text {
                    "manual" | "automatic" => Some(format!("write failback: {text}")),
                    text if is_zero(text) => Some("for at once write failback: automatic".into()),
                    _ => None,
                };
                positive_duration(text).map_err(|wrong| wrong.help_if(help))
            })
            .map(Failback::After)
        }
    }
}

fn on_change(cx: &mut Cx<'_>, at: &Path, raw: raw::OnChange) -> Option<OnChange> {
    match raw {
        raw::OnChange::Word(text) => cx.text(at, Some(&text), |text| {
            word(text, &[("keep", OnChange::Keep), ("close", OnChange::Close)]).map_err(
                |mut wrong| {
                    wrong.allowed = Some("keep, close, {close_after: DURATION}".to_owned());
                    let time = positive_duration(text).is_ok();
                    wrong.help_if(time.then(|| format!("write {{close_after: {text}}}")))
                },
            )
        }),
        raw::OnChange::Parts { close_after } => {
            cx.missing(at, "close_after", "{close_after: 10s}");
            cx.text(&at.key("close_after"), close_after.as_ref(), |text| {
                let at_once = || "for at once write `close` alone".to_owned();
                positive_duration(text).map_err(|wrong| wrong.help_if(is_zero(text).then(at_once)))
            })
            .map(OnChange::CloseAfter)
        }
    }
}

fn is_zero(text: &str) -> bool {
    duration(text).is_ok_and(|duration| duration.is_zero())
}

/// A pool's own keys over those of `pool_defaults`. `at` is the pool.
pub fn settle(cx: &mut Cx<'_>, at: &Path, own: &Keys, shared: &Keys) -> Failover {
    let exclusive = own.exclusive.or(shared.exclusive).unwrap_or(FAILOVER.exclusive);
    let spill_below = own.spill_below.or(shared.spill_below).unwrap_or(FAILOVER.spill_below);
    let when_none_serve =
        own.when_none_serve.or(shared.when_none_serve).unwrap_or(FAILOVER.when_none_serve);
    let silent = if exclusive { OnChange::Close } else { FAILOVER.on_down };
    let failover = Failover {
        mode: own.mode.or(shared.mode).unwrap_or(FAILOVER.mode),
        spill_below,
        failback: own.failback.or(shared.failback).unwrap_or(FAILOVER.failback),
        when_none_serve,
        exclusive,
        on_down: own.on_down.or(shared.on_down).unwrap_or(silent),
        on_failback: own.on_failback.or(shared.on_failback).unwrap_or(FAILOVER.on_failback),
    };
    if exclusive && when_none_serve == WhenNoneServe::TryAll {
        let wrong = Wrong::new(
            "an exclusive pool cannot try all its backends: two of them could take writes",
            "when_none_serve: reject, where exclusive is true",
        );
        cx.error(&place(cx, at, "when_none_serve"), None, wrong);
    }
    if exclusive && spill_below.is_some() {
        let wrong = Wrong::new(
            "an exclusive pool cannot spill: only one of its backends serves",
            "spill_below: off, where exclusive is true",
        );
        cx.error(&place(cx, at, "spill_below"), None, wrong);
    }
    failover
}

/// Where the pool itself says it; else the pool, which has it from `pool_defaults`.
fn place(cx: &Cx<'_>, pool: &Path, key: &str) -> Path {
    let at = pool.key("failover").key(key);
    if cx.has(&at) { at } else { pool.clone() }
}
