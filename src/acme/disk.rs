//! The state directory, for a thread that has other things to do: whatever touches the disk does so on
//! another.
//!
//! A file system that hangs holds up whoever needs it, and nobody else. Few wait for it at once: names
//! by the thousand must not take every thread that look-ups of names and reloads need too.

use std::io;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::store::{Lock, Store};

const AT_ONCE: usize = 4;

/// Those that may touch the disk at once, in the whole process.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Slots {
        Slots(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

#[derive(Clone, Debug)]
pub struct Disk {
    pub store: Store,
    slots: Slots,
}

impl Disk {
    pub fn new(store: Store, slots: Slots) -> Disk {
        Disk { store, slots }
    }

    /// Does it elsewhere. What has begun is done to its end, also if nobody waits for it any more.
    pub async fn run<T, E>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<io::Error> + Send + 'static,
    {
        let store = self.store.clone();
        // Held until the thread is free, not only until somebody has lost patience. It is never closed.
        let slot = self.slots.0.clone().acquire_owned().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            work(&store)
        });
        done.await.map_err(io::Error::other)?
    }

    /// `None` if another process orders for this name now.
    pub async fn lock(&self, domain: &str) -> io::Result<Option<Held>> {
        let domain = domain.to_owned();
        let lock = self.run(move |store| store.prepare().and_then(|()| store.lock(&domain))).await;
        lock.map(|lock| lock.map(Held::of))
    }

    /// `None` if another process makes an account, or has just made one.
    pub async fn lock_account(&self) -> io::Result<Option<Held>> {
        let lock = self.run(|store| store.prepare().and_then(|()| store.lock_account())).await;
        lock.map(|lock| lock.map(Held::of))
    }
}

/// A lock, which is let go elsewhere as well.
#[derive(Debug)]
pub struct Held(Option<Lock>);

impl Held {
    fn of(lock: Lock) -> Held {
        Held(Some(lock))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without a runtime this is the end of the process, which lets go of everything.
        if let (Some(lock), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(lock));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;

    /// Of a disk that hangs only so many threads take notice; who waits for it no more frees none.
    #[tokio::test]
    async fn a_disk_that_hangs_takes_few_threads() {
        let disk = Disk::new(Store::new(Path::new("/nowhere"), "https://a/b"), Slots::default());
        let (began, begun) = mpsc::channel();
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        let waiting: Vec<_> = (0..3 * AT_ONCE)
            .map(|_| {
                let (disk, began, hang) = (disk.clone(), began.clone(), hang.clone());
                tokio::spawn(async move {
                    disk.run(move |_| {
                        began.send(()).map_err(io::Error::other)?;
                        // Until there is nobody any more who could release it.
                        let _ = hang.lock().map(|hang| hang.recv());
                        Ok::<_, io::Error>(())
                    })
                    .await
                })
            })
            .collect();
        for _ in 0..AT_ONCE {
            while begun.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        }
        waiting.iter().take(AT_ONCE).for_each(|task| task.abort());
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(begun.try_recv().is_err(), "one more than may hang at once");
        assert_eq!(disk.slots.0.available_permits(), 0);
        drop(release);
        for task in waiting.into_iter().skip(AT_ONCE) {
            task.await.unwrap().unwrap();
        }
    }
}
