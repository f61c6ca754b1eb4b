//! What holds for every way to balance, and the shares that each promises.

use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::config::model::{Balance, HashBy};
use crate::pool::pick::{Ask, Tried};
use crate::pool::{Lease, Picker, Pool, Reason, sample};

const WAYS: [Balance; 6] = [
    Balance::RoundRobin,
    Balance::LeastRequests,
    Balance::PeakEwma,
    Balance::Random,
    Balance::First,
    Balance::Hash(HashBy::Path),
];

/// The same cases in every run; `EVENKEEL_SEED` asks for others.
fn seed() -> u64 {
    std::env::var("EVENKEEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42)
}

fn config() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(seed());
    ProptestConfig { cases: 48, failure_persistence: None, rng_seed, ..Default::default() }
}

fn ask(rng: &mut fastrand::Rng) -> Ask {
    Ask { key: Some(rng.u64(..)), draw: rng.u64(..), now_nanos: 0, safe: true }
}

fn pick(picker: &Rc<Picker>, rng: &mut fastrand::Rng) -> Option<usize> {
    picker.pick(ask(rng), &Tried::default()).ok().map(|lease| lease.index())
}

/// How often each member is picked when every request has ended before the next.
fn counts(pool: &Arc<Pool>, picks: usize, rng: &mut fastrand::Rng) -> Vec<usize> {
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut counts = vec![0; pool.members.len()];
    for _ in 0..picks {
        counts[pick(&picker, rng).expect("somebody serves")] += 1;
    }
    counts
}

fn put_down(pool: &Pool, down: &[bool]) {
    for (member, _) in pool.members.iter().zip(down).filter(|(_, down)| **down) {
        member.state.set(Reason::Down);
    }
}

/// Shares within five standard deviations of what the weights of those that serve say.
fn assert_shares(pool: &Pool, counts: &[usize], slack: f64) {
    let weight = |i: usize| {
        let member = &pool.members[i];
        if member.state.serving() { f64::from(member.weight) } else { 0.0 }
    };
    let total: f64 = (0..counts.len()).map(weight).sum();
    let picks: usize = counts.iter().sum();
    for (i, &count) in counts.iter().enumerate() {
        let share = weight(i) / total;
        let expected = picks as f64 * share;
        let deviation = (picks as f64 * share * (1.0 - share)).sqrt();
        let off = (count as f64 - expected).abs();
        assert!(
            off <= 5.0 * deviation + slack * expected + 1.0,
            "member {i}: {count} picks, {expected:.1} expected, of {counts:?}"
        );
    }
}

