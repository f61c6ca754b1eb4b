//! Writes the parts of HTTP/1 messages. What they are made of has been proved: names, values and
//! targets come from a parsed head or from the configuration.

use std::io::Write;

use http::StatusCode;

use crate::forward::buffer::Buffer;
use crate::route::fields::{Field, Store};

pub fn request_line(to: &mut Buffer, method: &str, target: &str) {
    to.extend(method.as_bytes());
    to.extend(b" ");
    to.extend(target.as_bytes());
    to.extend(b" HTTP/1.1\r\n");
}

/// With these words behind the status, or without any. To a client of HTTP/1.0 too it is our version
/// that counts (RFC 9110 6.2).
pub fn status_line(to: &mut Buffer, status: StatusCode, reason: &[u8]) {
    to.extend(b"HTTP/1.1 ");
    to.extend(status.as_str().as_bytes());
    to.extend(b" ");
    to.extend(reason);
    to.extend(b"\r\n");
}

pub fn field(to: &mut Buffer, name: &[u8], value: &[u8]) {
    to.extend(name);
    to.extend(b": ");
    to.extend(value);
    to.extend(b"\r\n");
}

pub fn content_length(to: &mut Buffer, length: u64) {
    field(to, b"content-length", decimal(length, &mut [0; 20]));
}

/// A number as fields have it; no u64 has more than 20 digits.
pub fn decimal(number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut left = &mut room[..];
    let _ = write!(left, "{number}");
    let unused = left.len();
    &room[..20 - unused]
}

pub fn chunked(to: &mut Buffer) {
    to.extend(b"transfer-encoding: chunked\r\n");
}

pub fn end_of_head(to: &mut Buffer) {
    to.extend(b"\r\n");
}

/// Makes one chunk of what is in `data`, which must not be empty: that would be the last one.
pub fn chunk(data: &mut Buffer) {
    let mut size = [0; 18];
    let mut left = &mut size[..];
    // A usize has at most 16 hex digits.
    let _ = write!(left, "{:x}\r\n", data.len());
    let unused = left.len();
    data.prepend(&size[..18 - unused]);
    data.extend(b"\r\n");
}

pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The end of a chunked body.
pub fn last_chunk(to: &mut Buffer, trailers: Option<&Store>) {
    let Some(trailers) = trailers else { return to.extend(LAST_CHUNK) };
    to.extend(b"0\r\n");
    for Field { name, value, .. } in trailers.fields().iter() {
        field(to, name, value);
    }
    to.extend(b"\r\n");
}
