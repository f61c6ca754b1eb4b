//! The glue of passive judgement: what workers have counted goes to each pool's judge, and what it orders
//! is done. Runs on the control thread alone; the only writer of the bit `ejected`, through the door.
//!
//! Sweeps come in fixed time, and at once for the pool of a backend that a worker sends up: failures in a
//! row, or a trial that has ended. Decides nothing (`outlier`, `damping`, `disagreement`). An order is the
//! bits, one log event and one metric, together.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::Stop;
use super::standing::Standing;
use crate::config::model::{FailoverMode, Name};
use crate::health::disagreement::{Agreement, Change};
use crate::health::outlier::{Judge, Order, Rules, Seen};
use crate::health::window::{Window, median};
use crate::observe::cells::TIMES;
use crate::pool::state::{Reasons, Trial};
use crate::pool::{BackendState, Member, Pool, Reason};

/// How often every pool is looked at. For 10,000 backends and 8 workers a look reads some 80,000 cells:
/// a few milliseconds.
const SWEEP: Duration = Duration::from_millis(250);

/// On trial, an answer that has gone on for so long is good, and so is a stream that has had its connection
/// for so long: the backend may have nothing to say.
const SILENT: Duration = Duration::from_secs(2);

/// What workers send up: see `flow::judge`.
pub type Votes = UnboundedReceiver<Arc<BackendState>>;

/// The judges of all pools, and the task that asks them. Dropping it stops that at once.
#[derive(Debug)]
pub struct Outliers {
    court: Rc<RefCell<Court>>,
    _task: Stop,
}

#[derive(Debug)]
struct Court {
    standing: Rc<Standing>,
    /// What `now` counts from, as in picks.
    epoch: std::time::Instant,
    rng: fastrand::Rng,
    pools: HashMap<Name, Judging>,
}

#[derive(Debug)]
struct Judging {
    pool: Arc<Pool>,
    judge: Judge,
    /// By `BackendState::id`.
    more: HashMap<u64, More>,
}

/// What is kept of a backend beside its judge.
#[derive(Debug, Default)]
struct More {
    times: Option<Window<TIMES>>,
    agreement: Agreement,
    /// Since when what is on trial has come so far.
    reached: Option<Duration>,
}

impl Outliers {
    /// Must be called within a local runtime. `epoch`: when the process began.
    pub fn new(
        standing: Rc<Standing>,
        epoch: std::time::Instant,
        votes: Votes,
        rng: fastrand::Rng,
    ) -> Outliers {
        let court = Court { standing, epoch, rng, pools: HashMap::new() };
        let court = Rc::new(RefCell::new(court));
        let task = tokio::task::spawn_local(run(court.clone(), votes));
        Outliers { court, _task: Stop(task) }
    }

    /// These are the pools in force. What is known of a backend goes on over a reload; one that has left,
    /// or whose pool no longer judges, is not ejected any more.
    pub fn apply(&mut self, pools: &[Arc<Pool>]) {
        self.court.borrow_mut().apply(pools);
    }
}

async fn run(court: Rc<RefCell<Court>>, mut votes: Votes) {
    let mut next = Instant::now() + SWEEP;
    loop {
        tokio::select! {
            biased;
            () = sleep_until(next) => next = court.borrow_mut().sweep_all(),
            vote = votes.recv() => {
                let Some(backend) = vote else { return };
                let mut pools = HashSet::from([backend.pool.clone()]);
                while let Ok(backend) = votes.try_recv() {
                    pools.insert(backend.pool.clone());
                }
                let mut court = court.borrow_mut();
                for pool in pools {
                    court.sweep(&pool);
                }
            }
        }
    }
}

impl Court {
    fn apply(&mut self, pools: &[Arc<Pool>]) {
        let mut before = std::mem::take(&mut self.pools);
        let mut gone: HashMap<u64, Arc<BackendState>> = HashMap::new();
        for judging in before.values() {
            let members = judging.pool.members.iter().map(|member| &member.state);
            gone.extend(members.map(|state| (state.id, state.clone())));
        }
        for pool in pools {
            let name = pool.config.name.clone();
            let mut judging = before.remove(&name).unwrap_or_else(|| Judging {
                pool: pool.clone(),
                judge: Judge::default(),
                more: HashMap::new(),
            });
            judging.pool = pool.clone();
            let kept: HashSet<u64> = pool.members.iter().map(|member| member.state.id).collect();
            gone.retain(|id, _| !kept.contains(id));
            judging.more.retain(|id, _| kept.contains(id));
            self.pools.insert(name.clone(), judging);
            self.sweep(&name);
        }
        for state in gone.into_values().filter(|state| state.has(Reason::Ejected)) {
            state.set_trial(Trial::None);
            self.standing.change(&state, &[], &[Reason::Ejected], "it has left its pool");
        }
    }

