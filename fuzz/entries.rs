//! What the fuzz targets do with their bytes, and the reading of whole streams: for the targets, for the
//! tests that run their corpus, and for the comparison with hyper. Panics are the findings.

use evenkeel::config::model::ProxyVersion;
use evenkeel::forward::http::h1::chunked::{Chunked, Output};
use evenkeel::forward::http::h1::parse::{self, Limits};
use evenkeel::forward::http::head::{Framing, Heads, RequestHead, ResponseHead};
use evenkeel::listen::proxy;
use evenkeel::route::Fields;
use evenkeel::tls::sni;

/// A message as it is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Method, authority if there is one, target and minor version; or status and reason.
    pub line: String,
    /// Names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Another may follow on the connection.
    pub kept: bool,
    /// Where it ends in the stream.
    pub end: usize,
}

/// What comes after the last whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing, or nothing is read any more.
    Clean,
    /// Part of a head.
    WithinHead,
    /// A head, and part of a body.
    WithinBody,
    BadHead,
    BadBody,
}

/// Which role reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    /// What is read answers a HEAD.
    Client {
        to_head: bool,
    },
}

pub const LIMITS: Limits = Limits { bytes: 64 * 1024, fields: 100 };

enum Head {
    Request(RequestHead),
    Answer(ResponseHead),
}

/// A message whose body is being read: a reader for each form of the output, and the chunks so far.
type Current = (Message, Framing, Box<[Chunked; 2]>, Vec<u8>);

struct Reader {
    role: Role,
    heads: Heads,
    pending: Vec<u8>,
    tried: usize,
    used: usize,
    current: Option<Current>,
    messages: Vec<Message>,
    bad: Option<End>,
}

/// Reads a stream that comes in these pieces, as a connection of ours would, to its end.
pub fn read(role: Role, pieces: &[&[u8]]) -> (Vec<Message>, End) {
    let mut reader = Reader {
        role,
        heads: Heads::default(),
        pending: Vec::new(),
        tried: 0,
        used: 0,
        current: None,
        messages: Vec::new(),
        bad: None,
    };
    for piece in pieces {
        reader.pending.extend_from_slice(piece);
        reader.advance(false);
    }
    reader.advance(true);
    let end = match (reader.bad.take(), reader.current.take()) {
        (Some(bad), _) => bad,
        (None, Some((mut message, Framing::UntilClose, ..))) => {
            message.end = reader.used;
            reader.messages.push(message);
            End::Clean
        }
        (None, Some(_)) => End::WithinBody,
        (None, None) if reader.pending.is_empty() || reader.is_over() => End::Clean,
        (None, None) => End::WithinHead,
    };
    (reader.messages, end)
}

impl Reader {
    fn is_over(&self) -> bool {
        self.messages.last().is_some_and(|last| match self.role {
            Role::Server => !last.kept,
            Role::Client { .. } => !is_interim(&last.line),
        })
    }

    /// Reads on as far as it can; `ended`: nothing more will come.
    fn advance(&mut self, ended: bool) {
        while self.bad.is_none() {
            let moved = match self.current.is_some() {
                true => self.body(),
                false if self.is_over() => false,
                false => self.head(ended),
            };
            if !moved {
                return;
            }
        }
    }

    fn consume(&mut self, n: usize) {
        self.pending.drain(..n);
        self.used += n;
    }

    /// Whether there was one.
    fn head(&mut self, ended: bool) -> bool {
        while self.role == Role::Server && self.pending.starts_with(b"\r\n") {
            self.consume(2);
        }
        let data = &self.pending[..];
        let worth = ended || parse::is_worth_trying(data, self.tried, LIMITS);
        if data.is_empty() || data == b"\r" || !worth {
            return false;
        }
        self.tried = data.len();
        let read = match self.role {
            Role::Server => parse::request(data, LIMITS, &self.heads)
                .map(|read| read.map(|(head, length)| (Head::Request(head), length))),
            Role::Client { to_head } => parse::response(data, to_head, &self.heads)
                .map(|read| read.map(|(head, length)| (Head::Answer(head), length))),
        };
        let (head, length) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return false,
            Err(_) => {
                self.bad = Some(End::BadHead);
                return false;
            }
        };
        self.tried = 0;
        self.consume(length);
        let (message, framing) = match &head {
            Head::Request(head) => {
                let version = match head.version {
                    evenkeel::forward::http::head::Version::Http10 => 0,
                    _ => 1,
                };
                let authority = head.authority().map(|a| format!("{a} ")).unwrap_or_default();
                let line = format!("{} {authority}{} {version}", head.method, head.target());
                (message(line, head.fields(), head.keep_alive), head.framing)
            }
            Head::Answer(head) => {
                let line = format!("{} {}", head.status.as_u16(), head.reason().escape_ascii());
                (message(line, head.fields(), head.keep_alive), head.framing)
            }
        };
        self.current = Some((message, framing, Box::default(), Vec::new()));
        true
    }

    /// Whether the body has ended.
    fn body(&mut self) -> bool {
        let Some((message, framing, coded, chunks)) = &mut self.current else { return false };
        let mut n = self.pending.len();
        let mut ended = false;
        match framing {
            Framing::None => (n, ended) = (0, true),
            Framing::Length(length) => {
                let left = *length - message.body.len() as u64;
                n = usize::try_from(left).unwrap_or(usize::MAX).min(n);
                message.body.extend_from_slice(&self.pending[..n]);
                ended = left == n as u64;
            }
            Framing::UntilClose => message.body.extend_from_slice(&self.pending),
            Framing::Chunked => {
                let [as_data, as_chunks] = &mut **coded;
                let (mut data, mut same) = (self.pending.clone(), self.pending.clone());
                let step = as_data.step(&mut data, Output::Data);
                let other = as_chunks.step(&mut same, Output::Chunks);
                assert_eq!(step.is_ok(), other.is_ok());
                let (Ok(step), Ok(other)) = (step, other) else {
                    self.bad = Some(End::BadBody);
                    return false;
                };
                assert_eq!(
                    (step.used, step.data, step.ended),
                    (other.used, other.data, other.ended)
                );
                assert_eq!(step.passed as u64, step.data);
                message.body.extend_from_slice(&data[..step.passed]);
                chunks.extend_from_slice(&same[..other.passed]);
                (n, ended) = (step.used, step.ended);
                if ended {
                    message.trailers = pairs(as_data.trailers().fields());
                    assert_same_again(chunks, &message.body);
                }
            }
        }
        self.consume(n);
        if let Some((mut message, ..)) = self.current.take_if(|_| ended) {
            message.end = self.used;
            self.messages.push(message);
        }
        ended
    }
}

