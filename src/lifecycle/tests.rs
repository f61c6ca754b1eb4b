//! Sequences of reloads by seeded simulation: random configurations one after the other, with work in
//! progress throughout. EVENKEEL_SEED replays one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::publish::{self, Publisher};
use super::resolve::Addresses;
use super::sockets::Sockets;
use crate::config::model::{BindAddr, Config, Name};
use crate::config::parse;
use crate::flow::thread::Command;
use crate::observe::cells::ListenerState;
use crate::pool::pick::{Ask, Tried};
use crate::pool::{BackendAddr, BackendState, Lease, Picker, PoolState, Reason};
use crate::snapshot::Snapshot;
use crate::tls::testing::{Folder, Kind, LONG, signed_by_itself};

const WORKERS: usize = 2;

/// Runs `story` with 60 seeds, or with the one that is to be replayed.
fn seeded(story: impl Fn(&mut fastrand::Rng)) {
    let replay = std::env::var("EVENKEEL_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in replay.map_or(0..60, |seed: u64| seed..seed + 1) {
        println!("EVENKEEL_SEED={seed}");
        story(&mut fastrand::Rng::with_seed(seed));
    }
}

/// Some of four listeners on some of six UNIX sockets in `folder`, and some of three pools of some
/// of five backends. A pool's backends are weighted at random, so that not only membership changes.
fn random_config(rng: &mut fastrand::Rng, folder: &Path) -> Config {
    let mut text = "listeners:\n".to_owned();
    let mut sockets: Vec<usize> = (0..6).collect();
    rng.shuffle(&mut sockets);
    let pools: Vec<usize> = (0..3).filter(|&pool| pool == 0 || rng.bool()).collect();
    for listener in 0..rng.usize(1..5) {
        let Some(socket) = sockets.pop() else { break };
        let pool = pools[rng.usize(..pools.len())];
        let path = folder.join(format!("{socket}.sock"));
        text += &format!(
            "  l{listener}: {{bind: 'unix:{}', mode: tcp, pool: p{pool}}}\n",
            path.display()
        );
    }
    text += "pools:\n";
    for pool in pools {
        let backends: Vec<String> = (0..5)
            .map(|backend| (backend, rng.u8(0..4)))
            .filter(|&(backend, weight)| backend == 0 || weight > 0)
            .map(|(backend, weight)| {
                format!("{{address: '10.0.0.{backend}:80', weight: {}}}", weight.clamp(1, 2))
            })
            .collect();
        text += &format!("  p{pool}: {{backends: [{}]}}\n", backends.join(", "));
    }
    parse(&text, "random", folder, &|_| None).unwrap_or_else(|e| panic!("{e}\n{text}")).config
}

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// What must be found again, by its name: states are compared by identity.
#[derive(Default)]
struct Seen {
    listeners: HashMap<Name, Arc<ListenerState>>,
    pools: HashMap<Name, Arc<PoolState>>,
    backends: HashMap<(Name, BackendAddr), Arc<BackendState>>,
}

impl Seen {
    fn of(snapshot: &Snapshot) -> Seen {
        let mut seen = Seen::default();
        for listener in &snapshot.listeners {
            seen.listeners.insert(listener.config.name.clone(), listener.state.clone());
        }
        for pool in &snapshot.pools {
            let name = &pool.config.name;
            seen.pools.insert(name.clone(), pool.state.clone());
            for member in &pool.members {
                let key = (name.clone(), member.state.addr);
                assert!(seen.backends.insert(key, member.state.clone()).is_none(), "twice");
            }
        }
        seen
    }

    /// What both have is the same; nobody's state is another's.
    fn carried(&self, next: &Seen) {
        for (name, state) in &next.listeners {
            assert!(self.listeners.get(name).is_none_or(|old| Arc::ptr_eq(old, state)), "{name}");
        }
        for (name, state) in &next.pools {
            assert!(self.pools.get(name).is_none_or(|old| Arc::ptr_eq(old, state)), "{name}");
        }
        for (key, state) in &next.backends {
            assert_eq!((&state.pool, state.addr), (&key.0, key.1));
            assert!(self.backends.get(key).is_none_or(|old| Arc::ptr_eq(old, state)), "{key:?}");
        }
    }
}

