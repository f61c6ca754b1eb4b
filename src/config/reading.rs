//! Reads the text twice and holds the two readings together: positions from `spans`, values from
//! serde.
//!
//! What comes out is one tree in two forms with the same lists and maps, every scalar of the value
//! form a string with the environment filled in. Where the two readings disagree, the file is
//! refused there, so that no value can be reported at one place and taken from another.

use serde_yaml::Value;

use super::env::{self, Env};
use super::path::Path;
use super::raw::Lenient;
use super::source::{Mark, Source, Wrong};
use super::spans::{self, Flaw, Kind, Node};

#[derive(Debug)]
pub struct Reading {
    pub root: Node,
    /// Scalars are strings, or null where nothing stands.
    pub value: Value,
    pub flaws: Vec<Flaw>,
}

/// An error is a file of which no tree could be made.
pub fn read(text: &str, source: &Source<'_>, env: Env<'_>) -> Result<Reading, Box<Flaw>> {
    let tree = spans::read(text).map_err(|flaw| explain(flaw, source))?;
    let Some(root) = tree.root else { return Err(empty()) };
    let Lenient(mut value) = serde_yaml::from_str(text).map_err(|error| unread(&error))?;
    let mut settling = Settling { env, flaws: tree.duplicates };
    if matches!(value, Value::Null) {
        return Err(empty());
    }
    settling.settle(&root, &mut value, &Path::root());
    Ok(Reading { root, value, flaws: settling.flaws })
}

fn empty() -> Box<Flaw> {
    let at = Mark { line: 1, column: 1, width: 1 };
    let wrong = Wrong::new("the file is empty", "a map with at least `listeners` and `pools`");
    Box::new(Flaw { at, path: Path::root(), found: None, wrong })
}

fn unread(error: &serde_yaml::Error) -> Box<Flaw> {
    let (line, column) = error.location().map_or((1, 1), |l| (l.line(), l.column()));
    let at = Mark { line: line.max(1), column: column.max(1), width: 1 };
    let wrong = Wrong::plain(format!("this is not YAML: {error}"));
    Box::new(Flaw { at, path: Path::root(), found: None, wrong })
}

/// Adds to a syntax error what is most often behind it.
fn explain(mut flaw: Box<Flaw>, source: &Source<'_>) -> Box<Flaw> {
    let first = flaw.at.line.saturating_sub(3).max(1);
    for number in (first..=flaw.at.line).rev() {
        let line = source.line(number);
        if let Some(byte) = bare_variable(line) {
            let column = line[..byte].chars().count() + 1;
            let end = line[byte..].find('}').map_or(2, |end| end + 1);
            let text = &line[byte..byte + end];
            flaw.at = Mark { line: number, column, width: text.chars().count() };
            flaw.found = Some(text.to_owned());
            flaw.wrong = Wrong::plain("inside { } and [ ] YAML reads the braces of ${...} itself")
                .help(format!("put it in quotes: \"{text}\""));
            return flaw;
        }
    }
    let line = source.line(flaw.at.line);
    if line.contains("balance: hash:") {
        flaw.wrong.help = Some("write balance: {hash: {by: client_ip}}".to_owned());
    } else if line.contains('\t') {
        flaw.wrong.help = Some("YAML indents by spaces; this line has a tab".to_owned());
    } else if line.matches(": ").count() > 1 && !line.contains(['{', '"', '\'']) {
        flaw.wrong.help = Some("text with `: ` in it needs quotes".to_owned());
    }
    flaw
}

/// Where in the line a `${` stands after a bracket or a brace that is open, outside of quotes.
fn bare_variable(line: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0usize, None);
    let mut before = ' ';
    for (i, c) in line.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if !before.is_alphanumeric() => quote = Some(c),
            (None, '#') if before.is_whitespace() => return None,
            (None, '$') if depth > 0 && line[i..].starts_with("${") => return Some(i),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        before = c;
    }
    // A flow that was opened on an earlier line: the item begins with it.
    let item = line.trim_start();
    (depth == 0 && item.starts_with("${")).then(|| line.len() - item.len())
}

struct Settling<'a> {
    env: Env<'a>,
    flaws: Vec<Flaw>,
}

impl Settling<'_> {
    fn settle(&mut self, node: &Node, value: &mut Value, path: &Path) {
        match (&node.kind, value) {
            (Kind::Scalar { text, plain }, value) => self.scalar(node, text, *plain, value, path),
            (Kind::List(nodes), Value::Sequence(items)) if nodes.len() == items.len() => {
                for (i, (node, item)) in nodes.iter().zip(items).enumerate() {
                    self.settle(node, item, &path.index(i));
                }
            }
            (Kind::Map(entries), Value::Mapping(map)) if entries.len() == map.len() => {
                for (entry, (key, value)) in entries.iter().zip(map.iter_mut()) {
                    let path = path.key(&entry.key);
                    if key.as_str() == Some(&*entry.key) {
                        self.settle(&entry.value, value, &path);
                    } else {
                        self.disagree(entry.key_at, path);
                    }
                }
            }
            _ => self.disagree(node.at, path.clone()),
        }
    }

    /// Numbers and truth values become the text that stands in the file: `1.10` stays `1.10`.
    fn scalar(&mut self, node: &Node, text: &str, plain: bool, value: &mut Value, path: &Path) {
        let same = match &*value {
            Value::Null => plain && matches!(text, "" | "~" | "null" | "Null" | "NULL"),
            Value::Bool(b) => plain && text.eq_ignore_ascii_case(&b.to_string()),
            Value::Number(_) => plain && text.contains(|c: char| c.is_ascii_digit() || c == '.'),
            Value::String(read) => read == text,
            _ => false,
        };
        if !same {
            return self.disagree(node.at, path.clone());
        }
        if matches!(value, Value::Null) {
            return;
        }
        match env::fill(text, self.env) {
            Ok(filled) => *value = Value::String(filled),
            Err(wrong) => {
                let found = Some(text.to_owned());
                self.flaws.push(Flaw { at: node.at, path: path.clone(), found, wrong });
                // Known to be wrong: `shape` takes nulls out without a second report.
                *value = Value::Null;
            }
        }
    }

    fn disagree(&mut self, at: Mark, path: Path) {
        let wrong = Wrong::plain("two YAML readers understand this differently")
            .help("write it more plainly, or put it in quotes");
        self.flaws.push(Flaw { at, path, found: None, wrong });
    }
}
