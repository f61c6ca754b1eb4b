//! A worker's buffers: borrowed for as long as bytes are in them, never held by an idle connection.

use std::cell::RefCell;
use std::rc::Rc;

/// Large enough that bulk needs few system calls, small enough to stay in a core's cache.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers kept by a worker when nobody borrows them.
const BUFFERS_KEPT: usize = 16;

/// A worker's buffers; clones are handles to the same ones.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Rc<RefCell<Vec<Box<[u8]>>>>);

impl Buffers {
    /// A buffer with whatever its last borrower left in it.
    pub fn borrow(&self) -> Box<[u8]> {
        self.0.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into())
    }

    pub fn give_back(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < BUFFERS_KEPT && buffer.len() == BUFFER_BYTES {
            kept.push(buffer);
        }
    }

    /// Buffers that nobody borrows.
    #[cfg(test)]
    pub fn at_rest(&self) -> usize {
        self.0.borrow().len()
    }
}
