//! `evenkeel check FILE...`: is a configuration right, and what would run?
//!
//! Opens no socket. Writes to what it is given and returns the exit code, so that tests can read
//! it: 0 all valid, 1 one is not, 2 one could not be read; of several files the worst counts.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::summary;
use crate::config::problems::{Problem, render};
use crate::config::{LoadError, Loaded, load};

/// Say what is wrong with configuration files, or what they would run; opens no socket
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit code: 0 all valid, 1 one is not, 2 one could not be read.")]
pub struct CheckArgs {
    /// The configuration files to check
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// How to print the result: text for people, json for machines
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Let warnings fail the check, too
    #[arg(long)]
    pub strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// What became of a file; the later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Valid,
    Invalid,
    Unreadable,
}

impl Verdict {
    fn label(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::Invalid => "invalid",
            Verdict::Unreadable => "unreadable",
        }
    }
}

/// Returns the exit code. An error is one of writing to `out`.
pub fn run(
    args: &CheckArgs,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut dyn Write,
) -> io::Result<u8> {
    let mut worst = Verdict::Valid;
    let mut reports = Vec::new();
    for (i, file) in args.files.iter().enumerate() {
        let result = load(file, env);
        let verdict = verdict(&result, args.strict);
        worst = worst.max(verdict);
        match args.format {
            Format::Text => {
                if i > 0 {
                    writeln!(out)?;
                }
                text(file, &result, verdict, out)?;
            }
            Format::Json => reports.push(machine(file, &result, verdict)),
        }
    }
    if args.format == Format::Json {
        serde_json::to_writer_pretty(&mut *out, &json!({"files": reports}))?;
        writeln!(out)?;
    }
    out.flush()?;
    Ok(worst as u8)
}

fn verdict(result: &Result<Loaded, LoadError>, strict: bool) -> Verdict {
    match result {
        Ok(loaded) if strict && !loaded.warnings.is_empty() => Verdict::Invalid,
        Ok(_) => Verdict::Valid,
        Err(LoadError::Invalid(_)) => Verdict::Invalid,
        Err(LoadError::Unreadable { .. }) => Verdict::Unreadable,
    }
}

fn text(
    file: &Path,
    result: &Result<Loaded, LoadError>,
    verdict: Verdict,
    out: &mut dyn Write,
) -> io::Result<()> {
    let problems: &[Problem] = match result {
        Ok(loaded) => &loaded.warnings,
        Err(LoadError::Invalid(problems)) => problems,
        Err(error @ LoadError::Unreadable { .. }) => return writeln!(out, "error: {error}"),
    };
    out.write_all(render(problems).as_bytes())?;
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let counts = [count(errors, "error"), count(problems.len() - errors, "warning")];
    let counts = counts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let state = match verdict {
        Verdict::Valid => "valid",
        Verdict::Invalid | Verdict::Unreadable => "not valid",
    };
    let separator = if counts.is_empty() { "" } else { ", " };
    writeln!(out, "{}: {state}{separator}{counts}", file.display())?;
    if let Ok(loaded) = result {
        writeln!(out)?;
        summary::write(&loaded.config, out)?;
    }
    Ok(())
}

fn count(n: usize, what: &str) -> Option<String> {
    match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    }
}

