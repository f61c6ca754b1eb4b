//! The heads of messages as they were read: what a request asks for, what an answer is, and how the
//! body behind each is framed.
//!
//! A head is one run of bytes and the places of its parts in it; it is kept as long as its request, for
//! retries and the log, in a store of its worker's that is used again. Whether a head was written in
//! HTTP/1 (`h1::parse`) or HTTP/2 (`h2`) cannot be told from it but by its version.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use http::{Method, StatusCode};

use crate::route::Fields;
use crate::route::fields::{Known, Store};

/// Stores that a worker keeps when no head is in them: two for each request of one connection of HTTP/2.
const STORES_KEPT: usize = 256;

/// One that has grown beyond this is not kept.
const STORE_BYTES: usize = 16 * 1024;

/// A worker's stores; clones are handles to the same ones. In boxes, as heads are moved about.
#[derive(Clone, Debug, Default)]
#[allow(clippy::vec_box)]
pub struct Heads(Rc<RefCell<Vec<Box<Store>>>>);

/// A store on loan. Dropped, it goes back to its worker.
#[derive(Debug)]
pub struct Loan {
    /// There as long as the loan is.
    store: Option<Box<Store>>,
    home: Heads,
}

static NOTHING: Store = Store::new();

impl Heads {
    /// An empty one.
    pub fn borrow(&self) -> Loan {
        let mut store = self.0.borrow_mut().pop().unwrap_or_default();
        store.clear();
        Loan { store: Some(store), home: self.clone() }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut kept = self.home.0.borrow_mut();
        if let Some(store) = self.store.take()
            && kept.len() < STORES_KEPT
            && store.bytes.capacity() <= STORE_BYTES
        {
            kept.push(store);
        }
    }
}

impl Deref for Loan {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut Store {
        self.store.get_or_insert_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

/// How a message's body ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes; may be 0.
    Length(u64),
    Chunked,
    /// With the connection; answers only.
    UntilClose,
}

/// What only HTTP/2 has a form for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A CONNECT with the protocol WebSocket (RFC 8441). It is made what it is in HTTP/1.1: a GET with an
    /// Upgrade.
    WebSocket,
    /// A CONNECT with another protocol.
    OtherProtocol,
    /// The resource is one of another scheme than http and https.
    OtherScheme,
}

/// What a request asks for, not yet judged: `flow::head::read` does that.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub version: Version,
    pub framing: Framing,
    /// Whether the client wants its connection kept.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends its body.
    pub expects_continue: bool,
    /// The authority of an absolute target, or of HTTP/2; empty if there is none.
    pub authority: Range<u32>,
    /// Path and query as they were written; empty where an absolute target has none.
    pub target: Range<u32>,
    /// Length of the path within it.
    pub path_len: u32,
    pub special: Option<Special>,
    pub store: Loan,
}

/// What a backend has answered.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub framing: Framing,
    /// Whether the backend keeps the connection, as far as its head says.
    pub keep_alive: bool,
    /// The words behind the status; may be empty.
    pub reason: Range<u32>,
    pub store: Loan,
}

impl RequestHead {
    /// Its client takes a success for a tunnel.
    pub fn is_websocket(&self) -> bool {
        self.special == Some(Special::WebSocket)
    }

    pub fn fields(&self) -> Fields<'_> {
        self.store.fields()
    }

    pub fn authority(&self) -> Option<&str> {
        let authority = self.text(&self.authority);
        (!authority.is_empty()).then_some(authority)
    }

    /// Path and query as they were written.
    pub fn target(&self) -> &str {
        self.text(&self.target)
    }

    /// What stands before the first question mark.
    pub fn path(&self) -> &str {
        self.split_target().0
    }

    /// The path, and the query without its question mark.
    pub fn split_target(&self) -> (&str, Option<&str>) {
        let target = self.target();
        let (path, rest) = target.split_at(self.path_len as usize);
        (path, rest.get(1..))
    }

    /// The length of the path in a target.
    pub fn path_len(target: &str) -> u32 {
        memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len()) as u32
    }

    fn text(&self, range: &Range<u32>) -> &str {
        if range.is_empty() {
            return ""; // the usual authority
        }
        let bytes = &self.store.bytes[range.start as usize..range.end as usize];
        // Both readers of heads take their ranges from text.
        std::str::from_utf8(bytes).unwrap_or("")
    }
}

impl ResponseHead {
    pub fn fields(&self) -> Fields<'_> {
        self.store.fields()
    }

    pub fn reason(&self) -> &[u8] {
        &self.store.bytes[self.reason.start as usize..self.reason.end as usize]
    }

    /// The length that an answer without a body (to HEAD, 304) tells of the one that it would have had.
    pub fn told_length(&self) -> Option<u64> {
        let tells = self.framing == Framing::None
            && self.status != StatusCode::NO_CONTENT
            && !self.status.is_informational();
        let length = self.fields().of(Known::ContentLength).next().filter(|_| tells)?;
        number(length)
    }

    /// 1xx but 101: another head follows.
    pub fn is_interim(&self) -> bool {
        self.status.is_informational() && self.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// A number of digits alone; `None` also if it is too large.
pub fn number(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let add = |n: u64, byte| n.checked_mul(10)?.checked_add(digit(byte)?);
    digits.iter().try_fold(0, add).filter(|_| !digits.is_empty())
}
