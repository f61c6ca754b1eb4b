//! Reads the heads of HTTP/1 messages, strictly (RFC 9112 2 to 6): what two programs could read in two
//! ways is refused, from clients and from backends alike.
//!
//! httparse finds the parts and refuses what is no token, no field and no version; this file refuses
//! what it is lenient about, and settles how the body is framed. Pure: bytes in, head or refusal out.

use std::mem::MaybeUninit;

use http::{Method, StatusCode};
use httparse::{Error, Header, ParserConfig, Request, Response, Status};

use crate::forward::http::head::{
    Framing, Heads, Loan, RequestHead, ResponseHead, Version, number,
};
use crate::outcome::Cause;
use crate::route::Fields;
use crate::route::fields::Known;
use crate::route::headers::Connection;

/// The most that a head may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: usize,
    pub fields: usize,
}

impl Limits {
    /// For the answers of backends.
    pub const RESPONSE: Limits = Limits { bytes: 64 * 1024, fields: 256 };
}

/// The longest body, and the largest chunk.
pub const LONGEST: u64 = i64::MAX as u64;

/// Fields for which there is room on the stack: as many as an answer may have, and most requests.
const USUAL_FIELDS: usize = Limits::RESPONSE.fields;

/// A head and its length in bytes; `None` as long as it is not whole.
pub type Read<T> = Result<Option<(T, usize)>, Cause>;

/// Reads a request's head from the start of `bytes`.
pub fn request(bytes: &[u8], limits: Limits, heads: &Heads) -> Read<RequestHead> {
    with_room(limits.fields, |room| {
        let mut parsed = Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(bytes, room) {
            Ok(Status::Complete(length)) if length <= limits.bytes => length,
            Ok(Status::Partial) if bytes.len() < limits.bytes && ends_lines_well(bytes) => {
                return Ok(None);
            }
            Ok(_) if !ends_lines_well(bytes) => return Err(Cause::BadRequest),
            Ok(_) => return Err(too_large(bytes, limits)),
            Err(Error::TooManyHeaders) => return Err(Cause::HeadTooLarge),
            Err(_) => return Err(Cause::BadRequest),
        };
        let head = &bytes[..length];
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Cause::BadRequest);
        };
        if !ends_lines_well(head) {
            return Err(Cause::BadRequest);
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Cause::BadRequest)?;
        let (authority, target) = split_target(&method, target)?;
        let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
        let store = store(head, parsed.headers, heads);
        if names_too_many(store.fields(), limits) {
            return Err(Cause::HeadTooLarge);
        }
        let connection = Connection::of(store.fields());
        let keep_alive = !connection.close && (version == Version::Http11 || connection.keep_alive);
        let framing = request_framing(store.fields(), version)?;
        let expects_continue = version == Version::Http11
            && store
                .fields()
                .members_of(Known::Expect)
                .any(|expectation| expectation.eq_ignore_ascii_case(b"100-continue"));
        let place = |part: &str| {
            let at = part.as_ptr() as usize - head.as_ptr() as usize;
            at as u32..(at + part.len()) as u32
        };
        let path_len = RequestHead::path_len(target);
        let (authority, target) = (place(authority), place(target));
        drop(connection);
        let read = RequestHead {
            method,
            version,
            framing,
            keep_alive,
            expects_continue,
            authority,
            target,
            path_len,
            special: None,
            store,
        };
        Ok(Some((read, length)))
    })
}

