//! Sticky sessions: a cookie that names a client's backend, readable by every load balancer that has the
//! pool's key, and by nobody else.
//!
//! A value is `id`, `expiry` and `tag`, in base64url (RFC 4648 5): `id` is a keyed hash of the backend's
//! address, so that it neither tells the address nor depends on the order of the file; `expiry` is in
//! seconds since 1970, 0 for none; `tag` authenticates both, for this pool alone (HMAC-SHA-256, RFC 2104,
//! cut to 128 bits). There is no table: what a cookie says is all that is known. Pure: `now` comes in. The
//! form is a contract between load balancers of different versions: a change of it needs a new [`VERSION`].

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rustc_hash::FxHashMap;
use sha2::Sha256;

use super::Member;
use crate::config::model::{Name, SameSite, Sticky};

/// Stands at the beginning of whatever is hashed.
const VERSION: &[u8] = b"evenkeel sticky 1\0";

const ID: usize = 8;
const EXPIRY: usize = 8;
const TAG: usize = 16;
const VALUE: usize = ID + EXPIRY + TAG;

/// Of [`VALUE`] bytes.
const VALUE_TEXT: usize = VALUE.div_ceil(3) * 4 - 1;

type Id = [u8; ID];

/// Issues and reads the cookies of one pool.
pub struct Cookies {
    config: Sticky,
    /// The key and what all hashes of this pool begin with.
    keyed: Hmac<Sha256>,
    /// By place of the member.
    ids: Box<[Id]>,
    places: FxHashMap<Id, u32>,
}

/// What a cookie says that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// The member's place.
    pub index: u32,
    /// It is to be issued anew: no more than half of its time is left, or times are configured otherwise now.
    pub due: bool,
}

impl Cookies {
    pub fn new(config: &Sticky, pool: &Name, members: &[Member]) -> Cookies {
        // HMAC takes a key of any length.
        let keyed = Hmac::<Sha256>::new_from_slice(&config.key.0).expect("any key will do");
        let keyed = keyed.chain_update(VERSION).chain_update(pool.as_str()).chain_update([0]);
        let ids: Box<[Id]> = members
            .iter()
            .map(|member| {
                let hash = keyed.clone().chain_update("id\0");
                let hash = hash.chain_update(member.state.addr.to_string());
                first(&hash.finalize().into_bytes())
            })
            .collect();
        let places = (0..).zip(&ids).map(|(place, id)| (*id, place)).collect();
        Cookies { config: config.clone(), keyed, ids, places }
    }

    pub fn name(&self) -> &str {
        &self.config.cookie
    }

    /// What the value of a cookie says; `None` if it is not one of this pool's, is over, or names a
    /// backend that the pool does not have any more. `now` is in seconds since 1970.
    pub fn read(&self, value: &[u8], now: u64) -> Option<Stuck> {
        let mut bytes = [0; VALUE];
        if value.len() != VALUE_TEXT {
            return None;
        }
        let decoded = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        let (said, tag) = bytes.split_at(ID + EXPIRY);
        // In constant time.
        self.tagging(said).verify_truncated_left(tag).ok().filter(|()| decoded == VALUE)?;
        let (id, expiry) = said.split_at(ID);
        let index = *self.places.get(id)?;
        let expiry = u64::from_be_bytes(first(expiry));
        if expiry != 0 && expiry <= now {
            return None;
        }
        let due = match self.config.ttl {
            None => expiry != 0,
            Some(ttl) => expiry == 0 || (expiry - now).saturating_mul(2) <= ttl.as_secs() + 1,
        };
        Some(Stuck { index, due })
    }

    /// The value of a `Set-Cookie` field (RFC 6265 4.1) for the member at this place; `None` if there is
    /// no such place.
    pub fn issue(&self, index: usize, now: u64) -> Option<String> {
        let Sticky { cookie, ttl, same_site, secure, .. } = &self.config;
        let expiry = ttl.map_or(0, |ttl| now.saturating_add(ttl.as_secs().max(1)));
        let mut bytes = [0; VALUE];
        bytes[..ID].copy_from_slice(self.ids.get(index)?);
        bytes[ID..][..EXPIRY].copy_from_slice(&expiry.to_be_bytes());
        let tag = self.tagging(&bytes[..ID + EXPIRY]).finalize().into_bytes();
        bytes[ID + EXPIRY..].copy_from_slice(&tag[..TAG]);
        let value = URL_SAFE_NO_PAD.encode(bytes);
        let age = ttl.map_or(String::new(), |ttl| format!("; Max-Age={}", ttl.as_secs().max(1)));
        let site = match same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let secure = if *secure { "; Secure" } else { "" };
        Some(format!("{cookie}={value}; Path=/{age}; HttpOnly; SameSite={site}{secure}"))
    }

