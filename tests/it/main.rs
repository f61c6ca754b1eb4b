//! The integration tests: one binary, a file per promise.

mod harness;

mod cli;
mod drain;
mod failover;
mod health;
mod peers;
mod reload;
mod smoke;
mod testkit;
mod tidy;
