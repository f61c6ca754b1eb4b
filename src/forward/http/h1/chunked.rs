//! Reads the chunked coding (RFC 9112 7.1) strictly, in place, wherever the stream happens to be cut.
//!
//! Bytes go in, and the same buffer comes back with what is to be passed on: the chunks as they came
//! but without their extensions, or the bare data. Trailers are held until they are whole. Pure.

use httparse::{EMPTY_HEADER, Status};

use super::parse::LONGEST;
use crate::route::fields::{Known, Store};

/// Bytes of extensions that one body may have; nobody reads them, and nobody is to send them for ever.
const EXTENSION_BYTES: usize = 16 * 1024;

/// Digits of a chunk's size: 64 bits, of which one is left out for whoever takes it for a sign.
const DIGITS: u8 = 16;

/// Bytes and fields of a trailer section.
const TRAILER_BYTES: usize = 16 * 1024;
const TRAILERS: usize = 64;

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Chunks, and what follows the last of them.
    Chunks,
    /// The data alone.
    Data,
}

/// The coding was broken: nothing more of this stream can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

/// How far one step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes that were used of those that went in.
    pub used: usize,
    /// Bytes at the start of the buffer that are to be passed on.
    pub passed: usize,
    /// Of them (and of what was left out) so many were data.
    pub data: u64,
    /// The body has ended with this step; `used` may be less than what went in.
    pub ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the size, after so many digits.
    Size {
        value: u64,
        digits: u8,
    },
    Extension(Ext),
    /// The LF that ends the size's line.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Ended,
}

/// RFC 9112 7.1.1: `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ext {
    /// White space before a semicolon.
    Before,
    /// After a semicolon: the name must come.
    Start,
    Name,
    /// White space after a name: an equals sign, or the next semicolon.
    AfterName,
    /// After an equals sign: the value must come.
    Equals,
    Token,
    Quoted,
    /// After a backslash in a quoted value.
    Escaped,
    /// After a value: only a semicolon or the end.
    AfterValue,
}

/// The reader of one body.
#[derive(Debug)]
pub struct Chunked {
    state: State,
    /// Bytes of the current chunk's data that are still to come.
    left: u64,
    extension: usize,
    /// The trailer section as far as it has come.
    trailers: Vec<u8>,
}

impl Default for Chunked {
    fn default() -> Chunked {
        let state = State::Size { value: 0, digits: 0 };
        Chunked { state, left: 0, extension: 0, trailers: Vec::new() }
    }
}

impl Chunked {
    /// Reads on. With `Output::Chunks` the trailer section is left out: the last bytes passed on are
    /// `0 CRLF`, and the caller ends the message with [`Chunked::trailers`] or without.
    pub fn step(&mut self, bytes: &mut [u8], output: Output) -> Result<Step, BadChunk> {
        let keep_framing = output == Output::Chunks;
        let (mut at, mut to) = (0, 0);
        let mut data = 0;
        while at < bytes.len() && self.state != State::Ended {
            if self.state == State::Data {
                let rest = (bytes.len() - at) as u64;
                // Not more than what is there, which is a usize.
                let n = self.left.min(rest) as usize;
                pass(bytes, &mut to, at, n);
                at += n;
                data += n as u64;
                self.left -= n as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                continue;
            }
            let byte = bytes[at];
            let keep = self.byte(byte)?;
            if keep && keep_framing {
                pass(bytes, &mut to, at, 1);
            }
            at += 1;
        }
        Ok(Step { used: at, passed: to, data, ended: self.state == State::Ended })
    }