fn machine(file: &Path, result: &Result<Loaded, LoadError>, verdict: Verdict) -> serde_json::Value {
    let file = file.display().to_string();
    let status = verdict.label();
    match result {
        Ok(loaded) => {
            let pools = summary::pools_for_machines(&loaded.config);
            let certificates = summary::certificates_for_machines(&loaded.config);
            json!({
                "file": file,
                "status": status,
                "problems": loaded.warnings,
                "pools": pools,
                "certificates": certificates,
            })
        }
        Err(LoadError::Invalid(problems)) => {
            json!({"file": file, "status": status, "problems": problems})
        }
        Err(error @ LoadError::Unreadable { .. }) => {
            let text = error.to_string();
            json!({"file": file, "status": status, "problems": [], "error": text})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        crate::tls::testing::fixtures();
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(name)
    }

    fn check(files: &[PathBuf], format: Format, strict: bool) -> (u8, String) {
        let args = CheckArgs { files: files.to_vec(), format, strict };
        let mut out = Vec::new();
        let code = run(&args, &|_| None, &mut out).expect("writing to memory");
        (code, String::from_utf8(out).expect("UTF-8"))
    }

    #[test]
    fn the_worst_of_several_files_is_the_exit_code() {
        let good = fixture("valid/minimal.yaml");
        let warned = fixture("valid/warnings.yaml");
        let bad = fixture("invalid/durations.yaml");
        let gone = fixture("valid/no_such_file.yaml");
        for (files, strict, expected) in [
            (vec![good.clone()], true, 0),
            (vec![warned.clone()], false, 0),
            (vec![warned], true, 1),
            (vec![bad.clone(), good.clone()], false, 1),
            (vec![gone.clone(), bad], false, 2),
            (vec![gone], false, 2),
            (vec![fixture("valid")], false, 2),
        ] {
            for format in [Format::Text, Format::Json] {
                let (code, text) = check(&files, format, strict);
                assert_eq!(code, expected, "{files:?} {text}");
            }
        }
    }

    #[test]
    fn problems_are_printed_with_their_place() {
        let (_, text) = check(&[fixture("invalid/words.yaml")], Format::Text, false);
        assert!(text.contains("words.yaml:1:10: error: workers: not a whole number"), "{text}");
        assert!(text.contains("did you mean `http`?"), "{text}");
        assert!(text.contains("words.yaml: not valid, "), "{text}");
    }

    #[test]
    fn machines_get_the_same_in_json() {
        let files = [fixture("invalid/words.yaml"), fixture("valid/minimal.yaml")];
        let (code, text) = check(&files, Format::Json, false);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(code, 1);
        assert_eq!(json["files"][0]["status"], "invalid");
        let problem = &json["files"][0]["problems"][0];
        assert_eq!((&problem["line"], &problem["column"]), (&json!(1), &json!(10)));
        assert_eq!(problem["path"], "workers");
        assert_eq!(problem["severity"], "error");
        assert_eq!(json["files"][1]["status"], "valid");
        assert_eq!(json["files"][1]["pools"][0]["worst_detection_seconds"], 4.8);
    }

    #[test]
    fn the_summary_says_how_tiers_take_over() {
        let file = fixture("valid/failover_key_by_key.yaml");
        let (_, text) = check(&[file, fixture("valid/everything.yaml")], Format::Text, false);
        for part in [
            "10.0.0.2:80 tier 1 max_requests 8",
            "tier 0, then 1: a tier in which nothing serves hands over to the next, failback at once",
            "tier 0, then 1: an operator switches, failback by an operator",
            "exclusive: one backend is used at a time",
            "PROXY header required from 10.0.0.0/8, unix",
            "backends are told who the client is: PROXY protocol, version 2",
            "spoken to: HTTP/2 without TLS",
            "spoken to: HTTP/2, or HTTP/1.1 where a backend has nothing else",
            "listener passthrough: tcp on 127.0.0.1:9443, by TLS server name",
            "a.example.com or *.example.com -> pool secure",
            "everything -> closed",
            "no health check: a dead backend is found by requests that fail",
            "tls 1.3, http/1.1, h2, only names that are covered",
            "web-rsa.pem (RSA) for example.com, *.example.com: expires 2049-01-01, in ",
            "client certificates optional, of 1 authority, less those that are revoked",
            "session tickets with 1 keys of",
            "Strict-Transport-Security for 365d",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_valid_file_gives_a_summary() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
        let (code, text) = check(&[example], Format::Text, true);
        assert_eq!(code, 0, "{text}");
        for part in [
            "listener web: http on 127.0.0.1:8080",
            "everything else -> pool web",
            "pool web: least_requests over 3 backends",
            "127.0.0.1:9002",
            "a dead backend is taken out after 3.7s at worst",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
