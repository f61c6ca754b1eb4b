//! Session tickets (RFC 5077, RFC 8446 4.6.1): what lets a client resume, and what must not.
//!
//! Keys are derived from a secret, the listener's name, what it asks of clients, and the authorities and
//! revocation lists it asks by. So a ticket of an open listener is noise to one that demands
//! certificates, and what has changed since a client was verified is looked at again. rustls checks
//! none of that when a session resumes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use bytes::Bytes;
use rustls::server::ProducesTickets;
use sha2::{Digest, Sha256};

use crate::config::model::{Bundle, ClientAuth, Name};

/// For so long a ticket is good, and so often random secrets are replaced. Whoever holds a secret can
/// read what TLS 1.2 clients sent in sessions of its tickets.
pub const LIFETIME: Duration = Duration::from_secs(6 * 3600);

const KEY_NAME_LEN: usize = 16;
const KEY_LEN: usize = 32;
const TIME_LEN: usize = 8;

/// The first makes tickets, all read them.
#[derive(Clone)]
pub struct Secrets(Arc<[Bytes]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

impl Secrets {
    pub fn new(secrets: Arc<[Bytes]>) -> Secrets {
        Secrets(secrets)
    }

    /// Empty if the system has no randomness: then there are no tickets.
    fn random() -> Secrets {
        Secrets(random_secret().into_iter().collect())
    }

    /// A new one to make tickets, and the one before to read what it made.
    fn rotated(&self) -> Secrets {
        Secrets(random_secret().into_iter().chain(self.0.first().cloned()).collect())
    }
}

fn random_secret() -> Option<Bytes> {
    let mut secret = [0; KEY_LEN];
    rand::fill(&mut secret).ok()?;
    Some(Bytes::copy_from_slice(&secret))
}

/// Where a listener's secrets are found: it outlives its configurations.
#[derive(Debug)]
pub struct Source {
    secrets: ArcSwap<Secrets>,
    made: Mutex<Instant>,
}

impl Source {
    pub fn new(now: Instant) -> Source {
        Source { secrets: ArcSwap::from_pointee(Secrets::random()), made: Mutex::new(now) }
    }

    /// To be called now and then: replaces the secret once it has been in use for as long as a ticket
    /// may live, so that the one before reads every ticket that is still good.
    pub fn rotate(&self, now: Instant) {
        // Whoever panicked while holding it left a whole value.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(*made) >= LIFETIME {
            *made = now;
            self.secrets.store(Arc::new(self.secrets.load().rotated()));
        }
    }
}

/// Everything but the secret that a ticket is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(Vec<u8>);

impl Scope {
    pub fn new(listener: &Name, auth: Option<&ClientAuth>) -> Scope {
        let mut scope = Vec::with_capacity(160);
        let name = listener.as_str().as_bytes();
        // Each part with its length, so that none runs into the next.
        scope.extend((name.len() as u64).to_be_bytes());
        scope.extend(name);
        let mode = match auth {
            None => 0,
            Some(ClientAuth { required: false, .. }) => 1,
            Some(ClientAuth { required: true, .. }) => 2,
        };
        scope.push(mode);
        scope.extend(digest(auth.map(|auth| &auth.ca)));
        scope.extend(digest(auth.and_then(|auth| auth.crl.as_ref())));
        Scope(scope)
    }
}

/// Of a bundle; all zeros without one.
fn digest(bundle: Option<&Bundle>) -> [u8; 32] {
    let Some(bundle) = bundle else { return [0; 32] };
    let mut hash = Sha256::new();
    for der in bundle.der.iter() {
        hash.update((der.len() as u64).to_be_bytes());
        hash.update(der);
    }
    hash.finalize().into()
}

/// Makes and reads the tickets of one listener.
#[derive(Debug)]
pub struct Ticketer {
    secrets: Origin,
    scope: Scope,
    keys: ArcSwap<Keys>,
}

#[derive(Debug)]
enum Origin {
    File(Arc<Secrets>),
    Random(Arc<Source>),
}

/// What was derived, and of which secrets.
#[derive(Debug)]
struct Keys {
    of: Arc<Secrets>,
    keys: Box<[Key]>,
}

struct Key {
    name: [u8; KEY_NAME_LEN],
    // GCM-SIV (RFC 8452): a key that stays in a file for months makes more tickets than nonces drawn
    // at random allow for in plain GCM.
    aead: LessSafeKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
}

