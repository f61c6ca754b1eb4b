//! The integration tests: one binary, a file per promise.

mod harness;

mod failover;
mod smoke;
mod tidy;
