//! Single values that are not about HTTP: numbers, words from a closed set, networks, names.
//!
//! Each function reads one text and says what is wrong with it; none knows where it stands.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::model::Name;
use crate::config::problems::did_you_mean;
use crate::config::source::Wrong;
use crate::config::units::{duration, size};

/// A whole number within `range`.
pub fn whole(text: &str, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let allowed = format!("a whole number from {} to {}", range.start(), range.end());
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !plain {
        return Err(Wrong::new("not a whole number", allowed));
    }
    match text.parse::<u64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(number) if number < *range.start() => Err(Wrong::new("too small", allowed)),
        _ => Err(Wrong::new("too large", allowed)),
    }
}

/// The same for a weight beside others.
pub fn weight(text: &str, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    let share = text.strip_suffix('%').filter(|n| n.parse::<u64>().is_ok());
    let help = share.map(|n| format!("write {n}: only the proportion counts"));
    whole(text, range).map_err(|wrong| wrong.help_if(help))
}

/// One of `words`, each standing for its value.
pub fn word<T: Clone>(text: &str, words: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(value.clone());
    }
    let allowed = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let number = text.starts_with(|c: char| c.is_ascii_digit());
    let near = did_you_mean(text, words.iter().map(|(word, _)| *word)).filter(|_| !number);
    Err(Wrong::new("not one of the values that are known here", allowed)
        .help_if(near.map(|near| format!("did you mean `{near}`?"))))
}

/// `true` or `false`; YAML's other words for them are read in two ways by two readers.
pub fn flag(text: &str) -> Result<bool, Wrong> {
    let meant = match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "1" | "true" => Some("write true"),
        "no" | "off" | "0" | "false" => Some("write false"),
        _ => None,
    };
    word(text, &[("true", true), ("false", false)])
        .map_err(|wrong| wrong.help_if(meant.map(str::to_owned)))
}

pub fn any_duration(text: &str) -> Result<Duration, Wrong> {
    duration(text).map_err(not_off)
}

/// Longer than 0.
pub fn positive_duration(text: &str) -> Result<Duration, Wrong> {
    let value =
        duration(text).map_err(|wrong| if text == "off" { not_off(wrong) } else { wrong })?;
    if value.is_zero() {
        return Err(Wrong::new("must be longer than 0", "a duration from 1ms on"));
    }
    Ok(value)
}

fn not_off(mut wrong: Wrong) -> Wrong {
    if wrong.help.is_none() {
        wrong.help = Some("this cannot be turned off; a long one, such as 365d, comes near".into());
    }
    wrong
}

/// `off`, or what `read` reads.
pub fn or_off<T>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    if text == "off" {
        return Ok(None);
    }
    read(text).map(Some).map_err(|mut wrong| {
        wrong.allowed = wrong.allowed.map(|allowed| format!("off, or {allowed}"));
        wrong
    })
}

/// A size within `range`, both given in bytes.
pub fn size_within(text: &str, range: RangeInclusive<u64>) -> Result<u64, Wrong> {
    use crate::config::units::show_size;
    let bytes = size(text)?;
    if range.contains(&bytes) {
        return Ok(bytes);
    }
    let allowed = format!("from {} to {}", show_size(*range.start()), show_size(*range.end()));
    let message = if bytes < *range.start() { "too small" } else { "too large" };
    Err(Wrong::new(message, allowed))
}

pub fn name(text: &str) -> Result<Name, Wrong> {
    Name::new(text).ok_or_else(|| Wrong::new("not a name", "a-z, 0-9, _ and -, 1 to 63 characters"))
}

/// `10.0.0.0/8`, or one address.
pub fn network(text: &str) -> Result<IpNet, Wrong> {
    const ALLOWED: &str = "a network such as 10.0.0.0/8 or fd00::/8, or one address";
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        let help = match text {
            "all" | "any" | "*" => Some("for everybody write 0.0.0.0/0 and ::/0".to_owned()),
            _ => None,
        };
        return Err(Wrong::new("not a network", ALLOWED).help_if(help));
    };
    if network.trunc() != network {
        return Err(Wrong::new("an address with bits beyond its prefix length", ALLOWED).help(
            format!("write {} for the network, or {} alone", network.trunc(), network.addr()),
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("1", Some(1)),
            ("512", Some(512)),
            ("0", None),
            ("513", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            ("0x10", None),
            ("", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(whole(text, 1..=512).ok(), expected, "{text}");
        }
    }

    #[test]
    fn networks() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("::1", Some("::1/128")),
            ("fd00::/8", Some("fd00::/8")),
            ("10.1.0.0/8", None),
            ("10.0.0.0/33", None),
            ("any", None),
        ] {
            assert_eq!(network(text).ok().map(|n| n.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn flags() {
        assert_eq!((flag("true").ok(), flag("false").ok()), (Some(true), Some(false)));
        for (text, help) in [("yes", "write true"), ("off", "write false"), ("True", "write true")]
        {
            assert_eq!(flag(text).unwrap_err().help.as_deref(), Some(help), "{text}");
        }
    }

    #[test]
    fn off_is_offered_where_it_is_allowed() {
        let wrong = or_off("5", positive_duration).unwrap_err();
        assert!(wrong.allowed.unwrap().starts_with("off, or "));
        assert_eq!(or_off("off", positive_duration).unwrap(), None);
        let help = positive_duration("off").unwrap_err().help.unwrap();
        assert!(help.contains("cannot be turned off"), "{help}");
    }
}
