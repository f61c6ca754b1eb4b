//! The mechanics of moving bytes: connect to a backend, relay a TCP stream, exchange HTTP messages.
//!
//! Nothing here decides anything about pools or routes; `flow` does, and calls in.

pub mod ahead;
pub mod backend_stream;
pub mod buffer;
pub mod buffers;
pub mod connect;
pub mod http;
pub mod session;
pub mod splice;
pub mod tcp;
