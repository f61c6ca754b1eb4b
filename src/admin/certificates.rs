//! When certificates expire, for a scrape.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::families::Rows;
use crate::snapshot::Snapshot;
use crate::tls::expiry;

/// A row for each first name: of several certificates with one, that of the first to expire.
pub(super) fn expiry(snapshot: &Snapshot, rows: &mut Rows<'_>) {
    let now = SystemTime::now();
    for listener in &snapshot.listeners {
        let mut soonest: BTreeMap<String, SystemTime> = BTreeMap::new();
        for certificate in listener.tls.iter().flat_map(|server| server.certificates()) {
            let not_after = certificate.not_after;
            let known = soonest.entry(certificate.label()).or_insert(not_after);
            *known = not_after.min(*known);
        }
        for (name, not_after) in soonest {
            let left = expiry::seconds_left(not_after, now);
            rows.add(&[listener.config.name.as_str(), &name], left);
        }
    }
}
