//! Walks the current snapshot and the process's status, and reads every metric off them.
//!
//! Reads only, and keeps nothing between scrapes: the cells are the one place where counts live. It
//! goes in small parts, a metric or some backends of one, so that a scrape of 10,000 backends never
//! holds more than a part and the control thread can do other work in between.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use super::certificates;
use super::families::Rows;
use super::view;
use crate::health::failover;
use crate::health::outlier::Why;
use crate::health::probe::Failure;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::status::Status;
use crate::observe::cells::{ByCause, ByClass, CLASSES, PassiveCells, PerWorker, RETRIED_STATUSES};
use crate::observe::metrics::{self, BackendFact, PoolFact, ProcessFact, Source, Verdict};
use crate::outcome::{Cause, Side};
use crate::pool::{Pool, Reason};
use crate::snapshot::Snapshot;
use crate::sys::process::Usage;

/// Backends in one part: about two milliseconds of work, at their worst.
const PART: usize = 500;

/// What one scrape reads, all of it taken at its beginning.
#[derive(Debug)]
pub struct Scene {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) status: Arc<Status>,
    pub(super) usage: Usage,
    pub(super) last_scrape: Duration,
    backends: Vec<Backend>,
}

/// A backend's places in the snapshot, and its label: written once a scrape, not once a metric.
#[derive(Debug)]
struct Backend {
    pool: usize,
    member: usize,
    label: String,
}

/// How far a scrape has come.
#[derive(Debug, Default)]
pub struct Place {
    /// In [`metrics::ALL`].
    metric: usize,
    /// The backend that its next part begins with.
    backend: usize,
    /// Its header was written.
    headed: bool,
}

impl Scene {
    pub fn new(
        snapshot: Arc<Snapshot>,
        status: Arc<Status>,
        usage: Usage,
        last_scrape: Duration,
    ) -> Scene {
        let backends = snapshot.pools.iter().enumerate().flat_map(|(place, pool)| {
            let members = pool.members.iter().enumerate();
            members.map(move |(member, known)| Backend {
                pool: place,
                member,
                label: known.state.addr.to_string(),
            })
        });
        let backends = backends.collect();
        Scene { snapshot, status, usage, last_scrape, backends }
    }

    /// Appends the next part to `text`, which may be nothing; false if there is none left.
    pub fn write_part(&self, place: &mut Place, text: &mut String) -> bool {
        let Some(metric) = metrics::ALL.get(place.metric) else { return false };
        let mut rows = Rows::new(metric);
        let mut end = self.backends.len();
        match metric.from {
            Source::Listener(_)
            | Source::ListenerClasses(_)
            | Source::ListenerCauses(_)
            | Source::ListenerHttp2Errors => {
                self.listeners(metric.from, &mut rows);
            }
            Source::ListenerCertificates => certificates::expiry(&self.snapshot, &mut rows),
            Source::ListenerOrders => certificates::orders(&self.snapshot, &mut rows),
            Source::Pool(_)
            | Source::PoolClasses(_)
            | Source::PoolRetries(_)
            | Source::PoolTimes(_)
            | Source::PoolFailures(_)
            | Source::ProbeTimes(_)
            | Source::PoolProbe(_)
            | Source::PoolState(_) => self.pools(metric.from, &mut rows),
            Source::Backend(_)
            | Source::BackendClasses(_)
            | Source::BackendCauses(_)
            | Source::BackendProbes(_)
            | Source::BackendProbeFailures(_)
            | Source::BackendProbe(_)
            | Source::BackendEjections(_)
            | Source::BackendTrials(_)
            | Source::BackendDisagreement(_)
            | Source::BackendState(_) => {
                end = end.min(place.backend + PART);
                for backend in &self.backends[place.backend..end] {
                    self.backend(metric.from, backend, &mut rows);
                }
            }
            Source::Process(fact) => self.process(fact, &mut rows),
        }
        place.headed |= rows.encode(!place.headed, text);
        *place = if end < self.backends.len() {
            Place { backend: end, ..*place }
        } else {
            Place { metric: place.metric + 1, backend: 0, headed: false }
        };
        true
    }

