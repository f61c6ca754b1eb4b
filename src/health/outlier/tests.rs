//! The judge by table, and a pool whose backends fail at random in thousands of seeded simulations.

use super::judged::length;
use super::*;
use crate::config::defaults::OUTLIER;
use crate::health::seed;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn rules(outlier: &Outlier) -> Rules<'_> {
    Rules { outlier, manual: false, exclusive: false }
}

fn seen(id: u64, tier: u8) -> Seen {
    Seen {
        id,
        tier,
        takes: true,
        otherwise: true,
        passing: None,
        changes: 0,
        good: 0,
        bad: 0,
        failing: 0,
        failed_at: Duration::ZERO,
        median: None,
        trial: None,
        on_trial: false,
        asked: true,
    }
}

/// A judge of some backends, and what is seen of them.
struct Bench {
    judge: Judge,
    seen: Vec<Seen>,
    outlier: Outlier,
    manual: bool,
    exclusive: bool,
    now: Duration,
    rng: fastrand::Rng,
}

impl Bench {
    /// One backend a tier that is named; ids from 1 on.
    fn new(tiers: &[u8]) -> Bench {
        let seen = (1..).zip(tiers).map(|(id, &tier)| seen(id, tier)).collect();
        let mut bench = Bench {
            judge: Judge::default(),
            seen,
            outlier: OUTLIER,
            manual: false,
            exclusive: false,
            now: SECOND,
            rng: fastrand::Rng::with_seed(seed()),
        };
        assert_eq!(bench.sweep(), []);
        bench
    }

    fn sweep(&mut self) -> Vec<Order> {
        let (manual, exclusive) = (self.manual, self.exclusive);
        let rules = Rules { outlier: &self.outlier, manual, exclusive };
        let orders = self.judge.sweep(&rules, &self.seen, self.now, &mut self.rng);
        for seen in &mut self.seen {
            seen.trial = None;
        }
        orders
    }

    fn after(&mut self, time: Duration) -> Vec<Order> {
        self.now += time;
        self.sweep()
    }

    fn of(&mut self, id: u64) -> &mut Seen {
        &mut self.seen[id as usize - 1]
    }

    fn fails(&mut self, id: u64, times: u32) {
        let now = self.now;
        let seen = self.of(id);
        seen.bad += u64::from(times);
        seen.failing += times;
        seen.failed_at = now;
    }

    fn answers(&mut self, id: u64, times: u64) {
        let seen = self.of(id);
        seen.good += times;
        seen.failing = 0;
    }

    /// Whom it takes out now, and why.
    fn ejected(&mut self) -> Vec<(u64, &'static str)> {
        let orders = self.sweep();
        let out = orders.iter().filter_map(|order| match order {
            Order::Eject { id, why, .. } => Some((*id, why.label())),
            Order::Trial { .. } | Order::Back { .. } => None,
        });
        out.collect()
    }
}

#[test]
fn five_failures_in_a_row_are_one_too_many_and_an_answer_ends_the_row() {
    let mut bench = Bench::new(&[0, 0]);
    bench.fails(1, 4);
    assert_eq!(bench.ejected(), []);
    bench.answers(1, 1);
    bench.fails(1, 4);
    assert_eq!(bench.ejected(), []);
    bench.fails(1, 1);
    assert_eq!(bench.ejected(), [(1, "consecutive")]);
    assert_eq!(bench.ejected(), [], "once");
}

#[test]
fn a_share_counts_from_enough_requests_in_the_window() {
    let mut bench = Bench::new(&[0, 0]);
    for _ in 0..9 {
        bench.fails(1, 1);
        bench.answers(1, 1);
    }
    assert_eq!(bench.ejected(), [], "18 are too few");
    bench.now += 15 * SECOND;
    bench.sweep();
    bench.answers(1, 11);
    bench.fails(1, 9);
    bench.of(1).failing = 0;
    assert_eq!(bench.ejected(), [], "9 of 20 is under a half");
    bench.answers(1, 1);
    bench.fails(1, 3);
    assert_eq!(bench.ejected(), [(1, "share")]);
}

