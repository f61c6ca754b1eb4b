//! Normalises the path of a request target, so that two spellings of one path are one path.
//!
//! Only what RFC 3986 6.2.2 calls safe: escapes of unreserved characters are decoded, the hex of
//! the others is put in upper case, dot segments are removed. It never decodes twice, never turns
//! `%2F` into a slash and never merges empty segments: those may mean something to a backend.
//! Without its query; the asterisk of `OPTIONS *` is the caller's.

use std::borrow::Cow;

/// Why a path is refused: a backend might read it otherwise than we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A control, a space, non-ASCII, or one of `?`, `<`, `>` and the back-tick.
    #[error("the path holds a character that must be percent-encoded")]
    Character,
    #[error("the path holds a backslash")]
    Backslash,
    #[error("the path holds a fragment")]
    Fragment,
    #[error("the path holds a percent sign without two hex digits")]
    Escape,
    #[error("the path holds an encoded NUL")]
    Nul,
    /// `/public/..%2Fadmin`: one segment to us, a way up to a backend that decodes it.
    #[error("the path hides a dot segment behind an encoded slash")]
    HiddenDots,
}

/// What a byte of a path asks of the scan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Dot,
    Percent,
    Bad,
}

/// Pchar and slash (RFC 3986 3.3), and the `"[]^{|}` that browsers send as they are.
const CLASSES: [Class; 256] = {
    let mut classes = [Class::Bad; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte] = match byte as u8 {
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'#' | b'<' | b'>' | b'?' | b'\\' | b'`' => Class::Bad,
            _ => Class::Plain,
        };
        byte += 1;
    }
    classes
};

/// The normal form of `path`; borrowed, without an allocation, if it is that already.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, BadTarget> {
    if is_normal(path.as_bytes())? {
        return if hides_dots(path) { Err(BadTarget::HiddenDots) } else { Ok(Cow::Borrowed(path)) };
    }
    let mut out = String::with_capacity(path.len());
    // RFC 3986 5.2.4, one segment at a time. A dot segment at the end leaves its slash behind.
    let mut ends_in_dots = false;
    for segment in path[1..].split('/') {
        let start = out.len();
        out.push('/');
        decode_unreserved(segment, &mut out)?;
        let dots = match &out[start + 1..] {
            "." => 1,
            ".." => 2,
            _ => 0,
        };
        ends_in_dots = dots > 0;
        if dots > 0 {
            out.truncate(start);
        }
        if dots == 2 {
            // Above the root there is nothing: `/..` is `/`.
            out.truncate(out.rfind('/').unwrap_or(0));
        }
    }
    if ends_in_dots {
        out.push('/');
    }
    if hides_dots(&out) { Err(BadTarget::HiddenDots) } else { Ok(Cow::Owned(out)) }
}

/// Whether a normal path would have dot segments if its encoded slashes were decoded.
fn hides_dots(path: &str) -> bool {
    path.contains("%2F")
        && path.split('/').any(|segment| {
            segment.contains("%2F") && segment.split("%2F").any(|part| matches!(part, "." | ".."))
        })
}

/// Checks every byte; true if there is nothing to change.
fn is_normal(path: &[u8]) -> Result<bool, BadTarget> {
    if path.first() != Some(&b'/') {
        return Err(BadTarget::NotAbsolute);
    }
    let mut normal = true;
    let mut at = 0;
    while let Some(step) =
        path[at..].iter().position(|&byte| CLASSES[usize::from(byte)] != Class::Plain)
    {
        at += step;
        match CLASSES[usize::from(path[at])] {
            Class::Plain => {}
            // The path starts with a slash, so a dot has a byte before it.
            Class::Dot => normal &= path[at - 1] != b'/' || !starts_with_dot_segment(&path[at..]),
            Class::Percent => {
                let byte = checked_escape(&path[at..])?;
                let lower = path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase);
                normal &= !lower && !is_unreserved(byte);
                at += 2;
            }
            Class::Bad => return Err(refusal(path[at])),
        }
        at += 1;
    }
    Ok(normal)
}

fn starts_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

fn decode_unreserved(segment: &str, out: &mut String) -> Result<(), BadTarget> {
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let byte = checked_escape(&rest.as_bytes()[at..])?;
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            push_escape(out, byte);
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(())
}