    fn listeners(&self, from: Source, rows: &mut Rows<'_>) {
        for listener in &self.snapshot.listeners {
            let name = listener.config.name.as_str();
            let cells = &listener.state.cells;
            match from {
                Source::Listener(value) => rows.count(&[name], cells.sum(value)),
                Source::ListenerClasses(of) => {
                    for (label, value) in classes(cells, of) {
                        rows.count(&[name, label], value);
                    }
                }
                Source::ListenerCauses(of) => {
                    for (cause, value) in causes(cells, of) {
                        rows.count(&[name, cause.label()], value);
                    }
                }
                Source::ListenerHttp2Errors => {
                    for (at, label) in crate::observe::cells::HTTP2_ERRORS.into_iter().enumerate() {
                        rows.count(&[name, label], cells.sum(|cells| cells.http2_errors[at].get()));
                    }
                }
                _ => {}
            }
        }
    }

    fn pools(&self, from: Source, rows: &mut Rows<'_>) {
        for pool in &self.snapshot.pools {
            let name = pool.config.name.as_str();
            let cells = &pool.state.cells;
            match from {
                Source::Pool(value) => rows.count(&[name], cells.sum(value)),
                Source::PoolClasses(of) => {
                    for (label, value) in classes(cells, of) {
                        rows.count(&[name, label], value);
                    }
                }
                Source::PoolRetries(of) => {
                    for cause in Cause::ALL.into_iter().filter(|cause| cause.is_retryable()) {
                        let value = cells.sum(|cells| of(cells).0[cause.index()].get());
                        rows.count(&[name, cause.label()], value);
                    }
                    for (at, status) in RETRIED_STATUSES.iter().enumerate() {
                        let value = cells.sum(|cells| of(cells).1.get(at));
                        rows.count(&[name, &status.to_string()], value);
                    }
                }
                Source::PoolTimes(of) => rows.times(&[name], cells.iter().map(of)),
                Source::PoolFailures(of) => {
                    for (cause, value) in causes(cells, of) {
                        if cause.side() == Side::Backend {
                            rows.count(&[name, cause.label()], value);
                        }
                    }
                }
                Source::ProbeTimes(of) if pool.config.health_check.is_some() => {
                    rows.times(&[name], pool.members.iter().map(|m| of(&m.state.probes)));
                }
                Source::PoolProbe(of) if pool.config.health_check.is_some() => {
                    let values = pool.members.iter().map(|m| of(&m.state.probes));
                    rows.count(&[name], values.sum());
                }
                Source::PoolState(fact) => pool_state(fact, pool, rows),
                _ => {}
            }
        }
    }

    fn backend(&self, from: Source, backend: &Backend, rows: &mut Rows<'_>) {
        // `new` took these places from this very snapshot.
        let pool = &self.snapshot.pools[backend.pool];
        let member = &pool.members[backend.member];
        let (name, label) = (pool.config.name.as_str(), backend.label.as_str());
        let cells = &member.state.cells;
        let checked = pool.config.health_check.is_some();
        match from {
            Source::Backend(value) => rows.count(&[name, label], cells.sum(value)),
            Source::BackendClasses(of) => {
                for (class, value) in classes(cells, of) {
                    if value > 0 || class == "2xx" || class == "5xx" {
                        rows.count(&[name, label, class], value);
                    }
                }
            }
            Source::BackendCauses(of) => {
                for (cause, value) in causes(cells, of) {
                    if value > 0 && cause.side() == Side::Backend {
                        rows.count(&[name, label, cause.label()], value);
                    }
                }
            }
            Source::BackendProbes(of) if checked => {
                let probes = &member.state.probes;
                rows.count(&[name, label, "passed"], of(probes, Verdict::Passed));
                rows.count(&[name, label, "failed"], of(probes, Verdict::Failed));
                let wrong_role = of(probes, Verdict::WrongRole);
                if wrong_role > 0 {
                    rows.count(&[name, label, "wrong_role"], wrong_role);
                }
            }
            Source::BackendProbeFailures(of) => {
                for (why, failed) in Failure::LABELS.iter().zip(of(&member.state.probes)) {
                    if failed.get() > 0 {
                        rows.count(&[name, label, why], failed.get());
                    }
                }
            }
            Source::BackendProbe(of) if checked => {
                rows.count(&[name, label], of(&member.state.probes));
            }
            Source::BackendEjections(_)
            | Source::BackendTrials(_)
            | Source::BackendDisagreement(_) => {
                judgement(from, &member.state.passive, checked, &[name, label], rows);
            }
            Source::BackendState(fact) => match fact {
                BackendFact::InFlight => {
                    rows.count(&[name, label], member.state.in_flight().into())
                }
                BackendFact::Weight => rows.count(&[name, label], member.weight.into()),
                BackendFact::Serving => rows.count(&[name, label], member.state.serving().into()),
                BackendFact::Reasons => {
                    for reason in member.state.reasons() {
                        rows.count(&[name, label, reason.label()], 1);
                    }
                }
            },
            _ => {}
        }
    }

