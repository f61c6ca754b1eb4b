//! The comparison of failover under `benches/faults` tells the truth: it finds no fault with what is
//! perfect, and every fault of what is broken. No product takes part.

use std::path::Path;
use std::process::Command;

use crate::harness::{program, skip};

#[test]
fn the_comparison_of_failover_finds_what_fails_and_nothing_else() {
    if !program("python3") {
        return;
    }
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/faults/run");
    let out = Command::new("python3").arg(run).arg("--self-test").output().expect("it starts");
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    if text.contains("needs Python") {
        return skip(text.trim());
    }
    assert!(out.status.success(), "{text}");
    assert_eq!(text.matches(": fine").count(), 4, "{text}");
}
