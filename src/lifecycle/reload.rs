//! Puts a configuration in force: the first one, and each new one while the process runs.
//!
//! All or nothing: the file is loaded, names are resolved, new sockets are bound and the whole
//! snapshot is built before anything changes. New backends have their first verdict before the swap.

use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinError;
use tokio::time::timeout;

use super::publish::{BuildError, Publisher};
use super::renew::Renewal;
use super::resolve::{Addresses, ResolveError};
use super::sockets::Sockets;
use super::status::Status;
use crate::acme::task as acme;
use crate::config::diff::Diff;
use crate::config::model::{Config, Name};
use crate::config::{self, LoadError, Loaded};
use crate::flow::thread::Command;
use crate::health::task::Health;
use crate::health::task::outlier::Outliers;
use crate::health::task::standing::Standing;
use crate::listen::{BindError, Gate};
use crate::observe::log;
use crate::snapshot::Current;

/// How long a reload waits at most for workers to let go the sockets that it removed.
const LET_GO: Duration = Duration::from_secs(1);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    /// A text in memory, with a name for reports.
    Text {
        name: String,
        text: String,
    },
}

impl Source {
    /// `before` is what is in force, if anything is.
    pub fn load(&self, before: Option<&Config>) -> Result<Loaded, LoadError> {
        let env = |name: &str| std::env::var(name).ok();
        match self {
            Source::File(path) => config::load_after(path, &env, before),
            Source::Text { name, text } => {
                config::parse_after(text, name, ".".as_ref(), &env, before)
            }
        }
    }
}

/// Why a configuration could not be put in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{0} (`evenkeel check` shows every problem in full)")]
    Load(#[from] LoadError),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Acme(#[from] acme::StateError),
    #[error("the configuration was not read to its end: {0}")]
    Reading(#[from] JoinError),
}

/// What a configuration is put in force with.
#[derive(Debug)]
pub struct Applier {
    pub source: Source,
    pub current: Arc<Current>,
    pub status: Arc<Status>,
    pub gate: Arc<Gate>,
    pub publisher: Publisher,
    pub sockets: Sockets,
    pub health: Health,
    pub outliers: Outliers,
    pub standing: Rc<Standing>,
    pub acme: acme::Names,
    pub workers: Vec<UnboundedSender<Command>>,
    pub addresses: Addresses,
    pub renewal: Renewal,
}

impl Applier {
    /// Loads the file again and puts it in force; if that fails nothing changes but the status.
    pub async fn reload(&mut self) {
        // The files may be on a disk that hangs: that is for another thread to wait for.
        let (source, before) = (self.source.clone(), self.current.load_full().config.clone());
        let load = tokio::task::spawn_blocking(move || source.load(Some(&before)));
        let result = match load.await {
            Ok(Ok(loaded)) => {
                warn_of(&loaded);
                let kept = loaded.kept_certificates;
                self.status.certificates.failed.fetch_add(kept.len() as u64, Ordering::Relaxed);
                self.renewal.was_told(kept);
                self.apply(loaded.config).await
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(error.into()),
        };
        let mut status = self.status.reload();
        match result {
            Ok(diff) => {
                status.succeeded += 1;
                status.loaded_at = SystemTime::now();
                status.error = None;
                status.needs_restart = diff.needs_restart.iter().map(ToString::to_string).collect();
                let generation = self.current.load().generation;
                tracing::info!(generation, changes = %diff, "configuration reloaded");
                if !diff.needs_restart.is_empty() {
                    let keys = diff.needs_restart.join(", ");
                    tracing::warn!(keys, "these changes wait for a restart");
                }
            }
            Err(error) => {
                status.failed += 1;
                tracing::error!(%error, "configuration not reloaded; the old one goes on");
                status.error = Some(error.to_string());
            }
        }
    }

    /// Puts `config` in force, whole. What only a restart can change keeps its old value.
    pub async fn apply(&mut self, mut config: Config) -> Result<Diff, ApplyError> {
        let before = self.current.load_full();
        let diff = Diff::between(&before.config, &config);
        config.workers = before.config.workers;
        config.admin.listen = before.config.admin.listen;
        let addresses = Addresses::find(&config, &self.addresses).await?;
        let fresh = self.sockets.bind(&config)?;
        let snapshot = self.publisher.build(config, &addresses)?;
        let kept = self.acme.prepare(&snapshot).await?;
        self.health.apply(&snapshot.pools).wait().await;
        self.standing.apply(&snapshot.pools);
        self.outliers.apply(&snapshot.pools);
        self.acme.apply(&snapshot, kept);
        self.publisher.publish(snapshot.clone());
        self.addresses = addresses;
        self.gate.recheck();
        log::set(snapshot.config.log);
        let mut released = self.sockets.adopt(&snapshot.config, fresh, &self.workers);
        let kept: HashSet<&Name> = snapshot.config.listeners.iter().map(|l| &l.name).collect();
        for gone in before.listeners.iter().map(|l| &l.config.name).filter(|n| !kept.contains(n)) {
            for worker in &self.workers {
                let _ = worker.send(Command::Retire(gone.clone(), before.config.drain_timeout));
            }
        }
        // The next reload may want an address that this one gave up.
        let _ = timeout(LET_GO, released.recv()).await;
        Ok(diff)
    }
}

/// Logs what is allowed but hardly meant.
pub fn warn_of(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}
