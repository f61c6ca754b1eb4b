//! Routes that can never be reached, because an earlier one of the same listener matches everything
//! that they match. Conservative: what it reports is certain, but it does not find every case.

use super::cx::Cx;
use crate::config::model::{HostPattern, Match, PathPattern, Route, ValuePattern};
use crate::config::path::Path;
use crate::config::source::Wrong;

/// Comparing each with each is only worth it within bounds.
const LOOK_BACK: usize = 2000;

pub fn check(cx: &mut Cx<'_>, routes: &[(Path, Route)]) {
    for (i, (at, route)) in routes.iter().enumerate() {
        let earlier = &routes[i.saturating_sub(LOOK_BACK)..i];
        let cover = earlier.iter().find(|(_, earlier)| covers(&earlier.matches, &route.matches));
        if let Some((by, _)) = cover {
            let text = format!("this route is never reached: {by} matches everything it matches");
            cx.warn(at, Wrong::plain(text).help("put the more special route first"));
        }
    }
}

/// Whether every request that `b` matches is matched by `a`, too.
pub fn covers(a: &Match, b: &Match) -> bool {
    each(&a.host, &b.host, host_covers)
        && each(&a.path, &b.path, path_covers)
        && each(&a.method, &b.method, |a, b| a == b)
        && each(&a.client, &b.client, |a, b| a.contains(b))
        && (a.path_regex.is_none() || a.path_regex == b.path_regex)
        && a.header.iter().all(|(name, value)| {
            b.header.iter().any(|(other, theirs)| name == other && value_covers(value, theirs))
        })
        && a.query.iter().all(|(name, value)| {
            b.query.iter().any(|(other, theirs)| name == other && value_covers(value, theirs))
        })
}

/// An empty list matches everything; else each of `b` needs one of `a` that covers it.
pub fn each<T>(a: &[T], b: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    a.is_empty() || (!b.is_empty() && b.iter().all(|b| a.iter().any(|a| covers(a, b))))
}

pub fn host_covers(a: &HostPattern, b: &HostPattern) -> bool {
    match (a, b) {
        (HostPattern::Wildcard(suffix), HostPattern::Exact(host)) => host
            .strip_suffix(suffix.as_str())
            .is_some_and(|label| !label.is_empty() && !label.contains('.')),
        (a, b) => a == b,
    }
}

fn path_covers(a: &PathPattern, b: &PathPattern) -> bool {
    match (a, b) {
        (PathPattern::Prefix(prefix), PathPattern::Exact(path) | PathPattern::Prefix(path)) => path
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        (a, b) => a == b,
    }
}

fn value_covers(a: &ValuePattern, b: &ValuePattern) -> bool {
    *a == ValuePattern::Present || a == b
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Method};

    use super::*;

    fn path(pattern: PathPattern) -> Match {
        Match { path: vec![pattern], ..Match::default() }
    }

    fn prefix(text: &str) -> Match {
        path(PathPattern::Prefix(text.into()))
    }

    fn host(pattern: HostPattern) -> Match {
        Match { host: vec![pattern], ..Match::default() }
    }

    fn header(value: ValuePattern) -> Match {
        let name = HeaderName::from_static("x-a");
        Match { header: vec![(name, value)], ..Match::default() }
    }

    #[test]
    fn what_covers_what() {
        let exact = |text: &str| path(PathPattern::Exact(text.into()));
        let wild = || host(HostPattern::Wildcard(".a.com".into()));
        let named = |text: &str| host(HostPattern::Exact(text.into()));
        let get = || Match { method: vec![Method::GET], ..Match::default() };
        let all = Match::default;
        let one = || header(ValuePattern::Exact("1".into()));
        for (a, b, expected) in [
            (all(), all(), true),
            (all(), get(), true),
            (get(), all(), false),
            (prefix("/v1"), exact("/v1/x"), true),
            (prefix("/v1"), exact("/v1"), true),
            (prefix("/v1"), exact("/v1x"), false),
            (prefix("/v1"), prefix("/v1/x"), true),
            (prefix("/v1/x"), prefix("/v1"), false),
            (prefix(""), exact("/x"), true),
            (prefix(""), all(), false),
            (exact("/x"), prefix("/x"), false),
            (wild(), named("b.a.com"), true),
            (wild(), named("c.b.a.com"), false),
            (wild(), named("a.com"), false),
            (named("b.a.com"), wild(), false),
            (header(ValuePattern::Present), one(), true),
            (one(), header(ValuePattern::Present), false),
            (one(), all(), false),
        ] {
            assert_eq!(covers(&a, &b), expected, "{a:?} over {b:?}");
        }
    }
}