fn is_interim(line: &str) -> bool {
    line.starts_with('1') && !line.starts_with("101")
}

fn pairs(fields: Fields<'_>) -> Vec<(String, Vec<u8>)> {
    let name = |name: &[u8]| String::from_utf8_lossy(name).to_ascii_lowercase();
    fields.iter().map(|field| (name(field.name), field.value.to_vec())).collect()
}

/// Nothing in it may end a line, or be trimmed away by somebody else.
fn message(line: String, fields: Fields<'_>, kept: bool) -> Message {
    assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
    for field in fields.iter() {
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        assert!(!field.name.is_empty() && field.name.iter().all(token), "{field:?}");
        let text = |b: &u8| *b == b'\t' || *b >= b' ' && *b != 0x7f;
        assert!(field.value.iter().all(text), "{field:?}");
        assert_eq!(field.value.trim_ascii(), field.value);
    }
    Message { line, fields: pairs(fields), kept, ..Message::default() }
}

/// Chunks that are passed on mean what they meant, and have nothing left that could be argued about.
fn assert_same_again(chunks: &[u8], body: &[u8]) {
    let mut again = [chunks, b"\r\n"].concat();
    let step = Chunked::default().step(&mut again, Output::Data).expect("they were right before");
    assert!(step.ended && step.used == again.len());
    assert_eq!(&again[..step.passed], body);
    let rest = chunks.iter().filter(|byte| **byte == b';').count();
    assert!(
        rest <= body.iter().filter(|byte| **byte == b';').count(),
        "an extension was passed on"
    );
}

/// The first two bytes say where the rest is cut.
fn in_pieces(data: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let (cuts, stream) = data.split_at(data.len().min(2));
    let mut at: Vec<usize> =
        cuts.iter().map(|&cut| usize::from(cut) * (stream.len() + 1) / 256).collect();
    at.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for cut in at.into_iter().chain([stream.len()]) {
        pieces.push(&stream[from..cut]);
        from = cut;
    }
    (stream, pieces)
}

/// However a stream is cut, it is understood in one way.
fn assert_cut_alike(role: Role, data: &[u8]) {
    let (stream, pieces) = in_pieces(data);
    assert_eq!(read(role, &[stream]), read(role, &pieces));
}

/// Fuzz target: requests, one after the other.
pub fn requests(data: &[u8]) {
    assert_cut_alike(Role::Server, data);
}

/// Fuzz target: an answer, with what goes before it.
pub fn answers(data: &[u8]) {
    assert_cut_alike(Role::Client { to_head: false }, data);
    assert_cut_alike(Role::Client { to_head: true }, data);
}

/// Fuzz target: a chunked body.
pub fn chunked(data: &[u8]) {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (stream, pieces) = in_pieces(data);
    let whole = read(Role::Server, &[&[HEAD, stream].concat()]);
    let cut = read(Role::Server, &[&[HEAD], &pieces[..]].concat());
    assert_eq!(whole, cut);
}

/// Fuzz target: what begins with a PROXY header, or not.
pub fn proxy(data: &[u8]) {
    let (stream, pieces) = in_pieces(data);
    let whole = proxy::parse(stream);
    let mut cut = 0;
    for piece in &pieces {
        cut += piece.len();
        match (proxy::parse(&stream[..cut]), &whole) {
            (Ok(proxy::Step::More(least)), whole) => {
                assert!(least > cut);
                if let Ok(proxy::Step::Whole(_, end)) = whole {
                    assert!(least <= *end);
                }
            }
            (settled, whole @ Ok(_)) => assert_eq!(&settled, whole),
            (settled, Err(_)) => assert!(settled.is_err()),
        }
    }
    let Ok(proxy::Step::Whole(header, end)) = whole else { return };
    assert!(end <= stream.len() && end <= proxy::MOST_BYTES);
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let again = proxy::write(version, &header);
        let Ok(proxy::Step::Whole(_, length)) = proxy::parse(&again) else {
            // What it said is said again, but for a checksum, which held for the header that it was in.
            assert!(header.tlvs.get(proxy::Kind::Crc32c).is_some());
            continue;
        };
        assert_eq!(length, again.len());
    }
}

/// Fuzz target: what begins with a ClientHello, or not.
pub fn hello(data: &[u8]) {
    let (stream, pieces) = in_pieces(data);
    let mut cut = 0;
    let mut settled = None;
    for piece in &pieces {
        cut += piece.len();
        let step = sni::read(&stream[..cut]);
        match &settled {
            Some(before) => assert_eq!(&step, before),
            None if step == Ok(sni::Step::NeedMore) => {}
            None => settled = Some(step),
        }
    }
    let Some(Ok(sni::Step::Hello(hello))) = settled else { return };
    if let Some(name) = hello.server_name {
        assert!(!name.is_empty() && name == name.to_ascii_lowercase() && !name.ends_with('.'));
    }
}
