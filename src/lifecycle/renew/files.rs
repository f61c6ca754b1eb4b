//! What the files look like from outside, and which of them are to be read again.
//!
//! What changed is read once it has been still for one look, since a pair is written file by file. One
//! that does not come to rest keeps only itself waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Tally;
use super::reader::{News, Outcome, Reader};
use crate::config::model::{BackendTls, Config, ListenerTls};
use crate::tls::certificates;

/// What a file looks like from outside; `None` if it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// What was seen of the files, and what was said of them.
#[derive(Debug, Default)]
pub struct Files {
    /// Which configuration they were read for.
    pub config: Option<Arc<Config>>,
    taken_up: BTreeMap<PathBuf, Stamp>,
    last_look: BTreeMap<PathBuf, Stamp>,
    /// What was wrong when it was last told, by file.
    faults: HashMap<PathBuf, String>,
    /// Why what was read could not be put in force, when it was last told.
    refused: Option<String>,
}

impl Files {
    /// What was told by others is no news.
    pub fn were_told(&mut self, faults: impl IntoIterator<Item = (PathBuf, String)>) {
        self.faults.extend(faults);
    }

    /// The configuration with what has changed on disk; `None` if nothing has.
    pub fn look(&mut self, config: &Arc<Config>, tally: &mut Tally<'_>) -> Option<(Config, News)> {
        // Many may name one file.
        let paths: BTreeSet<PathBuf> = watched(config).collect();
        let stamps: BTreeMap<PathBuf, Stamp> = paths.into_iter().map(stamp).collect();
        // Files may have changed while a new configuration was being put in force: they are read once
        // more after each.
        let fresh = !self.config.as_ref().is_some_and(|of| Arc::ptr_eq(of, config));
        let moves = |(path, stamp): &(&PathBuf, &Stamp)| self.last_look.get(*path) != Some(*stamp);
        let moving: HashSet<PathBuf> =
            stamps.iter().filter(|file| !fresh && moves(file)).map(|(p, _)| p.clone()).collect();
        let new = |(path, stamp): (&PathBuf, &Stamp)| {
            !moving.contains(path) && self.taken_up.get(path) != Some(stamp)
        };
        let read = fresh || stamps.iter().any(new);
        self.last_look = stamps;
        if !read {
            return None;
        }
        self.config = Some(config.clone());
        let still = self.last_look.iter().filter(|(path, _)| !moving.contains(*path));
        self.taken_up = still.map(|(path, stamp)| (path.clone(), *stamp)).collect();
        let mut reader = Reader::new(moving, &self.faults, tally);
        let renewed = renewed(config, &mut reader);
        let Outcome { news, faults, unread } = reader.done();
        self.faults = faults;
        // What is not there comes with another stamp.
        self.taken_up.retain(|path, stamp| stamp.is_none() || !unread.contains(path));
        renewed.map(|config| (config, news))
    }

    /// What was read is in force.
    pub fn published(&mut self, config: Arc<Config>, news: &News, tally: &mut Tally<'_>) {
        self.config = Some(config);
        self.refused = None;
        news.tell(tally);
    }

    /// What was read cannot be put in force, though it was proved: it is read again at the next look.
    pub fn refused(&mut self, error: &str, tally: &mut Tally<'_>) {
        self.config = None;
        if self.refused.as_deref() != Some(error) {
            tally.failed();
            tracing::error!(error, "renewed certificates cannot be taken up");
            self.refused = Some(error.to_owned());
        }
    }
}

/// `None` if nothing has changed.
fn renewed(config: &Arc<Config>, reader: &mut Reader<'_, '_>) -> Option<Config> {
    let mut renewed: Option<Config> = None;
    for (i, listener) in config.listeners.iter().enumerate() {
        let Some(old) = &listener.tls else { continue };
        let new = reader.listener(old);
        if new != *old {
            let config = renewed.get_or_insert_with(|| Config::clone(config));
            config.listeners[i].tls = Some(new);
        }
    }
    for (i, pool) in config.pools.iter().enumerate() {
        let Some(old) = &pool.tls else { continue };
        let new = reader.pool(old, pool.protocol);
        if new != *old {
            let config = renewed.get_or_insert_with(|| Config::clone(config));
            let pool = &mut config.pools[i];
            // Probes over TLS go as the pool's connections do.
            let probes = pool.health_check.as_mut().and_then(|check| check.tls.as_mut());
            if let Some(tls) = probes {
                *tls = new.clone();
            }
            pool.tls = Some(new);
        }
    }
    renewed
}

