//! From the text of a configuration file to a proved [`model::Config`], or to every problem in it.
//!
//! `raw` mirrors the file for serde, `validate` turns it into `model`, `problems` says what is wrong
//! and where. `load` is what start, reload and `check` share; it opens no socket.

pub mod defaults;
pub mod model;
