//! The handshake of WebSocket over HTTP/1.1 (RFC 6455 1.3), for clients that have begun theirs over HTTP/2,
//! where there is none (RFC 8441 5). Pure, but for a key that is drawn.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::route::fields::Store;

const KEY: &str = "sec-websocket-key";

/// RFC 6455 1.3: what nobody sends by chance.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Writes the fields by which a request of HTTP/1.1 asks for it.
pub fn ask(store: &mut Store) {
    let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    store.push(b"connection", b"upgrade");
    store.push(b"upgrade", b"websocket");
    store.push(KEY.as_bytes(), key.as_bytes());
}

/// Whether an answer of 101 is one to this very request.
pub fn accepts(asked: &Store, answered: &Store) -> bool {
    let Some(key) = asked.fields().all(KEY).next() else { return false };
    let digest = Sha1::new().chain_update(key).chain_update(MAGIC).finalize();
    let mut accepts = answered.fields().all("sec-websocket-accept");
    accepts.next() == Some(STANDARD.encode(digest).as_bytes()) && accepts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, value: &str) -> Store {
        let mut store = Store::default();
        store.push(name.as_bytes(), value.as_bytes());
        store
    }

    /// The example of RFC 6455 1.3.
    #[test]
    fn an_answer_fits_its_question_or_it_is_none() {
        let asked = store(KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        let answered = |value| accepts(&asked, &store("sec-websocket-accept", value));
        assert!(answered("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!answered("S3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!accepts(&asked, &Store::default()));
        let mut drawn = Store::default();
        ask(&mut drawn);
        assert_eq!(drawn.fields().all(KEY).next().map(<[u8]>::len), Some(24));
    }
}
