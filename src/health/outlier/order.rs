//! What the judge of a pool orders, and why, in the words of log and metrics.

use std::fmt;
use std::time::Duration;

/// One change that the judge wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Out; `until` is when a trial may come, as time since the process began. Also for one that is
    /// out already, when its trial failed.
    Eject { id: u64, why: Why, until: Duration },
    /// One request may try it: `any`, or only one that may safely be sent again elsewhere.
    Trial { id: u64, any: bool },
    /// It serves again, as far as passive judgement goes.
    Back { id: u64, why: Back },
}

impl Order {
    /// Whom it is about.
    pub fn id(&self) -> u64 {
        match *self {
            Order::Eject { id, .. } | Order::Trial { id, .. } | Order::Back { id, .. } => id,
        }
    }
}

/// Why a backend is taken out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Why {
    /// So many failures in a row.
    Consecutive(u32),
    /// So many of so many requests failed in the window.
    Share { failed: u64, of: u64 },
    /// Its median, and its tier's.
    Latency { median: Duration, tier: Duration },
    /// Its state has changed too often: so many flaps are held against it.
    Flapping(f64),
    /// It was on trial, and failed.
    Trial,
}

impl Why {
    /// The values of the metric label `cause`, in the order of [`Why::index`].
    pub const LABELS: [&str; 5] = ["consecutive", "share", "latency", "flapping", "trial"];

    /// Its place in [`Why::LABELS`], and so its metric cell.
    pub fn index(self) -> usize {
        match self {
            Why::Consecutive(_) => 0,
            Why::Share { .. } => 1,
            Why::Latency { .. } => 2,
            Why::Flapping(_) => 3,
            Why::Trial => 4,
        }
    }

    /// The metric label.
    pub fn label(self) -> &'static str {
        Why::LABELS[self.index()]
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Consecutive(row) => write!(f, "{row} failures in a row"),
            Why::Share { failed, of } => write!(f, "{failed} of {of} requests failed"),
            Why::Latency { median, tier } => {
                write!(f, "its median time to answer is {median:?}, its tier's {tier:?}")
            }
            Why::Flapping(flaps) => {
                write!(f, "its state changes too often: {flaps:.1} flaps in a short time")
            }
            Why::Trial => f.write_str("its trial failed"),
        }
    }
}

/// Why an ejection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// A request tried it, and was answered well.
    Trial,
    /// The health check saw it go down and recover.
    Recovered,
    /// Its time is over, its probes pass, and no request came to try it.
    Probes,
    /// Its time is over, and no request can come to try it.
    Untried,
    /// It was out for its flapping, and has been quiet.
    Quiet,
    /// Nothing else serves: better this one than none.
    Alone,
    /// Passive judgement was turned off.
    Off,
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Back::Trial => "its trial went well",
            Back::Recovered => "the health check saw it go down and recover",
            Back::Probes => "its time is over, and its probes pass",
            Back::Untried => "its time is over",
            Back::Quiet => "its state has not changed for long enough",
            Back::Alone => "no other backend serves",
            Back::Off => "`outlier` was turned off",
        })
    }
}
