//! One route of an http listener: what it matches, what it does, and what it changes on the way.

use super::cx::Cx;
use super::{action, edits, error_pages, listener, matches, rate_limit, timeouts};
use crate::config::model::{Action, HeaderEdits, Rewrite, Route};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;

/// `None` if it has no sound action; then there are problems.
pub fn route(cx: &mut Cx<'_>, at: &Path, raw: raw::Route) -> Option<Route> {
    let matches = matches::matches(cx, &at.key("match"), raw.matches.unwrap_or_default());
    if let Some(text) = &raw.reject {
        let wrong = Wrong::plain("only a tcp listener's route rejects; an http client is answered");
        let help = "write respond: {status: 403}, or deny: [...] for some clients alone";
        cx.error(&at.key("reject"), Some(text), wrong.help(help));
    }
    let action = action::action(
        cx,
        at,
        &matches,
        action::Choices {
            pool: raw.pool,
            split: raw.split,
            redirect: raw.redirect,
            respond: raw.respond,
        },
    );
    let access = listener::access(cx, at, raw.allow.as_ref(), raw.deny.as_ref());
    let request = edits::request(cx, &at.key("request_headers"), raw.request_headers);
    let response = edits::response(cx, &at.key("response_headers"), raw.response_headers);
    let rewrite = edits::rewrite(cx, &at.key("rewrite"), raw.rewrite.unwrap_or_default());
    let timeouts = timeouts::overrides(cx, &at.key("timeouts"), &raw.timeouts.unwrap_or_default());
    let error_pages = error_pages::read(cx, &at.key("error_pages"), raw.error_pages);
    let rate_limit =
        raw.rate_limit.and_then(|raw| rate_limit::rate_limit(cx, &at.key("rate_limit"), raw));
    let action = action?;
    let own = matches!(
        action,
        Action::Redirect { .. } | Action::RedirectHttps { .. } | Action::Respond { .. }
    );
    if own {
        no_effect(cx, at, &request, &rewrite);
    }
    Some(Route {
        matches,
        action,
        access,
        request_headers: request,
        response_headers: response,
        rewrite,
        timeouts,
        error_pages,
        rate_limit,
    })
}

/// What changes a request that no backend gets to see.
fn no_effect(cx: &mut Cx<'_>, at: &Path, request: &HeaderEdits, rewrite: &Rewrite) {
    let keys =
        [("request_headers", !request.is_empty()), ("rewrite", *rewrite != Rewrite::default())];
    for (key, there) in keys {
        if there {
            let text = format!("`{key}` has no effect: this route sends nothing to a backend");
            cx.warn(&at.key(key), Wrong::plain(text));
        }
    }
}
