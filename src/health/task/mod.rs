//! The glue of active health checks: one probe loop per backend, started, kept and stopped as the
//! configuration says. Runs on the control thread alone.
//!
//! Called by `lifecycle` before each swap with the pools of the snapshot to come. Decides nothing of
//! states (`record`, `hysteresis`) or times (`schedule`). Loops (`probing`) end with their [`Health`].

pub mod operate;
pub mod outlier;
mod probing;
mod record;
pub mod standing;
mod told;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use probing::Probing;
use record::Record;
use standing::Standing;

use super::hysteresis::Thresholds;
use super::probe::{Network, Prober};
use super::schedule::Schedule;
use crate::config::model::HealthCheck;
use crate::pool::{BackendState, Pool};

/// Probes that may run at once: bounds the file descriptors that probes take, and the burst at start.
///
/// Measured with 10,000 good backends at the default interval: 80 µs of CPU an HTTP probe, 60 µs a TCP
/// one, so a bit under half of a core, and 0.6 s for the first verdicts. Probes wait for each other at
/// the start, and with a thousand backends that do not answer at all; `ProbeCells::waited` counts
/// that, and detection gets slower by it. What waits beyond its time-out at the start is `initial`.
pub const PROBES_AT_ONCE: usize = 1024;

/// How long after its probes stopped a backend's state is still taken for true: long enough for a
/// reload that is abandoned, too short for a check that comes back after an hour.
const REMEMBERED: Duration = Duration::from_secs(60);

/// All probe loops. Dropping it stops them at once.
pub struct Health<P = Network> {
    prober: Rc<P>,
    standing: Rc<Standing>,
    slots: Rc<Semaphore>,
    rng: fastrand::Rng,
    /// By `BackendState::id`: every backend that is in use, probed or not.
    known: HashMap<u64, Known>,
    /// Counts the calls of `apply`.
    round: u64,
}

struct Known {
    backend: Arc<BackendState>,
    record: Option<Rc<RefCell<Record>>>,
    running: Option<Running>,
    /// When its probes were last stopped.
    stopped: Instant,
    /// The last `apply` that had it.
    round: u64,
}

struct Running {
    check: Rc<HealthCheck>,
    name: Option<ServerName<'static>>,
    _loop: Stop,
}

/// Ends a loop when dropped.
#[derive(Debug)]
struct Stop(JoinHandle<()>);

impl Stop {
    /// Until it has ended by itself.
    async fn ended(mut self) {
        // It fails only where it panicked, which was told.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The first verdicts of the backends that an `apply` added.
#[derive(Debug)]
#[must_use = "the swap is to wait for it"]
pub struct Settled(mpsc::Receiver<()>);

impl Settled {
    /// Comes back when each has one, or when what counts in its place does: after the longest
    /// `timeout` of their checks (and 50 ms). At once if none was added.
    pub async fn wait(mut self) {
        // Nothing is ever sent: each backend holds a sender until it has settled.
        while self.0.recv().await.is_some() {}
    }
}

impl Health<Network> {
    /// Probes over the network, and tells `standing` what it finds.
    pub fn new(standing: Rc<Standing>) -> Health<Network> {
        Health::with(Network, fastrand::Rng::new(), standing)
    }
}

impl<P: Prober> Health<P> {
    /// With another way to probe, for tests.
    pub fn with(prober: P, rng: fastrand::Rng, standing: Rc<Standing>) -> Health<P> {
        let slots = Rc::new(Semaphore::new(PROBES_AT_ONCE));
        Health { prober: Rc::new(prober), standing, slots, rng, known: HashMap::new(), round: 0 }
    }

    /// Makes the loops fit `pools`, those of the snapshot to come: new backends are probed at once,
    /// loops of removed ones stop, those whose check changed start anew with all they knew. Called
    /// again with the old pools, it undoes what it did. Must be called within a local runtime.
    pub fn apply(&mut self, pools: &[Arc<Pool>]) -> Settled {
        let (waiting, settled) = mpsc::channel(1);
        self.round += 1;
        let mut starts = Vec::new();
        for pool in pools {
            let check = pool.config.health_check.clone().map(Rc::new);
            for member in &pool.members {
                let round = self.round;
                let in_use = self.known.get(&member.state.id).is_some_and(|k| k.round + 1 == round);
                let known = self.known.entry(member.state.id).or_insert_with(|| Known {
                    backend: member.state.clone(),
                    record: None,
                    running: None,
                    stopped: Instant::now(),
                    round,
                });
                known.round = round;
                let Some(check) = &check else {
                    known.uncheck();
                    continue;
                };
                let name = &member.probed_as;
                let is = |running: &Running| running.check == *check && running.name == *name;
                if !known.running.as_ref().is_some_and(is) {
                    known.prepare(in_use, &self.standing);
                    starts.push((member.state.id, check.clone(), name.clone()));
                }
                if let Some(record) = &known.record {
                    record.borrow_mut().wait(waiting.clone());
                }
            }
        }
        let of = starts.len();
        for (place, (id, check, name)) in starts.into_iter().enumerate() {
            self.start(id, (check, name), (place, of));
        }
        self.forget();
        Settled(settled)
    }

    /// Stops all probes at once. What they found stays as it is.
    pub fn stop(&mut self) {
        for known in self.known.values_mut() {
            known.stop();
        }
    }

    /// Number `place` of `of`.
    fn start(
        &mut self,
        id: u64,
        (check, name): (Rc<HealthCheck>, Option<ServerName<'static>>),
        (place, of): (usize, usize),
    ) {
        let Some(known) = self.known.get_mut(&id) else { return };
        let Some(record) = &known.record else { return };
        let probing = Probing {
            prober: self.prober.clone(),
            slots: self.slots.clone(),
            record: record.clone(),
            backend: known.backend.clone(),
            thresholds: Thresholds::from(&*check),
            schedule: Schedule::from(&*check),
            check: check.clone(),
            name: name.clone(),
            rng: self.rng.fork(),
        };
        let task = tokio::task::spawn_local(probing.run(place, of));
        known.running = Some(Running { check, name, _loop: Stop(task) });
    }

    /// Stops the loops of backends that are in no pool any more, and drops what is known of those that
    /// nobody else holds: no snapshot, no connection.
    fn forget(&mut self) {
        let round = self.round;
        self.known.retain(|_, known| {
            if known.round != round {
                known.stop();
            }
            let own = 1 + usize::from(known.record.is_some());
            known.round == round || Arc::strong_count(&known.backend) > own
        });
    }
}

impl Known {
    fn stop(&mut self) {
        if self.running.take().is_some() {
            self.stopped = Instant::now();
        }
        if let Some(record) = &self.record {
            record.borrow_mut().stopped();
        }
    }

    /// Its pool has no health check (any more).
    fn uncheck(&mut self) {
        self.stop();
        if let Some(record) = &self.record {
            record.borrow().clear_bits();
        }
    }

    /// Before its loop starts: takes up what was known, unless that is too old to be true.
    fn prepare(&mut self, in_use: bool, standing: &Rc<Standing>) {
        let fresh = self.running.is_some() || self.stopped.elapsed() < REMEMBERED;
        match &self.record {
            Some(record) if fresh => record.borrow().write_bits("its health check goes on"),
            _ => {
                let record = Record::new(self.backend.clone(), standing.clone(), in_use);
                self.record = Some(Rc::new(RefCell::new(record)));
            }
        }
    }
}

impl<P> fmt::Debug for Health<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let probed = self.known.values().filter(|known| known.running.is_some()).count();
        f.debug_struct("Health")
            .field("backends", &self.known.len())
            .field("probed", &probed)
            .finish()
    }
}
