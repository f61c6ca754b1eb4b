//! Renewal, look by look.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::model::{BackendTls, Pool};
use crate::config::{parse, parse_after};
use crate::lifecycle::status::Status;
use crate::tls::certificates;
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
    files: Files,
    status: Status,
    config: Arc<Config>,
}

impl Story {
    fn new() -> Story {
        Story::of(TEXT)
    }

    fn of(text: &str) -> Story {
        let folder = Folder::new();
        put(&folder, "web", &made("a.example"));
        folder.write("ca.pem", &Authority::new("clients").cert);
        folder.write("tickets", &"A".repeat(43));
        let config = Arc::new(parse(text, "x", folder.path(), &|_| None).unwrap().config);
        let (files, status) = (Files::default(), Status::new(1, 0));
        Story { folder, files, status, config }
    }

    /// As the control thread does; true if there is something new.
    fn look(&mut self) -> bool {
        let mut tally = Tally::of(&self.status);
        let look = self.files.look(&self.config, &mut tally);
        let Some((new, news)) = look else { return false };
        self.config = Arc::new(new);
        self.files.published(self.config.clone(), &news, &mut tally);
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
    story.files.were_told(loaded.kept_certificates.clone());
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

/// A folder alone: what is gone from it before its follower is good would leave nobody served.
#[test]
fn a_pair_that_is_renamed_serves_until_it_is_there_under_its_new_name() {
    let text = TEXT.replace("      certificates: [{cert: web.pem, key: web.key}]\n", "");
    let mut story = Story::of(&text);
    assert!(!story.look());
    let path = |name: &str| story.folder.path().join(name);
    let (cert, key, old) = (path("new.pem"), path("new.key"), [path("web.pem"), path("web.key")]);
    let good = made("b.example");
    put(&story.folder, "new", &Made { cert: good.cert.clone(), key: made("x").key });
    old.iter().for_each(|old| std::fs::remove_file(old).unwrap());
    for _ in 0..3 {
        assert!(!story.look());
    }
    assert_eq!((story.names(), story.counts()), (vec!["a.example".into()], (0, 1)));
    // The one that is to follow is good, and does not come to rest; another is there by then.
    put(&story.folder, "more", &made("c.example"));
    story.folder.write("new.key", &good.key);
    assert!(!story.look());
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(story.look());
    assert_eq!(story.names(), ["c.example", "a.example"], "by file");
    std::fs::set_permissions(&cert, PermissionsExt::from_mode(0o600)).unwrap();
    assert!(!story.look());
    assert!(story.look());
    assert_eq!(story.names(), ["c.example", "b.example"]);
    assert!(!story.look());
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
        assert!(story.files.look(&story.config, &mut tally).is_some());
        story.files.refused("it is full", &mut tally);
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
        story.files.config = None;
        let look = story.files.look(&story.config, &mut Tally::of(&story.status));
        let exposed = look.unwrap().1.exposed;
        assert_eq!(exposed.contains(&key), told);
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

const POOLS: &str = "
listeners:
  web: {bind: 127.0.0.1:8080, routes: [{pool: web}]}
pool_defaults:
  tls: {ca: ca.pem, cert: lb.pem, key: lb.key}
pools:
  web: {protocol: auto, backends: [web.internal:80], health_check: {http: {path: /}}}
  more: {backends: [more.internal:80], health_check: {http: {path: /}, port: 81}}
  own: {backends: [own.internal:80], tls: {ca: own.pem, server_name: own.internal}}
  system: {backends: [system.internal:80], tls: off, health_check: {tls: {}}}
";

impl Story {
    fn of_pools() -> Story {
        let folder = Folder::new();
        put(&folder, "lb", &made("lb.example"));
        folder.write("ca.pem", &Authority::new("backends").cert);
        folder.write("own.pem", &Authority::new("own").cert);
        let config = Arc::new(parse(POOLS, "x", folder.path(), &|_| None).unwrap().config);
        let mut story =
            Story { folder, files: Files::default(), status: Status::new(1, 0), config };
        assert!(!story.look());
        story
    }

    fn pool(&self, name: &str) -> &Pool {
        self.config.pools.iter().find(|pool| pool.name.as_str() == name).unwrap()
    }

    fn tls(&self, name: &str) -> &BackendTls {
        self.pool(name).tls.as_ref().unwrap()
    }
}

#[test]
fn what_a_pool_trusts_and_shows_is_taken_up_as_well() {
    let mut story = Story::of_pools();
    let before = story.config.clone();
    let settings = story.tls("web").config.clone();
    put(&story.folder, "lb", &made("b.example"));
    assert!(!story.look(), "seen, and perhaps not written to its end");
    assert!(story.look());
    // Once, though three pools have it, one beside a `ca` of its own.
    assert_eq!(story.counts(), (1, 0));
    for name in ["web", "more", "own"] {
        assert_eq!(story.tls(name).client.as_ref().unwrap().label(), "b.example");
    }
    assert!(!Arc::ptr_eq(&settings, &story.tls("web").config), "no session outlives it");
    assert_eq!(story.tls("web").config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    // Probes go by it, unless they go elsewhere.
    let of_probes = |story: &Story, name| story.pool(name).health_check.clone().unwrap().tls;
    let probed = of_probes(&story, "web").unwrap();
    assert!(Arc::ptr_eq(&probed.config, &story.tls("web").config));
    assert_eq!(of_probes(&story, "more"), None);
    let same = |name| before.pools.iter().any(|pool| pool == story.pool(name));
    assert!(same("system") && !same("web") && !same("more") && !same("own"));
    story.folder.write("own.pem", &Authority::new("others").cert);
    assert!(!story.look());
    assert!(story.look());
    assert_eq!(story.counts(), (2, 0));
    let own = story.tls("own");
    assert_eq!(own.ca, Some(certificates::authorities(&own.ca.as_ref().unwrap().path).unwrap()));
    assert!(!story.look());
}

#[test]
fn what_is_bad_keeps_what_a_pool_had_at_a_look_and_at_a_reload() {
    let mut story = Story::of_pools();
    let before = story.config.clone();
    story.folder.write("ca.pem", "no certificate");
    put(&story.folder, "lb", &Made { key: made("x").key, ..made("b.example") });
    for _ in 0..5 {
        assert!(!story.look());
    }
    assert!(Arc::ptr_eq(&before, &story.config));
    assert_eq!(story.counts(), (0, 2));
    std::fs::remove_file(story.folder.path().join("own.pem")).unwrap();
    let folder = story.folder.path();
    let loaded = parse_after(POOLS, "x", folder, &|_| None, Some(&before)).unwrap();
    assert_eq!(loaded.config, *before);
    assert_eq!(loaded.kept_certificates.len(), 3);
    let told = loaded.warnings.iter().map(ToString::to_string).collect::<String>();
    for said in
        ["pool_defaults.tls.ca: holds no certificate", "pool_defaults.tls.key: the key does"]
    {
        assert!(told.contains(said) && told.contains("goes on"), "{told}");
    }
    // At a start there is no predecessor; and a pool that is new has that of the others.
    let error = parse(POOLS, "x", folder, &|_| None).unwrap_err().to_string();
    assert!(error.contains("pool_defaults.tls.ca: holds no certificate"), "{error}");
    let more = POOLS.to_owned() + "  new: {backends: [new.internal:80]}\n";
    let loaded = parse_after(&more, "x", folder, &|_| None, Some(&before)).unwrap();
    assert_eq!(loaded.config.pools.last().unwrap().tls, before.pools[1].tls);
}

/// A file of a pool's and a file of a listener's may be one.
#[test]
fn whom_to_trust_as_the_acme_server_is_watched_too() {
    let folder = Folder::new();
    folder.write("ca.pem", &Authority::new("acme").cert);
    let text = "
listeners:
  web:
    bind: 127.0.0.1:8443
    tls: {acme: {domains: [a.example], state_dir: state, ca: ca.pem}}
    routes: [{pool: web}]
pools:
  web: {backends: [web.internal:80], tls: {ca: ca.pem}}
";
    let config = Arc::new(parse(text, "x", folder.path(), &|_| None).unwrap().config);
    let mut story = Story { folder, files: Files::default(), status: Status::new(1, 0), config };
    assert!(!story.look());
    let before = story.config.clone();
    story.folder.write("ca.pem", &Authority::new("renewed").cert);
    assert!(!story.look());
    assert!(story.look());
    assert_eq!(story.counts(), (1, 0));
    let acme = story.config.listeners[0].acme().unwrap();
    assert_eq!(acme.ca, story.tls("web").ca);
    assert!(acme_differs(&before, &story.config) && !acme_differs(&before, &before));
    story.folder.write("ca.pem", "");
    let folder = story.folder.path();
    let loaded = parse_after(text, "x", folder, &|_| None, Some(&story.config)).unwrap();
    assert_eq!(loaded.config, *story.config);
}

#[tokio::test]
async fn one_look_at_a_time_and_none_for_what_is_in_force_no_more() {
    let mut story = Story::of_pools();
    put(&story.folder, "lb", &made("b.example"));
    let mut renewal = Renewal { files: std::mem::take(&mut story.files), ..Renewal::default() };
    let status = Arc::new(Status::new(1, 0));
    let now = Instant::now();
    let found = async |renewal: &mut Renewal| {
        renewal.begin(&story.config, &status, now);
        let first = renewal.under_way.as_ref().unwrap().handle.id();
        renewal.begin(&story.config, &status, now);
        assert_eq!(renewal.under_way.as_ref().unwrap().handle.id(), first, "one at a time");
        renewal.looked().await
    };
    let look = found(&mut renewal).await;
    assert!(renewal.end(look, &story.config).is_none(), "not still yet");
    let look = found(&mut renewal).await;
    // A reload has put another in force, if an equal one: what was read for the old one is not taken.
    let reloaded = Arc::new(Config::clone(&story.config));
    assert!(look.found.is_some());
    assert!(renewal.end(look, &reloaded).is_none());
    story.config = reloaded;
    renewal.begin(&story.config, &status, now);
    let look = renewal.looked().await;
    assert!(renewal.end(look, &story.config).is_some(), "it is found again");
    // Nothing to look at, nothing to wait for.
    let clear = Config { listeners: vec![], pools: vec![], ..Config::clone(&story.config) };
    renewal.begin(&Arc::new(clear), &status, now);
    assert!(renewal.under_way.is_none());
}

#[tokio::test]
async fn a_look_that_hangs_is_told_once_and_ends_with_its_configuration() {
    let story = Story::of_pools();
    let (mut renewal, status) = (Renewal::default(), Arc::new(Status::new(1, 0)));
    let (release, hang) = std::sync::mpsc::channel::<()>();
    let of = story.config.clone();
    let handle = tokio::task::spawn_blocking(move || {
        // Until there is nobody any more who could release it.
        let _ = hang.recv();
        Look { of, files: Files::default(), found: None }
    });
    let (id, now) = (handle.id(), Instant::now());
    let of = story.config.clone();
    renewal.under_way = Some(UnderWay { handle, of, since: now, told: false });
    for seconds in [1, 9, 10, 11, 100] {
        renewal.begin(&story.config, &status, now + Duration::from_secs(seconds));
        let look = renewal.under_way.as_ref().unwrap();
        assert_eq!((look.handle.id(), look.told), (id, seconds >= 10));
    }
    let look = renewal.under_way.as_mut().unwrap();
    assert!(!look.is_news(now + SLOW), "told already");
    let reloaded = Arc::new(Config::clone(&story.config));
    renewal.begin(&reloaded, &status, now + SLOW);
    assert_ne!(renewal.under_way.as_ref().unwrap().handle.id(), id, "it is left to itself");
    let look = renewal.looked().await;
    assert!(Arc::ptr_eq(&look.of, &reloaded));
    drop(release);
}
