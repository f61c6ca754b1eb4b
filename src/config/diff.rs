//! What a reload changes: listeners, pools, backends, and what has to wait for a restart.
//!
//! Pure: compares two proved configurations by name. `lifecycle::reload` logs it and acts on it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::model::{BackendHost, BindAddr, Config, Listener, Name, Pool};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    pub listeners_added: Vec<Name>,
    pub listeners_removed: Vec<Name>,
    pub listeners_changed: Vec<ListenerChange>,
    pub pools_added: Vec<Name>,
    pub pools_removed: Vec<Name>,
    pub pools_changed: Vec<PoolChange>,
    /// Keys of the file as a whole that take effect at once: `limits`, `drain_timeout`, ...
    pub settings: Vec<&'static str>,
    /// Keys that keep their old value until a restart: `workers`, `admin.listen`.
    pub needs_restart: Vec<&'static str>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerChange {
    pub name: Name,
    pub binds_added: Vec<BindAddr>,
    pub binds_removed: Vec<BindAddr>,
    /// Anything else but the addresses: routes, time-outs, networks, ...
    pub rest: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PoolChange {
    pub name: Name,
    pub backends_added: Vec<BackendHost>,
    pub backends_removed: Vec<BackendHost>,
    /// Anything else but which backends there are: weights, order, balance, health check, ...
    pub rest: bool,
}

impl Diff {
    pub fn between(old: &Config, new: &Config) -> Diff {
        let mut diff = Diff::default();
        let (added, removed, kept) = by_name(&old.listeners, &new.listeners, |l| &l.name);
        (diff.listeners_added, diff.listeners_removed) = (added, removed);
        diff.listeners_changed =
            kept.into_iter().filter_map(|(old, new)| ListenerChange::between(old, new)).collect();
        let (added, removed, kept) = by_name(&old.pools, &new.pools, |pool| &pool.name);
        (diff.pools_added, diff.pools_removed) = (added, removed);
        diff.pools_changed =
            kept.into_iter().filter_map(|(old, new)| PoolChange::between(old, new)).collect();
        diff.settings = [
            ("shutdown_delay", old.shutdown_delay != new.shutdown_delay),
            ("drain_timeout", old.drain_timeout != new.drain_timeout),
            ("admin.ready_requires", old.admin.ready_requires != new.admin.ready_requires),
            ("log", old.log != new.log),
            ("limits", old.limits != new.limits),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect();
        diff.needs_restart = [
            ("workers", old.workers != new.workers),
            ("admin.listen", old.admin.listen != new.admin.listen),
        ]
        .into_iter()
        .filter_map(|(key, changed)| changed.then_some(key))
        .collect();
        diff
    }

    pub fn is_empty(&self) -> bool {
        *self == Diff::default()
    }
}

impl ListenerChange {
    fn between(old: &Listener, new: &Listener) -> Option<ListenerChange> {
        let (binds_added, binds_removed) = set_difference(&old.bind, &new.bind);
        let rest = Listener { bind: Vec::new(), ..old.clone() }
            != Listener { bind: Vec::new(), ..new.clone() };
        let changed = rest || !binds_added.is_empty() || !binds_removed.is_empty();
        let name = new.name.clone();
        changed.then_some(ListenerChange { name, binds_added, binds_removed, rest })
    }
}

impl PoolChange {
    fn between(old: &Pool, new: &Pool) -> Option<PoolChange> {
        let addresses = |pool: &Pool| -> Vec<BackendHost> {
            pool.backends.iter().map(|backend| backend.address.clone()).collect()
        };
        let (backends_added, backends_removed) = set_difference(&addresses(old), &addresses(new));
        // Of the backends themselves, what is left to compare is the ones that stay.
        let staying = |pool: &Pool, gone: &[BackendHost]| {
            let gone: HashSet<&BackendHost> = gone.iter().collect();
            let mut pool = pool.clone();
            pool.backends.retain(|backend| !gone.contains(&backend.address));
            pool
        };
        let rest = staying(old, &backends_removed) != staying(new, &backends_added);
        let changed = rest || !backends_added.is_empty() || !backends_removed.is_empty();
        let name = new.name.clone();
        changed.then_some(PoolChange { name, backends_added, backends_removed, rest })
    }
}

/// Names only in `new`, names only in `old`, and those in both with their two values.
type Split<'a, T> = (Vec<Name>, Vec<Name>, Vec<(&'a T, &'a T)>);

fn by_name<'a, T>(old: &'a [T], new: &'a [T], name: impl Fn(&T) -> &Name) -> Split<'a, T> {
    let before: HashMap<&Name, &'a T> = old.iter().map(|item| (name(item), item)).collect();
    let after: HashSet<&Name> = new.iter().map(&name).collect();
    let (mut added, mut kept) = (Vec::new(), Vec::new());
    for item in new {
        match before.get(name(item)) {
            Some(old) => kept.push((*old, item)),
            None => added.push(name(item).clone()),
        }
    }
    let gone = old.iter().map(&name).filter(|name| !after.contains(name));
    (added, gone.cloned().collect(), kept)
}

/// What is only in `new`, and what is only in `old`.
fn set_difference<T: Clone + Eq + std::hash::Hash>(old: &[T], new: &[T]) -> (Vec<T>, Vec<T>) {
    let only = |a: &[T], b: &[T]| {
        let b: HashSet<&T> = b.iter().collect();
        a.iter().filter(|item| !b.contains(item)).cloned().collect()
    };
    (only(new, old), only(old, new))
}

/// One line, for the log event of a reload.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let named = |what: &str, names: &[Name]| {
            let names = names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
            format!("{what} {names}")
        };
        for (what, names) in [
            ("listeners added:", &self.listeners_added),
            ("listeners removed:", &self.listeners_removed),
            ("pools added:", &self.pools_added),
            ("pools removed:", &self.pools_removed),
        ] {
            if !names.is_empty() {
                parts.push(named(what, names));
            }
        }
        for change in &self.listeners_changed {
            let counts = counts("address", change.binds_added.len(), change.binds_removed.len());
            parts.push(changed("listener", &change.name, counts, change.rest));
        }
        for change in &self.pools_changed {
            let (added, removed) = (change.backends_added.len(), change.backends_removed.len());
            let counts = counts("backend", added, removed);
            parts.push(changed("pool", &change.name, counts, change.rest));
        }
        if !self.settings.is_empty() {
            parts.push(format!("changed: {}", self.settings.join(", ")));
        }
        if !self.needs_restart.is_empty() {
            parts.push(format!("needs a restart: {}", self.needs_restart.join(", ")));
        }
        if parts.is_empty() { f.write_str("no change") } else { f.write_str(&parts.join("; ")) }
    }
}

