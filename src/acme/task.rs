//! The glue: a task for each name, started, kept and ended as the configuration says. Runs on the
//! control thread alone.
//!
//! Decides nothing of times (`machine`) or of what an order is (`order`). A failure changes nothing but
//! what is told of a name (`name`): what is held goes on serving.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::challenges::Challenges;
use super::disk::Slots;
use super::name::{Key, Name, Wanted};
use super::order::{OrderError, Orderer, Way};
use super::store::Store;
use crate::config::model::{self as config, Acme, BindAddr, Config, Mode};
use crate::lifecycle::status::Status;
use crate::snapshot::{Current, Listener, Snapshot};

/// Orders at once: a thousand new names shall not be a thousand connections.
const ORDERS_AT_ONCE: usize = 4;

/// How often the state directory is looked at for what another load balancer has brought, and the
/// wall clock for whether it has jumped.
const LOOK: Duration = Duration::from_secs(60);

/// Until a name is looked at again that another process orders for now.
const ORDERED_ELSEWHERE: Duration = Duration::from_secs(10);

/// An order hardly takes so long, with every wait to its end: who still has the lock must hang.
const STUCK_ELSEWHERE: Duration = Duration::from_secs(10 * 60);

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
    disk: Slots,
    accounts: Mutex<()>,
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

/// What the state directories have for names that are new, as it was read.
#[derive(Debug, Default)]
pub struct Found(HashMap<Key, io::Result<Option<Vec<u8>>>>);

impl Names {
    pub fn new(current: Arc<Current>, challenges: Arc<Challenges>, status: Arc<Status>) -> Names {
        let slots = Semaphore::new(ORDERS_AT_ONCE);
        let (disk, accounts) = (Slots::default(), Mutex::new(()));
        let shared = Shared { current, challenges, status, slots, disk, accounts };
        Names { shared: Rc::new(shared), known: HashMap::new() }
    }

    /// Makes the state directories that the snapshot to come names, where they are missing, and reads
    /// what they have for it. A disk that hangs holds up this alone.
    pub async fn prepare(&self, snapshot: &Snapshot) -> Result<Found, StateError> {
        let mut wanted = Vec::new();
        for (listener, acme) in wanting(snapshot) {
            let keys = acme.domains.iter().map(|domain| Key::of(acme, domain));
            let new: Vec<Key> = keys.filter(|key| !self.known.contains_key(key)).collect();
            wanted.push((listener.config.name.clone(), acme.clone(), new));
        }
        if wanted.is_empty() {
            return Ok(Found::default());
        }
        let read = tokio::task::spawn_blocking(move || {
            let mut found = HashMap::new();
            for (listener, acme, new) in wanted {
                let store = Store::new(&acme.state_dir, &acme.directory);
                let path = acme.state_dir;
                store.prepare().map_err(|source| StateError { listener, path, source })?;
                for key in new {
                    let read = store.certificate(&key.domain);
                    found.insert(key, read);
                }
            }
            Ok(Found(found))
        });
        // Were it to panic, which would be told: each name looks for itself before it orders.
        read.await.unwrap_or_else(|_| Ok(Found::default()))
    }