    /// When to sweep next.
    fn sweep_all(&mut self) -> Instant {
        let names: Vec<Name> = self.pools.keys().cloned().collect();
        for name in &names {
            self.sweep(name);
        }
        let due = self.pools.values().filter_map(|judging| judging.judge.due()).min();
        let usual = Instant::now() + SWEEP;
        due.map_or(usual, |due| usual.min(Instant::from_std(self.epoch + due)).max(Instant::now()))
    }

    fn sweep(&mut self, pool: &Name) {
        let now = Instant::now().into_std().duration_since(self.epoch);
        // A backend may outlive its pool.
        let Some(judging) = self.pools.get_mut(pool) else { return };
        let pool = judging.pool.clone();
        let Some(outlier) = &pool.config.outlier else {
            for order in judging.judge.off() {
                judging.obey(&order, &self.standing, now);
            }
            judging.more.clear();
            pool.state.set_trials(0);
            return;
        };
        let failover = &pool.config.failover;
        let manual = failover.mode == FailoverMode::Manual;
        let rules = Rules { outlier, manual, exclusive: failover.exclusive };
        let seen: Vec<Seen> = pool.members.iter().map(|m| judging.see(&rules, m, now)).collect();
        for order in judging.judge.sweep(&rules, &seen, now, &mut self.rng) {
            judging.obey(&order, &self.standing, now);
        }
        judging.compare(&seen, now);
        let armed = pool.members.iter().filter(|member| {
            member.state.has(Reason::Ejected)
                && member.state.has_trial()
                && pool.may_try(member.tier)
        });
        pool.state.set_trials(armed.count() as u32);
    }
}

impl Judging {
    fn see(&mut self, rules: &Rules<'_>, member: &Member, now: Duration) -> Seen {
        let Member { state, weight, tier, .. } = member;
        let more = self.more.entry(state.id).or_default();
        let checked = self.pool.config.health_check.is_some();
        let fails = state.has(Reason::Down) || state.has(Reason::Unverified);
        let trial = state.trial();
        more.reached = (trial == Trial::Reached).then(|| more.reached.unwrap_or(now));
        let silent = more.reached.is_some_and(|since| now.saturating_sub(since) >= SILENT);
        let good = state.cells.sum(|cells| cells.good.get());
        Seen {
            id: state.id,
            tier: *tier,
            takes: *weight > 0,
            otherwise: !state.any(Reasons::BUT_EJECTED),
            passing: checked.then_some(!fails),
            changes: state.probes.changes.get(),
            good: good.wrapping_sub(state.cells.sum(|cells| cells.broken.get())),
            bad: state.cells.sum(|cells| cells.bad.get()),
            failing: state.failing(),
            failed_at: Duration::from_nanos(state.failed_at_nanos()),
            median: more.median(rules, state, now),
            trial: match trial {
                Trial::Passed => Some(true),
                Trial::Failed => Some(false),
                Trial::Reached if silent => Some(true),
                Trial::None | Trial::Safe | Trial::Any | Trial::Taken | Trial::Reached => None,
            },
            on_trial: matches!(trial, Trial::Taken | Trial::Reached),
            asked: *weight > 0 && self.pool.may_try(*tier),
        }
    }

    fn obey(&self, order: &Order, standing: &Standing, now: Duration) {
        // One of this pool's, or of what it was before: nobody is left to tell.
        let mut members = self.pool.members.iter().map(|member| &member.state);
        let Some(state) = members.find(|state| state.id == order.id()) else { return };
        let (pool, backend) = (&state.pool, state.addr);
        let ended = state.trial();
        match order {
            Order::Trial { any: false, .. } => state.set_trial(Trial::Safe),
            Order::Trial { any: true, .. } => {
                // Unless a request has taken it in the meantime.
                state.move_trial(Trial::Safe, Trial::Any);
            }
            Order::Eject { why, until, .. } => {
                let time = until.saturating_sub(now);
                state.set_trial(Trial::None);
                let reason = why.to_string();
                standing.change(state, &[Reason::Ejected], &[], &reason);
                state.passive.ejections[why.index()].inc();
                state.passive.cause.set(why.index() as u64);
                state.passive.until_millis.set(millis_since_1970(time));
                let (cause, for_ms) = (why.label(), time.as_millis() as u64);
                tracing::warn!(%pool, %backend, cause, reason, for_ms, "backend is ejected");
            }
            Order::Back { why, .. } => {
                state.set_trial(Trial::None);
                let reason = why.to_string();
                standing.change(state, &[], &[Reason::Ejected], &reason);
                tracing::info!(%pool, %backend, reason, "backend is no longer ejected");
            }
        }
        match (order, ended) {
            (Order::Trial { .. }, _) => {}
            (_, Trial::Passed | Trial::Reached) => state.passive.trials_passed.inc(),
            (_, Trial::Failed) => state.passive.trials_failed.inc(),
            (_, Trial::None | Trial::Safe | Trial::Any | Trial::Taken) => {}
        }
    }

