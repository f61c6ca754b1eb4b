//! A test backend as its test sees it: a process that is told what to do, killed, frozen, started again.
//!
//! What it can do (`Backend::now`, or for one request `Ask::act`), a word with its numbers:
//!
//! | act | the backend |
//! | --- | --- |
//! | `answer` | echoes the request as JSON: backend, method, target, headers, body |
//! | `slow MS` | the same, after so many milliseconds |
//! | `status N` | answers N with a short text (204 and 304 without a body) |
//! | `bytes N`, `chunked N` | answers N bytes with a length, or in chunks |
//! | `drip N MS` | N chunks of 10 bytes, so many milliseconds apart |
//! | `until_close` | answers without a length, and closes |
//! | `early` | answers 200 before it reads the request's body, which it then reads |
//! | `early_close` | the same, but closes in place of reading |
//! | `close_after` | answers and closes in one packet, without saying so |
//! | `close_idle MS` | closes kept-alive connections after so long without a request |
//! | `reset`, `close` | resets, or closes, in place of an answer |
//! | `reset_after N` | promises a long body and resets after N bytes of it |
//! | `truncate N` | promises a long body and closes after N bytes of it |
//! | `truncate_chunked N` | sends a chunk of N bytes, and closes |
//! | `garbage` | answers with what is not HTTP |
//! | `never` | reads and never answers |
//! | `raw TEXT` | writes the text as it is, with `\r` `\n` `\0` `\\` `\xHH` meant, and closes |
//! | `upgrade` | answers 101 and then echoes what comes |
//! | `tcp_echo` | no HTTP: echoes, and closes when the client has |
//! | `tcp_late` | no HTTP: reads to the end, then sends all of it back |
//! | `tcp_reset N` | no HTTP: reads N bytes, then resets |
//! | `tcp_drip N MS` | no HTTP: sends N times 10 bytes, so many milliseconds apart |
//!
//! `/healthz` says 200, or 503 when told to be ill, whatever the act is. Requests with an `x-id` are
//! written to a ledger, a file that outlives the process, when their head has been read.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::evenkeel::Folder;
use super::{Child, PATIENCE, Signal, address};

/// Where the child finds what it is to be: `NAME|ADDRESS|LEDGER|ACT`.
pub const VARIABLE: &str = "EVENKEEL_TEST_BACKEND";

/// Shown as its address, so that it can stand in a configuration.
#[derive(Debug)]
pub struct Backend {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
    /// Lines of the child that were read.
    read: usize,
    act: String,
    folder: Folder,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Backend {
    /// One that answers.
    #[track_caller]
    pub fn start(name: &str) -> Backend {
        Backend::doing(name, "answer")
    }

    #[track_caller]
    pub fn doing(name: &str, act: &str) -> Backend {
        Backend::at(name, SocketAddr::new(address::own_ip(), 0), act)
    }

    /// At a certain address; port 0 is the kernel's choice.
    #[track_caller]
    pub fn at(name: &str, address: SocketAddr, act: &str) -> Backend {
        let folder = Folder::new();
        let (child, address, read) = launch(name, address, &ledger(&folder), act);
        Backend { name: name.to_owned(), address, child, read, act: act.to_owned(), folder }
    }

    /// Changes what it does with requests that come from now on.
    #[track_caller]
    pub fn now(&mut self, act: &str) {
        self.act = act.to_owned();
        self.tell(&format!("act {act}"));
    }

    /// Whether `/healthz` says 200.
    #[track_caller]
    pub fn healthy(&mut self, yes: bool) {
        self.tell(if yes { "healthy" } else { "ill" });
    }

    /// The check of a pool that asks this one how its own backend is.
    pub fn check_elsewhere(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        format!(
            "health_check: {{http: {{path: /healthz}}, address: \"{ip}\", port: {port}, \
             interval: 100ms, interval_unsettled: 50ms, timeout: 250ms, fall: 2, rise: 2}}"
        )
    }

    /// From now on it refuses connections; those it has are closed.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// Starts it again on its address, after `kill`.
    #[track_caller]
    pub fn restart(&mut self) {
        self.child.kill();
        let ledger = ledger(&self.folder);
        (self.child, self.address, self.read) =
            launch(&self.name, self.address, &ledger, &self.act);
    }

    /// Its kernel accepts connections and requests; nobody answers.
    pub fn freeze(&self) {
        self.child.signal(Signal::Stop);
    }

    pub fn thaw(&self) {
        self.child.signal(Signal::Continue);
    }

    /// The requests with an `x-id` that it saw: method and id.
    pub fn ledger(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(ledger(&self.folder)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(method, id)| (method.to_owned(), id.to_owned())).collect()
    }

    #[track_caller]
    fn tell(&mut self, what: &str) {
        let pipe = self.child.stdin();
        writeln!(pipe, "{what}").expect("the backend listens to what it is told");
        let done = format!("@did {what}");
        let from = self.read;
        self.child.wait_line(from, PATIENCE, |line| {
            self.read += 1;
            (line == done).then_some(())
        });
    }
}

/// Requests of this method that more than one execution was begun of, at any of these backends.
pub fn executed_twice<'a>(
    method: &str,
    backends: impl IntoIterator<Item = &'a Backend>,
) -> Vec<String> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (of, id) in backends.into_iter().flat_map(Backend::ledger) {
        if of == method {
            *seen.entry(id).or_default() += 1;
        }
    }
    seen.into_iter().filter(|(_, times)| *times > 1).map(|(id, _)| id).collect()
}

fn ledger(folder: &Folder) -> PathBuf {
    folder.path().join("ledger")
}

/// This very test binary, asked to be a backend.
#[track_caller]
fn launch(name: &str, at: SocketAddr, ledger: &Path, act: &str) -> (Child, SocketAddr, usize) {
    let test = "harness::process::backend_process";
    let mut command = Command::new(std::env::current_exe().expect("a process has a program"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env(VARIABLE, format!("{name}|{at}|{}|{act}", ledger.display()));
    let mut child = Child::start(&format!("backend {name}"), &mut command);
    let mut read = 0;
    let address = child.wait_line(0, PATIENCE, |line| {
        read += 1;
        line.strip_prefix("@listening ")?.parse().ok()
    });
    (child, address, read)
}
