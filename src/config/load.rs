//! The one way to a configuration: start, reload, `check` and `demo` all come through here.
//!
//! Reads the file and the files that it names, nothing else: no socket is opened, no name resolved.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::env::Env;
use super::model::Config;
use super::path::Path as YamlPath;
use super::problems::{Problem, Severity, one_line};
use super::source::{Mark, Source, Wrong};
use super::{reading, spans, validate};

#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// What is allowed but hardly meant; none of them is an error.
    pub warnings: Vec<Problem>,
    /// Files of TLS that could not be used, and what is wrong with each: what is in force stays. All are
    /// among the warnings.
    pub kept_certificates: Vec<(PathBuf, String)>,
}

/// Why there is no configuration. `Display` is one line, for a log.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// In the order of the file, warnings among them; at least one is an error.
    /// [`render`](super::problems::render) shows them in full.
    #[error("{}", one_line(.0))]
    Invalid(Vec<Problem>),
}

/// Loads a file. `env` answers for the environment: `&|name| std::env::var(name).ok()`.
pub fn load(path: &Path, env: Env<'_>) -> Result<Loaded, LoadError> {
    load_after(path, env, None)
}

/// The same while `before` is in force: a certificate (or another file of TLS) that cannot be used any
/// more keeps its good predecessor, with a warning, instead of being an error.
pub fn load_after(path: &Path, env: Env<'_>, before: Option<&Config>) -> Result<Loaded, LoadError> {
    let name = path.display().to_string();
    let bytes =
        read(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.as_bytes().len() > spans::MAX_BYTES => {
            // Cut off within a character, perhaps; that it is too large comes first.
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            return Err(not_utf8(&name, &error.into_bytes()[..at]));
        }
    };
    let base_dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    parse_after(&text, &name, base_dir, env, before)
}

/// The same for a text in memory; `file_name` is what reports call it, relative paths start at
/// `base_dir`.
pub fn parse(
    text: &str,
    file_name: &str,
    base_dir: &Path,
    env: Env<'_>,
) -> Result<Loaded, LoadError> {
    parse_after(text, file_name, base_dir, env, None)
}

/// As [`load_after`].
pub fn parse_after(
    text: &str,
    file_name: &str,
    base_dir: &Path,
    env: Env<'_>,
    before: Option<&Config>,
) -> Result<Loaded, LoadError> {
    // A byte order mark would move every column of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source::new(file_name, text);
    let reading = match reading::read(text, &source, env) {
        Ok(reading) => reading,
        Err(flaw) => {
            let found = flaw.found.as_deref();
            let problem = source.problem(Severity::Error, flaw.at, &flaw.path, found, flaw.wrong);
            return Err(LoadError::Invalid(vec![problem]));
        }
    };
    let validated = validate::validate(reading, &source, base_dir, before);
    let (problems, kept_certificates) = (validated.problems, validated.kept_certificates);
    match validated.config {
        Some(config) => Ok(Loaded { config, warnings: problems, kept_certificates }),
        None => Err(LoadError::Invalid(problems)),
    }
}

/// One byte more than the largest file: then `spans` says that it is too large.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(spans::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `before` is the part that could be read.
fn not_utf8(name: &str, before: &[u8]) -> LoadError {
    let text = String::from_utf8_lossy(before);
    let source = Source::new(name, &text);
    let line = text.split('\n').count();
    let column = text.rsplit('\n').next().map_or(1, |last| last.chars().count() + 1);
    let at = Mark { line, column, width: 1 };
    let wrong = Wrong::new("a byte that is not UTF-8", "text in UTF-8");
    let problem = source.problem(Severity::Error, at, &YamlPath::root(), None, wrong);
    LoadError::Invalid(vec![problem])
}
