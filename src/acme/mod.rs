//! Certificates from an ACME server (RFC 8555), ordered and renewed by themselves: `tls.acme` of a
//! listener. One certificate for each name, so that a name that fails takes no other with it.
//!
//! `machine` says when (pure), `order` is the conversation with the server over `client`, `store` the
//! files that a restart finds again, `challenges` what the data path answers the server's challenges
//! with, `certificate` what is read and proved. `task` runs it all, on the control thread.

pub mod certificate;
pub mod challenges;
mod client;
pub mod machine;
mod order;
mod store;
pub mod task;
