//! The rest of a long body: by splice, inside the kernel, where both ends are plain sockets and the
//! length is known.
//!
//! What was read with the head is copied; from then on a body that has much left goes this way. It never
//! takes a byte beyond the body's end.

use std::task::{Context, Poll, ready};

use super::h1::body::Body;
use crate::forward::splice::{Broken, Pipes, Splice, Stop};
use crate::listen::Plain;

/// From so many bytes on, the rest of a body costs less spliced than copied.
const FROM_BYTES: u64 = 32 * 1024;

/// One direction of one exchange.
#[derive(Debug)]
pub struct Bulk {
    pipes: Pipes,
    splice: Option<Splice>,
    /// The source seemed to be empty: only a read can tell whether it is.
    dry: bool,
    refused: bool,
}

/// What a connection brings in bulk: its socket, and the body of which it is the source.
pub type Source<'a> = (Plain<'a>, &'a mut Body);

/// How far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// What comes next, if anything does, is to be read and copied.
    CopyNext,
    /// The source ended too soon.
    Short,
}

impl Bulk {
    pub fn new(pipes: &Pipes) -> Bulk {
        Bulk { pipes: pipes.clone(), splice: None, dry: false, refused: false }
    }

    /// For the other direction.
    pub fn another(&self) -> Bulk {
        Bulk::new(&self.pipes)
    }

    /// Whether bytes were taken that have not been written yet.
    pub fn holds_bytes(&self) -> bool {
        self.splice.as_ref().is_some_and(Splice::holds_bytes)
    }

    /// Moves what it can of a body; `count` hears of what was written, also while this is pending.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, body): Source<'_>,
        to: Plain<'_>,
        count: impl FnOnce(u64),
    ) -> Poll<Result<Moved, Broken>> {
        let holds = self.holds_bytes();
        let before = body.left().unwrap_or(0);
        let worth = before >= FROM_BYTES && !self.refused && !std::mem::take(&mut self.dry);
        if !holds && !worth {
            return Poll::Ready(Ok(Moved::CopyNext));
        }
        let mut left = before;
        let splice = self.splice.get_or_insert_with(|| Splice::new(self.pipes.clone()));
        let polled = splice.poll(cx, from, to, &mut left);
        if left < before {
            body.passed(before - left);
            count(before - left);
        }
        match ready!(polled)? {
            Stop::Whole => {}
            Stop::Ended => return Poll::Ready(Ok(Moved::Short)),
            Stop::Dry => self.dry = true,
            Stop::Refused => self.refused = true,
        }
        Poll::Ready(Ok(Moved::CopyNext))
    }
}
