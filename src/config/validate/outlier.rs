//! Passive judgement by real traffic: each key proved, then a pool's own keys over those of
//! `pool_defaults`.

use std::time::Duration;

use super::cx::Cx;
use super::words::{flag, or_off, positive_duration, whole};
use crate::config::defaults::OUTLIER;
use crate::config::model::Outlier;
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::config::units::{percent, show_duration};

/// Shorter windows see too little, longer ones judge by what was long ago.
const WINDOW: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(600);

#[derive(Debug)]
pub enum Setting {
    Off,
    Keys(Box<Keys>),
}

/// Each key, proved; `None` is silence.
#[derive(Debug, Default)]
pub struct Keys {
    consecutive_failures: Option<Option<u32>>,
    failure_share: Option<Option<u32>>,
    count_5xx: Option<bool>,
    latency_times: Option<Option<f64>>,
    window: Option<Duration>,
    min_requests: Option<u32>,
    eject_for: Option<Duration>,
    eject_for_max: Option<Duration>,
    eject_at_most: Option<u32>,
    flap_damping: Option<bool>,
}

pub fn setting(cx: &mut Cx<'_>, at: &Path, raw: raw::Outlier) -> Option<Setting> {
    let parts = match raw {
        raw::Outlier::Word(text) => {
            return cx.text(at, Some(&text), |text| match text {
                "off" => Ok(Setting::Off),
                _ => Err(Wrong::new("not a setting of outlier", "off, or a map of its keys")
                    .help("it is on by default: leave it out, or write outlier: {}")),
            });
        }
        raw::Outlier::Parts(parts) => *parts,
    };
    let consecutive =
        cx.text(&at.key("consecutive_failures"), parts.consecutive_failures.as_ref(), |text| {
            or_off(text, |text| whole(text, 1..=1000).map(|n| n as u32))
        });
    let failure_share = cx.text(&at.key("failure_share"), parts.failure_share.as_ref(), |text| {
        or_off(text, |text| percent(text, 1..=100))
    });
    let count_5xx = cx.text(&at.key("count_5xx"), parts.count_5xx.as_ref(), flag);
    let latency_times = parts.latency.and_then(|raw| latency(cx, &at.key("latency"), raw));
    let window = cx.text(&at.key("window"), parts.window.as_ref(), window);
    let min_requests = cx.text(&at.key("min_requests"), parts.min_requests.as_ref(), |text| {
        whole(text, 1..=1_000_000).map(|n| n as u32)
    });
    let eject_for = cx.text(&at.key("eject_for"), parts.eject_for.as_ref(), positive_duration);
    let eject_for_max =
        cx.text(&at.key("eject_for_max"), parts.eject_for_max.as_ref(), positive_duration);
    let eject_at_most = cx.text(&at.key("eject_at_most"), parts.eject_at_most.as_ref(), |text| {
        percent(text, 1..=100)
    });
    let flap_damping = cx.text(&at.key("flap_damping"), parts.flap_damping.as_ref(), flag);
    Some(Setting::Keys(Box::new(Keys {
        consecutive_failures: consecutive,
        failure_share,
        count_5xx,
        latency_times,
        window,
        min_requests,
        eject_for,
        eject_for_max,
        eject_at_most,
        flap_damping,
    })))
}

fn window(text: &str) -> Result<Duration, Wrong> {
    let read = positive_duration(text)?;
    let (least, most) = (WINDOW.start(), WINDOW.end());
    let allowed = || format!("from {} to {}", show_duration(*least), show_duration(*most));
    match read {
        read if read < *least => Err(Wrong::new("too short", allowed())),
        read if read > *most => Err(Wrong::new("too long", allowed())),
        read => Ok(read),
    }
}

fn latency(cx: &mut Cx<'_>, at: &Path, raw: raw::Latency) -> Option<Option<f64>> {
    match raw {
        raw::Latency::Word(text) => cx.text(at, Some(&text), |text| match text {
            "off" => Ok(None),
            _ => {
                let number = text.parse::<f64>().is_ok_and(|n| n > 1.0);
                let help = number.then(|| format!("write latency: {{times: {text}}}"));
                Err(Wrong::new("not a setting of latency", "off, {times: NUMBER}").help_if(help))
            }
        }),
        raw::Latency::Parts { times } => {
            cx.missing(at, "times", "latency: {times: 4}");
            cx.text(&at.key("times"), times.as_ref(), |text| {
                let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
                text.parse::<f64>()
                    .ok()
                    .filter(|times| plain && (1.1..=1000.0).contains(times))
                    .map(Some)
                    .ok_or_else(|| Wrong::new("not a factor", "a number from 1.1 to 1000"))
            })
        }
    }
}

/// A pool's own setting over that of `pool_defaults`, key by key. `at` is the pool.
pub fn settle(
    cx: &mut Cx<'_>,
    at: &Path,
    own: Option<&Setting>,
    shared: Option<&Setting>,
) -> Option<Outlier> {
    let silent = Keys::default();
    let (over, under) = match (own, shared) {
        (Some(Setting::Off), _) | (None, Some(Setting::Off)) => return None,
        (Some(Setting::Keys(over)), Some(Setting::Keys(under))) => (&**over, &**under),
        (Some(Setting::Keys(over)), Some(Setting::Off) | None) => (&**over, &silent),
        (None, Some(Setting::Keys(under))) => (&silent, &**under),
        (None, None) => (&silent, &silent),
    };
    let outlier = Outlier {
        consecutive_failures: over
            .consecutive_failures
            .or(under.consecutive_failures)
            .unwrap_or(OUTLIER.consecutive_failures),
        failure_share: over.failure_share.or(under.failure_share).unwrap_or(OUTLIER.failure_share),
        count_5xx: over.count_5xx.or(under.count_5xx).unwrap_or(OUTLIER.count_5xx),
        latency_times: over.latency_times.or(under.latency_times).unwrap_or(OUTLIER.latency_times),
        window: over.window.or(under.window).unwrap_or(OUTLIER.window),
        min_requests: over.min_requests.or(under.min_requests).unwrap_or(OUTLIER.min_requests),
        eject_for: over.eject_for.or(under.eject_for).unwrap_or(OUTLIER.eject_for),
        eject_for_max: over.eject_for_max.or(under.eject_for_max).unwrap_or(OUTLIER.eject_for_max),
        eject_at_most: over.eject_at_most.or(under.eject_at_most).unwrap_or(OUTLIER.eject_at_most),
        flap_damping: over.flap_damping.or(under.flap_damping).unwrap_or(OUTLIER.flap_damping),
    };
    together(cx, &at.key("outlier"), &outlier);
    Some(outlier)
}

/// What only several keys together show.
fn together(cx: &mut Cx<'_>, at: &Path, outlier: &Outlier) {
    if outlier.eject_for > outlier.eject_for_max {
        let text = format!(
            "eject_for ({}) is longer than eject_for_max ({})",
            show_duration(outlier.eject_for),
            show_duration(outlier.eject_for_max)
        );
        let key = ["eject_for", "eject_for_max"].map(|key| at.key(key));
        let place = key.into_iter().find(|key| cx.has(key)).unwrap_or_else(|| at.clone());
        cx.error(&place, None, Wrong::new(text, "eject_for up to eject_for_max"));
    }
    let judges = outlier.consecutive_failures.is_some()
        || outlier.failure_share.is_some()
        || outlier.latency_times.is_some();
    if !judges {
        let wrong = Wrong::plain(
            "consecutive_failures, failure_share and latency are all off: no backend is ever ejected",
        );
        cx.warn(at, wrong.help("if it is meant so, write outlier: off"));
    }
}
