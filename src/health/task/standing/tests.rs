//! The door on a paused clock, with a list in place of the workers.

use super::super::operate::{Done, Order, Refusal};
use super::*;
use crate::config::defaults;
use crate::config::model::{self, Failback, Failover, FailoverMode};
use crate::health::failover::{Alarm, Place, Refused};
use crate::pool::{Member, PoolState, sample};

const SECOND: Duration = Duration::from_secs(1);

type Told = Rc<RefCell<Vec<Release>>>;

/// A door whose orders are noted down; whoever drops one obeys it.
fn door() -> (Rc<Standing>, Told) {
    let told = Told::default();
    let noted = told.clone();
    let orders = Box::new(move |release| noted.borrow_mut().push(release));
    (Standing::new(Instant::now().into_std(), orders), told)
}

/// A pool whose members are in these tiers.
fn pool(failover: Failover, in_tiers: &[u8]) -> Arc<Pool> {
    let weights = vec![1; in_tiers.len()];
    let sample = sample::pool(model::Balance::Random, &weights);
    again(&sample, failover, in_tiers)
}

/// The same backends after a reload.
fn again(before: &Pool, failover: Failover, in_tiers: &[u8]) -> Arc<Pool> {
    let config = model::Pool { failover, ..defaults::pool(before.config.name.clone()) };
    let members = before.members.iter().zip(in_tiers);
    let members =
        members.map(|(m, &tier)| Member { tier, ..Member::new(m.state.clone(), 1) }).collect();
    Arc::new(Pool::new(config, members, before.state.clone()))
}

fn ids(told: &Told) -> Vec<u64> {
    told.borrow().iter().map(|release| release.backend).collect()
}

async fn turn() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