    /// Takes one byte of framing; whether it is passed on with the chunks.
    fn byte(&mut self, byte: u8) -> Result<bool, BadChunk> {
        let keep = match self.state {
            State::Size { value, digits } => {
                if let Some(digit) = char::from(byte).to_digit(16) {
                    if digits == DIGITS {
                        return Err(BadChunk);
                    }
                    let value = value << 4 | u64::from(digit);
                    self.state = State::Size { value, digits: digits + 1 };
                    return Ok(true);
                }
                if digits == 0 || value > LONGEST {
                    return Err(BadChunk);
                }
                self.left = value;
                self.state = match byte {
                    b'\r' => State::SizeLf,
                    b';' => State::Extension(Ext::Start),
                    b' ' | b'\t' => State::Extension(Ext::Before),
                    _ => return Err(BadChunk),
                };
                byte == b'\r'
            }
            State::Extension(ext) => {
                self.extension += 1;
                if self.extension > EXTENSION_BYTES {
                    return Err(BadChunk);
                }
                self.state = match ext.next(byte) {
                    Some(next) => State::Extension(next),
                    None if byte == b'\r' && ext.may_end() => State::SizeLf,
                    None => return Err(BadChunk),
                };
                self.state == State::SizeLf
            }
            State::SizeLf if byte == b'\n' => {
                self.state = if self.left == 0 { State::Trailers } else { State::Data };
                true
            }
            State::DataCr if byte == b'\r' => {
                self.state = State::DataLf;
                true
            }
            State::DataLf if byte == b'\n' => {
                self.state = State::Size { value: 0, digits: 0 };
                true
            }
            State::Trailers => {
                self.trailer_byte(byte)?;
                false
            }
            State::SizeLf | State::DataCr | State::DataLf | State::Data | State::Ended => {
                return Err(BadChunk);
            }
        };
        Ok(keep)
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), BadChunk> {
        // Every LF has its CR, as in a head; httparse sees to the rest once all is there.
        if byte == b'\n' && self.trailers.last() != Some(&b'\r')
            || self.trailers.len() == TRAILER_BYTES
        {
            return Err(BadChunk);
        }
        self.trailers.push(byte);
        if self.trailers.ends_with(b"\r\n\r\n") || self.trailers == b"\r\n" {
            self.state = State::Ended;
            if self.trailers.len() == 2 {
                self.trailers.clear();
            } else {
                self.check_trailers()?;
            }
        }
        Ok(())
    }

    fn check_trailers(&mut self) -> Result<(), BadChunk> {
        let mut fields = [EMPTY_HEADER; TRAILERS];
        match httparse::parse_headers(&self.trailers, &mut fields) {
            Ok(Status::Complete((length, _))) if length == self.trailers.len() => Ok(()),
            _ => Err(BadChunk),
        }
    }

    /// The trailers of a body that has ended, without those that must not be one: they would change how
    /// the message before them is framed, routed or judged (RFC 9110 6.5.1).
    pub fn trailers(&self) -> Store {
        let mut store = Store::default();
        let mut fields = [EMPTY_HEADER; TRAILERS];
        if let Ok(Status::Complete((_, fields))) =
            httparse::parse_headers(&self.trailers, &mut fields)
        {
            let may = fields.iter().filter(|field| is_trailer(field.name.as_bytes()));
            may.for_each(|field| store.push(field.name.as_bytes(), field.value));
        }
        store
    }

    pub fn has_trailers(&self) -> bool {
        !self.trailers.is_empty()
    }
}

/// Moves `n` bytes from `at` to the end of what is passed on; nothing if they stand there already.
fn pass(bytes: &mut [u8], to: &mut usize, at: usize, n: usize) {
    if *to != at {
        bytes.copy_within(at..at + n, *to);
    }
    *to += n;
}

/// Whether a field may stand in a trailer section.
pub fn is_trailer(name: &[u8]) -> bool {
    const NEVER: [&str; 8] = [
        "authorization",
        "set-cookie",
        "content-encoding",
        "content-type",
        "content-range",
        "cache-control",
        "max-forwards",
        "proxy-authorization",
    ];
    Known::of(name) == Known::Other
        && !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}

impl Ext {
    /// `None` if `byte` cannot follow within an extension.
    fn next(self, byte: u8) -> Option<Ext> {
        Some(match (self, byte) {
            (Ext::Before | Ext::AfterValue, b' ' | b'\t') => self,
            (Ext::Start | Ext::Equals, b' ' | b'\t') => self,
            (Ext::Name | Ext::AfterName, b' ' | b'\t') => Ext::AfterName,
            (Ext::Token, b' ' | b'\t') => Ext::AfterValue,
            (Ext::Before | Ext::Name | Ext::AfterName | Ext::Token | Ext::AfterValue, b';') => {
                Ext::Start
            }
            (Ext::Name | Ext::AfterName, b'=') => Ext::Equals,
            (Ext::Equals, b'"') => Ext::Quoted,
            (Ext::Quoted, b'"') => Ext::AfterValue,
            (Ext::Quoted, b'\\') => Ext::Escaped,
            (Ext::Quoted | Ext::Escaped, b'\t' | 0x20..=0x7e | 0x80..) => Ext::Quoted,
            (Ext::Start | Ext::Name, _) if is_token(byte) => Ext::Name,
            (Ext::Equals | Ext::Token, _) if is_token(byte) => Ext::Token,
            _ => return None,
        })
    }