/// Reads the head of an answer from the start of `bytes`; `to_head`: the request was a HEAD.
pub fn response(bytes: &[u8], to_head: bool, heads: &Heads) -> Read<ResponseHead> {
    let limits = Limits::RESPONSE;
    // An empty line before it is put up with in requests only (RFC 9112 2.2): here it may be what is
    // left of a body that was longer than it said.
    if bytes.first().is_some_and(|&first| first != b'H') {
        return Err(Cause::Garbage);
    }
    with_room(limits.fields, |room| {
        let mut parsed = Response::new(&mut []);
        let config = ParserConfig::default();
        let result = config.parse_response_with_uninit_headers(&mut parsed, bytes, room);
        let length = match result {
            Ok(Status::Complete(length)) if length <= limits.bytes => length,
            Ok(Status::Partial) if bytes.len() < limits.bytes && ends_lines_well(bytes) => {
                return Ok(None);
            }
            Ok(_) | Err(_) => return Err(Cause::Garbage),
        };
        let head = &bytes[..length];
        let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
            return Err(Cause::Garbage);
        };
        if !ends_lines_well(head) {
            return Err(Cause::Garbage);
        }
        let status = StatusCode::from_u16(code).map_err(|_| Cause::Garbage)?;
        let store = store(head, parsed.headers, heads);
        if names_too_many(store.fields(), limits) {
            return Err(Cause::Garbage);
        }
        let connection = Connection::of(store.fields());
        let asked = !connection.close && (minor == 1 || connection.keep_alive);
        drop(connection);
        let (framing, sound) = response_framing(store.fields(), status, minor, to_head)?;
        let keep_alive = asked && sound && framing != Framing::UntilClose;
        let at = parsed.reason.map_or(0, |reason| {
            if reason.is_empty() { 0 } else { reason.as_ptr() as usize - head.as_ptr() as usize }
        });
        let reason = at as u32..(at + parsed.reason.map_or(0, str::len)) as u32;
        Ok(Some((ResponseHead { status, framing, keep_alive, reason, store }, length)))
    })
}

/// Whether a head that was looked at in vain when it had `tried` bytes may be whole now, or can be seen
/// to be wrong: when it or its first line ends, a line ends as none may, or it has doubled or is too
/// long. So a head that comes byte by byte costs a few times its length to read, not its square.
pub fn is_worth_trying(bytes: &[u8], tried: usize, limits: Limits) -> bool {
    if bytes.len() >= 2 * tried || bytes.len() >= limits.bytes {
        return true;
    }
    // A CR that was the last byte so far is judged by what came after it.
    let new = tried - 1;
    memchr::memchr2_iter(b'\r', b'\n', &bytes[new..]).any(|at| {
        let at = new + at;
        match bytes[at] {
            b'\r' => bytes.get(at + 1).is_some_and(|&next| next != b'\n'),
            _ if at < tried => false,
            _ => {
                !bytes[..at].ends_with(b"\r")
                    || bytes[..at].ends_with(b"\r\n\r")
                    || memchr::memchr(b'\n', &bytes[..at]).is_none()
            }
        }
    })
}

/// Calls `work` with room for so many fields, on the stack where that is enough.
fn with_room<'b, T>(fields: usize, work: impl FnOnce(&mut [MaybeUninit<Header<'b>>]) -> T) -> T {
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    match usual.get_mut(..fields) {
        Some(room) => work(room),
        None => {
            let mut many: Vec<_> = (0..fields).map(|_| MaybeUninit::uninit()).collect();
            work(&mut many)
        }
    }
}

/// A copy of the head with the places of its fields.
fn store(head: &[u8], fields: &[Header<'_>], heads: &Heads) -> Loan {
    let mut store = heads.borrow();
    store.fill(head, fields.iter().map(|field| (field.name.as_bytes(), field.value)));
    store
}

/// Every LF has its CR (RFC 9112 2.2 lets a recipient take a bare LF for a line's end, but then the
/// next one may not). httparse refuses a CR without its LF.
fn ends_lines_well(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|at| at > 0 && head[at - 1] == b'\r')
}

/// The request line alone was too long, or the head as a whole.
fn too_large(bytes: &[u8], limits: Limits) -> Cause {
    match bytes.iter().take(limits.bytes).any(|&byte| byte == b'\n') {
        true => Cause::HeadTooLarge,
        false => Cause::TargetTooLong,
    }
}

