//! The room as a whole: fixtures with the exact reports they must give, the two readings of a text,
//! and mutations that must never panic.
//!
//! `EVENKEEL_BLESS=1` rewrites the reports; read the difference before it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use super::problems::{Problem, render};
use super::source::Source;
use super::{LoadError, Loaded, keys, load, parse, reading, shape};

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(kind);
    let entries = fs::read_dir(&folder).expect("the folder of fixtures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no fixtures in {}", folder.display());
    files
}

/// The environment of every fixture.
fn environment(name: &str) -> Option<String> {
    match name {
        "BACKEND" => Some("10.0.0.11:8080".to_owned()),
        "PORT" => Some("8080".to_owned()),
        "TRICKY" => Some("x\nlisteners: {}".to_owned()),
        _ => None,
    }
}

fn run(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let text = fs::read_to_string(path).expect("the text of a fixture");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a plain file name");
    let folder = path.parent().expect("fixtures are in a folder");
    match parse(&text, name, folder, &environment) {
        Ok(loaded) => Ok(loaded),
        Err(LoadError::Invalid(problems)) => Err(problems),
        Err(other) => panic!("{}: {other}", path.display()),
    }
}

/// Compares with NAME.report; no report is an empty one.
fn hold_against_report(path: &Path, problems: &[Problem], wrong: &mut Vec<String>) {
    let report = path.with_extension("report");
    let given = render(problems);
    if std::env::var_os("EVENKEEL_BLESS").is_some() {
        if given.is_empty() {
            let _ = fs::remove_file(&report);
        } else {
            fs::write(&report, &given).expect("writing a report");
        }
    }
    let expected = fs::read_to_string(&report).unwrap_or_default();
    if given != expected {
        wrong.push(format!("{}\n--- gives\n{given}--- must give\n{expected}", path.display()));
    }
}

#[test]
fn valid_files_give_a_configuration_and_only_the_warnings_beside_them() {
    let mut wrong = Vec::new();
    for path in fixtures("valid") {
        match run(&path) {
            Ok(loaded) => {
                assert!(loaded.warnings.iter().all(|warning| !warning.is_error()));
                hold_against_report(&path, &loaded.warnings, &mut wrong);
            }
            Err(problems) => wrong.push(format!("{}\n{}", path.display(), render(&problems))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn invalid_files_give_exactly_the_report_beside_them() {
    let files = fixtures("invalid");
    assert!(files.len() >= 25, "only {} invalid fixtures", files.len());
    let mut wrong = Vec::new();
    for path in files {
        match run(&path) {
            Ok(_) => wrong.push(format!("{} is accepted", path.display())),
            Err(problems) => {
                assert!(problems.iter().any(Problem::is_error), "{}", path.display());
                hold_against_report(&path, &problems, &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