proptest! {
    #![proptest_config(config())]

    /// Never one that does not serve, has weight 0 or was tried; never none while one is left.
    #[test]
    fn a_pick_is_right_and_fails_only_when_nobody_is_left(
        members in prop::collection::vec((0_u32..4, any::<bool>()), 0..24),
        seed in any::<u64>(),
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (weights, down): (Vec<u32>, Vec<bool>) = members.iter().copied().unzip();
        let able: Vec<bool> = members.iter().map(|&(w, down)| w > 0 && !down).collect();
        for way in WAYS {
            let pool = sample::pool(way.clone(), &weights);
            put_down(&pool, &down);
            let picker = Rc::new(Picker::new(pool));
            for _ in 0..8 {
                let mut tried = Tried::default();
                let mut left = able.clone();
                while let Ok(lease) = picker.pick(ask(&mut rng), &tried) {
                    prop_assert!(left[lease.index()], "{way:?} picked {}", lease.index());
                    left[lease.index()] = false;
                    tried.add(&lease);
                }
                prop_assert!(!left.contains(&true), "{way:?} left out one of {left:?}");
            }
        }
    }

    /// Smooth: after any number of picks each member has had its share, give or take its own turn.
    #[test]
    fn round_robin_is_exact_and_smooth(weights in prop::collection::vec(0_u32..6, 1..12)) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let picker = Rc::new(Picker::new(sample::pool(Balance::RoundRobin, &weights)));
        let mut rng = fastrand::Rng::with_seed(0);
        let mut had = vec![0_u32; weights.len()];
        let mut owed = vec![0_i64; weights.len()];
        for turn in 1..=3 * total {
            let picked = pick(&picker, &mut rng).expect("all serve");
            had[picked] += 1;
            // nginx's rule, word by word.
            for (owed, weight) in owed.iter_mut().zip(&weights) {
                *owed += i64::from(*weight);
            }
            let most = *owed.iter().max().expect("at least one");
            let next = owed.iter().position(|&owed| owed == most).expect("at least one");
            prop_assert_eq!(picked, next);
            owed[next] -= i64::from(total);
            for (had, weight) in had.iter().zip(&weights) {
                let due = f64::from(turn * weight) / f64::from(total);
                prop_assert!((f64::from(*had) - due).abs() < weights.len() as f64 / 2.0 + 1.0);
            }
            if turn % total == 0 {
                let cycles = turn / total;
                prop_assert!(had.iter().zip(&weights).all(|(had, w)| *had == cycles * w));
            }
        }
    }

    #[test]
    fn shares_follow_the_weights_of_those_that_serve(
        members in prop::collection::vec((0_u32..8, prop::bool::weighted(0.2)), 1..20),
        seed in any::<u64>(),
    ) {
        let (weights, down): (Vec<u32>, Vec<bool>) = members.iter().copied().unzip();
        prop_assume!(members.iter().any(|&(weight, down)| weight > 0 && !down));
        let mut rng = fastrand::Rng::with_seed(seed);
        for (way, slack) in [
            (Balance::RoundRobin, 0.0),
            (Balance::LeastRequests, 0.0),
            (Balance::Random, 0.0),
            // Entries of the table, and members skipped by more look-ups: a few per cent.
            (Balance::Hash(HashBy::Path), 0.03),
        ] {
            let pool = sample::pool(way, &weights);
            put_down(&pool, &down);
            let counts = counts(&pool, 4000, &mut rng);
            assert_shares(&pool, &counts, slack);
        }
    }

    #[test]
    fn least_requests_picks_a_minimum(
        members in prop::collection::vec((1_u32..5, 0_usize..6), 1..=8),
        seed in any::<u64>(),
    ) {
        let (weights, busy): (Vec<u32>, Vec<usize>) = members.into_iter().unzip();
        let pool = sample::pool(Balance::LeastRequests, &weights);
        let picker = Rc::new(Picker::new(pool.clone()));
        let _held: Vec<Lease> = busy
            .iter()
            .enumerate()
            .flat_map(|(i, &busy)| (0..busy).map(move |_| i))
            .filter_map(|i| Lease::new(picker.clone(), i))
            .collect();
        let cost = |i: usize| match pool.members[i].state.in_flight() {
            0 => 0.0,
            busy => f64::from(busy + 1) / f64::from(weights[i]),
        };
        let least = (0..weights.len()).map(cost).fold(f64::INFINITY, f64::min);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..20 {
            let picked = pick(&picker, &mut rng).expect("all serve");
            prop_assert_eq!(cost(picked), least);
        }
    }

    /// When one of n leaves, 1/n of the keys move, and few others.
    #[test]
    fn hash_moves_few_keys_when_a_member_leaves(
        count in 2_u32..40,
        gone in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let all: Vec<(u32, u32)> = (1..=count).map(|number| (number, 1)).collect();
        let gone = gone.index(all.len());
        let mut rest = all.clone();
        rest.remove(gone);
        let moved = moved(&all, &rest, seed);
        let most = 1.0 / f64::from(count) + 0.03;
        prop_assert!(moved <= most, "{moved:.3} of the keys moved, {most:.3} at most");
    }

    /// Nothing but its own keys move when a member stops serving, and they all come back.
    #[test]
    fn hash_moves_only_the_keys_of_one_that_does_not_serve(
        weights in prop::collection::vec(1_u32..4, 2..20),
        down in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let down = down.index(weights.len());
        let pool = sample::pool(Balance::Hash(HashBy::Path), &weights);
        let picker = Rc::new(Picker::new(pool.clone()));
        let before = by_key(&picker, seed);
        pool.members[down].state.set(Reason::Down);
        let during = by_key(&picker, seed);
        for (before, during) in before.iter().zip(&during) {
            prop_assert!(*during != down && (before == during || *before == down));
        }
        pool.members[down].state.clear(Reason::Down);
        prop_assert_eq!(by_key(&picker, seed), before);
    }
}

/// The member that each of 2,000 keys goes to.
fn by_key(picker: &Rc<Picker>, seed: u64) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..2000).map(|_| pick(picker, &mut rng).expect("somebody serves")).collect()
}

