//! `hash`: one key, one backend, for as long as it serves: a look-up in a Maglev table.
//!
//! Nothing here is random: both of a pair of load balancers, and the next version, must send a key
//! the same way. (So a client that may choose its key may choose its backend.) A member that does not
//! serve keeps its entries; its keys alone are hashed again, and return with it.

use std::net::IpAddr;

use super::View;
use super::maglev;
use crate::pool::Member;

/// Entries looked at before everybody is: with half of a pool down one key in 2^64 gets so far.
const LOOKS: u64 = 64;

/// FNV-1a, 64 bits, then SplitMix64's finaliser (FNV alone is weak in its low bits). Part of the
/// contract between load balancers: never to change.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(fnv)
}

/// Of the 4 or 16 octets; an IPv4 address in IPv6's clothes (`::ffff:a.b.c.d`) is the IPv4 address.
pub fn hash_ip(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => hash_bytes(&ip.octets()),
        IpAddr::V6(ip) => hash_bytes(&ip.octets()),
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood): every bit depends on every bit.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key's `nth` further hash.
fn again(key: u64, nth: u64) -> u64 {
    mix(key.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

#[derive(Debug)]
pub(super) struct Hash {
    /// Places of members; empty if none takes traffic.
    table: Box<[u32]>,
    /// By member: the hash of its address; `None` if its weight is 0.
    ids: Box<[Option<u64>]>,
}

impl Hash {
    pub fn new(members: &[Member]) -> Hash {
        let ids = members
            .iter()
            .map(|m| (m.weight > 0).then(|| hash_bytes(m.state.addr.to_string().as_bytes())))
            .collect();
        Hash { table: maglev::table(members), ids }
    }

    /// A request without a key (the header is missing, say) goes anywhere.
    pub fn choose(&self, view: &View<'_>) -> Option<usize> {
        let key = view.ask.key.unwrap_or(view.ask.draw);
        if self.table.is_empty() {
            return None;
        }
        let entry = |hash: u64| self.table[(hash % self.table.len() as u64) as usize] as usize;
        let first = entry(key);
        if view.may_take(first) {
            return Some(first);
        }
        (1..LOOKS)
            .map(|nth| entry(again(key, nth)))
            .find(|&member| view.may_take(member))
            .or_else(|| self.of_all(view, key))
    }

    /// The exception: most of the pool is down. Rendezvous hashing: whoever scores highest with this
    /// key, so that here too a change moves only the keys of the one that changes. Ignores weights.
    fn of_all(&self, view: &View<'_>, key: u64) -> Option<usize> {
        let scored =
            self.ids.iter().enumerate().filter_map(|(i, id)| Some((again(key, (*id)?), i)));
        scored.filter(|&(_, member)| view.may_take(member)).max().map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written down, because load balancers of different versions must agree.
    #[test]
    fn hashes_are_what_they_always_were() {
        // FNV-1a of "a" is 0xaf63dc4c8601ec8c (its authors' test vectors).
        assert_eq!(hash_bytes(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_eq!(hash_bytes(b""), mix(0xcbf2_9ce4_8422_2325));
        // SplitMix64 seeded with 0 gives this first (its authors' test vector).
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn an_address_hashes_the_same_in_either_clothes() {
        let plain = hash_ip("192.0.2.7".parse().unwrap());
        assert_eq!(plain, hash_ip("::ffff:192.0.2.7".parse().unwrap()));
        assert_eq!(plain, hash_bytes(&[192, 0, 2, 7]));
        assert_ne!(plain, hash_ip("192.0.2.8".parse().unwrap()));
    }
}