#[test]
fn a_slow_one_is_out_where_latency_counts() {
    for (times, medians, expected) in [
        (Some(4.0), [10, 11, 41], vec![]),
        (Some(4.0), [10, 11, 45], vec![(3, "latency")]),
        (None, [10, 11, 4500], vec![]),
        (Some(4.0), [45, 11, 11], vec![(1, "latency")]),
    ] {
        let mut bench = Bench::new(&[0, 0, 0]);
        bench.outlier.latency_times = times;
        for (id, median) in (1..).zip(medians) {
            bench.of(id).median = Some((median * MS, 20));
        }
        assert_eq!(bench.ejected(), expected, "{times:?} {medians:?}");
    }
    let mut bench = Bench::new(&[0, 0, 1]);
    bench.outlier.latency_times = Some(2.0);
    bench.of(2).median = Some((900 * MS, 19));
    bench.of(3).median = Some((900 * MS, 20));
    bench.of(1).median = Some((MS / 10, 20));
    assert_eq!(bench.ejected(), [], "too few, and a tier of its own");
    bench.of(2).median = Some((MS, 20));
    assert_eq!(bench.ejected(), [], "under two milliseconds nobody is slow");
    bench.of(2).median = Some((3 * MS, 20));
    assert_eq!(bench.ejected(), [(2, "latency")], "of two the better one is the measure");
}

#[test]
fn the_last_that_serves_stays_and_standby_tiers_count() {
    let mut pair = Bench::new(&[0, 1]);
    pair.fails(1, 5);
    assert_eq!(pair.ejected(), [(1, "consecutive")]);
    pair.fails(2, 50);
    assert_eq!(pair.ejected(), []);

    let mut manual = Bench::new(&[0, 1]);
    manual.manual = true;
    manual.fails(1, 5);
    assert_eq!(manual.ejected(), [], "nobody goes on to the standby by himself");

    let mut idle = Bench::new(&[0, 0]);
    idle.of(2).takes = false;
    idle.fails(1, 5);
    assert_eq!(idle.ejected(), [], "the other takes nothing");
}

#[test]
fn no_more_than_a_share_of_a_tier_and_the_worst_first() {
    for (backends, percent, most) in
        [(1, 50, 1), (2, 50, 1), (3, 50, 2), (4, 50, 2), (5, 10, 1), (4, 100, 4), (4, 1, 1)]
    {
        let mut tiers = vec![0; backends];
        tiers.push(1);
        let mut bench = Bench::new(&tiers);
        bench.outlier.eject_at_most = percent;
        for id in 1..=backends as u64 {
            bench.fails(id, 5 + id as u32);
        }
        let out: Vec<u64> = bench.ejected().into_iter().map(|(id, _)| id).collect();
        let worst: Vec<u64> = (1..=backends as u64).rev().take(most).collect();
        assert_eq!(out, worst, "{percent} % of {backends}");
    }
}

#[test]
fn ejections_double_and_a_trial_ends_them() {
    let mut bench = Bench::new(&[0, 0]);
    bench.fails(1, 5);
    let mut orders = bench.sweep();
    for seconds in [10, 20, 40, 80, 160, 300, 300] {
        let Order::Eject { id: 1, until, .. } = orders[0] else { panic!("{orders:?}") };
        let (out, base) = ((until - bench.now).as_secs_f64(), f64::from(seconds));
        assert!(out >= base * 0.9 && out <= base * 1.1, "{out} for {base}");
        let (just_before, then) = (until - MS - bench.now, MS);
        assert_eq!(bench.after(just_before), []);
        assert_eq!(bench.after(then), [Order::Trial { id: 1, any: false }]);
        assert_eq!(bench.after(999 * MS), []);
        assert_eq!(bench.after(MS), [Order::Trial { id: 1, any: true }]);
        bench.of(1).on_trial = true;
        assert_eq!(bench.after(100 * SECOND), []);
        (bench.of(1).on_trial, bench.of(1).trial) = (false, Some(false));
        orders = bench.sweep();
    }
    let Order::Eject { until, why: Why::Trial, .. } = orders[0] else { panic!("{orders:?}") };
    bench.now = until;
    bench.sweep();
    bench.of(1).trial = Some(true);
    bench.of(1).failing = 0;
    assert_eq!(bench.after(SECOND), [Order::Back { id: 1, why: Back::Trial }]);
    // It has learnt nothing, and the next one is as long as the last.
    bench.fails(1, 5);
    let Order::Eject { until, .. } = bench.after(SECOND)[0] else { panic!() };
    assert!((until - bench.now).as_secs() >= 270);
}

