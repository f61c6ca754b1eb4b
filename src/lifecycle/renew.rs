//! Certificates that change while the process runs: takes them up without a reload, and warns of those
//! that run out.
//!
//! Looks at the files about once a second. What changed is read again once it has been still for one
//! look, since a pair is written file by file; then a new snapshot is published, of the same
//! configuration otherwise. A file that cannot be used keeps its good predecessor; one that does not
//! come to rest keeps only itself waiting.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::reload::Applier;
use crate::config::model::{Bundle, Certificate, Config, ListenerTls, Name, TicketKeys};
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
    /// Why what was read could not be put in force, when it was last told.
    refused: Option<String>,
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
        let mut tally = Tally::of(&self.status);
        if let Some((renewed, news)) = self.renewal.look(&current.config, &mut tally) {
            match self.publisher.build(renewed, &self.addresses) {
                Ok(snapshot) => {
                    let config = snapshot.config.clone();
                    self.publisher.publish(snapshot);
                    self.renewal.published(config, &news, &mut tally);
                }
                Err(error) => self.renewal.refused(&error.to_string(), &mut tally),
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
    fn look(&mut self, config: &Arc<Config>, tally: &mut Tally<'_>) -> Option<(Config, News)> {
        let stamps: BTreeMap<PathBuf, Stamp> = watched(config).map(stamp).collect();
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
        // What was wrong with a file that is not read now may still be.
        let faults = self.faults.iter().filter(|(path, _)| moving.contains(*path));
        let faults = faults.map(|(path, text)| (path.clone(), text.clone())).collect();
        let news = News::default();
        let mut reader = Reader { tally, moving, before: &self.faults, faults, news };
        let mut renewed: Option<Config> = None;
        for (i, listener) in config.listeners.iter().enumerate() {
            let Some(old) = &listener.tls else { continue };
            let new = reader.again(old);
            if new != *old {
                let config = renewed.get_or_insert_with(|| Config::clone(config));
                config.listeners[i].tls = Some(new);
            }
        }
        let news = reader.news;
        self.faults = reader.faults;
        renewed.map(|config| (config, news))
    }

    /// What was read is in force.
    fn published(&mut self, config: Arc<Config>, news: &News, tally: &mut Tally<'_>) {
        self.config = Some(config);
        self.refused = None;
        news.tell(tally);
    }

    /// What was read cannot be put in force, though it was proved: it is read again at the next look.
    fn refused(&mut self, error: &str, tally: &mut Tally<'_>) {
        self.config = None;
        if self.refused.as_deref() != Some(error) {
            tally.failed();
            tracing::error!(error, "renewed certificates cannot be taken up");
            self.refused = Some(error.to_owned());
        }
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

/// Every file that a listener's TLS was read from, the folders, and whatever pairs are in these: one that
/// was bad at first may be mended where it stands, of which the folder shows nothing.
fn watched(config: &Config) -> impl Iterator<Item = PathBuf> {
    let all = config.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    all.flat_map(|tls| {
        let in_folder = tls.certificate_dir.iter().flat_map(|dir| certificates::folder(dir));
        let in_folder = in_folder.flatten().flat_map(|(cert, key)| [cert, key]);
        let pairs = tls.certificates.iter().flat_map(|c| [&*c.cert, &*c.key]);
        let auth = tls.client_auth.iter();
        let bundles = auth.flat_map(|auth| [Some(&auth.ca), auth.crl.as_ref()]).flatten();
        pairs
            .chain(bundles.map(|bundle| &*bundle.path))
            .chain(tls.ticket_keys.iter().map(|keys| &*keys.path))
            .chain(tls.certificate_dir.as_deref())
            .map(Path::to_owned)
            .chain(in_folder)
    })
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

/// What there is to say once it is in force.
#[derive(Debug, Default)]
struct News {
    taken_up: Vec<PathBuf>,
    /// Keys that everybody can read.
    exposed: Vec<PathBuf>,
    /// From their folders.
    gone: Vec<PathBuf>,
}

impl News {
    fn tell(&self, tally: &mut Tally<'_>) {
        for path in &self.taken_up {
            tally.succeeded();
            tracing::info!(file = %path.display(), "taken up");
        }
        for path in &self.exposed {
            let (file, help) = (path.display(), "chmod 640 it");
            tracing::warn!(%file, help, "everybody on this machine can read the key");
        }
        for path in &self.gone {
            tracing::info!(file = %path.display(), "a certificate is gone from its folder");
        }
    }
}

/// Reads files again, and tells what is wrong with them.
struct Reader<'a, 'b> {
    tally: &'a mut Tally<'b>,
    /// These are perhaps not written to their end: they are left for a later look.
    moving: HashSet<PathBuf>,
    /// What is known to be wrong is not said again.
    before: &'a HashMap<PathBuf, String>,
    faults: HashMap<PathBuf, String>,
    news: News,
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
            self.ticket_keys(keys);
        }
        new
    }

    fn ticket_keys(&mut self, keys: &mut TicketKeys) {
        if self.moving.contains(&keys.path) {
            return;
        }
        match certificates::ticket_keys(&keys.path) {
            Ok((read, _)) if read == *keys => {}
            Ok((read, exposed)) => {
                self.took_up(&keys.path, exposed.then_some(&keys.path));
                *keys = read;
            }
            Err(error) => self.kept(&error),
        }
    }

    fn moves(&self, cert: &Path, key: &Path) -> bool {
        self.moving.contains(cert) || self.moving.contains(key)
    }

    fn pair(&mut self, old: &Certificate) -> Certificate {
        if self.moves(&old.cert, &old.key) {
            return old.clone();
        }
        match certificates::pair(&old.cert, &old.key) {
            Ok(pair) if pair.certificate == *old => old.clone(),
            Ok(pair) => {
                self.took_up(&old.cert, pair.exposed.then_some(&old.key));
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
        let mut pairs = match certificates::folder(folder) {
            Ok(pairs) => pairs,
            // Also if it is empty all of a sudden: a listener without a certificate serves nobody.
            Err(error) => {
                self.kept(&error);
                return old.to_vec();
            }
        };
        // One of which a half was just taken away may be about to get another.
        let halves = old.iter().filter(|old| self.moves(&old.cert, &old.key));
        pairs.extend(halves.map(|old| (old.cert.clone(), old.key.clone())));
        pairs.sort();
        pairs.dedup();
        let mut new = Vec::new();
        for (cert, key) in pairs {
            if of(named, &cert, &key).is_some() {
                continue;
            }
            match of(old, &cert, &key) {
                Some(old) => new.push(self.pair(&old)),
                None if self.moves(&cert, &key) => {}
                None => match certificates::pair(&cert, &key) {
                    Ok(pair) => {
                        self.took_up(&cert, pair.exposed.then_some(&key));
                        new.push(pair.certificate);
                    }
                    Err(error) => self.kept(&error),
                },
            }
        }
        let gone = old.iter().filter(|old| of(&new, &old.cert, &old.key).is_none());
        self.news.gone.extend(gone.map(|gone| gone.cert.clone()));
        new
    }

    fn bundle(
        &mut self,
        old: &Bundle,
        read: impl FnOnce(&Path) -> Result<Bundle, CertificateError>,
    ) -> Bundle {
        if self.moving.contains(&old.path) {
            return old.clone();
        }
        match read(&old.path) {
            Ok(new) if new == *old => old.clone(),
            Ok(new) => {
                self.took_up(&old.path, None);
                new
            }
            Err(error) => {
                self.kept(&error);
                old.clone()
            }
        }
    }

    fn took_up(&mut self, path: &Path, exposed: Option<&PathBuf>) {
        self.news.taken_up.push(path.to_owned());
        self.news.exposed.extend(exposed.cloned());
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
    use std::os::unix::fs::PermissionsExt;

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
            let look = self.renewal.look(&self.config, &mut tally);
            let Some((new, news)) = look else { return false };
            self.config = Arc::new(new);
            self.renewal.published(self.config.clone(), &news, &mut tally);
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
    fn a_new_pair_that_was_bad_is_looked_at_again_when_it_is_mended_in_its_place() {
        let mut story = Story::new();
        story.look();
        let good = made("c.example");
        let bad = Made { cert: good.cert.clone(), key: made("x").key };
        put(&story.folder, "more", &bad);
        for _ in 0..3 {
            assert!(!story.look());
        }
        assert_eq!(story.counts(), (0, 1));
        story.folder.write("more.key", &good.key);
        assert!(!story.look());
        assert!(story.look());
        assert_eq!(story.names(), ["a.example", "c.example"]);
    }

    #[test]
    fn a_file_that_does_not_come_to_rest_keeps_only_itself_waiting() {
        let mut story = Story::new();
        story.look();
        put(&story.folder, "web", &made("b.example"));
        let mut renewed = 0;
        for look in 1..=4 {
            story.folder.write("tickets", &format!("{}A{}", "B".repeat(42), "\n".repeat(look)));
            let key = made("x").key + &"\n".repeat(look);
            put(&story.folder, "more", &Made { key, ..made("c.example") });
            renewed += usize::from(story.look());
        }
        assert_eq!((renewed, story.names()), (1, vec!["b.example".into()]));
        assert_eq!(story.counts(), (1, 0));
        assert!(story.look(), "the tickets are still");
        // The pair is as well, and bad.
        assert_eq!(story.counts(), (2, 1));
    }

    #[test]
    fn what_cannot_be_put_in_force_is_told_once_and_tried_again() {
        let mut story = Story::new();
        story.look();
        put(&story.folder, "web", &made("b.example"));
        assert!(!story.look());
        for _ in 0..3 {
            let mut tally = Tally::of(&story.status);
            assert!(story.renewal.look(&story.config, &mut tally).is_some());
            story.renewal.refused("it is full", &mut tally);
        }
        assert_eq!(story.counts(), (0, 1));
        assert!(story.look());
        assert_eq!(story.counts(), (1, 1));
    }

    #[test]
    fn a_renewed_key_that_everybody_can_read_is_told() {
        let mut story = Story::new();
        story.look();
        put(&story.folder, "web", &made("b.example"));
        let key = story.folder.path().join("web.key");
        for (mode, told) in [(0o644, true), (0o640, false)] {
            std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
            story.renewal.config = None;
            let look = story.renewal.look(&story.config, &mut Tally::of(&story.status));
            let exposed = look.unwrap().1.exposed;
            assert_eq!(exposed, if told { vec![key.clone()] } else { vec![] });
        }
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
