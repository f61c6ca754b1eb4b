//! What does a pick cost? Each way to balance with 1 to 10,000 backends, lease taken and given back,
//! against a baseline that increments an index. No system call should be seen at all.
//!
//! `half_down` is the same with every other backend down, `guarded` with tiers, caps, a ramp and spilling;
//! `table` is what a reload pays for `hash`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use evenkeel::config::defaults;
use evenkeel::config::model::{self, Balance, HashBy, Name};
use evenkeel::pool::pick::{Ask, Tried};
use evenkeel::pool::{BackendAddr, BackendState, Member, Picker, Pool, PoolState, Reason};

const SIZES: [u32; 5] = [1, 10, 100, 1_000, 10_000];

fn ways() -> [(&'static str, Balance); 6] {
    [
        ("round_robin", Balance::RoundRobin),
        ("least_requests", Balance::LeastRequests),
        ("peak_ewma", Balance::PeakEwma),
        ("random", Balance::Random),
        ("first", Balance::First),
        ("hash", Balance::Hash(HashBy::Path)),
    ]
}

fn members(count: u32, weight: fn(u32) -> u32) -> Box<[Member]> {
    let name = Name::new("web").expect("a valid name");
    (0..count)
        .map(|number| {
            let ip = IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + number));
            let addr = BackendAddr(SocketAddr::new(ip, 8080));
            let state = Arc::new(BackendState::new(name.clone(), addr, 1));
            Member::new(state, weight(number))
        })
        .collect()
}

fn pool(balance: Balance, members: Box<[Member]>) -> Arc<Pool> {
    let name = Name::new("web").expect("a valid name");
    let config = model::Pool { balance, ..defaults::pool(name) };
    Arc::new(Pool::new(config, members, Arc::new(PoolState::new(1))))
}

/// Picks as a worker does, time going on by 10 µs each.
fn measure(bencher: &mut criterion::Bencher<'_>, pool: Arc<Pool>) {
    let picker = Rc::new(Picker::new(pool));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut now_nanos = 0;
    bencher.iter(|| {
        now_nanos += 10_000;
        let ask = Ask { key: Some(rng.u64(..)), draw: rng.u64(..), now_nanos, safe: true };
        let lease = picker.pick(ask, &Tried::default());
        if let Ok(lease) = &lease {
            lease.observe_latency(1_000_000, now_nanos);
        }
        lease
    });
}

fn baseline(criterion: &mut Criterion) {
    let members = members(10, |_| 1);
    let mut next = 0;
    criterion.bench_function("pick/baseline: an index goes round", |bencher| {
        bencher.iter(|| {
            next = if next + 1 == members.len() { 0 } else { next + 1 };
            black_box(&members[next]);
        });
    });
}

fn serving(criterion: &mut Criterion) {
    for (name, way) in ways() {
        let mut group = criterion.benchmark_group(format!("pick/{name}"));
        for size in SIZES {
            let pool = pool(way.clone(), members(size, |_| 1));
            group.bench_with_input(BenchmarkId::from_parameter(size), &pool, |bencher, pool| {
                measure(bencher, pool.clone());
            });
        }
    }
}

fn weighted(criterion: &mut Criterion) {
    for (name, way) in ways() {
        let pool = pool(way, members(1_000, |number| number % 10 + 1));
        criterion.bench_function(&format!("pick_ten_weights/{name}/1000"), |bencher| {
            measure(bencher, pool.clone());
        });
    }
}

fn half_down(criterion: &mut Criterion) {
    for (name, way) in ways() {
        let pool = pool(way, members(1_000, |_| 1));
        for member in pool.members.iter().step_by(2) {
            member.state.set(Reason::Down);
        }
        criterion.bench_function(&format!("pick_half_down/{name}/1000"), |bencher| {
            measure(bencher, pool.clone());
        });
    }
}

/// What failover adds: a standby tier, caps, a ramp, and a share below which a tier spills.
fn guarded(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick_guarded/least_requests");
    for size in SIZES {
        let mut members = members(size, |_| 1);
        for (number, member) in members.iter_mut().enumerate() {
            member.max_requests = Some(1_000);
            member.tier = u8::from(number > 0 && number % 2 == 1);
        }
        let name = Name::new("web").expect("a valid name");
        let failover = model::Failover { spill_below: Some(50), ..defaults::FAILOVER };
        let slow_start = Some(Duration::from_secs(30));
        let config = model::Pool { failover, slow_start, ..defaults::pool(name) };
        let pool = Arc::new(Pool::new(config, members, Arc::new(PoolState::new(1))));
        group.bench_with_input(BenchmarkId::from_parameter(size), &pool, |bencher, pool| {
            measure(bencher, pool.clone());
        });
    }
}

fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    group.sample_size(10);
    for size in [10, 10_000] {
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let way = Balance::Hash(HashBy::Path);
            bencher.iter_batched(
                || members(size, |_| 1),
                |members| pool(way.clone(), members),
                criterion::BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(picks, baseline, serving, weighted, half_down, guarded, table);
criterion_main!(picks);
