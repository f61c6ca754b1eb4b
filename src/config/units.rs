//! Durations and sizes as text: how the file writes them and how reports show them.
//!
//! A bare number is refused, so that nobody has to remember which unit a key is in. Sizes are
//! binary (KiB, MiB, GiB) only: KB and MB are read as 1000 by some and as 1024 by others.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::source::Wrong;

const DURATION: &str = "a duration with its unit: ms, s, m, h or d, as in 250ms, 5s, 1m30s";
const SIZE: &str = "a size with its unit: B, KiB, MiB or GiB, as in 64KiB";

/// Largest first: a combination such as `1m30s` names them in this order.
const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Ten years: longer is a slip, and shorter never overflows where durations are added up.
const LONGEST_MS: u64 = 3650 * 86_400_000;

/// The same on the command line, where 0 makes no sense.
pub fn duration_argument(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("must be above 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err(format!("not {DURATION}")),
    }
}

/// From `0s` to `3650d`, in whole milliseconds.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong = || Wrong::new("not a duration", DURATION);
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let wrong = Wrong::new("a duration without a unit", DURATION);
        return Err(wrong.help(format!("write {text}s or {text}ms")));
    }
    let (mut total, mut rest, mut next_unit) = (0u64, text, 0);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        if number.is_empty() || unit.is_empty() {
            return Err(wrong().help_if(fraction(text)));
        }
        let Some(place) = DURATION_UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(wrong().help_if(other_unit(number, unit)));
        };
        if place < next_unit {
            return Err(wrong().help("the largest unit comes first, and each one once: 1m30s"));
        }
        next_unit = place + 1;
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(DURATION_UNITS[place].1));
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST_MS)
            .ok_or_else(|| Wrong::new("a duration of more than ten years", "at most 3650d"))?;
        rest = &rest[digits + letters..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
}

fn fraction(text: &str) -> Option<String> {
    if text.contains(['.', ',']) {
        return Some("no fractions: use the next smaller unit, 1500ms or 1s500ms".to_owned());
    }
    if text.starts_with('-') {
        return Some("a duration cannot be negative".to_owned());
    }
    let squeezed: String = text.split_whitespace().collect();
    (squeezed != text && duration(&squeezed).is_ok()).then(|| format!("write {squeezed}"))
}

fn other_unit(number: &str, unit: &str) -> Option<String> {
    let meant = match unit.to_ascii_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "msec" | "millis" | "ms" => "ms",
        "hr" | "hour" | "hours" | "h" => "h",
        "day" | "days" | "d" => "d",
        "us" | "ns" => return Some("the smallest unit is ms".to_owned()),
        _ => return None,
    };
    Some(format!("write {number}{meant}"))
}

/// Bytes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Wrong::new("not a size", SIZE));
    }
    if unit.is_empty() {
        let wrong = Wrong::new("a size without a unit", SIZE);
        let bytes = number.parse::<u64>().map_or_else(|_| format!("{number}B"), show_size);
        return Err(wrong.help(format!("if bytes are meant, write {bytes}")));
    }
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let meant = match unit.trim().to_ascii_lowercase().as_str() {
            "k" | "kb" | "kib" => Some("KiB"),
            "m" | "mb" | "mib" => Some("MiB"),
            "g" | "gb" | "gib" => Some("GiB"),
            "b" | "byte" | "bytes" => Some("B"),
            _ => None,
        };
        let help = meant.map(|meant| format!("write {number}{meant}"));
        return Err(Wrong::new("not a unit of sizes", SIZE).help_if(help));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(*factor))
        .filter(|bytes| *bytes <= 1 << 50)
        .ok_or_else(|| Wrong::new("the size is too large", "at most 1048576GiB"))
}

/// Whole percent.
pub(super) fn percent(text: &str, range: RangeInclusive<u32>) -> Result<u32, Wrong> {
    let allowed =
        || format!("a share with its percent sign, from {}% to {}%", range.start(), range.end());
    let number = text.strip_suffix('%').map(str::trim_end);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some(number) = number else {
        let wrong = Wrong::new("not a share", allowed());
        if digits(text) {
            let wrong = Wrong::new("a share without a percent sign", allowed());
            return Err(wrong.help(format!("write {text}%")));
        }
        let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
        return Err(wrong.help_if(share.map(|share| format!("write {}%", (share * 100.0).round()))));
    };
    if !digits(number) {
        let fraction = number.contains(['.', ',']);
        let whole = fraction.then(|| "no fractions of a percent".to_owned());
        return Err(Wrong::new("not a share", allowed()).help_if(whole));
    }
    match number.parse::<u32>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(number) if number < *range.start() => Err(Wrong::new("too small", allowed())),
        _ => Err(Wrong::new("too large", allowed())),
    }
}

/// As the file would write it: `1m30s`, `250ms`, `0s`.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, ms) in DURATION_UNITS {
        if rest >= ms {
            text.push_str(&format!("{}{unit}", rest / ms));
            rest %= ms;
        }
    }
    text
}

/// As the file would write it, in the largest unit that leaves no fraction.
pub fn show_size(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    let (unit, factor) = SIZE_UNITS.iter().find(fits).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("5s", Some(5000)),
            ("1m30s", Some(90_000)),
            ("1d2h3m4s5ms", Some(93_784_005)),
            ("3650d", Some(LONGEST_MS)),
            ("3651d", None),
            ("99999999999999999999d", None),
            ("5", None),
            ("", None),
            ("s", None),
            ("5 s", None),
            ("1.5s", None),
            ("-1s", None),
            ("30s1m", None),
            ("1s1s", None),
            ("5sec", None),
            ("5µs", None),
            ("٣s", None),
        ] {
            let read = duration(text).ok().map(|d| d.as_millis());
            assert_eq!(read, ms.map(u128::from), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_duration_says_what_to_write() {
        for (text, help) in [
            ("5", "write 5s or 5ms"),
            ("5sec", "write 5s"),
            ("5S", "write 5s"),
            ("5 s", "write 5s"),
            ("1.5s", "no fractions: use the next smaller unit, 1500ms or 1s500ms"),
        ] {
            assert_eq!(duration(text).unwrap_err().help.as_deref(), Some(help), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0B", Some(0)),
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("2GiB", Some(2 << 30)),
            ("64", None),
            ("64KB", None),
            ("64k", None),
            ("KiB", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(size(text).ok(), bytes, "{text}");
        }
        assert_eq!(size("64KB").unwrap_err().help.as_deref(), Some("write 64KiB"));
    }

    #[test]
    fn shares() {
        for (text, expected) in [
            ("20%", Some(20)),
            ("1%", Some(1)),
            ("100%", Some(100)),
            ("0%", None),
            ("101%", None),
            ("20", None),
            ("0.2", None),
            ("12.5%", None),
            ("-5%", None),
            ("%", None),
            ("", None),
            ("99999999999%", None),
        ] {
            assert_eq!(percent(text, 1..=100).ok(), expected, "{text}");
        }
        for (text, help) in [("20", "write 20%"), ("0.2", "write 20%")] {
            assert_eq!(percent(text, 1..=100).unwrap_err().help.as_deref(), Some(help), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for ms in [0, 1, 999, 1000, 1001, 60_000, 90_500, 86_400_000, 93_784_005, LONGEST_MS] {
            let given = Duration::from_millis(ms);
            assert_eq!(duration(&show_duration(given)).ok(), Some(given));
        }
        for bytes in [0, 1, 1023, 1024, 1025, 65_536, 1 << 20, (1 << 30) + 1] {
            assert_eq!(size(&show_size(bytes)).ok(), Some(bytes));
        }
    }
}
