//! The loop of one backend: probe, judge, pause, over and over, until its [`super::Health`] drops it.
//!
//! Bounds each probe in time and all of them in number. What a verdict means is `record`'s to say, when
//! to probe next `schedule`'s.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::record::Record;
use crate::config::model::HealthCheck;
use crate::health::hysteresis::Thresholds;
use crate::health::probe::{Failure, Prober, Verdict};
use crate::health::schedule::Schedule;
use crate::pool::BackendState;

/// What a probe may take beyond its time-out before it is dropped, and a first verdict beyond that of
/// its probe before `initial` counts.
const GRACE: Duration = Duration::from_millis(50);

/// What a loop works with.
pub(super) struct Probing<P> {
    pub prober: Rc<P>,
    pub slots: Rc<Semaphore>,
    pub record: Rc<RefCell<Record>>,
    pub backend: Arc<BackendState>,
    pub check: Rc<HealthCheck>,
    /// What the backend has to prove that it is, where probes go over TLS.
    pub name: Option<ServerName<'static>>,
    pub thresholds: Thresholds,
    pub schedule: Schedule,
    pub rng: fastrand::Rng,
}

impl<P: Prober> Probing<P> {
    /// Number `place` of `of` loops that begin now. Never ends by itself.
    pub async fn run(mut self, place: usize, of: usize) {
        if self.record.borrow().settling() {
            self.settle().await;
        }
        let mut pause = match self.record.borrow().unsettled() {
            true => self.schedule.pause(true, self.rng.f64()),
            false => self.schedule.spread(place, of, self.rng.f64()),
        };
        loop {
            self.pause(pause).await;
            self.probe().await;
            let unsettled = self.record.borrow().unsettled();
            pause = self.schedule.pause(unsettled, self.rng.f64());
        }
    }

    /// Where roles are asked for, a pause is cut short while nothing of the pool serves: a replica may be
    /// promoted at any moment, and clients wait for it.
    async fn pause(&mut self, pause: Duration) {
        if !self.check.kind.tells_role() {
            return sleep(pause).await;
        }
        let end = Instant::now() + pause;
        loop {
            let slice = self.schedule.pause(true, self.rng.f64());
            sleep_until((Instant::now() + slice).min(end)).await;
            if Instant::now() >= end || self.record.borrow().is_awaited() {
                return;
            }
        }
    }

    /// The first verdict, for which somebody waits: `timeout` at most, then `initial` counts.
    async fn settle(&mut self) {
        let (record, check) = (self.record.clone(), self.check.clone());
        let mut first = Box::pin(async {
            loop {
                self.probe().await;
                if !self.record.borrow().settling() {
                    return;
                }
                sleep(self.schedule.pause(true, self.rng.f64())).await;
            }
        });
        tokio::select! {
            biased;
            () = &mut first => return,
            () = sleep(check.timeout + GRACE) => record.borrow_mut().assume(check.initial),
        }
        first.await;
    }

    /// One probe, begun when there is a slot, judged at its end.
    async fn probe(&mut self) {
        let _slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.backend.probes.waited.inc();
                // Never closed; were it, probing without a slot is better than not probing.
                match self.slots.acquire().await {
                    Ok(slot) => slot,
                    Err(_) => return,
                }
            }
        };
        let begun = Instant::now();
        let probe = self.prober.probe(&self.check, self.backend.addr, self.name.as_ref());
        let verdict = match timeout(self.check.timeout + GRACE, probe).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Fail(Failure::Timeout),
        };
        self.record.borrow_mut().judge(&verdict, begun.elapsed(), self.thresholds);
    }
}
