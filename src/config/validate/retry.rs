//! What is sent again and how often, and where requests wait: each key proved, then a pool's own keys
//! over those of `pool_defaults`.

use std::time::Duration;

use http::HeaderName;

use super::cx::Cx;
use super::edits::hop_by_hop;
use super::http_words::header_name;
use super::words::{positive_duration, size_within, whole, word};
use crate::config::defaults::{QUEUE_SIZE, QUEUE_TIMEOUT, RETRY};
use crate::config::model::{HedgeAfter, Queue, Retry, RetryOn};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::config::units::percent;

/// Of each request in progress that has a body; more belongs on a disk.
const BUFFER: std::ops::RangeInclusive<u64> = 0..=16 * 1024 * 1024;

#[derive(Debug)]
pub enum Setting {
    Off,
    Keys(Keys),
}

/// Each key, proved; `None` is silence.
#[derive(Debug, Default)]
pub struct Keys {
    attempts: Option<u32>,
    on: Option<RetryOn>,
    hedge: Option<Option<HedgeAfter>>,
    budget_percent: Option<u32>,
    budget_min: Option<u32>,
    buffer_bytes: Option<usize>,
}

pub fn setting(cx: &mut Cx<'_>, at: &Path, raw: raw::Retry) -> Option<Setting> {
    let parts = match raw {
        raw::Retry::Word(text) => {
            return cx.text(at, Some(&text), |text| match text {
                "off" => Ok(Setting::Off),
                _ => {
                    let number = whole(text, 0..=100).is_ok();
                    let help = match number {
                        true => format!("write retry: {{attempts: {text}}}; the first one counts"),
                        false => "it is on by default: leave it out, or write retry: {}".to_owned(),
                    };
                    let wrong = Wrong::new("not a setting of retry", "off, or a map of its keys");
                    Err(wrong.help(help))
                }
            });
        }
        raw::Retry::Parts(parts) => *parts,
    };
    let attempts = cx.text(&at.key("attempts"), parts.attempts.as_ref(), |text| {
        whole(text, 1..=10).map(|n| n as u32).map_err(|wrong| {
            let none = matches!(text, "0" | "off");
            wrong.help_if(none.then(|| "for no retry write retry: off".to_owned()))
        })
    });
    let on = retry_on(cx, &at.key("on"), parts.on.as_ref());
    let hedge = parts.hedge.and_then(|raw| hedge(cx, &at.key("hedge"), raw));
    let budget_percent = cx.text(&at.key("budget"), parts.budget.as_ref(), |text| {
        let off = text == "off";
        let help = off.then(|| "for free retries alone write 0%, and budget_min: 0".to_owned());
        percent(text, 0..=100).map_err(|wrong| wrong.help_if(help))
    });
    let budget_min = cx.text(&at.key("budget_min"), parts.budget_min.as_ref(), |text| {
        whole(text, 0..=10_000).map(|n| n as u32)
    });
    let buffer_bytes = cx.text(&at.key("buffer"), parts.buffer.as_ref(), |text| {
        let help = (text == "off").then(|| "for no buffer write 0B".to_owned());
        size_within(text, BUFFER).map(|n| n as usize).map_err(|wrong| wrong.help_if(help))
    });
    Some(Setting::Keys(Keys { attempts, on, hedge, budget_percent, budget_min, buffer_bytes }))
}

fn retry_on(cx: &mut Cx<'_>, at: &Path, texts: Option<&raw::Texts>) -> Option<RetryOn> {
    type Part = fn(&mut RetryOn) -> &mut bool;
    const CAUSES: [(&str, Part); 8] = [
        ("connect", |on| &mut on.connect),
        ("reset", |on| &mut on.reset),
        ("garbage", |on| &mut on.garbage),
        ("timeout", |on| &mut on.timeout),
        ("truncated", |on| &mut on.truncated),
        ("502", |on| &mut on.status_502),
        ("503", |on| &mut on.status_503),
        ("504", |on| &mut on.status_504),
    ];
    texts?;
    if matches!(texts, Some(raw::Texts::Many(list)) if list.is_empty()) {
        let wrong = Wrong::plain("an empty list: nothing would be retried");
        cx.error(at, None, wrong.help("if it is meant so, write retry: off"));
    }
    let mut on = RetryOn::NONE;
    for (_, part) in cx.each(at, texts, |text| {
        word(text, &CAUSES).map_err(|wrong| {
            let help = match text {
                "500" | "501" | "505" => {
                    Some("an answer that the application made is not asked for again")
                }
                "5xx" | "gateway-error" => Some("write [502, 503, 504]"),
                "connect-failure" => Some("write connect"),
                "all" => Some("leave `on` out: all of them is the default"),
                "off" => Some("for no retry write retry: off"),
                _ => None,
            };
            wrong.help_if(help.map(str::to_owned))
        })
    }) {
        *part(&mut on) = true;
    }
    Some(on)
}

