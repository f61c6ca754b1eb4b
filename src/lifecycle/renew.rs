//! Certificates that change while the process runs: takes them up without a reload, and warns of those
//! that run out.
//!
//! Looks at the files about once a second. What changed is read again once it has been still for one
//! look, since a pair is written file by file; then a new snapshot is published, of the same
//! configuration otherwise. A file that cannot be used keeps its good predecessor.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::reload::Applier;
use crate::config::model::{Bundle, Certificate, Config, ListenerTls, Name};
use crate::snapshot::Snapshot;
use crate::tls::certificates::{self, CertificateError};
use crate::tls::expiry::{self, Stage, Told};

/// What a file looks like from outside; `None` if it is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// What was seen of the files, and what was said of them.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Which configuration the files were read for.
    config: Option<Arc<Config>>,
    taken_up: BTreeMap<PathBuf, Stamp>,
    last_look: BTreeMap<PathBuf, Stamp>,
    /// What was wrong when it was last told, by file.
    faults: HashMap<PathBuf, String>,
    told: Told<(Name, PathBuf, SystemTime)>,
}

impl Applier {
    /// To be called about every second.
    pub fn look_after_certificates(&mut self) {
        let current = self.current.load_full();
        let now = Instant::now();
        for server in current.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
            server.rotate_tickets(now);
        }
        if let Some(renewed) = self.renewal.look(&current.config, &mut Tally::of(&self.status)) {
            match self.publisher.build(renewed, &self.addresses) {
                Ok(snapshot) => {
                    self.renewal.config = Some(snapshot.config.clone());
                    self.publisher.publish(snapshot);
                }
                Err(error) => tracing::error!(%error, "renewed certificates cannot be taken up"),
            }
        }
        self.renewal.warn_of_expiry(&self.current.load(), SystemTime::now());
    }
}

/// Counts what was taken up and what was not.
#[derive(Debug)]
struct Tally<'a> {
    status: &'a super::status::CertificateReloads,
}

