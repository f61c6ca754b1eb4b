//! What only the operating system can tell or do. The only room that may hold `unsafe`, with a
//! SAFETY note each.

pub mod files;
pub mod pipe;
pub mod ports;
pub mod process;
pub mod shortage;
pub mod socket;
