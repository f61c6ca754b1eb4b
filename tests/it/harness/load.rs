//! Load: clients that keep their schedule while the load balancer stalls, and check every answer.
//!
//! Each client is a thread. Keeping clients hold one connection for as long as the load balancer does
//! not announce its end; one that is closed without a word counts as an error. A request's time runs
//! from when it was due, so a stall is seen in full.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Answer, Ask, Broken, Conn};

/// What load there is to be; each client asks once in `pause`.
#[derive(Clone, Debug)]
pub struct Load {
    address: SocketAddr,
    keeping: usize,
    fresh: usize,
    pause: Duration,
    posts: Posts,
    leaves: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Posts {
    None,
    Half,
    All,
}

/// Load that is going on; ends with `stop`.
#[derive(Debug)]
pub struct Running {
    clients: Vec<JoinHandle<Report>>,
    stop: Arc<Switches>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Switches {
    stop: AtomicBool,
    no_new: AtomicBool,
    answers: AtomicU64,
}

/// What the clients saw.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whole answers that were right.
    pub answers: u64,
    pub by_backend: BTreeMap<String, u64>,
    pub failures: Vec<Failure>,
    /// From when a request was due to its answer.
    pub slowest: Duration,
    /// Connections that keeping clients made.
    pub connections: u64,
    /// Those of them whose end was announced.
    pub told_to_close: u64,
    /// Ids of the POSTs that were answered rightly.
    pub posted: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the load began.
    pub at: Duration,
    pub id: String,
    pub method: &'static str,
    pub what: String,
}

impl Load {
    /// Four keeping clients and two with a connection for each request, 100 GETs a second in all.
    pub fn on(address: SocketAddr) -> Load {
        let pause = Duration::from_millis(60);
        Load { address, keeping: 4, fresh: 2, pause, posts: Posts::None, leaves: false }
    }

    pub fn clients(mut self, keeping: usize, fresh: usize) -> Load {
        (self.keeping, self.fresh) = (keeping, fresh);
        self
    }

    /// How often each client asks.
    pub fn each(mut self, pause: Duration) -> Load {
        self.pause = pause;
        self
    }

    /// Every second request is a POST with a body.
    pub fn half_posts(mut self) -> Load {
        self.posts = Posts::Half;
        self
    }

    pub fn only_posts(mut self) -> Load {
        self.posts = Posts::All;
        self
    }

    /// A client that is told to close leaves for good; and so do all when `no_new_connections` is
    /// said, instead of connecting anew.
    pub fn leaves_when_told(mut self) -> Load {
        self.leaves = true;
        self
    }

    pub fn start(self) -> Running {
        let stop = Arc::new(Switches::default());
        let began = Instant::now();
        let all = self.keeping + self.fresh;
        let clients = (0..all).map(|number| {
            let (load, stop) = (self.clone(), stop.clone());
            std::thread::spawn(move || {
                let first = load.pause * number as u32 / all as u32;
                let report = Report::default();
                Client { load, stop, number, began, report }.run(first)
            })
        });
        Running { clients: clients.collect(), stop, began }
    }

    /// For so long, and then the report.
    #[track_caller]
    pub fn run(self, during: Duration) -> Report {
        let running = self.start();
        running.go_on(during);
        running.stop()
    }
}

impl Running {
    /// Lets it go on for so long.
    pub fn go_on(&self, during: Duration) {
        std::thread::sleep(during);
    }

    /// Waits until so many more right answers have come.
    #[track_caller]
    pub fn wait_answers(&self, more: u64) {
        let before = self.answers();
        super::eventually("answers come", super::PATIENCE, || self.answers() >= before + more);
    }

    pub fn answers(&self) -> u64 {
        self.stop.answers.load(Ordering::Relaxed)
    }

    pub fn since_start(&self) -> Duration {
        self.began.elapsed()
    }

    /// Clients that leave when told make no connection from now on.
    pub fn no_new_connections(&self) {
        self.stop.no_new.store(true, Ordering::Relaxed);
    }

