//! The fuzz targets' corpus, and some thousand mutations of it, run as ordinary tests: what was found
//! once stays found. The targets themselves are in `fuzz/`.

use std::path::Path;

#[path = "../../fuzz/entries.rs"]
pub mod entries;

use crate::h1_differential::{mutate, seeded};

fn run(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("there is a corpus").flatten();
    let corpus: Vec<Vec<u8>> =
        entries.map(|entry| std::fs::read(entry.path()).expect("a file")).collect();
    assert!(corpus.len() >= 20, "{} in {}", corpus.len(), folder.display());
    corpus.iter().for_each(|data| entry(data));
    let mut rng = seeded();
    for _ in 0..2000 {
        let mut data = corpus[rng.usize(..corpus.len())].clone();
        for _ in 0..rng.usize(1..5) {
            mutate(&mut data, &mut rng);
        }
        entry(&data);
    }
}

#[test]
fn requests_hold() {
    run("requests", entries::requests);
}

#[test]
fn answers_hold() {
    run("answers", entries::answers);
}

#[test]
fn chunked_bodies_hold() {
    run("chunked", entries::chunked);
}

#[test]
fn proxy_headers_hold() {
    run("proxy", entries::proxy);
}

#[test]
fn client_hellos_hold() {
    run("hello", entries::hello);
}
