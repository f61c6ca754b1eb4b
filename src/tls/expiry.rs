//! When to warn of a certificate that runs out: 30, 7 and 1 days before, and when it is over. (P)

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    ThirtyDays,
    SevenDays,
    OneDay,
    Over,
}

impl Stage {
    /// `None` while there is time.
    pub fn of(not_after: SystemTime, now: SystemTime) -> Option<Stage> {
        let Ok(left) = not_after.duration_since(now) else { return Some(Stage::Over) };
        match left {
            left if left <= DAY => Some(Stage::OneDay),
            left if left <= 7 * DAY => Some(Stage::SevenDays),
            left if left <= 30 * DAY => Some(Stage::ThirtyDays),
            _ => None,
        }
    }
}

/// Seconds until it is over; below zero once it is.
pub fn seconds_left(not_after: SystemTime, now: SystemTime) -> f64 {
    match not_after.duration_since(now) {
        Ok(left) => left.as_secs_f64(),
        Err(since) => -since.duration().as_secs_f64(),
    }
}

/// `in 89 days`, `in 5 hours`, `3 days ago`.
pub fn in_words(not_after: SystemTime, now: SystemTime) -> String {
    let count = |span: Duration| {
        let (count, unit) = match span.as_secs() {
            secs if secs >= 2 * 86400 => (secs / 86400, "days"),
            secs => (secs / 3600, "hours"),
        };
        if count == 1 { "1 hour".to_owned() } else { format!("{count} {unit}") }
    };
    match not_after.duration_since(now) {
        Ok(left) => format!("in {}", count(left)),
        Err(since) => format!("{} ago", count(since.duration())),
    }
}

/// `2027-01-31`, in UTC.
pub fn date(time: SystemTime) -> String {
    // An HTTP date is `Sun, 31 Jan 2027 00:00:00 GMT` (RFC 9110 5.6.7).
    let text = httpdate::fmt_http_date(time);
    let mut words = text.split(' ').skip(1);
    let (day, month, year) = (words.next(), words.next(), words.next());
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| Some(*name) == month).map_or(0, |i| i + 1);
    format!("{}-{month:02}-{}", year.unwrap_or_default(), day.unwrap_or_default())
}

/// What was warned of already, so that each stage is told once.
#[derive(Debug)]
pub struct Told<K>(HashMap<K, Stage>);

impl<K> Default for Told<K> {
    fn default() -> Told<K> {
        Told(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Told<K> {
    /// Of all that is served now: those to warn of, with their stage. Forgets what is served no more;
    /// a renewed one is new if its key says so.
    pub fn due<'a, T: 'a>(
        &mut self,
        served: impl Iterator<Item = (K, SystemTime, &'a T)>,
        now: SystemTime,
    ) -> Vec<(Stage, &'a T)> {
        let mut next = HashMap::new();
        let mut due = Vec::new();
        for (key, not_after, item) in served {
            let Some(stage) = Stage::of(not_after, now) else { continue };
            if self.0.get(&key).is_none_or(|told| *told < stage) {
                due.push((stage, item));
            }
            next.insert(key, stage);
        }
        self.0 = next;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(days: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * (20_000 + days)
    }

    #[test]
    fn each_stage_is_told_once() {
        let mut told = Told::default();
        let item = ();
        let mut stages = Vec::new();
        for today in 0..45 {
            for _ in 0..3 {
                let served = [("a", day(40), &item)].into_iter();
                stages.extend(told.due(served, day(today)).into_iter().map(|(s, _)| (today, s)));
            }
        }
        use Stage::*;
        assert_eq!(stages, [(10, ThirtyDays), (33, SevenDays), (39, OneDay), (41, Over)]);
        // Renewed, it is another; and what comes late is told once, by its worst.
        let served = || [("b", day(100), &item), ("c", day(46), &item)].into_iter();
        assert_eq!(told.due(served(), day(45)), [(OneDay, &item)]);
        assert_eq!(told.due(served(), day(45)), []);
    }

    #[test]
    fn what_is_left_is_said_in_words() {
        for (from, to, words) in
            [(0, 89, "in 89 days"), (0, 1, "in 24 hours"), (3, 0, "3 days ago")]
        {
            assert_eq!(in_words(day(to), day(from)), words);
        }
        assert_eq!(in_words(day(0) + DAY / 24, day(0)), "in 1 hour");
        assert_eq!(seconds_left(day(0), day(1)), -86400.0);
        assert_eq!(date(SystemTime::UNIX_EPOCH + DAY * 20_000), "2024-10-04");
    }
}
