//! HTTP/2, both roles: clients come through hyper ([`client`]), backends are asked through the h2 crate
//! beneath it ([`backend`], on connections that many requests share: [`connections`]).
//!
//! Towards backends hyper would put a task and a queue between a request and its stream; here whoever waits
//! for an answer polls the stream itself, as with HTTP/1, so that nothing is read that has nowhere to go.

pub mod backend;
pub mod backend_tunnel;
pub mod client;
pub mod connections;
mod request;
mod told;
pub mod tunnel;

pub use client::{End, Means, Stream, serve};
pub use connections::SharedConns;
pub use told::{Calm, Story};