fn hedge(cx: &mut Cx<'_>, at: &Path, raw: raw::Hedge) -> Option<Option<HedgeAfter>> {
    match raw {
        raw::Hedge::Word(text) => cx.text(at, Some(&text), |text| match text {
            "off" => Ok(None),
            _ => {
                let fits = text == "p99" || positive_duration(text).is_ok();
                let help = fits.then(|| format!("write hedge: {{after: {text}}}"));
                let allowed = "off, {after: DURATION}, {after: p99}";
                Err(Wrong::new("not a setting of hedge", allowed).help_if(help))
            }
        }),
        raw::Hedge::Parts { after } => {
            cx.missing(at, "after", "hedge: {after: 300ms}");
            cx.text(&at.key("after"), after.as_ref(), |text| match text {
                "p99" => Ok(Some(HedgeAfter::P99)),
                _ => positive_duration(text).map(|time| Some(HedgeAfter::Time(time))).map_err(
                    |mut wrong| {
                        wrong.allowed = wrong.allowed.map(|allowed| format!("p99, or {allowed}"));
                        let off = text == "off";
                        wrong.help_if(off.then(|| "for none write hedge: off".to_owned()))
                    },
                ),
            })
        }
    }
}

/// A pool's own setting over that of `pool_defaults`, key by key.
pub fn settle(own: Option<&Setting>, shared: Option<&Setting>) -> Retry {
    let silent = Keys::default();
    let (over, under) = match (own, shared) {
        (Some(Setting::Off), _) | (None, Some(Setting::Off)) => {
            return Retry { attempts: 1, on: RetryOn::NONE, hedge: None, ..RETRY };
        }
        (Some(Setting::Keys(over)), Some(Setting::Keys(under))) => (over, under),
        (Some(Setting::Keys(over)), Some(Setting::Off) | None) => (over, &silent),
        (None, Some(Setting::Keys(under))) => (&silent, under),
        (None, None) => (&silent, &silent),
    };
    Retry {
        attempts: over.attempts.or(under.attempts).unwrap_or(RETRY.attempts),
        on: over.on.or(under.on).unwrap_or(RETRY.on),
        hedge: over.hedge.or(under.hedge).unwrap_or(RETRY.hedge),
        budget_percent: over
            .budget_percent
            .or(under.budget_percent)
            .unwrap_or(RETRY.budget_percent),
        budget_min: over.budget_min.or(under.budget_min).unwrap_or(RETRY.budget_min),
        buffer_bytes: over.buffer_bytes.or(under.buffer_bytes).unwrap_or(RETRY.buffer_bytes),
    }
}

#[derive(Debug)]
pub enum QueueSetting {
    Off,
    Keys(QueueKeys),
}

#[derive(Debug, Default)]
pub struct QueueKeys {
    size: Option<usize>,
    timeout: Option<Duration>,
    priority_header: Option<HeaderName>,
}

pub fn queue(cx: &mut Cx<'_>, at: &Path, raw: raw::Queue) -> Option<QueueSetting> {
    let parts = match raw {
        raw::Queue::Word(text) => {
            return cx.text(at, Some(&text), |text| match text {
                "off" => Ok(QueueSetting::Off),
                _ => Err(Wrong::new("not a queue", "off, or a map of its keys")
                    .help("for example: queue: {size: 1000, timeout: 5s}")),
            });
        }
        raw::Queue::Parts(parts) => parts,
    };
    let size = cx.text(&at.key("size"), parts.size.as_ref(), |text| {
        whole(text, 1..=1_000_000).map(|n| n as usize).map_err(|wrong| {
            let none = matches!(text, "0" | "off");
            wrong.help_if(none.then(|| "for none write queue: off".to_owned()))
        })
    });
    let timeout = cx.text(&at.key("timeout"), parts.timeout.as_ref(), positive_duration);
    let priority_header =
        cx.text(&at.key("priority_header"), parts.priority_header.as_ref(), |text| {
            header_name(text).and_then(hop_by_hop)
        });
    Some(QueueSetting::Keys(QueueKeys { size, timeout, priority_header }))
}

/// A pool's own setting over that of `pool_defaults`, key by key.
pub fn settle_queue(own: Option<&QueueSetting>, shared: Option<&QueueSetting>) -> Option<Queue> {
    let silent = QueueKeys::default();
    let (over, under) = match (own, shared) {
        (Some(QueueSetting::Off), _) | (None, Some(QueueSetting::Off) | None) => return None,
        (Some(QueueSetting::Keys(over)), Some(QueueSetting::Keys(under))) => (over, under),
        (Some(QueueSetting::Keys(over)), Some(QueueSetting::Off) | None) => (over, &silent),
        (None, Some(QueueSetting::Keys(under))) => (&silent, under),
    };
    Some(Queue {
        size: over.size.or(under.size).unwrap_or(QUEUE_SIZE),
        timeout: over.timeout.or(under.timeout).unwrap_or(QUEUE_TIMEOUT),
        priority_header: over.priority_header.clone().or_else(|| under.priority_header.clone()),
    })
}
