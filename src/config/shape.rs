//! Which keys and which kinds of values may stand where: unknown keys, lists in place of maps.
//!
//! Reports every misfit and takes it out of the values, so that serde can read all the rest. What a
//! text must say is not for here; the tables themselves are in `keys`.

use serde_yaml::Value;

use super::model::Name;
use super::path::Path;
use super::problems::did_you_mean;
use super::source::{Mark, Wrong, shorten};
use super::spans::{Flaw, Kind, Node};

/// What may stand at a place.
#[derive(Debug)]
pub enum Shape {
    Text,
    /// One text, or a list of them.
    Texts,
    Map(&'static Keys),
    TextOr(&'static Keys),
    List(&'static Shape),
    /// A map from names of listeners or pools.
    Named(&'static Shape),
    /// A map with free keys and texts.
    Pairs,
}

/// The keys of one kind of map.
#[derive(Debug)]
pub struct Keys {
    /// "a listener", as in "not a key of a listener".
    pub place: &'static str,
    pub known: &'static [(&'static str, Shape)],
    /// Keys of capabilities that this version does not have.
    pub later: &'static [&'static str],
    /// Keys that are sought here but are called otherwise or belong elsewhere.
    pub advice: &'static [(&'static str, &'static str)],
}

impl Keys {
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.known.iter().map(|(name, _)| *name)
    }
}

pub fn check(root: &Node, value: &mut Value, keys: &'static Keys) -> Vec<Flaw> {
    let mut checking = Checking { flaws: Vec::new() };
    if !checking.fits(root, value, &Shape::Map(keys), &Path::root()) {
        *value = Value::Null;
    }
    checking.flaws
}

struct Checking {
    flaws: Vec<Flaw>,
}

impl Checking {
    /// False if the value is to be taken out; then it was reported.
    fn fits(&mut self, node: &Node, value: &mut Value, shape: &Shape, path: &Path) -> bool {
        match (shape, &node.kind, &mut *value) {
            (_, Kind::Scalar { .. }, Value::Null) => {
                self.nothing(node, shape, path);
                false
            }
            (Shape::Text | Shape::Texts | Shape::TextOr(_), Kind::Scalar { .. }, _) => true,
            (Shape::Texts, Kind::List(nodes), Value::Sequence(items)) => {
                self.items(nodes, items, &Shape::Text, path);
                true
            }
            (Shape::List(shape), Kind::List(nodes), Value::Sequence(items)) => {
                self.items(nodes, items, shape, path);
                true
            }
            (Shape::Map(keys) | Shape::TextOr(keys), Kind::Map(_), Value::Mapping(_)) => {
                self.entries(node, value, path, |checking, entry_key, at, path| {
                    checking.known(keys, entry_key, at, path)
                });
                true
            }
            (Shape::Named(shape), Kind::Map(_), Value::Mapping(_)) => {
                self.entries(node, value, path, |checking, key, at, path| {
                    checking.name(key, at, path).then_some(*shape)
                });
                true
            }
            (Shape::Pairs, Kind::Map(_), Value::Mapping(_)) => {
                self.entries(node, value, path, |_, _, _, _| Some(&Shape::Text));
                true
            }
            // The two readings differ here; `reading` said so.
            (_, Kind::List(_), v) if !v.is_sequence() => false,
            (_, Kind::Map(_), v) if !v.is_mapping() => false,
            _ => {
                self.misfit(node, shape, path);
                false
            }
        }
    }

    fn items(&mut self, nodes: &[Node], items: &mut [Value], shape: &Shape, path: &Path) {
        for (i, (node, item)) in nodes.iter().zip(items).enumerate() {
            if !self.fits(node, item, shape, &path.index(i)) {
                *item = Value::Null;
            }
        }
    }

    fn entries(
        &mut self,
        node: &Node,
        value: &mut Value,
        path: &Path,
        mut shape_of: impl FnMut(&mut Checking, &str, Mark, &Path) -> Option<&'static Shape>,
    ) {
        let (Kind::Map(entries), Value::Mapping(map)) = (&node.kind, value) else { return };
        let mut keep = Vec::with_capacity(entries.len());
        for (entry, (_, value)) in entries.iter().zip(map.iter_mut()) {
            let path = path.key(&entry.key);
            let fits = match shape_of(self, &entry.key, entry.key_at, &path) {
                Some(shape) => self.fits(&entry.value, value, shape, &path),
                None => false,
            };
            keep.push(fits);
        }
        let mut keep = keep.into_iter();
        map.retain(|_, _| keep.next().unwrap_or(false));
    }

