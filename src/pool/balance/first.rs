//! `first`: the first in the order of the file that serves, and the next one only without it.

use super::View;

#[derive(Debug)]
pub(super) struct First;

impl First {
    pub fn choose(&self, view: &View<'_>) -> Option<usize> {
        (0..view.members.len()).find(|&i| view.members[i].weight > 0 && view.may_take(i))
    }
}