    /// Of what probes and traffic say.
    fn compare(&mut self, seen: &[Seen], now: Duration) {
        for ((id, traffic), seen) in self.judge.verdicts().zip(seen) {
            let Some(more) = self.more.get_mut(&id) else { continue };
            let Some(change) = more.agreement.observe(seen.passing, traffic, now) else { continue };
            let mut members = self.pool.members.iter().map(|member| &member.state);
            let Some(state) = members.find(|state| state.id == id) else { continue };
            let (pool, backend) = (&state.pool, state.addr);
            state.passive.disagreement.set(u64::from(change != Change::Agree));
            match change {
                Change::Disagree { passing: true } => tracing::warn!(
                    %pool, %backend,
                    "health check and traffic disagree: probes pass, and requests fail"
                ),
                Change::Disagree { passing: false } => tracing::warn!(
                    %pool, %backend,
                    "health check and traffic disagree: probes fail, and requests are answered"
                ),
                Change::Agree => {
                    tracing::info!(%pool, %backend, "health check and traffic agree again");
                }
            }
        }
    }
}

impl More {
    fn median(
        &mut self,
        rules: &Rules<'_>,
        state: &BackendState,
        now: Duration,
    ) -> Option<(Duration, u64)> {
        if rules.outlier.latency_times.is_none() {
            self.times = None;
            return None;
        }
        let mut counts = [0; TIMES];
        for times in state.cells.iter().filter_map(|cells| cells.times.get()) {
            times.add_to(&mut counts);
        }
        let window = self.times.get_or_insert_with(|| Window::new(counts, now));
        window.observe(counts, now, rules.outlier.window);
        median(&window.counted())
    }
}

