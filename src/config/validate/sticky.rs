//! `sticky`: the cookie that names a client's backend, and the key that all load balancers share. Each key
//! proved, then a pool's own keys over those of `pool_defaults`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FilePath;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::cx::Cx;
use super::http_words::cookie_name;
use super::words::{or_off, positive_duration, word};
use crate::config::model::{SameSite, Secret, Sticky};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

/// HMAC-SHA-256 has no use for less (RFC 2104 3).
const KEY_BYTES: usize = 32;

/// A file that is larger holds no key.
const LARGEST: u64 = 4096;

const HOW: &str = "make one with: head -c 32 /dev/urandom | base64";

const COOKIE: &str = "EKID";

#[derive(Debug)]
pub enum Setting {
    Off,
    Keys(Keys),
}

/// Each key, proved; `None` is silence.
#[derive(Debug, Default)]
pub struct Keys {
    cookie: Option<String>,
    key: Option<Secret>,
    ttl: Option<Option<Duration>>,
    same_site: Option<SameSite>,
    secure: Option<bool>,
    /// A key file is named, sound or not.
    names_key: bool,
}

pub fn setting(cx: &mut Cx<'_>, at: &Path, raw: raw::Sticky) -> Option<Setting> {
    let parts = match raw {
        raw::Sticky::Word(text) => {
            return cx.text(at, Some(&text), |text| match text {
                "off" => Ok(Setting::Off),
                _ => Err(Wrong::new("not a setting of sticky", "off, or a map of its keys")
                    .help("for example: sticky: {key_file: sticky.key}")),
            });
        }
        raw::Sticky::Parts(parts) => *parts,
    };
    let cookie = cx.text(&at.key("cookie"), parts.cookie.as_ref(), cookie_name);
    let key = parts.key_file.as_ref().and_then(|file| {
        let path = cx.beside_the_file(file);
        cx.text(&at.key("key_file"), Some(file), |_| key(&path))
    });
    let ttl = cx.text(&at.key("ttl"), parts.ttl.as_ref(), |text| {
        or_off(text, |text| match positive_duration(text)? {
            short if short < Duration::from_secs(1) => {
                Err(Wrong::new("too short", "from 1s: cookies count in seconds"))
            }
            ttl => Ok(ttl),
        })
    });
    let words = [("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)];
    let key_at = at.key("same_site");
    let same_site = cx.text(&key_at, parts.same_site.as_ref(), |text| word(text, &words));
    let secure = cx.text(&at.key("secure"), parts.secure.as_ref(), |text| {
        word(text, &[("true", true), ("false", false)])
    });
    let names_key = parts.key_file.is_some();
    Some(Setting::Keys(Keys { cookie, key, ttl, same_site, secure, names_key }))
}

/// A key as text: base64, with or without padding, and white space around it.
fn key(path: &FilePath) -> Result<Secret, Wrong> {
    const ALLOWED: &str = "a file with at least 32 random bytes in base64, the same on every load \
                           balancer, relative to this file";
    let wrong = |text: String| Wrong::new(text, ALLOWED).help(HOW);
    let text = read(path).map_err(|error| wrong(format!("the key cannot be read: {error}")))?;
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let key = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(text.trim_ascii());
    match key {
        Ok(key) if key.len() >= KEY_BYTES => Ok(Secret(key.into())),
        Ok(key) => Err(wrong(format!("a key of {} bytes is too short", key.len()))),
        Err(_) => Err(wrong("the file holds no base64".to_owned())),
    }
}

fn read(path: &FilePath) -> io::Result<Vec<u8>> {
    // A pipe or a device would make the load wait without end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 4 KiB"));
    }
    Ok(text)
}

/// A pool's own setting over that of `pool_defaults`, key by key.
pub fn settle(
    cx: &mut Cx<'_>,
    at: &Path,
    own: Option<&Setting>,
    shared: Option<&Setting>,
) -> Option<Sticky> {
    let silent = Keys::default();
    let (over, under) = match (own, shared) {
        (Some(Setting::Off), _) | (None, Some(Setting::Off) | None) => return None,
        (Some(Setting::Keys(over)), Some(Setting::Keys(under))) => (over, under),
        (Some(Setting::Keys(over)), Some(Setting::Off) | None) => (over, &silent),
        (None, Some(Setting::Keys(under))) => (&silent, under),
    };
    // Where the setting stands that lacks a key: of a pool that has none, in `pool_defaults`.
    let at = match own {
        Some(_) => at.key("sticky"),
        None => Path::root().key("pool_defaults").key("sticky"),
    };
    if !over.names_key && !under.names_key {
        let wrong = Wrong::plain("`key_file` is missing");
        cx.error(&at, None, wrong.help(format!("for example: key_file: sticky.key; {HOW}")));
    }
    let same_site = over.same_site.or(under.same_site).unwrap_or(SameSite::Lax);
    let secure = over.secure.or(under.secure).unwrap_or(false);
    if same_site == SameSite::None && !secure {
        let wrong = Wrong::plain("browsers drop a cookie that is `same_site: none` and not secure");
        cx.error(&at.key("same_site"), None, wrong.help("add `secure: true`"));
    }
    Some(Sticky {
        cookie: over.cookie.as_ref().or(under.cookie.as_ref()).map_or(COOKIE, |c| c).to_owned(),
        key: over.key.clone().or_else(|| under.key.clone())?,
        ttl: over.ttl.or(under.ttl).flatten(),
        same_site,
        secure,
    })
}
