//! `evenkeel demo`: three small backends and the load balancer in front of them, in one process.
//!
//! The configuration is `config.example.yaml`, the very file, so that what the demo shows is what the
//! file does. `--kill-every` takes a backend away and brings it back, in turn, while clients of the
//! demo's own go on asking; their errors are counted in the open.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::{interval, sleep, timeout};

use super::run::report;
use crate::app::{App, Options};
use crate::config::model::BindAddr;
use crate::config::units::duration_argument;
use crate::flow::worker::Shared;
use crate::lifecycle::reload::Source;
use crate::observe::cells::CLASSES;

const CONFIG: &str = include_str!("../../config.example.yaml");

const NEEDS: &str = "the demo needs 8080, 9901 and 9001 to 9003 free on 127.0.0.1; to use others, \
                     change a copy of config.example.yaml and start your own servers for it";

/// What the demo's own clients do: so many of them, each a request this often.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// Run three demo backends behind the load balancer of config.example.yaml
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Kill a backend this often, in turn, and revive it after half that time; such as 5s
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    pub kill_every: Option<Duration>,
}

/// What the demo's own clients saw.
#[derive(Debug, Default)]
struct Seen {
    answers: Cell<u64>,
    errors: Cell<u64>,
}

/// 0 if the demo ran until it was stopped and its clients saw no error.
pub fn run(args: &Args) -> ExitCode {
    let args = args.clone();
    let demo = tokio::runtime::LocalRuntime::new().map(|runtime| runtime.block_on(demo(args)));
    match demo {
        Ok(code) => code,
        Err(error) => {
            eprintln!("evenkeel: no runtime can be made: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: Args) -> ExitCode {
    let (name, text) = ("config.example.yaml".to_owned(), CONFIG.to_owned());
    let source = Source::Text { name, text };
    let addrs: Vec<SocketAddr> = match source.load(None) {
        Ok(loaded) => backends(&loaded.config),
        Err(error) => {
            eprintln!("evenkeel: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut running = Vec::new();
    for addr in &addrs {
        match Backend::start(*addr).await {
            Ok(backend) => running.push(backend),
            Err(error) => {
                eprintln!("evenkeel: the demo's backend cannot listen on {addr}: {error}");
                eprintln!("evenkeel: {NEEDS}");
                return ExitCode::FAILURE;
            }
        }
    }
    let app = match App::start(Options { source, watch: false }).await {
        Ok(app) => app,
        Err(error) => {
            report(&error);
            eprintln!("evenkeel: {NEEDS}");
            return ExitCode::FAILURE;
        }
    };
    let Some(front) = app.listeners().into_iter().find_map(|(_, addr)| match addr {
        BindAddr::Tcp(addr) => Some(addr),
        BindAddr::Unix(_) => None,
    }) else {
        return ExitCode::FAILURE; // the example has a TCP listener; a test runs it
    };
    invite(front, app.admin, args.kill_every);
    let seen = Rc::new(Seen::default());
    spawn_local(status_lines(app.shared.clone(), args.kill_every.map(|_| seen.clone())));
    if let Some(every) = args.kill_every {
        spawn_local(kill_in_turn(running, every));
        for _ in 0..CLIENTS {
            spawn_local(ask(front, seen.clone()));
        }
        app.run().await;
    } else {
        app.run().await;
        drop(running);
    }
    if args.kill_every.is_some() {
        println!("demo over: {} answers, {} errors", seen.answers.get(), seen.errors.get());
    } else {
        println!("demo over");
    }
    if seen.errors.get() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn backends(config: &crate::config::model::Config) -> Vec<SocketAddr> {
    let all = config.pools.iter().flat_map(|pool| &pool.backends);
    all.filter_map(|backend| backend.address.to_string().parse().ok()).collect()
}

fn invite(front: SocketAddr, admin: SocketAddr, kill_every: Option<Duration>) {
    println!("\nevenkeel demo: three backends behind one load balancer. Try, in another terminal:");
    // Quoted: some shells take a question mark for a pattern.
    println!("  curl http://{front}/                     an answer from one of the backends");
    println!("  for i in $(seq 9); do curl -s http://{front}/; done");
    println!("  curl 'http://{admin}/readyz?verbose'     what is up, what is down, and why");
    println!("  curl http://{admin}/metrics              for Prometheus");
    match kill_every {
        None => {
            println!("Or start it with --kill-every 5s, to see backends die. Ctrl-C ends it.\n")
        }
        Some(every) => {
            println!("Every {every:?} a backend is killed, while {CLIENTS} clients go on asking.");
            println!("Ctrl-C ends it.\n");
        }
    }
}

/// A demo backend; dropping it is its death: listener and connections close at once.
#[derive(Debug)]
struct Backend {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Backend {
    async fn start(addr: SocketAddr) -> io::Result<Backend> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Backend { addr, task: spawn_local(serve(listener, addr)) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, addr: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let answer = move |request: Request<Incoming>| async move {
                    let text = match request.uri().path() {
                        "/healthz" => "ok\n".to_owned(),
                        path => format!("Hello from backend {addr}, you asked for {path}\n"),
                    };
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                };
                connections.spawn_local(async move {
                    let io = TokioIo::new(stream);
                    // A client that goes away is nothing to report.
                    let _ = server::Builder::new().serve_connection(io, service_fn(answer)).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn kill_in_turn(mut running: Vec<Backend>, every: Duration) {
    loop {
        sleep(every / 2).await;
        let victim = running.remove(0);
        let addr = victim.addr;
        println!("  -- backend {addr} is killed");
        drop(victim);
        sleep(every / 2).await;
        loop {
            match Backend::start(addr).await {
                Ok(backend) => break running.push(backend),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        println!("  -- backend {addr} is back");
    }
}

/// One client: keeps its connection, asks again and again, counts what goes wrong.
async fn ask(front: SocketAddr, seen: Rc<Seen>) {
    loop {
        if asking(front, &seen).await.is_err() {
            seen.errors.set(seen.errors.get() + 1);
        }
        sleep(PAUSE).await;
    }
}

async fn asking(
    front: SocketAddr,
    seen: &Seen,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(front).await?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    loop {
        if sender.ready().await.is_err() {
            return Ok(()); // told to close, as the load balancer stops
        }
        let request =
            Request::get("/").header("host", front.to_string()).body(Empty::<Bytes>::new())?;
        let answer = timeout(Duration::from_secs(5), sender.send_request(request)).await??;
        if answer.status() != 200 {
            return Err(answer.status().to_string().into());
        }
        answer.into_body().collect().await?;
        seen.answers.set(seen.answers.get() + 1);
        sleep(PAUSE).await;
    }
}

/// One line a second: requests, and of each backend its state and its share of them.
async fn status_lines(shared: Shared, seen: Option<Rc<Seen>>) {
    let mut seconds = interval(Duration::from_secs(1));
    let mut before: Vec<u64> = Vec::new();
    loop {
        seconds.tick().await;
        let snapshot = shared.current.load_full();
        let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
        let backends: Vec<_> = members.map(|member| &member.state).collect();
        let now: Vec<u64> = backends
            .iter()
            .map(|b| b.cells.sum(|cells| (0..CLASSES.len()).map(|i| cells.requests.get(i)).sum()))
            .collect();
        before.resize(now.len(), 0);
        let last: Vec<u64> = now.iter().zip(&before).map(|(now, before)| now - before).collect();
        let sum: u64 = last.iter().sum();
        let mut line = format!("{sum:6} requests/s");
        for (backend, last) in backends.iter().zip(&last) {
            let state = match backend.reasons().next() {
                None => "serving",
                Some(reason) => reason.label(),
            };
            let share = (last * 100).checked_div(sum).unwrap_or(0);
            line += &format!("  | {} {state:10} {share:3}%", backend.addr);
        }
        if let Some(seen) = &seen {
            line += &format!("  | client errors: {}", seen.errors.get());
        }
        println!("{line}");
        before = now;
    }
}
