//! The table behind `hash`: Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Each member has its own order of preference over all entries, made from its address alone, and
//! members take turns at claiming their best entry that is still free; weight is how often one's
//! turn comes. Members are taken in the order of their addresses: the file's order does not matter.

use super::hash::{hash_bytes, mix};
use crate::pool::Member;

/// Primes: at least 100 entries a member keep shares even and changes small. The steps are wide
/// because crossing one (656 members instead of 655, 10,486 instead of 10,485) moves every key.
const SIZES: [u32; 3] = [65_537, 1_048_583, 16_777_259];

const FREE: u32 = u32::MAX;

/// A member's walk over the table.
struct Walk {
    /// Its place among the members.
    place: u32,
    at: u32,
    skip: u32,
}

/// Members of one weight take their turns in the same rounds.
struct Class {
    weight: u64,
    owed: u64,
    walks: Vec<Walk>,
}

/// The place of a member for every entry; empty if no member takes traffic.
pub(super) fn table(members: &[Member]) -> Box<[u32]> {
    let mut classes = classes(members);
    let Some(heaviest) = classes.iter().map(|class| class.weight).max() else {
        return Box::default();
    };
    let size = size(members.len());
    let mut table = vec![FREE; size as usize].into_boxed_slice();
    let mut free = size;
    loop {
        // A round: the heaviest always have a turn, the others when they are owed a whole one.
        for class in &mut classes {
            class.owed += class.weight;
            if class.owed < heaviest {
                continue;
            }
            class.owed -= heaviest;
            for walk in &mut class.walks {
                table[walk.next_free(&table) as usize] = walk.place;
                free -= 1;
                if free == 0 {
                    return table;
                }
            }
        }
    }
}

/// Heaviest first; within a class by address.
fn classes(members: &[Member]) -> Vec<Class> {
    let size = size(members.len());
    let mut takers: Vec<(u32, &Member)> =
        (0..).zip(members).filter(|(_, member)| member.weight > 0).collect();
    takers.sort_by_key(|(_, m)| (std::cmp::Reverse(m.weight), m.state.addr));
    let mut classes: Vec<Class> = Vec::new();
    for (place, member) in takers {
        let walk = Walk::new(place, member, size);
        let weight = u64::from(member.weight);
        match classes.last_mut() {
            Some(class) if class.weight == weight => class.walks.push(walk),
            _ => classes.push(Class { weight, owed: 0, walks: vec![walk] }),
        }
    }
    classes
}

fn size(members: usize) -> u32 {
    // The last size is for 167,772 members: more would have fewer entries each, nothing worse.
    let enough = SIZES.into_iter().find(|&size| size as usize >= 100 * members);
    enough.unwrap_or(SIZES[SIZES.len() - 1])
}

impl Walk {
    fn new(place: u32, member: &Member, size: u32) -> Walk {
        let hash = hash_bytes(member.state.addr.to_string().as_bytes());
        let size = u64::from(size);
        // Both are under `size`, a u32.
        Walk { place, at: (hash % size) as u32, skip: (mix(!hash) % (size - 1) + 1) as u32 }
    }

    /// Steps on until a free entry. There is one, and the size is prime, so every entry is reached.
    fn next_free(&mut self, table: &[u32]) -> u32 {
        let size = table.len() as u32;
        loop {
            let at = self.at;
            // No overflow: both are under 2^25.
            self.at += self.skip;
            if self.at >= size {
                self.at -= size;
            }
            if table[at as usize] == FREE {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_primes_and_large_enough() {
        for size in SIZES {
            let divisor = (2..size).take_while(|d| d * d <= size).find(|d| size % d == 0);
            assert_eq!(divisor, None, "{size}");
        }
        for members in [1, 655, 656, 10_000, 10_486, 100_000] {
            assert!(size(members) >= 65_537 && size(members) as usize >= 100 * members);
        }
    }
}