#[test]
fn a_row_of_ejections_is_forgotten_in_good_times() {
    let mut bench = Bench::new(&[0, 0]);
    for _ in 0..3 {
        bench.fails(1, 5);
        bench.sweep();
        bench.now += 400 * SECOND;
        bench.sweep();
        bench.of(1).trial = Some(true);
        bench.of(1).failing = 0;
        assert_eq!(bench.after(SECOND).len(), 1);
    }
    // The third was of 40 s: it takes as long, and 20 s and 10 s for those before.
    for _ in 0..75 {
        bench.answers(1, 1);
        bench.after(SECOND);
    }
    bench.fails(1, 5);
    let Order::Eject { until, .. } = bench.sweep()[0] else { panic!() };
    assert!((until - bench.now).as_secs() <= 11);
}

#[test]
fn the_ways_back_without_a_trial() {
    let out = |passing, asked| {
        let mut bench = Bench::new(&[0, 0]);
        bench.of(1).passing = passing;
        bench.of(1).asked = asked;
        bench.sweep();
        bench.fails(1, 5);
        bench.sweep();
        bench
    };
    let back = |why| vec![Order::Back { id: 1, why }];

    let mut bench = out(Some(true), true);
    assert_eq!(bench.after(11 * SECOND), [Order::Trial { id: 1, any: false }]);
    bench.after(2 * SECOND);
    assert_eq!(bench.after(7 * SECOND), []);
    assert_eq!(bench.after(SECOND), back(Back::Probes));

    let mut bench = out(None, true);
    bench.after(11 * SECOND);
    bench.after(SECOND);
    assert_eq!(bench.after(1000 * SECOND), [], "without a check it waits for a request");

    let mut bench = out(None, false);
    assert_eq!(bench.after(11 * SECOND), []);
    assert_eq!(bench.after(10 * SECOND), back(Back::Untried));

    let mut bench = out(Some(true), true);
    (bench.of(1).passing, bench.of(1).otherwise) = (Some(false), false);
    assert_eq!(bench.after(2 * SECOND), []);
    (bench.of(1).passing, bench.of(1).otherwise) = (Some(true), true);
    assert_eq!(bench.after(SECOND), back(Back::Recovered));
    assert_eq!(bench.after(SECOND), [], "what it failed of is paid for");

    let mut bench = out(Some(true), true);
    bench.exclusive = true;
    assert_eq!(bench.after(11 * SECOND), back(Back::Untried));

    let mut bench = out(Some(true), true);
    bench.of(2).otherwise = false;
    assert_eq!(bench.after(MS), back(Back::Alone));

    let mut bench = out(None, true);
    assert_eq!(bench.judge.off(), back(Back::Off));
    assert_eq!(bench.after(SECOND), []);
}

