//! The map of DESIGN.md section 4 stays true: who may import whom, and how a file begins and ends.
//!
//! Reads the sources as text, so it sees every target and every `cfg` alike. It knows no types: a
//! name that is exported again counts as its path says. Tests inside `src` may import what they like.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, top first. A room imports what stands on a later line, and within itself. The
/// longest name that fits counts: `health::task` is not of the layer of `health`.
const LAYERS: [&[&str]; 12] = [
    &["main"],
    &["cli"],
    &["app"],
    &["lifecycle", "admin"],
    &["config"],
    &["flow", "health::task", "health::record", "discover", "vip::task"],
    &["forward", "health::probe"],
    &["listen"],
    &["snapshot"],
    &["tls", "route", "pool", "health", "vip"],
    &["observe", "lifecycle::phase", "lifecycle::drain", "lifecycle::status", "timer", "sys"],
    &["config::model", "config::defaults", "outcome"],
];

/// From a room to another of its own layer: the only edges of that kind.
const WITHIN_A_LAYER: [(&str, &str); 3] = [
    ("health::probe", "forward::connect"),
    ("health::probe", "forward::backend_stream"),
    ("health::probe", "forward::buffers"),
];

/// Rooms that only some may import, whatever the layers say.
const ONLY_FOR: [(&str, &[&str]); 3] = [
    ("cli", &["app", "main"]),
    ("admin", &["app", "main"]),
    // raw, validate, problems; not model and defaults, which are rooms of their own. (admin: the API
    // takes durations as the file does.)
    ("config", &["cli", "app", "lifecycle", "admin"]),
];

/// Edges that the layers would never allow anyway, or might one day: health writes, pool reads.
const NEVER: [(&str, &str); 1] = [("pool", "health")];

/// Where serde derives may stand: what is read from a file or written to one, or to a socket.
const SERDE: [&str; 4] = ["config::raw", "config::problems", "admin::view", "lifecycle::handover"];

const UNSAFE: [&str; 1] = ["sys"];

/// Names that say nothing of what is inside.
const NO_NAMES: [&str; 7] = ["util", "utils", "helper", "helpers", "common", "misc", "shared"];

/// The most lines with something on them that a file has before its tests.
const LINES: usize = 400;

#[test]
fn imports_go_down_only() {
    report(|source| {
        let from = source.module.as_str();
        // The crate's root holds the map: no code, no room.
        if from.is_empty() {
            return Vec::new();
        }
        let imports = imports(&source.code, from);
        imports.iter().filter_map(|to| forbidden(from, to)).collect()
    });
}

#[test]
fn serde_and_unsafe_stay_in_their_rooms() {
    report(|source| {
        let mut faults = Vec::new();
        let derives = source.code.split("derive(").skip(1);
        let mut derived = derives.filter_map(|rest| rest.split(')').next());
        if derived.any(|names| names.contains("erialize")) && !in_any(&source.module, &SERDE) {
            faults.push(format!("derives serde; only {SERDE:?} may"));
        }
        if words(&source.code).any(|word| word == "unsafe") && !in_any(&source.module, &UNSAFE) {
            faults.push(format!("is unsafe; only {UNSAFE:?} may be"));
        }
        faults
    });
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    report(|source| {
        let mut faults = Vec::new();
        let first = source.text.lines().next().unwrap_or("");
        if first.strip_prefix("//!").is_none_or(|said| said.trim().is_empty()) {
            faults.push("does not open with a `//!` line that says what it is for".into());
        }
        let lines = source.text.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > LINES {
            faults.push(format!("has {lines} lines before its tests; {LINES} is the most"));
        }
        if let Some(name) = source.module.split("::").find(|name| NO_NAMES.contains(name)) {
            faults.push(format!("is called `{name}`, which says nothing of what is inside"));
        }
        faults
    });
}

/// The checks above would pass on an empty crate, and on one whose imports they cannot read.
#[test]
fn the_reader_reads() {
    let text = r##"
        use crate::pool::{self, state::{Reason, PoolState as S}, Picker};
        use super::super::snapshot;
        // use crate::admin; "crate::cli
        /* crate::cli /* */ crate::cli */
        fn f<'a>(x: &'a crate::outcome::Cause) -> char { "crate::cli \" crate::cli"; '"' }
        const R: &str = r#"crate::cli " crate::cli"#; pub(crate) type T = evenkeel::route::Table;
    "##;
    let found = imports(&code_only(text), "health::probe::http");
    let expected = [
        "pool::self",
        "pool::state::Reason",
        "pool::state::PoolState",
        "pool::Picker",
        "outcome::Cause",
        "route::Table",
        "health::snapshot",
    ];
    assert_eq!(found, expected);

    for (from, to, allowed) in [
        ("app", "admin::serve", true),
        ("flow::request", "admin::view::Pool", false),
        ("main", "cli::run", true),
        ("lifecycle::reload", "cli::run", false),
        ("pool::pick", "health::outlier::Vote", false),
        ("pool::pick", "config::model::Pool", true),
        ("flow::request", "config::validate::load", false),
        ("lifecycle::reload", "config::validate::load", true),
        ("health::probe::http", "forward::connect::connect", true),
        ("health::probe::http", "forward::tcp::relay", false),
        ("health::outlier", "health::task::Sweep", true),
        ("health::outlier", "pool::state::Reason", false),
        ("health::task", "pool::state::Reason", true),
        ("lifecycle::status", "lifecycle::phase::Phase", true),
        ("observe::cells", "outcome::Cause", true),
        ("outcome", "observe::cells::Counter", false),
        ("route", "tls::Certificates", false),
        ("snapshot", "route::Table", true),
        ("route", "snapshot::Snapshot", false),
        ("route", "unheard_of::Thing", false),
    ] {
        assert_eq!(forbidden(from, to).is_none(), allowed, "{from} > {to}");
    }
    assert!(sources().len() > 20, "the sources are not where they are looked for");
}

