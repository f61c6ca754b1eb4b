//! One name that a certificate is ordered for: who wants it, what is held for it, and what is told of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::certificate;
use super::disk::{Disk, Slots};
use super::machine::Machine;
use super::order::{OrderError, Way};
use super::store::Store;
use crate::config::model::{self as config, Acme, Certificate};
use crate::lifecycle::status::{AcmeState, Status};
use crate::observe::cells::{Counter, ListenerState};
use crate::pool::balance::hash::hash_bytes;
use crate::snapshot::Snapshot;
use crate::tls::certificates;

/// What makes two listeners' certificates one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub state_dir: PathBuf,
    pub directory: String,
    pub domain: String,
}

impl Key {
    pub fn of(acme: &Acme, domain: &str) -> Key {
        let (state_dir, directory) = (acme.state_dir.clone(), acme.directory.clone());
        Key { state_dir, directory, domain: domain.to_owned() }
    }

    pub fn store(&self) -> Store {
        Store::new(&self.state_dir, &self.directory)
    }
}

/// A listener that wants certificates.
#[derive(Debug)]
pub struct Wanted {
    pub acme: Acme,
    pub ways: &'static [Way],
    pub listener: config::Name,
    pub state: Arc<ListenerState>,
    /// What there is for it, by name.
    pub held: RefCell<BTreeMap<String, Certificate>>,
}

/// One name, with what is held for it.
pub struct Name {
    pub domain: String,
    pub disk: Disk,
    /// Whoever wants it, the first one first; never empty.
    pub wanted: RefCell<Vec<Rc<Wanted>>>,
    machine: RefCell<Machine>,
    held: RefCell<Option<Certificate>>,
    /// Tells the kept file as it was last read, or written.
    seen: Cell<u64>,
    /// Why it could not be read, when it was last told.
    unread: RefCell<Option<String>>,
    pub nudged: Notify,
}

impl Wanted {
    /// From the next handshake on. The listener is whatever this snapshot has of its name: a new one,
    /// made for another reason, has from the old one what that was shown.
    pub fn show(&self, snapshot: &Snapshot) {
        let mut listeners = snapshot.listeners.iter();
        let listener = listeners.find(|listener| listener.config.name == self.listener);
        if let Some(server) = listener.and_then(|listener| listener.tls.as_ref()) {
            let held = self.held.borrow();
            // The first name's is the default, if the listener has no other.
            let list = self.acme.domains.iter().filter_map(|domain| held.get(domain).cloned());
            server.issue(list.collect());
        }
    }
}

impl Name {
    pub fn new(key: &Key, wanted: Vec<Rc<Wanted>>, slots: &Slots) -> Name {
        Name {
            domain: key.domain.clone(),
            disk: Disk::new(key.store(), slots.clone()),
            wanted: RefCell::new(wanted),
            machine: RefCell::new(Machine::new(None, SystemTime::now(), fastrand::f64())),
            held: RefCell::new(None),
            seen: Cell::new(0),
            unread: RefCell::default(),
            nudged: Notify::new(),
        }
    }

    /// Takes what is kept in the state directory, if it is better than what is held: true then, and it
    /// is to be shown.
    pub async fn look(&self) -> bool {
        let domain = self.domain.clone();
        let read = self.disk.run(move |store| store.certificate(&domain)).await;
        self.weigh(read)
    }

    /// The same of what was read there.
    pub fn weigh(&self, read: io::Result<Option<Vec<u8>>>) -> bool {
        let path = self.disk.store.certificate_path(&self.domain);
        if let Some(error) = self.news_of(&read) {
            tracing::warn!(path = %path.display(), error, "a kept certificate cannot be read");
        }
        let Ok(Some(pem)) = read else { return false };
        if self.seen.replace(hash_bytes(&pem)) == hash_bytes(&pem) {
            return false;
        }
        let read = certificates::of_text(&pem, &path).map_err(|error| error.to_string());
        match read.and_then(|read| certificate::fit(read, &self.domain, SystemTime::now())) {
            Ok(found) => {
                let validity = certificate::validity_of(&found);
                let later = |held| validity.replaces(&certificate::validity_of(held));
                let better = self.held.borrow().as_ref().is_none_or(later);
                if better {
                    self.machine.borrow_mut().found(validity, fastrand::f64());
                    tracing::info!(domain = self.domain, "a kept certificate serves");
                    self.hold(found);
                }
                better
            }
            Err(why) => {
                tracing::warn!(path = %path.display(), %why, "a kept certificate is of no use");
                false
            }
        }
    }