/// The share of keys that go to another address.
fn moved(from: &[(u32, u32)], to: &[(u32, u32)], seed: u64) -> f64 {
    let addresses = |members: &[(u32, u32)]| {
        let pool = sample::pool_of(Balance::Hash(HashBy::Path), members);
        let picker = Rc::new(Picker::new(pool.clone()));
        let keys = by_key(&picker, seed).into_iter();
        keys.map(|member| pool.members[member].state.addr).collect::<Vec<_>>()
    };
    let (from, to) = (addresses(from), addresses(to));
    let moved = from.iter().zip(&to).filter(|(from, to)| from != to).count();
    moved as f64 / from.len() as f64
}

#[test]
fn hash_agrees_between_builds_and_orders_of_the_file() {
    let members: Vec<(u32, u32)> = (1..=30).map(|n| (n, n % 3 + 1)).collect();
    let reversed: Vec<(u32, u32)> = members.iter().rev().copied().collect();
    assert_eq!(moved(&members, &members, 1), 0.0);
    assert_eq!(moved(&members, &reversed, 1), 0.0);
}

#[test]
fn a_weighted_member_that_leaves_moves_its_share() {
    let members: Vec<(u32, u32)> = (1..=20).map(|n| (n, if n <= 10 { 1 } else { 3 })).collect();
    for gone in [0, 9, 10, 19] {
        let mut rest = members.clone();
        let (_, weight) = rest.remove(gone);
        let most = f64::from(weight) / 40.0 + 0.03;
        let moved = moved(&members, &rest, 7);
        assert!(moved <= most, "{moved:.3} of the keys moved, {most:.3} at most");
    }
}

#[test]
fn round_robin_takes_the_textbook_turns() {
    let picker = Rc::new(Picker::new(sample::pool(Balance::RoundRobin, &[5, 1, 1])));
    let mut rng = fastrand::Rng::with_seed(0);
    let turns: Vec<usize> = (0..14).filter_map(|_| pick(&picker, &mut rng)).collect();
    assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn workers_start_one_member_apart() {
    let pool = sample::pool(Balance::RoundRobin, &[1, 1, 1]);
    let mut rng = fastrand::Rng::with_seed(0);
    let firsts: Vec<_> =
        (0..4).map(|_| pick(&Rc::new(Picker::new(pool.clone())), &mut rng)).collect();
    assert_eq!(firsts, [Some(0), Some(1), Some(2), Some(0)]);
}

#[test]
fn first_follows_the_file() {
    let pool = sample::pool(Balance::First, &[0, 1, 1]);
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut rng = fastrand::Rng::with_seed(0);
    assert_eq!(pick(&picker, &mut rng), Some(1));
    pool.members[1].state.set(Reason::Down);
    assert_eq!(pick(&picker, &mut rng), Some(2));
    pool.members[2].state.set(Reason::Down);
    assert_eq!(pick(&picker, &mut rng), None);
}

/// The shares hold even when nearly all of a large pool is down and each pick looks at everybody.
#[test]
fn a_large_pool_that_is_mostly_down_keeps_its_shares() {
    let weights: Vec<u32> = (0..1000).map(|i| if i < 990 { 50 } else { i - 985 }).collect();
    let down: Vec<bool> = (0..1000).map(|i| i < 990 || i % 2 == 0).collect();
    let mut rng = fastrand::Rng::with_seed(3);
    for way in [Balance::RoundRobin, Balance::LeastRequests, Balance::Random] {
        let pool = sample::pool(way, &weights);
        put_down(&pool, &down);
        let counts = counts(&pool, 2000, &mut rng);
        assert_shares(&pool, &counts, 0.0);
    }
}

/// Of 100 members with one request each in flight, a closed loop never piles up on any.
#[test]
fn two_choices_keep_a_large_pool_even() {
    let pool = sample::pool(Balance::LeastRequests, &[1; 100]);
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut rng = fastrand::Rng::with_seed(11);
    let mut held: Vec<Lease> = Vec::new();
    for _ in 0..10_000 {
        held.extend(picker.pick(ask(&mut rng), &Tried::default()));
        if held.len() > 200 {
            held.swap_remove(rng.usize(..held.len()));
        }
    }
    let most = pool.members.iter().map(|member| member.state.in_flight()).max();
    assert!(most <= Some(5), "{most:?} requests on one member, 2 on average");
}

#[test]
fn peak_ewma_asks_everybody_and_then_the_quick() {
    let pool = sample::pool(Balance::PeakEwma, &[1, 1, 1, 1]);
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut rng = fastrand::Rng::with_seed(5);
    let mut counts = [0; 4];
    let mut now_nanos = 0;
    for _ in 0..1000 {
        now_nanos += 1_000_000;
        let ask = Ask { now_nanos, ..ask(&mut rng) };
        let lease = picker.pick(ask, &Tried::default()).expect("all serve");
        counts[lease.index()] += 1;
        let slow = lease.index() == 2;
        lease.observe_latency(if slow { 50_000_000 } else { 1_000_000 }, now_nanos);
    }
    assert_eq!(counts[2], 1, "{counts:?}");
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}

#[test]
fn only_peak_ewma_pays_for_latency() {
    for way in WAYS {
        let pool = sample::pool(way.clone(), &[1]);
        let picker = Rc::new(Picker::new(pool.clone()));
        let lease = picker.pick(Ask::default(), &Tried::default()).expect("it serves");
        lease.observe_latency(1_000, 5);
        let known =
            pool.members[0].state.load.0.latency_nanos.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(known != 0, way == Balance::PeakEwma, "{way:?}");
    }
}

/// In-flight counts are the leases that live, at any time, on any number of threads.
#[test]
fn in_flight_never_leaks_nor_goes_negative() {
    let seed = seed();
    for way in WAYS {
        let pool = sample::pool(way.clone(), &[1, 2, 3]);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pool = pool.clone();
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed + thread);
                    let picker = Rc::new(Picker::new(pool.clone()));
                    let mut held = Vec::new();
                    for _ in 0..3000 {
                        if held.is_empty() || (held.len() < 20 && rng.bool()) {
                            held.extend(picker.pick(ask(&mut rng), &Tried::default()));
                        } else {
                            held.swap_remove(rng.usize(..held.len()));
                        }
                        let total: u32 = pool.members.iter().map(|m| m.state.in_flight()).sum();
                        assert!(total <= 4 * 20, "seed {seed}: {total} in flight");
                    }
                });
            }
        });
        let left: Vec<u32> = pool.members.iter().map(|m| m.state.in_flight()).collect();
        assert_eq!(left, [0, 0, 0], "seed {seed}, {way:?}");
    }
}