    fn tagging(&self, said: &[u8]) -> Hmac<Sha256> {
        self.keyed.clone().chain_update("tag\0").chain_update(said)
    }
}

impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The first `N` bytes; what is missing is 0.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut first = [0; N];
    first.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    first
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::config::model::{Balance, Secret};
    use crate::pool::{BackendState, Picker, Pool, PoolState, Reason, sample};

    const NOW: u64 = 1_700_000_000;

    fn config(key: u8, ttl: Option<u64>) -> Sticky {
        Sticky {
            cookie: "EKID".to_owned(),
            key: Secret([key; 32].into()),
            ttl: ttl.map(Duration::from_secs),
            same_site: SameSite::Lax,
            secure: false,
        }
    }

    fn cookies(config: &Sticky, pool: &str, members: &[(u32, u32)]) -> Cookies {
        let members = &sample::pool_of(Balance::Random, members).members;
        Cookies::new(config, &Name::new(pool).unwrap(), members)
    }

    const THREE: [(u32, u32); 3] = [(1, 1), (2, 1), (3, 1)];

    fn value(cookies: &Cookies, index: usize) -> String {
        let cookie = cookies.issue(index, NOW).unwrap();
        cookie.split(['=', ';']).nth(1).unwrap().to_owned()
    }

    #[test]
    fn a_cookie_says_where_and_until_when() {
        let cookies = cookies(&config(1, Some(3600)), "web", &THREE);
        for index in 0..3 {
            let value = value(&cookies, index as usize);
            let read = |now| cookies.read(value.as_bytes(), now);
            assert_eq!(read(NOW), Some(Stuck { index, due: false }));
            assert_eq!(read(NOW + 1799), Some(Stuck { index, due: false }));
            assert_eq!(read(NOW + 1800), Some(Stuck { index, due: true }));
            assert_eq!(read(NOW + 3599), Some(Stuck { index, due: true }));
            assert_eq!(read(NOW + 3600), None);
        }
        assert_eq!(cookies.issue(3, NOW), None);
    }

    #[test]
    fn the_field_has_what_was_configured() {
        let text = |config| cookies(&config, "web", &THREE).issue(0, NOW).unwrap();
        let plain = text(config(1, None));
        assert!(plain.starts_with("EKID=") && plain.ends_with("; Path=/; HttpOnly; SameSite=Lax"));
        let strict = Sticky { same_site: SameSite::Strict, ..config(1, Some(60)) };
        assert!(text(strict).ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Strict"));
        let none = Sticky { same_site: SameSite::None, secure: true, ..config(1, None) };
        assert!(text(none).ends_with("; Path=/; HttpOnly; SameSite=None; Secure"));
    }

    /// Whoever has the key agrees, whatever the order of the backends; what was issued does not change
    /// from version to version.
    #[test]
    fn another_load_balancer_with_the_same_key_agrees() {
        let ours = cookies(&config(1, Some(3600)), "web", &THREE);
        let theirs = cookies(&config(1, None), "web", &[(3, 1), (2, 5), (1, 1)]);
        for index in 0..3 {
            let read = theirs.read(value(&ours, index as usize).as_bytes(), NOW);
            assert_eq!(read, Some(Stuck { index: 2 - index, due: true }));
        }
        assert_eq!(value(&ours, 0), "QltdtXt4rjEAAAAAZVP_EEOkuh39neQFSNy_MEk6wjI");
    }

    #[test]
    fn what_is_not_ours_is_not_believed() {
        let ours = cookies(&config(1, Some(3600)), "web", &THREE);
        let value = value(&ours, 0);
        let read = |value: &str| ours.read(value.as_bytes(), NOW);
        assert!(read(&value).is_some());
        for (other, what) in [
            (cookies(&config(2, Some(3600)), "web", &THREE), "another key"),
            (cookies(&config(1, Some(3600)), "shop", &THREE), "another pool"),
            (cookies(&config(1, Some(3600)), "web", &THREE[1..]), "a backend that has gone"),
        ] {
            assert_eq!(other.read(value.as_bytes(), NOW), None, "{what}");
        }
        for wrong in ["", "x", &value[1..], &format!("{value}A"), &"A".repeat(VALUE_TEXT)] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        // Every single bit counts.
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&URL_SAFE_NO_PAD.encode(forged)), None, "bit {bit}");
        }
        // As text, too: there is one spelling of a value.
        for at in 0..value.len() {
            for other in (0..=255u8).filter(|other| *other != value.as_bytes()[at]) {
                let mut forged = value.clone().into_bytes();
                forged[at] = other;
                assert_eq!(ours.read(&forged, NOW), None, "{other} at {at}");
            }
        }
    }

    #[test]
    fn a_change_of_times_is_passed_on() {
        let timed = cookies(&config(1, Some(60)), "web", &THREE);
        let endless = cookies(&config(1, None), "web", &THREE);
        let due = |by: &Cookies, of: &Cookies, now| {
            by.read(value(of, 1).as_bytes(), now).map(|stuck| stuck.due)
        };
        assert_eq!(due(&endless, &endless, NOW * 2), Some(false));
        assert_eq!(due(&timed, &endless, NOW), Some(true));
        assert_eq!(due(&endless, &timed, NOW), Some(true));
        assert_eq!(due(&endless, &timed, NOW + 60), None);
    }

    /// Where a client that sticks may go: while its backend drains, but not past what took it out, and not
    /// to a tier that is not in use.
    #[test]
    fn a_backend_that_drains_keeps_its_clients_and_a_tier_out_of_use_does_not() {
        let name = Name::new("web").unwrap();
        let pool = |spill_below, weights: [u32; 4]| {
            let sample = sample::pool(Balance::Random, &weights);
            let mut config = sample.config.clone();
            config.failover.spill_below = spill_below;
            let member = |place: usize| {
                let addr = sample.members[place].state.addr;
                let state = Arc::new(BackendState::new(name.clone(), addr, sample::WORKERS));
                let tier = (place / 2) as u8;
                Member { tier, ..Member::new(state, weights[place]) }
            };
            let members = (0..4).map(member).collect();
            let state = Arc::new(PoolState::new(sample::WORKERS));
            Rc::new(Picker::new(Arc::new(Pool::new(config, members, state))))
        };
        let may = |picker: &Rc<Picker>| [0, 1, 2, 3].map(|place| picker.stick(place).is_some());
        let picker = pool(None, [1, 0, 1, 1]);
        assert_eq!(may(&picker), [true, false, false, false], "weight 0 takes no traffic");
        let picker = pool(None, [1; 4]);
        let all = &picker.pool().members;
        all[0].state.set(Reason::Draining);
        all[1].state.set(Reason::Down);
        assert_eq!(may(&picker), [true, false, true, true], "nobody else of the tier serves");
        all[1].state.clear(Reason::Down);
        assert_eq!(may(&picker), [true, true, false, false]);
        for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::Draining) {
            all[0].state.set(reason);
            assert!(picker.stick(0).is_none(), "{}", reason.label());
            all[0].state.clear(reason);
        }
        // A switchover takes them along, and so does the way back.
        picker.pool().state.set_floor(1);
        assert_eq!(may(&picker), [false, false, true, true]);
        picker.pool().state.set_floor(0);
        assert_eq!(may(&picker), [true, true, false, false]);
        // A tier that shares its load keeps what went to the next.
        let picker = pool(Some(80), [1; 4]);
        assert_eq!(may(&picker), [true, true, false, false]);
        picker.pool().members[1].state.set(Reason::Down);
        assert_eq!(may(&picker), [true, false, true, true]);
        assert!(picker.stick(4).is_none());
    }

    #[test]
    fn nothing_is_told_of_the_backend() {
        let cookies = cookies(&config(1, None), "web", &THREE);
        assert!(!format!("{cookies:?}").contains("[1, 1"), "{cookies:?}");
        let raw = URL_SAFE_NO_PAD.decode(value(&cookies, 0)).unwrap();
        let address = [10, 0, 0, 1];
        assert!(!raw.windows(4).any(|window| window == address));
    }
}