    /// Ends it when the answers to what was sent are there.
    #[track_caller]
    pub fn stop(self) -> Report {
        self.stop.stop.store(true, Ordering::Relaxed);
        let mut whole = Report::default();
        for client in self.clients {
            whole.add(client.join().expect("a client does not panic"));
        }
        whole.failures.sort_by_key(|failure| failure.at);
        whole
    }
}

struct Client {
    load: Load,
    stop: Arc<Switches>,
    number: usize,
    began: Instant,
    report: Report,
}

impl Client {
    fn run(mut self, first: Duration) -> Report {
        let keeps = self.number < self.load.keeping;
        let mut kept: Option<Conn> = None;
        let mut due = self.began + first;
        for count in 0_u64.. {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let leaves = self.load.leaves && self.stop.no_new.load(Ordering::Relaxed);
            if self.stop.stop.load(Ordering::Relaxed) || (leaves && kept.is_none()) {
                break;
            }
            let (id, ask) = self.request(count, keeps);
            let outcome = match kept.take() {
                Some(conn) => Ok(conn),
                None => {
                    self.report.connections += u64::from(keeps);
                    Conn::open(self.load.address)
                }
            }
            .and_then(|mut conn| conn.ask(&ask).map(|answer| (conn, answer)));
            let wrong = match &outcome {
                Ok((_, answer)) => wrong(&ask, &id, answer),
                Err(broken) => Some(broken.to_string()),
            };
            match (wrong, outcome) {
                (Some(what), _) | (None, Err(Broken::Other(what))) => self.failed(id, &ask, what),
                (None, Err(broken)) => self.failed(id, &ask, broken.to_string()),
                (None, Ok((conn, answer))) => {
                    self.answered(id, &ask, &answer, due.elapsed());
                    let closes = keeps && answer.closes();
                    self.report.told_to_close += u64::from(closes);
                    if closes && self.load.leaves {
                        break;
                    }
                    kept = (keeps && !closes).then_some(conn);
                }
            }
            due += self.load.pause;
        }
        self.report
    }

    fn request(&self, count: u64, keeps: bool) -> (String, Ask) {
        let id = format!("{}-{}-{count}", self.load.address.port(), self.number);
        let posts = match self.load.posts {
            Posts::None => false,
            Posts::Half => count % 2 == 1,
            Posts::All => true,
        };
        let target = format!("/load/{id}?n={count}");
        let ask = if posts { Ask::post(&target) } else { Ask::get(&target) };
        let mut ask = ask.header("x-id", &id);
        if !keeps {
            ask = ask.header("Connection", "close");
        }
        if posts {
            ask = ask.body(format!("the body of {id} ").repeat(1 + (count % 40) as usize));
        }
        (id, ask)
    }

    fn answered(&mut self, id: String, ask: &Ask, answer: &Answer, took: Duration) {
        self.stop.answers.fetch_add(1, Ordering::Relaxed);
        self.report.answers += 1;
        self.report.slowest = self.report.slowest.max(took);
        let backend = answer.header("x-backend").unwrap_or_default();
        *self.report.by_backend.entry(backend).or_default() += 1;
        if ask.method == "POST" {
            self.report.posted.push(id);
        }
    }

    fn failed(&mut self, id: String, ask: &Ask, what: String) {
        let method = if ask.method == "POST" { "POST" } else { "GET" };
        let at = self.began.elapsed();
        self.report.failures.push(Failure { at, id, method, what });
    }
}

/// What is wrong with an answer of a backend that echoes.
fn wrong(ask: &Ask, id: &str, answer: &Answer) -> Option<String> {
    if answer.status != 200 {
        return Some(format!("{} {}", answer.status, answer.text().trim_end()));
    }
    if answer.header("x-echo-id").as_deref() != Some(id) {
        return Some(format!("the answer of another request: {:?}", answer.headers));
    }
    let Ok(echo) = serde_json::from_slice::<serde_json::Value>(&answer.body) else {
        return Some(format!("a damaged body: {}", answer.text()));
    };
    let body = String::from_utf8_lossy(&ask.body);
    let same = echo["target"] == ask.target.as_str()
        && echo["method"] == ask.method.as_str()
        && echo["body"] == *body;
    (!same).then(|| format!("not what was asked: {echo}"))
}

impl Report {
    fn add(&mut self, other: Report) {
        self.answers += other.answers;
        for (backend, count) in other.by_backend {
            *self.by_backend.entry(backend).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.slowest = self.slowest.max(other.slowest);
        self.connections += other.connections;
        self.told_to_close += other.told_to_close;
        self.posted.extend(other.posted);
    }

    /// A line for each failure, so far as a reader wants them.
    pub fn failures_of(&self, method: &str) -> String {
        let of = self.failures.iter().filter(|failure| failure.method == method);
        let line = |f: &Failure| format!("\n  at {:?} {method} {}: {}", f.at, f.id, f.what);
        of.take(10).map(line).collect()
    }

    /// Every request was answered rightly.
    #[track_caller]
    pub fn assert_flawless(&self) {
        self.assert_no_failure_of("GET");
        self.assert_no_failure_of("POST");
    }

    /// No request of this method failed.
    #[track_caller]
    pub fn assert_no_failure_of(&self, method: &str) {
        assert!(self.answers > 0, "there was no answer at all");
        let failures = self.failures_of(method);
        let (all, answers) = (self.failures.len(), self.answers);
        assert!(failures.is_empty(), "{all} failures beside {answers} answers:{failures}");
    }

    /// Right answers of this backend.
    pub fn from(&self, backend: &str) -> u64 {
        self.by_backend.get(backend).copied().unwrap_or(0)
    }
}