    fn process(&self, fact: ProcessFact, rows: &mut Rows<'_>) {
        let status = &self.status;
        let phase = *status.phase.borrow();
        let mut optional = |value: Option<f64>| {
            if let Some(value) = value {
                rows.add(&[], value);
            }
        };
        match fact {
            ProcessFact::BuildInfo => rows.count(&[env!("CARGO_PKG_VERSION")], 1),
            ProcessFact::Ready => {
                rows.count(&[], view::readiness(&self.snapshot, phase).is_empty().into());
            }
            ProcessFact::Phase => {
                for each in Phase::ALL {
                    rows.count(&[each.label()], (each == phase).into());
                }
            }
            ProcessFact::Workers => rows.count(&[], status.workers as u64),
            ProcessFact::WorkerConnections => {
                for (worker, open) in status.open_by_worker.iter().enumerate() {
                    rows.count(&[&worker.to_string()], open.load(Relaxed) as u64);
                }
            }
            ProcessFact::WorkerPanics => rows.count(&[], status.panics.load(Relaxed)),
            ProcessFact::OpenConnections => {
                rows.count(&[], status.limits.open.load(Relaxed) as u64)
            }
            ProcessFact::ConnectionsCut => rows.count(&[], status.cut.load(Relaxed)),
            ProcessFact::LimitHits => self.limit_hits(rows),
            ProcessFact::LimitValues => self.limit_values(rows),
            ProcessFact::Reloads => {
                let reload = status.reload();
                rows.count(&["success"], reload.succeeded);
                rows.count(&["failure"], reload.failed);
            }
            ProcessFact::CertificateReloads => {
                let counts = &status.certificates;
                rows.count(&["success"], counts.succeeded.load(Relaxed));
                rows.count(&["failure"], counts.failed.load(Relaxed));
            }
            ProcessFact::LastReloadSuccessful => {
                rows.count(&[], status.reload().error.is_none().into());
            }
            ProcessFact::LastReloadSuccessTime => {
                rows.add(&[], since_1970(status.reload().loaded_at));
            }
            ProcessFact::Generation => rows.count(&[], self.snapshot.generation),
            ProcessFact::AwaitingRestart => {
                rows.count(&[], status.reload().needs_restart.len() as u64);
            }
            ProcessFact::ScrapeSeconds => rows.add(&[], self.last_scrape.as_secs_f64()),
            ProcessFact::CpuSeconds => optional(self.usage.cpu.map(|time| time.as_secs_f64())),
            ProcessFact::ResidentBytes => optional(self.usage.resident_bytes.map(|n| n as f64)),
            ProcessFact::OpenFiles => optional(self.usage.open_files.map(|n| n as f64)),
            ProcessFact::MaxFiles => optional(self.usage.max_files.map(|n| n as f64)),
            ProcessFact::StartTime => rows.add(&[], since_1970(status.started)),
        }
    }

