//! Every metric of the product: its name, type, labels, meaning, and where its value comes from.
//!
//! A table and nothing else. `admin::collector` walks it at each scrape, `docs/metrics.md` repeats
//! it (a test holds the two together). Labels are closed sets: names of the configuration, and the
//! words of `outcome` and `pool`. Histograms are per pool and only counters per backend, so that
//! 10,000 backends stay a scrape one can afford.

use super::cells::{
    BackendCells, ByCause, ByClass, Counter, EJECTIONS, Histogram, ListenerCells, PROBE_FAILURES,
    PassiveCells, PoolCells, ProbeCells, RetriedStatuses,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// The word of the exposition format and of the documents.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    pub from: Source,
}

/// Where a value comes from. Cells are summed over the workers.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Listener(fn(&ListenerCells) -> u64),
    /// Every class, from the start.
    ListenerClasses(fn(&ListenerCells) -> &ByClass),
    /// Every cause, from the start.
    ListenerCauses(fn(&ListenerCells) -> &ByCause),
    /// Orders of certificates by how they ended; only for listeners with `acme`.
    ListenerOrders,
    /// Each of [`super::cells::HTTP2_ERRORS`], from the start.
    ListenerHttp2Errors,
    /// Seconds until it is over, of each certificate that is served.
    ListenerCertificates,
    Pool(fn(&PoolCells) -> u64),
    /// Every class, from the start.
    PoolClasses(fn(&PoolCells) -> &ByClass),
    /// Every cause, and every status, that allows a retry, from the start.
    PoolRetries(fn(&PoolCells) -> (&ByCause, &RetriedStatuses)),
    PoolTimes(fn(&PoolCells) -> &Histogram),
    /// Every cause that is a backend's doing, from the start.
    PoolFailures(fn(&PoolCells) -> &ByCause),
    /// The sum over the pool's backends; only for pools with a health check.
    ProbeTimes(fn(&ProbeCells) -> &Histogram),
    Backend(fn(&BackendCells) -> u64),
    /// 2xx and 5xx from the start, any other class once there is one.
    BackendClasses(fn(&BackendCells) -> &ByClass),
    /// Only causes that are a backend's doing, once there is one.
    BackendCauses(fn(&BackendCells) -> &ByCause),
    /// Passed and failed, wrong_role once there was one; only for pools with a health check.
    BackendProbes(fn(&ProbeCells, Verdict) -> u64),
    /// Only kinds of failure that there were.
    BackendProbeFailures(fn(&ProbeCells) -> &[Counter; PROBE_FAILURES]),
    /// Only for pools with a health check.
    BackendProbe(fn(&ProbeCells) -> u64),
    /// Only causes that there were.
    BackendEjections(fn(&PassiveCells) -> &[Counter; EJECTIONS]),
    /// Passed and failed, once there is one.
    BackendTrials(fn(&PassiveCells) -> [&Counter; 2]),
    /// Only for pools with a health check.
    BackendDisagreement(fn(&PassiveCells) -> u64),
    /// The same, summed over the pool's backends.
    PoolProbe(fn(&ProbeCells) -> u64),
    /// What a pool of the current snapshot is, beyond its cells.
    PoolState(PoolFact),
    /// What a backend of the current snapshot is, beyond its cells.
    BackendState(BackendFact),
    /// Of the process as a whole.
    Process(ProcessFact),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    WrongRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolFact {
    Backends,
    Serving,
    /// Every reason, from the start.
    Reasons,
    ActiveTier,
    Moves,
    Alarms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendFact {
    InFlight,
    Weight,
    Serving,
    /// A series, always 1, for each reason that is set: at most a few while all is well.
    Reasons,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessFact {
    BuildInfo,
    Ready,
    Phase,
    Workers,
    WorkerConnections,
    WorkerPanics,
    OpenConnections,
    ConnectionsCut,
    LimitHits,
    LimitValues,
    Reloads,
    LastReloadSuccessful,
    LastReloadSuccessTime,
    Generation,
    AwaitingRestart,
    CertificateReloads,
    ScrapeSeconds,
    CpuSeconds,
    ResidentBytes,
    OpenFiles,
    MaxFiles,
    StartTime,
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    from: Source,
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help, from }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    from: Source,
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, from }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    from: Source,
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram, labels, help, from }
}

use BackendFact as B;
use ProcessFact as P;
use Source::*;

