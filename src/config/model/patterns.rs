//! What a route's match compares hosts, paths and values with.

use std::fmt;

/// Lower case, no port, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: exactly one label in place of the star.
    Wildcard(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(host) => f.write_str(host),
            HostPattern::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A path as `route` normalises it (RFC 3986 6.2.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    Exact(String),
    /// `/v1/*`, kept as `/v1`: matches /v1, /v1/ and /v1/x, not /v1x. `/*` is kept as "".
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// `"*"`: present, with any value.
    Present,
    Exact(String),
}

/// A compiled regular expression; equal if its text is.
#[derive(Clone, Debug)]
pub struct Pattern(pub regex::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}