impl Ticketer {
    pub fn of_file(secrets: Secrets, scope: Scope) -> Ticketer {
        Ticketer::new(Origin::File(Arc::new(secrets)), scope)
    }

    pub fn random(source: Arc<Source>, scope: Scope) -> Ticketer {
        Ticketer::new(Origin::Random(source), scope)
    }

    fn new(secrets: Origin, scope: Scope) -> Ticketer {
        let keys = ArcSwap::from_pointee(Keys::derive(secrets.now(), &scope));
        Ticketer { secrets, scope, keys }
    }

    /// As they are now; derived again after a rotation, by whoever is first to see it.
    fn keys(&self) -> Arc<Keys> {
        let keys = self.keys.load_full();
        if let Origin::Random(source) = &self.secrets {
            let secrets = source.secrets.load();
            if !Arc::ptr_eq(&secrets, &keys.of) {
                let fresh = Arc::new(Keys::derive(Arc::clone(&secrets), &self.scope));
                self.keys.store(fresh.clone());
                return fresh;
            }
        }
        keys
    }

    /// KEY NAME | NONCE | sealed (TIME | STATE) | TAG
    fn seal(&self, state: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys();
        let key = keys.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(TIME_LEN + state.len() + AES_256_GCM_SIV.tag_len());
        sealed.extend(seconds(now).to_be_bytes());
        sealed.extend(state);
        let aad = Aad::from(key.name);
        key.aead
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<KEY_NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys();
        let key = keys.keys.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.aead.open_in_place(nonce, Aad::from(*name), &mut sealed).ok()?;
        let (made, state) = plain.split_first_chunk::<TIME_LEN>()?;
        // The other one's clock may be ahead: such a ticket is new.
        let age = seconds(now).saturating_sub(u64::from_be_bytes(*made));
        (age <= LIFETIME.as_secs()).then(|| state.to_vec())
    }
}

impl Origin {
    fn now(&self) -> Arc<Secrets> {
        match self {
            Origin::File(secrets) => secrets.clone(),
            Origin::Random(source) => source.secrets.load_full(),
        }
    }
}

impl Keys {
    fn derive(of: Arc<Secrets>, scope: &Scope) -> Keys {
        let keys = of.0.iter().filter_map(|secret| Key::derive(secret, scope)).collect();
        Keys { of, keys }
    }
}

