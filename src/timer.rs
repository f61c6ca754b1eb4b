//! Deadlines for thousands of connections from one coarse tick: a wheel per worker.
//!
//! Setting a deadline is a store; nothing is inserted into a heap and no runtime timer exists per
//! connection. A deadline that moves later stays where it is queued and is looked at again when its
//! slot comes round. Pure: the worker's tick task says what time it is (`Wheel::advance`).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The length of a tick, and so the resolution of every time-out on the data path.
pub const TICK: Duration = Duration::from_millis(10);

/// Slots of the wheel: deadlines further away than this many ticks are queued again on the way.
const SLOTS: u64 = 512;

/// The deadline's time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// All deadlines of one worker.
pub struct Wheel {
    now: Cell<u64>,
    slots: RefCell<Box<[Vec<Rc<Entry>>]>>,
}

#[derive(Debug)]
struct Entry {
    /// The tick at which it expires; `NEVER` is off.
    at: Cell<u64>,
    /// The tick whose slot holds it; `NEVER` if none does.
    queued: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// `Deadline`s that are handles to it.
    handles: Cell<usize>,
    /// It was cut: expired, whatever is set.
    cut: Cell<bool>,
}

const NEVER: u64 = u64::MAX;

/// One deadline, set and moved as its connection goes from phase to phase. Clones are handles to
/// the same deadline. Whoever polled last is woken.
pub struct Deadline {
    wheel: Rc<Wheel>,
    entry: Rc<Entry>,
}

impl Clone for Deadline {
    fn clone(&self) -> Deadline {
        self.entry.handles.set(self.entry.handles.get() + 1);
        Deadline { wheel: self.wheel.clone(), entry: self.entry.clone() }
    }
}

impl Drop for Deadline {
    /// The wheel holds the entry until its slot comes round; the waker, and the whole task behind
    /// it, must not wait for that.
    fn drop(&mut self) {
        self.entry.handles.set(self.entry.handles.get() - 1);
        if self.entry.handles.get() == 0 {
            self.entry.at.set(NEVER);
            self.entry.waker.take();
        }
    }
}

impl Wheel {
    pub fn new() -> Rc<Wheel> {
        Rc::new(Wheel {
            now: Cell::new(0),
            slots: RefCell::new((0..SLOTS).map(|_| Vec::new()).collect()),
        })
    }

    /// Ticks since the wheel was made.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Moves the time on, to `now` ticks, and wakes what has expired on the way.
    pub fn advance(&self, now: u64) {
        // After a long stall one turn of the wheel visits every slot there is.
        let from = self.now.get().max(now.saturating_sub(SLOTS));
        self.now.set(now.max(self.now.get()));
        // All slots are emptied before any entry is queued again: it may belong into one of them.
        let mut due = Vec::new();
        for tick in from + 1..=now {
            due.append(&mut self.slots.borrow_mut()[(tick % SLOTS) as usize]);
        }
        for entry in due {
            self.visit(entry);
        }
    }

    fn visit(&self, entry: Rc<Entry>) {
        let now = self.now.get();
        if entry.queued.get() > now || entry.handles.get() == 0 {
            return; // queued again elsewhere, or its connection is gone
        }
        entry.queued.set(NEVER);
        if entry.at.get() <= now {
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        } else if entry.at.get() != NEVER {
            self.queue(&entry);
        }
    }

    fn queue(&self, entry: &Rc<Entry>) {
        let tick = entry.at.get().clamp(self.now.get() + 1, self.now.get() + SLOTS - 1);
        entry.queued.set(tick);
        self.slots.borrow_mut()[(tick % SLOTS) as usize].push(entry.clone());
    }
}

impl fmt::Debug for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Entry {
    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Cuts a deadline: it expires at once, and stays expired whatever is set, until it is mended.
#[derive(Clone, Debug)]
pub struct Cutter(Rc<Entry>);

impl Cutter {
    /// What waits by it is to end. Wakes whoever polled last.
    pub fn cut(&self) {
        self.0.cut.set(true);
        self.0.at.set(0);
        self.0.wake();
    }

    /// After a cut it is off, and can be set again. True if there was one.
    pub fn mend(&self) -> bool {
        let was = self.0.cut.get();
        if was {
            self.0.cut.set(false);
            self.0.at.set(NEVER);
        }
        was
    }
}

impl Deadline {
    /// A deadline that is off.
    pub fn new(wheel: &Rc<Wheel>) -> Deadline {
        let entry = Entry {
            at: Cell::new(NEVER),
            queued: Cell::new(NEVER),
            waker: RefCell::default(),
            handles: Cell::new(1),
            cut: Cell::new(false),
        };
        Deadline { wheel: wheel.clone(), entry: Rc::new(entry) }
    }

    /// Expires `after` from now, at most one tick late and never early.
    pub fn set(&self, after: Duration) {
        let ticks = after.as_nanos().div_ceil(TICK.as_nanos()) as u64;
        let at = self.wheel.now.get().saturating_add(ticks).saturating_add(1);
        if self.entry.cut.get() {
            return;
        }
        self.entry.at.set(at.min(NEVER - 1));
        if self.entry.queued.get() > at {
            self.wheel.queue(&self.entry);
        }
    }

    /// Brings it forward to `after` from now, if it is later or off.
    pub fn set_at_most(&self, after: Duration) {
        if self.left().is_none_or(|left| left > after) {
            self.set(after);
        }
    }

    pub fn clear(&self) {
        if !self.entry.cut.get() {
            self.entry.at.set(NEVER);
        }
    }

    /// For whoever may have to cut it. Costs less than a clone, and keeps nothing alive.
    pub fn cutter(&self) -> Cutter {
        Cutter(self.entry.clone())
    }

