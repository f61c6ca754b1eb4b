//! The integration tests: one binary, a file per promise.

mod harness;

mod cli;
mod drain;
mod failover;
mod health;
mod reload;
mod smoke;
mod tidy;