#[test]
fn a_flapping_one_stays_out_and_says_so() {
    let mut bench = Bench::new(&[0, 0]);
    let mut out = Vec::new();
    for flap in 0..4 {
        for passing in [false, true] {
            let seen = bench.of(1);
            (seen.passing, seen.otherwise) = (Some(passing), passing);
            seen.changes += 1;
            let orders = bench.after(SECOND);
            assert!(orders.is_empty() || flap == 3, "{flap}: {orders:?}");
            out.extend(orders);
        }
    }
    let [Order::Eject { id: 1, why: Why::Flapping(_), until }] = out[..] else { panic!("{out:?}") };
    assert!(until > bench.now + 50 * SECOND);
    assert_eq!(bench.after(30 * SECOND), []);
    assert_eq!(bench.after(90 * SECOND), [Order::Back { id: 1, why: Back::Quiet }]);
    assert_eq!(bench.after(SECOND), []);
}

/// One simulated backend.
#[derive(Clone, Debug)]
struct Fate {
    /// Times at which it turns bad or well again, and how it is before the first: well.
    turns: Vec<Duration>,
    /// Of its answers while it is bad, so many are failures.
    failing: f64,
    /// It is probed, and probes see what is wrong.
    probed: bool,
    /// When its trial ends.
    trial_ends: Option<Duration>,
    armed: bool,
    any: bool,
    out: bool,
    /// How long its ejections were, and what they were for.
    ejections: Vec<(Duration, &'static str)>,
}

impl Fate {
    fn draw(rng: &mut fastrand::Rng, end: Duration) -> Fate {
        let mut turns: Vec<Duration> = match rng.u32(0..10) {
            0..3 => Vec::new(),
            3..8 => (0..rng.u32(1..3)).map(|_| end.mul_f64(rng.f64())).collect(),
            _ => (0..rng.u32(4..20)).map(|_| end.mul_f64(rng.f64())).collect(),
        };
        turns.sort();
        let failing = if rng.bool() { 1.0 } else { 0.3 + 0.7 * rng.f64() };
        let probed = rng.u32(0..3) == 0;
        Fate {
            turns,
            failing,
            probed,
            trial_ends: None,
            armed: false,
            any: false,
            out: false,
            ejections: Vec::new(),
        }
    }

    fn is_bad(&self, now: Duration, end: Duration) -> bool {
        now < end && self.turns.iter().filter(|&&turn| turn <= now).count() % 2 == 1
    }
}

struct World {
    told: String,
    bench: Bench,
    fates: Vec<Fate>,
    /// Faults stop.
    end: Duration,
    /// Requests in a step.
    load: u32,
}

const STEP: Duration = Duration::from_millis(250);

impl World {
    fn draw(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let tiers: Vec<u8> = (0..rng.u32(1..7)).map(|_| rng.u8(0..3)).collect();
        let mut bench = Bench::new(&tiers);
        bench.outlier = Outlier {
            consecutive_failures: (rng.u32(0..4) > 0).then(|| rng.u32(1..8)),
            failure_share: (rng.u32(0..4) > 0).then(|| rng.u32(10..100)),
            min_requests: rng.u32(1..20),
            window: Duration::from_millis(rng.u64(500..8_000)),
            eject_for: Duration::from_millis(rng.u64(200..4_000)),
            eject_for_max: Duration::from_millis(rng.u64(4_000..16_000)),
            eject_at_most: rng.u32(1..101),
            flap_damping: rng.bool(),
            ..OUTLIER
        };
        bench.manual = rng.u32(0..4) == 0;
        bench.exclusive = rng.u32(0..6) == 0;
        let end = Duration::from_secs(rng.u64(10..40));
        let fates = tiers.iter().map(|_| Fate::draw(&mut rng, end)).collect();
        bench.rng = fastrand::Rng::with_seed(rng.u64(..));
        let load = rng.u32(1..10);
        let told = format!("seed {seed}: {tiers:?} {:?}", bench.outlier);
        World { told, bench, fates, end, load }
    }

