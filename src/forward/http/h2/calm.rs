//! How patient a client has been with its requests. Pure.

use std::cell::Cell;

/// Streams that a client has reset once their story had begun: a connection on which so many were, and more
/// than half of all, is ended (rapid reset, CVE-2023-44487, by a client that waits a moment).
const BROKEN_OFF: u32 = 250;

/// The account of one connection.
#[derive(Debug, Default)]
pub struct Calm {
    begun: Cell<u32>,
    broken_off: Cell<u32>,
}

impl Calm {
    /// A request has come.
    pub fn begun(&self) {
        self.begun.set(self.begun.get().saturating_add(1));
    }

    /// And its client has not waited for the answer.
    pub fn broke_off(&self) {
        self.broken_off.set(self.broken_off.get().saturating_add(1));
    }

    pub fn is_lost(&self) -> bool {
        let broken_off = self.broken_off.get();
        broken_off >= BROKEN_OFF && broken_off > self.begun.get() / 2
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
