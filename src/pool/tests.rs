//! Picks in thousands of random pools: tiers, modes, caps, reasons and retries, each pick held against
//! what the words of the documents say, worked out anew the slow way.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::pick::{Ask, NoPick, Tried};
use super::queue::Place;
use super::{BackendAddr, BackendState, Lease, Member, Picker, Pool, PoolState, Reason, sample};
use crate::config::defaults;
use crate::config::model::{self, Balance, Failover, FailoverMode, HashBy, Name, WhenNoneServe};

fn seeds(usual: u64) -> impl Iterator<Item = fastrand::Rng> {
    let fixed = std::env::var("EVENKEEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = fixed.map_or(0..usual, |seed: u64| seed..seed + 1);
    seeds.map(|seed| {
        println!("EVENKEEL_SEED={seed}");
        fastrand::Rng::with_seed(seed)
    })
}

/// One of up to four tiers with up to five members each, some of weight 0, some capped.
fn random_pool(rng: &mut fastrand::Rng, failover: Failover, slow: Option<Duration>) -> Arc<Pool> {
    let ways = [
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::PeakEwma,
        Balance::Random,
        Balance::First,
        Balance::Hash(HashBy::Path),
    ];
    let name = Name::new("web").expect("a valid name");
    let balance = rng.choice(ways).expect("there are some");
    let config =
        model::Pool { balance, failover, slow_start: slow, ..defaults::pool(name.clone()) };
    let mut members = Vec::new();
    for tier in 0..rng.u8(1..=4) {
        for _ in 0..rng.usize(1..=5) {
            let port = 1000 + members.len() as u16;
            let addr = BackendAddr(([10, 0, 0, 1], port).into());
            let state = Arc::new(BackendState::new(name.clone(), addr, sample::WORKERS));
            let max_requests = rng.bool().then(|| rng.u32(1..4));
            // Tiers need not be numbered without gaps.
            members.push(Member {
                tier: tier * 2,
                max_requests,
                ..Member::new(state, rng.u32(0..4))
            });
        }
    }
    rng.shuffle(&mut members);
    Arc::new(Pool::new(config, members.into(), Arc::new(PoolState::new(sample::WORKERS))))
}

fn flip_reasons(pool: &Pool, rng: &mut fastrand::Rng) {
    for member in &pool.members {
        let reason = rng.choice(Reason::ALL).expect("there are some");
        if rng.u8(..4) == 0 {
            member.state.set(reason);
        } else {
            Reason::ALL.into_iter().filter(|_| rng.u8(..3) > 0).for_each(|reason| {
                member.state.clear(reason);
            });
        }
    }
}

/// Members in the order in which the pool may use them: tier by tier from the floor, then round.
fn order(pool: &Pool) -> Vec<Vec<usize>> {
    let mut tiers: Vec<Vec<usize>> =
        pool.tiers.iter().map(|tier| tier.places.clone().collect()).collect();
    let floor = pool.tiers.iter().position(|tier| tier.number >= pool.state.floor());
    tiers.rotate_left(floor.unwrap_or(0));
    if pool.config.failover.mode == FailoverMode::Manual {
        tiers.truncate(1);
    }
    tiers
}

fn binding(reason: Reason) -> bool {
    matches!(reason, Reason::Disabled | Reason::Draining | Reason::WrongRole)
}

/// What a pick should come to: the first tier that has somebody, of these; or why there is nobody.
fn expected(
    pool: &Pool,
    ask: Ask,
    (tried, last): (&Tried, bool),
    held: &HashMap<usize, u32>,
) -> Result<Vec<usize>, NoPick> {
    let failover = &pool.config.failover;
    let tiers = order(pool);
    let serving = |&at: &usize| {
        let Member { state, weight, .. } = &pool.members[at];
        *weight > 0 && state.serving()
    };
    let usable = |&at: &usize| {
        let Member { state, weight, .. } = &pool.members[at];
        *weight > 0 && !state.reasons().any(binding)
    };
    let only_ejected = |at: &usize| {
        let Member { state, weight, .. } = &pool.members[*at];
        *weight > 0 && state.reasons().all(|reason| reason == Reason::Ejected)
    };
    let none_serves = !tiers.iter().flatten().any(serving);
    let some_ejected = tiers.iter().flatten().any(only_ejected);
    let all = none_serves && failover.when_none_serve == WhenNoneServe::TryAll;
    let counts = |at: &usize| match none_serves {
        true if some_ejected => only_ejected(at),
        true if all => usable(at),
        _ => serving(at),
    };
    let room = |at: &usize| {
        let held = held.get(at).copied().unwrap_or(0);
        pool.members[*at].max_requests.is_none_or(|most| held < most)
    };
    let quiet = |at: &usize| {
        let state = &pool.members[*at].state;
        let ago = ask.now_nanos.saturating_sub(state.failed_at_nanos());
        state.failing() == 0 || ago > 5_000_000_000
    };
    let sound = |at: &&usize| serving(at) && quiet(at);
    let fit = |at: &&usize| counts(at) && !tried.has(**at) && room(at);
    let had = (0..pool.members.len()).any(|at| tried.has(at));
    let elsewhere = tiers.iter().filter(|tier| last && !tier.iter().any(|&at| tried.has(at)));
    for tier in elsewhere.chain(&tiers).filter(|_| had && (tiers.len() > 1 || last)) {
        let fit: Vec<usize> = tier.iter().filter(fit).filter(sound).copied().collect();
        if !fit.is_empty() {
            return Ok(fit);
        }
    }
    // The last attempt had better go to one that is out than to one that fails.
    for tier in tiers.iter().filter(|_| last) {
        let out = |at: &&usize| only_ejected(at) && quiet(at) && !tried.has(**at) && room(at);
        let fit: Vec<usize> = tier.iter().filter(out).copied().collect();
        if !fit.is_empty() {
            return Ok(fit);
        }
    }
    for tier in &tiers {
        let fit: Vec<usize> = tier.iter().filter(fit).copied().collect();
        if !fit.is_empty() {
            return Ok(fit);
        }
    }
    let left: Vec<usize> = tiers.into_iter().flatten().filter(counts).collect();
    Err(match left.iter().any(|&at| !tried.has(at)) {
        true => NoPick::Full,
        false if left.is_empty() => NoPick::NoneServing,
        false => NoPick::AllTried,
    })
}

#[test]
fn every_pick_is_what_the_words_say() {
    for mut rng in seeds(1500) {
        let mode = if rng.u8(..4) == 0 { FailoverMode::Manual } else { FailoverMode::Automatic };
        let when_none_serve =
            if rng.bool() { WhenNoneServe::Reject } else { WhenNoneServe::TryAll };
        let failover = Failover { mode, when_none_serve, ..defaults::FAILOVER };
        let slow = rng.bool().then_some(Duration::from_secs(10));
        let pool = random_pool(&mut rng, failover, slow);
        let picker = Rc::new(Picker::new(pool.clone()));
        let mut leases: Vec<Lease> = Vec::new();
        for _ in 0..60 {
            match rng.u8(..7) {
                0 => flip_reasons(&pool, &mut rng),
                1 => pool.state.set_floor(rng.u8(..9)),
                2 if !leases.is_empty() => drop(leases.swap_remove(rng.usize(..leases.len()))),
                3 => {
                    let member = &pool.members[rng.usize(..pool.members.len())];
                    member.state.came_back(rng.u64(..20_000_000_000));
                    member.state.spare_until(rng.u64(..20_000_000_000));
                    pool.state.spare_until(20_000_000_000);
                }
                4 => {
                    let member = &pool.members[rng.usize(..pool.members.len())];
                    member.state.late(rng.u64(..20_000_000_000));
                }
                _ => {
                    let mut tried = Tried::default();
                    let (mut held, mut used) = (HashMap::new(), 0);
                    for lease in &leases {
                        *held.entry(lease.index()).or_insert(0) += 1;
                        if rng.u8(..5) == 0 {
                            tried.add(lease);
                            used += 1;
                        }
                    }
                    let draw = rng.u64(..);
                    let now_nanos = rng.u64(..20_000_000_000);
                    let ask = Ask { key: Some(draw), draw, now_nanos, safe: true };
                    let attempts = rng.u32(..5);
                    tried.of_attempts(attempts);
                    let last = attempts > 0 && used >= 2 && used + 1 >= attempts;
                    let expected = expected(&pool, ask, (&tried, last), &held);
                    match (picker.pick(ask, &tried), expected) {
                        (Ok(lease), Ok(fit)) => {
                            assert!(fit.contains(&lease.index()), "{} of {fit:?}", lease.index());
                            leases.push(lease);
                        }
                        (Err(why), Err(expected)) => assert_eq!(why, expected),
                        (picked, expected) => {
                            panic!("{:?}, not {expected:?}", picked.map(|lease| lease.index()));
                        }
                    }
                }
            }
        }
        drop(leases);
        assert!(pool.members.iter().all(|member| member.state.in_flight() == 0));
    }
}

#[test]
fn an_exclusive_pool_uses_the_chosen_one_alone() {
    for mut rng in seeds(300) {
        let failover = Failover { exclusive: true, ..defaults::FAILOVER };
        let pool = random_pool(&mut rng, failover, None);
        let picker = Rc::new(Picker::new(pool.clone()));
        let mut chosen = None;
        for _ in 0..40 {
            match rng.u8(..3) {
                0 => flip_reasons(&pool, &mut rng),
                1 => {
                    let id = |rng: &mut fastrand::Rng| {
                        pool.members[rng.usize(..pool.members.len())].state.id
                    };
                    chosen = rng.bool().then(|| id(&mut rng));
                    pool.state.choose(chosen);
                }
                _ => {
                    let ask = Ask { draw: rng.u64(..), safe: true, ..Ask::default() };
                    let is = |member: &&Member| Some(member.state.id) == chosen;
                    let serves = pool.members.iter().find(is).is_some_and(|m| m.state.serving());
                    match picker.pick(ask, &Tried::default()) {
                        Ok(lease) => assert_eq!(Some(lease.backend().id), chosen),
                        Err(why) => {
                            assert_eq!(why, NoPick::NoneServing);
                            assert!(!serves);
                        }
                    }
                    for at in 0..pool.members.len() {
                        let stuck = picker.stick(at);
                        assert!(stuck.is_none_or(|lease| Some(lease.backend().id) == chosen));
                    }
                }
            }
        }
    }
}

/// A tier of ten that loses one member after the other: what spills grows by a tenth of the share, and
/// never by a leap.
#[test]
fn a_tier_that_falls_under_its_share_spills_in_proportion() {
    let failover = Failover { spill_below: Some(50), ..defaults::FAILOVER };
    let name = Name::new("web").expect("a valid name");
    let config = model::Pool { failover, ..defaults::pool(name.clone()) };
    let member = |n: u16| {
        let addr = BackendAddr(([10, 0, 0, 1], n).into());
        let state = Arc::new(BackendState::new(name.clone(), addr, 1));
        Member { tier: u8::from(n >= 10), ..Member::new(state, 1) }
    };
    let state = Arc::new(PoolState::new(1));
    let pool = Arc::new(Pool::new(config, (0..12).map(member).collect(), state));
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut rng = fastrand::Rng::with_seed(7);
    for lost in 0..=10_u32 {
        let picks = 4000;
        let mut kept = 0;
        for _ in 0..picks {
            let now_nanos = u64::from(lost) * 1_000_000_000;
            let ask = Ask { draw: rng.u64(..), now_nanos, ..Ask::default() };
            let lease = picker.pick(ask, &Tried::default()).expect("somebody serves");
            kept += usize::from(lease.index() < 10);
        }
        let expected = (f64::from(10 - lost) / 5.0).min(1.0);
        let share = kept as f64 / picks as f64;
        assert!((share - expected).abs() < 0.03, "{lost} lost: {share}, not {expected}");
        if lost < 10 {
            pool.members[lost as usize].state.set(Reason::Down);
        }
    }
}

/// Of two equal members one has come back: its share grows from a tenth of its own to all of it.
#[test]
fn one_that_has_come_back_is_given_more_and_more() {
    let usual = sample::pool(Balance::RoundRobin, &[1, 1]);
    let slow_start = Some(Duration::from_secs(10));
    let config = model::Pool { slow_start, ..usual.config.clone() };
    let members = usual.members.iter().map(|member| Member::new(member.state.clone(), 1));
    let pool = Arc::new(Pool::new(config, members.collect(), usual.state.clone()));
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut share = |seconds: f64, count: usize| {
        let now_nanos = (seconds * 1e9) as u64;
        let picked = (0..count).filter(|_| {
            let ask = Ask { draw: rng.u64(..), now_nanos, ..Ask::default() };
            picker.pick(ask, &Tried::default()).expect("both serve").index() == 1
        });
        picked.count() as f64 / count as f64
    };
    assert!((share(50.0, 2000) - 0.5).abs() < 0.01, "at process start there is no ramp");
    pool.members[1].state.came_back(100_000_000_000);
    let mut before = 0.0;
    for seconds in [100.0, 102.0, 104.0, 106.0, 108.0, 110.0] {
        let now = share(seconds, 4000);
        assert!(now > before, "{seconds}: {now} after {before}");
        before = now;
    }
    assert!((before - 0.5).abs() < 0.01, "{before}");
    let first = share(100.0, 4000);
    assert!(first < 0.12, "{first}");
    // Alone it takes everything at once.
    pool.members[0].state.set(Reason::Down);
    assert_eq!(share(100.0, 100), 1.0);
}

#[test]
fn a_queue_is_in_order_and_whoever_leaves_makes_room_for_the_next() {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicU64);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    for mut rng in seeds(300) {
        let state = Arc::new(PoolState::new(1));
        let most = rng.usize(1..20);
        // In the order in which they should be served.
        let mut line: Vec<(i32, u64, Place, Arc<Count>)> = Vec::new();
        for came in 0..100 {
            if rng.bool() {
                let priority = rng.i32(-1..2);
                let place = Place::take(&state, priority, most);
                assert_eq!(place.is_some(), line.len() < most);
                if let Some(place) = place {
                    line.push((-priority, came, place, Arc::default()));
                    line.sort_by_key(|waits| (waits.0, waits.1));
                }
            } else if !line.is_empty() {
                let at = rng.usize(..line.len());
                let first = line.first().map(|first| first.1);
                for (_, came, place, count) in &line {
                    let waker = Waker::from(count.clone());
                    assert_eq!(place.is_first(&waker), Some(*came) == first);
                    count.0.store(0, Ordering::Relaxed);
                }
                match rng.bool() {
                    true => state.waiting.wake(),
                    false => drop(line.remove(at)),
                }
                let woken: Vec<u64> =
                    line.iter().map(|waits| waits.3.0.load(Ordering::Relaxed)).collect();
                let expected: Vec<u64> = (0..line.len()).map(|at| u64::from(at == 0)).collect();
                assert_eq!(woken, expected, "the first is woken, and nobody else");
            }
            assert_eq!(state.waiting.len(), line.len());
        }
        drop(line);
        assert!(state.waiting.is_empty());
    }
}
