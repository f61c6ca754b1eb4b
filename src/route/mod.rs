//! From the head of a request to what is to be done with it: match, rewrite, edit, redirect.
//!
//! Pure: a [`Table`] is built once per snapshot and only reads what it is given. What was matched
//! (the normalised path, the host in lower case without its port) is what a backend gets.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::config::model;

/// A pool's place in the snapshot's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolId(pub usize);

/// What a route may look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Lower case, no port, no trailing dot.
    pub host: &'a str,
    /// Normalised.
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// `None` on a UNIX socket.
    pub client: Option<IpAddr>,
}

/// A listener's routes; the first that matches wins.
#[derive(Debug)]
pub struct Table {
    routes: Box<[Route]>,
}

#[derive(Debug)]
pub struct Route {
    pub config: model::Route,
    pub action: Action,
}

/// A route's action with its pools found.
#[derive(Debug)]
pub enum Action {
    Pool(PoolId),
    Split(Split),
    /// See the route's `config.action`.
    Redirect,
    /// See the route's `config.action`.
    Respond,
}

/// A weighted choice between pools.
#[derive(Debug)]
pub struct Split {
    /// Running totals of the weights.
    totals: Box<[(u64, PoolId)]>,
}