    /// Who gets requests: the first tier with somebody serving; where nothing serves, what is only
    /// ejected as well.
    fn takers(&self) -> Vec<usize> {
        let of_tier = |tier: u8, with_out: bool| -> Vec<usize> {
            let all = self.bench.seen.iter().zip(&self.fates).enumerate();
            all.filter(|(_, (seen, fate))| {
                seen.tier == tier && seen.otherwise && (with_out || !fate.out)
            })
            .map(|(place, _)| place)
            .collect()
        };
        let tiers = if self.bench.manual { 0..1 } else { 0..3 };
        let mut by_tier = tiers.clone().map(|tier| of_tier(tier, false));
        by_tier.find(|members| !members.is_empty()).unwrap_or_else(|| {
            tiers.map(|tier| of_tier(tier, true)).find(|m| !m.is_empty()).unwrap_or_default()
        })
    }

    fn step(&mut self) {
        self.bench.now += STEP;
        let now = self.bench.now;
        for (seen, fate) in self.bench.seen.iter_mut().zip(&self.fates) {
            let passing = !fate.is_bad(now, self.end);
            if fate.probed {
                seen.changes += u64::from(seen.passing.is_some_and(|before| before != passing));
                seen.passing = Some(passing);
                seen.otherwise = passing;
            }
        }
        let takers = self.takers();
        for _ in 0..self.load {
            if takers.is_empty() {
                break;
            }
            let place = takers[self.bench.rng.usize(..takers.len())];
            self.request(place, now);
        }
        let active = takers.first().map_or(0, |&place| self.bench.seen[place].tier);
        for place in 0..self.fates.len() {
            self.trial(place, active, !takers.is_empty());
        }
        self.judge();
    }

    fn request(&mut self, place: usize, now: Duration) {
        let fate = &self.fates[place];
        let fails = fate.is_bad(now, self.end) && self.bench.rng.f64() < fate.failing;
        let id = self.bench.seen[place].id;
        if fails {
            self.bench.fails(id, 1)
        } else {
            self.bench.answers(id, 1)
        }
        let row = self.bench.seen[place].failing;
        if self
            .bench
            .outlier
            .consecutive_failures
            .is_some_and(|most| fails && row.is_multiple_of(most))
        {
            self.judge();
        }
    }

    fn trial(&mut self, place: usize, active: u8, load: bool) {
        let now = self.bench.now;
        let (seen, fate) = (&mut self.bench.seen[place], &mut self.fates[place]);
        seen.asked = if self.bench.manual { seen.tier == 0 } else { seen.tier <= active };
        if fate.trial_ends.is_some_and(|at| at <= now) {
            fate.trial_ends = None;
            seen.on_trial = false;
            let passed = !fate.is_bad(now, self.end);
            seen.trial = Some(passed);
            seen.failing = if passed { 0 } else { seen.failing + 1 };
        }
        if fate.armed && load && seen.asked && seen.otherwise && (fate.any || self.bench.rng.bool())
        {
            fate.armed = false;
            seen.on_trial = true;
            fate.trial_ends = Some(now + STEP * self.bench.rng.u32(0..8));
        }
    }

    fn judge(&mut self) {
        let before: Vec<bool> = self.fates.iter().map(|fate| fate.out).collect();
        let now = self.bench.now;
        for order in self.bench.sweep() {
            let told = &self.told;
            let place = order.id() as usize - 1;
            let fate = &mut self.fates[place];
            match order {
                Order::Eject { why, until, .. } => {
                    fate.out = true;
                    fate.armed = false;
                    fate.ejections.push((until - now, why.label()));
                }
                Order::Trial { any, .. } => {
                    assert!(fate.out && fate.trial_ends.is_none(), "{told} at {now:?}: {fate:?}");
                    assert!(!self.bench.exclusive, "{told}: a trial in an exclusive pool");
                    (fate.armed, fate.any) = (true, any);
                }
                Order::Back { .. } => {
                    assert!(fate.out, "{told} at {now:?}: {order:?} {fate:?}");
                    (fate.out, fate.armed) = (false, false);
                }
            }
        }
        self.check(&before);
    }