/// The byte that the escape at the start of `text` stands for, if it may be in a path.
fn checked_escape(text: &[u8]) -> Result<u8, BadTarget> {
    match escape(text) {
        Some(0) => Err(BadTarget::Nul),
        Some(b'\\') => Err(BadTarget::Backslash),
        Some(byte) => Ok(byte),
        None => Err(BadTarget::Escape),
    }
}

/// The byte that the escape at the start of `text` stands for; `None` if there is no escape.
pub(super) fn escape(text: &[u8]) -> Option<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    match *text {
        // Two hex digits are at most 255.
        [b'%', high, low, ..] => Some((hex(high)? << 4 | hex(low)?) as u8),
        _ => None,
    }
}

/// Appends `%XX`, in upper case as RFC 3986 2.1 wants it.
pub(super) fn push_escape(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// RFC 3986 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn refusal(byte: u8) -> BadTarget {
    match byte {
        b'\\' => BadTarget::Backslash,
        b'#' => BadTarget::Fragment,
        _ => BadTarget::Character,
    }
}

/// Whether `query`, what follows the question mark, holds nothing but what a query may (RFC 3986 3.4),
/// and the `[\]^`{|}` that browsers send as they are.
pub fn is_query(query: &str) -> bool {
    query.bytes().all(|byte| matches!(byte, 0x21 | 0x24..=0x3b | 0x3d | 0x3f..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_holds_visible_ascii_only() {
        for (query, sound) in [
            ("", true),
            ("a=b&c=[1]|{2}^`\\?/:@!$'()*+,;%zz", true),
            ("a b", false),
            ("a#b", false),
            ("a\tb", false),
            ("a\"b", false),
            ("<", false),
            (">", false),
            ("\x7f", false),
            ("\u{e9}", false),
        ] {
            assert_eq!(is_query(query), sound, "{query:?}");
        }
    }

    #[test]
    fn normal_paths_are_borrowed() {
        for path in [
            "/",
            "//",
            "/a//b/",
            "/index.html",
            "/.well-known/x",
            "/...",
            "/a.",
            "/a..",
            "/..a/.b",
            "/a%2Fb",
            "/%C3%A9%20",
            "/%25",
            "/%2541",
            "/a;b=c,d@e:f!$&'()*+",
            "/{a}|\"[b]^~-_",
            "/a%0Ab",
        ] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn one_path_has_one_spelling() {
        for (path, normal) in [
            ("/.", "/"),
            ("/..", "/"),
            ("/./", "/"),
            ("/../..", "/"),
            ("/../a", "/a"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/./b", "/a/b"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/a//..", "/a/"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/..//a", "//a"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e", "/a/"),
            ("/a/b..%2fc", "/a/b..%2Fc"),
            ("/%61%5A%30%2d%5f%7e", "/aZ0-_~"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%25%34%31", "/%2541"),
            ("/a/...", "/a/..."),
        ] {
            let expected = if path == normal { Cow::Borrowed(path) } else { normal.into() };
            assert_eq!(normalise(path), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        for (path, why) in [
            ("", BadTarget::NotAbsolute),
            ("a", BadTarget::NotAbsolute),
            ("*", BadTarget::NotAbsolute),
            ("./a", BadTarget::NotAbsolute),
            ("%2Fa", BadTarget::NotAbsolute),
            ("/a\\b", BadTarget::Backslash),
            ("/a%5cb", BadTarget::Backslash),
            ("/a%5C..%5C", BadTarget::Backslash),
            ("/a/..%2fb", BadTarget::HiddenDots),
            ("/a/%2e%2E%2Fb", BadTarget::HiddenDots),
            ("/a/b%2F.", BadTarget::HiddenDots),
            ("/%00", BadTarget::Nul),
            ("/%", BadTarget::Escape),
            ("/%2", BadTarget::Escape),
            ("/%2g", BadTarget::Escape),
            ("/%+1", BadTarget::Escape),
            ("/%%41", BadTarget::Escape),
            ("/a#b", BadTarget::Fragment),
            ("/a?b", BadTarget::Character),
            ("/a b", BadTarget::Character),
            ("/a\tb", BadTarget::Character),
            ("/a\r\nb", BadTarget::Character),
            ("/a\0", BadTarget::Character),
            ("/\x7f", BadTarget::Character),
            ("/\u{e9}", BadTarget::Character),
            ("/%\u{e9}", BadTarget::Escape),
            ("/<a>", BadTarget::Character),
        ] {
            assert_eq!(normalise(path), Err(why), "{path:?}");
        }
    }
}