fn counts(what: &str, added: usize, removed: usize) -> Option<String> {
    let plural = if added.max(removed) == 1 {
        ""
    } else if what == "address" {
        "es"
    } else {
        "s"
    };
    (added + removed > 0).then(|| format!("+{added} -{removed} {what}{plural}"))
}

fn changed(what: &str, name: &Name, counts: Option<String>, rest: bool) -> String {
    let rest = rest.then(|| "settings".to_owned());
    let parts = counts.into_iter().chain(rest).collect::<Vec<_>>().join(" and ");
    format!("{what} {name} changed ({parts})")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    const BASE: &str = "
drain_timeout: 30s
listeners:
  web: {bind: ['127.0.0.1:80', '127.0.0.1:81'], routes: [{pool: web}]}
  db: {bind: 127.0.0.1:5432, mode: tcp, pool: db}
pools:
  web: {backends: [10.0.0.1:80, 10.0.0.2:80], health_check: off}
  db: {backends: [10.0.0.3:80], health_check: off}
";

    fn config(text: &str) -> Config {
        parse(text, "test.yaml", Path::new("."), &|_| None).expect("a valid configuration").config
    }

    fn line(edits: &[(&str, &str)]) -> String {
        let text = edits.iter().fold(BASE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        Diff::between(&config(BASE), &config(&text)).to_string()
    }

    #[test]
    fn the_line_says_what_changed() {
        for (edits, expected) in [
            (&[][..], "no change"),
            (&[("10.0.0.2:80", "10.0.0.9:80")], "pool web changed (+1 -1 backend)"),
            (&[("10.0.0.1:80, 10.0.0.2:80", "10.0.0.1:80")], "pool web changed (+0 -1 backend)"),
            (
                &[("[10.0.0.3:80]", "[{address: 10.0.0.3:80, weight: 2}]")],
                "pool db changed (settings)",
            ),
            (
                &[("10.0.0.1:80, 10.0.0.2:80", "10.0.0.2:80, 10.0.0.1:80")],
                "pool web changed (settings)",
            ),
            (
                &[(", '127.0.0.1:81'", ""), ("{pool: web}", "{pool: db}")],
                "listener web changed (+0 -1 address and settings)",
            ),
            (
                &[("  db: {bind", "  sql: {bind"), ("drain_timeout: 30s", "workers: 2")],
                "listeners added: sql; listeners removed: db; needs a restart: workers",
            ),
            (
                &[("drain_timeout: 30s", "drain_timeout: 1s\nadmin: {listen: 127.0.0.1:1}")],
                "changed: drain_timeout; needs a restart: admin.listen",
            ),
        ] {
            assert_eq!(line(edits), expected);
        }
    }

    #[test]
    fn a_diff_names_what_came_and_what_went() {
        let new = config(
            &BASE.replace("10.0.0.2:80", "10.0.0.9:80").replace("  db: {bind", "  x: {bind"),
        );
        let diff = Diff::between(&config(BASE), &new);
        assert!(!diff.is_empty());
        assert_eq!(diff.pools_changed[0].backends_added[0].to_string(), "10.0.0.9:80");
        assert_eq!(diff.pools_changed[0].backends_removed[0].to_string(), "10.0.0.2:80");
        assert!(Diff::between(&new, &new).is_empty());
    }
}
