//! The file as a tree of nodes with positions, read from saphyr-parser's event stream.
//!
//! Finds what has to do with the text alone: syntax, duplicate keys, several documents, tags, keys
//! that are no text, a file that is too large, too deep, or too large once its aliases are filled
//! in. Values come from the second reading; see `reading`.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::path::{Path, Step};
use super::source::{Mark, Wrong};

pub const MAX_BYTES: usize = 4 * 1024 * 1024;
pub const MAX_DEPTH: usize = 64;
/// Nodes that aliases may add, all together: what stops a billion laughs.
pub const MAX_ALIASED: usize = 100_000;

#[derive(Clone, Debug)]
pub struct Node {
    pub at: Mark,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Entries),
}

/// A map's entries in the order of the file; of a key that stands twice, the first.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    list: Vec<Entry>,
    /// Of a large map, where each key is; of a small one, nothing.
    places: HashMap<String, usize>,
}

/// Up to here, looking through the keys one by one is no slower.
const SMALL: usize = 16;

impl Entries {
    fn new(list: Vec<Entry>) -> Entries {
        let large = list.len() > SMALL;
        let place = |(i, entry): (usize, &Entry)| large.then(|| (entry.key.clone(), i));
        let places = list.iter().enumerate().filter_map(place).collect();
        Entries { list, places }
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        if self.places.is_empty() {
            return self.list.iter().find(|entry| entry.key == key);
        }
        self.places.get(key).and_then(|i| self.list.get(*i))
    }
}

impl std::ops::Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.list
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub key_at: Mark,
    pub value: Node,
}

/// A problem of the text, with the place and the path where there is one.
#[derive(Debug)]
pub struct Flaw {
    pub at: Mark,
    pub path: Path,
    pub found: Option<String>,
    pub wrong: Wrong,
}

/// What the first reading gives: the tree (`None` if nothing is in the file) and duplicate keys.
#[derive(Debug, Default)]
pub struct Tree {
    pub root: Option<Node>,
    pub duplicates: Vec<Flaw>,
}

impl Node {
    /// The place of the key that `path` ends with; else what [`Node::locate`] finds.
    pub fn locate_key(&self, path: &Path) -> Mark {
        let mut node = self;
        let mut mark = None;
        for step in path.steps() {
            (node, mark) = match (step, &node.kind) {
                (Step::Key(key), Kind::Map(entries)) => match entries.get(key) {
                    Some(entry) => (&entry.value, Some(entry.key_at)),
                    None => return self.locate(path).0,
                },
                (Step::Index(index), Kind::List(items)) => match items.get(*index) {
                    Some(item) => (item, None),
                    None => return self.locate(path).0,
                },
                _ => return self.locate(path).0,
            };
        }
        mark.unwrap_or_else(|| self.locate(path).0)
    }

    /// The place of `path`: of a scalar itself, of a list or a map its key. The flag says whether
    /// it is there at all; if not, the place is that of the deepest part that is.
    pub fn locate(&self, path: &Path) -> (Mark, bool) {
        let mut node = self;
        let mut mark = self.at;
        for step in path.steps() {
            match (step, &node.kind) {
                (Step::Key(key), Kind::Map(entries)) => {
                    let Some(entry) = entries.get(key) else {
                        return (mark, false);
                    };
                    node = &entry.value;
                    mark = match node.kind {
                        Kind::Scalar { .. } => node.at,
                        Kind::List(_) | Kind::Map(_) => entry.key_at,
                    };
                }
                (Step::Index(index), Kind::List(items)) => {
                    let Some(item) = items.get(*index) else { return (mark, false) };
                    node = item;
                    mark = node.at;
                }
                _ => return (mark, false),
            }
        }
        (mark, true)
    }

    fn size(&self) -> usize {
        match &self.kind {
            Kind::Scalar { .. } => 1,
            Kind::List(items) => 1 + items.iter().map(Node::size).sum::<usize>(),
            Kind::Map(entries) => 1 + entries.iter().map(|e| 1 + e.value.size()).sum::<usize>(),
        }
    }

    fn depth(&self) -> usize {
        match &self.kind {
            Kind::Scalar { .. } => 0,
            Kind::List(items) => 1 + items.iter().map(Node::depth).max().unwrap_or(0),
            Kind::Map(entries) => 1 + entries.iter().map(|e| e.value.depth()).max().unwrap_or(0),
        }
    }
}

/// Reads the whole text; a flaw that leaves no tree to speak of comes back alone.
pub fn read(text: &str) -> Result<Tree, Box<Flaw>> {
    if text.len() > MAX_BYTES {
        let wrong = Wrong::new("the file is too large", "at most 4 MiB");
        return Err(flaw(Mark { line: 1, column: 1, width: 1 }, None, wrong));
    }
    let mut parser = Parser::new_from_str(text);
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => {
                let at = mark(Span::empty(*error.marker()));
                let wrong = Wrong::plain(format!("this is not YAML: {}", error.info()));
                return Err(flaw(at, None, wrong));
            }
        }
    }
    Ok(builder.tree)
}

fn flaw(at: Mark, found: Option<String>, wrong: Wrong) -> Box<Flaw> {
    Box::new(Flaw { at, path: Path::root(), found, wrong })
}

/// saphyr counts lines from 1 and columns from 0.
fn mark(span: Span) -> Mark {
    let width = if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        // Over several lines: to the end of the first, which the excerpt cuts off.
        usize::MAX / 2
    };
    Mark { line: span.start.line().max(1), column: span.start.col() + 1, width: width.max(1) }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    aliased: usize,
    documents: usize,
    tree: Tree,
}

struct Anchored {
    node: Node,
    size: usize,
    depth: usize,
}

/// A list or a map that has begun and not ended.
struct Open {
    at: Mark,
    anchor: usize,
    what: Partial,
}