    fn known(
        &mut self,
        keys: &'static Keys,
        key: &str,
        at: Mark,
        path: &Path,
    ) -> Option<&'static Shape> {
        if let Some((_, shape)) = keys.known.iter().find(|(name, _)| *name == key) {
            return Some(shape);
        }
        let allowed = match keys.known {
            [] => "nothing: it has no keys".to_owned(),
            _ => keys.names().collect::<Vec<_>>().join(", "),
        };
        let wrong = if key == "<<" {
            Wrong::plain("merge keys (`<<`) are not supported")
                .help("what pools share goes into `pool_defaults`; plain aliases (*name) work")
        } else if keys.later.contains(&key) {
            Wrong::new(format!("`{key}` is not supported in this version"), allowed)
        } else {
            let help = keys
                .advice
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, text)| (*text).to_owned());
            // In a file that is no configuration at all, the search would only cost time.
            let near = || {
                let few = self.flaws.len() < 1000;
                let near = few.then(|| did_you_mean(key, keys.names())).flatten();
                near.map(|key| format!("did you mean `{key}`?"))
            };
            Wrong::new(format!("not a key of {}", keys.place), allowed).help_if(help.or_else(near))
        };
        self.flaw(at, path, Some(key), wrong);
        None
    }

    fn name(&mut self, key: &str, at: Mark, path: &Path) -> bool {
        if Name::new(key).is_some() {
            return true;
        }
        let wrong = if key == "<<" {
            Wrong::plain("merge keys (`<<`) are not supported")
        } else {
            let plain: String = key
                .to_ascii_lowercase()
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
                .take(63)
                .collect();
            Wrong::new("not a name", "a-z, 0-9, _ and -, 1 to 63 characters")
                .help_if(Name::new(&plain).map(|name| format!("for example `{name}`")))
        };
        self.flaw(at, path, Some(key), wrong);
        false
    }

    fn misfit(&mut self, node: &Node, shape: &Shape, path: &Path) {
        let (found, help) = match &node.kind {
            Kind::Scalar { text, .. } => {
                let list = matches!(shape, Shape::List(_));
                let help = || format!("write it as a list: [{}]", shorten(text));
                (text.as_str(), list.then(help))
            }
            Kind::List(_) => ("a list", None),
            Kind::Map(entries) => ("a map", listed(shape, entries.len())),
        };
        let wrong = Wrong::new(format!("not {}", wanted(shape)), allowed(shape)).help_if(help);
        self.flaw(node.at, path, Some(found), wrong);
    }

    fn nothing(&mut self, node: &Node, shape: &Shape, path: &Path) {
        // A value that could not be filled in was reported, and is null since then.
        let Kind::Scalar { text, .. } = &node.kind else { return };
        if !matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
            return;
        }
        let wrong = Wrong::new("nothing stands here", allowed(shape))
            .help("give it a value, or leave the key out");
        self.flaw(node.at, path, None, wrong);
    }

    fn flaw(&mut self, at: Mark, path: &Path, found: Option<&str>, wrong: Wrong) {
        let found = found.map(str::to_owned);
        self.flaws.push(Flaw { at, path: path.clone(), found, wrong });
    }
}

fn listed(shape: &Shape, entries: usize) -> Option<String> {
    (matches!(shape, Shape::List(_)) && entries > 0)
        .then(|| "put `- ` before each item of the list".to_owned())
}

fn wanted(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text => "a single value",
        Shape::Texts => "a value or a list of values",
        Shape::Map(_) | Shape::Pairs | Shape::Named(_) => "a map",
        Shape::TextOr(_) => "a value or a map",
        Shape::List(_) => "a list",
    }
}

fn allowed(shape: &Shape) -> String {
    let keys = |keys: &Keys| keys.names().collect::<Vec<_>>().join(", ");
    match shape {
        Shape::Map(known) => format!("a map with keys of {}: {}", known.place, keys(known)),
        Shape::TextOr(known) => format!("a value, or a map with: {}", keys(known)),
        Shape::Named(_) => "a map from names to their settings".to_owned(),
        Shape::Pairs => "a map from names to values".to_owned(),
        Shape::List(_) => "a list".to_owned(),
        Shape::Text | Shape::Texts => wanted(shape).to_owned(),
    }
}
