//! evenkeel: a high-availability TCP and HTTP load balancer.
//!
//! The rooms follow a connection: `listen` accepts it, `route` decides, `pool` picks a backend,
//! `forward` moves the bytes, `observe` counts the outcome; `flow` tells that story from end to end.
//! Read `flow/connection.rs`, `flow/request.rs`, `pool/pick.rs`, `health/mod.rs`, `app.rs`, in that order.

#![warn(missing_debug_implementations, rust_2018_idioms)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod flow;
pub mod forward;
pub mod health;
pub mod lifecycle;
pub mod listen;
pub mod observe;
pub mod outcome;
pub mod pool;
pub mod route;
pub mod snapshot;
pub mod sys;
pub mod timer;
pub mod tls;