/// Whether Connection names more fields than there may be: each name is compared with each field.
fn names_too_many(fields: Fields<'_>, limits: Limits) -> bool {
    // Each takes a byte at least: most heads need not be looked at more closely.
    let bytes: usize = fields.of(Known::Connection).map(<[u8]>::len).sum();
    bytes > limits.fields && fields.members_of(Known::Connection).nth(limits.fields).is_some()
}

/// The authority and the path with its query (RFC 9112 3.2). What they hold is judged where they are
/// used; here only the form.
fn split_target<'a>(method: &Method, target: &'a str) -> Result<(&'a str, &'a str), Cause> {
    if target.starts_with('/') || (target == "*" && *method == Method::OPTIONS) {
        return Ok((&target[..0], target));
    }
    if *method == Method::CONNECT {
        return Ok((target, &target[..0]));
    }
    let (scheme, rest) = target.split_once("://").ok_or(Cause::BadRequest)?;
    let known = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if known && end > 0 { Ok(rest.split_at(end)) } else { Err(Cause::BadRequest) }
}

/// RFC 9112 6.3, for requests: one framing, said once and plainly.
fn request_framing(fields: Fields<'_>, version: Version) -> Result<Framing, Cause> {
    let chunked = is_chunked(fields).ok_or(Cause::BadRequest)?;
    let length = content_length(fields).ok_or(Cause::BadRequest)?;
    match (chunked, length) {
        (true, None) if version == Version::Http11 => Ok(Framing::Chunked),
        (true, _) => Err(Cause::BadRequest),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) => Ok(Framing::None),
    }
}

/// RFC 9112 6.3, for answers; `false`: what it says of its body is in doubt, so that the connection
/// must not carry another.
fn response_framing(
    fields: Fields<'_>,
    status: StatusCode,
    minor: u8,
    to_head: bool,
) -> Result<(Framing, bool), Cause> {
    let chunked = is_chunked(fields).ok_or(Cause::Garbage)?;
    let length = content_length(fields).ok_or(Cause::Garbage)?;
    // RFC 9112 6.1 and 6.3: to be handled as an error, whatever counts then.
    if chunked && (minor == 0 || length.is_some()) {
        return Err(Cause::Garbage);
    }
    let announces = chunked || length.is_some_and(|length| length > 0);
    if status.is_informational() && announces {
        return Err(Cause::Garbage); // what follows is a body to some, the next head to others
    }
    // These have no body whatever they say; one that announces it may yet send it.
    let no_content = status == StatusCode::NO_CONTENT;
    if to_head || no_content || status.is_informational() || status == StatusCode::NOT_MODIFIED {
        return Ok((Framing::None, !(no_content && announces)));
    }
    Ok(match (chunked, length) {
        (true, _) => (Framing::Chunked, true),
        (false, Some(length)) => (Framing::Length(length), true),
        (false, None) => (Framing::UntilClose, true),
    })
}

/// Whether there is a Transfer-Encoding, which must be one and say `chunked` and nothing else: any other
/// coding hides where the body ends. `None`: it does not.
fn is_chunked(fields: Fields<'_>) -> Option<bool> {
    let mut codings = fields.of(Known::TransferEncoding);
    match (codings.next(), codings.next()) {
        (None, _) => Some(false),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Some(true),
        _ => None,
    }
}

