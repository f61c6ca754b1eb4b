//! The glue: a task for each name, started, kept and ended as the configuration says. Runs on the
//! control thread alone.
//!
//! Decides nothing of times (`machine`) or of what an order is (`order`). Tells the log, the metrics
//! and the status how it goes. A failure changes nothing but these: what is held goes on serving.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::certificate;
use super::challenges::Challenges;
use super::machine::Machine;
use super::order::{OrderError, Orderer, Way};
use super::store::Store;
use crate::config::model::{self as config, Acme, BindAddr, Certificate, Config, Mode};
use crate::lifecycle::status::{AcmeState, Status};
use crate::observe::cells::{Counter, ListenerState};
use crate::pool::balance::hash::hash_bytes;
use crate::snapshot::{Current, Listener, Snapshot};
use crate::tls::certificates;

/// Orders at once: a thousand new names shall not be a thousand connections.
const ORDERS_AT_ONCE: usize = 4;

/// How often the state directory is looked at for what another load balancer has brought, and the
/// wall clock for whether it has jumped.
const LOOK: Duration = Duration::from_secs(60);

/// Until a name is looked at again that another process orders for now.
const ORDERED_ELSEWHERE: Duration = Duration::from_secs(10);

/// A listener that wants certificates.
#[derive(Debug)]
struct Wanted {
    acme: Acme,
    ways: &'static [Way],
    listener: config::Name,
    state: Arc<ListenerState>,
    /// What there is for it, by name.
    held: RefCell<BTreeMap<String, Certificate>>,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "listeners.{listener}.tls.acme.state_dir: {} cannot be written to: {source} (evenkeel needs to \
     make and replace files there)", path.display()
)]
pub struct StateError {
    listener: config::Name,
    path: PathBuf,
    source: io::Error,
}

/// All names. Dropping it ends their tasks.
pub struct Names {
    shared: Rc<Shared>,
    known: HashMap<Key, Known>,
}

struct Shared {
    current: Arc<Current>,
    challenges: Arc<Challenges>,
    status: Arc<Status>,
    slots: Semaphore,
    accounts: Mutex<()>,
}

/// What makes two listeners' certificates one.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    state_dir: PathBuf,
    directory: String,
    domain: String,
}

struct Known {
    name: Rc<Name>,
    task: JoinHandle<()>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One name, with what is held for it.
struct Name {
    domain: String,
    store: Store,
    /// Whoever wants it, the first one first; never empty.
    wanted: RefCell<Vec<Rc<Wanted>>>,
    machine: RefCell<Machine>,
    held: RefCell<Option<Certificate>>,
    /// Tells the kept file as it was last read, or written.
    seen: Cell<u64>,
    nudged: Notify,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} names", self.known.len())
    }
}

/// How a listener's names are proved: as its users would reach it, and the other way if that fails.
fn ways(listener: &config::Listener, config: &Config) -> &'static [Way] {
    let is_plain = |l: &config::Listener| l.tls.is_none() && matches!(l.mode, Mode::Http { .. });
    let plain = config.listeners.iter().any(is_plain);
    let on_443 = |addr: &BindAddr| matches!(addr, BindAddr::Tcp(addr) if addr.port() == 443);
    match (plain, listener.bind.iter().any(on_443)) {
        (false, _) => &[Way::TlsAlpn],
        (true, true) => &[Way::TlsAlpn, Way::Http],
        (true, false) => &[Way::Http, Way::TlsAlpn],
    }
}

/// The listeners of a snapshot that want certificates, with what they say of it.
fn wanting(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Listener>, &Acme)> {
    snapshot.listeners.iter().filter_map(|listener| Some((listener, listener.config.acme()?)))
}

/// Makes the state directories that `snapshot` names, where they are missing.
pub fn prepare(snapshot: &Snapshot) -> Result<(), StateError> {
    for (listener, acme) in wanting(snapshot) {
        let store = Store::new(&acme.state_dir, &acme.directory);
        store.prepare().map_err(|source| StateError {
            listener: listener.config.name.clone(),
            path: acme.state_dir.clone(),
            source,
        })?;
    }
    Ok(())
}

impl Names {
    pub fn new(current: Arc<Current>, challenges: Arc<Challenges>, status: Arc<Status>) -> Names {
        let slots = Semaphore::new(ORDERS_AT_ONCE);
        let shared = Shared { current, challenges, status, slots, accounts: Mutex::new(()) };
        Names { shared: Rc::new(shared), known: HashMap::new() }
    }

    /// Takes up the names that the snapshot to come wants, and gives each of its listeners what is
    /// held for it; leaves those that nobody wants any more. What failed is tried again soon.
    pub fn apply(&mut self, snapshot: &Snapshot) {
        let mut users: HashMap<Key, Vec<Rc<Wanted>>> = HashMap::new();
        let mut all = Vec::new();
        for (listener, acme) in wanting(snapshot) {
            let wanted = Rc::new(Wanted {
                acme: acme.clone(),
                ways: ways(&listener.config, &snapshot.config),
                listener: listener.config.name.clone(),
                state: listener.state.clone(),
                held: RefCell::default(),
            });
            for domain in &acme.domains {
                let (state_dir, directory) = (acme.state_dir.clone(), acme.directory.clone());
                let key = Key { state_dir, directory, domain: domain.clone() };
                users.entry(key).or_default().push(wanted.clone());
            }
            all.push(wanted);
        }
        self.known.retain(|key, _| users.contains_key(key));
        let named = |domain: &String| users.keys().any(|key| key.domain == *domain);
        self.shared.status.acme().retain(|domain, _| named(domain));
        for (key, wanted) in users {
            match self.known.get(&key) {
                Some(known) => known.name.serve(wanted),
                None => {
                    let name = Rc::new(Name::new(&key, wanted));
                    name.look();
                    name.tell(&self.shared.status, None);
                    let task = tokio::task::spawn_local(keep(self.shared.clone(), name.clone()));
                    self.known.insert(key, Known { name, task });
                }
            }
        }
        all.iter().for_each(|wanted| wanted.show(snapshot));
    }

