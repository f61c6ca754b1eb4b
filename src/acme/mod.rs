//! Certificates from an ACME server (RFC 8555), ordered and renewed by themselves: `tls.acme` of a
//! listener. One certificate for each name, so that a name that fails takes no other with it.
//!
//! `machine` says when (pure), `order` is the conversation with the server over `client`, `store` the
//! files that a restart finds again (reached by `disk`, which keeps the control thread from waiting for
//! them), `challenges` what the data path answers the server's challenges with, `certificate` what is
//! read and proved, `name` all that is known of one. `task` runs it all, on the control thread.

pub mod certificate;
pub mod challenges;
mod client;
mod disk;
pub mod machine;
mod name;
mod order;
mod store;
pub mod task;