impl Key {
    /// RFC 5869. `None` cannot be: the lengths are constants.
    fn derive(secret: &[u8], scope: &Scope) -> Option<Key> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"evenkeel session tickets 1");
        let mut made = [0; KEY_NAME_LEN + KEY_LEN];
        salt.extract(secret).expand(&[&scope.0], Length(made.len())).ok()?.fill(&mut made).ok()?;
        let (name, key) = made.split_first_chunk::<KEY_NAME_LEN>()?;
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key).ok()?);
        Some(Key { name: *name, aead })
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, SystemTime::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, SystemTime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn secrets(numbers: &[u8]) -> Secrets {
        Secrets::new(numbers.iter().map(|n| Bytes::copy_from_slice(&[*n; 32])).collect())
    }

    fn bundle(der: &[&'static [u8]]) -> Bundle {
        let der = der.iter().map(|der| Bytes::from_static(der)).collect();
        Bundle { path: "ca.pem".into(), der, next_update: None }
    }

    fn auth(required: bool, ca: &[&'static [u8]], crl: Option<&[&'static [u8]]>) -> ClientAuth {
        ClientAuth { required, ca: bundle(ca), crl: crl.map(bundle), headers: false }
    }

    #[test]
    fn a_ticket_is_good_only_where_nothing_differs() {
        let variants = [
            ("web", None),
            ("web2", None),
            ("web", Some(auth(false, &[b"ca"], None))),
            ("web", Some(auth(true, &[b"ca"], None))),
            ("web", Some(auth(true, &[b"c", b"a"], None))),
            ("web", Some(auth(true, &[b"ca"], Some(&[b"crl"])))),
            ("web", Some(auth(true, &[b"ca"], Some(&[b"crl2"])))),
        ];
        let now = SystemTime::now();
        let ticketer = |(listener, auth): &(&str, Option<ClientAuth>)| {
            Ticketer::of_file(secrets(&[1]), Scope::new(&name(listener), auth.as_ref()))
        };
        for (i, from) in variants.iter().enumerate() {
            let ticket = ticketer(from).seal(b"state", now).unwrap();
            for (j, to) in variants.iter().enumerate() {
                let opened = ticketer(to).open(&ticket, now);
                assert_eq!(opened.is_some(), i == j, "from {from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn whether_headers_are_sent_is_no_border() {
        let with = ClientAuth { headers: true, ..auth(true, &[b"ca"], None) };
        let without = auth(true, &[b"ca"], None);
        assert_eq!(Scope::new(&name("web"), Some(&with)), Scope::new(&name("web"), Some(&without)));
    }

    #[test]
    fn the_first_secret_makes_and_all_read() {
        let scope = Scope::new(&name("web"), None);
        let ticketer = |numbers: &[u8]| Ticketer::of_file(secrets(numbers), scope.clone());
        let now = SystemTime::now();
        let old = ticketer(&[1]).seal(b"state", now).unwrap();
        // Rotation at one of a pair, then at the other: add the new one behind, then put it in front.
        for (keys, reads) in [(&[1, 2][..], true), (&[2, 1], true), (&[2], false)] {
            assert_eq!(ticketer(keys).open(&old, now).is_some(), reads, "{keys:?}");
        }
        let new = ticketer(&[2, 1]).seal(b"state", now).unwrap();
        assert_eq!(ticketer(&[1, 2]).open(&new, now).as_deref(), Some(&b"state"[..]));
        assert!(ticketer(&[1]).open(&new, now).is_none());
    }

    #[test]
    fn a_ticket_ends_with_its_lifetime_and_clocks_may_differ() {
        let scope = Scope::new(&name("web"), None);
        let ticketer = Ticketer::of_file(secrets(&[1]), scope);
        let now = SystemTime::now();
        let ticket = ticketer.seal(b"state", now).unwrap();
        assert!(ticketer.open(&ticket, now + LIFETIME).is_some());
        assert!(ticketer.open(&ticket, now + LIFETIME + Duration::from_secs(1)).is_none());
        assert!(ticketer.open(&ticket, now - Duration::from_secs(60)).is_some());
    }

    #[test]
    fn what_was_tampered_with_is_noise() {
        let ticketer = Ticketer::of_file(secrets(&[1]), Scope::new(&name("web"), None));
        let now = SystemTime::now();
        let ticket = ticketer.seal(b"state", now).unwrap();
        for byte in 0..ticket.len() {
            let mut bad = ticket.clone();
            bad[byte] ^= 1;
            assert!(ticketer.open(&bad, now).is_none(), "byte {byte}");
            assert!(ticketer.open(&ticket[..byte], now).is_none(), "cut at {byte}");
        }
        assert!(ticketer.open(&[], now).is_none());
    }

    #[test]
    fn random_secrets_are_replaced_and_the_one_before_still_reads() {
        let start = Instant::now();
        let now = SystemTime::now();
        let source = Arc::new(Source::new(start));
        let ticketer = Ticketer::random(source.clone(), Scope::new(&name("web"), None));
        let first = ticketer.seal(b"state", now).unwrap();
        source.rotate(start + LIFETIME / 2);
        let same = ticketer.seal(b"state", now).unwrap();
        assert_eq!(first[..KEY_NAME_LEN], same[..KEY_NAME_LEN]);
        source.rotate(start + LIFETIME);
        let second = ticketer.seal(b"state", now).unwrap();
        assert_ne!(first[..KEY_NAME_LEN], second[..KEY_NAME_LEN]);
        assert!(ticketer.open(&first, now).is_some(), "the one before reads");
        // Another configuration of the same listener finds the same secrets.
        let again = Ticketer::random(source.clone(), Scope::new(&name("web"), None));
        assert!(again.open(&second, now).is_some());
        source.rotate(start + LIFETIME * 2);
        assert!(ticketer.open(&first, now).is_none(), "the one before that is gone");
        assert!(ticketer.open(&second, now).is_some());
        let other = Ticketer::random(Arc::new(Source::new(start)), ticketer.scope.clone());
        assert!(other.open(&second, now).is_none());
    }

    #[test]
    fn nothing_shows_a_secret() {
        let ticketer = Ticketer::of_file(secrets(&[0xab]), Scope::new(&name("web"), None));
        let shown = format!("{ticketer:?}");
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab, ab"), "{shown}");
    }
}
