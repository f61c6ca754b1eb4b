//! From start to stop: phases, signals, reload, and the one writer of the snapshot.

pub mod phase;
pub mod status;
