//! What was counted in the last so many seconds, from counters that only go up; and a median of that.
//!
//! Pure: counts and `now` come in at each sweep. A window is ten buckets, so what it says is of between
//! nine and ten tenths of its length.

use std::collections::VecDeque;
use std::time::Duration;

use crate::observe::cells::{TIMES, time_of_bucket};

/// The buckets of a window.
const BUCKETS: u32 = 10;

/// A sliding window over `N` counters.
#[derive(Clone, Debug)]
pub struct Window<const N: usize> {
    /// What the counters said as each bucket began, the oldest first; never empty.
    marks: VecDeque<[u64; N]>,
    /// What they said last.
    last: [u64; N],
    /// When the youngest bucket began.
    since: Duration,
}

impl<const N: usize> Window<N> {
    /// It begins now: what was counted before is not in it.
    pub fn new(counts: [u64; N], now: Duration) -> Window<N> {
        Window { marks: VecDeque::from([counts]), last: counts, since: now }
    }

    /// Takes in what the counters say now, and lets go what is older than `length`.
    pub fn observe(&mut self, counts: [u64; N], now: Duration, length: Duration) {
        let bucket = (length / BUCKETS).max(Duration::from_millis(1));
        let passed = now.saturating_sub(self.since).as_nanos() / bucket.as_nanos();
        // After the last sweep nobody looked: what came since is taken for new.
        let begun = passed.min(u128::from(BUCKETS)) as u32;
        for _ in 0..begun {
            if self.marks.len() == BUCKETS as usize {
                self.marks.pop_front();
            }
            self.marks.push_back(self.last);
        }
        self.last = counts;
        match u32::try_from(passed) {
            Ok(passed) => self.since += bucket * passed,
            Err(_) => self.since = now,
        }
    }

    /// What was counted in it, up to the last `observe`.
    pub fn counted(&self) -> [u64; N] {
        // Never empty: `new` makes one mark, and one goes only as another comes.
        let oldest = self.marks.front().unwrap_or(&self.last);
        std::array::from_fn(|n| self.last[n].wrapping_sub(oldest[n]))
    }

    /// It begins anew: what was counted so far is no longer in it.
    pub fn restart(&mut self, now: Duration) {
        *self = Window::new(self.last, now);
    }
}

/// The middle one of so many times (how many fell into each bucket of `observe::cells::Times`), and
/// their number. `None` of none.
pub fn median(counts: &[u64; TIMES]) -> Option<(Duration, u64)> {
    let all: u64 = counts.iter().sum();
    let mut left = all.div_ceil(2);
    for (bucket, &count) in counts.iter().enumerate() {
        if count > 0 && count >= left {
            return Some((time_of_bucket(bucket), all));
        }
        left -= count;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::seed;
    use crate::observe::cells::bucket_of_time;

    const SECOND: Duration = Duration::from_secs(1);

    /// Beside a list of everything that was ever counted.
    #[test]
    fn a_window_is_what_was_counted_in_its_length() {
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for case in 0..200 {
            let length = Duration::from_millis(rng.u64(100..20_000));
            let pause = Duration::from_millis(rng.u64(20..2_000));
            let mut window = Window::new([7], Duration::ZERO);
            let mut all = vec![(Duration::ZERO, 0)];
            let (mut now, mut sum) = (Duration::ZERO, 7);
            for step in 0..100 {
                let before = now;
                now += pause.mul_f64(rng.f64() * 2.0);
                let more = rng.u64(0..50);
                sum += more;
                all.push((now, more));
                window.observe([sum], now, length);
                let [counted] = window.counted();
                let since = |from: Duration| -> u64 {
                    all.iter().filter(|(at, _)| *at > from).map(|(_, n)| n).sum()
                };
                // A bucket and the time between two sweeps is what may be too much or too little.
                let (slack, gap) = (length / BUCKETS, now - before);
                let least = since(now.saturating_sub((length - slack).saturating_sub(gap)));
                let most = since(now.saturating_sub(length + slack + 4 * pause));
                assert!(
                    counted >= least.min(more) && counted <= most,
                    "seed {seed}, case {case}, step {step}: {counted} of {least} to {most}"
                );
            }
        }
    }

    #[test]
    fn what_is_old_goes_bucket_by_bucket_and_what_is_new_stays() {
        let mut window = Window::new([100], Duration::ZERO);
        window.observe([105], SECOND / 2, 10 * SECOND);
        assert_eq!(window.counted(), [5]);
        window.observe([106], 9 * SECOND, 10 * SECOND);
        assert_eq!(window.counted(), [6]);
        window.observe([106], 11 * SECOND, 10 * SECOND);
        assert_eq!(window.counted(), [1], "the first five are ten seconds old");
        window.observe([109], 300 * SECOND, 10 * SECOND);
        assert_eq!(window.counted(), [3], "after a long time without a look");
        window.restart(300 * SECOND);
        assert_eq!(window.counted(), [0]);
    }

    #[test]
    fn a_median_is_right_to_within_a_bucket() {
        assert_eq!(median(&[0; TIMES]), None);
        let seed = seed();
        let mut rng = fastrand::Rng::with_seed(seed);
        for case in 0..300 {
            let scale = 10_f64.powf(rng.f64() * 6.0);
            let mut times: Vec<f64> =
                (0..rng.usize(1..200)).map(|_| scale * (1.0 + 9.0 * rng.f64())).collect();
            let mut counts = [0; TIMES];
            for time in &times {
                counts[bucket_of_time(*time as u64 * 1000)] += 1;
            }
            times.sort_by(f64::total_cmp);
            let exact = times[(times.len() - 1) / 2];
            let (found, number) = median(&counts).expect("there are some");
            let ratio = found.as_secs_f64() * 1e6 / exact;
            assert_eq!(number, times.len() as u64);
            assert!(
                (0.7..1.5).contains(&ratio),
                "seed {seed}, case {case}: {found:?} of {exact} microseconds"
            );
        }
    }
}
