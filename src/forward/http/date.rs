//! The value of the Date field, made once a second.

use std::cell::RefCell;
use std::time::SystemTime;

use crate::timer::TICK;

/// A worker's current Date.
#[derive(Debug, Default)]
pub struct Date(RefCell<(u64, String)>);

impl Date {
    /// Shows `work` the date at `now`, in ticks of the worker's wheel; at most a second old.
    pub fn with<T>(&self, now: u64, work: impl FnOnce(&str) -> T) -> T {
        let second = now * TICK.as_millis() as u64 / 1000;
        let mut made = self.0.borrow_mut();
        if made.1.is_empty() || made.0 != second {
            *made = (second, httpdate::fmt_http_date(SystemTime::now()));
        }
        work(&made.1)
    }
}