    /// Takes up the names that the snapshot to come wants, and gives each of its listeners what is
    /// held for it; leaves those that nobody wants any more. What failed is tried again soon.
    pub fn apply(&mut self, snapshot: &Snapshot, mut found: Found) {
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
                let key = Key::of(acme, domain);
                users.entry(key).or_default().push(wanted.clone());
            }
            all.push(wanted);
        }
        self.known.retain(|key, _| users.contains_key(key));
        let named = |domain: &String| users.keys().any(|key| key.domain == *domain);
        self.shared.status.acme().retain(|domain, _| named(domain));
        for (key, wanted) in users {
            match self.known.get_mut(&key) {
                Some(known) => {
                    known.name.serve(wanted);
                    // It ends only by a panic, which was told.
                    if known.task.is_finished() {
                        let keep = keep(self.shared.clone(), known.name.clone());
                        known.task = tokio::task::spawn_local(keep);
                    }
                }
                None => {
                    let name = Rc::new(Name::new(&key, wanted, &self.shared.disk));
                    if let Some(read) = found.0.remove(&key) {
                        name.weigh(read);
                    }
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

/// Keeps one name's certificate, for as long as somebody wants it.
async fn keep(shared: Rc<Shared>, name: Rc<Name>) {
    let mut elsewhere = Elsewhere::default();
    loop {
        tokio::select! {
            () = sleep(name.wait().min(LOOK)) => {}
            () = name.nudged.notified() => continue,
        }
        if name.look().await {
            name.show(&shared.current.load());
            name.tell(&shared.status, None);
        }
        if !name.wait().is_zero() {
            elsewhere = Elsewhere::default();
            continue;
        }
        // Fails only if it is closed, which it never is.
        let slot = shared.slots.acquire().await;
        let ordered = order(&shared, &name).await;
        drop(slot);
        match ordered {
            Ordered::Elsewhere => {
                let domain = name.domain.as_str();
                match elsewhere.again(Instant::now()) {
                    Some(News::Waiting) => tracing::info!(
                        domain,
                        "another process orders a certificate; waiting for it"
                    ),
                    Some(News::Stuck) => {
                        let error = "another process does not come to the end of its order";
                        let help = "end it, if it hangs: its lock goes with it";
                        let lock = name.disk.store.lock_path(domain);
                        tracing::warn!(domain, lock = %lock.display(), help, "{error}");
                        name.tell(&shared.status, Some(format!("{error} ({})", lock.display())));
                    }
                    None => {}
                }
                sleep(ORDERED_ELSEWHERE).await;
            }
            Ordered::Done(error) => {
                elsewhere = Elsewhere::default();
                name.tell(&shared.status, error);
            }
        }
    }
}

/// Since when another process orders, and what was said of it.
#[derive(Debug, Default)]
struct Elsewhere {
    since: Option<Instant>,
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Waiting,
    Stuck,
}

impl Elsewhere {
    /// It still does. Each is said once.
    fn again(&mut self, now: Instant) -> Option<News> {
        let Some(since) = self.since else {
            self.since = Some(now);
            return Some(News::Waiting);
        };
        let stuck = now.duration_since(since) >= STUCK_ELSEWHERE;
        (stuck && !std::mem::replace(&mut self.told, stuck)).then_some(News::Stuck)
    }
}

enum Ordered {
    /// Another process is at it.
    Elsewhere,
    /// With what it failed of.
    Done(Option<String>),
}

async fn order(shared: &Shared, name: &Name) -> Ordered {
    let _lock = match name.disk.lock(&name.domain).await {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ordered::Elsewhere,
        Err(error) => {
            let error = OrderError::of_state(&name.disk.store, error);
            name.failed(&error);
            return Ordered::Done(Some(error.to_string()));
        }
    };
    // Who had the lock before may have brought it.
    if name.look().await {
        name.show(&shared.current.load());
    }
    if !name.wait().is_zero() {
        return Ordered::Done(None);
    }
    let Some(first) = name.wanted.borrow().first().cloned() else { return Ordered::Done(None) };
    let orderer = Orderer {
        acme: &first.acme,
        domain: &name.domain,
        ways: first.ways,
        disk: &name.disk,
        challenges: &shared.challenges,
        accounts: &shared.accounts,
    };
    match orderer.obtain().await {
        Ok(got) => {
            name.got(got, &shared.current.load());
            Ordered::Done(None)
        }
        Err(error) => {
            name.failed(&error);
            Ordered::Done(Some(error.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::lifecycle::publish::{self, Publisher};
    use crate::lifecycle::resolve::Addresses;

    #[test]
    fn another_process_that_hangs_is_told_once() {
        let (mut elsewhere, now) = (Elsewhere::default(), Instant::now());
        let mut at = |seconds| elsewhere.again(now + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(News::Waiting));
        assert_eq!((at(10), at(599)), (None, None));
        assert_eq!(at(600), Some(News::Stuck));
        assert_eq!((at(610), at(6000)), (None, None));
    }

    /// As one ends that panics.
    #[tokio::test]
    async fn a_task_that_has_ended_begins_again_with_a_reload() {
        let folder = std::env::temp_dir().join(format!("evenkeel-task-{:x}", fastrand::u64(..)));
        let text = "
listeners:
  web:
    bind: 127.0.0.1:8443
    tls: {acme: {domains: [a.example], state_dir: state, directory: \"https://127.0.0.1:1/\"}}
    routes: [{pool: web}]
pools: {web: {backends: [\"127.0.0.1:80\"]}}
";
        let config = parse(text, "x", &folder, &|_| None).unwrap().config;
        let current = publish::nothing(config.clone());
        let mut publisher = Publisher::new(current.clone(), 1);
        let snapshot = publisher.build(config, &Addresses::default()).unwrap();
        let status = Arc::new(Status::new(1, 0));
        let within = async {
            let mut names = Names::new(current, Arc::default(), status);
            let mut ended = Vec::new();
            for end in [false, true, false] {
                if end {
                    let known = names.known.values().next().unwrap();
                    known.task.abort();
                    while !known.task.is_finished() {
                        tokio::task::yield_now().await;
                    }
                }
                names.apply(&snapshot, Found::default());
                assert_eq!(names.known.len(), 1);
                ended.extend(names.known.values().map(|known| known.task.is_finished()));
            }
            assert_eq!(ended, [false; 3]);
        };
        tokio::task::LocalSet::new().run_until(within).await;
        // Nothing may have been made there.
        let _ = std::fs::remove_dir_all(&folder);
    }
}
