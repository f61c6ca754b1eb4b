//! The room as a whole: fixtures with the exact reports they must give, the two readings of a text,
//! and mutations that must never panic.
//!
//! `EVENKEEL_BLESS=1` rewrites the reports; read the difference before it is committed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::problems::{Problem, render};
use super::source::Source;
use super::{LoadError, Loaded, keys, load, parse, reading, shape, spans};

fn fixtures(kind: &str) -> Vec<PathBuf> {
    crate::tls::testing::fixtures();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(kind);
    let entries = fs::read_dir(&folder).expect("the folder of fixtures");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    // A checkout knows no permissions, and passwords that all may read are warned of.
    let secret = folder.join("secrets/monitor");
    if secret.exists() {
        fs::set_permissions(secret, Permissions::from_mode(0o600)).expect("our own file");
    }
    assert!(!files.is_empty(), "no fixtures in {}", folder.display());
    files
}

/// The environment of every fixture.
fn environment(name: &str) -> Option<String> {
    match name {
        "BACKEND" => Some("10.0.0.11:8080".to_owned()),
        "PORT" => Some("8080".to_owned()),
        "TRICKY" => Some("x\nlisteners: {}".to_owned()),
        _ => None,
    }
}

fn run(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let text = fs::read_to_string(path).expect("the text of a fixture");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a plain file name");
    let folder = path.parent().expect("fixtures are in a folder");
    match parse(&text, name, folder, &environment) {
        Ok(loaded) => Ok(loaded),
        Err(LoadError::Invalid(problems)) => Err(problems),
        Err(other) => panic!("{}: {other}", path.display()),
    }
}

/// Compares with NAME.report; no report is an empty one.
fn hold_against_report(path: &Path, problems: &[Problem], wrong: &mut Vec<String>) {
    let report = path.with_extension("report");
    let given = render(problems);
    if std::env::var_os("EVENKEEL_BLESS").is_some() {
        if given.is_empty() {
            let _ = fs::remove_file(&report);
        } else {
            fs::write(&report, &given).expect("writing a report");
        }
    }
    let expected = fs::read_to_string(&report).unwrap_or_default();
    if given != expected {
        wrong.push(format!("{}\n--- gives\n{given}--- must give\n{expected}", path.display()));
    }
}