fn millis_since_1970(from_now: Duration) -> u64 {
    let at = SystemTime::now() + from_now;
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::time::sleep;

    use super::*;
    use crate::config::defaults;
    use crate::config::model;
    use crate::pool::pick::{Ask, Tried};
    use crate::pool::{Lease, Picker, sample};

    const MS: Duration = Duration::from_millis(1);

    struct Bench {
        outliers: Outliers,
        votes: UnboundedSender<Arc<BackendState>>,
        pool: Arc<Pool>,
        picker: Rc<Picker>,
    }

    impl Bench {
        /// Of so many backends, and what is not as usual.
        fn new(backends: usize, change: impl FnOnce(&mut model::Pool)) -> Bench {
            let pool = changed(&sample::pool(model::Balance::First, &vec![1; backends]), change);
            let (votes, voted) = unbounded_channel();
            let standing = Standing::alone();
            let epoch = Instant::now().into_std();
            let rng = fastrand::Rng::with_seed(crate::health::seed());
            let mut outliers = Outliers::new(standing, epoch, voted, rng);
            outliers.apply(std::slice::from_ref(&pool));
            let picker = Rc::new(Picker::new(pool.clone()));
            Bench { outliers, votes, pool, picker }
        }

        fn pick(&self) -> Lease {
            let ask = Ask { safe: true, ..Ask::default() };
            self.picker.pick(ask, &Tried::default()).expect("somebody serves")
        }

        fn state(&self, index: usize) -> &Arc<BackendState> {
            &self.pool.members[index].state
        }

        /// As `flow::judge` does it.
        fn fail(&self, lease: Lease) {
            let (row, _) = lease.failed(1, false);
            lease.backend().cells.of(0).bad.inc();
            if row % 5 == 0 || lease.on_trial() {
                self.votes.send(lease.shared_backend().clone()).expect("the task lives");
            }
        }

        async fn eject_first(&self) {
            (0..5).for_each(|_| self.fail(self.pick()));
            sleep(MS).await;
            assert!(self.state(0).has(Reason::Ejected), "at once");
        }
    }

    fn changed(pool: &Pool, change: impl FnOnce(&mut model::Pool)) -> Arc<Pool> {
        let mut config = pool.config.clone();
        change(&mut config);
        let members = pool.members.iter().map(|member| Member::new(member.state.clone(), 1));
        Arc::new(Pool::new(config, members.collect(), pool.state.clone()))
    }

    fn off(pool: &mut model::Pool) {
        pool.outlier = None;
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn out_at_once_and_back_by_a_trial() {
        let bench = Bench::new(2, |_| {});
        bench.eject_first().await;
        assert_eq!(bench.pick().index(), 1);
        assert_eq!(bench.state(0).passive.ejections[0].get(), 1);
        sleep(Duration::from_secs(12)).await;
        let trial = bench.pick();
        assert!(trial.on_trial() && trial.index() == 0);
        assert!(!bench.pick().on_trial());
        bench.fail(trial);
        sleep(Duration::from_secs(17)).await;
        assert!(!bench.pick().on_trial(), "twice as long");
        sleep(Duration::from_secs(6)).await;
        let trial = bench.pick();
        assert!(trial.on_trial());
        trial.went_well();
        drop(trial);
        sleep(SWEEP).await;
        assert!(bench.state(0).serving());
        assert_eq!(bench.state(0).back_at_nanos().map(|at| at > 0), Some(true));
        assert_eq!(bench.pool.state.trials(), 0);
        let passive = &bench.state(0).passive;
        assert_eq!((passive.trials_passed.get(), passive.trials_failed.get()), (1, 1));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_stream_or_an_answer_that_goes_on_for_a_while_is_well() {
        let bench = Bench::new(2, |_| {});
        bench.eject_first().await;
        sleep(Duration::from_secs(12)).await;
        let trial = bench.pick();
        trial.reached();
        sleep(Duration::from_secs(1)).await;
        assert!(!bench.state(0).serving());
        sleep(Duration::from_secs(2)).await;
        assert!(bench.state(0).serving());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn the_last_one_is_never_out_and_one_that_was_is_back_when_the_others_go() {
        let bench = Bench::new(2, |_| {});
        bench.eject_first().await;
        bench.state(1).set(Reason::Down);
        assert_eq!(bench.pick().index(), 0, "without waiting for anybody");
        sleep(SWEEP * 2).await;
        assert!(bench.state(0).serving());
        (0..50).for_each(|_| bench.fail(bench.pick()));
        sleep(SWEEP * 2).await;
        assert!(bench.state(0).serving());
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_reload_forgets_nothing_and_off_ends_it() {
        let mut bench = Bench::new(2, |_| {});
        bench.eject_first().await;
        let same = changed(&bench.pool, |config| config.keepalive = defaults::KEEPALIVE);
        bench.outliers.apply(std::slice::from_ref(&same));
        sleep(Duration::from_secs(1)).await;
        assert!(bench.state(0).has(Reason::Ejected));
        bench.outliers.apply(&[changed(&same, off)]);
        assert!(bench.state(0).serving());
        (0..50).for_each(|_| bench.fail(bench.pick()));
        sleep(SWEEP * 2).await;
        assert!(bench.state(0).serving(), "nobody judges");
        bench.outliers.apply(std::slice::from_ref(&same));
        sleep(SWEEP * 2).await;
        assert!(bench.state(0).serving(), "what was before is not held against it");
        bench.eject_first().await;
        bench.outliers.apply(&[]);
        assert!(bench.state(0).serving(), "its pool is gone");
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn probes_that_pass_while_traffic_fails_are_told_of() {
        let check = model::HealthCheck {
            kind: model::ProbeKind::Tcp { send: None, expect: None },
            interval: defaults::PROBE_INTERVAL,
            interval_unsettled: defaults::PROBE_INTERVAL_UNSETTLED,
            timeout: defaults::PROBE_TIMEOUT,
            fall: 3,
            rise: 2,
            initial: model::Initial::Up,
            port: None,
            address: None,
            tls: None,
            introduce: None,
        };
        let bench = Bench::new(1, |config| config.health_check = Some(check));
        let disagreement = || bench.state(0).passive.disagreement.get();
        for second in 0..40 {
            bench.fail(bench.pick());
            sleep(Duration::from_secs(1)).await;
            assert_eq!(disagreement(), u64::from(second >= 30), "after {second} s");
        }
        for _ in 0..12 {
            bench.pick().went_well();
            bench.state(0).cells.of(0).good.inc();
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(disagreement(), 0);
    }
}
