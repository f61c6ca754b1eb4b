//! The story of a connection, told in two files that see every stage and are read from top to bottom:
//! `connection` (an accepted socket) and `request` (one HTTP request, with its attempts).
//!
//! The others serve them: `worker` is the data thread they run on, `head` reads and rewrites the heads
//! of messages, `answer` makes our own answers, `record` writes down how it all ended.

pub mod answer;
pub mod connection;
pub mod head;
pub mod record;
pub mod request;
pub mod worker;
