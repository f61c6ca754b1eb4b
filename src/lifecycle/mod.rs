//! From start to stop: phases, signals, reload, and the one writer of the snapshot.
//!
//! Start and reload go the same way: load the file, `resolve` the names in it, bind what is new
//! (`sockets`), build a whole snapshot, let `health` find its first verdicts, and swap (`publish`).
//! Whatever fails on that way changes nothing. Certificates that are renewed meanwhile come in by `renew`.

pub mod phase;
pub mod publish;
pub mod reload;
pub mod renew;
pub mod resolve;
pub mod sockets;
pub mod status;
pub mod systemd;
pub mod watch;

#[cfg(test)]
mod tests;
