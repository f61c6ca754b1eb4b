//! A request of an HTTP/2 client while its story is told: what of the answer waits for hyper, who polls, and
//! in which task.
//!
//! Hyper asks for the answer's body only while the client takes it. The rest of the request, and its time,
//! go on all the same: the stream's own task sees to that. It also sees clients that break off what they
//! have just asked for, again and again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use hyper::rt::Executor;
use hyper::upgrade::OnUpgrade;

use super::tunnel::Tether;
use crate::forward::session::Session;
use crate::timer::Deadline;

/// Streams that a client has reset once their story had begun: a connection on which so many were, and more
/// than half of all, is ended (rapid reset, CVE-2023-44487, by a client that waits a moment).
const BROKEN_OFF: u32 = 250;

/// What the story has for hyper, one thing at a time.
#[derive(Default)]
pub struct Slot {
    pub head: RefCell<Option<Response<()>>>,
    pub frame: RefCell<Option<Frame<Bytes>>>,
    pub trailers: RefCell<Option<HeaderMap>>,
    /// Hyper has a frame, and has not asked for the next.
    pub handed: Cell<bool>,
    /// The body is whole, but for what is still here.
    pub ended: Cell<bool>,
    /// Of a WebSocket, until somebody takes it.
    pub upgrade: RefCell<Option<OnUpgrade>>,
    /// The answer opens a tunnel.
    pub tunnel: RefCell<Option<Rc<Tether>>>,
}

impl Slot {
    /// What hyper would find.
    fn news(&self) -> (bool, bool, bool) {
        (self.head.borrow().is_some(), self.frame.borrow().is_some(), self.ended.get())
    }
}

/// A request from its head to the last byte of its answer. It ends early where something broke.
pub type Story = Pin<Box<dyn Future<Output = ()>>>;

/// A story while it is told: by who polls for the answer, and else by the stream's own task.
pub struct Told {
    /// `None` once it has been told to its end.
    story: RefCell<Option<Story>>,
    /// It was polled in this turn of its task.
    polled: Cell<bool>,
    pub slot: Rc<Slot>,
}

impl Told {
    pub fn new(story: Story, slot: Rc<Slot>) -> Rc<Told> {
        Rc::new(Told { story: RefCell::new(Some(story)), polled: Cell::new(false), slot })
    }

    fn poll(&self, cx: &mut Context<'_>) {
        self.polled.set(true);
        let mut story = self.story.borrow_mut();
        if let Some(telling) = story.as_mut()
            && telling.as_mut().poll(cx).is_ready()
        {
            *story = None;
        }
    }

    /// Hyper has no more to do with it: it goes on in a task of its own.
    pub fn go_alone(&self) {
        self.story.take().map(tokio::task::spawn_local);
    }

    fn is_over(&self) -> bool {
        self.story.borrow().is_none()
    }

    /// It broke off: the client can get no whole answer any more.
    fn is_broken(&self) -> bool {
        self.is_over() && !self.slot.ended.get()
    }

    /// Hyper asks for nothing while the client takes nothing, but the rest of the request, and its time, go
    /// on. What is new for hyper wakes the task again.
    fn go_on(&self, cx: &mut Context<'_>) {
        if self.polled.replace(false) || self.is_over() {
            return;
        }
        let before = self.slot.news();
        self.poll(cx);
        self.polled.set(false);
        if self.slot.news() != before {
            cx.waker().wake_by_ref();
        }
    }
}

/// An answer's body, as hyper polls it.
pub struct Telling(pub Rc<Told>);

/// The answer broke off; hyper resets the stream for it.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub struct BrokeOff;

impl Telling {
    /// Until the answer's head is there.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, BrokeOff>> {
        self.0.poll(cx);
        match self.0.slot.head.take() {
            Some(head) => Poll::Ready(Ok(head)),
            None if self.0.is_over() => Poll::Ready(Err(BrokeOff)),
            None => Poll::Pending,
        }
    }
}

impl Body for Telling {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let (told, slot) = (&self.0, &self.0.slot);
        slot.handed.set(false);
        if slot.frame.borrow().is_none() {
            told.poll(cx);
        }
        let frame = slot.frame.take();
        if let Some(frame) = frame {
            slot.handed.set(true);
            // What has been handed over may have been the last: the story hears of it now.
            told.poll(cx);
            return Poll::Ready(Some(Ok(frame)));
        }
        if slot.ended.get() {
            let trailers = slot.trailers.take();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match told.is_over() {
            false => Poll::Pending,
            true => Poll::Ready(Some(Err(BrokeOff))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let slot = &self.0.slot;
        let empty = slot.frame.borrow().is_none() && slot.trailers.borrow().is_none();
        slot.ended.get() && empty
    }
}

/// How patient a client has been with its requests.
#[derive(Debug, Default)]
pub struct Calm {
    begun: Cell<u32>,
    broken_off: Cell<u32>,
}

impl Calm {
    pub fn is_lost(&self) -> bool {
        let broken_off = self.broken_off.get();
        broken_off >= BROKEN_OFF && broken_off > self.begun.get() / 2
    }
}

/// What hyper is about to start.
pub enum Next {
    /// A stream, what it is bound by, and its story.
    Stream(Deadline, Rc<Told>),
    /// The task that writes a tunnel's bytes.
    Tunnel(Rc<Tether>),
}

/// Runs hyper's streams as tasks of the thread that their connection lives on, each with its story and under
/// its request's deadline.
#[derive(Clone)]
pub struct Streams {
    /// Left by the service for what hyper is about to start.
    pub next: Rc<RefCell<Option<Next>>>,
    pub calm: Rc<Calm>,
    session: Rc<Session>,
}

impl Streams {
    pub fn new(session: Rc<Session>) -> Streams {
        Streams { next: Rc::default(), calm: Rc::default(), session }
    }
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (deadline, told) = match self.next.take() {
            Some(Next::Stream(deadline, told)) => (deadline, told),
            Some(Next::Tunnel(tether)) => {
                tokio::task::spawn_local(tether.hold(stream));
                return;
            }
            None => {
                tokio::task::spawn_local(stream);
                return;
            }
        };
        let (calm, session) = (self.calm.clone(), self.session.clone());
        calm.begun.set(calm.begun.get() + 1);
        tokio::task::spawn_local(async move {
            let mut stream = pin!(stream);
            // Dropping the stream resets it.
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    if !told.is_over() {
                        calm.broken_off.set(calm.broken_off.get() + 1);
                        if calm.is_lost() {
                            session.deadline.wake();
                        }
                    }
                    return Poll::Ready(());
                }
                told.go_on(cx);
                match told.is_broken() {
                    true => Poll::Ready(()),
                    false => deadline.poll(cx),
                }
            })
            .await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_breaks_off_most_of_what_it_asks_for_is_told_from_others() {
        for (begun, broken_off, lost) in [
            (249, 249, false),
            (250, 250, true),
            (499, 250, true),
            (500, 250, false),
            (10_000, 5_000, false),
            (10_001, 5_001, true),
            (u32::MAX, 100_000, false),
        ] {
            let calm = Calm { begun: Cell::new(begun), broken_off: Cell::new(broken_off) };
            assert_eq!(calm.is_lost(), lost, "{broken_off} of {begun}");
        }
    }
}
