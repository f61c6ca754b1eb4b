//! `rate_limit`, of a listener or a route: how many requests in what time, and whose.

use std::time::Duration;

use super::cx::Cx;
use super::http_words::header_name;
use super::words::{whole, word};
use crate::config::model::{RateBy, RateLimit};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

const MOST: u64 = 1_000_000;

/// `None` if it says no rate that can be held to; then there are problems.
pub fn rate_limit(cx: &mut Cx<'_>, at: &Path, raw: raw::RateLimit) -> Option<RateLimit> {
    cx.missing(at, "rate", "rate: 100/s");
    let rate = cx.text(&at.key("rate"), raw.rate.as_ref(), rate);
    let burst = cx.text(&at.key("burst"), raw.burst.as_ref(), |text| whole(text, 1..=MOST));
    let words = [("client_ip", false), ("header", true)];
    let by = cx.text(&at.key("by"), raw.by.as_ref(), |text| word(text, &words));
    // A word that is misspelt: nobody knows whether a name was meant to be there.
    let misspelt = raw.by.is_some() && by.is_none();
    let key = at.key("name");
    let by = match (by, &raw.name) {
        (Some(true), name) => {
            cx.missing(at, "name", "rate_limit: {rate: 100/s, by: header, name: x-api-key}");
            cx.text(&key, name.as_ref(), header_name).map(RateBy::Header)
        }
        (Some(false) | None, Some(name)) if !misspelt => {
            let wrong = Wrong::plain("only a header has a name");
            cx.error(&key, Some(name), wrong.help("write by: header, or leave `name` out"));
            None
        }
        _ => Some(RateBy::ClientIp),
    };
    let (rate, per) = rate?;
    Some(RateLimit { rate, per, burst: burst.map_or(rate, |n| n as u32), by: by? })
}

/// `100/s`, `60/m`, `1000/h`.
fn rate(text: &str) -> Result<(u32, Duration), Wrong> {
    const ALLOWED: &str = "a number of requests in a time, such as 100/s, 60/m or 1000/h";
    let wrong = || Wrong::new("not a rate", ALLOWED);
    let Some((number, unit)) = text.split_once('/') else {
        let bare = whole(text, 1..=MOST).is_ok();
        return Err(wrong().help_if(bare.then(|| format!("write {text}/s, {text}/m or {text}/h"))));
    };
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        unit => {
            let meant = match unit.to_ascii_lowercase().as_str() {
                "sec" | "second" | "1s" => Some("s"),
                "min" | "minute" | "1m" => Some("m"),
                "hour" | "hr" | "1h" => Some("h"),
                _ => None,
            };
            let number = number.trim();
            return Err(wrong().help_if(meant.map(|meant| format!("write {number}/{meant}"))));
        }
    };
    let number = whole(number.trim(), 1..=MOST).map_err(|mut wrong| {
        wrong.allowed = wrong.allowed.map(|allowed| format!("{allowed}, then /s, /m or /h"));
        wrong
    })?;
    Ok((number as u32, Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, expected) in [
            ("100/s", Some((100, 1))),
            ("60/m", Some((60, 60))),
            ("1000/h", Some((1000, 3600))),
            ("1 / s", Some((1, 1))),
            ("0/s", None),
            ("-1/s", None),
            ("1.5/s", None),
            ("1000001/s", None),
            ("100", None),
            ("100/d", None),
            ("100/", None),
            ("/s", None),
            ("", None),
        ] {
            let expected = expected.map(|(n, seconds)| (n, Duration::from_secs(seconds)));
            assert_eq!(rate(text).ok(), expected, "{text}");
        }
        assert_eq!(rate("5/min").unwrap_err().help.unwrap(), "write 5/m");
        assert_eq!(rate("5").unwrap_err().help.unwrap(), "write 5/s, 5/m or 5/h");
    }
}