    /// It was cut: see [`Cutter`].
    pub fn is_cut(&self) -> bool {
        self.entry.cut.get()
    }

    /// The tick at which `after` from now will be over.
    pub fn tick_after(&self, after: Duration) -> u64 {
        self.wheel.now.get().saturating_add((after.as_nanos() / TICK.as_nanos()) as u64)
    }

    /// Whether the wheel has come to this tick.
    pub fn is_past(&self, tick: u64) -> bool {
        self.wheel.now.get() >= tick
    }

    pub fn expired(&self) -> bool {
        self.entry.at.get() <= self.wheel.now.get()
    }

    /// The time that is left, to the tick; `None` when it is off.
    pub fn left(&self) -> Option<Duration> {
        let at = self.entry.at.get();
        let ticks = at.saturating_sub(self.wheel.now.get());
        (at != NEVER).then(|| TICK * u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    /// Ready once it has expired; otherwise the task is woken when it does.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.expired() {
            return Poll::Ready(());
        }
        let mut waker = self.entry.waker.borrow_mut();
        match &mut *waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            other => *other = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Wakes whoever polled last, expired or not: something else about its connection changed.
    pub fn wake(&self) {
        self.entry.wake();
    }

    /// Runs `work` until it is done or this deadline, as set by whoever, has come.
    pub async fn bound<T>(&self, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending => self.poll(cx).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// Sets the deadline for the length of `work`, and clears it when that is done.
    pub async fn within<T>(
        &self,
        after: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        self.set(after);
        let result = self.bound(work).await;
        self.clear();
        result
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline").field("left", &self.left()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Random sets, moves, clears and stalls: a deadline never expires early, and is woken in the
    /// very tick in which it does.
    #[test]
    fn a_deadline_is_never_early_and_never_missed() {
        let seed = std::env::var("EVENKEEL_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("EVENKEEL_SEED={seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let wheel = Wheel::new();
        let counts: Vec<Arc<Count>> = (0..50).map(|_| Arc::default()).collect();
        let wakers: Vec<Waker> = counts.iter().map(|count| count.clone().into()).collect();
        let deadlines: Vec<Deadline> = (0..50).map(|_| Deadline::new(&wheel)).collect();
        let mut due = vec![NEVER; 50];
        let mut now = 0;
        for _ in 0..20_000 {
            let i = rng.usize(..50);
            match rng.u8(..10) {
                0..6 => {
                    let ticks = if rng.bool() { rng.u64(..20) } else { rng.u64(..3_000) };
                    deadlines[i].set(TICK * ticks as u32);
                    due[i] = now + ticks + 1;
                }
                6 => {
                    deadlines[i].clear();
                    due[i] = NEVER;
                }
                _ => {
                    let before: Vec<_> =
                        counts.iter().map(|c| c.0.load(Ordering::Relaxed)).collect();
                    for (deadline, waker) in deadlines.iter().zip(&wakers) {
                        let _ = deadline.poll(&mut Context::from_waker(waker));
                    }
                    let then = now;
                    now += if rng.u8(..100) == 0 { rng.u64(..2_000) } else { rng.u64(..5) };
                    wheel.advance(now);
                    for i in 0..50 {
                        assert_eq!(deadlines[i].expired(), due[i] <= now, "deadline {i} at {now}");
                        let woken = counts[i].0.load(Ordering::Relaxed) - before[i];
                        let expected = u64::from(due[i] > then && due[i] <= now);
                        assert_eq!(
                            woken, expected,
                            "deadline {i}, due {}, {then} to {now}",
                            due[i]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_last_handle_takes_its_waker_along() {
        let wheel = Wheel::new();
        let count = Arc::<Count>::default();
        let deadline = Deadline::new(&wheel);
        deadline.set(Duration::from_secs(60));
        let waker: Waker = count.clone().into();
        assert!(deadline.poll(&mut Context::from_waker(&waker)).is_pending());
        drop((waker, deadline.clone()));
        assert_eq!(Arc::strong_count(&count), 2);
        drop(deadline);
        assert_eq!(Arc::strong_count(&count), 1, "the wheel keeps nobody's task");
    }

    #[test]
    fn one_that_is_cut_stays_expired_until_it_is_mended() {
        let wheel = Wheel::new();
        let count = Arc::<Count>::default();
        let deadline = Deadline::new(&wheel);
        deadline.set(Duration::from_secs(60));
        let waker: Waker = count.clone().into();
        assert!(deadline.poll(&mut Context::from_waker(&waker)).is_pending());
        let cutter = deadline.cutter();
        cutter.cut();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        deadline.clear();
        deadline.set(Duration::from_secs(60));
        assert!(deadline.expired() && deadline.is_cut());
        assert!(cutter.mend() && !cutter.mend());
        assert!(!deadline.expired() && deadline.left().is_none());
        deadline.set(Duration::from_secs(1));
        wheel.advance(102);
        assert!(deadline.expired() && !deadline.is_cut());
    }

    #[test]
    fn bound_work_ends_with_its_deadline() {
        let wheel = Wheel::new();
        let deadline = Deadline::new(&wheel);
        let mut cx = Context::from_waker(Waker::noop());
        let mut never =
            pin!(deadline.within(Duration::from_millis(25), std::future::pending::<()>()));
        assert!(never.as_mut().poll(&mut cx).is_pending());
        wheel.advance(3);
        assert!(never.as_mut().poll(&mut cx).is_pending());
        wheel.advance(4);
        assert_eq!(never.as_mut().poll(&mut cx), Poll::Ready(Err(Elapsed)));
    }
}
