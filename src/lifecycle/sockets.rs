//! The listening sockets of the process, by the address that the configuration names.
//!
//! The control thread keeps one descriptor of each for as long as some listener wants it, one worker
//! in four accepts from a duplicate. So an address that stays keeps its socket, and its queue, across
//! a reload; whose listener it is, a worker finds in the snapshot.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc::{self, UnboundedSender};

use crate::config::model::{BindAddr, Config};
use crate::flow::thread::Command;
use crate::listen::{BindError, Bound, ONE_ACCEPTS_FOR};

#[derive(Debug, Default)]
pub struct Sockets(HashMap<BindAddr, Bound>);

/// Sockets bound for a configuration that is not in force yet. Dropped, they are as if never bound.
#[derive(Debug, Default)]
pub struct Fresh(HashMap<BindAddr, Bound>);

impl Drop for Fresh {
    fn drop(&mut self) {
        self.0.keys().for_each(remove_file);
    }
}

impl Sockets {
    /// Binds what `config` wants and is not bound yet; all of it or nothing.
    pub fn bind(&self, config: &Config) -> Result<Fresh, BindError> {
        let mut fresh = Fresh::default();
        for addr in wanted(config).filter(|addr| !self.0.contains_key(addr)) {
            fresh.0.insert(addr.clone(), Bound::open(addr)?);
        }
        Ok(fresh)
    }

    /// Makes the sockets those of `config`, and tells the workers. The receiver ends, without a
    /// message, when they have let go what is not wanted any more: only then can it be bound again.
    pub fn adopt(
        &mut self,
        config: &Config,
        mut fresh: Fresh,
        workers: &[UnboundedSender<Command>],
    ) -> mpsc::Receiver<()> {
        let (done, released) = mpsc::channel(1);
        let mut before = std::mem::take(&mut self.0);
        for addr in wanted(config) {
            if let Some(kept) = before.remove(addr) {
                self.0.insert(addr.clone(), kept);
            } else if let Some(bound) = fresh.0.remove(addr) {
                tell(workers, || Ok(Command::Listen(addr.clone(), bound.duplicate()?)));
                self.0.insert(addr.clone(), bound);
            }
        }
        for addr in before.into_keys() {
            tell(workers, || Ok(Command::Unlisten(addr.clone(), done.clone())));
            remove_file(&addr);
        }
        released
    }

    /// Lets all go. The workers take what is queued and then close theirs.
    pub fn close(&mut self) {
        for (addr, _) in self.0.drain() {
            remove_file(&addr);
        }
    }

    /// The address in force: where port 0 was asked for, the one that the kernel chose.
    pub fn in_force(&self, addr: &BindAddr) -> Option<SocketAddr> {
        self.0.get(addr)?.local_addr()
    }

    /// Every address, as configured.
    pub fn list(&self) -> impl Iterator<Item = &BindAddr> {
        self.0.keys()
    }
}

fn wanted(config: &Config) -> impl Iterator<Item = &BindAddr> {
    config.listeners.iter().flat_map(|listener| &listener.bind)
}

fn remove_file(addr: &BindAddr) {
    if let BindAddr::Unix(path) = addr {
        // If it is gone already, so much the better.
        let _ = std::fs::remove_file(path);
    }
}

/// Tells the workers that accept. One that has ended hears nothing more, and needs not.
fn tell(workers: &[UnboundedSender<Command>], command: impl Fn() -> io::Result<Command>) {
    for worker in workers.iter().step_by(ONE_ACCEPTS_FOR) {
        match command() {
            Ok(command) => drop(worker.send(command)),
            Err(error) => tracing::error!(%error, "a worker cannot be given a listening socket"),
        }
    }
}