/// A key that waits for its value.
struct Key {
    text: String,
    at: Mark,
    /// The line where the same key stood before.
    first: Option<usize>,
}

enum Partial {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashMap<String, usize>, pending: Option<Key> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Box<Flaw>> {
        let at = mark(span);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let wrong = Wrong::new("a second document begins here", "one document a file")
                        .help("remove the line `---`, or put the rest into a file of its own");
                    return Err(flaw(at, None, wrong));
                }
                Ok(())
            }
            Event::Alias(id) => self.alias(id, at),
            Event::Scalar(text, style, anchor, tag) => {
                no_tag(tag.is_some(), at)?;
                let plain = style == ScalarStyle::Plain;
                let node = Node { at, kind: Kind::Scalar { text: text.into_owned(), plain } };
                self.finish(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                no_tag(tag.is_some(), at)?;
                self.begin(at, anchor, Partial::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                no_tag(tag.is_some(), at)?;
                let (entries, seen) = (Vec::new(), HashMap::new());
                self.begin(at, anchor, Partial::Map { entries, seen, pending: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, at: Mark, anchor: usize, what: Partial) -> Result<(), Box<Flaw>> {
        if self.open.len() >= MAX_DEPTH {
            return Err(flaw(at, None, too_deep()));
        }
        if let Some(Open { what: Partial::Map { pending: None, .. }, .. }) = self.open.last() {
            let wrong = Wrong::new("a list or a map stands where a key should be", "plain text");
            return Err(flaw(at, None, wrong.help("text that begins with { or [ needs quotes")));
        }
        self.open.push(Open { at: Mark { width: 1, ..at }, anchor, what });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Box<Flaw>> {
        // The parser pairs its events; without a partner there is nothing to end.
        let Some(Open { at, anchor, what }) = self.open.pop() else { return Ok(()) };
        let kind = match what {
            Partial::List(items) => Kind::List(items),
            Partial::Map { entries, .. } => Kind::Map(Entries::new(entries)),
        };
        self.finish(Node { at, kind }, anchor)
    }

    fn alias(&mut self, id: usize, at: Mark) -> Result<(), Box<Flaw>> {
        let Some(anchored) = self.anchors.get(&id) else {
            let wrong = Wrong::plain("this alias stands inside of what it repeats");
            return Err(flaw(at, None, wrong));
        };
        self.aliased = self.aliased.saturating_add(anchored.size);
        if self.aliased > MAX_ALIASED {
            let allowed = format!("aliases that add {MAX_ALIASED} values in all");
            return Err(flaw(at, None, Wrong::new("the aliases repeat too much", allowed)));
        }
        if self.open.len() + anchored.depth > MAX_DEPTH {
            return Err(flaw(at, None, too_deep()));
        }
        let node = anchored.node.clone();
        self.place(node)
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Box<Flaw>> {
        if anchor > 0 {
            let (size, depth) = (node.size(), node.depth());
            // Remembering costs as much as repeating: it counts against the same bound.
            self.aliased = self.aliased.saturating_add(size);
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, depth });
        }
        self.place(node)
    }

    /// Puts a finished node where it belongs: into the open list or map, or at the root.
    fn place(&mut self, node: Node) -> Result<(), Box<Flaw>> {
        let Some(open) = self.open.last_mut() else {
            self.tree.root = Some(node);
            return Ok(());
        };
        match &mut open.what {
            Partial::List(items) => items.push(node),
            Partial::Map { entries, seen, pending } => match pending.take() {
                None => {
                    let Kind::Scalar { text, .. } = node.kind else {
                        let wrong = Wrong::new("this key is a list or a map", "plain text");
                        return Err(flaw(node.at, None, wrong));
                    };
                    let first = seen.get(&text).copied();
                    if first.is_none() {
                        seen.insert(text.clone(), node.at.line);
                    }
                    *pending = Some(Key { text, at: node.at, first });
                }
                Some(Key { text, at, first: None }) => {
                    let value = with_a_place(node, at);
                    entries.push(Entry { key: text, key_at: at, value });
                }
                Some(Key { text, at, first: Some(line) }) => self.duplicate(text, at, line),
            },
        }
        Ok(())
    }

    fn duplicate(&mut self, key: String, at: Mark, first: usize) {
        let path = self.path().key(&key);
        let wrong = Wrong::new(
            format!("the key stands here for a second time; the first is on line {first}"),
            "every key once",
        );
        self.tree.duplicates.push(Flaw { at, path, found: Some(key), wrong });
    }

    /// Of the list or map that is open.
    fn path(&self) -> Path {
        let mut path = Path::root();
        // The last one holds the place itself; the ones before say how it is reached.
        for open in &self.open[..self.open.len().saturating_sub(1)] {
            path = match &open.what {
                Partial::List(items) => path.index(items.len()),
                Partial::Map { pending: Some(key), .. } => path.key(&key.text),
                Partial::Map { pending: None, .. } => path,
            };
        }
        path
    }
}

/// `key:` with nothing after it: the parser's place is wherever the next token begins.
fn with_a_place(mut value: Node, key_at: Mark) -> Node {
    if matches!(&value.kind, Kind::Scalar { text, plain: true } if text.is_empty()) {
        value.at = key_at;
    }
    value
}

fn no_tag(tagged: bool, at: Mark) -> Result<(), Box<Flaw>> {
    if !tagged {
        return Ok(());
    }
    let wrong = Wrong::new("YAML tags (`!...`) have no meaning here", "values without a tag")
        .help("text that begins with ! needs quotes");
    Err(flaw(at, None, wrong))
}

fn too_deep() -> Wrong {
    Wrong::new("the nesting is too deep", format!("{MAX_DEPTH} levels"))
}
