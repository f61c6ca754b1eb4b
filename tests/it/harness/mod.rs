//! What the tests are written in: the real binary as a child process, real backends as child
//! processes that can be told to misbehave, clients that check every answer, and load.
//!
//! Everything listens on a port that the kernel chose, and everything is waited for by an event with
//! a deadline. Children are killed when their handles are dropped; a failed test shows their logs.

mod address;
mod backend;
mod certificates;
mod child;
pub mod databases;
mod evenkeel;
pub mod h2_server;
mod hanging;
mod load;
mod metrics;
mod nginx;
pub mod pebble;
mod process;
mod raw;
mod request;
mod setup;
pub mod sql;
pub mod websocket;
mod wire;
mod witness;

use std::time::{Duration, Instant};

pub use address::{free_address, refusing_address};
pub use backend::{Backend, executed_twice};
pub use certificates::{Authority, Pair};
pub use child::{Child, Signal};
pub use evenkeel::{Folder, Proxy, evenkeel, program_under_test};
pub use hanging::Hanging;
pub use load::{Load, Report};
pub use nginx::Nginx;
pub use raw::{Blackhole, Head, RawBackend, RawPeer};
pub use request::Ask;
pub use setup::{Setup, setup};
pub use wire::{Answer, Broken, Conn, get};
pub use witness::{Got, Reply, Then, Witness, ok};

/// How long a test waits for what should come at once: long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until `done` says yes; panics when that takes longer than `within`.
#[track_caller]
pub fn eventually(what: &str, within: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    began.elapsed()
}

/// Says that a test cannot be run here, and why; where everything is required that is a failure.
#[track_caller]
pub fn skip(why: &str) {
    let all = std::env::var("EVENKEEL_TEST_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!all, "EVENKEEL_TEST_REQUIRE=all, but: {why}");
    eprintln!("skipped: {why}");
}

/// Whether a program can be found; if not, the test says so and is skipped.
#[track_caller]
pub fn program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file());
    if !found {
        skip(&format!("the program {name} is not installed"));
    }
    found
}
