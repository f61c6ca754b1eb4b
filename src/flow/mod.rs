//! The story of a connection, told in two files that see every stage and are read from top to bottom:
//! `connection` (an accepted socket) and `request` (one HTTP request, with its attempts).
//!
//! The others serve them. `decide` says what is to be done with a request, `attempt` tries it at one
//! backend, over what `link` finds, `head` reads and rewrites the heads of messages, `answer` makes our own answers, `record`
//! writes down how it ended; `retry` says what may be tried again, `hedge` races two copies, `wait` stands
//! in the pool's queue, `relay` is an answer that has begun, `grpc` what its calls want beyond other requests, `upgraded` what is no HTTP any more, `reach` finds a stream its backend, `tellers` are the
//! tasks in which HTTP/2's requests are told, `judge` is told of every attempt's end. `thread` is the data thread they run on, `arrivals` how connections come to
//! it, `entrance` what they pass before they are served, `worker` what its tasks share, `engaged` what it has
//! in progress with each backend, `sessions` its list of connections, `client` what the requests of
//! one connection share, `entrance` what a connection passes before it is served, `opening` what a TCP
//! client says first, `origin` whom backends are told that a connection is from.

pub mod answer;
pub mod arrivals;
pub mod attempt;
pub mod client;
pub mod connection;
mod cookies;
pub mod decide;
mod dial;
pub mod engaged;
pub mod entrance;
mod grpc;
pub mod head;
pub mod hedge;
pub mod judge;
mod link;
pub mod opening;
pub mod origin;
pub mod reach;
pub mod record;
pub mod relay;
pub mod request;
pub mod retry;
pub mod sessions;
mod tellers;
pub mod thread;
mod upgraded;
pub mod wait;
pub mod worker;
