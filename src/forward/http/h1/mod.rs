//! HTTP/1 on the wire (RFC 9112), both roles: server to the client (`client`), client to the backend
//! (`backend`).
//!
//! Pure are `parse` (heads), `chunked` (the coding of bodies) and `write`; `body` reads a message's body
//! off a connection, whichever end that is. A connection at rest holds no buffer.

pub mod backend;
pub mod body;
pub mod chunked;
pub mod client;
pub mod parse;
pub mod write;
