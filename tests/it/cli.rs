//! The command line: exit codes, errors that say what to do, and what a new user tries first.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::harness::{
    Authority, Backend, Child, Folder, Load, PATIENCE, Proxy, Signal, evenkeel, eventually,
    free_address, get, program_under_test, setup, skip,
};

/// Where config.example.yaml has everything; the demo as well.
const FIXED: [u16; 5] = [8080, 9901, 9001, 9002, 9003];

/// Holds the fixed ports for one test of this process; none if somebody else has one.
fn fixed_ports() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = FIXED.iter().find(|&&port| TcpListener::bind(("127.0.0.1", port)).is_err());
    match taken {
        None => Some(turn),
        Some(port) => {
            skip(&format!("another process has port {port}, which config.example.yaml uses"));
            None
        }
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Exit code and both outputs of a command that ended.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn check_says_by_its_exit_code_what_a_file_is() {
    let folder = Folder::new();
    let good = setup().http("web", "web").pool(
        "web",
        ["127.0.0.1:9", "127.0.0.1:10"],
        "health_check: {tcp: {}}",
    );
    folder.file("good.yaml", good.to_string());
    folder.file("warned.yaml", good.to_string().replace(", health_check: {tcp: {}}", ""));
    folder.file("bad.yaml", good.to_string().replace("backends", "backend"));
    for (args, code, part) in [
        (&["check", "good.yaml"][..], 0, "good.yaml: valid"),
        (&["check", "--strict", "good.yaml"], 0, "taken out after"),
        (&["check", "warned.yaml"], 0, "warning"),
        (&["check", "--strict", "warned.yaml"], 1, "no health check"),
        (&["check", "bad.yaml"], 1, "did you mean `backends`?"),
        (&["check", "good.yaml", "bad.yaml"], 1, "bad.yaml:"),
        (&["check", "nowhere.yaml"], 2, "nowhere.yaml"),
    ] {
        let (found, text) = said(&evenkeel(folder.path(), args));
        assert_eq!(found, Some(code), "{args:?}: {text}");
        assert!(text.contains(part), "{args:?}: no {part:?} in {text}");
    }
    let out = evenkeel(folder.path(), &["check", "--format", "json", "bad.yaml", "good.yaml"]);
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(report["files"][0]["status"], "invalid");
    assert!(report["files"][0]["problems"][0]["line"].is_u64(), "{report}");
    assert_eq!(report["files"][1]["status"], "valid");
}

#[test]
fn run_without_a_file_says_where_it_looked() {
    if Path::new("/etc/evenkeel/evenkeel.yaml").exists() {
        return skip("this machine has a configuration of its own in /etc/evenkeel");
    }
    let folder = Folder::new();
    let (code, text) = said(&evenkeel(folder.path(), &["run"]));
    assert_eq!(code, Some(1), "{text}");
    for part in ["/etc/evenkeel/evenkeel.yaml", "./evenkeel.yaml", "--config", "demo"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn run_with_a_bad_file_shows_what_is_wrong() {
    let folder = Folder::new();
    folder.file("bad.yaml", "listeners: {web: {bind: 127.0.0.1:0, mode: htp}}\npools: {}\n");
    let (code, text) = said(&evenkeel(folder.path(), &["run", "--config", "bad.yaml"]));
    assert_eq!(code, Some(1), "{text}");
    for part in ["bad.yaml:1:44", "did you mean `http`?", "^", "not started"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let (code, text) = said(&evenkeel(folder.path(), &["run", "--config", "nowhere.yaml"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("nowhere.yaml"), "{text}");
}

#[test]
fn a_second_process_on_an_address_fails_and_the_first_goes_on() {
    let a = Backend::start("a");
    let (busy, admin) = (free_address(), free_address());
    let keys = format!("bind: \"{busy}\", mode: http, routes: [{{pool: web}}]");
    let config = setup().listener("web", &keys).pool("web", [&a], "");
    let first = Proxy::start(config.clone().set(&format!("admin: {{listen: \"{admin}\"}}")));
    let (code, text) = said(&evenkeel(first.folder(), &["run", "--config", "evenkeel.yaml"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("admin.listen on {admin}")), "{text}");
    assert!(text.contains("another process has it"), "{text}");
    let folder = Folder::new();
    folder.file("evenkeel.yaml", config.to_string());
    let (code, text) = said(&evenkeel(folder.path(), &["run", "--config", "evenkeel.yaml"]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("cannot listen on {busy}")), "{text}");
    assert!(text.contains("another process has it"), "{text}");
    for _ in 0..10 {
        assert_eq!(get(busy, "/").expect("an answer").status, 200);
    }
}

#[test]
fn the_usual_place_is_the_current_folder() {
    let a = Backend::start("a");
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&a], ""));
    // Finds evenkeel.yaml there; the admin port 0 of it lets a second process start.
    let mut command = program_under_test();
    if Path::new("/etc/evenkeel/evenkeel.yaml").exists() {
        return skip("this machine has a configuration of its own in /etc/evenkeel");
    }
    let config = setup().http("web", "web").pool("web", [&a], "").to_string();
    proxy.write_config(config);
    command.current_dir(proxy.folder()).arg("run");
    let mut second = Child::start("the second", &mut command);
    second.wait_line(0, PATIENCE, |line| line.contains("admin listening").then_some(()));
    second.signal(Signal::Terminate);
    assert!(second.wait_exit(PATIENCE).success());
}

#[test]
fn healthcheck_asks_the_running_process() {
    let a = Backend::start("a");
    let mut proxy = Proxy::start(setup().http("web", "web").pool("web", [&a], ""));
    let admin = proxy.admin.to_string();
    let (code, text) = said(&evenkeel(proxy.folder(), &["healthcheck", "--address", &admin]));
    assert_eq!(code, Some(0), "{text}");
    proxy.child.signal(Signal::Stop);
    let args = ["healthcheck", "--address", &admin, "--timeout", "300ms"];
    let (code, text) = said(&evenkeel(proxy.folder(), &args));
    assert_eq!(code, Some(1), "a frozen process is not healthy: {text}");
    proxy.child.signal(Signal::Continue);
    assert!(proxy.stop().success());
    let (code, text) = said(&evenkeel(proxy.folder(), &["healthcheck", "--address", &admin]));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&admin), "{text}");
}

#[test]
fn version_and_help_are_there() {
    let (code, text) = said(&evenkeel(repository(), &["--version"]));
    assert_eq!((code, text.trim()), (Some(0), concat!("evenkeel ", env!("CARGO_PKG_VERSION"))));
    let (code, text) = said(&evenkeel(repository(), &["--help"]));
    assert_eq!(code, Some(0));
    for command in ["run", "check", "demo", "healthcheck"] {
        assert!(text.contains(command), "{text}");
    }
}

#[test]
fn the_example_works_unchanged() {
    let Some(_turn) = fixed_ports() else { return };
    let start = |number: u16| Backend::at(&format!("{number}"), local(number), "answer");
    let mut backends = [9001, 9002, 9003].map(start);
    let mut command = program_under_test();
    command.current_dir(repository()).args(["run", "--config", "config.example.yaml"]);
    let mut child = Child::start("evenkeel with the example", &mut command);
    child.wait_line(0, PATIENCE, |line| line.contains("admin listening").then_some(()));
    assert_eq!(get(local(8080), "/ping").expect("an answer").text(), "pong\n");
    let load = Load::on(local(8080)).start();
    load.wait_answers(40);
    backends[0].kill();
    load.wait_answers(40);
    load.stop().assert_flawless();
    child.signal(Signal::Terminate);
    assert!(child.wait_exit(PATIENCE).success());
}

#[test]
fn the_demo_answers_and_survives_its_own_killing() {
    let Some(_turn) = fixed_ports() else { return };
    let mut command = program_under_test();
    command.current_dir(Folder::new().path().parent().expect("it is in one"));
    let mut demo = Child::start("the demo", command.args(["demo", "--kill-every", "500ms"]));
    let asked =
        demo.wait_line(0, PATIENCE, |line| line.contains("curl http://").then(Instant::now));
    assert_eq!(get(local(8080), "/").expect("an answer").status, 200);
    assert_eq!(get(local(9901), "/readyz").expect("an answer").status, 200);
    let status = "client errors: ";
    eventually("four backends were killed", PATIENCE, || {
        demo.lines().iter().filter(|line| line.contains("is back")).count() >= 4
    });
    demo.wait_line(0, PATIENCE, |line| line.contains(status).then_some(()));
    demo.signal(Signal::Interrupt);
    let code = demo.wait_exit(PATIENCE);
    let lines = demo.lines();
    let statuses: Vec<_> = lines.iter().filter(|line| line.contains(status)).collect();
    assert!(statuses.iter().all(|line| line.ends_with("client errors: 0")), "{statuses:#?}");
    assert!(code.success(), "{code:?}");
    assert!(asked.elapsed() > Duration::from_secs(2), "one status line a second, so at least two");
}

#[test]
fn every_example_passes_the_strict_check() {
    let folder = repository().join("examples");
    let mut found = 0;
    let entries = std::fs::read_dir(&folder).expect("there are examples");
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        let configurations = configurations(&entry.path());
        assert!(!configurations.is_empty(), "{} has no configuration", entry.path().display());
        for path in configurations {
            let keyed = with_a_key(&path);
            let path = keyed.as_ref().map_or(path, |folder| {
                folder.path().join("config.yaml").to_string_lossy().into_owned()
            });
            let (code, text) = said(&evenkeel(repository(), &["check", "--strict", &path]));
            assert_eq!(code, Some(0), "{text}");
            found += 1;
        }
    }
    assert!(found > 0, "no example in {}", folder.display());
}

/// Keys and certificates are no part of a repository: whoever tries an example makes them, as its README
/// says. A folder with the configuration and what it wants of them, if it wants any.
fn with_a_key(path: &str) -> Option<Folder> {
    use std::os::unix::fs::PermissionsExt;
    let text = std::fs::read_to_string(path).expect("an example's configuration");
    // On a line of its own, or in a map in one line.
    let named = |key: &str| -> Option<String> {
        let is_key = |at: usize| at == 0 || text[..at].ends_with([' ', '{', '\n']);
        let (at, _) = text.match_indices(key).find(|(at, _)| is_key(*at))?;
        let value = text[at + key.len()..].split([' ', ',', '}', '\n']).next();
        Some(value.expect("the name of a file").to_owned())
    };
    let authority = Authority::new("an example's authority");
    let pair = authority.issue(&["localhost"]);
    let files = [
        ("key_file: ", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"),
        ("ca: ", &authority.pem),
        ("cert: ", &pair.cert),
        ("key: ", &pair.key),
    ];
    let folder = Folder::new();
    let mut wanted = false;
    for (name, text) in files.into_iter().filter_map(|(key, text)| Some((named(key)?, text))) {
        let file = folder.file(&name, text);
        let secret = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(file, secret).expect("a file of our own");
        wanted = true;
    }
    folder.file("config.yaml", &text);
    wanted.then_some(folder)
}

/// The YAML files below a folder that are ours: others have no `listeners`.
fn configurations(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(configurations(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).expect("a file that can be read");
            let ours = text.lines().any(|line| line.starts_with("listeners:"));
            found.extend(ours.then(|| path.to_string_lossy().into_owned()));
        }
    }
    found
}
