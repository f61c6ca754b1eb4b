//! What gRPC wants of a proxy: errors in its own terms, and its deadlines kept.
//!
//! Pure. Calls and their answers go by as any request of HTTP/2 with trailers does.

use std::time::Duration;

use crate::forward::http::head::{RequestHead, Version, number};

/// Whether the request is a call: its client reads trailers, and of a status nothing but 200.
pub fn is_call(head: &RequestHead) -> bool {
    let is_grpc = |value: &[u8]| {
        let (kind, rest) = value.split_at(value.len().min(b"application/grpc".len()));
        // Not application/grpc-web, whose answers have no trailers.
        kind.eq_ignore_ascii_case(b"application/grpc")
            && matches!(rest.first(), None | Some(b'+' | b';'))
    };
    head.version == Version::Http2 && head.fields().all("content-type").next().is_some_and(is_grpc)
}

/// The time that its client gives a call; `None` if it says nothing, or nothing that is one.
pub fn deadline(head: &RequestHead) -> Option<Duration> {
    if !is_call(head) {
        return None;
    }
    timeout(head.fields().all("grpc-timeout").next()?)
}

/// At most eight digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let n = number(digits).filter(|_| digits.len() <= 8)?;
    match unit {
        b'H' => Some(Duration::from_secs(n * 3600)),
        b'M' => Some(Duration::from_secs(n * 60)),
        b'S' => Some(Duration::from_secs(n)),
        b'm' => Some(Duration::from_millis(n)),
        b'u' => Some(Duration::from_micros(n)),
        b'n' => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::forward::http::head::{Framing, Heads};

    fn head(version: Version, fields: &[(&str, &str)]) -> RequestHead {
        let mut store = Heads::default().borrow();
        for (name, value) in fields {
            store.push(name.as_bytes(), value.as_bytes());
        }
        RequestHead {
            method: Method::POST,
            version,
            framing: Framing::Chunked,
            keep_alive: true,
            expects_continue: false,
            authority: 0..0,
            target: 0..0,
            path_len: 0,
            special: None,
            store,
        }
    }

    #[test]
    fn a_call_is_known_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grp", false),
            ("text/plain", false),
        ] {
            let fields = [("content-type", kind), ("grpc-timeout", "5S")];
            assert_eq!(is_call(&head(Version::Http2, &fields)), expected, "{kind}");
            let time = expected.then_some(Duration::from_secs(5));
            assert_eq!(deadline(&head(Version::Http2, &fields)), time, "{kind}");
            assert!(!is_call(&head(Version::Http11, &fields)));
        }
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        for (value, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("0u", Some(Duration::ZERO)),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789m", None),
            ("5", None),
            ("5s", None),
            ("S", None),
            ("-1S", None),
            ("", None),
        ] {
            assert_eq!(timeout(value.as_bytes()), expected, "{value}");
        }
    }
}
