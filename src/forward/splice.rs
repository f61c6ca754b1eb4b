//! Bulk from socket to socket inside the kernel: splice(2) through a pipe of the worker's.
//!
//! For both TCP streams and HTTP bodies of a known length: `Splice` moves one direction between two
//! plain sockets, takes no byte more than it is told to, and holds a pipe only while bytes are in
//! it. Whether a direction is worth it, and all copying, is for who calls. Whenever `Splice` stops,
//! nothing is in its pipe, so copying can go on where it stopped.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::Interest;

use crate::lifecycle::status::Status;
use crate::listen::Plain;
use crate::sys::pipe::{Pipe, is_unsupported};

/// What a pipe holds, and so what one call moves at the most.
pub const PIPE_BYTES: usize = 256 * 1024;

/// What is moved in one poll before others have their turn.
const BYTES_PER_POLL: usize = 1024 * 1024;

/// How long no pipe is asked for after the kernel refused one.
const AFTER_A_REFUSAL: Duration = Duration::from_secs(1);

/// The log hears of refusals so often.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// A worker's pipes; clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct Pipes(Rc<Pool>);

#[derive(Debug)]
struct Pool {
    /// Pipes there may be, lent and at rest.
    most: usize,
    made: Cell<usize>,
    /// Empty ones that nobody holds.
    at_rest: RefCell<Vec<Pipe>>,
    /// When the kernel last refused one.
    refused: Cell<Option<Instant>>,
    logged: Cell<Option<Instant>>,
    status: Arc<Status>,
}

impl Pipes {
    /// For `most` pipes at a time. Refusals are counted in `status`.
    pub fn new(most: usize, status: Arc<Status>) -> Pipes {
        Pipes(Rc::new(Pool {
            most,
            made: Cell::default(),
            at_rest: RefCell::default(),
            refused: Cell::default(),
            logged: Cell::default(),
            status,
        }))
    }

    /// An empty pipe; `None`, counted, if there is none to be had.
    fn borrow(&self) -> Option<Lent> {
        let pool = &self.0;
        let at_rest = pool.at_rest.borrow_mut().pop();
        let pipe = at_rest.or_else(|| self.make().map_err(|why| self.refuse(&why)).ok())?;
        Some(Lent { pipe: Some(pipe), filled: 0, pipes: self.clone() })
    }

    fn make(&self) -> Result<Pipe, String> {
        let pool = &self.0;
        if pool.made.get() >= pool.most {
            return Err(format!("all {} of this worker's pipes hold bytes", pool.most));
        }
        if pool.refused.get().is_some_and(|when| when.elapsed() < AFTER_A_REFUSAL) {
            return Err("the kernel refused one a moment ago".into());
        }
        let pipe = Pipe::new(PIPE_BYTES).map_err(|error| {
            pool.refused.set(Some(Instant::now()));
            format!("the kernel refused one: {error}")
        })?;
        pool.made.set(pool.made.get() + 1);
        Ok(pipe)
    }

    fn refuse(&self, why: &str) {
        self.0.status.limits.count_pipes();
        if self.0.logged.get().is_none_or(|when| when.elapsed() >= BETWEEN_LINES) {
            self.0.logged.set(Some(Instant::now()));
            tracing::warn!(
                why,
                "no pipe for a stream in bulk; it is copied, at a higher cost (see \
                 evenkeel_limit_hits_total{{limit=\"pipes\"}}, fs.pipe-user-pages-soft)"
            );
        }
    }

    /// Pipes that nobody holds, and all there are.
    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize) {
        (self.0.at_rest.borrow().len(), self.0.made.get())
    }
}

/// A pipe while somebody uses it. Goes back to the pool when it is empty; bytes of a broken stream
/// go with their pipe.
#[derive(Debug)]
struct Lent {
    /// Taken by `drop` alone.
    pipe: Option<Pipe>,
    filled: usize,
    pipes: Pipes,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let pool = &self.pipes.0;
        match self.pipe.take() {
            Some(pipe) if self.filled == 0 => pool.at_rest.borrow_mut().push(pipe),
            _ => pool.made.set(pool.made.get() - 1),
        }
    }
}

/// Which end of a direction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    From,
    To,
}

/// Why nothing more is spliced for now. The pipe is empty in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As many bytes as there were to take have been written.
    Whole,
    /// The source has ended.
    Ended,
    /// The source seems to be empty. Only a read that says so too may clear its readiness: splice
    /// gives the same EAGAIN for urgent data (RFC 9293 3.8.5) and for want of memory, and a stream
    /// that waited then would wait for ever. Read; what comes is to be copied.
    Dry,
    /// There is no pipe, or the kernel cannot splice these two: copy instead.
    Refused,
}

/// One direction's bulk.
#[derive(Debug)]
pub struct Splice {
    pipes: Pipes,
    lent: Option<Lent>,
}