/// The Content-Length, if there is one; `None`: it is said twice or is no number. One that is negative
/// to whoever counts in signed integers is none.
fn content_length(fields: Fields<'_>) -> Option<Option<u64>> {
    let mut lengths = fields.of(Known::ContentLength);
    match (lengths.next(), lengths.next()) {
        (None, _) => Some(None),
        (Some(length), None) => number(length).filter(|&length| length <= LONGEST).map(Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 400, fields: 10 };

    fn ask(text: &str) -> Read<RequestHead> {
        request(text.as_bytes(), LIMITS, &Heads::default())
    }

    #[track_caller]
    fn asked(text: &str) -> RequestHead {
        let (head, length) = ask(text).expect(text).expect(text);
        assert_eq!(length, text.len(), "{text:?}");
        head
    }

    #[test]
    fn a_request_is_taken_apart() {
        let head = asked("GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-A:  1 \t\r\nx-b:\r\n\r\n");
        assert_eq!((head.method.as_str(), head.split_target()), ("GET", ("/a", Some("b=c"))));
        assert_eq!((head.framing, head.keep_alive), (Framing::None, true));
        assert_eq!(format!("{:?}", head.fields()), "[Host: x, X-A: 1, x-b: ]");
        let head = asked("GET http://x:80/a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
        assert_eq!((head.authority(), head.target()), (Some("x:80"), "/a"));
        assert_eq!((head.version, head.keep_alive), (Version::Http10, true));
        let head = asked("GET HTTPS://x?q HTTP/1.1\r\nConnection: a, close\r\n\r\n");
        assert_eq!((head.authority(), head.target(), head.path()), (Some("x"), "?q", ""));
        assert!(!head.keep_alive);
        assert_eq!(asked("OPTIONS * HTTP/1.1\r\n\r\n").target(), "*");
    }

    #[test]
    fn a_request_is_framed_in_one_way_or_refused() {
        use Framing::{Chunked, Length, None as Nothing};
        for (version, fields, framing) in [
            ("1.1", "", Some(Nothing)),
            ("1.1", "Content-Length: 0\r\n", Some(Length(0))),
            ("1.0", "content-length: 007\r\n", Some(Length(7))),
            ("1.1", "Content-Length: 9223372036854775807\r\n", Some(Length(LONGEST))),
            ("1.1", "Transfer-Encoding: CHUNKED\r\n", Some(Chunked)),
            ("1.1", "Content-Length: 9223372036854775808\r\n", None),
            ("1.1", "Content-Length: 18446744073709551616\r\n", None),
            ("1.1", "Content-Length: 5\r\nContent-Length: 5\r\n", None),
            ("1.1", "Content-Length: 5, 5\r\n", None),
            ("1.1", "Content-Length: +5\r\n", None),
            ("1.1", "Content-Length: 0x5\r\n", None),
            ("1.1", "Content-Length: 5 5\r\n", None),
            ("1.1", "Content-Length:\r\n", None),
            ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", None),
            ("1.0", "Transfer-Encoding: chunked\r\n", None),
            ("1.1", "Transfer-Encoding: chunked, chunked\r\n", None),
            ("1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
            ("1.1", "Transfer-Encoding: gzip, chunked\r\n", None),
            ("1.1", "Transfer-Encoding: chunked,\r\n", None),
            ("1.1", "Transfer-Encoding:\r\n", None),
            ("1.1", "Transfer-Encoding: identity\r\n", None),
        ] {
            let read = ask(&format!("POST / HTTP/{version}\r\n{fields}\r\n"));
            let found = read.map(|read| read.map(|(head, _)| head.framing));
            let expected = framing.map(Some).ok_or(Cause::BadRequest);
            assert_eq!(found, expected, "{version} {fields}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "GET / HTTP/1.1\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\n",
            "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\ny\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\x7f\r\n\r\n",
            "GET / HTTP/1.1\r\n: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost\r\n\r\n",
            "GET / HTTP/1.2\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "GET / HTTP/0.9\r\n\r\n",
            "GET / http/1.1\r\n\r\n",
            "GET /\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET /  HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1 \r\n\r\n",
            "GET\t/ HTTP/1.1\r\n\r\n",
            " GET / HTTP/1.1\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "GET * HTTP/1.1\r\n\r\n",
            "GET x HTTP/1.1\r\n\r\n",
            "GET ftp://x/ HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(ask(text).unwrap_err(), Cause::BadRequest, "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_fields() {
        let long = "x".repeat(500);
        for (text, cause) in [
            (format!("GET /{long}"), Cause::TargetTooLong),
            (format!("GET /{long} HTTP/1.1\r\n\r\n"), Cause::TargetTooLong),
            (format!("GET / HTTP/1.1\r\nX: {long}"), Cause::HeadTooLarge),
            (format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n"), Cause::HeadTooLarge),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(11)), Cause::HeadTooLarge),
        ] {
            assert_eq!(ask(&text).unwrap_err(), cause, "{text}");
        }
        asked(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10)));
        let most = Limits { bytes: 10_000, fields: 1000 };
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
        assert!(request(many.as_bytes(), most, &Heads::default()).unwrap().is_some());
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for_and_not_read_over_and_over() {
        let text =
            "GET /path HTTP/1.1\r\nHost: x\r\nX-Long: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n";
        let (mut tried, mut tries) = (0, 0);
        for end in 1..=text.len() {
            if is_worth_trying(&text.as_bytes()[..end], tried, LIMITS) {
                (tried, tries) = (end, tries + 1);
                assert_eq!(ask(&text[..end]).unwrap().is_some(), end == text.len(), "{end}");
            }
        }
        assert!((tried, tries) == (text.len(), 8), "{tries} tries");
    }

    #[test]
    fn what_is_wrong_in_how_lines_end_is_seen_wherever_it_is_cut() {
        for text in [
            "GET /path\r\n",
            "GET /path HTTP/1.1\n",
            "GET /path HTTP/1.1\r\nHost: x\n",
            "GET /path HTTP/1.1\r\nHost: x\r\n\n",
            "GET /path HTTP/1.1\r\nHost: x\rX",
            "GET /path HTTP/1.1\r\nHost: x\r\r",
        ] {
            for cut in 1..text.len() {
                // Looked at in vain, if it was; and at the latest now it is wrong.
                let wrong = ask(&text[..cut]).is_err();
                assert!(wrong || is_worth_trying(text.as_bytes(), cut, LIMITS), "{text:?} {cut}");
                assert_eq!(ask(text).unwrap_err(), Cause::BadRequest, "{text:?}");
            }
        }
    }

    fn answered(text: &str, to_head: bool) -> Result<(Framing, bool), Cause> {
        let read = response(text.as_bytes(), to_head, &Heads::default())?;
        let (head, length) = read.expect(text);
        assert_eq!(length, text.len(), "{text:?}");
        Ok((head.framing, head.keep_alive))
    }

    #[test]
    fn an_answer_is_framed_in_one_way_or_refused() {
        use Framing::{Chunked, Length, None as Nothing, UntilClose};
        for (head, framing) in [
            ("HTTP/1.1 200 OK\r\n", Ok((UntilClose, false))),
            ("HTTP/1.1 200\r\nContent-Length: 0\r\n", Ok((Length(0), true))),
            ("HTTP/1.1 200 \r\nContent-Length: 5\r\n", Ok((Length(5), true))),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", Ok((Length(5), false))),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n",
                Ok((Length(5), false)),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", Ok((Chunked, true))),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                Err(Cause::Garbage),
            ),
            ("HTTP/1.1 103 Early\r\nContent-Length: 5\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 100 Go\r\nTransfer-Encoding: chunked\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 100 Go\r\nContent-Length: 0\r\n", Ok((Nothing, true))),
            ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 204 No\r\n", Ok((Nothing, true))),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n", Ok((Nothing, false))),
            ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n", Ok((Nothing, false))),
            ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n", Ok((Nothing, true))),
            ("HTTP/1.1 103 Early\r\nLink: x\r\n", Ok((Nothing, true))),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\nContent-Length: 5\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 200 OK\r\nX: \0\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 20 OK\r\n", Err(Cause::Garbage)),
            ("HTTP/1.1 099 OK\r\n", Err(Cause::Garbage)),
            ("HTTP/2 200 OK\r\n", Err(Cause::Garbage)),
            ("ICY 200 OK\r\n", Err(Cause::Garbage)),
        ] {
            assert_eq!(answered(&format!("{head}\r\n"), false), framing, "{head}");
        }
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(answered(text, true), Ok((Nothing, true)));
        let heads = Heads::default();
        let read = response(b"HTTP/1.1 404 Not  Here \r\n\r\n", false, &heads).unwrap();
        assert_eq!(read.unwrap().0.reason(), b"Not  Here ");
    }
}