    fn check(&self, before: &[bool]) {
        let told = || format!("{} at {:?}", self.told, self.bench.now);
        let rules = rules(&self.bench.outlier);
        for tier in 0..3 {
            let of_tier =
                || self.bench.seen.iter().zip(&self.fates).filter(|(s, _)| s.tier == tier);
            let out = of_tier().filter(|(_, fate)| fate.out).count();
            assert!(out <= most_out(of_tier().count(), &rules), "{}: {out} of tier {tier}", told());
            let last_of = |all: &dyn Fn(&Seen) -> bool| {
                let all = || self.bench.seen.iter().zip(&self.fates).filter(|(s, _)| all(s));
                let serves = all().any(|(seen, fate)| seen.otherwise && !fate.out);
                serves || !all().any(|(seen, fate)| seen.otherwise && fate.out)
            };
            if self.bench.manual {
                assert!(last_of(&|seen| seen.tier == tier), "{}: the last of tier {tier}", told());
            } else {
                assert!(last_of(&|_| true), "{}: the last one is ejected", told());
            }
        }
        for ((fate, seen), before) in self.fates.iter().zip(&self.bench.seen).zip(before) {
            if fate.turns.is_empty() {
                assert!(!fate.out, "{}: {seen:?} was always well", told());
            }
            if let Some(&(out, why)) = fate.ejections.last()
                && fate.out
                && !before
                && why != "flapping"
            {
                let (least, most) = (length(1, &rules), rules.outlier.eject_for_max);
                assert!(
                    out >= least.mul_f64(0.899) && out <= most.mul_f64(1.101),
                    "{}: {out:?}",
                    told()
                );
            }
        }
    }
}

#[test]
fn whatever_fails_somebody_serves_and_in_the_end_all_do() {
    let first = seed();
    let cases = if std::env::var_os("EVENKEEL_SEED").is_some() { 1 } else { 2000 };
    let (mut ejections, mut flapping, mut trials) = (0, 0, 0);
    for seed in first..first + cases {
        let mut world = World::draw(seed);
        // After the last fault: the longest ejection and its trial, or the longest time of quiet.
        let patience = world.bench.outlier.eject_for_max * 2 + world.bench.outlier.eject_for * 4;
        while world.bench.now < world.end + patience + 10 * SECOND {
            world.step();
        }
        for (fate, seen) in world.fates.iter().zip(&world.bench.seen) {
            assert!(!fate.out, "{}: not back: {fate:?} {seen:?}", world.told);
            ejections += fate.ejections.len();
            flapping += fate.ejections.iter().filter(|(_, why)| *why == "flapping").count();
            trials += fate.ejections.iter().filter(|(_, why)| *why == "trial").count();
        }
    }
    if cases > 1 {
        let told =
            format!("{ejections} ejections, {flapping} for flapping, {trials} trials failed");
        assert!(
            ejections > 2000 && flapping > 30 && trials > 300,
            "the simulation is tame: {told}"
        );
    }
}

/// What fails everything is out after its fifth failure while others serve, whatever else goes on.
#[test]
fn a_dead_one_is_out_at_its_fifth_failure() {
    for seed in seed()..seed() + 100 {
        let mut world = World::draw(seed);
        world.bench.outlier = OUTLIER;
        (world.bench.manual, world.bench.exclusive) = (false, false);
        world.bench.seen = vec![seen(1, 0), seen(2, 0), seen(3, 0)];
        let mut rng = fastrand::Rng::with_seed(seed);
        world.fates = vec![Fate::draw(&mut rng, world.end); 3];
        for fate in &mut world.fates {
            (fate.turns, fate.probed, fate.failing) = (Vec::new(), false, 1.0);
        }
        world.load = rng.u32(5..40);
        let died = SECOND + 10 * SECOND.mul_f64(rng.f64());
        world.fates[1].turns = vec![died];
        while world.bench.now < died + 5 * SECOND {
            world.step();
        }
        let bad = world.bench.seen[1].bad;
        // A step's requests have been shared out by the time that it is known.
        assert!(world.fates[1].out && bad < 5 + u64::from(world.load), "seed {seed}: {bad}");
    }
}