#[test]
fn reloads_forget_nothing_that_stays_and_keep_nothing_that_is_gone() {
    seeded(|rng| {
        let folder = Path::new("/nowhere");
        let first = random_config(rng, folder);
        let current = publish::nothing(Config { pools: vec![], listeners: vec![], ..first });
        let mut publisher = Publisher::new(current.clone(), WORKERS);
        // Requests in progress, by hand: what each backend must say of them.
        let mut leases: Vec<Lease> = Vec::new();
        let mut seen = Seen::default();
        for generation in 1..30 {
            let config = random_config(rng, folder);
            let addresses = now(Addresses::find(&config, &Addresses::default())).unwrap();
            let snapshot = publisher.build(config.clone(), &addresses).unwrap();
            if rng.u8(..4) == 0 {
                continue; // abandoned before the swap: nothing may have changed
            }
            let same_pools: Vec<_> = current.load().pools.to_vec();
            publisher.publish(snapshot.clone());
            assert!(snapshot.generation <= generation && *snapshot.config == config);
            for pool in &snapshot.pools {
                let before = same_pools.iter().find(|old| old.config == pool.config);
                assert!(
                    before.is_none_or(|old| Arc::ptr_eq(old, pool)),
                    "an equal pool is kept whole"
                );
            }
            let next = Seen::of(&snapshot);
            seen.carried(&next);
            seen = next;
            for _ in 0..rng.usize(..6) {
                let pool = &snapshot.pools[rng.usize(..snapshot.pools.len())];
                let ask = Ask { draw: rng.u64(..), ..Ask::default() };
                leases.extend(Rc::new(Picker::new(pool.clone())).pick(ask, &Tried::default()));
            }
            rng.shuffle(&mut leases);
            leases.truncate(rng.usize(..10));
            let mut held: BTreeMap<u64, u32> = BTreeMap::new();
            for lease in &leases {
                *held.entry(lease.backend().id).or_default() += 1;
            }
            for state in seen.backends.values() {
                assert_eq!(state.in_flight(), held.get(&state.id).copied().unwrap_or(0));
                // As the health task would: a mark that must be found again.
                if rng.u8(..8) == 0 {
                    state.set(Reason::Down);
                    state.clear(Reason::Down);
                }
            }
            publisher.drop_retired();
        }
        leases.clear();
        publisher.drop_retired();
        assert_eq!(
            publisher.known(),
            (seen.listeners.len(), seen.pools.len(), seen.backends.len())
        );
    });
}

#[test]
fn the_workers_listen_to_just_what_is_configured() {
    let folder = std::env::temp_dir().join(format!("evenkeel-reloads-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    seeded(|rng| {
        let mut sockets = Sockets::default();
        let (sender, mut commands) = mpsc::unbounded_channel();
        let workers = [sender];
        let mut listening: BTreeSet<BindAddr> = BTreeSet::new();
        for _ in 0..15 {
            let config = random_config(rng, &folder);
            let fresh = sockets.bind(&config).unwrap();
            if rng.u8(..5) == 0 {
                continue; // abandoned: what was bound for it closes
            }
            let mut released = sockets.adopt(&config, fresh, &workers);
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Listen(addr, _) => {
                        assert!(listening.insert(addr), "accepted from twice");
                    }
                    Command::Unlisten(addr, _done) => {
                        assert!(listening.remove(&addr), "let go twice");
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(released.try_recv(), Err(TryRecvError::Disconnected), "all was let go");
            let binds = config.listeners.iter().flat_map(|listener| &listener.bind);
            let wanted: BTreeSet<BindAddr> = binds.cloned().collect();
            assert_eq!(sockets.list().cloned().collect::<BTreeSet<_>>(), wanted);
            assert_eq!(listening, wanted);
            for addr in &wanted {
                let BindAddr::Unix(path) = addr else { continue };
                std::os::unix::net::UnixStream::connect(path).expect("somebody listens");
            }
        }
        sockets.close();
        assert_eq!(std::fs::read_dir(&folder).unwrap().flatten().count(), 0, "a file was left");
    });
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn tls_stays_as_it_is_where_nothing_changes_and_keeps_its_tickets_where_something_does() {
    let folder = Folder::new();
    let renew = || folder.pair("a", &signed_by_itself(&["a.example"], Kind::Ecdsa, LONG));
    renew();
    let text = "
listeners:
  web:
    bind: 127.0.0.1:1
    tls: {certificates: [{cert: a.pem, key: a.key}]}
    routes: [{pool: web}]
pools:
  web: {backends: [10.0.0.1:80]}
";
    let load = || parse(text, "x", folder.path(), &|_| None).unwrap().config;
    let current = publish::nothing(Config { listeners: vec![], pools: vec![], ..load() });
    let mut publisher = Publisher::new(current.clone(), WORKERS);
    let mut next = |config: Config| {
        let addresses = now(Addresses::find(&config, &Addresses::default())).unwrap();
        let snapshot = publisher.build(config, &addresses).unwrap();
        publisher.publish(snapshot.clone());
        snapshot.listeners[0].tls.clone()
    };
    let first = next(load()).expect("a server");
    let same = next(Config { drain_timeout: std::time::Duration::ZERO, ..load() }).unwrap();
    assert!(Arc::ptr_eq(&first, &same));
    renew();
    let renewed = next(load()).unwrap();
    assert!(!Arc::ptr_eq(&first, &renewed) && Arc::ptr_eq(first.kept(), renewed.kept()));
    let mut plain = load();
    plain.listeners[0].tls = None;
    assert!(next(plain).is_none());
}
