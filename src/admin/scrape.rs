//! The body of `/metrics`: made family by family, while it is being sent.
//!
//! It never holds more text than one family and lets the control thread do other work after each
//! batch, so that a scrape of 10,000 backends delays no probe by more than one family's time.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;

use super::collector::Scene;
use crate::observe::metrics;

/// Small families go out together up to this size.
const BATCH_BYTES: usize = 16 * 1024;

/// A scrape in progress.
#[derive(Debug)]
pub(super) struct Scrape {
    scene: Scene,
    /// The place in `metrics::ALL` of what comes next.
    next: usize,
    rested: bool,
    spent: Duration,
    /// Where the time that it took is left for the next scrape.
    took: Rc<Cell<Duration>>,
}

impl Scrape {
    pub(super) fn new(scene: Scene, took: Rc<Cell<Duration>>) -> Scrape {
        Scrape { scene, next: 0, rested: true, spent: Duration::ZERO, took }
    }

    /// The next batch of families; empty at the end.
    fn batch(&mut self) -> String {
        let begun = Instant::now();
        let mut text = String::new();
        while let Some(metric) = metrics::ALL.get(self.next) {
            self.scene.write(metric, &mut text);
            self.next += 1;
            if text.len() >= BATCH_BYTES {
                break;
            }
        }
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