impl Splice {
    pub fn new(pipes: Pipes) -> Splice {
        Splice { pipes, lent: None }
    }

    /// Whether bytes were taken from the source that have not been written yet.
    pub fn holds_bytes(&self) -> bool {
        self.lent.is_some()
    }

    /// Moves bytes until it stops, fails or has to wait. `left` is how many are still to be written
    /// (`u64::MAX`: all that come), and counts down with each that is, also while this is pending;
    /// no more than that are taken from the source.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: Plain<'_>,
        to: Plain<'_>,
        left: &mut u64,
    ) -> Poll<Result<Stop, Broken>> {
        let polled = self.run(cx, from, to, left);
        // An idle direction holds no pipe.
        self.lent.take_if(|lent| lent.filled == 0);
        polled
    }

    fn run(
        &mut self,
        cx: &mut Context<'_>,
        from: Plain<'_>,
        to: Plain<'_>,
        left: &mut u64,
    ) -> Poll<Result<Stop, Broken>> {
        let mut taken = 0;
        loop {
            if let Some(lent) = &mut self.lent {
                ready!(lent.drain(cx, to, left))?;
            }
            if *left == 0 {
                return Poll::Ready(Ok(Stop::Whole));
            }
            if taken >= BYTES_PER_POLL {
                // The runtime does not count what is spliced, so others would never have a turn.
                let _ = pin!(tokio::task::yield_now()).as_mut().poll(cx);
                return Poll::Pending;
            }
            ready!(from.poll_read_ready(cx)).map_err(|_| Broken::From)?;
            if self.lent.is_none() {
                self.lent = self.pipes.borrow();
            }
            let Some(lent) = &mut self.lent else { return Poll::Ready(Ok(Stop::Refused)) };
            match lent.fill(from, *left) {
                Ok(Some(0)) => return Poll::Ready(Ok(Stop::Ended)),
                Ok(Some(n)) => taken += n,
                Ok(None) => return Poll::Ready(Ok(Stop::Dry)),
                Err(error) if is_unsupported(&error) => {
                    return Poll::Ready(Ok(Stop::Refused));
                }
                Err(_) => return Poll::Ready(Err(Broken::From)),
            }
        }
    }
}