/// One file, without its tests.
struct Source {
    file: PathBuf,
    /// `pool::state`; empty for `lib.rs`.
    module: String,
    text: String,
    /// `text` without comments and literals.
    code: String,
}

/// Panics with all faults of all files at once.
fn report(check: impl Fn(&Source) -> Vec<String>) {
    let mut faults = String::new();
    for source in sources() {
        for fault in check(&source) {
            // Writing to a String does not fail.
            writeln!(faults, "{} {fault}", source.file.display()).unwrap();
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// Why `from` may not import `to`; `None` if it may.
fn forbidden(from: &str, to: &str) -> Option<String> {
    let (Some((above, room)), Some((below, other))) = (layer(from), layer(to)) else {
        return Some(format!("imports {to}: one of the two has no layer in this test"));
    };
    let same_room = first(from) == first(to);
    let only_for = ONLY_FOR.iter().find(|(guarded, _)| *guarded == other);
    if !same_room && only_for.is_some_and(|(_, guests)| !guests.contains(&first(from))) {
        return Some(format!("imports {to}: `{other}` is not for `{room}`"));
    }
    if NEVER.contains(&(first(from), first(to))) {
        return Some(format!("imports {to}: `{room}` never imports `{other}`"));
    }
    let exception = WITHIN_A_LAYER.iter().any(|(a, b)| within(from, a) && within(to, b));
    let down = above < below || exception;
    (!same_room && !down).then(|| format!("imports {to}: `{room}` is not above `{other}`"))
}

/// The number and the name of the layer's room that holds `module`.
fn layer(module: &str) -> Option<(usize, &'static str)> {
    let rooms = LAYERS.iter().enumerate();
    rooms
        .flat_map(|(number, rooms)| rooms.iter().map(move |room| (number, *room)))
        .filter(|(_, room)| within(module, room))
        .max_by_key(|(_, room)| room.len())
}

fn within(module: &str, room: &str) -> bool {
    module.strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn in_any(module: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| within(module, room))
}

fn first(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

/// Every path into this crate that `code` names, from the crate's root.
fn imports(code: &str, module: &str) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["crate::", "evenkeel::", "super::"] {
        for (at, _) in code.match_indices(root) {
            // `super::super::` is read from its start; `_super::` is something else.
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let mut base: Vec<&str> = module.split("::").collect();
            let mut tree = &code[at..];
            if let ("crate::" | "evenkeel::", inner) = tree.split_at(root.len()) {
                base.clear();
                tree = inner;
            }
            while let Some(inner) = tree.strip_prefix("super::") {
                base.pop();
                tree = inner;
            }
            expand(&base.join("::"), tree, &mut found);
        }
    }
    found
}

/// Adds the paths of the use tree at the start of `tree`; returns what follows it.
fn expand<'a>(base: &str, tree: &'a str, found: &mut Vec<String>) -> &'a str {
    let tree = tree.trim_start();
    if let Some(mut inner) = tree.strip_prefix('{') {
        while !inner.is_empty() && !inner.starts_with('}') {
            inner = expand(base, inner, found);
            // Over `as Name` and the comma to the next branch.
            let end = inner.find([',', '}']).unwrap_or(inner.len());
            inner = inner[end..].trim_start_matches(',').trim_start();
        }
        return inner.strip_prefix('}').unwrap_or(inner);
    }
    let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
    let (name, rest) = tree.split_at(end);
    let path = if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") };
    match rest.strip_prefix("::") {
        Some(inner) => expand(&path, inner, found),
        None => {
            // A glob, or the `<` of a turbofish: the path so far is what is imported.
            found.push(if name.is_empty() { base.to_owned() } else { path });
            rest
        }
    }
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// `text` without comments, and with its text and character literals emptied.
fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if next == '"' {
            literal(rest, '"')
        } else if is_raw_literal(rest) && !inside_a_name(&code) {
            let hashes = rest[1..].find('"').unwrap_or(0);
            let end = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 2;
            rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
        } else if next == '\'' && is_char_literal(rest) {
            literal(rest, '\'')
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the literal at the start of `text`, both its quotes included.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

fn is_raw_literal(text: &str) -> bool {
    text.strip_prefix('r').is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
}

/// Whether `code` ends inside a name, so that an `r` only goes on with it; the `b` of `br"` does not.
fn inside_a_name(code: &str) -> bool {
    let last = code.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
    !last.is_empty() && last != "b"
}

/// `'x'` and `'\n'`, but not the lifetime `'x`.
fn is_char_literal(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    let (first, second) = (chars.next(), chars.next());
    first == Some('\\') || second == Some('\'')
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let sources = files.into_iter().filter_map(|file| {
        let parts: Vec<String> = file
            .strip_prefix(&root)
            .ok()?
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        if parts.iter().any(|part| part == "tests") {
            return None;
        }
        let module: Vec<String> =
            parts.into_iter().filter(|part| part != "mod" && part != "lib").collect();
        let text = fs::read_to_string(&file).expect("a source can be read");
        let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
        let text = text[..end].to_owned();
        Some(Source { code: code_only(&text), file, module: module.join("::"), text })
    });
    sources.collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder can be read") {
        let path = entry.expect("a source folder can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
