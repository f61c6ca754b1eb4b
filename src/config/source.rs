//! The text of a configuration file by lines, and how a place in it becomes a [`Problem`].
//!
//! Text from the file or the environment is shortened and stripped of control characters before it
//! is shown, so that a report cannot garble a terminal or a log.

use super::path::Path;
use super::problems::{Problem, Severity};
use crate::observe::printable::printable;

/// A place in the text, lines and columns counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
    /// Characters, within its first line; at least 1.
    pub width: usize,
}

/// What is wrong with a value, before it is known where it stands.
#[derive(Clone, Debug, Default)]
pub struct Wrong {
    pub message: String,
    pub allowed: Option<String>,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>, allowed: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), allowed: Some(allowed.into()), help: None }
    }

    /// A message that needs no list of what is allowed.
    pub fn plain(message: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), ..Wrong::default() }
    }

    pub fn help(mut self, help: impl Into<String>) -> Wrong {
        self.help = Some(help.into());
        self
    }

    pub fn help_if(mut self, help: Option<String>) -> Wrong {
        self.help = help.or(self.help);
        self
    }
}

#[derive(Debug)]
pub struct Source<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
}

/// Of a longer line, only the part around the place is shown.
const LINE_SHOWN: usize = 120;
const VALUE_SHOWN: usize = 60;

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Source<'a> {
        Source { name, lines: split_lines(text) }
    }

    /// Line `number`, counted from 1; empty if there is no such line.
    pub fn line(&self, number: usize) -> &'a str {
        number.checked_sub(1).and_then(|i| self.lines.get(i)).copied().unwrap_or("")
    }

    pub fn problem(
        &self,
        severity: Severity,
        mark: Mark,
        path: &Path,
        found: Option<&str>,
        wrong: Wrong,
    ) -> Problem {
        let (source, caret) = self.excerpt(mark);
        Problem {
            severity,
            file: self.name.to_owned(),
            line: mark.line,
            column: mark.column,
            path: path.to_string(),
            message: wrong.message,
            found: found.map(shorten),
            allowed: wrong.allowed,
            help: wrong.help,
            source,
            caret,
        }
    }

    fn excerpt(&self, mark: Mark) -> (String, (usize, usize)) {
        let line = self.line(mark.line);
        let before = mark.column.saturating_sub(1);
        let skip =
            if before + mark.width.min(40) > LINE_SHOWN { before - 40.min(before) } else { 0 };
        let mut shown: String = line.chars().skip(skip).take(LINE_SHOWN).map(printable).collect();
        let kept = shown.trim_end().len();
        shown.truncate(kept);
        let offset = before - skip;
        let room = shown.chars().count().saturating_sub(offset).max(1);
        (shown, (offset, mark.width.clamp(1, room)))
    }
}

/// At line feeds, carriage returns and pairs of them, as YAML counts lines (YAML 1.2, 5.4).
fn split_lines(text: &str) -> Vec<&str> {
    text.split('\n')
        .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
        .collect::<Vec<_>>()
}

/// A value as it is shown in a report: at most 60 characters, nothing that moves a cursor.
pub fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(VALUE_SHOWN).map(printable).collect();
    if text.chars().nth(VALUE_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_yaml_counts_them() {
        let source = Source::new("f", "a\nb\r\nc\rd");
        assert_eq!((1..=5).map(|n| source.line(n)).collect::<Vec<_>>(), ["a", "b", "c", "d", ""]);
        assert_eq!(source.line(0), "");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("{}X{}", "a".repeat(500), "b".repeat(500));
        let source = Source::new("f", &text);
        let mark = Mark { line: 1, column: 501, width: 1 };
        let problem = source.problem(Severity::Error, mark, &Path::root(), None, Wrong::plain("m"));
        assert_eq!(problem.source.chars().nth(problem.caret.0), Some('X'));
        assert!(problem.source.len() <= LINE_SHOWN);
    }

    #[test]
    fn values_cannot_move_the_cursor() {
        assert_eq!(shorten("a\u{1b}[2Jb\nc"), "a?[2Jb c");
        assert_eq!(shorten(&"x".repeat(100)).len(), 63);
    }
}