/// In the order of a scrape. One metric is three lines: this is a table to be read.
#[rustfmt::skip]
pub const ALL: &[Metric] = &[
    // Listeners
    counter("evenkeel_listener_connections_total", &["listener"],
        Listener(|c| c.connections.get()),
        "Client connections accepted."),
    gauge("evenkeel_listener_open_connections", &["listener"],
        Listener(|c| c.open.get()),
        "Client connections open now."),
    counter("evenkeel_listener_requests_total", &["listener", "class"],
        ListenerClasses(|c| &c.requests),
        "HTTP requests by the status class that the client got; none: it left first."),
    counter("evenkeel_listener_failures_total", &["listener", "cause"],
        ListenerCauses(|c| &c.failures),
        "Requests and connections that did not end well, by cause."),
    counter("evenkeel_listener_http2_errors_total", &["listener", "why"],
        ListenerHttp2Errors,
        "HTTP/2 connections ended for what the client sent."),
    counter("evenkeel_listener_received_bytes_total", &["listener"],
        Listener(|c| c.received_bytes.get()),
        "Bytes received from clients."),
    counter("evenkeel_listener_sent_bytes_total", &["listener"],
        Listener(|c| c.sent_bytes.get()),
        "Bytes sent to clients."),
    counter("evenkeel_acme_orders_total", &["listener", "result"],
        ListenerOrders,
        "Orders of certificates from an ACME server, by how they ended."),
    gauge("evenkeel_certificate_expiry_seconds", &["listener", "name"],
        ListenerCertificates,
        "Seconds until a certificate that is served expires, below 0 once it has; by its first name."),
    // Pools
    gauge("evenkeel_pool_backends", &["pool"],
        PoolState(PoolFact::Backends),
        "Backends in the pool."),
    gauge("evenkeel_pool_serving_backends", &["pool"],
        PoolState(PoolFact::Serving),
        "Backends that no reason keeps from serving."),
    gauge("evenkeel_pool_backends_by_reason", &["pool", "reason"],
        PoolState(PoolFact::Reasons),
        "Backends that this reason keeps from serving; one may have several."),
    gauge("evenkeel_pool_active_tier", &["pool"],
        PoolState(PoolFact::ActiveTier),
        "Number of the tier in use."),
    counter("evenkeel_failovers_total", &["pool", "cause"],
        PoolState(PoolFact::Moves),
        "Changes of the tier in use, or of an exclusive pool's backend, by what caused them."),
    gauge("evenkeel_pool_alarm", &["pool", "reason"],
        PoolState(PoolFact::Alarms),
        "1 while an operator should look at the pool's tiers, by reason, else 0."),
    counter("evenkeel_pool_requests_total", &["pool", "class"],
        PoolClasses(|c| &c.requests),
        "HTTP requests by the status class that the client got; none: it left first."),
    gauge("evenkeel_pool_requests_in_progress", &["pool"],
        Pool(|c| c.in_progress.get()),
        "HTTP requests whose answer is not whole yet; what the retry budget is a share of."),
    counter("evenkeel_pool_streams_total", &["pool"],
        Pool(|c| c.streams.get()),
        "TCP streams."),
    histogram("evenkeel_pool_request_duration_seconds", &["pool"],
        PoolTimes(|c| &c.duration),
        "From a request's head to the last byte of its answer; TCP: a stream's whole life."),
    histogram("evenkeel_pool_connect_duration_seconds", &["pool"],
        PoolTimes(|c| &c.connect),
        "Time to make a connection to a backend."),
    histogram("evenkeel_pool_first_byte_duration_seconds", &["pool"],
        PoolTimes(|c| &c.first_byte),
        "From a request's head to the head of the backend's answer."),
    counter("evenkeel_pool_failures_total", &["pool", "cause"],
        PoolFailures(|c| &c.failures),
        "Attempts that failed at a backend, by cause."),
    counter("evenkeel_pool_retries_total", &["pool", "cause"],
        PoolRetries(|c| (&c.retries, &c.retries_by_status)),
        "Further attempts, by the cause that the attempt before failed of, or the status it brought."),
    counter("evenkeel_pool_retry_budget_exhausted_total", &["pool"],
        Pool(|c| c.retry_budget_exhausted.get()),
        "Retries and hedges that the budget refused."),
    counter("evenkeel_pool_hedges_total", &["pool"],
        Pool(|c| c.hedges.get()),
        "Second copies of requests, sent because no answer had begun."),
    counter("evenkeel_pool_hedges_won_total", &["pool"],
        Pool(|c| c.hedges_won.get()),
        "Hedges whose answer was the first."),
    counter("evenkeel_pool_masked_failures_total", &["pool"],
        Pool(|c| c.masked.get()),
        "HTTP requests that succeeded only thanks to a retry, a hedge or a wait in the queue."),
    counter("evenkeel_pool_held_back_total", &["pool"],
        Pool(|c| c.held_back.get()),
        "Answers that were held back, for 50 ms at most, until they were whole."),
    gauge("evenkeel_pool_held_back_bytes", &["pool"],
        Pool(|c| c.held_back_bytes.get()),
        "Declared length of the answers that are held back now."),
    counter("evenkeel_pool_queued_total", &["pool"],
        Pool(|c| c.queued.get()),
        "Requests and streams that had to wait in the queue."),
    gauge("evenkeel_pool_queue_length", &["pool"],
        Pool(|c| c.waiting.get()),
        "Requests and streams that wait in the queue now."),
    counter("evenkeel_pool_none_serving_total", &["pool"],
        Pool(|c| c.none_serving.get()),
        "Picks that found no serving backend."),
    histogram("evenkeel_probe_duration_seconds", &["pool"],
        ProbeTimes(|c| &c.duration),
        "Time of a probe, over the backends that the pool has now."),
    counter("evenkeel_probes_not_made_total", &["pool"],
        PoolProbe(|c| c.not_made.get()),
        "Probes that found no socket, port or memory here; they say nothing of the backend."),
    counter("evenkeel_probes_waited_total", &["pool"],
        PoolProbe(|c| c.waited.get()),
        "Probes that had to wait because so many were running."),
    // Backends
    gauge("evenkeel_backend_serving", &["pool", "backend"],
        BackendState(B::Serving),
        "1 if no reason keeps it from serving, else 0."),
    gauge("evenkeel_backend_reason", &["pool", "backend", "reason"],
        BackendState(B::Reasons),
        "1 for each reason that keeps it from serving; no series for one that does not."),
    gauge("evenkeel_backend_weight", &["pool", "backend"],
        BackendState(B::Weight),
        "Configured weight; 0 takes no traffic."),
    gauge("evenkeel_backend_in_flight", &["pool", "backend"],
        BackendState(B::InFlight),
        "Requests and streams in progress."),
    gauge("evenkeel_backend_open_connections", &["pool", "backend"],
        Backend(|c| c.open.get()),
        "Connections open to it now, idle ones included."),
    counter("evenkeel_backend_connections_total", &["pool", "backend"],
        Backend(|c| c.connects.get()),
        "Connections made to it."),
    counter("evenkeel_backend_requests_total", &["pool", "backend", "class"],
        BackendClasses(|c| &c.requests),
        "Its answers by status class."),
    counter("evenkeel_backend_failures_total", &["pool", "backend", "cause"],
        BackendCauses(|c| &c.failures),
        "Attempts that failed at it, by cause; a series begins with the first failure."),
    counter("evenkeel_backend_received_bytes_total", &["pool", "backend"],
        Backend(|c| c.received_bytes.get()),
        "Bytes received from it."),
    counter("evenkeel_backend_sent_bytes_total", &["pool", "backend"],
        Backend(|c| c.sent_bytes.get()),
        "Bytes sent to it."),
    counter("evenkeel_backend_probes_total", &["pool", "backend", "result"],
        BackendProbes(|c, verdict| match verdict {
            Verdict::Passed => c.passed.get(),
            Verdict::Failed => c.failed.get(),
            Verdict::WrongRole => c.wrong_role.get(),
        }),
        "Probes of its health check, by result (passed, failed, wrong_role)."),
    counter("evenkeel_backend_probe_failures_total", &["pool", "backend", "why"],
        BackendProbeFailures(|c| &c.failures),
        "Failed probes by what was wrong; a series begins with the first failure."),
    counter("evenkeel_backend_state_changes_total", &["pool", "backend"],
        BackendProbe(|c| c.changes.get()),
        "Changes of its state by the health check, either way."),
    counter("evenkeel_backend_ejections_total", &["pool", "backend", "cause"],
        BackendEjections(|c| &c.ejections),
        "Ejections for what traffic says of it, by cause; a series begins with the first."),
    counter("evenkeel_backend_trials_total", &["pool", "backend", "result"],
        BackendTrials(|c| [&c.trials_passed, &c.trials_failed]),
        "Single requests that tried it while it was ejected, by result (passed, failed)."),
    gauge("evenkeel_backend_disagreement", &["pool", "backend"],
        BackendDisagreement(|c| c.disagreement.get()),
        "1 while its probes and its traffic have disagreed for 30 s or longer, else 0."),
    // Limits
    counter("evenkeel_limit_hits_total", &["limit"],
        Process(P::LimitHits),
        "How often a limit was hit; request_head counts too many headers as well."),
    gauge("evenkeel_limit", &["limit"],
        Process(P::LimitValues),
        "The limit itself, in connections, bytes, headers, keys, files or pipes; no series if it is off."),
    gauge("evenkeel_open_connections", &[],
        Process(P::OpenConnections),
        "Client connections open now, whole process; what limits.connections bounds."),
    // Configuration
    counter("evenkeel_config_reloads_total", &["result"],
        Process(P::Reloads),
        "Loads of the configuration by result (success, failure); the start is the first."),
    gauge("evenkeel_config_last_reload_successful", &[],
        Process(P::LastReloadSuccessful),
        "1 if the last load of the configuration succeeded, else 0."),
    gauge("evenkeel_config_last_reload_success_timestamp_seconds", &[],
        Process(P::LastReloadSuccessTime),
        "When the configuration in force was loaded, in seconds since 1970."),
    gauge("evenkeel_config_generation", &[],
        Process(P::Generation),
        "Number of the snapshot in force; counts up with each change."),
    gauge("evenkeel_config_changes_awaiting_restart", &[],
        Process(P::AwaitingRestart),
        "Changes of the file that only a restart can bring into force."),
    counter("evenkeel_certificate_reloads_total", &["result"],
        Process(P::CertificateReloads),
        "Files of certificates, keys and lists that changed, by result (success, failure)."),
    // The process
    gauge("evenkeel_build_info", &["version"],
        Process(P::BuildInfo),
        "Always 1; the version is in the label."),
    gauge("evenkeel_ready", &[],
        Process(P::Ready),
        "1 if /readyz says 200, else 0."),
    gauge("evenkeel_phase", &["phase"],
        Process(P::Phase),
        "1 for the phase that the process is in, 0 for the others."),
    gauge("evenkeel_workers", &[],
        Process(P::Workers),
        "Data threads."),
    gauge("evenkeel_worker_open_connections", &["worker"],
        Process(P::WorkerConnections),
        "Client connections that a data thread has open; each new one goes to whichever has fewest."),
    counter("evenkeel_worker_panics_total", &[],
        Process(P::WorkerPanics),
        "Panics caught; each cost one connection and is a bug to report."),
    counter("evenkeel_connections_cut_total", &[],
        Process(P::ConnectionsCut),
        "Connections cut at the end of a drain."),
    gauge("evenkeel_admin_scrape_duration_seconds", &[],
        Process(P::ScrapeSeconds),
        "Control thread's time for the scrape before this one."),
    counter("process_cpu_seconds_total", &[],
        Process(P::CpuSeconds),
        "User and system CPU time, all threads."),
    gauge("process_resident_memory_bytes", &[],
        Process(P::ResidentBytes),
        "Resident memory."),
    gauge("process_open_fds", &[],
        Process(P::OpenFiles),
        "Open file descriptors."),
    gauge("process_max_fds", &[],
        Process(P::MaxFiles),
        "Limit on open file descriptors."),
    gauge("process_start_time_seconds", &[],
        Process(P::StartTime),
        "When the process started, in seconds since 1970."),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_labels_keep_the_conventions() {
        let labels = ["listener", "pool", "backend", "class", "cause", "reason", "result", "why"];
        let mut seen = HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(seen.insert(name), "{name} is named twice");
            assert!(name.starts_with("evenkeel_") || name.starts_with("process_"), "{name}");
            assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            if metric.kind == Kind::Histogram {
                assert!(name.ends_with("_seconds"), "{name}");
            }
            for label in metric.labels {
                let known = labels.contains(label)
                    || ["limit", "version", "phase", "worker", "name"].contains(label);
                assert!(known, "{name}: the label {label} is not a known closed set");
            }
            assert!(metric.help.ends_with('.'), "{name}: the help is a sentence");
        }
    }

    #[test]
    fn the_document_lists_exactly_these_metrics() {
        let document = include_str!("../../docs/metrics.md");
        let is_metric =
            |line: &&str| line.starts_with("| `evenkeel_") || line.starts_with("| `process_");
        let mut rows = document.lines().filter(is_metric);
        for metric in ALL {
            let Metric { name, kind, help, .. } = metric;
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let expected =
                format!("| `{name}` | {} | {} | {help} |", kind.label(), labels.join(", "));
            let expected = expected.replace("|  |", "| |");
            let row = rows.next().unwrap_or_default();
            assert!(row.starts_with(&expected), "docs/metrics.md\n wants {expected}\n has   {row}");
        }
        assert_eq!(rows.next(), None, "docs/metrics.md lists a metric that does not exist");
    }
}
