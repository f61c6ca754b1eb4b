//! The integration tests: one binary, a file per promise.

mod harness;

mod accept;
mod cli;
mod databases;
mod drain;
mod failover;
mod faults;
mod h1_corpus;
mod h1_differential;
mod h1_passes;
mod h1_requests;
mod h1_responses;
mod h1_streams;
mod h2;
mod h2_frames;
mod health;
mod http_balance;
mod http_errors;
mod http_headers;
mod http_refusals;
mod http_requests;
mod http_retries;
mod http_streams;
mod limits;
mod masking;
mod peers;
mod queue;
mod rate_limits;
mod reload;
mod routes;
mod smoke;
mod tcp;
mod testkit;
mod tidy;
mod tiers;
