//! The tasks in which the stories of HTTP/2's requests are told, one story at a time each.
//!
//! A story is large: a task made for each is more than the allocator keeps at hand, and is copied more than
//! once on its way there. So a task that is done with one rests, and takes the next, of whatever connection of
//! its worker. Its deadline goes from story to story with it.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::client::Client;
use super::request::{self, After};
use super::upgraded;
use super::worker::Worker;
use crate::forward::http::Front;
use crate::forward::http::h2::{self, Asked, Calm, Reply};
use crate::timer::Deadline;

/// Tasks that a worker keeps at rest; what comes beyond them has its own for one story.
const AT_REST: usize = 256;

/// A request of HTTP/2, and whose it is.
pub struct Told {
    pub client: Rc<Client>,
    pub calm: Rc<Calm>,
    pub asked: Asked,
}

/// A worker's tasks at rest; the last one that came to rest is the first to go.
#[derive(Default)]
pub struct Tellers(RefCell<Vec<Rc<Teller>>>);

/// Where a task at rest finds its next story.
#[derive(Default)]
struct Teller {
    next: RefCell<Option<Told>>,
    waker: RefCell<Option<Waker>>,
}

impl fmt::Debug for Tellers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tellers").field("at_rest", &self.0.borrow().len()).finish()
    }
}

/// Begins the story of a request, in a task of the worker.
pub fn tell(worker: &Rc<Worker>, told: Told) {
    let at_rest = worker.tellers.0.borrow_mut().pop();
    match at_rest {
        Some(teller) => {
            teller.next.replace(Some(told));
            if let Some(waker) = teller.waker.take() {
                waker.wake();
            }
        }
        None => drop(tokio::task::spawn_local(one_by_one(worker, told))),
    }
}

/// Tells a story and the next, until there are enough at rest.
fn one_by_one(worker: &Rc<Worker>, first: Told) -> impl Future<Output = ()> + 'static {
    let (tellers, step) = (worker.tellers.clone(), Deadline::new(&worker.wheel));
    let me = Rc::new(Teller::default());
    me.next.replace(Some(first));
    async move {
        loop {
            let told = poll_fn(|cx| match me.next.take() {
                Some(told) => Poll::Ready(told),
                None => {
                    me.waker.replace(Some(cx.waker().clone()));
                    Poll::Pending
                }
            });
            story(told.await, &step).await;
            step.clear();
            let mut at_rest = tellers.0.borrow_mut();
            if at_rest.len() >= AT_REST {
                return;
            }
            at_rest.push(me.clone());
        }
    }
}

/// One request, to the last byte of its answer or the end of its tunnel. A reset by the client ends it.
async fn story(told: Told, step: &Deadline) {
    let Told { client, calm, asked: Asked { head, body, reply } } = told;
    let reply = Reply::new(reply);
    let after = {
        let front = Front::H2(h2::Stream::new(&reply, body, client.worker.buffers.clone()));
        let mut story = pin!(request::serve(client.clone(), front, head, step.clone()));
        // The reset first: else the story might take it for a fault, and answer it, or begin for nobody.
        poll_fn(|cx| match reply.poll_reset(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => story.as_mut().poll(cx).map(Some),
        })
        .await
    };
    match after {
        Some(After::Upgraded(upgrade)) => {
            if let Some(tunnel) = reply.into_tunnel() {
                Box::pin(upgraded::stream(&client, tunnel, *upgrade, step)).await;
            }
        }
        Some(After::Keep | After::Close { .. } | After::Reset) => {}
        None => {
            calm.broke_off();
            if calm.is_lost() {
                client.session.deadline.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F>(_of: impl FnOnce(&'a Rc<Worker>, Told) -> F) -> usize {
        size_of::<F>()
    }

    /// As many are kept as [`AT_REST`] says, and all requests of HTTP/2 in progress have one.
    #[test]
    fn tasks_stay_small() {
        let bytes = size(one_by_one);
        assert!(bytes <= 2400, "{bytes} bytes");
    }
}
