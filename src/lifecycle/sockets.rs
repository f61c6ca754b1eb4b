//! The listening sockets of the process, by the address that the configuration names.
//!
//! The control thread keeps one descriptor of each for as long as a listener wants it, workers accept
//! from duplicates. So a listener that stays keeps its socket, and its queue, across a reload.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc::UnboundedSender;

use crate::config::model::{BindAddr, Config, Name};
use crate::flow::thread::Command;
use crate::listen::{BindError, Bound};

#[derive(Debug, Default)]
pub struct Sockets {
    open: HashMap<BindAddr, Open>,
    next_number: u64,
}

#[derive(Debug)]
struct Open {
    number: u64,
    listener: Name,
    bound: Bound,
}

/// Sockets bound for a configuration that is not in force yet. Dropped, they close.
#[derive(Debug)]
pub struct Fresh(Vec<(BindAddr, Bound)>);

impl Sockets {
    /// Binds what `config` wants and is not bound yet; all of it or nothing.
    pub fn bind(&self, config: &Config) -> Result<Fresh, BindError> {
        let wanted = config.listeners.iter().flat_map(|listener| &listener.bind);
        let new = wanted.filter(|addr| !self.open.contains_key(addr));
        Ok(Fresh(new.map(|addr| Ok((addr.clone(), Bound::open(addr)?))).collect::<Result<_, _>>()?))
    }

    /// Makes the sockets those of `config`, and tells the workers.
    pub fn adopt(&mut self, config: &Config, fresh: Fresh, workers: &[UnboundedSender<Command>]) {
        let mut fresh: HashMap<BindAddr, Bound> = fresh.0.into_iter().collect();
        let mut before = std::mem::take(&mut self.open);
        for listener in &config.listeners {
            for addr in &listener.bind {
                let kept = before.remove(addr);
                let open = match kept {
                    Some(open) if open.listener == listener.name => open,
                    other => {
                        // Another listener's now: the workers take it up under its new name.
                        let bound = other.map(|open| {
                            tell(workers, || Ok(Command::Unlisten(open.number)));
                            open.bound
                        });
                        let Some(bound) = bound.or_else(|| fresh.remove(addr)) else { continue };
                        let number = self.next_number;
                        self.next_number += 1;
                        let name = listener.name.clone();
                        tell(workers, || {
                            Ok(Command::Listen(number, name.clone(), bound.duplicate()?))
                        });
                        Open { number, listener: name, bound }
                    }
                };
                self.open.insert(addr.clone(), open);
            }
        }
        for (addr, open) in before {
            tell(workers, || Ok(Command::Unlisten(open.number)));
            remove_file(&addr);
        }
    }

    /// Lets all go. The workers take what is queued and then close theirs.
    pub fn close(&mut self) {
        for (addr, _) in self.open.drain() {
            remove_file(&addr);
        }
    }

    /// Each address as configured, its listener, and the address in force (port 0 found its port).
    pub fn list(&self) -> impl Iterator<Item = (&Name, &BindAddr, Option<SocketAddr>)> {
        self.open.iter().map(|(addr, open)| (&open.listener, addr, open.bound.local_addr()))
    }
}

fn remove_file(addr: &BindAddr) {
    if let BindAddr::Unix(path) = addr {
        // If it is gone already, so much the better.
        let _ = std::fs::remove_file(path);
    }
}

/// A worker that has ended hears nothing more, and needs not.
fn tell(workers: &[UnboundedSender<Command>], command: impl Fn() -> io::Result<Command>) {
    for worker in workers {
        match command() {
            Ok(command) => drop(worker.send(command)),
            Err(error) => tracing::error!(%error, "a worker cannot be given a listening socket"),
        }
    }
}
