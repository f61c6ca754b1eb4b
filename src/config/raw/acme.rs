//! The mirror of a listener's `acme`.

use serde::Deserialize;

use super::{Text, Texts};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    pub domains: Option<Texts>,
    pub contact: Text,
    pub directory: Text,
    pub state_dir: Text,
    pub ca: Text,
}