    /// Orders nothing any more.
    pub fn stop(&mut self) {
        self.known.clear();
    }
}

impl Wanted {
    /// From the next handshake on. The listener is whatever this snapshot has of its name: a new one,
    /// made for another reason, has from the old one what that was shown.
    fn show(&self, snapshot: &Snapshot) {
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
    fn new(key: &Key, wanted: Vec<Rc<Wanted>>) -> Name {
        Name {
            domain: key.domain.clone(),
            store: Store::new(&key.state_dir, &key.directory),
            wanted: RefCell::new(wanted),
            machine: RefCell::new(Machine::new(None, SystemTime::now(), fastrand::f64())),
            held: RefCell::new(None),
            seen: Cell::new(0),
            nudged: Notify::new(),
        }
    }

    /// Takes what is kept in the state directory, if it is better than what is held: true then, and it
    /// is to be shown.
    fn look(&self) -> bool {
        let pem = match self.store.certificate(&self.domain) {
            Ok(Some(pem)) => pem,
            Ok(None) => return false,
            Err(error) => {
                let path = self.store.certificate_path(&self.domain);
                tracing::warn!(path = %path.display(), %error, "a kept certificate cannot be read");
                return false;
            }
        };
        if self.seen.replace(hash_bytes(&pem)) == hash_bytes(&pem) {
            return false;
        }
        let path = self.store.certificate_path(&self.domain);
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

    fn hold(&self, certificate: Certificate) {
        for one in &*self.wanted.borrow() {
            one.held.borrow_mut().insert(self.domain.clone(), certificate.clone());
        }
        self.held.replace(Some(certificate));
    }

    fn show(&self, shared: &Shared) {
        let current = shared.current.load();
        self.wanted.borrow().iter().for_each(|one| one.show(&current));
    }

    /// For others than before, who may have mended what failed.
    fn serve(&self, wanted: Vec<Rc<Wanted>>) {
        if let Some(held) = &*self.held.borrow() {
            for one in &wanted {
                one.held.borrow_mut().insert(self.domain.clone(), held.clone());
            }
        }
        self.wanted.replace(wanted);
        self.machine.borrow_mut().nudge(SystemTime::now());
        self.nudged.notify_one();
    }

    fn tell(&self, status: &Status, error: Option<String>) {
        let machine = self.machine.borrow();
        let state = AcmeState {
            not_after: machine.held().map(|held| held.not_after),
            due: machine.due(),
            error,
        };
        status.acme().insert(self.domain.clone(), state);
    }

    fn wait(&self) -> Duration {
        let now = SystemTime::now();
        let mut machine = self.machine.borrow_mut();
        machine.rebase(now);
        machine.wait(now)
    }

    fn got(&self, got: Certificate, shared: &Shared) {
        let now = SystemTime::now();
        self.machine.borrow_mut().got(certificate::validity_of(&got), now, fastrand::f64());
        let days = got.not_after.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        tracing::info!(domain = self.domain, days, "a new certificate serves");
        self.count(|state| &state.acme_succeeded);
        self.hold(got);
        self.show(shared);
    }

    fn failed(&self, error: &OrderError) {
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

/// Keeps one name's certificate, for as long as somebody wants it.
async fn keep(shared: Rc<Shared>, name: Rc<Name>) {
    loop {
        tokio::select! {
            () = sleep(name.wait().min(LOOK)) => {}
            () = name.nudged.notified() => continue,
        }
        if name.look() {
            name.show(&shared);
            name.tell(&shared.status, None);
        }
        if name.wait().is_zero() {
            // Fails only if it is closed, which it never is.
            let slot = shared.slots.acquire().await;
            let ordered = order(&shared, &name).await;
            drop(slot);
            match ordered {
                Ordered::Elsewhere => sleep(ORDERED_ELSEWHERE).await,
                Ordered::Done(error) => name.tell(&shared.status, error),
            }
        }
    }
}

enum Ordered {
    /// Another process is at it.
    Elsewhere,
    /// With what it failed of.
    Done(Option<String>),
}

async fn order(shared: &Shared, name: &Name) -> Ordered {
    let store = &name.store;
    let locked = store.prepare().and_then(|()| store.lock(&name.domain));
    let _lock = match locked {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ordered::Elsewhere,
        Err(error) => {
            let error = OrderError::of_state(store, error);
            name.failed(&error);
            return Ordered::Done(Some(error.to_string()));
        }
    };
    // Who had the lock before may have brought it.
    if name.look() {
        name.show(shared);
    }
    if !name.wait().is_zero() {
        return Ordered::Done(None);
    }
    let Some(first) = name.wanted.borrow().first().cloned() else { return Ordered::Done(None) };
    let orderer = Orderer {
        acme: &first.acme,
        domain: &name.domain,
        ways: first.ways,
        store,
        challenges: &shared.challenges,
        accounts: &shared.accounts,
    };
    match orderer.obtain().await {
        Ok(got) => {
            name.got(got, shared);
            Ordered::Done(None)
        }
        Err(error) => {
            name.failed(&error);
            Ordered::Done(Some(error.to_string()))
        }
    }
}