#[test]
fn valid_files_give_a_configuration_and_only_the_warnings_beside_them() {
    let mut wrong = Vec::new();
    for path in fixtures("valid") {
        match run(&path) {
            Ok(loaded) => {
                assert!(loaded.warnings.iter().all(|warning| !warning.is_error()));
                hold_against_report(&path, &loaded.warnings, &mut wrong);
            }
            Err(problems) => wrong.push(format!("{}\n{}", path.display(), render(&problems))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn invalid_files_give_exactly_the_report_beside_them() {
    let files = fixtures("invalid");
    assert!(files.len() >= 25, "only {} invalid fixtures", files.len());
    let mut wrong = Vec::new();
    for path in files {
        match run(&path) {
            Ok(_) => wrong.push(format!("{} is accepted", path.display())),
            Err(problems) => {
                assert!(problems.iter().any(Problem::is_error), "{}", path.display());
                hold_against_report(&path, &problems, &mut wrong);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A seeded source of choices; a failure prints the seed, `EVENKEEL_SEED` replays it.
fn seed() -> u64 {
    match std::env::var("EVENKEEL_SEED") {
        Ok(text) => text.parse().expect("EVENKEEL_SEED is a number"),
        Err(_) => 20_240_517,
    }
}

fn all_fixtures() -> Vec<String> {
    let mut texts = Vec::new();
    for path in fixtures("valid").into_iter().chain(fixtures("invalid")) {
        texts.push(fs::read_to_string(path).expect("the text of a fixture"));
    }
    texts
}

fn judge(text: &str) -> Result<Loaded, Vec<Problem>> {
    match parse(text, "test.yaml", Path::new("/nonexistent"), &environment) {
        Ok(loaded) => Ok(loaded),
        Err(LoadError::Invalid(problems)) => Err(problems),
        Err(other) => panic!("{other}"),
    }
}

/// What must hold whatever the text is.
fn sound(text: &str, note: &str) {
    match judge(text) {
        Ok(loaded) => {
            assert!(loaded.warnings.iter().all(|p| !p.is_error()), "{note}\n{text}");
            assert!(!loaded.config.listeners.is_empty(), "{note}\n{text}");
            assert!(loaded.config.pools.iter().all(|p| !p.backends.is_empty()), "{note}\n{text}");
        }
        Err(problems) => {
            assert!(problems.iter().any(Problem::is_error), "{note}\n{text}");
            assert!(problems.iter().all(|p| p.line > 0 && p.column > 0), "{note}\n{text}");
            render(&problems);
        }
    }
}

/// The two readings agree in structure and in every scalar, and every place that the first one
/// gives holds the text that the second one read.
/// False if the text is no YAML.
fn readings_agree(text: &str, note: &str) -> bool {
    let source = Source::new("test.yaml", text);
    let Ok(reading) = reading::read(text, &source, &|_| Some(String::new())) else { return false };
    let split = |flaw: &&spans::Flaw| flaw.wrong.message.contains("two YAML readers");
    assert!(!reading.flaws.iter().any(|flaw| split(&flaw)), "{note}\n{text}");
    places_hold(&reading.root, &source, note);
    true
}

fn places_hold(node: &spans::Node, source: &Source<'_>, note: &str) {
    match &node.kind {
        spans::Kind::Scalar { text, plain: true } if !text.is_empty() => {
            let rest: String = source.line(node.at.line).chars().skip(node.at.column - 1).collect();
            // An anchor belongs to the value that it names.
            let anchor = rest.starts_with('&');
            let rest = rest.split_once(' ').filter(|_| anchor).map_or(&*rest, |(_, rest)| rest);
            // Of a text over several lines, the first word is on this one.
            let first = text.split_whitespace().next().unwrap_or("");
            assert!(rest.starts_with(first), "{note}: {text:?} is not at {:?}", node.at);
        }
        spans::Kind::Scalar { .. } => {}
        spans::Kind::List(items) => items.iter().for_each(|n| places_hold(n, source, note)),
        spans::Kind::Map(entries) => {
            entries.iter().for_each(|entry| places_hold(&entry.value, source, note));
        }
    }
}

#[test]
fn the_two_readings_of_every_fixture_agree() {
    for text in all_fixtures() {
        readings_agree(&text, "a fixture");
    }
}

#[test]
fn the_two_readings_of_generated_yaml_agree() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut read = 0;
    for round in 0..2000 {
        let mut text = String::new();
        generate(&mut rng, 0, 0, &mut text);
        read += usize::from(readings_agree(&text, &format!("EVENKEEL_SEED={seed}, round {round}")));
    }
    assert!(read > 400, "EVENKEEL_SEED={seed}: only {read} texts were YAML at all");
}

const SCALARS: [&str; 40] = [
    "a",
    "web",
    "5s",
    "0",
    "007",
    "1.10",
    "1e3",
    "0x1F",
    "-3",
    "+5",
    ".5",
    "~",
    "null",
    "true",
    "False",
    "yes",
    "off",
    "\"quoted\"",
    "'single ''x'''",
    "\"tab\\t\"",
    "a b c",
    "a#b",
    "a: b",
    "http://x/y",
    "[::]:80",
    "\"[::]:80\"",
    "${A}",
    "$${A}",
    "*",
    "&x y",
    "é",
    "\"\\u00e9\"",
    "''",
    "\"\"",
    "|\n  x\n",
    ".inf",
    "0o17",
    "12:30:45",
    "2001-01-01",
    "99999999999999999999999",
];

/// A block of YAML at an indentation: maps, lists, flows, comments, some of it not quite right.
fn generate(rng: &mut fastrand::Rng, depth: usize, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    let list = rng.u8(..4) == 0;
    for i in 0..rng.usize(1..4) {
        out.push_str(&pad);
        match list {
            true => out.push('-'),
            false => out.push_str(&format!("{}{i}:", ["k", "\"q\"", "5", "x-y"][rng.usize(..4)])),
        }
        match rng.u8(..8) {
            0 | 1 if depth < 4 => {
                out.push('\n');
                generate(rng, depth + 1, indent + 2, out);
                continue;
            }
            2 => out.push_str(&format!(" [{}, {}]", scalar(rng), scalar(rng))),
            3 => out.push_str(&format!(" {{a: {}, b: {}}}", scalar(rng), scalar(rng))),
            4 => {}
            5 => out.push_str(&format!(" {} # comment", scalar(rng))),
            _ => out.push_str(&format!(" {}", scalar(rng))),
        }
        out.push_str(if rng.u8(..20) == 0 { "\r\n" } else { "\n" });
    }
}

fn scalar(rng: &mut fastrand::Rng) -> &'static str {
    SCALARS[rng.usize(..SCALARS.len())]
}

#[test]
fn mutated_files_never_panic_and_are_right_or_have_a_problem() {
    let seed = seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let texts = all_fixtures();
    for round in 0..3000 {
        let mut text: Vec<char> = texts[rng.usize(..texts.len())].chars().collect();
        for _ in 0..rng.usize(1..5) {
            mutate(&mut rng, &mut text);
        }
        let text: String = text.into_iter().collect();
        sound(&text, &format!("EVENKEEL_SEED={seed}, round {round}"));
    }
}

fn mutate(rng: &mut fastrand::Rng, text: &mut Vec<char>) {
    const ODD: [char; 24] = [
        '{', '}', '[', ']', ':', ',', '#', '"', '\'', '\n', '\r', '\t', ' ', '-', '&', '*', '!',
        '|', '>', '%', '\u{0}', '\u{feff}', 'é', '$',
    ];
    if text.is_empty() {
        text.push('a');
    }
    let at = rng.usize(..text.len());
    let end = (at + rng.usize(1..30)).min(text.len());
    match rng.u8(..6) {
        0 => drop(text.drain(at..end)),
        1 => text.insert(at, ODD[rng.usize(..ODD.len())]),
        2 => text[at] = ODD[rng.usize(..ODD.len())],
        3 => {
            let piece: Vec<char> = text[at..end].to_vec();
            let to = rng.usize(..=text.len());
            text.splice(to..to, piece);
        }
        4 => {
            let piece: Vec<char> = scalar(rng).chars().collect();
            text.splice(at..end, piece);
        }
        _ => text.truncate(at),
    }
}

#[test]
fn large_deep_and_laughing_files_are_refused_quickly() {
    let deep = format!("a: {}{}", "[".repeat(70), "]".repeat(70));
    let block: String = (0..80).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let aliases = format!("a: &a [x]\nb: [{}]", "*a, ".repeat(200_000));
    let chain: String =
        (1..100).fold("a0: &a0 [x]\n".to_owned(), |t, i| format!("{t}a{i}: &a{i} [*a{}]\n", i - 1));
    for (text, expected) in [
        (format!("a: {}", "x".repeat(spans::MAX_BYTES)), "too large"),
        (deep, "nesting is too deep"),
        (block, "nesting is too deep"),
        ("[".repeat(100_000), ""),
        (aliases, "aliases repeat too much"),
        (chain, "nesting is too deep"),
        ("a: &a [*a]".to_owned(), "inside of what it repeats"),
        ("a: *nobody".to_owned(), ""),
    ] {
        let problems = judge(&text).expect_err("refused");
        assert!(problems[0].message.contains(expected), "{}", problems[0]);
        assert!(problems[0].source.len() <= 200);
    }
}

#[test]
fn a_file_full_of_problems_is_bounded_and_says_what_it_leaves_out() {
    let keys: String = (0..5000).map(|i| format!("k{i}: 1\n")).collect();
    let problems = judge(&keys).expect_err("refused");
    let last = problems.last().expect("a problem");
    assert!(last.message.contains("more errors are not listed"), "{last}");
    assert_eq!(problems.len(), 1001);
}

#[test]
fn a_folder_of_files_is_read_with_what_stands_beside_them() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid/everything.yaml");
    crate::tls::testing::fixtures();
    let loaded = load(&path, &environment).expect("a valid file");
    let pages = &loaded.config.listeners[0].error_pages.0;
    assert_eq!(&pages[0].body[..], b"{\"error\":503}\n");
    assert_eq!(pages[0].content_type, "application/json");
    let gone = load(&path.with_extension("gone"), &environment);
    assert!(matches!(gone, Err(LoadError::Unreadable { .. })));
}

#[test]
fn an_error_fits_on_one_line() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/config/invalid/duplicate_keys.yaml");
    let line = load(&path, &environment).expect_err("refused").to_string();
    assert!(line.contains("duplicate_keys.yaml:6:5: listeners.web.bind: "), "{line}");
    assert!(line.ends_with("(and 2 more)") && !line.contains('\n'), "{line}");
}

#[test]
fn a_pool_takes_from_the_defaults_what_it_does_not_say() {
    use super::model::ProbeKind;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid");
    let loaded = run(&folder.join("defaults_key_by_key.yaml")).expect("a valid file");
    let check = |i: usize| loaded.config.pools[i].health_check.as_ref();
    let (faster, tcp, same) = (check(0).unwrap(), check(2).unwrap(), check(3).unwrap());
    assert_eq!((faster.interval.as_secs(), faster.fall), (1, 5));
    assert!(matches!(&faster.kind, ProbeKind::Http(http) if http.path == "/healthz"));
    assert!(check(1).is_none());
    assert!(matches!(tcp.kind, ProbeKind::Tcp { .. }) && tcp.fall == 5);
    assert_eq!((same.interval.as_secs(), same.rise), (2, 2));
}

#[test]
fn what_a_pool_does_when_backends_fail_comes_from_the_defaults_key_by_key() {
    use super::defaults::{OUTLIER, RETRY};
    use super::model::{Failback, HedgeAfter, OnChange, RetryOn};
    let seconds = std::time::Duration::from_secs;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid");
    let loaded = run(&folder.join("failover_key_by_key.yaml")).expect("a valid file");
    let [own, off, same] = &loaded.config.pools[..] else { panic!("three pools") };

    assert_eq!((own.backends[0].tier, own.backends[1].tier), (0, 1));
    assert_eq!((own.backends[0].max_requests, own.backends[1].max_requests), (None, Some(8)));
    assert_eq!(own.failover.failback, Failback::Automatic);
    assert_eq!(own.failover.on_down, OnChange::CloseAfter(seconds(5)));
    let outlier = own.outlier.as_ref().expect("on");
    assert_eq!((outlier.eject_for, outlier.failure_share), (seconds(30), None));
    assert_eq!(outlier.eject_for_max, OUTLIER.eject_for_max);
    let on = RetryOn { connect: true, status_503: true, ..RetryOn::NONE };
    assert_eq!((own.retry.attempts, own.retry.on), (2, on));
    assert_eq!((own.retry.hedge, own.retry.budget_min), (Some(HedgeAfter::P99), RETRY.budget_min));
    let queue = own.queue.as_ref().expect("a queue");
    assert_eq!((queue.size, queue.timeout), (10, seconds(1)));
    assert_eq!(own.slow_start, Some(seconds(5)));

    assert!(off.outlier.is_none() && off.queue.is_none() && off.slow_start.is_none());
    assert_eq!((off.retry.attempts, off.retry.hedge), (1, None));

    assert_eq!(same.failover.failback, Failback::Manual);
    assert_eq!(same.outlier.as_ref().map(|o| o.eject_for), Some(seconds(20)));
    assert_eq!(same.queue.as_ref().map(|q| q.timeout), Some(seconds(5)));
}

#[test]
fn connections_of_a_backend_that_went_down_are_closed_in_an_exclusive_pool_unless_it_says_so() {
    use super::model::OnChange;
    for (keys, expected) in [
        ("", OnChange::Keep),
        ("exclusive: false", OnChange::Keep),
        ("exclusive: true", OnChange::Close),
        ("exclusive: true, on_down: keep", OnChange::Keep),
    ] {
        let text = format!(
            "listeners: {{db: {{bind: '127.0.0.1:80', mode: tcp, pool: db}}}}\n\
             pools: {{db: {{backends: ['a:1'], failover: {{{keys}}}}}}}"
        );
        let config = judge(&text).expect("a valid file").config;
        assert_eq!(config.pools[0].failover.on_down, expected, "{keys}");
    }
}

#[test]
fn a_password_is_the_file_without_its_line_end_and_no_role_is_assumed() {
    use super::model::{Initial, ProbeKind, RedisRole};
    let folder = std::env::temp_dir().join(format!("evenkeel-secrets-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let redis = |mode: u32, bytes: &[u8], keys: &str| {
        let file = folder.join("password");
        fs::write(&file, bytes).expect("a temporary file");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("our own file");
        let text = format!(
            "listeners: {{a: {{bind: '127.0.0.1:1', mode: tcp, pool: a}}}}\n\
             pools: {{a: {{backends: ['a:1'], health_check: {{redis: {{{keys}}}}}}}}}"
        );
        match parse(&text, "test.yaml", &folder, &environment) {
            Ok(loaded) => Ok((loaded.config.pools[0].health_check.clone(), loaded.warnings)),
            Err(error) => Err(error.to_string()),
        }
    };
    let given = "role: master, password_file: password";
    for (bytes, expected) in [
        (&b"word"[..], &b"word"[..]),
        (b"word\n", b"word"),
        (b"word\r\n", b"word"),
        (b" word \n\n", b" word \n"),
        (b"\xff\xfe", b"\xff\xfe"),
    ] {
        let (check, warnings) = redis(0o640, bytes, given).expect("a valid file");
        assert!(warnings.is_empty(), "{}", render(&warnings));
        let check = check.expect("a check");
        let ProbeKind::Redis(probe) = check.kind else { panic!("{:?}", check.kind) };
        assert_eq!(probe.password.as_ref().expect("a password").0[..], *expected);
        assert_eq!((probe.role, check.initial), (RedisRole::Master, Initial::Down));
        assert!(format!("{probe:?}").contains("Secret(..)"), "{probe:?}");
    }
    let (_, warnings) = redis(0o644, b"word", given).expect("a valid file");
    assert!(warnings[0].message.contains("everybody on this machine"), "{}", render(&warnings));
    let large = [b'x'; 4097];
    for (bytes, expected) in
        [(&b"\n"[..], "it is empty"), (b"a\0b", "zero byte"), (&large, "larger than 4096")]
    {
        let error = redis(0o600, bytes, given).expect_err("refused");
        assert!(error.contains(expected) && error.contains("password_file"), "{error}");
    }
    let (check, _) = redis(0o600, b"x", "").expect("a valid file");
    assert_eq!(check.expect("a check").initial, Initial::Up, "no role, as any other probe");
    fs::remove_dir_all(&folder).expect("it was just there");
}

#[test]
fn each_gap_is_warned_of_at_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid");
    let loaded = run(&folder.join("would_not_fail_over.yaml")).expect("a valid file");
    let found: Vec<_> = loaded.warnings.iter().map(|w| (w.path.as_str(), &*w.message)).collect();
    let expected = [
        ("pools.alone.backends", "nothing serves"),
        ("pools.unprobed.backends[1]", "never probed"),
        ("pools.blind.outlier", "neither a health check nor outlier"),
        ("pools.elsewhere.health_check.address", "one address is probed"),
        ("pools.elsewhere.health_check.interval_unsettled", "longer than interval"),
        ("pools.once.retry.attempts", "nothing is sent again"),
        ("pools.empty.retry", "nothing is sent again"),
        ("pools.empty.backends[2]", "a weight above 0"),
        ("listeners.web.routes[5].timeouts.request", "3 attempts x timeouts.connect"),
        ("listeners.web.routes[5].timeouts.request", "timeouts.response (30s) is not below"),
        ("listeners.web.routes[5].timeouts.request", "queue.timeout (5s) is not below"),
        ("pools.flat.failover.mode", "no effect"),
        ("pools.flat.failover.spill_below", "no effect"),
        ("pools.flat.failover.failback", "no effect"),
        ("pools.flat.failover.on_failback", "no effect"),
        ("pools.never.failover.spill_below", "mode manual"),
        ("pools.never.retry.hedge.after", "no second copy"),
        ("pools.db.health_check.tcp", "may choose a replica"),
        ("pools.db.retry.buffer", "only tcp listeners"),
        ("pools.db.queue.priority_header", "only tcp listeners"),
        ("pools.narrow.retry.on", "without `connect`"),
        ("pools.narrow.retry.hedge", "an empty budget"),
        ("pools.single.retry.attempts", "nothing is sent again"),
        ("pools.single.retry.hedge", "with attempts: 1"),
        ("pools.db2.health_check", "may choose a replica"),
        ("pools.db4.health_check.postgres", "with role: any"),
        ("pools.db5.health_check.redis", "both get writes"),
    ];
    for (path, part) in expected {
        let there = found.iter().any(|(at, message)| *at == path && message.contains(part));
        assert!(there, "{path}: {part} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn the_example_is_valid_short_and_what_the_demo_expects() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.yaml");
    let text = fs::read_to_string(&path).expect("config.example.yaml");
    let active = text.lines().filter(|l| !l.trim().is_empty() && !l.trim().starts_with('#'));
    assert!(active.count() < 40);
    let loaded = load(&path, &|_| None).expect("a valid file");
    assert!(loaded.warnings.is_empty(), "{}", render(&loaded.warnings));
    assert_eq!(loaded.config.admin.listen.to_string(), "127.0.0.1:9901");
    assert_eq!(loaded.config.listeners[0].bind[0].to_string(), "127.0.0.1:8080");
    let backends: Vec<_> =
        loaded.config.pools[0].backends.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(backends, ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]);
}

#[test]
fn the_reference_mentions_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(path).expect("docs/configuration.md");
    let mut missing = Vec::new();
    every_key(&keys::FILE, &mut |place, key| {
        if !text.contains(&format!("`{key}`")) {
            missing.push(format!("{key} (of {place})"));
        }
    });
    assert!(missing.is_empty(), "docs/configuration.md does not mention {}", missing.join(", "));
}

fn every_key(keys: &shape::Keys, seen: &mut impl FnMut(&str, &str)) {
    for (key, shape) in keys.known {
        seen(keys.place, key);
        below(shape, seen);
    }
}

fn below(shape: &shape::Shape, seen: &mut impl FnMut(&str, &str)) {
    match shape {
        shape::Shape::Map(keys) | shape::Shape::TextOr(keys) => every_key(keys, seen),
        shape::Shape::List(shape) | shape::Shape::Named(shape) => below(shape, seen),
        shape::Shape::Text | shape::Shape::Texts | shape::Shape::Pairs => {}
    }
}

#[test]
fn every_key_of_the_tables_is_in_the_fixture_that_has_them_all() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/valid");
    let text = fs::read_to_string(folder.join("everything.yaml")).expect("the fixture");
    every_key(&keys::FILE, &mut |place, key| {
        assert!(text.contains(&format!("{key}:")), "{key} (of {place})");
    });
}

#[test]
fn many_warnings_do_not_make_a_file_invalid() {
    let pools: String =
        (0..1500).map(|i| format!("  p{i}: {{backends: ['a:1'], health_check: off}}\n")).collect();
    let text = format!(
        "listeners: {{web: {{bind: '127.0.0.1:80', routes: [{{pool: p0}}]}}}}\npools:\n{pools}"
    );
    let warnings = judge(&text).expect("a valid file").warnings;
    assert_eq!(warnings.len(), 1001);
    assert!(warnings[1000].message.contains("499 more warnings are not listed"));
}
