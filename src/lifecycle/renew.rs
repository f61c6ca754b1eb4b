//! Certificates that change while the process runs: takes them up without a reload, and warns of those
//! that run out.
//!
//! The files are looked at about once a second, on a thread that may wait: a file system that hangs
//! holds up the next look, and nothing else. What was found is put in force here, on the control
//! thread, as a new snapshot of the same configuration otherwise; not if that has changed meanwhile.

mod ends;
mod files;
mod reader;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

use super::reload::Applier;
use super::status::{CertificateReloads, Status};
use crate::acme::task::Found;
use crate::config::model::Config;
use ends::Ends;
use files::Files;
use reader::News;

/// A look that takes longer is told of: nothing is taken up until it has ended.
const SLOW: Duration = Duration::from_secs(10);

/// What was seen of the files, and what was said of them.
#[derive(Debug, Default)]
pub struct Renewal {
    /// None of it while a look is under way, which has it.
    files: Files,
    under_way: Option<UnderWay>,
    /// What a load has found wrong, for the next look.
    told: Vec<(PathBuf, String)>,
    ends: Ends,
}

/// A look that has not ended.
#[derive(Debug)]
struct UnderWay {
    handle: JoinHandle<Look>,
    of: Arc<Config>,
    since: Instant,
    told: bool,
}

/// What came of a look.
#[derive(Debug)]
pub struct Look {
    /// What was in force when it began.
    of: Arc<Config>,
    files: Files,
    /// The same with what has changed on disk; `None` if nothing has.
    found: Option<(Config, News)>,
}

impl Applier {
    /// To be called about every second: begins another look, if the last one has ended.
    pub fn look_after_certificates(&mut self) {
        let current = self.current.load_full();
        let now = Instant::now();
        for server in current.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            server.rotate_tickets(now);
        }
        self.renewal.begin(&current.config, &self.status, now);
        self.renewal.ends.warn(&current, SystemTime::now());
    }

    /// Puts in force what was found.
    pub fn take_up(&mut self, look: Look) {
        let before = self.current.load_full();
        let mut tally = Tally::of(&self.status);
        let Some((renewed, news)) = self.renewal.end(look, &before.config) else { return };
        match self.publisher.build(renewed, &self.addresses) {
            Ok(snapshot) => {
                // Probes go by what is renewed as well. No backend is new: nobody has to wait for a
                // first verdict.
                drop(self.health.apply(&snapshot.pools));
                self.standing.apply(&snapshot.pools);
                self.outliers.apply(&snapshot.pools);
                if acme_differs(&before.config, &snapshot.config) {
                    self.acme.apply(&snapshot, Found::default());
                }
                let config = snapshot.config.clone();
                self.publisher.publish(snapshot);
                self.renewal.files.published(config, &news, &mut tally);
            }
            Err(error) => self.renewal.files.refused(&error.to_string(), &mut tally),
        }
    }
}

/// Whether what certificates are ordered by is another. The listeners are the same.
fn acme_differs(before: &Config, now: &Config) -> bool {
    before.listeners.iter().zip(&now.listeners).any(|(before, now)| before.acme() != now.acme())
}

impl Renewal {
    /// What a load has found wrong, and told, is no news.
    pub fn was_told(&mut self, faults: impl IntoIterator<Item = (PathBuf, String)>) {
        self.told.extend(faults);
    }

    /// Comes back when the look that is under way has ended; never if there is none.
    pub async fn looked(&mut self) -> Look {
        loop {
            match &mut self.under_way {
                None => pending::<()>().await,
                Some(look) => {
                    let look = (&mut look.handle).await;
                    self.under_way = None;
                    // One that panicked, which was told, has lost what was known: the next reads
                    // everything.
                    if let Ok(look) = look {
                        return look;
                    }
                }
            }
        }
    }

    /// A look that hangs over a file of a configuration that is in force no more is left to itself: it
    /// has its thread, one for each such reload.
    fn begin(&mut self, config: &Arc<Config>, status: &Arc<Status>, now: Instant) {
        self.under_way.take_if(|look| !Arc::ptr_eq(&look.of, config));
        if let Some(look) = &mut self.under_way {
            if look.is_news(now) {
                let help = "nothing is taken up until it answers, or a reload names no file there";
                tracing::warn!(help, "certificates cannot be looked at: a file system hangs");
            }
            return;
        }
        if !files::are_named(config) {
            return;
        }
        let mut files = std::mem::take(&mut self.files);
        files.were_told(self.told.drain(..));
        let (of, status) = (config.clone(), status.clone());
        let handle = tokio::task::spawn_blocking(move || {
            let found = files.look(&of, &mut Tally::of(&status));
            Look { of, files, found }
        });
        let of = config.clone();
        self.under_way = Some(UnderWay { handle, of, since: now, told: false });
    }

    /// What was found, if it is of what is in force.
    fn end(&mut self, look: Look, in_force: &Arc<Config>) -> Option<(Config, News)> {
        self.files = look.files;
        look.found.filter(|_| Arc::ptr_eq(&look.of, in_force))
    }
}

impl UnderWay {
    /// Once, when it has taken long.
    fn is_news(&mut self, now: Instant) -> bool {
        let slow = now.duration_since(self.since) >= SLOW;
        slow && !std::mem::replace(&mut self.told, slow)
    }
}

/// Counts what was taken up and what was not.
#[derive(Debug)]
struct Tally<'a> {
    status: &'a CertificateReloads,
}

impl<'a> Tally<'a> {
    fn of(status: &'a Status) -> Tally<'a> {
        Tally { status: &status.certificates }
    }

    fn succeeded(&mut self) {
        self.status.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&mut self) {
        self.status.failed.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
