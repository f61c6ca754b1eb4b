//! HTTP/2, both roles, through the h2 crate: clients' connections ([`client`]) and their streams ([`stream`],
//! answered by a [`reply`]); backends' streams ([`backend`]) on connections that many requests share
//! ([`connections`]).
//!
//! Of a connection one task reads and writes. There is no task and no queue between a stream and whoever
//! tells the story of its request: he polls the stream itself, as with HTTP/1, so that nothing is read that
//! has nowhere to go.

pub mod backend;
pub mod calm;
pub mod client;
pub mod connections;
pub mod reply;
mod request;
pub mod stream;
pub mod tunnel;
mod wire;

pub use calm::Calm;
pub use client::{Asked, End, serve};
pub use connections::SharedConns;
pub use reply::Reply;
pub use stream::Stream;
