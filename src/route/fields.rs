//! The fields of a head, as places in the one buffer that they were read into.
//!
//! Looked up by routes, judged by `headers`, written out again by `forward`; no map is built and no
//! field is copied for it. Pure. What is a valid field was decided by whoever read it.

use std::fmt;

/// Fields that a load balancer has something to do with; told apart once, when a head is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Connection,
    KeepAlive,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    ContentLength,
    Upgrade,
    Expect,
    Host,
    Cookie,
    Date,
    Forwarded,
    /// X-Forwarded-For.
    ForwardedFor,
    /// X-Forwarded-Proto.
    ForwardedProto,
    /// X-Forwarded-Host.
    ForwardedHost,
    /// Any other X-Forwarded-*; and all of them in the spelling X_Forwarded_*, as CGI and WSGI servers
    /// take an underscore for a hyphen.
    ForwardedOther,
    /// X-Client-Cert-*, in either spelling: what only we say of a client's certificate.
    ClientCert,
    Http2Settings,
    Other,
}

impl Known {
    pub fn of(name: &[u8]) -> Known {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            2 if is("te") => Known::Te,
            4 if is("host") => Known::Host,
            4 if is("date") => Known::Date,
            6 if is("expect") => Known::Expect,
            6 if is("cookie") => Known::Cookie,
            7 if is("upgrade") => Known::Upgrade,
            7 if is("trailer") => Known::Trailer,
            9 if is("forwarded") => Known::Forwarded,
            10 if is("connection") => Known::Connection,
            10 if is("keep-alive") => Known::KeepAlive,
            14 if is("content-length") => Known::ContentLength,
            14 if is("http2-settings") => Known::Http2Settings,
            16 if is("proxy-connection") => Known::ProxyConnection,
            17 if is("transfer-encoding") => Known::TransferEncoding,
            15 if is("x-forwarded-for") => Known::ForwardedFor,
            16 if is("x-forwarded-host") => Known::ForwardedHost,
            17 if is("x-forwarded-proto") => Known::ForwardedProto,
            15.. if is_client_cert(name) => Known::ClientCert,
            12.. if is_claim(name) => Known::ForwardedOther,
            _ => Known::Other,
        }
    }
}

fn is_claim(name: &[u8]) -> bool {
    begins(name, b"x-forwarded-")
}

fn is_client_cert(name: &[u8]) -> bool {
    begins(name, b"x-client-cert-")
}

/// In any case, and with underscores for hyphens.
fn begins(name: &[u8], start: &[u8]) -> bool {
    let mut plain = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte | 0x20 });
    start.iter().all(|byte| plain.next() == Some(*byte))
}

/// Where a field stands in its buffer. Offsets are those of the buffer's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    name_at: u32,
    name_len: u32,
    value_at: u32,
    value_len: u32,
    known: Known,
}

/// One field: its name as it was written, its value without the white space around it.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub known: Known,
}

/// A head's fields, in their order.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
    present: Present,
}

/// The kinds of fields that a head has: most of what is asked for is not there, and need not be sought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Present(u32);

impl Present {
    fn add(&mut self, known: Known) {
        self.0 |= 1 << known as u32;
    }

    fn has(self, known: Known) -> bool {
        self.0 & (1 << known as u32) != 0
    }
}

impl Span {
    /// `name` and `value` are slices of `bytes`; so a head of 4 GiB and more has no place here.
    fn new(bytes: &[u8], name: &[u8], value: &[u8]) -> Span {
        let place = |part: &[u8]| (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
        Span {
            name_at: place(name) as u32,
            name_len: name.len() as u32,
            value_at: place(value) as u32,
            value_len: value.len() as u32,
            known: Known::of(name),
        }
    }
}

impl<'a> Fields<'a> {
    pub fn none() -> Fields<'a> {
        Fields { bytes: &[], spans: &[], present: Present::default() }
    }

    /// Whether there is one of this kind.
    pub fn has(self, known: Known) -> bool {
        self.present.has(known)
    }

    pub fn len(self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }

