//! Listening sockets: bound once by the control thread, accepted from by one worker in four.
//!
//! `bind` opens them, `accept` runs a loop on one and never does slow work in it, `gate` counts what
//! is open and holds the limits, `share` says which worker is to serve a connection, `proxy` reads and
//! writes headers of the PROXY protocol, `stream` is what a client's connection looks like to everybody
//! else, and `pass_on` how it is read and written.

pub mod accept;
pub mod bind;
pub mod gate;
mod pass_on;
pub mod proxy;
pub mod share;
pub mod stream;

pub use accept::{Acceptor, ONE_ACCEPTS_FOR};
pub use bind::{BindError, Bound};
pub use gate::{Gate, Permit};
pub(crate) use pass_on::pass_on;
pub use stream::{Accepted, ClientAddr, ClientStream, Plain, Socket};
