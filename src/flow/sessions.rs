//! A worker's open client connections, for the control thread's word to reach them.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::config::model::Name;
use crate::forward::session::Session;

#[derive(Debug, Default)]
pub struct Sessions {
    open: RefCell<FxHashMap<u64, (Name, Weak<Session>)>>,
    next: Cell<u64>,
    draining: Cell<bool>,
    /// Told in a drain, when the last session or an accept loop has ended.
    ended: Notify,
}

/// A connection's place in the list; dropping it takes it off.
#[derive(Debug)]
pub struct Registered {
    sessions: Rc<Sessions>,
    key: u64,
}

impl Sessions {
    /// Adds a connection of the listener of this name.
    pub fn register(self: &Rc<Self>, name: &Name, session: &Rc<Session>) -> Registered {
        let key = self.next.get();
        self.next.set(key + 1);
        self.open.borrow_mut().insert(key, (name.clone(), Rc::downgrade(session)));
        if self.draining.get() {
            session.leave();
        }
        Registered { sessions: self.clone(), key }
    }

    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the connections of one listener, or all.
    pub fn tell(&self, of: Option<&Name>, what: impl Fn(&Session)) {
        let told: Vec<_> = self
            .open
            .borrow()
            .values()
            .filter(|(name, _)| of.is_none_or(|of| of == name))
            .filter_map(|(_, session)| session.upgrade())
            .collect();
        told.iter().for_each(|session| what(session));
    }

    /// From now on the end of the last one is told.
    pub fn drain(&self) {
        self.draining.set(true);
        self.tell(None, Session::leave);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// An accept loop has ended.
    pub fn nudge(&self) {
        self.ended.notify_one();
    }

    /// In a drain: until the last session, or an accept loop, has ended.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.open.borrow_mut().remove(&self.key);
        if self.sessions.is_draining() && self.sessions.is_empty() {
            self.sessions.nudge();
        }
    }
}
