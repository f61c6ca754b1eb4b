//! What a backend is asked for in place of what was matched.
//!
//! Starts from the normalised path, so that a backend never gets a path other than the one that was
//! matched. The query is passed on as it came. `rewrite.host` is not applied here: it is a field of
//! the head, not of the target.

use std::borrow::Cow;

use super::matching::below;
use super::target::{self, BadTarget};
use crate::config::model::Rewrite;

/// The longest target that is sent on; RFC 9112 3 asks for 8,000 bytes at the least.
const LONGEST: usize = 65_534;

/// A rewrite's result is no target: a fault of the rule, or a client's path that it does not expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRewrite {
    #[error("the rewritten path is not valid: {0}")]
    Path(#[from] BadTarget),
    #[error("the rewritten target is too long")]
    TooLong,
}

/// The target for a backend; `None` if it is the client's own, as that wrote it. `written` is the
/// client's path and query, both proved, and `path` its normalised path, or the `*` of `OPTIONS *`, which stays.
pub fn apply(
    rewrite: &Rewrite,
    written: (&str, Option<&str>),
    path: &str,
) -> Result<Option<String>, BadRewrite> {
    let (as_written, query) = written;
    let path = rewritten(rewrite, path)?;
    // The path of `http://a.example?q` is read as `/`, but it is not written there.
    let target = match query {
        _ if path == as_written => None,
        Some(query) => Some(format!("{path}?{query}")),
        None => Some(path.into_owned()),
    };
    match target.as_ref().is_none_or(|target| target.len() <= LONGEST) {
        true => Ok(target),
        false => Err(BadRewrite::TooLong),
    }
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
            let found = apply(&rule(strip, regex, add), (path, None), path).unwrap();
            assert_eq!(
                found.as_deref().unwrap_or(path),
                expected,
                "{strip} {regex:?} {add} on {path}"
            );
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
            assert_eq!(
                apply(&rule("", Some(("^/.*", to)), ""), ("/x", None), "/x"),
                Err(why),
                "{to:?}"
            );
        }
        let long = format!("/{}", "x".repeat(70_000));
        let doubled = rule("", None, &long);
        assert_eq!(apply(&doubled, (&long, None), &long), Err(BadRewrite::TooLong));
    }

    #[test]
    fn the_query_is_not_touched() {
        let rule = rule("/v1", None, "");
        for query in ["", "a=b", "a=/v1/../%2e&b?c"] {
            let found = apply(&rule, ("/v1/x", Some(query)), "/v1/x").unwrap();
            assert_eq!(found, Some(format!("/x?{query}")));
        }
    }

    #[test]
    fn what_does_not_change_is_not_copied() {
        for (rule, path, expected) in [
            (rule("", None, ""), "/a/b", None),
            (rule("/v1", Some(("x", "y")), ""), "/a/b", None),
            (rule("", None, ""), "/b", Some("/b?c=%2e")),
            (rule("/a", None, ""), "/a/b", Some("/b?c=%2e")),
        ] {
            let found = apply(&rule, ("/a/b", Some("c=%2e")), path).unwrap();
            assert_eq!(found.as_deref(), expected, "{rule:?} on {path}");
        }
    }

    #[test]
    fn an_absolute_target_without_a_path_gets_one() {
        for (query, expected) in [(None, "/"), (Some("q"), "/?q")] {
            let found = apply(&Rewrite::default(), ("", query), "/").unwrap();
            assert_eq!(found.as_deref(), Some(expected));
        }
    }
}
