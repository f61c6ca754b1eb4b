//! What every part of validation shares: where problems go, and how a path becomes a place.
//!
//! Also the few ways in which a raw value is read: `text` for one, `each` for a list, `section` for a
//! part of the tree that serde reads.

use std::path::{Path as FilePath, PathBuf};

use serde::de::DeserializeOwned;
use serde_yaml::Value;

use crate::config::model::{BindAddr, Name};
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

#[derive(Debug)]
pub struct Cx<'a> {
    source: &'a Source<'a>,
    root: &'a Node,
    base_dir: &'a FilePath,
    problems: Vec<Problem>,
    left_out: usize,
    /// Every place that names a pool, for `cross`.
    pub references: Vec<Reference>,
    /// Every address that a listener binds, for `cross`.
    pub bound: Vec<(Path, BindAddr)>,
}

impl<'a> Cx<'a> {
    pub fn new(source: &'a Source<'a>, root: &'a Node, base_dir: &'a FilePath) -> Cx<'a> {
        let (problems, references, bound) = (Vec::new(), Vec::new(), Vec::new());
        Cx { source, root, base_dir, problems, left_out: 0, references, bound }
    }

    pub fn flaw(&mut self, flaw: Flaw) {
        let Flaw { at, path, found, wrong } = flaw;
        if self.room() {
            let problem = self.source.problem(Severity::Error, at, &path, found.as_deref(), wrong);
            self.problems.push(problem);
        }
    }

    pub fn error(&mut self, at: &Path, found: Option<&str>, wrong: Wrong) {
        self.add(Severity::Error, at, found, wrong);
    }

    pub fn warn(&mut self, at: &Path, wrong: Wrong) {
        self.add(Severity::Warning, at, None, wrong);
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
            || self.problems.iter().any(|p| {
                p.path.starts_with(&parent) && p.help.as_deref().is_some_and(|h| h.contains(&named))
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

    /// In the order of the file, none twice. Beside errors there are no warnings: what is wrong was
    /// left out, and a warning could come of that alone.
    pub fn finish(mut self) -> Vec<Problem> {
        if self.problems.iter().any(Problem::is_error) {
            self.problems.retain(Problem::is_error);
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        if self.left_out > 0 {
            let text = format!("{} more problems are not listed", self.left_out);
            let (at, _) = self.root.locate(&Path::root());
            let last =
                self.source.problem(Severity::Error, at, &Path::root(), None, Wrong::plain(text));
            self.problems.push(last);
        }
        self.problems
    }

    fn add(&mut self, severity: Severity, at: &Path, found: Option<&str>, wrong: Wrong) {
        if self.room() {
            let (mark, _) = self.root.locate(at);
            self.problems.push(self.source.problem(severity, mark, at, found, wrong));
        }
    }

    fn room(&mut self) -> bool {
        let room = self.problems.len() < MOST_PROBLEMS;
        self.left_out += usize::from(!room);
        room
    }
}
