//! `run --watch`: says when the configuration file holds something else. Reads it on a thread that may
//! wait, as its disk may hang.

use std::future::pending;

use tokio::task::{JoinHandle, spawn_blocking};

use super::reload::Source;
use crate::pool::balance::hash::hash_bytes;

#[derive(Debug)]
pub struct Watch {
    source: Source,
    /// What the file held before it was last loaded.
    before: u64,
    under_way: Option<JoinHandle<u64>>,
}

impl Watch {
    /// To be made before the file is loaded.
    pub fn new(source: &Source) -> Watch {
        Watch { source: source.clone(), before: fingerprint(source), under_way: None }
    }

    /// To be called about every second: begins another look, if the last one has ended.
    pub fn look(&mut self) {
        if self.under_way.is_none() {
            let source = self.source.clone();
            self.under_way = Some(spawn_blocking(move || fingerprint(&source)));
        }
    }

    /// Comes back when a look has found something else.
    pub async fn changed(&mut self) {
        loop {
            match &mut self.under_way {
                None => pending::<()>().await,
                Some(look) => {
                    let found = look.await;
                    self.under_way = None;
                    if found.is_ok_and(|now| now != self.before) {
                        return;
                    }
                }
            }
        }
    }

    /// To be called before the file is loaded again: what changes while it is being applied is seen the
    /// next time. What an earlier look finds is no news then.
    pub async fn loading(&mut self) {
        self.under_way = None;
        let source = self.source.clone();
        if let Ok(now) = spawn_blocking(move || fingerprint(&source)).await {
            self.before = now;
        }
    }
}

/// What the file holds, as far as a change can be told by it; 0 if it cannot be read.
fn fingerprint(source: &Source) -> u64 {
    match source {
        Source::File(path) => std::fs::read(path).map_or(0, |text| hash_bytes(&text)),
        Source::Text { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;
    use crate::tls::testing::Folder;

    #[tokio::test]
    async fn each_change_is_told_once_and_none_that_was_loaded_by_hand() {
        let folder = Folder::new();
        let path = folder.write("evenkeel.yaml", "a");
        let mut watch = Watch::new(&Source::File(path));
        let told = async |watch: &mut Watch| {
            watch.look();
            while watch.under_way.is_some() {
                tokio::select! {
                    biased;
                    () = watch.changed() => return true,
                    () = yield_now() => {}
                }
            }
            false
        };
        assert!(!told(&mut watch).await, "nothing has changed");
        folder.write("evenkeel.yaml", "b");
        assert!(told(&mut watch).await);
        watch.loading().await;
        assert!(!told(&mut watch).await);
        // A look from before a load by hand does not count after it.
        watch.look();
        folder.write("evenkeel.yaml", "c");
        watch.loading().await;
        assert!(watch.under_way.is_none() && !told(&mut watch).await);
    }
}