/// Whether there is anything to look at.
pub fn are_named(config: &Config) -> bool {
    let of_pool = |tls: &BackendTls| tls.ca.is_some() || tls.client.is_some();
    config.listeners.iter().any(|listener| listener.tls.is_some())
        || config.pools.iter().any(|pool| pool.tls.as_ref().is_some_and(of_pool))
}

/// Every file that TLS at either end was read from, the folders, and whatever pairs are in these: one
/// that was bad at first may be mended where it stands, of which the folder shows nothing.
fn watched(config: &Config) -> impl Iterator<Item = PathBuf> {
    let listeners = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let pools = config.pools.iter().filter_map(|pool| pool.tls.as_ref());
    listeners.flat_map(of_listener).chain(pools.flat_map(of_pool))
}

fn of_listener(tls: &ListenerTls) -> impl Iterator<Item = PathBuf> {
    let in_folder = tls.certificate_dir.iter().flat_map(|dir| certificates::folder(dir));
    let in_folder = in_folder.flatten().flat_map(|(cert, key)| [cert, key]);
    let pairs = tls.certificates.iter().flat_map(|c| [&*c.cert, &*c.key]);
    let auth = tls.client_auth.iter();
    let bundles = auth.flat_map(|auth| [Some(&auth.ca), auth.crl.as_ref()]).flatten();
    let acme = tls.acme.iter().filter_map(|acme| acme.ca.as_ref());
    pairs
        .chain(bundles.chain(acme).map(|bundle| &*bundle.path))
        .chain(tls.ticket_keys.iter().map(|keys| &*keys.path))
        .chain(tls.certificate_dir.as_deref())
        .map(Path::to_owned)
        .chain(in_folder)
}

fn of_pool(tls: &BackendTls) -> impl Iterator<Item = PathBuf> {
    let pair = tls.client.iter().flat_map(|client| [&client.cert, &client.key]);
    tls.ca.iter().map(|ca| &ca.path).chain(pair).cloned()
}

/// Of what a link points at, so that a link that is turned counts as well.
fn stamp(path: PathBuf) -> (PathBuf, Stamp) {
    let stamp = std::fs::metadata(&path).ok().map(|data| {
        let time = data.mtime().wrapping_mul(1_000_000_000).wrapping_add(data.mtime_nsec());
        let changed = data.ctime().wrapping_mul(1_000_000_000).wrapping_add(data.ctime_nsec());
        (data.dev(), data.ino(), data.len(), time, changed)
    });
    (path, stamp)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::parse;
    use crate::lifecycle::status::Status;
    use crate::tls::testing::{Authority, Folder};

    /// What fails for want of a descriptor, or of a file server, is there and looks as it did.
    #[test]
    fn what_could_not_be_read_is_read_again_though_nothing_changes() {
        let folder = Folder::new();
        let (one, two) = (folder.path().join("one.pem"), folder.path().join("two.pem"));
        for path in ["one.pem", "two.pem"] {
            folder.write(path, &Authority::new("backends").cert);
        }
        let text = "
listeners: {web: {bind: 127.0.0.1:8080, routes: [{pool: one}, {pool: two}]}}
pools:
  one: {backends: [web.internal:80], tls: {ca: one.pem}}
  two: {backends: [web.internal:80], tls: {ca: two.pem}}
";
        let config = Arc::new(parse(text, "x", folder.path(), &|_| None).unwrap().config);
        // A file whose first page nobody can read: EIO.
        std::fs::remove_file(&one).unwrap();
        symlink("/proc/self/mem", &one).unwrap();
        folder.write("two.pem", "no certificate");
        let (mut files, status) = (Files::default(), Status::new(1, 0));
        for _ in 0..3 {
            assert!(files.look(&config, &mut Tally::of(&status)).is_none());
            assert!(!files.taken_up.contains_key(&one), "it is to be read again");
            assert!(files.taken_up.contains_key(&two), "read, and bad until it changes");
        }
        assert_eq!(files.faults.len(), 2);
        let failed = status.certificates.failed.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(failed, 2, "said once");
    }
}
