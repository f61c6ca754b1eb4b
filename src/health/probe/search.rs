//! Looks for a text in the first bytes of an answer, as they come. Pure.

use super::ANSWER_BYTES;

#[derive(Debug)]
pub(super) struct Search<'a> {
    wanted: &'a [u8],
    seen: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Yes,
    NotYet,
    /// All that may be read was, in vain.
    Never,
}

impl<'a> Search<'a> {
    pub fn new(wanted: &'a [u8]) -> Search<'a> {
        Search { wanted, seen: Vec::new() }
    }

    /// Nothing came yet.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Takes the next bytes in; what comes after the first 64 KiB is not looked at.
    pub fn feed(&mut self, bytes: &[u8]) -> Found {
        // The text may have begun in what was seen before.
        let from = (self.seen.len() + 1).saturating_sub(self.wanted.len());
        let room = ANSWER_BYTES - self.seen.len();
        self.seen.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let hit = |window: &[u8]| window == self.wanted;
        if self.wanted.is_empty() || self.seen[from..].windows(self.wanted.len()).any(hit) {
            Found::Yes
        } else if self.seen.len() == ANSWER_BYTES {
            Found::Never
        } else {
            Found::NotYet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_text_however_it_is_cut() {
        let text = b"status: okay";
        for cut in 0..=text.len() {
            let mut search = Search::new(b"s: ok");
            let (one, two) = text.split_at(cut);
            let found = [search.feed(one), search.feed(two)];
            assert!(found.contains(&Found::Yes), "cut at {cut}: {found:?}");
        }
        let mut byte_by_byte = Search::new(b"okay");
        let found: Vec<Found> = text.iter().map(|byte| byte_by_byte.feed(&[*byte])).collect();
        assert_eq!(found.iter().position(|found| *found == Found::Yes), Some(text.len() - 1));
    }

    #[test]
    fn looks_at_64_kib_and_no_further() {
        let mut search = Search::new(b"ok");
        assert_eq!(search.feed(&[b'.'; ANSWER_BYTES - 1]), Found::NotYet);
        assert_eq!(search.feed(b"ok"), Found::Never);
        assert_eq!(search.feed(b"ok"), Found::Never);
        assert_eq!(Search::new(b"").feed(b""), Found::Yes);
    }
}
