//! The integration tests: one binary, a file per promise.

mod harness;

mod cli;
mod drain;
mod failover;
mod health;
mod http_balance;
mod http_errors;
mod http_headers;
mod http_refusals;
mod http_requests;
mod http_retries;
mod http_streams;
mod peers;
mod reload;
mod routes;
mod smoke;
mod testkit;
mod tidy;
