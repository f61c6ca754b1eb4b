//! From the text of a configuration file to a proved [`model::Config`], or to every problem in it.
//!
//! `spans` reads the text for positions, `reading` reads it again for values and holds the two
//! together, `shape` knows every key, `raw` mirrors the file for serde, `validate` turns it into
//! `model`, `problems` says what is wrong and where. `load` is what start, reload and `check`
//! share; it opens no socket and reads nothing but the file and the files that it names.

pub mod defaults;
pub mod diff;
mod env;
mod keys;
mod load;
pub mod model;
mod path;
pub mod problems;
mod raw;
mod reading;
mod shape;
mod source;
mod spans;
pub mod units;
mod validate;

#[cfg(test)]
mod tests;

pub use load::{LoadError, Loaded, load, load_after, parse, parse_after};
