//! The probe loops on a paused clock, with a script in place of the network.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::{Instant, advance, sleep};

use super::probe::{Failure, Prober, Verdict};
use super::task::standing::Standing;
use super::task::{Health, PROBES_AT_ONCE};
use crate::config::defaults;
use crate::config::model::{self, HealthCheck, Initial, Name, ProbeKind};
use crate::pool::{BackendAddr, BackendState, Member, Pool, PoolState, Reason};

const PROBE_TAKES: Duration = Duration::from_millis(5);
const MS: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
enum Answer {
    Pass,
    Fail,
    Hang,
    NotMade,
    WrongRole,
}

/// Says what each backend answers, and when each was asked.
#[derive(Clone, Default)]
struct Script(Rc<Inner>);

#[derive(Default)]
struct Inner {
    answers: RefCell<HashMap<BackendAddr, Answer>>,
    made: RefCell<Vec<(BackendAddr, Instant)>>,
    running: Cell<usize>,
    most: Cell<usize>,
}

struct RunningProbe(Rc<Inner>);

impl Drop for RunningProbe {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Prober for Script {
    fn probe(
        &self,
        _: &HealthCheck,
        backend: BackendAddr,
        _: Option<&ServerName<'static>>,
    ) -> impl Future<Output = Verdict> + 'static {
        let script = self.0.clone();
        async move {
            script.made.borrow_mut().push((backend, Instant::now()));
            script.running.set(script.running.get() + 1);
            script.most.set(script.most.get().max(script.running.get()));
            let _running = RunningProbe(script.clone());
            sleep(PROBE_TAKES).await;
            let answer = script.answers.borrow().get(&backend).copied();
            match answer.unwrap_or(Answer::Pass) {
                Answer::Pass => Verdict::Pass,
                Answer::Fail => Verdict::Fail(Failure::Refused),
                Answer::WrongRole => Verdict::WrongRole("it is a replica"),
                Answer::NotMade => Verdict::NotMade(io::ErrorKind::OutOfMemory.into()),
                Answer::Hang => std::future::pending().await,
            }
        }
    }
}

impl Script {
    fn says(&self, backend: &BackendState, answer: Answer) {
        self.0.answers.borrow_mut().insert(backend.addr, answer);
    }

    fn made(&self) -> usize {
        self.0.made.borrow().len()
    }

    fn times(&self, backend: &BackendState) -> Vec<Instant> {
        let made = self.0.made.borrow();
        made.iter().filter(|(addr, _)| *addr == backend.addr).map(|(_, at)| *at).collect()
    }

    fn health(&self) -> Health<Script> {
        Health::with(self.clone(), fastrand::Rng::with_seed(super::seed()), Standing::alone())
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        kind: ProbeKind::Tcp { send: None, expect: None },
        interval: Duration::from_secs(2),
        interval_unsettled: Duration::from_millis(500),
        timeout: Duration::from_millis(400),
        fall: 3,
        rise: 2,
        initial: Initial::Up,
        port: None,
        address: None,
        tls: None,
        introduce: None,
    }
}

fn backends(count: u16) -> Vec<Arc<BackendState>> {
    let name = Name::new("web").expect("a valid name");
    (0..count)
        .map(|n| {
            let addr = BackendAddr(SocketAddr::from(([10, 0, 0, 1], 1 + n)));
            Arc::new(BackendState::new(name.clone(), addr, 1))
        })
        .collect()
}

fn pool(states: &[Arc<BackendState>], check: Option<HealthCheck>) -> Vec<Arc<Pool>> {
    let name = Name::new("web").expect("a valid name");
    let config =
        model::Pool { balance: model::Balance::First, health_check: check, ..defaults::pool(name) };
    let members = states.iter().map(|state| Member::new(state.clone(), 1)).collect();
    vec![Arc::new(Pool::new(config, members, Arc::new(PoolState::new(1))))]
}

fn reasons(state: &BackendState) -> Vec<Reason> {
    state.reasons().collect()
}

/// Lines of the log while it lives, on this thread.
struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct Into(Arc<Mutex<Vec<u8>>>);

