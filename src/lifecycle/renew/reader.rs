//! Reads files again, and tells what is wrong with them. A file that cannot be used keeps its good
//! predecessor.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::Tally;
use crate::config::model::{BackendTls, Bundle, Certificate, ListenerTls, Protocol, TicketKeys};
use crate::tls::certificates::{self, CertificateError, Fault, Pair};
use crate::tls::client;

/// What there is to say once it is in force.
#[derive(Debug, Default)]
pub struct News {
    taken_up: BTreeSet<PathBuf>,
    /// Keys that everybody can read.
    pub exposed: BTreeSet<PathBuf>,
    /// From their folders.
    gone: BTreeSet<PathBuf>,
}

impl News {
    pub fn tell(&self, tally: &mut Tally<'_>) {
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

/// What a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holds {
    Authorities,
    Revocations,
}

/// What is to be said, what is wrong, by file, and what is to be read again.
#[derive(Debug)]
pub struct Outcome {
    pub news: News,
    pub faults: HashMap<PathBuf, String>,
    pub unread: HashSet<PathBuf>,
}

/// For one look.
#[derive(Debug)]
pub struct Reader<'a, 'b> {
    tally: &'a mut Tally<'b>,
    /// These are perhaps not written to their end: they are left for a later look.
    moving: HashSet<PathBuf>,
    /// What is known to be wrong is not said again.
    before: &'a HashMap<PathBuf, String>,
    faults: HashMap<PathBuf, String>,
    /// What could not be had from the disk. The next read may, though nothing has changed.
    unread: HashSet<PathBuf>,
    news: News,
    /// A file that many use is read once; `None`: it cannot be used.
    pairs: HashMap<(PathBuf, PathBuf), Option<Pair>>,
    bundles: HashMap<(PathBuf, Holds), Option<Bundle>>,
}

impl<'a, 'b> Reader<'a, 'b> {
    pub fn new(
        moving: HashSet<PathBuf>,
        before: &'a HashMap<PathBuf, String>,
        tally: &'a mut Tally<'b>,
    ) -> Reader<'a, 'b> {
        // What was wrong with a file that is not read now may still be.
        let faults = before.iter().filter(|(path, _)| moving.contains(*path));
        let faults = faults.map(|(path, text)| (path.clone(), text.clone())).collect();
        let (news, pairs, bundles) = (News::default(), HashMap::new(), HashMap::new());
        let unread = HashSet::new();
        Reader { tally, moving, before, faults, unread, news, pairs, bundles }
    }

    pub fn done(self) -> Outcome {
        Outcome { news: self.news, faults: self.faults, unread: self.unread }
    }

    pub fn listener(&mut self, old: &ListenerTls) -> ListenerTls {
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
            auth.ca = self.bundle(&auth.ca, Holds::Authorities);
            if let Some(crl) = &mut auth.crl {
                *crl = self.bundle(crl, Holds::Revocations);
            }
        }
        if let Some(ca) = new.acme.as_mut().and_then(|acme| acme.ca.as_mut()) {
            *ca = self.bundle(ca, Holds::Authorities);
        }
        if let Some(keys) = &mut new.ticket_keys {
            self.ticket_keys(keys);
        }
        new
    }

    /// Its settings are made anew if anything has changed: no session of before is resumed under what
    /// is trusted, or shown, now.
    pub fn pool(&mut self, old: &BackendTls, protocol: Protocol) -> BackendTls {
        let ca = old.ca.as_ref().map(|ca| self.bundle(ca, Holds::Authorities));
        let client = old.client.as_ref().map(|client| self.pair(client));
        if ca == old.ca && client == old.client {
            return old.clone();
        }
        match client::settings(ca.as_ref(), client.as_ref(), old.verify, protocol) {
            Ok(config) => BackendTls { ca, client, config, ..old.clone() },
            // Each part was proved as it was read.
            Err(error) => {
                self.tally.failed();
                tracing::error!(%error, "not taken up; what was read before goes on");
                old.clone()
            }
        }
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
        match self.read_pair(&old.cert, &old.key) {
            Some(pair) if pair.certificate != *old => {
                self.took_up(&old.cert, pair.exposed.then_some(&old.key));
                pair.certificate
            }
            Some(_) | None => old.clone(),
        }
    }

    /// `None` if it cannot be used, which was told.
    fn read_pair(&mut self, cert: &Path, key: &Path) -> Option<Pair> {
        let files = (cert.to_owned(), key.to_owned());
        if let Some(read) = self.pairs.get(&files) {
            return read.clone();
        }
        let read = certificates::pair(cert, key).map_err(|error| self.kept(&error)).ok();
        self.pairs.insert(files, read.clone());
        read
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
        let mut awaited = false;
        for (cert, key) in pairs {
            if of(named, &cert, &key).is_some() {
                continue;
            }
            match of(old, &cert, &key) {
                Some(old) => new.push(self.pair(&old)),
                None if self.moves(&cert, &key) => awaited = true,
                None => match self.read_pair(&cert, &key) {
                    Some(pair) => {
                        self.took_up(&cert, pair.exposed.then_some(&key));
                        new.push(pair.certificate);
                    }
                    None => awaited = true,
                },
            }
        }
        if awaited {
            // What is not there yet, or is bad, may be meant to follow what is gone.
            let gone = old.iter().filter(|old| of(&new, &old.cert, &old.key).is_none());
            let gone: Vec<_> = gone.cloned().collect();
            new.extend(gone);
            new.sort_by(|a, b| (&a.cert, &a.key).cmp(&(&b.cert, &b.key)));
        }
        let gone = old.iter().filter(|old| of(&new, &old.cert, &old.key).is_none());
        self.news.gone.extend(gone.map(|gone| gone.cert.clone()));
        new
    }

    fn bundle(&mut self, old: &Bundle, holds: Holds) -> Bundle {
        if self.moving.contains(&old.path) {
            return old.clone();
        }
        let file = (old.path.clone(), holds);
        let read = match self.bundles.get(&file) {
            Some(read) => read.clone(),
            None => {
                let read = match holds {
                    Holds::Authorities => certificates::authorities(&old.path),
                    Holds::Revocations => certificates::revocations(&old.path),
                };
                let read = read.map_err(|error| self.kept(&error)).ok();
                self.bundles.insert(file, read.clone());
                read
            }
        };
        match read {
            Some(new) if new != *old => {
                self.took_up(&old.path, None);
                new
            }
            Some(_) | None => old.clone(),
        }
    }

    fn took_up(&mut self, path: &Path, exposed: Option<&PathBuf>) {
        self.news.taken_up.insert(path.to_owned());
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
        // One that is too large, say, is so until it changes.
        if matches!(&error.what, Fault::Read(error) if error.raw_os_error().is_some()) {
            self.unread.insert(error.path.clone());
        }
        self.faults.insert(error.path.clone(), text);
    }
}
