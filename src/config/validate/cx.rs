//! What every part of validation shares: where problems go, and how a path becomes a place.
//!
//! Also the few ways in which a raw value is read: `text` for one, `each` for a list, `section` for
//! a part of the tree that serde reads.

use std::path::{Path as FilePath, PathBuf};

use serde::de::DeserializeOwned;
use serde_yaml::Value;

use crate::config::model::{BackendTls, BindAddr, Bundle, Certificate, Config, ListenerTls, Name};
use crate::config::path::Path;
use crate::config::problems::{Problem, Severity};
use crate::config::raw::Texts;
use crate::config::source::{Source, Wrong};
use crate::config::spans::{Flaw, Node};

/// A place that names a pool: as its value, or (in a split) as its key.
#[derive(Debug)]
pub struct Reference {
    pub at: Path,
    pub pool: Name,
    pub by_key: bool,
}

/// More would help nobody; what is left out is said.
pub const MOST_PROBLEMS: usize = 1000;

/// A file of TLS that could not be used, and what is wrong with it.
pub type Kept = (PathBuf, String);

#[derive(Debug)]
pub struct Cx<'a> {
    source: &'a Source<'a>,
    root: &'a Node,
    base_dir: &'a FilePath,
    /// What is in force while this is read: nothing, at start and in `check`.
    before: Option<&'a Config>,
    errors: Listed,
    warnings: Listed,
    /// Every place that names a pool, for `cross`.
    pub references: Vec<Reference>,
    /// Every address that a listener binds, for `cross`.
    pub bound: Vec<(Path, BindAddr)>,
    /// For which what is in force stays.
    pub kept_certificates: Vec<Kept>,
}

