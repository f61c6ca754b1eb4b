//! A body on its way in: bytes off a connection, as much of them as belongs to the message, and in the
//! form in which they go on.
//!
//! Holds no buffer: what was read and belongs to the next message stays with the connection.

use std::task::{Context, Poll, ready};

use tokio::io::AsyncRead;

use super::chunked::{BadChunk, Chunked, Output, Step};
use crate::forward::buffer::Buffer;
use crate::forward::buffers::Buffers;
use crate::forward::http::head::Framing;
use crate::route::fields::Store;

/// What becomes of a chunked body's trailers and framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Chunks stay chunks, trailers go on.
    Chunks,
    /// Chunks stay chunks, trailers do not go on: the reader has not said that it takes them.
    ChunksOnly,
    /// The data alone; trailers are there to be asked for.
    Data,
}

/// Why a body cannot be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The connection ended too soon.
    Short,
    /// The chunked coding is wrong.
    Coding,
    /// More data than is allowed.
    TooLarge,
}

impl From<BadChunk> for Broken {
    fn from(_: BadChunk) -> Broken {
        Broken::Coding
    }
}

/// The reader of one body.
#[derive(Debug)]
pub struct Body {
    state: State,
    form: Form,
    /// The most data that may come.
    left_allowed: u64,
}

#[derive(Debug)]
enum State {
    /// So many bytes are still to come; more than 0.
    Length(u64),
    Chunked(Box<Chunked>),
    UntilClose,
    Ended(Option<Box<Chunked>>),
}

impl Body {
    /// `limit`: data bytes that are allowed, for a body that does not declare its length.
    pub fn new(framing: Framing, form: Form, limit: Option<u64>) -> Body {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended(None),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Box::default()),
            Framing::UntilClose => State::UntilClose,
        };
        Body { state, form, left_allowed: limit.unwrap_or(u64::MAX) }
    }

    /// There never was any.
    pub fn none() -> Body {
        Body::new(Framing::None, Form::Data, None)
    }

    /// Another form, before any of it was read.
    pub fn set_form(&mut self, form: Form) {
        self.form = form;
    }

    /// All of it has been read.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    /// Bytes that are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Ended(_) => Some(0),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// So many bytes of a known length went on by another way.
    pub fn passed(&mut self, n: u64) {
        if let State::Length(left) = &mut self.state {
            *left = left.saturating_sub(n);
            if *left == 0 {
                self.state = State::Ended(None);
            }
        }
    }

    /// The trailers of a chunked body that has ended; `None` if there are none.
    pub fn trailers(&self) -> Option<Store> {
        match &self.state {
            State::Ended(Some(chunked)) => Some(chunked.trailers()),
            _ => None,
        }
    }

    /// The next piece; `None` at the end. `input` is what the connection has read and not used yet;
    /// `heard` is told of every read.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        input: &mut Option<Buffer>,
        home: &Buffers,
        heard: impl Fn(usize),
    ) -> Poll<Result<Option<Buffer>, Broken>> {
        while !self.is_ended() {
            let mut piece = match input.take() {
                Some(input) => input,
                None => {
                    let mut buffer = Buffer::borrow(home);
                    let n = ready!(buffer.poll_fill(cx, from)).map_err(|_| Broken::Short)?;
                    heard(n);
                    if n == 0 {
                        if !matches!(self.state, State::UntilClose) {
                            return Poll::Ready(Err(Broken::Short));
                        }
                        self.state = State::Ended(None);
                        break;
                    }
                    buffer
                }
            };
            *input = self.take(&mut piece)?;
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece)));
            }
        }
        Poll::Ready(Ok(None))
    }

    /// Makes of what was read the next piece, and gives back what is not this body's.
    fn take(&mut self, piece: &mut Buffer) -> Result<Option<Buffer>, Broken> {
        let (data, rest) = match &mut self.state {
            State::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                let rest = piece.split_off(n);
                self.passed(n as u64);
                (n as u64, rest)
            }
            State::UntilClose => (piece.len() as u64, None),
            State::Ended(_) => (0, piece.split_off(0)),
            State::Chunked(chunked) => {
                let output = if self.form == Form::Data { Output::Data } else { Output::Chunks };
                let Step { used, passed, data, ended } = chunked.step(piece.data_mut(), output)?;
                let rest = piece.split_off(used);
                piece.truncate(passed);
                if ended {
                    self.end_chunks(piece);
                }
                (data, rest)
            }
        };
        self.left_allowed = self.left_allowed.checked_sub(data).ok_or(Broken::TooLarge)?;
        Ok(rest)
    }

    fn end_chunks(&mut self, piece: &mut Buffer) {
        let State::Chunked(chunked) = std::mem::replace(&mut self.state, State::Ended(None)) else {
            return;
        };
        if self.form == Form::Chunks && chunked.has_trailers() {
            for field in chunked.trailers().fields().iter() {
                super::write::field(piece, field.name, field.value);
            }
        }
        if self.form != Form::Data {
            piece.extend(b"\r\n");
        } else if chunked.has_trailers() {
            self.state = State::Ended(Some(chunked));
        }
    }
}