    fn limit_hits(&self, rows: &mut Rows<'_>) {
        let hits = &self.status.limits;
        rows.count(&["connections"], hits.connections.load(Relaxed));
        rows.count(&["connections_per_client"], hits.connections_per_client.load(Relaxed));
        rows.count(&["request_head"], hits.request_head.load(Relaxed));
        rows.count(&["request_body"], hits.request_body.load(Relaxed));
        rows.count(&["open_files"], hits.open_files.load(Relaxed));
        rows.count(&["rate_limit_keys"], hits.rate_limit_keys.load(Relaxed));
        rows.count(&["handshakes"], hits.handshakes.load(Relaxed));
        rows.count(&["pipes"], hits.pipes.load(Relaxed));
    }

    fn limit_values(&self, rows: &mut Rows<'_>) {
        let limits = &self.snapshot.config.limits;
        rows.count(&["connections"], limits.connections as u64);
        if let Some(limit) = limits.connections_per_client {
            rows.count(&["connections_per_client"], limit.into());
        }
        rows.count(&["request_head"], limits.request_head_bytes as u64);
        rows.count(&["headers"], limits.headers as u64);
        if let Some(limit) = limits.request_body_bytes {
            rows.count(&["request_body"], limit);
        }
        rows.count(&["rate_limit_keys"], crate::route::debts::KEYS as u64);
        rows.count(&["open_files"], self.status.open_files_limit);
        rows.count(&["pipes"], (self.status.pipes_per_worker() * self.status.workers) as u64);
    }
}

fn pool_state(fact: PoolFact, pool: &Pool, rows: &mut Rows<'_>) {
    let name = pool.config.name.as_str();
    match fact {
        PoolFact::Backends => rows.count(&[name], pool.members.len() as u64),
        PoolFact::Serving => rows.count(&[name], pool.serving() as u64),
        PoolFact::Reasons => {
            for reason in Reason::ALL {
                let with = pool.members.iter().filter(|member| member.state.has(reason)).count();
                rows.count(&[name, reason.label()], with as u64);
            }
        }
        PoolFact::ActiveTier => rows.count(&[name], view::in_use(pool).number.into()),
        PoolFact::Moves => {
            for (cause, moves) in failover::Cause::ALL.iter().zip(&pool.state.tiers.moves) {
                rows.count(&[name, cause.label()], moves.get());
            }
        }
        PoolFact::Alarms => {
            for (alarm, on) in failover::Alarm::ALL.iter().zip(&pool.state.tiers.alarms) {
                rows.count(&[name, alarm.label()], on.get().into());
            }
        }
    }
}

/// What passive judgement has counted of a backend; `of` is its pool and itself.
fn judgement(
    from: Source,
    passive: &PassiveCells,
    checked: bool,
    of: &[&str; 2],
    rows: &mut Rows<'_>,
) {
    let mut some = |label: &str, count: u64| {
        if count > 0 {
            rows.count(&[of[0], of[1], label], count);
        }
    };
    match from {
        Source::BackendEjections(get) => {
            for (cause, ejections) in Why::LABELS.iter().zip(get(passive)) {
                some(cause, ejections.get());
            }
        }
        Source::BackendTrials(get) => {
            for (result, trials) in ["passed", "failed"].iter().zip(get(passive)) {
                some(result, trials.get());
            }
        }
        Source::BackendDisagreement(get) if checked => rows.count(of, get(passive)),
        _ => {}
    }
}

/// Each class with its sum over the workers.
fn classes<T>(
    cells: &PerWorker<T>,
    of: fn(&T) -> &ByClass,
) -> impl Iterator<Item = (&'static str, u64)> {
    CLASSES
        .into_iter()
        .enumerate()
        .map(move |(class, label)| (label, cells.sum(|cells| of(cells).get(class))))
}

/// Each cause with its sum over the workers.
fn causes<T>(cells: &PerWorker<T>, of: fn(&T) -> &ByCause) -> impl Iterator<Item = (Cause, u64)> {
    Cause::ALL
        .into_iter()
        .map(move |cause| (cause, cells.sum(|cells| of(cells)[cause.index()].get())))
}

fn since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