impl<'a> Cx<'a> {
    pub fn new(
        source: &'a Source<'a>,
        root: &'a Node,
        base_dir: &'a FilePath,
        before: Option<&'a Config>,
    ) -> Cx<'a> {
        let (errors, warnings) = (Listed::default(), Listed::default());
        let (references, bound) = (Vec::new(), Vec::new());
        let kept_certificates = Vec::new();
        Cx {
            source,
            root,
            base_dir,
            before,
            errors,
            warnings,
            references,
            bound,
            kept_certificates,
        }
    }

    pub fn flaw(&mut self, flaw: Flaw) {
        let Flaw { at, path, found, wrong } = flaw;
        let (source, found) = (self.source, found.as_deref());
        self.errors.add(|| source.problem(Severity::Error, at, &path, found, wrong));
    }

    pub fn error(&mut self, at: &Path, found: Option<&str>, wrong: Wrong) {
        let (source, root) = (self.source, self.root);
        self.errors.add(|| source.problem(Severity::Error, root.locate(at).0, at, found, wrong));
    }

    pub fn warn(&mut self, at: &Path, wrong: Wrong) {
        let (source, root) = (self.source, self.root);
        self.warnings.add(|| source.problem(Severity::Warning, root.locate(at).0, at, None, wrong));
    }

    /// The key `key` of the map at `at` has to be there.
    pub fn missing(&mut self, at: &Path, key: &str, example: &str) {
        // A value that did not fit was taken out and reported: then it is not missing.
        if !self.has(&at.key(key)) && !self.misspelt(at, key) {
            let wrong = Wrong::plain(format!("`{key}` is missing"));
            self.error(at, None, wrong.help(format!("for example: {example}")));
        }
    }

    /// Whether `key` was reported to stand there under another name, or by a merge key.
    fn misspelt(&self, at: &Path, key: &str) -> bool {
        let named = format!("`{key}`");
        let parent = at.to_string();
        self.has(&at.key("<<"))
            || self.errors.problems.iter().any(|p| {
                let beside = p
                    .path
                    .strip_prefix(&parent)
                    .is_some_and(|rest| !rest.trim_start_matches('.').contains(['.', '[']));
                beside && p.help.as_deref().is_some_and(|help| help.contains(&named))
            })
    }

    /// Whether something stands at `at` in the text, right or wrong.
    pub fn has(&self, at: &Path) -> bool {
        self.root.locate(at).1
    }

    /// `None` if there is nothing, or if it is wrong; then it is reported.
    pub fn text<T>(
        &mut self,
        at: &Path,
        text: Option<&String>,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let text = text?;
        match read(text) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.error(at, Some(text), wrong);
                None
            }
        }
    }

    /// As `text`, for the key that `at` ends with.
    pub fn key<T>(
        &mut self,
        at: &Path,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        read(key).map_err(|wrong| self.key_error(at, key, wrong)).ok()
    }

    pub fn key_error(&mut self, at: &Path, key: &str, wrong: Wrong) {
        let at_key = self.root.locate_key(at);
        let found = Some(key.to_owned());
        self.flaw(Flaw { at: at_key, path: at.clone(), found, wrong });
    }

    /// Each item that could be read, with its place.
    pub fn each<T>(
        &mut self,
        at: &Path,
        texts: Option<&Texts>,
        mut read: impl FnMut(&str) -> Result<T, Wrong>,
    ) -> Vec<(Path, T)> {
        match texts {
            None => Vec::new(),
            Some(Texts::One(text)) => self
                .text(at, Some(text), read)
                .map(|value| (at.clone(), value))
                .into_iter()
                .collect(),
            Some(Texts::Many(texts)) => {
                let mut values = Vec::with_capacity(texts.len());
                for (i, text) in texts.iter().enumerate() {
                    let at = at.index(i);
                    if let Some(value) = self.text(&at, text.as_ref(), &mut read) {
                        values.push((at, value));
                    }
                }
                values
            }
        }
    }

    /// Lets serde read one part of the tree.
    pub fn section<T: DeserializeOwned + Default>(&mut self, at: &Path, value: Value) -> T {
        match serde_yaml::from_value(value) {
            Ok(section) => section,
            // `shape` took out what does not fit; were its tables wrong, the file is refused here.
            Err(error) => {
                self.error(at, None, Wrong::plain(format!("cannot be read: {error}")));
                T::default()
            }
        }
    }

    /// Relative paths are relative to the folder of the file.
    pub fn beside_the_file(&self, path: &str) -> PathBuf {
        self.base_dir.join(path)
    }

    /// The certificate in force that was read of these two files: what goes on to be used if they
    /// cannot be read now.
    pub fn predecessor(&self, cert: &FilePath, key: &FilePath) -> Option<Certificate> {
        let clients = self.backends_before().filter_map(|tls| tls.client.as_ref());
        let mut all = self.tls_before().flat_map(|tls| &tls.certificates).chain(clients);
        all.find(|known| known.cert == cert && known.key == key).cloned()
    }

    /// The same of authorities.
    pub fn authorities_before(&self, path: &FilePath) -> Option<Bundle> {
        let listeners = self.tls_before().flat_map(|tls| {
            let clients = tls.client_auth.as_ref().map(|auth| &auth.ca);
            let acme = tls.acme.as_ref().and_then(|acme| acme.ca.as_ref());
            clients.into_iter().chain(acme)
        });
        let pools = self.backends_before().filter_map(|tls| tls.ca.as_ref());
        listeners.chain(pools).find(|known| known.path == path).cloned()
    }

    fn backends_before(&self) -> impl Iterator<Item = &'a BackendTls> + use<'a> {
        let pools = self.before.into_iter().flat_map(|config| &config.pools);
        pools.filter_map(|pool| pool.tls.as_ref())
    }

    /// The TLS of every listener in force.
    pub fn tls_before(&self) -> impl Iterator<Item = &'a ListenerTls> + use<'a> {
        let listeners = self.before.into_iter().flat_map(|config| &config.listeners);
        listeners.filter_map(|listener| listener.tls.as_ref())
    }

    /// In the order of the file, none twice. Beside errors there are no warnings: what is wrong was
    /// left out, and a warning could come of that alone.
    pub fn finish(self) -> Vec<Problem> {
        let (listed, severity) = match self.errors.problems.is_empty() {
            true => (self.warnings, Severity::Warning),
            false => (self.errors, Severity::Error),
        };
        let Listed { mut problems, left_out } = listed;
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.dedup();
        if left_out > 0 {
            let text = format!("{left_out} more {}s are not listed", severity.label());
            let (at, _) = self.root.locate(&Path::root());
            let wrong = Wrong::plain(text);
            problems.push(self.source.problem(severity, at, &Path::root(), None, wrong));
        }
        problems
    }
}

/// Problems of one severity, up to a bound.
#[derive(Debug, Default)]
struct Listed {
    problems: Vec<Problem>,
    left_out: usize,
}

impl Listed {
    fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < MOST_PROBLEMS {
            self.problems.push(problem());
        } else {
            self.left_out += 1;
        }
    }
}