    /// Whether the line may end here. White space alone is no extension.
    fn may_end(self) -> bool {
        matches!(self, Ext::Name | Ext::Token | Ext::AfterValue)
    }
}

/// RFC 9110 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces that end at these places; what was passed on, the trailers, and how much
    /// was used.
    fn read(
        text: &str,
        cuts: &[usize],
        output: Output,
    ) -> Result<(String, String, usize), BadChunk> {
        let mut chunked = Chunked::default();
        let (mut passed, mut used) = (Vec::new(), 0);
        for cut in cuts.iter().copied().chain([text.len()]) {
            let mut piece = text.as_bytes()[used..cut].to_vec();
            let step = chunked.step(&mut piece, output)?;
            passed.extend_from_slice(&piece[..step.passed]);
            used += step.used;
            if step.ended {
                let trailers = format!("{:?}", chunked.trailers().fields());
                return Ok((String::from_utf8(passed).unwrap(), trailers, used));
            }
        }
        Ok((String::from_utf8(passed).unwrap(), "unfinished".into(), used))
    }

    #[test]
    fn wherever_it_is_cut_the_same_comes_out() {
        for (text, chunks, data, trailers) in [
            ("0\r\n\r\n", "0\r\n", "", "[]"),
            ("5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n", "hello", "[]"),
            ("00A\r\n0123456789\r\n0\r\n\r\n", "00A\r\n0123456789\r\n0\r\n", "0123456789", "[]"),
            (
                "1;a\r\nx\r\n1;a=b;c=\"d\\\" \"\r\ny\r\n0\r\n\r\n",
                "1\r\nx\r\n1\r\ny\r\n0\r\n",
                "xy",
                "[]",
            ),
            ("1 ; a = b ;c\r\nx\r\n0;z\r\n\r\n", "1\r\nx\r\n0\r\n", "x", "[]"),
            (
                "1\r\nx\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nx-b: c\r\n\r\n",
                "1\r\nx\r\n0\r\n",
                "x",
                "[X-Sum: 1, x-b: c]",
            ),
        ] {
            let more = format!("{text}GET / HTTP/1.1\r\n");
            for first in 0..text.len() {
                for second in [first, (first + 1).min(text.len()), text.len()] {
                    for (output, expected) in [(Output::Chunks, chunks), (Output::Data, data)] {
                        let (passed, found, used) = read(&more, &[first, second], output).unwrap();
                        assert_eq!(passed, expected, "{text:?} cut at {first} and {second}");
                        assert_eq!((found.as_str(), used), (trailers, text.len()), "{text:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_the_coding_is_refused_wherever_it_is_cut() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(EXTENSION_BYTES + 1));
        let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(TRAILERS + 1));
        for text in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\nx\r\n",
            "1\nx\r\n0\r\n\r\n",
            "1\rx",
            "1 \r\nx\r\n",
            " 1\r\nx\r\n",
            "1;\r\nx\r\n",
            "1;=b\r\nx\r\n",
            "1;a=\r\nx\r\n",
            "1;a=\"\r\n",
            "1;a=\"b\nc\"\r\n",
            "1;a\n\r\nx\r\n",
            "1;a\0\r\nx\r\n",
            "1,a\r\nx\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n0\r\n\r\n",
            "1\r\nx0\r\n\r\n",
            "00000000000000001\r\nx\r\n0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "8000000000000000\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\n X: y\r\n\r\n",
            "0\r\nX: y\r\n z\r\n\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\n\n",
            &long,
            &many,
        ] {
            for cut in 0..text.len().min(100) {
                let found = read(text, &[cut], Output::Chunks);
                assert!(found.is_err(), "{text:?} cut at {cut}: {found:?}");
            }
        }
    }

    #[test]
    fn a_body_that_has_not_ended_is_no_whole_one() {
        for text in ["5", "5\r\nhell", "5\r\nhello\r\n", "0\r\n", "0\r\n\r", "0\r\nX: y\r\n"] {
            assert_eq!(read(text, &[], Output::Data).unwrap().1, "unfinished", "{text:?}");
        }
    }
}