/// A closed loop of clients on three backends of which the first fails at once, as one that refuses
/// connections or answers 503 from its first line: how many of the requests it gets, and how many there
/// were. Nobody ejects it.
fn drawn_to_failure(way: Balance, clients: usize, answers: bool, seed: u64) -> (usize, usize) {
    const MS: u64 = 1_000_000;
    let pool = sample::pool(way, &[1, 1, 1]);
    let picker = Rc::new(Picker::new(pool.clone()));
    let mut rng = fastrand::Rng::with_seed(seed);
    // When each client's request ends, and where it is.
    let mut busy: Vec<(u64, Option<Lease>)> = (0..clients).map(|_| (0, None)).collect();
    let (mut failing, mut all, mut now) = (0, 0, 0);
    while now < 20_000 * MS {
        busy.sort_by_key(|(ends, _)| *ends);
        let (ends, lease) = &mut busy[0];
        now = *ends;
        let tried = match lease.take() {
            Some(lease) if lease.index() == 0 => {
                if answers {
                    lease.observe_latency(MS / 10, now);
                }
                lease.failed(now, false);
                let mut tried = Tried::default();
                tried.add(&lease);
                tried
            }
            Some(lease) => {
                lease.observe_latency(20 * MS, now);
                lease.went_well();
                Tried::default()
            }
            None => Tried::default(),
        };
        let ask = Ask { key: None, draw: rng.u64(..), now_nanos: now, safe: true };
        let lease = picker.pick(ask, &tried).expect("all serve");
        all += 1;
        failing += usize::from(lease.index() == 0);
        let takes = if lease.index() == 0 { MS / 10 } else { 15 * MS + rng.u64(..10 * MS) };
        busy[0] = (now + takes, Some(lease));
    }
    (failing, all)
}

#[test]
fn a_backend_that_fails_fast_attracts_nothing() {
    for way in [Balance::LeastRequests, Balance::PeakEwma] {
        for (clients, answers) in [(1, false), (1, true), (30, false), (30, true), (300, true)] {
            let (failing, all) = drawn_to_failure(way.clone(), clients, answers, seed());
            let told = format!("{way:?}, {clients} clients, answers: {answers}");
            println!("{told}: {failing} of {all}");
            assert!(failing * 20 < all, "{told}: {failing} of {all}");
        }
    }
}
