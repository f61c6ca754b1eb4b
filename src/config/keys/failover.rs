//! The keys of what a pool does when its backends fail: failover, outlier, retry, queue, sticky.

use crate::config::shape::Keys;
use crate::config::shape::Shape::{Text, TextOr, Texts};

pub static FAILOVER: Keys = Keys {
    place: "failover",
    known: &[
        ("mode", Text),
        ("spill_below", Text),
        ("failback", TextOr(&FAILBACK)),
        ("when_none_serve", Text),
        ("exclusive", Text),
        ("on_down", TextOr(&ON_CHANGE)),
        ("on_failback", TextOr(&ON_CHANGE)),
    ],
    later: &[],
    advice: &[
        ("tier", "it belongs to a backend: {address: ..., tier: 1}"),
        ("after", "it belongs in `failback`: failback: {after: 30s}"),
    ],
};

static FAILBACK: Keys = Keys {
    place: "failback",
    known: &[("after", Text)],
    later: &[],
    advice: &[("delay", "call it `after`")],
};

static ON_CHANGE: Keys = Keys {
    place: "what becomes of open connections",
    known: &[("close_after", Text)],
    later: &[],
    advice: &[("after", "call it `close_after`")],
};

pub static OUTLIER: Keys = Keys {
    place: "outlier",
    known: &[
        ("consecutive_failures", Text),
        ("failure_share", Text),
        ("count_5xx", Text),
        ("latency", TextOr(&LATENCY)),
        ("window", Text),
        ("min_requests", Text),
        ("eject_for", Text),
        ("eject_for_max", Text),
        ("eject_at_most", Text),
        ("flap_damping", Text),
    ],
    later: &[],
    advice: &[
        ("max_ejection_percent", "call it `eject_at_most`"),
        ("base_ejection_time", "call it `eject_for`"),
        ("interval", "traffic is judged as it comes; the time it looks back is `window`"),
        ("times", "it belongs in `latency`: latency: {times: 4}"),
    ],
};

static LATENCY: Keys =
    Keys { place: "latency", known: &[("times", Text)], later: &[], advice: &[] };

pub static RETRY: Keys = Keys {
    place: "retry",
    known: &[
        ("attempts", Text),
        ("on", Texts),
        ("hedge", TextOr(&HEDGE)),
        ("budget", Text),
        ("budget_min", Text),
        ("buffer", Text),
    ],
    later: &[],
    advice: &[
        ("timeout", "the whole request is bounded by `request` in `timeouts`"),
        ("retries", "write attempts: 3; the first one counts"),
        ("after", "it belongs in `hedge`: hedge: {after: 300ms}"),
    ],
};

static HEDGE: Keys = Keys {
    place: "hedge",
    known: &[("after", Text)],
    later: &[],
    advice: &[("delay", "call it `after`")],
};

pub static QUEUE: Keys = Keys {
    place: "queue",
    known: &[("size", Text), ("timeout", Text), ("priority_header", Text)],
    later: &[],
    advice: &[("length", "call it `size`"), ("priority", "call it `priority_header`")],
};

pub static STICKY: Keys = Keys {
    place: "sticky",
    known: &[
        ("cookie", Text),
        ("key_file", Text),
        ("ttl", Text),
        ("same_site", Text),
        ("secure", Text),
    ],
    later: &[],
    advice: &[
        ("name", "call it `cookie`"),
        ("key", "a key belongs in a file of its own: key_file: sticky.key"),
        ("max_age", "call it `ttl`"),
        ("samesite", "call it `same_site`"),
        ("http_only", "it always is"),
    ],
};
