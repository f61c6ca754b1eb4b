//! Finds the few routes of a table that may match a host and a path, however long the table is.
//!
//! By host (exact, wildcard, any), and within a host by path, segment by segment. It may name a
//! route that does not match in the end, and never leaves out one that does: `matching` decides.
//! Routes that name neither a host nor a path (a regular expression, a header) are walked in order.

use rustc_hash::FxHashMap;

use crate::config::model::{HostPattern, Match, PathPattern};

/// Segments of a path that are told apart; a bound on the depth of the tree. Routes that differ
/// only further down are walked in order.
const DEPTH: usize = 32;

/// Places in the table's list of routes.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: FxHashMap<Box<str>, Paths>,
    /// By what follows the first label, its dot included.
    wildcard: FxHashMap<Box<str>, Paths>,
    any: Paths,
}

/// One node of a tree of path segments. Each list is ascending.
#[derive(Debug, Default)]
struct Paths {
    /// Routes whose exact path ends here, or goes on below [`DEPTH`].
    here: Vec<usize>,
    /// Routes that match here and below: prefixes, and at the root those without a path.
    below: Vec<usize>,
    next: FxHashMap<Box<str>, Paths>,
}

impl Index {
    /// `id` must not be less than any before it.
    pub(super) fn insert(&mut self, id: usize, matches: &Match) {
        if matches.host.is_empty() {
            self.any.insert_all(id, &matches.path);
        }
        for host in &matches.host {
            let paths = match host {
                HostPattern::Exact(name) => self.exact.entry(name.as_str().into()),
                HostPattern::Wildcard(suffix) => self.wildcard.entry(suffix.as_str().into()),
            };
            paths.or_default().insert_all(id, &matches.path);
        }
    }

    /// Shows `see` every list of routes that may match, in no order of the lists.
    pub(super) fn candidates(&self, host: &str, path: &str, mut see: impl FnMut(&[usize])) {
        if let Some(paths) = self.exact.get(host) {
            paths.candidates(path, &mut see);
        }
        if !self.wildcard.is_empty()
            && let Some(dot) = host.find('.')
            && let Some(paths) = self.wildcard.get(&host[dot..])
        {
            paths.candidates(path, &mut see);
        }
        self.any.candidates(path, &mut see);
    }
}

impl Paths {
    fn insert_all(&mut self, id: usize, patterns: &[PathPattern]) {
        if patterns.is_empty() {
            push(&mut self.below, id);
        }
        for pattern in patterns {
            match pattern {
                PathPattern::Exact(path) => self.insert(id, path, true),
                PathPattern::Prefix(prefix) => self.insert(id, prefix, false),
            }
        }
    }

    fn insert(&mut self, id: usize, path: &str, exact: bool) {
        let mut node = self;
        for segment in segments(path).take(DEPTH) {
            node = node.next.entry(segment.into()).or_default();
        }
        push(if exact { &mut node.here } else { &mut node.below }, id);
    }

    fn candidates(&self, path: &str, see: &mut impl FnMut(&[usize])) {
        let mut node = self;
        see(&node.below);
        for segment in segments(path).take(DEPTH) {
            if node.next.is_empty() {
                return; // nothing below is told apart
            }
            match node.next.get(segment) {
                Some(next) => node = next,
                None => return,
            }
            see(&node.below);
        }
        see(&node.here);
    }
}

/// What stands between and after the slashes; nothing before the first one.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

/// A route may name one path twice.
fn push(list: &mut Vec<usize>, id: usize) {
    if list.last() != Some(&id) {
        list.push(id);
    }
}
