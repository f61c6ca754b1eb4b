//! Listening sockets: bound once by the control thread, accepted from by every worker.
//!
//! `bind` opens them, `accept` runs a worker's loop and never does slow work in it, `gate` holds the
//! connection limits, `stream` is what a client's connection looks like to everybody else.

pub mod accept;
pub mod bind;
pub mod gate;
pub mod stream;

pub use accept::Acceptor;
pub use bind::{BindError, Bound};
pub use gate::{Gate, Permit};
pub use stream::{ClientAddr, ClientStream, Plain, Socket};