impl<'a> Tally<'a> {
    fn of(status: &'a super::status::Status) -> Tally<'a> {
        Tally { status: &status.certificates }
    }

    fn succeeded(&mut self) {
        self.status.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&mut self) {
        self.status.failed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Renewal {
    /// What a load has found wrong, and told, is no news.
    pub fn was_told(&mut self, faults: impl IntoIterator<Item = (PathBuf, String)>) {
        self.faults.extend(faults);
    }

    /// The configuration with what has changed on disk; `None` if nothing has.
    fn look(&mut self, config: &Arc<Config>, tally: &mut Tally<'_>) -> Option<Config> {
        let stamps: BTreeMap<PathBuf, Stamp> = watched(config).map(stamp).collect();
        // Files may have changed while a new configuration was being put in force: they are read once
        // more after each.
        let fresh = !self.config.as_ref().is_some_and(|of| Arc::ptr_eq(of, config));
        if !fresh && stamps == self.taken_up {
            self.last_look = stamps;
            return None;
        }
        if !fresh && stamps != self.last_look {
            self.last_look = stamps;
            return None;
        }
        self.config = Some(config.clone());
        self.last_look = stamps.clone();
        self.taken_up = stamps;
        let mut reader = Reader { tally, before: &self.faults, faults: HashMap::new() };
        let mut renewed: Option<Config> = None;
        for (i, listener) in config.listeners.iter().enumerate() {
            let Some(old) = &listener.tls else { continue };
            let new = reader.again(old);
            if new != *old {
                let config = renewed.get_or_insert_with(|| Config::clone(config));
                config.listeners[i].tls = Some(new);
            }
        }
        self.faults = reader.faults;
        renewed
    }

    fn warn_of_expiry(&mut self, snapshot: &Snapshot, now: SystemTime) {
        let mut served = Vec::new();
        for listener in &snapshot.listeners {
            for certificate in listener.tls.iter().flat_map(|server| server.certificates()) {
                served.push((listener.config.name.clone(), certificate));
            }
        }
        let items = served.iter().map(|item| {
            let (listener, certificate) = item;
            let not_after = certificate.not_after;
            ((listener.clone(), certificate.cert.clone(), not_after), not_after, item)
        });
        for (stage, (listener, certificate)) in self.told.due(items, now) {
            let file = certificate.cert.display();
            let name = certificate.label();
            let when = expiry::in_words(certificate.not_after, now);
            match stage {
                Stage::Over => {
                    tracing::error!(%listener, name, %file, when, "a certificate has expired");
                }
                Stage::OneDay | Stage::SevenDays | Stage::ThirtyDays => {
                    tracing::warn!(%listener, name, %file, when, "a certificate expires");
                }
            }
        }
    }
}

/// Every file that a listener's TLS was read from, and the folders.
fn watched(config: &Config) -> impl Iterator<Item = &Path> {
    let all = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    all.flat_map(|tls| {
        let pairs = tls.certificates.iter().flat_map(|c| [&*c.cert, &*c.key]);
        let auth = tls.client_auth.iter();
        let bundles = auth.flat_map(|auth| [Some(&auth.ca), auth.crl.as_ref()]).flatten();
        pairs
            .chain(bundles.map(|bundle| &*bundle.path))
            .chain(tls.ticket_keys.iter().map(|keys| &*keys.path))
            .chain(tls.certificate_dir.as_deref())
    })
}

/// Of what a link points at, so that a link that is turned counts as well.
fn stamp(path: &Path) -> (PathBuf, Stamp) {
    let stamp = std::fs::metadata(path).ok().map(|data| {
        let time = data.mtime().wrapping_mul(1_000_000_000).wrapping_add(data.mtime_nsec());
        let changed = data.ctime().wrapping_mul(1_000_000_000).wrapping_add(data.ctime_nsec());
        (data.dev(), data.ino(), data.len(), time, changed)
    });
    (path.to_owned(), stamp)
}

/// Reads files again, and says what came of it.
struct Reader<'a, 'b> {
    tally: &'a mut Tally<'b>,
    /// What is known to be wrong is not said again.
    before: &'a HashMap<PathBuf, String>,
    faults: HashMap<PathBuf, String>,
}

impl Reader<'_, '_> {
    fn again(&mut self, old: &ListenerTls) -> ListenerTls {
        let mut new = old.clone();
        let (named, of_folder) = old.certificates.split_at(old.named.min(old.certificates.len()));
        new.certificates = named.iter().map(|old| self.pair(old)).collect();
        new.named = new.certificates.len();
        match &old.certificate_dir {
            Some(folder) => {
                let found = self.folder(folder, named, of_folder);
                new.certificates.extend(found);
            }
            None => new.certificates.extend(of_folder.iter().cloned()),
        }
        if let Some(auth) = &mut new.client_auth {
            auth.ca = self.bundle(&auth.ca, certificates::authorities);
            if let Some(crl) = &mut auth.crl {
                let read = |path: &Path| certificates::revocations(path).map(|read| read.bundle);
                *crl = self.bundle(crl, read);
            }
        }
        if let Some(keys) = &mut new.ticket_keys {
            match certificates::ticket_keys(&keys.path) {
                Ok((read, _)) if read == *keys => {}
                Ok((read, _)) => {
                    self.took_up(&keys.path);
                    *keys = read;
                }
                Err(error) => self.kept(&error),
            }
        }
        new
    }

    fn pair(&mut self, old: &Certificate) -> Certificate {
        match certificates::pair(&old.cert, &old.key) {
            Ok(pair) if pair.certificate == *old => old.clone(),
            Ok(pair) => {
                self.took_up(&old.cert);
                pair.certificate
            }
            Err(error) => {
                self.kept(&error);
                old.clone()
            }
        }
    }

    /// Pairs that are new, changed, or gone.
    fn folder(
        &mut self,
        folder: &Path,
        named: &[Certificate],
        old: &[Certificate],
    ) -> Vec<Certificate> {
        let of = |list: &[Certificate], cert: &Path, key: &Path| {
            list.iter().find(|c| c.cert == cert && c.key == key).cloned()
        };
        let pairs = match certificates::folder(folder) {
            Ok(pairs) => pairs,
            // Also if it is empty all of a sudden: a listener without a certificate serves nobody.
            Err(error) => {
                self.kept(&error);
                return old.to_vec();
            }
        };
        let mut new = Vec::new();
        for (cert, key) in pairs {
            if of(named, &cert, &key).is_some() {
                continue;
            }
            match of(old, &cert, &key) {
                Some(old) => new.push(self.pair(&old)),
                None => match certificates::pair(&cert, &key) {
                    Ok(pair) => {
                        self.took_up(&cert);
                        new.push(pair.certificate);
                    }
                    Err(error) => self.kept(&error),
                },
            }
        }
        for gone in old.iter().filter(|old| of(&new, &old.cert, &old.key).is_none()) {
            tracing::info!(file = %gone.cert.display(), "a certificate is gone from its folder");
        }
        new
    }

    fn bundle(
        &mut self,
        old: &Bundle,
        read: impl FnOnce(&Path) -> Result<Bundle, CertificateError>,
    ) -> Bundle {
        match read(&old.path) {
            Ok(new) if new == *old => old.clone(),
            Ok(new) => {
                self.took_up(&old.path);
                new
            }
            Err(error) => {
                self.kept(&error);
                old.clone()
            }
        }
    }

    fn took_up(&mut self, path: &Path) {
        self.tally.succeeded();
        tracing::info!(file = %path.display(), "taken up");
    }

    /// Its predecessor goes on. Said once for each fault.
    fn kept(&mut self, error: &CertificateError) {
        let text = error.to_string();
        let known = self.before.get(&error.path) == Some(&text);
        if !known && self.faults.get(&error.path) != Some(&text) {
            self.tally.failed();
            let (fault, help) = (&text, error.what.help());
            tracing::error!(fault, help, "not taken up; what was read before goes on");
        }
        self.faults.insert(error.path.clone(), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse, parse_after};
    use crate::lifecycle::status::Status;
    use crate::tls::testing::{Authority, Folder, Kind, LONG, Made, signed_by_itself};

    const TEXT: &str = "
listeners:
  web:
    bind: 127.0.0.1:8443
    tls:
      certificates: [{cert: web.pem, key: web.key}]
      certificate_dir: .
      client_auth: {mode: optional, ca: ca.pem}
      ticket_keys_file: tickets
    routes: [{pool: web}]
pools:
  web: {backends: [web.internal:80], health_check: {http: {path: /}}}
";

    struct Story {
        folder: Folder,
        renewal: Renewal,
        status: Status,
        config: Arc<Config>,
    }

    impl Story {
        fn new() -> Story {
            let folder = Folder::new();
            put(&folder, "web", &made("a.example"));
            folder.write("ca.pem", &Authority::new("clients").cert);
            folder.write("tickets", &"A".repeat(43));
            let config = Arc::new(parse(TEXT, "x", folder.path(), &|_| None).unwrap().config);
            let (renewal, status) = (Renewal::default(), Status::new(1, 0));
            Story { folder, renewal, status, config }
        }

        /// As the control thread does; true if there is something new.
        fn look(&mut self) -> bool {
            let mut tally = Tally::of(&self.status);
            let Some(new) = self.renewal.look(&self.config, &mut tally) else { return false };
            self.config = Arc::new(new);
            self.renewal.config = Some(self.config.clone());
            true
        }

        fn names(&self) -> Vec<String> {
            let tls = self.config.listeners[0].tls.as_ref().unwrap();
            tls.certificates.iter().map(|c| c.label()).collect()
        }

        fn counts(&self) -> (u64, u64) {
            let counts = &self.status.certificates;
            let get = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
            (get(&counts.succeeded), get(&counts.failed))
        }
    }

    fn made(name: &str) -> Made {
        signed_by_itself(&[name], Kind::Ecdsa, LONG)
    }

    fn put(folder: &Folder, file: &str, made: &Made) {
        folder.write(&format!("{file}.pem"), &made.cert);
        folder.write(&format!("{file}.key"), &made.key);
    }

    #[test]
    fn what_changes_is_taken_up_once_it_is_still() {
        let mut story = Story::new();
        assert!(!story.look() && !story.look(), "nothing has changed");
        put(&story.folder, "web", &made("b.example"));
        assert!(!story.look(), "seen, and perhaps not written to its end");
        assert!(story.look());
        assert_eq!((story.names(), story.counts()), (vec!["b.example".into()], (1, 0)));
        assert!(!story.look() && !story.look());
        // A pair comes to the folder, and goes.
        put(&story.folder, "more", &made("c.example"));
        assert!(!story.look());
        assert!(story.look());
        assert_eq!(story.names(), ["b.example", "c.example"]);
        std::fs::remove_file(story.folder.path().join("more.key")).unwrap();
        assert!(!story.look());
        assert!(story.look());
        assert_eq!(story.names(), ["b.example"]);
        // Authorities and ticket keys count as well.
        story.folder.write("ca.pem", &Authority::new("others").cert);
        story.folder.write("tickets", &"B".repeat(42));
        story.folder.write("tickets", &format!("{}A\n{}A", "B".repeat(42), "C".repeat(42)));
        assert!(!story.look());
        assert!(story.look());
        let tls = story.config.listeners[0].tls.as_ref().unwrap();
        assert_eq!(tls.ticket_keys.as_ref().unwrap().secrets.len(), 2);
        assert_eq!(story.counts(), (4, 0));
    }

    #[test]
    fn what_is_bad_keeps_its_predecessor_and_is_told_once() {
        let mut story = Story::new();
        story.look();
        let before = story.config.clone();
        put(&story.folder, "web", &Made { key: made("x").key, ..made("b.example") });
        story.folder.write("ca.pem", "no certificate");
        story.folder.write("tickets", "");
        for _ in 0..5 {
            assert!(!story.look());
        }
        assert!(Arc::ptr_eq(&before, &story.config));
        assert_eq!(story.counts(), (0, 3));
        // Another fault of the same file is told, the others are not told again.
        std::fs::remove_file(story.folder.path().join("web.key")).unwrap();
        for _ in 0..5 {
            assert!(!story.look());
        }
        // The file and the folder, in which now no pair is left.
        assert_eq!(story.counts(), (0, 5));
        put(&story.folder, "web", &made("b.example"));
        assert!(!story.look());
        assert!(story.look());
        assert_eq!((story.names(), story.counts()), (vec!["b.example".into()], (1, 5)));
    }

    #[test]
    fn a_reload_keeps_the_good_predecessor_of_a_bad_pair_and_a_start_has_none() {
        let story = Story::new();
        story.folder.write("web.key", &made("x").key);
        let folder = story.folder.path();
        let loaded = parse_after(TEXT, "x", folder, &|_| None, Some(&story.config)).unwrap();
        assert_eq!(loaded.config, *story.config);
        assert_eq!(loaded.kept_certificates.len(), 1);
        // The watch then has nothing to add.
        let mut story = story;
        story.config = Arc::new(loaded.config.clone());
        story.renewal.was_told(loaded.kept_certificates.clone());
        assert!(!story.look() && story.counts() == (0, 0));
        let folder = story.folder.path();
        let told = loaded.warnings.iter().map(ToString::to_string).collect::<String>();
        assert!(told.contains("does not belong") && told.contains("goes on"), "{told}");
        // Whatever else a listener's TLS is read from has a predecessor as well.
        story.folder.write("ca.pem", "no certificate");
        story.folder.write("tickets", "");
        let loaded = parse_after(TEXT, "x", folder, &|_| None, Some(&story.config)).unwrap();
        assert_eq!(loaded.config, *story.config);
        assert_eq!(loaded.kept_certificates.len(), 3);
        let error = parse(TEXT, "x", folder, &|_| None).unwrap_err().to_string();
        assert!(error.contains("certificates[0].key: the key does not belong"), "{error}");
    }

    #[test]
    fn what_changes_while_a_reload_is_under_way_is_seen() {
        let mut story = Story::new();
        // After the load has read it, before the first look.
        put(&story.folder, "web", &made("b.example"));
        assert!(story.look());
        assert_eq!(story.names(), ["b.example"]);
    }
}
