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
    if path == original.path() {
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
