//! The only wiring: builds every part, returns the bound addresses, waits, stops.
//!
//! The thread that starts an [`App`] is the control thread; it must run a `LocalRuntime`. Data workers
//! are threads of their own (`flow::worker`).

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::acme::challenges::Challenges;
use crate::acme::task::Names;
use crate::admin;
use crate::config::LoadError;
use crate::config::model::{BindAddr, Config, Name};
use crate::config::units::show_duration;
use crate::flow::arrivals::Arrival;
use crate::flow::thread::{self, Command, Inbox};
use crate::flow::worker::Shared;
use crate::health::task::Health;
use crate::health::task::outlier::Outliers;
use crate::health::task::standing::{Orders, Release, Standing};
use crate::lifecycle::phase::Phase;
use crate::lifecycle::publish::{self, Publisher};
use crate::lifecycle::reload::{Applier, ApplyError, Source, warn_of};
use crate::lifecycle::renew::Renewal;
use crate::lifecycle::resolve::Addresses;
use crate::lifecycle::sockets::Sockets;
use crate::lifecycle::status::Status;
use crate::lifecycle::systemd;
use crate::lifecycle::watch::Watch;
use crate::listen::Gate;
use crate::observe::log::{self, LogError};
use crate::sys::files;

/// How often files that may change are looked at, and old snapshots are let go.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Options {
    pub source: Source,
    /// Reload when the file changes.
    pub watch: bool,
}

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(
        "cannot serve admin.listen on {0}: {1} (another process has it, or it is no address here)"
    )]
    Admin(SocketAddr, io::Error),
    #[error("cannot start a data worker: {0}")]
    Worker(io::Error),
    #[error("cannot watch for signals: {0}")]
    Signals(io::Error),
}

/// A running load balancer.
#[derive(Debug)]
pub struct App {
    pub shared: Shared,
    pub admin: SocketAddr,
    applier: Applier,
    threads: Vec<JoinHandle<()>>,
    /// Closes when the last worker has ended.
    ended: mpsc::Receiver<()>,
    signals: Signals,
    /// A signal to stop came before anything was served.
    stopped: bool,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl App {
    /// Loads, binds, probes, and serves: when this returns, clients are accepted; or a signal to stop
    /// came, and to run it comes to an end at once.
    pub async fn start(options: Options) -> Result<App, StartError> {
        let watch = options.watch.then(|| Watch::new(&options.source));
        let loaded = options.source.load(None)?;
        log::init(loaded.config.log)?;
        warn_of(&loaded);
        let mut signals = Signals::new().map_err(StartError::Signals)?;
        let config = loaded.config;
        let open_files = files::raise_limit().unwrap_or(0);
        let workers = config.workers.unwrap_or_else(usable_cpus);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), workers, open_files, "starting");
        let status = Arc::new(Status::new(workers, open_files));
        count_panics(status.clone());
        let gate = Gate::new(status.clone());
        let admin_addr = config.admin.listen;
        let fail = |error| StartError::Admin(admin_addr, error);
        let admin_socket = TcpListener::bind(admin_addr).await.map_err(fail)?;
        let admin = admin_socket.local_addr().map_err(fail)?;
        let current = publish::nothing(before(&config));
        let (doors, arrivals): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let doors = doors.into();
        let epoch = Instant::now();
        let (votes, voted) = mpsc::unbounded_channel();
        let challenges = Arc::new(Challenges::default());
        let shared =
            Shared { current: current.clone(), status, gate, challenges, doors, votes, epoch };
        let (commands, threads, ended) = spawn_workers(&shared, arrivals).await?;
        let standing = Standing::new(epoch, orders(commands.clone()));
        let status = shared.status.clone();
        let context = admin::Context::new(current.clone(), status, standing.clone());
        tokio::task::spawn_local(admin::serve(admin_socket, Rc::new(context)));
        let mut applier = Applier {
            source: options.source,
            current: current.clone(),
            status: shared.status.clone(),
            gate: shared.gate.clone(),
            publisher: Publisher::new(current, workers),
            sockets: Sockets::default(),
            health: Health::new(standing.clone()),
            outliers: Outliers::new(standing.clone(), epoch, voted, fastrand::Rng::new()),
            standing,
            acme: Names::new(
                shared.current.clone(),
                shared.challenges.clone(),
                shared.status.clone(),
            ),
            workers: commands,
            addresses: Addresses::default(),
            renewal: Renewal::default(),
        };
        // Names, disks and probes may keep it waiting.
        let stopped = tokio::select! {
            biased;
            () = signals.stop() => true,
            applied = applier.apply(config) => applied.map(|_| false)?,
        };
        let app = App { shared, admin, applier, threads, ended, signals, stopped, watch };
        if !stopped {
            app.serves();
        }
        Ok(app)
    }

    fn serves(&self) {
        self.enter(Phase::Running);
        for (listener, bound) in self.listeners() {
            tracing::info!(%listener, address = %bound, "listening");
        }
        tracing::info!(address = %self.admin, "admin listening");
        systemd::ready();
    }

    /// Every listener's name with its addresses in force.
    pub fn listeners(&self) -> Vec<(Name, BindAddr)> {
        let snapshot = self.shared.current.load_full();
        let sockets = &self.applier.sockets;
        let in_force = |addr: &BindAddr| sockets.in_force(addr).map(BindAddr::Tcp);
        let listeners = snapshot.listeners.iter().map(|listener| &listener.config);
        listeners
            .flat_map(|l| l.bind.iter().map(|addr| (&l.name, addr)))
            .map(|(name, addr)| (name.clone(), in_force(addr).unwrap_or_else(|| addr.clone())))
            .collect()
    }

    /// Runs until a signal ends the process. True if everything was drained, nothing cut.
    pub async fn run(mut self) -> bool {
        while !self.stopped {
            tokio::select! {
                biased;
                told = self.signals.next() => {
                    if told == Told::Stop || self.reload_or_stop().await {
                        break;
                    }
                }
                look = self.applier.renewal.looked() => self.applier.take_up(look),
                () = changed(&mut self.watch) => {
                    if self.reload_or_stop().await {
                        break;
                    }
                }
                () = sleep(HOUSEKEEPING) => {
                    self.applier.publisher.drop_retired();
                    self.applier.look_after_certificates();
                    self.watch.iter_mut().for_each(Watch::look);
                }
            }
        }
        self.stop().await
    }

    /// True if a signal to stop came in the middle.
    async fn reload_or_stop(&mut self) -> bool {
        systemd::reloading();
        let (watch, applier) = (&mut self.watch, &mut self.applier);
        let reload = async {
            if let Some(watch) = watch {
                watch.loading().await;
            }
            applier.reload().await;
        };
        let stopped = tokio::select! {
            biased;
            () = self.signals.stop() => true,
            () = reload => false,
        };
        systemd::ready();
        stopped
    }

    async fn stop(mut self) -> bool {
        let config = self.shared.current.load_full().config.clone();
        systemd::stopping();
        self.enter(Phase::Leaving);
        // Nobody has to be kept from what never served.
        let delay = if self.stopped { Duration::ZERO } else { config.shutdown_delay };
        tracing::info!(delay = show_duration(delay), "stopping");
        let mut cut = tokio::select! {
            () = sleep(delay) => false,
            () = self.signals.stop() => true,
        };
        self.enter(Phase::Draining);
        self.applier.health.stop();
        self.applier.acme.stop();
        self.applier.sockets.close();
        self.tell_workers(|| Command::Drain);
        if !cut {
            tracing::info!(timeout = show_duration(config.drain_timeout), "draining");
            cut = tokio::select! {
                _ = self.ended.recv() => false,
                () = sleep(config.drain_timeout) => true,
                () = self.signals.stop() => true,
            };
        }
        if cut {
            self.enter(Phase::Cutting);
            self.tell_workers(|| Command::Cut);
            self.ended.recv().await;
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked was logged by the hook.
            let _ = thread.join();
        }
        let cut = self.shared.status.cut.load(Ordering::Relaxed);
        tracing::info!(cut, "stopped");
        cut == 0
    }

    fn enter(&self, phase: Phase) {
        self.shared.status.phase.send_replace(phase);
    }

    fn tell_workers(&self, command: impl Fn() -> Command) {
        for worker in &self.applier.workers {
            // A worker that has ended needs no telling.
            let _ = worker.send(command());
        }
    }
}

