//! Warns of what runs out: certificates that listeners show, those that are shown to backends, and
//! revocation lists that nobody has replaced in time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::model::{Certificate, Name};
use crate::snapshot::Snapshot;
use crate::tls::expiry::{self, Stage, Told};

/// A file that is good until then. With the listener that shows it; one that pools show is one, however
/// many these are.
type Served = (Option<Name>, PathBuf, SystemTime);

/// What was said already.
#[derive(Debug, Default)]
pub struct Ends {
    certificates: Told<Served>,
    lists: Told<(PathBuf, SystemTime)>,
}

/// Who shows a certificate.
#[derive(Clone, Debug, PartialEq)]
enum By {
    Listener(Name),
    Pool(Name),
}

/// What is to be said.
#[derive(Clone, Debug, PartialEq)]
enum Due {
    Certificate(By, Certificate, Stage),
    /// The listener that goes by the list, its file, and when a newer one was due.
    List(Name, PathBuf, SystemTime),
}

impl Ends {
    pub fn warn(&mut self, snapshot: &Snapshot, now: SystemTime) {
        for due in self.due(snapshot, now) {
            due.tell(now);
        }
    }

    fn due(&mut self, snapshot: &Snapshot, now: SystemTime) -> Vec<Due> {
        let mut served: BTreeMap<Served, (By, Certificate)> = BTreeMap::new();
        let mut lists = BTreeMap::new();
        for listener in &snapshot.listeners {
            let name = &listener.config.name;
            for shown in listener.tls.iter().flat_map(|server| server.certificates()) {
                let key = (Some(name.clone()), shown.cert.clone(), shown.not_after);
                served.insert(key, (By::Listener(name.clone()), shown));
            }
            let auth = listener.config.tls.as_ref().and_then(|tls| tls.client_auth.as_ref());
            if let Some(list) = auth.and_then(|auth| auth.crl.as_ref())
                && let Some(next) = list.next_update
            {
                let due = Due::List(name.clone(), list.path.clone(), next);
                lists.entry((list.path.clone(), next)).or_insert(due);
            }
        }
        for pool in &snapshot.pools {
            if let Some(shown) = pool.config.tls.as_ref().and_then(|tls| tls.client.as_ref()) {
                let key = (None, shown.cert.clone(), shown.not_after);
                let first = || (By::Pool(pool.config.name.clone()), shown.clone());
                served.entry(key).or_insert_with(first);
            }
        }
        let items = served.iter().map(|(key, item)| (key.clone(), key.2, item));
        let due = self.certificates.due(items, now).into_iter();
        let due =
            due.map(|(stage, (by, shown))| Due::Certificate(by.clone(), shown.clone(), stage));
        let items = lists.iter().map(|(key, due)| (key.clone(), key.1, due));
        let late = self.lists.due(items, now).into_iter();
        // A list is replaced when its time comes, and not long before.
        let late = late.filter(|(stage, _)| *stage == Stage::Over).map(|(_, due)| due.clone());
        due.chain(late).collect()
    }
}

impl Due {
    fn tell(&self, now: SystemTime) {
        match self {
            Due::Certificate(by, shown, stage) => {
                let (name, file) = (shown.label(), shown.cert.display());
                let when = expiry::in_words(shown.not_after, now);
                match (by, stage) {
                    (By::Listener(listener), Stage::Over) => {
                        tracing::error!(%listener, name, %file, when, "a certificate has expired");
                    }
                    (By::Listener(listener), _) => {
                        tracing::warn!(%listener, name, %file, when, "a certificate expires");
                    }
                    (By::Pool(pool), Stage::Over) => {
                        tracing::error!(%pool, name, %file, when, "a certificate has expired");
                    }
                    (By::Pool(pool), _) => {
                        tracing::warn!(%pool, name, %file, when, "a certificate expires");
                    }
                }
            }
            Due::List(listener, file, next) => {
                let (file, due) = (file.display(), expiry::date(*next));
                let help = "it counts all the same: who was revoked since then gets in";
                tracing::warn!(%listener, %file, due, help, "a newer revocation list is due");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::parse;
    use crate::lifecycle::publish::{self, Publisher};
    use crate::lifecycle::resolve::Addresses;
    use crate::tls::testing::{Authority, Folder, Kind, LONG, Years, signed_by_itself};

    const TEXT: &str = "
listeners:
  one: {bind: 127.0.0.1:1, tls: &tls {certificates: [{cert: web.pem, key: web.key}], client_auth: {ca: ca.pem, crl: crl.pem}}, routes: [{pool: a}]}
  two: {bind: 127.0.0.1:2, tls: *tls, routes: [{pool: a}]}
pool_defaults: {tls: {ca: ca.pem, cert: lb.pem, key: lb.key}}
pools:
  a: {backends: [127.0.0.1:80]}
  b: {backends: [127.0.0.1:81]}
";

    #[test]
    fn what_runs_out_is_told_once_for_each_stage_and_file() {
        let (folder, authority) = (Folder::new(), Authority::new("clients"));
        folder.write("ca.pem", &authority.cert);
        folder.write("crl.pem", &authority.revoke(&[1]));
        folder.pair("web", &signed_by_itself(&["web.example"], Kind::Ecdsa, LONG));
        folder.pair("lb", &signed_by_itself(&["lb.example"], Kind::Ecdsa, Years(2020, 2048)));
        let config = parse(TEXT, "x", folder.path(), &|_| None).unwrap().config;
        let auth = config.listeners[0].tls.as_ref().unwrap().client_auth.as_ref().unwrap();
        let next = auth.crl.as_ref().unwrap().next_update.unwrap();
        let shown = config.pools[0].tls.as_ref().unwrap().client.clone().unwrap();
        let current = publish::nothing(config.clone());
        let snapshot = Publisher::new(current, 1).build(config, &Addresses::default()).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let mut ends = Ends::default();
        let mut told = Vec::new();
        let mut now = shown.not_after - 40 * day;
        while now < next.max(shown.not_after) + 40 * day {
            now += day / 2;
            told.extend(ends.due(&snapshot, now));
        }
        let pools: Vec<Stage> = told
            .iter()
            .filter_map(|due| match due {
                Due::Certificate(By::Pool(name), certificate, stage) => {
                    assert!(name.as_str() == "a" && *certificate == shown);
                    Some(*stage)
                }
                _ => None,
            })
            .collect();
        assert_eq!(pools, [Stage::ThirtyDays, Stage::SevenDays, Stage::OneDay, Stage::Over]);
        let of_listeners =
            told.iter().filter(|due| matches!(due, Due::Certificate(By::Listener(_), ..)));
        assert_eq!(of_listeners.count(), 8, "each of two, four times");
        let lists: Vec<&Due> = told.iter().filter(|due| matches!(due, Due::List(..))).collect();
        let path = folder.path().join("crl.pem");
        let first = snapshot.listeners[0].config.name.clone();
        assert_eq!(lists, [&Due::List(first, path, next)]);
        assert!(ends.due(&snapshot, now).is_empty());
    }
}