fn moves(state: &PoolState, cause: Cause) -> u64 {
    state.tiers.moves[cause.index()].get()
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn only_a_return_is_stamped_and_a_first_verdict_is_none() {
    use Reason::{Down, Ejected, Unverified};
    let standing = Standing::alone();
    let pool = pool(defaults::FAILOVER, &[0]);
    let backend = &pool.members[0].state;
    assert!(standing.change(backend, &[Unverified], &[Down], "new"));
    tokio::time::advance(SECOND).await;
    assert!(standing.change(backend, &[], &[Down, Unverified], "a probe passed"));
    assert_eq!(backend.back_at_nanos(), None);
    assert!(!standing.change(backend, &[], &[Down, Unverified], "again"));
    standing.change(backend, &[Down], &[], "dead");
    standing.change(backend, &[Ejected], &[], "dead too");
    tokio::time::advance(SECOND).await;
    standing.change(backend, &[], &[Down], "well");
    assert_eq!(backend.back_at_nanos(), None, "it is ejected");
    standing.change(backend, &[], &[Ejected], "its time is over");
    assert_eq!(backend.back_at_nanos(), Some(2_000_000_000));
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn the_floor_follows_and_comes_back_by_itself_after_a_stable_time() {
    let on_failback = OnChange::CloseAfter(7 * SECOND);
    let pool = pool(Failover { on_failback, ..defaults::FAILOVER }, &[0, 0, 1]);
    let (standing, told) = door();
    standing.apply(std::slice::from_ref(&pool));
    let (first, second) = (&pool.members[0].state, &pool.members[1].state);
    standing.change(first, &[Reason::Down], &[], "dead");
    assert_eq!(pool.state.floor(), 0);
    standing.change(second, &[Reason::Ejected], &[], "it fails");
    assert_eq!((pool.state.floor(), moves(&pool.state, Cause::Failover)), (1, 1));
    standing.change(first, &[], &[Reason::Down], "well");
    tokio::time::sleep(20 * SECOND).await;
    standing.change(first, &[Reason::Down], &[], "a flap");
    standing.change(first, &[], &[Reason::Down], "well again");
    tokio::time::sleep(29 * SECOND).await;
    assert_eq!(pool.state.floor(), 1);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!((pool.state.floor(), moves(&pool.state, Cause::Failback)), (0, 1));
    assert!(first.back_at_nanos() >= Some(50_000_000_000), "it ramps up from its failback on");
    assert_eq!(ids(&told), [pool.members[2].state.id]);
    assert_eq!(told.borrow()[0].after, Some(7 * SECOND));
    // Whoever is needed again keeps what it has.
    assert!(!told.borrow()[0].done.is_closed());
    standing.change(first, &[Reason::Down], &[], "dead");
    turn().await;
    assert_eq!(pool.state.floor(), 1);
    assert!(told.borrow()[0].done.is_closed());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn what_is_lost_is_closed_unless_it_comes_back_in_time() {
    let on_down = OnChange::CloseAfter(10 * SECOND);
    let pool = pool(Failover { on_down, ..defaults::FAILOVER }, &[0, 0]);
    let (standing, told) = door();
    standing.apply(std::slice::from_ref(&pool));
    let backend = &pool.members[0].state;
    standing.change(backend, &[Reason::Ejected], &[], "it fails");
    turn().await;
    assert_eq!(ids(&told), [0; 0], "what it has may be well");
    standing.change(backend, &[Reason::Down], &[], "dead");
    standing.change(backend, &[Reason::Disabled], &[], "and disabled");
    turn().await;
    assert_eq!(ids(&told), [backend.id]);
    assert!(!told.borrow()[0].done.is_closed());
    standing.change(backend, &[], &[Reason::Down], "well");
    turn().await;
    assert!(!told.borrow()[0].done.is_closed());
    standing.change(backend, &[], &[Reason::Disabled], "enabled");
    turn().await;
    assert!(told.borrow()[0].done.is_closed());
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_exclusive_pool_waits_for_every_worker() {
    let failover = Failover { exclusive: true, ..defaults::FAILOVER };
    let pool = pool(failover.clone(), &[0, 0]);
    let (standing, told) = door();
    let (first, second) = (&pool.members[0].state, &pool.members[1].state);
    second.set(Reason::WrongRole);
    standing.apply(std::slice::from_ref(&pool));
    assert_eq!(pool.state.chosen(), Some(first.id));
    standing.change(second, &[], &[Reason::WrongRole], "promoted");
    assert_eq!(pool.state.chosen(), Some(first.id), "the present one stays");
    assert!(pool.state.tiers.alarms[Alarm::Conflict.index()].get());
    standing.change(first, &[Reason::WrongRole], &[], "demoted");
    assert_eq!(pool.state.chosen(), None);
    turn().await;
    assert_eq!(ids(&told), [first.id]);
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!(pool.state.chosen(), None, "one worker has not closed all");
    told.borrow_mut().clear();
    turn().await;
    assert_eq!(pool.state.chosen(), Some(second.id));
    assert_eq!(moves(&pool.state, Cause::Failover), 1);
    // It leaves the configuration: its connections are closed all the same.
    let one =
        Pool::new(pool.config.clone(), [Member::new(first.clone(), 1)].into(), pool.state.clone());
    standing.change(first, &[], &[Reason::WrongRole], "promoted");
    standing.apply(&[Arc::new(one)]);
    assert_eq!(pool.state.chosen(), None);
    turn().await;
    assert_eq!(ids(&told), [second.id]);
    told.borrow_mut().clear();
    turn().await;
    assert_eq!(pool.state.chosen(), Some(first.id));
    assert_eq!(moves(&pool.state, Cause::Reload), 1);
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn an_operators_word_survives_reloads() {
    let failover = Failover { failback: Failback::Automatic, ..defaults::FAILOVER };
    let pool = pool(failover.clone(), &[0, 1]);
    let name = pool.config.name.clone();
    let (standing, told) = door();
    let to = |to| Order::Switchover { pool: name.clone(), to };
    assert_eq!(standing.operate(to(None)), Err(Refusal::UnknownPool));
    standing.apply(std::slice::from_ref(&pool));
    let place = |tier| Place { tier, backend: None };
    let moved = Done::Moved { from: place(0), to: place(1) };
    assert_eq!(standing.operate(to(None)), Ok(moved));
    assert_eq!(standing.operate(to(Some(1))), Err(Refusal::Refused(Refused::AlreadyThere)));
    standing.apply(&[again(&pool, failover.clone(), &[0, 1])]);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(pool.state.floor(), 1, "failback is held");
    let (backend, addr) = (&pool.members[1].state, pool.members[1].state.addr);
    let drain = Order::Drain { pool: name.clone(), backend: addr, deadline: Some(9 * SECOND) };
    assert_eq!(standing.operate(drain.clone()), Ok(Done::Standing { changed: true }));
    assert_eq!(pool.state.floor(), 0, "the tier that was switched to serves nothing");
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(ids(&told), [0; 0]);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(ids(&told), [backend.id]);
    // Gone, and back as another: what was said of its address holds.
    standing.apply(&[]);
    let fresh = self::pool(failover, &[0, 1]);
    standing.apply(std::slice::from_ref(&fresh));
    assert!(fresh.members[1].state.has(Reason::Draining));
    let enable = Order::Enable { pool: name.clone(), backend: addr };
    assert_eq!(standing.operate(enable.clone()), Ok(Done::Standing { changed: true }));
    assert_eq!(standing.operate(enable), Ok(Done::Standing { changed: false }));
    assert!(fresh.members[1].state.serving());
    assert_eq!(
        standing.operate(Order::Failback { pool: name }),
        Err(Refusal::Refused(Refused::AlreadyThere))
    );
}

#[tokio::test(flavor = "local", start_paused = true)]
async fn manual_is_alarmed_once_and_moves_by_word_only() {
    let failover = Failover { mode: FailoverMode::Manual, ..defaults::FAILOVER };
    let pool = pool(failover, &[0, 1]);
    let (standing, _) = door();
    standing.apply(std::slice::from_ref(&pool));
    standing.change(&pool.members[0].state, &[Reason::Down], &[], "dead");
    tokio::time::sleep(3600 * SECOND).await;
    let alarm = &pool.state.tiers.alarms[Alarm::ChosenDead.index()];
    assert!(pool.state.floor() == 0 && alarm.get());
    let order = Order::Switchover { pool: pool.config.name.clone(), to: None };
    assert!(matches!(standing.operate(order), Ok(Done::Moved { .. })));
    assert!(pool.state.floor() == 1 && !alarm.get());
}