    /// It is looked for each minute; what is wrong is told once.
    fn news_of<T>(&self, read: &io::Result<T>) -> Option<String> {
        let error = read.as_ref().err().map(ToString::to_string);
        let before = self.unread.replace(error.clone());
        error.filter(|error| before.as_ref() != Some(error))
    }

    fn hold(&self, certificate: Certificate) {
        for one in &*self.wanted.borrow() {
            one.held.borrow_mut().insert(self.domain.clone(), certificate.clone());
        }
        self.held.replace(Some(certificate));
    }

    pub fn show(&self, current: &Snapshot) {
        self.wanted.borrow().iter().for_each(|one| one.show(current));
    }

    /// For others than before, who may have mended what failed.
    pub fn serve(&self, wanted: Vec<Rc<Wanted>>) {
        if let Some(held) = &*self.held.borrow() {
            for one in &wanted {
                one.held.borrow_mut().insert(self.domain.clone(), held.clone());
            }
        }
        self.wanted.replace(wanted);
        self.machine.borrow_mut().nudge(SystemTime::now());
        self.nudged.notify_one();
    }

    pub fn tell(&self, status: &Status, error: Option<String>) {
        let machine = self.machine.borrow();
        let state = AcmeState {
            not_after: machine.held().map(|held| held.not_after),
            due: machine.due(),
            error,
        };
        status.acme().insert(self.domain.clone(), state);
    }

    pub fn wait(&self) -> Duration {
        let now = SystemTime::now();
        let mut machine = self.machine.borrow_mut();
        machine.rebase(now);
        machine.wait(now)
    }

    pub fn got(&self, got: Certificate, current: &Snapshot) {
        let now = SystemTime::now();
        self.machine.borrow_mut().got(certificate::validity_of(&got), now, fastrand::f64());
        let days = got.not_after.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        tracing::info!(domain = self.domain, days, "a new certificate serves");
        self.count(|state| &state.acme_succeeded);
        self.hold(got);
        self.show(current);
    }

    pub fn failed(&self, error: &OrderError) {
        let now = SystemTime::now();
        let mut machine = self.machine.borrow_mut();
        machine.failed(error.failure, now, fastrand::f64());
        let (failures, wait) = (machine.failures(), machine.wait(now).as_secs());
        let left = machine.held().and_then(|held| held.not_after.duration_since(now).ok());
        match left {
            Some(left) => tracing::warn!(
                domain = self.domain, %error, failures, retry_seconds = wait,
                days_left = left.as_secs() / 86_400,
                "no new certificate; the old one is kept"
            ),
            None => tracing::error!(
                domain = self.domain, %error, failures, retry_seconds = wait,
                "no certificate, and no old one that is good"
            ),
        }
        self.count(|state| &state.acme_failed);
    }

    fn count(&self, which: impl Fn(&ListenerState) -> &Counter) {
        for one in &*self.wanted.borrow() {
            which(&one.state).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_file_cannot_be_read_is_told_once() {
        let (state_dir, directory) = ("/nowhere".into(), "https://acme.example/dir".to_owned());
        let key = Key { state_dir, directory, domain: "a.example".to_owned() };
        let name = Name::new(&key, Vec::new(), &Slots::default());
        let mut told = Vec::new();
        for read in [Err("stale"), Err("stale"), Err("denied"), Ok(()), Ok(()), Err("denied")] {
            told.extend(name.news_of(&read.map_err(io::Error::other)));
        }
        assert_eq!(told, ["stale", "denied", "denied"]);
    }
}
