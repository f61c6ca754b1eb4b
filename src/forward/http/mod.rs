//! HTTP messages, both roles: server to the client, client to the backend.
//!
//! HTTP/1 is our own (`h1`); HTTP/2 is the h2 crate's (`h2`). The two meet in two types: a
//! request's [`head`], one run of bytes whoever read it, and [`Front`], the client's side of one request,
//! from which its body is read and to which its answer is written. [`exchange`] moves the bodies between
//! a front and a [`Back`], the same seam on the backend's side; `flow::request` tells the whole story and knows neither version.
//!
//! An HTTP/1 connection to a backend has no task of its own: whoever waits for its answer drives it. That
//! saves two task switches a request, and a request that is dropped takes its connection with it. One of
//! HTTP/2 has a task, as it is shared; its streams have none.

pub mod back;
pub mod bulk;
pub mod date;
pub mod exchange;
pub mod front;
pub mod h1;
pub mod h2;
pub mod head;
pub mod idle;
pub mod io;
pub mod meter;
pub mod upload;
pub mod websocket;

pub use back::Back;
pub use front::{Front, Sink};
pub use h1::backend::BackendConn;
pub use idle::Idle;
