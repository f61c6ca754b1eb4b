//! From the head of a request to what is to be done with it: match, rewrite, edit, redirect.
//!
//! Pure: a [`Table`] is built once per snapshot and only reads what it is given, but for the debts that a
//! rate limit keeps (`rate`). What was matched
//! (the normalised path, the host in lower case without its port) is what a backend gets. `target`
//! and `host` make that out of what a client sent; both refuse what could be read in two ways.

pub mod access;
pub mod debts;
pub mod fields;
pub mod headers;
pub mod host;
mod index;
mod matching;
pub mod rate;
pub mod redirect;
pub mod rewrite;
mod split;
mod streams;
mod table;
pub mod target;

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;

pub use fields::Fields;
pub use split::Split;
pub use streams::{Streams, Taken};
pub use table::{Table, UnknownPool};

use crate::config::model;

/// A pool's place in the snapshot's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId(pub usize);

/// What a route may look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// As [`host::normalise`] gives it; empty where a request has none (HTTP/1.0).
    pub host: &'a str,
    /// As [`target::normalise`] gives it; or `*`, which only routes without a path match.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: Fields<'a>,
    /// `None` on a UNIX socket.
    pub client: Option<IpAddr>,
}

#[derive(Debug)]
pub struct Route {
    pub config: model::Route,
    pub action: Action,
    pub rate_limit: Option<Arc<rate::Limiter>>,
}

/// A route's action with its pools found.
#[derive(Debug)]
pub enum Action {
    Pool(PoolId),
    Split(Split),
    /// See [`redirect::location`].
    Redirect,
    /// See the route's `config.action`.
    Respond,
}

#[cfg(test)]
mod tests;
