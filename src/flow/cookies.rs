//! The cookies of a request (RFC 6265 4.2): found by name, and left out where they are ours.
//!
//! Also the cookie that a sticky pool's answer brings: whose it is comes from `pool::sticky`.

use std::borrow::Cow;
use std::time::SystemTime;

use super::decide::Plan;
use crate::forward::http::Sink;
use crate::forward::http::head::ResponseHead;
use crate::pool::Lease;
use crate::pool::sticky::{Cookies, Stuck};
use crate::route::fields::Known;
use crate::route::{Fields, headers};

/// Cookies of one name that are looked at: nobody is to make us hash for ever.
const LOOKS: usize = 4;

/// The values of the cookies of this name, in their order.
pub fn named<'a>(fields: Fields<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = fields.of(Known::Cookie).flat_map(|value| value.split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| {
        let (found, value) = split(pair);
        (found == name.as_bytes()).then_some(value?)
    })
}

/// Name and value; `None` where there is no equals sign.
fn split(pair: &[u8]) -> (&[u8], Option<&[u8]>) {
    match pair.iter().position(|&byte| byte == b'=') {
        Some(at) => (pair[..at].trim_ascii(), Some(pair[at + 1..].trim_ascii())),
        None => (pair.trim_ascii(), None),
    }
}

/// A `Cookie` field without the cookies of this name; `None` if nothing is left.
pub fn without<'a>(value: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    let is_ours = |pair: &&[u8]| split(pair).0 == name.as_bytes();
    let pairs = || value.split(|&byte| byte == b';');
    if !pairs().any(|pair| is_ours(&pair)) {
        return Some(Cow::Borrowed(value));
    }
    let mut rest = pairs().filter(|pair| !is_ours(pair)).map(<[u8]>::trim_ascii);
    let first = rest.find(|pair| !pair.is_empty())?;
    Some(Cow::Owned(rest.fold(first.to_vec(), |mut all, pair| {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(pair);
        all
    })))
}

/// The backend that this request's cookie names, if one does.
pub fn stuck(cookies: &Cookies, fields: Fields<'_>) -> Option<Stuck> {
    let mut values = named(fields, cookies.name()).take(LOOKS).peekable();
    values.peek()?;
    let now = now();
    values.find_map(|value| cookies.read(value, now))
}

/// Adds the cookie to an answer whose client does not have it yet: another backend answers than the one
/// in its cookie, or that one has come of age. What carries it is one client's own, so nobody may keep it
/// for others (RFC 9111 5.2.2.7), unless the route says itself what caches may do.
pub fn issue(plan: &Plan<'_>, lease: &Lease, answer: &ResponseHead, to: Sink<'_>) {
    let Some(cookies) = &plan.picker.pool().sticky else { return };
    if plan.stuck.is_some_and(|stuck| stuck.index as usize == lease.index() && !stuck.due) {
        return;
    }
    let Some(cookie) = cookies.issue(lease.index(), now()) else { return };
    to(b"set-cookie", cookie.as_bytes());
    let is_private = answer.fields().all("cache-control").any(|value| {
        let mut members = crate::route::fields::members(value);
        members.any(|m| m.eq_ignore_ascii_case(b"private") || m.eq_ignore_ascii_case(b"no-store"))
    });
    let edits = &plan.route.config.response_headers;
    if !is_private && !headers::is_replaced(edits, b"cache-control") {
        to(b"cache-control", b"private");
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::fields::Store;

    #[test]
    fn cookies_are_found_by_name() {
        let mut store = Store::default();
        store.push(b"Cookie", b"a=1; b = 2 ;c; aa=3");
        store.push(b"cookie", b"a=; b=\"x=y\"");
        let found = |name| named(store.fields(), name).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(found("a"), [&b"1"[..], b""]);
        assert_eq!(found("b"), [&b"2"[..], b"\"x=y\""]);
        assert_eq!(found("c"), [b""; 0]);
        assert_eq!(found("A"), [b""; 0], "names are told apart by case");
    }

    #[test]
    fn ours_is_left_out_and_the_rest_stays() {
        for (value, expected) in [
            ("a=1; b=2", Some("a=1; b=2")),
            ("EK=1", None),
            ("EK=1; ", None),
            ("EK=1; a=1", Some("a=1")),
            ("a=1;EK=1;b=2", Some("a=1; b=2")),
            ("a=1; EK =1; EK=2", Some("a=1")),
            ("a=EK=1", Some("a=EK=1")),
            ("EKX=1", Some("EKX=1")),
            ("", Some("")),
        ] {
            let rest = without(value.as_bytes(), "EK");
            assert_eq!(rest.as_deref(), expected.map(str::as_bytes), "{value}");
        }
    }
}
