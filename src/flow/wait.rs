//! A request, or a stream, for which no backend was found: where the pool has a queue it waits there, and
//! where all that serve were tried it pauses and goes round again. Each wait has its bound.
//!
//! With a queue, what arrives while a tier switches is parked here until the next one serves.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::retry::Retries;
use super::worker::Worker;
use crate::forward::http::exchange::Clocks;
use crate::outcome::Cause;
use crate::pool::pick::{Ask, NoPick};
use crate::pool::queue::Place;
use crate::pool::{Lease, Picker};
use crate::timer::Deadline;

/// The first in a queue looks for itself so often, whatever it is told: what made room may have been a
/// change that tells nobody.
const LOOK: Duration = Duration::from_millis(100);

/// Who waits, and for what.
#[derive(Debug)]
pub struct Wait<'a> {
    pub worker: &'a Worker,
    pub picker: &'a Rc<Picker>,
    pub ask: Ask,
    pub clocks: &'a Clocks,
    /// Greater goes first.
    pub priority: i32,
}

impl Wait<'_> {
    /// A lease in the end, or why there is none; `why` there was none at once. `gone`: ready when the
    /// client has left.
    pub async fn lease(
        &self,
        retries: &mut Retries,
        mut why: NoPick,
        mut gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Lease, Cause> {
        if why == NoPick::AllTried && retries.may_go_round() {
            let pause = retries.go_round(fastrand::f64());
            self.pause(pause, &mut gone).await?;
            match self.picker.pick_in_turn(self.ask(), &retries.tried) {
                Ok(lease) => return Ok(lease),
                Err(other) => why = other,
            }
        }
        let pool = self.picker.pool();
        let cells = pool.state.cells.of(self.worker.id);
        let Some(queue) = &pool.config.queue else {
            return Err(self.none(retries, why));
        };
        let Some(place) = Place::take(&pool.state, self.priority, queue.size) else {
            return Err(if why == NoPick::Full { Cause::Full } else { self.none(retries, why) });
        };
        cells.queued.inc();
        let _waits = cells.waiting.while_held();
        self.clocks.step.set(queue.timeout);
        let lease = self.stand(place, retries, &mut gone).await;
        self.clocks.step.clear();
        retries.masked |= why == NoPick::NoneServing;
        lease
    }

    /// What the pick says that found nobody: of a request that has failed already, that.
    fn none(&self, retries: &Retries, why: NoPick) -> Cause {
        if let Some(cause) = retries.failed {
            return cause;
        }
        match why {
            NoPick::Full => Cause::Full,
            NoPick::NoneServing | NoPick::AllTried => {
                self.picker.pool().state.cells.of(self.worker.id).none_serving.inc();
                Cause::NoneServing
            }
        }
    }

    async fn stand(
        &self,
        place: Place,
        retries: &mut Retries,
        gone: &mut impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Lease, Cause> {
        let look = Deadline::new(&self.worker.wheel);
        poll_fn(|cx| {
            if place.is_first(cx.waker()) {
                match self.picker.pick(self.ask(), &retries.tried) {
                    Ok(lease) => return Poll::Ready(Ok(lease)),
                    // While it waited, those that it had tried have come back, or none else has.
                    Err(NoPick::AllTried) => {
                        retries.tried = Default::default();
                        cx.waker().wake_by_ref();
                    }
                    Err(NoPick::Full | NoPick::NoneServing) => {}
                }
                if look.expired() || look.left().is_none() {
                    look.set(LOOK);
                }
                // Woken then, it looks again.
                let _ = look.poll(cx);
            }
            if gone(cx).is_ready() {
                return Poll::Ready(Err(Cause::ClientGone));
            }
            self.clocks.poll(cx).map(|()| {
                Err(if self.clocks.is_over() { Cause::Timeout } else { Cause::QueueTimeout })
            })
        })
        .await
    }

    async fn pause(
        &self,
        pause: Duration,
        gone: &mut impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<(), Cause> {
        self.clocks.step.set(pause);
        let paused = poll_fn(|cx| {
            if gone(cx).is_ready() {
                return Poll::Ready(Err(Cause::ClientGone));
            }
            self.clocks.poll(cx).map(|()| match self.clocks.is_over() {
                true => Err(Cause::Timeout),
                false => Ok(()),
            })
        });
        let paused = paused.await;
        self.clocks.step.clear();
        paused
    }

    /// As of now.
    fn ask(&self) -> Ask {
        Ask { now_nanos: self.worker.nanos(Instant::now()), ..self.ask }
    }
}
