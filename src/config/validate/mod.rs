//! From the raw sections to a proved model, collecting every problem on the way.
//!
//! One file per section of the configuration; `cx` carries the problems and finds their places,
//! `words`, `http_words` and `addresses` read single values, `cross` and `shadow` look at what only
//! several sections together show. A wrong value is reported and replaced by its default, so that
//! the rest is still looked at; with one error no model comes out.

mod action;
mod addresses;
mod coverage;
mod cross;
mod cx;
mod databases;
mod edits;
mod error_pages;
mod failover;
mod file;
mod gaps;
mod health;
mod http_words;
mod listener;
mod matches;
mod outlier;
mod pool;
mod pool_tls;
mod rate_limit;
mod retry;
mod route;
mod secret;
mod shadow;
mod sticky;
mod streams;
mod timeouts;
mod tls;
mod words;

use std::path::Path;

use super::keys;
use super::model::Config;
use super::problems::Problem;
use super::reading::Reading;
use super::shape;
use super::source::Source;
use cx::Cx;

/// What came of a file.
#[derive(Debug)]
pub struct Validated {
    /// `None` if one of the problems is an error.
    pub config: Option<Config>,
    /// In the order of the file.
    pub problems: Vec<Problem>,
    /// For which what `before` has stays.
    pub kept_certificates: Vec<cx::Kept>,
}

/// `before`: what is in force, if anything is.
pub fn validate(
    reading: Reading,
    source: &Source<'_>,
    base_dir: &Path,
    before: Option<&Config>,
) -> Validated {
    let Reading { root, mut value, flaws } = reading;
    let misfits = shape::check(&root, &mut value, &keys::FILE);
    let mut cx = Cx::new(source, &root, base_dir, before);
    for flaw in flaws.into_iter().chain(misfits) {
        cx.flaw(flaw);
    }
    let config = file::config(&mut cx, value);
    let kept_certificates = std::mem::take(&mut cx.kept_certificates);
    let problems = cx.finish();
    let sound = !problems.iter().any(Problem::is_error);
    Validated { config: config.filter(|_| sound), problems, kept_certificates }
}