/// Never, if the file is not watched.
async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => pending().await,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The configuration of the empty snapshot: nothing to serve, and what only a restart can change.
fn before(config: &Config) -> Config {
    Config { listeners: Vec::new(), pools: Vec::new(), ..config.clone() }
}

type Workers = (Vec<mpsc::UnboundedSender<Command>>, Vec<JoinHandle<()>>, mpsc::Receiver<()>);

/// To all workers. One that has ended drops what it is sent.
fn orders(workers: Vec<mpsc::UnboundedSender<Command>>) -> Orders {
    Box::new(move |Release { backend, after, done }| {
        for worker in &workers {
            let _ = worker.send(Command::Release { backend, after, done: done.clone() });
        }
    })
}

/// A worker for each of these; returns when all of them run.
async fn spawn_workers(
    shared: &Shared,
    arrivals: Vec<mpsc::UnboundedReceiver<Arrival>>,
) -> Result<Workers, StartError> {
    let (running, ended) = mpsc::channel(1);
    let mut senders = Vec::new();
    let mut threads = Vec::new();
    for (id, arrivals) in arrivals.into_iter().enumerate() {
        let (sender, commands) = mpsc::unbounded_channel();
        let inbox = Inbox { commands, arrivals };
        let (starting, started) = oneshot::channel();
        let (shared, running) = (shared.clone(), running.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(move || {
                let _running = running;
                thread::run(id, shared, inbox, starting);
            })
            .map_err(StartError::Worker)?;
        let gone = |_| Err(io::Error::other("it has ended"));
        started.await.unwrap_or_else(gone).map_err(StartError::Worker)?;
        senders.push(sender);
        threads.push(thread);
    }
    Ok((senders, threads, ended))
}

/// CPUs that this process may use: affinity and cgroup quota included.
fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A panic ends one connection's task, never the process; here it is counted and logged.
fn count_panics(status: Arc<Status>) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        status.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%panic, "a panic: this is a bug in evenkeel");
        print(panic);
    }));
}
