//! The handshake of WebSocket over HTTP/1.1 (RFC 6455 1.3), for where one side has begun it and the other
//! speaks HTTP/2, where there is none (RFC 8441 5). Pure, but for a key that is drawn.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::route::fields::Store;

/// The two fields that HTTP/2 has no use for.
pub const KEY: &str = "sec-websocket-key";
pub const ACCEPT: &str = "sec-websocket-accept";

/// RFC 6455 1.3: what nobody sends by chance.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Writes the fields by which a request of HTTP/1.1 asks for it.
pub fn ask(store: &mut Store) {
    let key = STANDARD.encode(fastrand::u128(..).to_ne_bytes());
    store.push(b"connection", b"upgrade");
    store.push(b"upgrade", b"websocket");
    store.push(KEY.as_bytes(), key.as_bytes());
}

/// Whether the fields of a request ask for it as RFC 6455 4.1 has it: one key, and the one version. What the
/// key is made of is nobody's business: it goes no further than here.
pub fn is_asked(store: &Store) -> bool {
    let one = |name| {
        let mut all = store.fields().all(name);
        all.next().filter(|_| all.next().is_none())
    };
    one(KEY).is_some_and(|key| !key.is_empty()) && one("sec-websocket-version") == Some(b"13")
}

/// What an answer of 101 says to this request; `None` if it has no key.
pub fn accept(asked: &Store) -> Option<String> {
    let key = asked.fields().all(KEY).next()?;
    Some(STANDARD.encode(Sha1::new().chain_update(key).chain_update(MAGIC).finalize()))
}

/// Whether an answer of 101 is one to this very request.
pub fn accepts(asked: &Store, answered: &Store) -> bool {
    let Some(accept) = accept(asked) else { return false };
    let mut accepts = answered.fields().all(ACCEPT);
    accepts.next() == Some(accept.as_bytes()) && accepts.next().is_none()
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

    #[test]
    fn a_handshake_has_one_key_and_the_one_version() {
        let asks = |keys: &[&str], versions: &[&str]| {
            let mut store = Store::default();
            keys.iter().for_each(|key| store.push(KEY.as_bytes(), key.as_bytes()));
            for version in versions {
                store.push(b"Sec-WebSocket-Version", version.as_bytes());
            }
            is_asked(&store)
        };
        assert!(asks(&["a"], &["13"]));
        for keys in [&[][..], &["a", "a"], &[""]] {
            assert!(!asks(keys, &["13"]), "{keys:?}");
        }
        for versions in [&[][..], &["8"], &["13", "13"], &["13, 8"]] {
            assert!(!asks(&["a"], versions), "{versions:?}");
        }
    }
}
