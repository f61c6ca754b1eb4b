//! The program under test: `evenkeel run` with a configuration of its own, and single commands.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Answer, Child, PATIENCE, Signal, eventually, get, metrics};

/// A running `evenkeel run`. Dropped, it is killed.
#[derive(Debug)]
pub struct Proxy {
    pub child: Child,
    pub admin: SocketAddr,
    listeners: HashMap<String, SocketAddr>,
    folder: Folder,
}

/// A temporary folder that goes with its handle.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("evenkeel-it-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written to");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the temporary folder can be written to");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left there harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a command of the program to its end, in the given folder.
pub fn evenkeel(folder: &Path, args: &[&str]) -> Output {
    program_under_test()
        .current_dir(folder)
        .args(args)
        .output()
        .expect("the program can be started")
}

/// The program, with nothing of this environment that changes what it does.
pub fn program_under_test() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.env_remove("EVENKEEL_LOG");
    command
}

/// The program, after a shell has run something.
fn after(prelude: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("{prelude}; exec \"$0\" \"$@\"")]);
    shell.arg(env!("CARGO_BIN_EXE_evenkeel")).env_remove("EVENKEEL_LOG");
    shell
}

impl Proxy {
    /// Starts it with this configuration (a [`super::Setup`], or text) and waits until it serves.
    #[track_caller]
    pub fn start(config: impl ToString) -> Proxy {
        Proxy::start_with(config, &[])
    }

    /// The same, with further arguments of `run`.
    #[track_caller]
    pub fn start_with(config: impl ToString, args: &[&str]) -> Proxy {
        Proxy::start_in(Folder::new(), program_under_test(), config, args)
    }

    /// The same, with this folder, in which there may be files that the configuration names.
    #[track_caller]
    pub fn start_beside(folder: Folder, config: impl ToString) -> Proxy {
        Proxy::start_in(folder, program_under_test(), config, &[])
    }

    /// The same, after a shell has run `prelude`, such as `ulimit -n 64`.
    #[track_caller]
    pub fn start_after(prelude: &str, config: impl ToString) -> Proxy {
        Proxy::start_in(Folder::new(), after(prelude), config, &[])
    }

    /// Both.
    #[track_caller]
    pub fn start_beside_after(folder: Folder, prelude: &str, config: impl ToString) -> Proxy {
        Proxy::start_in(folder, after(prelude), config, &[])
    }

    #[track_caller]
    fn start_in(
        folder: Folder,
        mut command: Command,
        config: impl ToString,
        args: &[&str],
    ) -> Proxy {
        let file = folder.file("evenkeel.yaml", config.to_string());
        command.current_dir(folder.path()).arg("run").arg("--config").arg(file).args(args);
        let mut child = Child::start("evenkeel", &mut command);
        let mut listeners = HashMap::new();
        let admin = child.wait_line(0, PATIENCE, |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            let address = || event["address"].as_str()?.parse::<SocketAddr>().ok();
            match event["message"].as_str()? {
                "listening" => {
                    let name = event["listener"].as_str()?.to_owned();
                    listeners.extend(address().map(|address| (name, address)));
                    None
                }
                "admin listening" => address(),
                _ => None,
            }
        });
        Proxy { child, admin, listeners, folder }
    }

    /// Where a listener of the configuration at the start accepts.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self.listeners.get(listener).unwrap_or_else(|| panic!("no listener {listener}"))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the configuration file, whole at once, without telling anybody.
    pub fn write_config(&self, config: impl ToString) {
        let new = self.folder.file("new.yaml", config.to_string());
        std::fs::rename(new, self.folder.path().join("evenkeel.yaml")).expect("in one folder");
    }

    /// Replaces the configuration, sends SIGHUP and waits until the reload is over. True if it is
    /// in force now.
    #[track_caller]
    pub fn reload(&self, config: impl ToString) -> bool {
        let before = self.reloads();
        self.write_config(config);
        self.child.signal(Signal::Hangup);
        let mut after = before;
        eventually("a reload is over", PATIENCE, || {
            after = self.reloads();
            after != before
        });
        after.0 > before.0
    }

    /// Loads of the configuration: that succeeded, that failed. The start is the first.
    pub fn reloads(&self) -> (u64, u64) {
        let text = self.scrape();
        let count = |result| {
            metrics::sum(&text, "evenkeel_config_reloads_total", &[("result", result)]) as u64
        };
        (count("success"), count("failure"))
    }

    pub fn scrape(&self) -> String {
        self.ask_admin("/metrics").text()
    }

    /// The sum of a metric's samples that have all of these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&self.scrape(), name, labels)
    }

    /// Waits until that sum is this: what is counted when a message has ended may be counted a
    /// moment after its last byte came.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut last = f64::NAN;
        let end = Instant::now() + PATIENCE;
        while last != value {
            let late = Instant::now() > end;
            assert!(!late, "{name} {labels:?} is {last} and does not become {value}");
            last = self.metric(name, labels);
        }
    }

    #[track_caller]
    pub fn ask_admin(&self, target: &str) -> Answer {
        get(self.admin, target).unwrap_or_else(|why| panic!("admin does not answer: {why}"))
    }

    /// Waits until no backend has a request or stream in flight, and no request is in progress.
    #[track_caller]
    pub fn wait_at_rest(&self) {
        eventually("nothing is in flight", PATIENCE, || {
            let text = self.scrape();
            let sum = |name| metrics::sum(&text, name, &[]);
            sum("evenkeel_backend_in_flight") == 0.0
                && sum("evenkeel_pool_requests_in_progress") == 0.0
        });
    }

    /// Waits until so many backends of a pool serve.
    #[track_caller]
    pub fn wait_serving(&self, pool: &str, backends: usize, within: Duration) -> Duration {
        eventually(&format!("{backends} of pool {pool} serve"), within, || {
            let labels = [("pool", pool)];
            self.metric("evenkeel_pool_serving_backends", &labels) as usize == backends
        })
    }

    /// The log's events so far.
    pub fn events(&self) -> Vec<Value> {
        self.child.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The log's events with this message.
    pub fn events_saying(&self, message: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["message"] == message).collect()
    }

    /// A number of kB from `/proc/PID/status`, in bytes: `VmRSS`, or its peak `VmHWM`.
    #[track_caller]
    pub fn memory_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid()));
        let status = status.expect("a running process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.unwrap_or_else(|| panic!("no {field} in {status}")) * 1024
    }

    /// SIGTERM, and its end is waited for.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.child.signal(Signal::Terminate);
        self.child.wait_exit(PATIENCE)
    }
}

impl Drop for Proxy {
    /// Whatever a test did to it: none of its threads may have panicked.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let panics: Vec<_> =
            self.child.lines().into_iter().filter(|line| line.contains("panicked at")).collect();
        assert!(panics.is_empty(), "{panics:#?}");
    }
}
