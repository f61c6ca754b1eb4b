//! What the process tells the outside: the metric cells that the data path writes, and the log.

pub mod cells;
pub mod limiter;
pub mod log;
pub mod metrics;
pub mod printable;