impl Lent {
    /// Takes what the source has into the empty pipe; 0 at its end, `None` if there seems to be
    /// nothing, which does not clear the source's readiness.
    fn fill(&mut self, from: Plain<'_>, left: u64) -> io::Result<Option<usize>> {
        let Some(pipe) = &self.pipe else { return Ok(None) };
        let most = left.min(PIPE_BYTES as u64) as usize;
        let filled = from.try_io(Interest::READABLE, |fd| match pipe.fill(fd, most) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        })?;
        self.filled = filled.unwrap_or(0);
        Ok(filled)
    }

    /// Writes what is in the pipe. Only the socket's own EAGAIN, which it gives while the pipe still
    /// has bytes, clears its readiness: a call that moved less may just have met a signal.
    fn drain(
        &mut self,
        cx: &mut Context<'_>,
        to: Plain<'_>,
        left: &mut u64,
    ) -> Poll<Result<(), Broken>> {
        while let Some(pipe) = &self.pipe
            && self.filled > 0
        {
            ready!(to.poll_write_ready(cx)).map_err(|_| Broken::To)?;
            match to.try_io(Interest::WRITABLE, |fd| pipe.drain(fd, self.filled)) {
                // Zero: the bytes are gone from the pipe, and the stream would have a hole.
                Ok(0) => return Poll::Ready(Err(Broken::To)),
                Ok(n) => {
                    self.filled -= n;
                    *left -= n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Err(Broken::To)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::ErrorKind;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    fn pipes(most: usize) -> (Pipes, Arc<Status>) {
        let status = Arc::new(Status::new(1, 0));
        (Pipes::new(most, status.clone()), status)
    }

    /// Splices until it stops for something else than that the source is dry.
    async fn run(
        splice: &mut Splice,
        from: &TcpStream,
        to: Plain<'_>,
        left: &mut u64,
    ) -> Result<Stop, Broken> {
        loop {
            let stop = poll_fn(|cx| splice.poll(cx, Plain::Tcp(from), to, left)).await;
            if stop != Ok(Stop::Dry) {
                return stop;
            }
            match from.try_read(&mut []) {
                Ok(_) => from.readable().await.unwrap(),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_comes_after_a_message_stays_in_the_socket() {
        let (mut client, mut near) = pair().await;
        let (far, mut backend) = UnixStream::pair().unwrap();
        let (pipes, _) = pipes(1);
        let mut splice = Splice::new(pipes.clone());
        let body: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
        let sent = async {
            client.write_all(&body).await.unwrap();
            client.write_all(b"the next head").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let spliced = async {
            let mut left = body.len() as u64;
            let stop = run(&mut splice, &near, Plain::Unix(&far), &mut left).await;
            assert_eq!((stop, left), (Ok(Stop::Whole), 0));
            assert_eq!(pipes.counts(), (1, 1), "no pipe is held any more");
        };
        let mut got = vec![0; body.len()];
        let read = backend.read_exact(&mut got);
        tokio::join!(sent, spliced, async { read.await.unwrap() });
        assert!(got == body);
        let mut rest = String::new();
        near.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "the next head");
    }

    #[tokio::test]
    async fn a_source_that_ends_early_says_so() {
        let (mut client, near) = pair().await;
        let (far, mut backend) = UnixStream::pair().unwrap();
        client.write_all(b"half").await.unwrap();
        drop(client);
        let mut left = 8;
        let mut splice = Splice::new(pipes(1).0);
        let stop = run(&mut splice, &near, Plain::Unix(&far), &mut left).await;
        assert_eq!((stop, left), (Ok(Stop::Ended), 4));
        let mut got = [0; 4];
        backend.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"half");
    }

    #[tokio::test]
    async fn without_a_pipe_it_is_refused_and_counted() {
        let (mut client, near) = pair().await;
        let (far, _backend) = UnixStream::pair().unwrap();
        client.write_all(b"x").await.unwrap();
        let (pipes, status) = pipes(1);
        let mut left = u64::MAX;
        let lent = pipes.borrow().unwrap();
        let mut splice = Splice::new(pipes.clone());
        let stop = run(&mut splice, &near, Plain::Unix(&far), &mut left).await;
        assert_eq!((stop, left), (Ok(Stop::Refused), u64::MAX));
        assert_eq!(status.limits.pipes.load(std::sync::atomic::Ordering::Relaxed), 1);
        drop((lent, client));
        let stop = run(&mut splice, &near, Plain::Unix(&far), &mut left).await;
        assert_eq!((stop, left), (Ok(Stop::Ended), u64::MAX - 1));
        assert_eq!(pipes.counts(), (1, 1));
    }

    #[tokio::test]
    async fn a_pipe_with_a_broken_streams_bytes_is_never_lent_again() {
        for reset_source in [false, true] {
            let (mut client, near) = pair().await;
            let (far, backend) = pair().await;
            let (pipes, _) = pipes(1);
            let mut splice = Splice::new(pipes.clone());
            let mut left = u64::MAX;
            // Nobody reads, so that in the end bytes stay in the pipe.
            let sent = async {
                let block = vec![b'x'; 1 << 20];
                while client.write_all(&block).await.is_ok() {}
            };
            let mut sent = Box::pin(sent);
            poll_fn(|cx| {
                let _ = sent.as_mut().poll(cx);
                let polled = splice.poll(cx, Plain::Tcp(&near), Plain::Tcp(&far), &mut left);
                match polled {
                    Poll::Pending if splice.holds_bytes() => return Poll::Ready(()),
                    Poll::Ready(stop) => assert_eq!(stop, Ok(Stop::Dry)),
                    Poll::Pending => {}
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            assert_eq!(pipes.counts(), (0, 1));
            drop(sent);
            let broken = if reset_source { client } else { backend };
            SockRef::from(&broken).set_linger(Some(Duration::ZERO)).unwrap();
            drop(broken);
            if !reset_source {
                let stop = run(&mut splice, &near, Plain::Tcp(&far), &mut left).await;
                assert_eq!(stop, Err(Broken::To));
            }
            drop(splice);
            assert_eq!(pipes.counts(), (0, 0));
        }
    }

    #[tokio::test]
    async fn others_have_their_turn() {
        const SIZE: u64 = 64 << 20;
        let (client, near) = pair().await;
        let (far, backend) = pair().await;
        let blocking = |stream: TcpStream| {
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream
        };
        let (mut client, mut backend) = (blocking(client), blocking(backend));
        let sender = std::thread::spawn(move || {
            let block = vec![b'x'; 1 << 20];
            for _ in 0..SIZE >> 20 {
                io::Write::write_all(&mut client, &block).unwrap();
            }
            client
        });
        let taker = std::thread::spawn(move || io::copy(&mut backend, &mut io::sink()).unwrap());
        let mut splice = Splice::new(pipes(1).0);
        let mut left = SIZE;
        while left > 0 {
            let before = left;
            let stop = poll_fn(|cx| {
                // One poll, ready or not.
                Poll::Ready(splice.poll(cx, Plain::Tcp(&near), Plain::Tcp(&far), &mut left))
            })
            .await;
            assert!(before - left <= (BYTES_PER_POLL + PIPE_BYTES) as u64, "{}", before - left);
            assert!(!matches!(stop, Poll::Ready(Err(_) | Ok(Stop::Ended | Stop::Refused))));
            tokio::task::yield_now().await;
        }
        drop(far);
        assert_eq!(taker.join().unwrap(), SIZE);
        sender.join().unwrap();
    }
}
