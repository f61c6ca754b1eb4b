//! The body of `/metrics`: made part by part, while it is being sent.
//!
//! It never holds more than a batch of text and lets the control thread do other work after each,
//! so that a scrape of 10,000 backends delays no probe by more than some milliseconds.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;

use super::collector::{Place, Scene};

/// Small parts go out together up to this size.
const BATCH_BYTES: usize = 16 * 1024;

/// A scrape in progress.
#[derive(Debug)]
pub(super) struct Scrape {
    scene: Scene,
    place: Place,
    rested: bool,
    spent: Duration,
    /// Where the time that it took is left for the next scrape.
    took: Rc<Cell<Duration>>,
}

impl Scrape {
    pub(super) fn new(scene: Scene, took: Rc<Cell<Duration>>) -> Scrape {
        Scrape { scene, place: Place::default(), rested: true, spent: Duration::ZERO, took }
    }

    /// The next batch of parts; empty at the end.
    fn batch(&mut self) -> String {
        let begun = Instant::now();
        let mut text = String::new();
        while text.len() < BATCH_BYTES && self.scene.write_part(&mut self.place, &mut text) {}
        self.spent += begun.elapsed();
        text
    }
}

impl http_body::Body for Scrape {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.rested {
            self.rested = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let text = self.batch();
        if text.is_empty() {
            self.took.set(self.spent);
            return Poll::Ready(None);
        }
        self.rested = false;
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}
