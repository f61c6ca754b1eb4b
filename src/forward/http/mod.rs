//! HTTP messages over hyper, both roles: server to the client, client to the backend.
//!
//! This is the seam behind which the HTTP/1 relay lives: `flow` sees the types of the `http` crate,
//! [`Upload`] (a request's body on its way to a backend), [`Reply`] (an answer's body on its way to
//! the client) and [`BackendConn`], and nothing of hyper beyond its `Incoming` body.
//!
//! A backend connection has no task of its own: whoever waits for its answer drives it. That saves
//! two task switches a request, and a request that is dropped takes its connection with it.

pub mod backend;
pub mod idle;
pub mod io;
pub mod reply;
pub mod server;
pub mod upload;

pub use backend::{BackendConn, SendError};
pub use idle::Idle;
pub use reply::{Reply, Tail};
pub use upload::Upload;

/// A message body as hyper read it.
pub type Incoming = hyper::body::Incoming;
