//! What a backend is asked for in place of what was matched.
//!
//! Starts from the normalised path, so that a backend never gets a path other than the one that was
//! matched. The query is passed on as it came. `rewrite.host` is not applied here: it is a field of
//! the head, not of the target.

use std::borrow::Cow;

use http::uri::PathAndQuery;

use super::matching::below;
use super::target::{self, BadTarget};
use crate::config::model::Rewrite;

/// A rewrite's result is no target: a fault of the rule, or a client's path that it does not expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRewrite {
    #[error("the rewritten path is not valid: {0}")]
    Path(#[from] BadTarget),
    #[error("the rewritten target is too long or holds a character that it must not")]
    Target,
}

/// `path` is normalised, or the `*` of `OPTIONS *`, which stays.
pub fn apply(
    rewrite: &Rewrite,
    path: &str,
    query: Option<&str>,
) -> Result<PathAndQuery, BadRewrite> {
    join(rewritten(rewrite, path)?, query)
}

/// As [`apply`], with the query of the client's own target, which is shared and not copied if the
/// result is no different. `path` is the normalised path of `original`.
pub fn apply_to(
    rewrite: &Rewrite,
    original: &PathAndQuery,
    path: &str,
) -> Result<PathAndQuery, BadRewrite> {
    let path = rewritten(rewrite, path)?;
    // The path of `http://a.example?q` is read as `/`, but it is not written there.
    if path == original.path() && original.as_str().starts_with(&*path) {
        return Ok(original.clone());
    }
    join(path, original.query())
}

fn rewritten<'a>(rewrite: &Rewrite, path: &'a str) -> Result<Cow<'a, str>, BadRewrite> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    let mut path = Cow::Borrowed(match &rewrite.strip_prefix {
        Some(prefix) => strip(path, prefix.trim_end_matches('/')),
        None => path,
    });
    if let Some((pattern, replacement)) = &rewrite.path_regex
        && let Cow::Owned(replaced) = pattern.0.replace_all(&path, replacement.as_str())
    {
        // The replacement may have made dot segments out of harmless parts of the path.
        path = Cow::Owned(target::normalise(&replaced)?.into_owned());
    }
    if let Some(prefix) = &rewrite.add_prefix {
        path = Cow::Owned(format!("{}{path}", prefix.trim_end_matches('/')));
    }
    Ok(path)
}

/// Whole segments only: `/v1` is not stripped from `/v1x`. What is left starts with a slash.
fn strip<'a>(path: &'a str, prefix: &str) -> &'a str {
    match below(path, prefix) {
        Some("") => "/",
        Some(rest) => rest,
        None => path,
    }
}

fn join(path: Cow<'_, str>, query: Option<&str>) -> Result<PathAndQuery, BadRewrite> {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    };
    PathAndQuery::try_from(target).map_err(|_| BadRewrite::Target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Pattern;

    fn rule(strip: &str, regex: Option<(&str, &str)>, add: &str) -> Rewrite {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let regex =
            regex.map(|(from, to)| (Pattern(regex::Regex::new(from).unwrap()), to.to_owned()));
        Rewrite { strip_prefix: text(strip), path_regex: regex, add_prefix: text(add), host: None }
    }

    #[test]
    fn the_backend_gets_what_the_rule_says() {
        let none = None;
        let ids = Some((r"^/user/(\d+)", "/u/$1"));
        for (strip, regex, add, path, expected) in [
            ("", none, "", "/a/b", "/a/b"),
            ("", none, "", "*", "*"),
            ("/v1", none, "/api", "*", "*"),
            ("/v1", none, "", "/v1", "/"),
            ("/v1", none, "", "/v1/", "/"),
            ("/v1", none, "", "/v1/x/", "/x/"),
            ("/v1/", none, "", "/v1/x", "/x"),
            ("/v1", none, "", "/v1//x", "//x"),
            ("/v1", none, "", "/v1x", "/v1x"),
            ("/v1", none, "", "/x/v1", "/x/v1"),
            ("/", none, "", "/x", "/x"),
            ("", none, "/api", "/x", "/api/x"),
            ("", none, "/api/", "/x", "/api/x"),
            ("", none, "/", "/x", "/x"),
            ("/v1", none, "/api", "/v1/x", "/api/x"),
            ("/v1", none, "/api", "/v1", "/api/"),
            ("", ids, "", "/user/42/x", "/u/42/x"),
            ("", ids, "", "/user/x", "/user/x"),
            ("/v1", ids, "/api", "/v1/user/42", "/api/u/42"),
            ("", Some(("[0-9]", "n")), "", "/1/2", "/n/n"),
            ("", Some(("x", "")), "", "/a/.x./b", "/b"),
        ] {
            let found = apply(&rule(strip, regex, add), path, None).unwrap();
            assert_eq!(found.as_str(), expected, "{strip} {regex:?} {add} on {path}");
        }
    }

    #[test]
    fn a_replacement_that_makes_no_path_is_an_error() {
        for (to, why) in [
            ("", BadRewrite::Path(BadTarget::NotAbsolute)),
            ("x", BadRewrite::Path(BadTarget::NotAbsolute)),
            ("/a b", BadRewrite::Path(BadTarget::Character)),
            ("/a?b", BadRewrite::Path(BadTarget::Character)),
            ("/a#b", BadRewrite::Path(BadTarget::Fragment)),
            ("/%2", BadRewrite::Path(BadTarget::Escape)),
            ("/a\r\nb", BadRewrite::Path(BadTarget::Character)),
        ] {
            assert_eq!(apply(&rule("", Some(("^/.*", to)), ""), "/x", None), Err(why), "{to:?}");
        }
        let long = format!("/{}", "x".repeat(70_000));
        assert_eq!(apply(&rule("", None, ""), &long, None), Err(BadRewrite::Target));
    }

    #[test]
    fn the_query_is_not_touched() {
        let rule = rule("/v1", None, "");
        for query in ["", "a=b", "a=/v1/../%2e&b?c"] {
            let found = apply(&rule, "/v1/x", Some(query)).unwrap();
            assert_eq!(found.as_str(), format!("/x?{query}"));
        }
        assert_eq!(apply(&rule, "/x", Some("a b")), Err(BadRewrite::Target));
    }

    #[test]
    fn what_does_not_change_is_shared() {
        let original: PathAndQuery = "/a/b?c=%2e".parse().unwrap();
        for (rule, path, shared) in [
            (rule("", None, ""), "/a/b", true),
            (rule("/v1", Some(("x", "y")), ""), "/a/b", true),
            (rule("", None, ""), "/b", false),
            (rule("/a", None, ""), "/a/b", false),
        ] {
            let found = apply_to(&rule, &original, path).unwrap();
            assert_eq!(found.query(), original.query());
            let same = std::ptr::eq(found.as_str(), original.as_str());
            assert_eq!(same, shared, "{rule:?} on {path}");
        }
    }

    #[test]
    fn an_absolute_target_without_a_path_gets_one() {
        for (uri, expected) in [("http://a", "/"), ("http://a?q", "/?q"), ("http://a/?q", "/?q")] {
            let uri: http::Uri = uri.parse().unwrap();
            let original = uri.path_and_query().unwrap();
            let found = apply_to(&Rewrite::default(), original, original.path()).unwrap();
            assert_eq!(found.as_str(), expected, "{uri}");
        }
    }
}