impl io::Write for Into {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics with it").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn capture() -> Log {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Into(lines.clone());
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_writer(move || into.clone())
            .finish();
        Log { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.lines.lock().expect("no test panics with it"));
        String::from_utf8_lossy(&bytes).lines().map(|line| line.trim().to_string()).collect()
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn one_probe_settles_each_backend_at_the_start_all_in_parallel() {
    let (script, states) = (Script::default(), backends(3));
    script.says(&states[1], Answer::Fail);
    script.says(&states[2], Answer::Hang);
    let mut health = script.health();
    let begun = Instant::now();
    let settled = health.apply(&pool(&states, Some(check())));
    assert!(states.iter().all(|state| reasons(state) == [Reason::Unverified]));
    settled.wait().await;
    assert!(begun.elapsed() <= check().timeout + 60 * MS, "{:?}", begun.elapsed());
    assert!(states.iter().all(|state| script.times(state)[0] == begun));
    assert_eq!(reasons(&states[0]), []);
    assert_eq!(reasons(&states[1]), [Reason::Down]);
    assert_eq!(reasons(&states[2]), [Reason::Down]);
    assert_eq!(states[2].probes.failures[Failure::Timeout.index()].get(), 1);
    // Nothing new, nothing to wait for.
    let begun = Instant::now();
    health.apply(&pool(&states, Some(check()))).wait().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn initial_counts_when_no_verdict_comes_and_yields_to_the_first() {
    for (initial, expected) in [(Initial::Up, vec![]), (Initial::Down, vec![Reason::Down])] {
        let (script, states) = (Script::default(), backends(1));
        script.says(&states[0], Answer::NotMade);
        let mut health = script.health();
        let begun = Instant::now();
        health.apply(&pool(&states, Some(HealthCheck { initial, ..check() }))).wait().await;
        assert!(begun.elapsed() <= check().timeout + 60 * MS);
        assert_eq!(reasons(&states[0]), expected);
        let opposite = if initial == Initial::Up { Answer::Fail } else { Answer::Pass };
        script.says(&states[0], opposite);
        sleep(600 * MS).await;
        assert_eq!(states[0].serving(), initial == Initial::Down, "one verdict is enough");
        assert!(states[0].probes.not_made.get() > 0);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_backend_falls_and_rises_and_is_probed_faster_in_between() {
    let (log, script, states) = (Log::capture(), Script::default(), backends(1));
    let mut health = script.health();
    health.apply(&pool(&states, Some(check()))).wait().await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(log.take().len(), 1, "up, once");
    script.says(&states[0], Answer::Fail);
    let died = Instant::now();
    while states[0].serving() {
        sleep(MS).await;
    }
    assert!(died.elapsed() <= check().worst_detection(), "{:?}", died.elapsed());
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in
        ["WARN", "pool=web", "backend=10.0.0.1:1", "refused", "3 probes in a row", "former=\"up\""]
    {
        assert!(lines[0].contains(part), "{part} in {lines:?}");
    }
    sleep(Duration::from_secs(20)).await;
    script.says(&states[0], Answer::Pass);
    sleep(Duration::from_secs(4)).await;
    assert!(states[0].serving());
    let lines = log.take();
    assert!(lines.len() == 1 && lines[0].contains("INFO"), "{lines:?}");
    assert_eq!(states[0].probes.changes.get(), 3);
    let times = script.times(&states[0]);
    let gaps: Vec<Duration> = times.windows(2).skip(1).map(|w| w[1] - w[0] - PROBE_TAKES).collect();
    let quick = gaps.iter().filter(|gap| **gap <= 551 * MS).count();
    assert_eq!(quick, 3, "two while falling, one while rising: {gaps:?}");
    assert!(gaps.iter().all(|gap| (449 * MS..2202 * MS).contains(gap)), "{gaps:?}");
}

/// A primary and its replica: the promised times of a switch, from the servers' change to the bits.
#[tokio::test(flavor = "local", start_paused = true)]
async fn a_demoted_primary_is_out_with_one_verdict_and_a_promoted_replica_in_with_rise() {
    let (log, script, states) = (Log::capture(), Script::default(), backends(2));
    script.says(&states[1], Answer::WrongRole);
    let mut health = script.health();
    health.apply(&pool(&states, Some(check()))).wait().await;
    assert_eq!(reasons(&states[0]), []);
    assert_eq!(reasons(&states[1]), [Reason::WrongRole]);
    let lines = log.take();
    assert!(lines.iter().all(|line| line.contains("INFO")), "no alarm: {lines:?}");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(log.take(), [""; 0]);
    script.says(&states[0], Answer::WrongRole);
    script.says(&states[1], Answer::Pass);
    let switched = Instant::now();
    while !states[0].has(Reason::WrongRole) {
        sleep(MS).await;
    }
    // An interval, its jitter, and the probe.
    assert!(switched.elapsed() <= 2210 * MS, "{:?}", switched.elapsed());
    while !states[1].serving() {
        assert!(!states[0].serving());
        sleep(MS).await;
    }
    // The same, and one unsettled interval more.
    assert!(switched.elapsed() <= (2210 + 560) * MS, "{:?}", switched.elapsed());
    let lines = log.take();
    let told = "a probe found another role: it is a replica";
    assert!(lines.iter().any(|line| line.contains(told)), "{lines:?}");
    assert_eq!(states[0].probes.failed.get(), 0, "a role is no failure");
    assert!(states[0].probes.wrong_role.get() > 0);
}

/// The primary dies, and some time later the replica is promoted.
#[tokio::test(flavor = "local", start_paused = true)]
async fn while_nothing_serves_a_replica_is_looked_at_more_often() {
    let (script, states) = (Script::default(), backends(2));
    script.says(&states[1], Answer::WrongRole);
    let standing = Standing::alone();
    let rng = fastrand::Rng::with_seed(super::seed());
    let mut health = Health::with(script.clone(), rng, standing.clone());
    let role = model::RedisRole::Master;
    let kind = ProbeKind::Redis(model::RedisProbe { user: None, password: None, role });
    let pools = pool(&states, Some(HealthCheck { kind, ..check() }));
    standing.apply(&pools);
    health.apply(&pools).wait().await;
    sleep(Duration::from_secs(20)).await;
    let asked = script.times(&states[1]).len();
    assert!((10..=12).contains(&asked), "as often as any other: {asked}");
    script.says(&states[0], Answer::Fail);
    while states[0].serving() {
        sleep(MS).await;
    }
    // It is seen at the end of a slice of the pause that was under way.
    sleep(560 * MS).await;
    let asked = script.times(&states[1]).len();
    sleep(Duration::from_secs(10)).await;
    let more = script.times(&states[1]).len() - asked;
    assert!((17..=22).contains(&more), "every half a second: {more}");
    script.says(&states[1], Answer::Pass);
    let promoted = Instant::now();
    while !states[1].serving() {
        sleep(MS).await;
    }
    assert!(promoted.elapsed() <= (550 + 5 + 550 + 6) * MS, "{:?}", promoted.elapsed());
    assert_eq!(reasons(&states[0]), [Reason::Down]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_backend_that_is_down_says_when_it_is_so_for_another_reason() {
    let (log, script, states) = (Log::capture(), Script::default(), backends(1));
    script.says(&states[0], Answer::Fail);
    let mut health = script.health();
    health.apply(&pool(&states, Some(check()))).wait().await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(log.take().len(), 1, "it is down, once");
    script.says(&states[0], Answer::Hang);
    sleep(Duration::from_secs(60)).await;
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("for another reason") && lines[0].contains("time-out"), "{lines:?}");
    // Now this, now that: nothing new.
    for _ in 0..10 {
        script.says(&states[0], Answer::Fail);
        sleep(Duration::from_secs(2)).await;
        script.says(&states[0], Answer::Hang);
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_first_round_is_spread_over_the_interval() {
    let (script, states) = (Script::default(), backends(100));
    let mut health = script.health();
    health.apply(&pool(&states, Some(check()))).wait().await;
    let begun = Instant::now();
    sleep(Duration::from_secs(2)).await;
    let mut tenths = [0; 10];
    for state in &states {
        let second = script.times(state)[1];
        tenths[((second - begun).as_millis() / 200).min(9) as usize] += 1;
    }
    assert!(tenths.iter().all(|count| (9..=11).contains(count)), "{tenths:?}");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_changed_check_keeps_what_is_known_and_a_removed_one_clears_it() {
    let (log, script, states) = (Log::capture(), Script::default(), backends(2));
    script.says(&states[1], Answer::Fail);
    let mut health = script.health();
    health.apply(&pool(&states, Some(check()))).wait().await;
    log.take();
    let slower = HealthCheck { interval: Duration::from_secs(10), ..check() };
    let made = script.made();
    let begun = Instant::now();
    health.apply(&pool(&states, Some(slower))).wait().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "both had their verdict");
    assert_eq!(reasons(&states[1]), [Reason::Down]);
    sleep(Duration::from_secs(30)).await;
    assert!((4..=10).contains(&(script.made() - made)), "{}", script.made() - made);
    assert_eq!(log.take(), [""; 0]);
    health.apply(&pool(&states, None)).wait().await;
    assert!(states.iter().all(|state| state.serving()));
    let made = script.made();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(script.made(), made, "no probes without a check");
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_abandoned_reload_loses_nothing() {
    let (log, script, states) = (Log::capture(), Script::default(), backends(3));
    script.says(&states[1], Answer::Fail);
    let mut health = script.health();
    let old = pool(&states, Some(check()));
    health.apply(&old).wait().await;
    log.take();
    for new in [pool(&states[..1], Some(check())), pool(&states, None), Vec::new()] {
        health.apply(&new).wait().await;
        health.apply(&old).wait().await;
        assert_eq!(reasons(&states[0]), []);
        assert_eq!(reasons(&states[1]), [Reason::Down]);
        let made = script.made();
        sleep(Duration::from_secs(3)).await;
        assert!(script.made() > made + 2, "probes go on");
    }
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn a_check_added_to_a_backend_in_use_takes_it_out_by_verdict_only() {
    let (script, states) = (Script::default(), backends(2));
    script.says(&states[1], Answer::Fail);
    let mut health = script.health();
    health.apply(&pool(&states, None)).wait().await;
    let settled = health.apply(&pool(&states, Some(check())));
    assert!(states.iter().all(|state| state.serving()));
    settled.wait().await;
    assert!(states[0].serving());
    assert_eq!(reasons(&states[1]), [Reason::Down]);
    // The check goes and comes back after an hour: what it knew then says nothing now.
    health.apply(&pool(&states, None)).wait().await;
    sleep(Duration::from_secs(3600)).await;
    let settled = health.apply(&pool(&states, Some(check())));
    assert!(states[1].serving());
    settled.wait().await;
    assert_eq!(reasons(&states[1]), [Reason::Down]);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn probes_stop_at_once_even_those_that_hang() {
    for dropped in [true, false] {
        let (script, states) = (Script::default(), backends(20));
        states[..10].iter().for_each(|state| script.says(state, Answer::Hang));
        let mut health = script.health();
        let settled = health.apply(&pool(&states, Some(check())));
        advance(MS).await;
        let kept = match dropped {
            true => {
                drop(health);
                None
            }
            false => {
                health.stop();
                Some(health)
            }
        };
        settled.wait().await;
        let made = script.made();
        sleep(Duration::from_secs(60)).await;
        assert_eq!((script.made(), script.0.running.get()), (made, 0), "dropped: {dropped}");
        drop(kept);
    }
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn probes_that_hang_hold_nobody_up_below_the_limit_and_never_exceed_it() {
    let (script, states) = (Script::default(), backends(1500));
    let hang = |count: usize| states[..count].iter().for_each(|s| script.says(s, Answer::Hang));
    hang(900);
    let mut health = script.health();
    health.apply(&pool(&states, Some(check()))).wait().await;
    sleep(Duration::from_secs(10)).await;
    // Those that pass were asked as often as if they were alone: once, then every 2 s.
    for state in &states[900..] {
        assert!((5..=7).contains(&state.probes.passed.get()), "{}", state.probes.passed.get());
    }
    assert!(states[..900].iter().all(|state| !state.serving()));
    hang(1500);
    sleep(Duration::from_secs(60)).await;
    assert!(states.iter().all(|state| !state.serving()));
    assert_eq!(script.0.most.get(), PROBES_AT_ONCE);
    assert!(states.iter().any(|state| state.probes.waited.get() > 0));
}

/// Reloads and flapping backends in any order: bits never contradict the configuration, and every
/// change is counted, logged and earned.
#[tokio::test(flavor = "local", start_paused = true)]
async fn in_any_sequence_of_reloads_the_bits_are_right() {
    let seed = super::seed();
    let mut rng = fastrand::Rng::with_seed(seed);
    let (log, script, states) = (Log::capture(), Script::default(), backends(8));
    let mut health = script.health();
    let mut lines = 0;
    let mut seen = vec![false; states.len()];
    for step in 0..300 {
        let told = format!("seed {seed}, step {step}");
        for state in &states {
            let answers = [
                Answer::Pass,
                Answer::Pass,
                Answer::Fail,
                Answer::WrongRole,
                Answer::Hang,
                Answer::NotMade,
            ];
            script.says(state, answers[rng.usize(..answers.len())]);
        }
        let from = rng.usize(..states.len());
        let to = rng.usize(from..=states.len());
        let checked = rng.u32(..4) > 0;
        let fall = rng.u32(1..4);
        let pools = pool(&states[from..to], checked.then(|| HealthCheck { fall, ..check() }));
        let begun = Instant::now();
        let settled = health.apply(&pools);
        for (state, seen) in states[from..to].iter().zip(&mut seen[from..to]) {
            let fresh = checked && !std::mem::replace(seen, true);
            assert!(checked || state.serving(), "{told}: a bit without a check");
            assert!(!fresh || !state.serving() || state.probes.changes.get() == 0, "{told}");
        }
        settled.wait().await;
        assert!(begun.elapsed() <= check().timeout + 60 * MS, "{told}: {:?}", begun.elapsed());
        for state in &states[from..to] {
            assert!(!state.has(Reason::Unverified), "{told}: unverified after the wait");
            assert!(state.reasons().count() <= 1, "{told}: {:?}", reasons(state));
        }
        sleep(MS * rng.u32(1..5000)).await;
        lines += log.take().iter().filter(|line| line.contains("backend is")).count() as u64;
        let changes: u64 = states.iter().map(|state| state.probes.changes.get()).sum();
        assert_eq!(changes, lines, "{told}: one event for each change");
    }
    assert!(lines > 50, "{lines} changes");
}