    pub fn iter(self) -> impl Iterator<Item = Field<'a>> {
        let part = move |at: u32, len: u32| &self.bytes[at as usize..][..len as usize];
        self.spans.iter().map(move |span| Field {
            name: part(span.name_at, span.name_len),
            value: part(span.value_at, span.value_len),
            known: span.known,
        })
    }

    /// The values of all fields of this name, which is in lower case.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |field: &Field<'_>| field.name.eq_ignore_ascii_case(name.as_bytes());
        self.iter().filter(named).map(|field| field.value)
    }

    /// The values of all fields of this kind.
    pub fn of(self, known: Known) -> impl Iterator<Item = &'a [u8]> {
        let spans = if self.has(known) { self.spans } else { &[] };
        let all = Fields { spans, ..self };
        all.iter().filter(move |field| field.known == known).map(|field| field.value)
    }

    /// The members of all fields of this kind, as of one comma-separated list (RFC 9110 5.6.1).
    pub fn members_of(self, known: Known) -> impl Iterator<Item = &'a [u8]> {
        self.of(known).flat_map(members)
    }
}

/// The members of a comma-separated value; empty ones are left out.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    all.filter(|member| !member.is_empty())
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name.escape_ascii(), self.value.escape_ascii())
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A head's bytes with the places of its fields: the buffer that [`Fields`] is a view of. Used again
/// and again, so that a request costs no allocation once it has grown.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub bytes: Vec<u8>,
    spans: Vec<Span>,
    present: Present,
}

impl Store {
    /// An empty one.
    pub const fn new() -> Store {
        Store { bytes: Vec::new(), spans: Vec::new(), present: Present(0) }
    }

    pub fn fields(&self) -> Fields<'_> {
        Fields { bytes: &self.bytes, spans: &self.spans, present: self.present }
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.present = Present::default();
    }

    /// Takes over a head's bytes, with the names and values that are slices of them.
    pub fn fill<'b>(&mut self, head: &'b [u8], fields: impl Iterator<Item = (&'b [u8], &'b [u8])>) {
        self.clear();
        self.bytes.extend_from_slice(head);
        for (name, value) in fields {
            let span = Span::new(head, name, value);
            self.present.add(span.known);
            self.spans.push(span);
        }
    }

    /// Appends a field.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let at = self.bytes.len() as u32;
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        let known = Known::of(name);
        self.present.add(known);
        self.spans.push(Span {
            name_at: at,
            name_len: name.len() as u32,
            value_at: at + name.len() as u32,
            value_len: value.len() as u32,
            known,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_known_in_any_case() {
        for (name, known) in [
            ("Host", Known::Host),
            ("CONTENT-length", Known::ContentLength),
            ("te", Known::Te),
            ("X-Forwarded-For", Known::ForwardedFor),
            ("x_forwarded_for", Known::ForwardedOther),
            ("X-Forwarded_Proto", Known::ForwardedOther),
            ("x-forwarded-port", Known::ForwardedOther),
            ("x-forwarded", Known::Other),
            ("x-forward", Known::Other),
            ("x-real-ip", Known::Other),
            ("content_length", Known::Other),
            ("", Known::Other),
        ] {
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
        }
    }

    #[test]
    fn fields_are_found_by_name_and_by_kind() {
        let mut store = Store::default();
        for (name, value) in [("X-A", "1"), ("Connection", "a, ,b"), ("x-a", ""), ("TE", "c")] {
            store.push(name.as_bytes(), value.as_bytes());
        }
        let fields = store.fields();
        assert_eq!(fields.all("x-a").collect::<Vec<_>>(), [&b"1"[..], b""]);
        assert_eq!(fields.members_of(Known::Connection).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!((fields.len(), fields.of(Known::Host).count()), (4, 0));
        let text = b"Name: value";
        store.fill(text, [(&text[..4], &text[6..])].into_iter());
        assert_eq!(format!("{:?}", store.fields()), "[Name: value]");
        assert!(!store.fields().has(Known::Te) && store.fields().has(Known::Other));
    }
}
