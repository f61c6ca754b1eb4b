//! What a worker has in progress with each backend, so that an order of the control thread can end it.
//!
//! Whoever picks a backend enters here at once, with the deadline that its task waits by, and leaves by
//! dropping the guard, after its connection. Between a pick and its entry nothing else runs on the worker,
//! and an order is sent after its backend has been taken out: so what is picked before an order is found
//! by it, and what is picked after it knows of it. Decides nothing; costs a few stores a request.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::worker::Worker;
use crate::timer::{Cutter, Deadline};

/// A worker's list. A place that is left is taken again.
#[derive(Debug, Default)]
pub struct Engaged(Rc<RefCell<List>>);

#[derive(Debug)]
struct List {
    places: Vec<Place>,
    /// The first place that is free; `NONE` is none.
    free: u32,
    /// Counts entries, so that an order knows those that were there before it.
    entered: u64,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Place {
    /// 0 is nobody: no backend has that id.
    backend: u64,
    entry: u64,
    /// Of a place that is free: the next one that is.
    next: u32,
    cutter: Option<Cutter>,
    /// Orders that wait for it to leave; hardly ever any.
    orders: Vec<mpsc::Sender<()>>,
}

/// In progress with a backend while it lives.
#[derive(Debug)]
pub struct Entered {
    list: Rc<RefCell<List>>,
    place: u32,
}

impl Default for List {
    fn default() -> List {
        List { places: Vec::new(), free: NONE, entered: 0 }
    }
}

impl Engaged {
    /// Right after a pick of the backend with this id; `deadline` is what the task waits by.
    pub fn enter(&self, backend: u64, deadline: &Deadline) -> Entered {
        let mut list = self.0.borrow_mut();
        list.entered += 1;
        let (entry, at, cutter) = (list.entered, list.free, Some(deadline.cutter()));
        let place = match list.places.get_mut(at as usize) {
            Some(place) => {
                (place.backend, place.entry, place.cutter) = (backend, entry, cutter);
                list.free = place.next;
                at
            }
            None => {
                list.places.push(Place { backend, entry, next: NONE, cutter, orders: Vec::new() });
                list.places.len() as u32 - 1
            }
        };
        Entered { list: self.0.clone(), place }
    }

    /// Notes an order with all that is in progress with a backend. Returns the last entry that it means.
    fn note(&self, backend: u64, done: &mpsc::Sender<()>) -> u64 {
        let mut list = self.0.borrow_mut();
        for place in list.places.iter_mut().filter(|place| place.backend == backend) {
            place.orders.push(done.clone());
        }
        list.entered
    }

    /// Ends what is in progress with a backend, up to this entry.
    fn cut(&self, backend: u64, last: u64) {
        let list = self.0.borrow();
        let meant = |place: &&Place| place.backend == backend && place.entry <= last;
        let places = list.places.iter().filter(meant);
        let cutters: Vec<Cutter> = places.filter_map(|place| place.cutter.clone()).collect();
        // Whoever is woken may enter or leave.
        drop(list);
        cutters.iter().for_each(Cutter::cut);
    }
}

impl Entered {
    /// An order wants it to end, now or in a while: nothing of it is to be kept.
    pub fn is_ordered(&self) -> bool {
        !self.list.borrow().places[self.place as usize].orders.is_empty()
    }

    /// What waits by another deadline from now on.
    pub fn wait_by(&mut self, deadline: &Deadline) {
        let cutter = deadline.cutter();
        let mut list = self.list.borrow_mut();
        let before = list.places[self.place as usize].cutter.replace(cutter.clone());
        drop(list);
        if before.is_some_and(|before| before.mend()) {
            cutter.cut();
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut list = self.list.borrow_mut();
        let free = std::mem::replace(&mut list.free, self.place);
        let place = &mut list.places[self.place as usize];
        (place.backend, place.next) = (0, free);
        if !place.orders.is_empty() {
            place.orders.clear();
        }
        let cutter = place.cutter.take();
        drop(list);
        if let Some(cutter) = &cutter {
            // What follows a cut, another attempt or an answer of our own, waits by it again.
            cutter.mend();
        }
    }
}

/// Obeys an order: ends what is in progress with a backend, `after` this long, and lets go what is kept.
/// The sender goes when all that was in progress has ended, however. When its receiver goes before the
/// time has come, what is in progress may go on.
pub fn release(worker: &Rc<Worker>, backend: u64, after: Option<Duration>, done: mpsc::Sender<()>) {
    worker.idle.drop_all_of(backend);
    worker.shared_conns.drop_all_of(backend);
    let last = worker.engaged.note(backend, &done);
    match after {
        None => worker.engaged.cut(backend, last),
        Some(after) => {
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                // Who waits for the end must not wait for this task.
                let recalled = done.downgrade();
                drop(done);
                tokio::time::sleep(after).await;
                if recalled.upgrade().is_some_and(|done| !done.is_closed()) {
                    worker.engaged.cut(backend, last);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timer::Wheel;

    #[test]
    fn an_order_finds_what_was_there_and_is_done_when_that_has_left() {
        let (engaged, wheel) = (Engaged::default(), Wheel::new());
        let deadlines: Vec<_> = (0..4).map(|_| Deadline::new(&wheel)).collect();
        let first = engaged.enter(7, &deadlines[0]);
        let other = engaged.enter(8, &deadlines[1]);
        drop(engaged.enter(7, &deadlines[3]));
        let (done, mut left) = mpsc::channel(1);
        let last = engaged.note(7, &done);
        drop(done);
        let later = engaged.enter(7, &deadlines[2]);
        engaged.cut(7, last);
        assert!(deadlines[0].is_cut() && first.is_ordered() && !later.is_ordered());
        assert!(!deadlines[1].is_cut() && !deadlines[2].is_cut());
        assert!(left.try_recv() == Err(mpsc::error::TryRecvError::Empty));
        drop(first);
        assert!(left.try_recv() == Err(mpsc::error::TryRecvError::Disconnected));
        assert!(!deadlines[0].is_cut() && !deadlines[0].expired(), "mended");
        drop((other, later));
        assert_eq!(engaged.0.borrow().places.len(), 3);
        assert!(engaged.0.borrow().places.iter().all(|place| place.backend == 0));
    }
}
