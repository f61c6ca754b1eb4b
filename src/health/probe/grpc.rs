//! The gRPC probe: `grpc.health.v1.Health/Check`, as the health checking protocol of gRPC has it.
//!
//! Its two messages are written and read here by hand: a text, and a number.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::http::failure;
use super::wire::Said;
use super::{Failure, USER_AGENT, h2};
use crate::forward::backend_stream::BackendStream;

/// More than the answer can be.
const MESSAGE_BYTES: usize = 1024;

/// `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

/// Passes if the server says that `service` is served; of an empty name, the server as a whole.
pub(super) async fn exchange(
    stream: BackendStream,
    target: SocketAddr,
    service: &str,
    secure: bool,
) -> Result<(), Failure> {
    h2::exchange(stream, request(target, service, secure), judge).await
}

fn request(target: SocketAddr, service: &str, secure: bool) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(framed(service)));
    *request.method_mut() = Method::POST;
    let scheme = if secure { "https" } else { "http" };
    let uri = format!("{scheme}://{target}/grpc.health.v1.Health/Check");
    // An address is an authority, and the rest of it is fixed.
    *request.uri_mut() = uri.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    request
}

async fn judge(answer: Response<Incoming>) -> Result<(), Failure> {
    let (head, mut body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Failure::Protocol("the answer is not gRPC"));
    }
    // An error that is known at once comes without a body, in the head.
    let mut status = said(&head.headers);
    let mut message = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failure(&error))?;
        match frame.into_data() {
            Ok(data) if message.len() + data.len() <= MESSAGE_BYTES => message.extend(data),
            Ok(_) => {
                return Err(Failure::Protocol("its answer is longer than any that was asked for"));
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    status = said(&trailers);
                }
            }
        }
    }
    match status {
        None => Err(Failure::Protocol("the answer is not gRPC")),
        Some(Err(said)) => Err(Failure::ServerError(said)),
        Some(Ok(())) => match serving(&message) {
            Some(SERVING) => Ok(()),
            Some(_) => Err(Failure::NotServing),
            None => Err(Failure::Protocol("the answer is no message of grpc.health.v1")),
        },
    }
}

/// What `grpc-status` says; `None` if it is not there.
fn said(fields: &HeaderMap) -> Option<Result<(), Said>> {
    let status = fields.get("grpc-status")?;
    if status == "0" {
        return Some(Ok(()));
    }
    let mut text = b"grpc-status ".to_vec();
    text.extend(status.as_bytes());
    if let Some(message) = fields.get("grpc-message") {
        text.extend(b": ");
        text.extend(message.as_bytes());
    }
    Some(Err(Said::new(&text)))
}

/// `HealthCheckRequest { service = 1 }`, with the five bytes before it that every message of gRPC has: not
/// compressed, and its length.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, of bytes with their length before them.
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.as_bytes());
    }
    let length = (message.len() as u32).to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

/// `HealthCheckResponse { status = 1 }`, framed; `None` if it is none. A status that is not there is 0.
fn serving(framed: &[u8]) -> Option<u64> {
    let (&[compressed, a, b, c, d], mut message) = framed.split_first_chunk()?;
    if compressed != 0 || message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            // What a later version may have added is passed over.
            (1.., 0) => drop(varint(&mut message)?),
            (1.., 1) => message = message.get(8..)?,
            (1.., 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (1.., 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// Seven bits a byte, the lowest first; the last byte has no eighth.
fn varint(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_a_message_of_one_text() {
        assert_eq!(framed("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(framed("a.B")[..], *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = framed(&"x".repeat(300));
        assert_eq!(long[..8], *b"\0\0\0\x01\x2f\x0a\xac\x02");
    }

    #[test]
    fn the_answer_is_a_number_whatever_else_is_there() {
        for (message, expected) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(1)),
            (b"\0\0\0\0\x02\x08\x02", Some(2)),
            (b"\0\0\0\0\0", Some(0)),
            // Unknown fields of each kind, and the last status counts.
            (b"\0\0\0\0\x06\x08\x02\x10\x07\x08\x01", Some(1)),
            (b"\0\0\0\0\x06\x1a\x02hi\x08\x01", Some(1)),
            (b"\0\0\0\0\x0b\x2112345678\x08\x01", Some(1)),
            (b"\0\0\0\0\x07\x2d1234\x08\x01", Some(1)),
            // Compressed, cut short, too long, of another kind, without an end.
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x02\x08", None),
            (b"\0\0\0\0\x02\x08\x01\x08", None),
            (b"\0\0\0\0\x02\x0b\x01", None),
            (b"\0\0\0\0\x02\x00\x01", None),
            (b"\0\0\0\0\x03\x1a\x7fx", None),
            (b"\0\0\0\0\x0c\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\0\0", None),
            (b"", None),
        ] {
            assert_eq!(serving(message), expected, "{message:?}");
        }
    }

    #[test]
    fn an_error_is_told_in_the_servers_words() {
        let mut fields = HeaderMap::new();
        assert!(said(&fields).is_none());
        fields.insert("grpc-status", HeaderValue::from_static("5"));
        fields.insert("grpc-message", HeaderValue::from_static("unknown service"));
        let Some(Err(words)) = said(&fields) else { panic!("an error") };
        assert_eq!(words.to_string(), "grpc-status 5: unknown service");
        fields.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(matches!(said(&fields), Some(Ok(()))));
    }
}
