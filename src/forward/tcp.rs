//! Relays a TCP stream both ways: half-close kept, RST passed on as RST, no buffer held while idle.
//!
//! Over TLS an end without close_notify may be anybody's who stands in between (RFC 8446 6.1): what came
//! before it is delivered, and then the other side learns that the stream was broken off.
//!
//! A direction copies, through a buffer of its worker that it borrows for the length of one read and
//! write; only what the other side would not take yet stays with it. Once it runs in bulk it goes
//! through `splice` instead, and back when it grows quiet.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::Buffers;
use super::splice::{Broken, Pipes, Splice, Stop};
use crate::listen::Socket;
use crate::timer::{Deadline, TICK};

/// From about here on a wake-up's bytes cost less when they are spliced than copied.
const LARGE_BYTES: usize = 32 * 1024;

/// Large reads in a row that make a direction one in bulk.
const LARGE_READS: u32 = 2;

/// The same after a direction was refused a pipe: it does not ask all the time.
const AFTER_A_REFUSAL: u32 = 64;

/// A wake-up that brings less than this in bulk is a lull.
const LULL_BYTES: u64 = 16 * 1024;

/// Lulls in a row that make a direction quiet again.
const LULLS: u32 = 4;

/// How a relayed stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed; the backend may have done so without close_notify, after all the client's.
    Finished,
    /// It ended without close_notify.
    ClientBroke,
    BackendBroke,
    ClientReset,
    BackendReset,
    /// Neither side sent anything for the idle time.
    Idle,
    /// It was ordered to end.
    Cut,
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToBackend,
    ToClient,
}

/// Relays until both directions have ended or one failed. `deadline` is this function's while it
/// runs; `count` hears of all bytes that were written.
pub async fn relay<C, B>(
    client: &mut C,
    backend: &mut B,
    buffers: &Buffers,
    pipes: &Pipes,
    deadline: &Deadline,
    idle: Duration,
    mut count: impl FnMut(Way, u64),
) -> End
where
    C: AsyncRead + AsyncWrite + Socket + Unpin,
    B: AsyncRead + AsyncWrite + Socket + Unpin,
{
    let mut up = Direction::new(backend.is_delivered().is_some());
    let mut down = Direction::new(client.is_delivered().is_some());
    deadline.set(idle);
    let end = poll_fn(|cx| {
        let up_before = up.written();
        let down_before = down.written();
        let up_done = up.poll(cx, client, backend, buffers, pipes);
        let down_done = down.poll(cx, backend, client, buffers, pipes);
        let (sent, received) = (up.written() - up_before, down.written() - down_before);
        if sent > 0 {
            count(Way::ToBackend, sent);
        }
        if received > 0 {
            count(Way::ToClient, received);
        }
        if sent + received > 0 {
            deadline.set(idle);
        }
        match (up_done, down_done) {
            (Poll::Ready(Ok(())), _) if up.broke => Poll::Ready(End::ClientBroke),
            (up_done, Poll::Ready(Ok(()))) if down.broke => Poll::Ready(match up_done {
                Poll::Ready(Ok(())) => End::Finished,
                Poll::Ready(Err(_)) | Poll::Pending => End::BackendBroke,
            }),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            (Poll::Ready(Err(broken)), _) => Poll::Ready(match broken {
                Broken::From => End::ClientReset,
                Broken::To => End::BackendReset,
            }),
            (_, Poll::Ready(Err(broken))) => Poll::Ready(match broken {
                Broken::From => End::BackendReset,
                Broken::To => End::ClientReset,
            }),
            _ => deadline.poll(cx).map(|()| if deadline.is_cut() { End::Cut } else { End::Idle }),
        }
    })
    .await;
    match end {
        // A side that was reset means the other one's stream is not whole either: RST, not FIN, says so.
        End::ClientReset | End::BackendReset | End::Cut => {
            backend.reset_on_close();
            client.reset_on_close();
        }
        // No byte that came before is to be lost to a reset.
        End::ClientBroke => delivered(backend, deadline, idle).await,
        End::BackendBroke | End::Finished if down.broke => delivered(client, deadline, idle).await,
        End::BackendBroke | End::Finished | End::Idle => {}
    }
    if up.broke || down.broke {
        backend.break_off();
        client.break_off();
    }
    end
}

/// Waits until this side has what was written to it, or has not taken it for the idle time.
async fn delivered(side: &impl Socket, deadline: &Deadline, idle: Duration) {
    let until = deadline.tick_after(idle);
    while side.is_delivered() == Some(false) && !deadline.is_past(until) && !deadline.is_cut() {
        // Nobody tells when a queue has run empty.
        let _ = deadline.within(TICK, pending::<()>()).await;
    }
}

/// One way of a stream.
struct Direction {
    /// What was read and not yet written: the buffer, from where, up to where.
    pending: Option<(Box<[u8]>, usize, usize)>,
    /// What may still be written: everything, as a stream does not say how long it is.
    left: u64,
    pace: Pace,
    ended: bool,
    /// The other side can be broken off; else every end is one in order.
    breaks: bool,
    /// It ended otherwise than TLS does, and is to end so on the other side.
    broke: bool,
    shut: bool,
}

/// How a direction's bytes are moved.
enum Pace {
    /// Copied, until so many large reads more have come in a row.
    Quiet { large_reads: u32 },
    /// Spliced. `dry`: but for the next read, which tells whether the source is empty.
    Bulk { splice: Splice, dry: bool, lulls: u32 },
}

impl Direction {
    fn new(breaks: bool) -> Direction {
        let pace = Pace::Quiet { large_reads: LARGE_READS };
        let (pending, left) = (None, u64::MAX);
        Direction { pending, left, pace, ended: false, breaks, broke: false, shut: false }
    }

    /// Bytes that were written, in all.
    fn written(&self) -> u64 {
        u64::MAX - self.left
    }

    /// Moves what can be moved now. Ready once the source's end was passed on.
    fn poll<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffers: &Buffers,
        pipes: &Pipes,
    ) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Socket + Unpin,
        T: AsyncWrite + Socket + Unpin,
    {
        let before = self.left;
        let polled = loop {
            match self.step(cx, from, to, buffers, pipes) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => break Poll::Ready(Ok(())),
                Poll::Ready(Err(broken)) => break Poll::Ready(Err(broken)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.notice_lull(before - self.left);
        polled
    }

    /// Whether this was the last step.
    fn step<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffers: &Buffers,
        pipes: &Pipes,
    ) -> Poll<Result<bool, Broken>>
    where
        F: AsyncRead + Socket + Unpin,
        T: AsyncWrite + Socket + Unpin,
    {
        ready!(self.write(cx, to, buffers))?;
        if !self.ended {
            ready!(self.splice(cx, from, to))?;
        }
        if !self.ended {
            ready!(self.read(cx, from, buffers, pipes))?;
            return Poll::Ready(Ok(false));
        }
        if !self.shut && !self.broke {
            // ENOTCONN: the other side is gone already, and its own direction says so.
            let _ = ready!(Pin::new(to).poll_shutdown(cx));
            self.shut = true;
        }
        Poll::Ready(Ok(true))
    }

    /// Writes what was read, and sees it on its way: TLS may have taken it and kept it.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut T,
        buffers: &Buffers,
    ) -> Poll<Result<(), Broken>>
    where
        T: AsyncWrite + Unpin,
    {
        while let Some((buffer, start, end)) = &mut self.pending {
            let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[*start..*end]));
            let n = wrote.map_err(|_| Broken::To)?;
            *start += n;
            self.left -= n as u64;
            if start == end {
                let buffer = self.pending.take().map(|(buffer, ..)| buffer);
                buffer.into_iter().for_each(|buffer| buffers.give_back(buffer));
            }
        }
        Pin::new(to).poll_flush(cx).map_err(|_| Broken::To)
    }

    /// In bulk, splices until a read is due.
    fn splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &impl Socket,
        to: &impl Socket,
    ) -> Poll<Result<(), Broken>> {
        let Pace::Bulk { splice, dry: dry @ false, .. } = &mut self.pace else {
            return Poll::Ready(Ok(()));
        };
        let stop = match (from.plain(), to.plain()) {
            (Some(from), Some(to)) => ready!(splice.poll(cx, from, to, &mut self.left))?,
            _ => Stop::Refused,
        };
        match stop {
            Stop::Dry => *dry = true,
            Stop::Refused => self.pace = Pace::Quiet { large_reads: AFTER_A_REFUSAL },
            Stop::Ended | Stop::Whole => self.ended = true,
        }
        Poll::Ready(Ok(()))
    }

    fn read<F>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        buffers: &Buffers,
        pipes: &Pipes,
    ) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin,
    {
        let mut buffer = buffers.borrow();
        let polled = read(cx, from, &mut buffer);
        if let Pace::Bulk { dry, .. } = &mut self.pace {
            *dry = false;
        }
        if let Poll::Ready(Ok(n @ 1..)) = polled {
            self.pending = Some((buffer, 0, n));
            self.notice_read(n, pipes);
            return Poll::Ready(Ok(()));
        }
        buffers.give_back(buffer);
        if let Err(error) = ready!(polled) {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return Poll::Ready(Err(Broken::From));
            }
            self.broke = self.breaks;
        }
        self.ended = true;
        Poll::Ready(Ok(()))
    }

    /// Large reads in a row make it bulk.
    fn notice_read(&mut self, bytes: usize, pipes: &Pipes) {
        if let Pace::Quiet { large_reads } = &mut self.pace {
            *large_reads = match bytes {
                LARGE_BYTES.. => *large_reads - 1,
                _ => (*large_reads).max(LARGE_READS),
            };
            if *large_reads == 0 {
                let splice = Splice::new(pipes.clone());
                self.pace = Pace::Bulk { splice, dry: false, lulls: 0 };
            }
        }
    }

    /// Wake-ups that bring little, with nothing in the way of more, end the bulk.
    fn notice_lull(&mut self, moved: u64) {
        let Pace::Bulk { splice, lulls, .. } = &mut self.pace else { return };
        // When nothing was moved, it was the other direction that was woken.
        if moved == 0 || self.pending.is_some() || splice.holds_bytes() {
            return;
        }
        *lulls = if moved < LULL_BYTES { *lulls + 1 } else { 0 };
        if *lulls == LULLS {
            self.pace = Pace::Quiet { large_reads: LARGE_READS };
        }
    }
}

fn read(
    cx: &mut Context<'_>,
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buffer);
    let read = ready!(Pin::new(from).poll_read(cx, &mut buf));
    Poll::Ready(read.map(|()| buf.filled().len()))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::forward::backend_stream::BackendStream;
    use crate::lifecycle::status::Status;
    use crate::listen::ClientStream;
    use crate::timer::Wheel;

    const PATIENCE: Duration = Duration::from_secs(60);
    const BULK: usize = 24 << 20;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// What a worker lends, with this many pipes.
    fn stock(pipes: usize) -> (Buffers, Pipes, Arc<Status>) {
        let status = Arc::new(Status::new(1, 0));
        (Buffers::default(), Pipes::new(pipes, status.clone()), status)
    }

    /// Runs `story` as the two outer ends of a relayed stream; gives the relay's end and counts.
    async fn relayed<F: Future<Output = ()>>(
        story: impl FnOnce(TcpStream, TcpStream) -> F,
    ) -> (End, u64, u64) {
        let (buffers, pipes, status) = stock(2);
        let told = relayed_with(buffers, pipes.clone(), story).await;
        let (at_rest, made) = pipes.counts();
        assert_eq!(at_rest, made, "a pipe is held by nobody's stream");
        assert_eq!(status.limits.pipes.load(Ordering::Relaxed), 0, "a pipe was refused");
        told
    }

    async fn relayed_with<F: Future<Output = ()>>(
        buffers: Buffers,
        pipes: Pipes,
        story: impl FnOnce(TcpStream, TcpStream) -> F,
    ) -> (End, u64, u64) {
        let (client, near) = pair().await;
        let (far, backend) = pair().await;
        let mut far = BackendStream::Tcp(far);
        let lender = buffers.clone();
        // A task of its own: only its own wake-ups move it.
        let relay = async move {
            let deadline = Deadline::new(&Wheel::new());
            let (mut up, mut down) = (0, 0);
            let hour = Duration::from_secs(3600);
            let mut near = ClientStream::Tcp(near);
            let count = |way, n| match way {
                Way::ToBackend => up += n,
                Way::ToClient => down += n,
            };
            let relay = relay(&mut near, &mut far, &buffers, &pipes, &deadline, hour, count);
            (relay.await, up, down)
        };
        let told = async {
            let relay = tokio::task::spawn_local(relay);
            story(client, backend).await;
            relay.await.unwrap()
        };
        let told = tokio::time::timeout(PATIENCE, LocalSet::new().run_until(told)).await;
        assert!(lender.at_rest() <= 2, "buffers were not shared");
        told.expect("the stream hangs")
    }

    fn byte_at(at: usize, salt: usize) -> u8 {
        (at.wrapping_add(salt).wrapping_mul(0x9e37_79b9) >> 16) as u8
    }

    /// Sends these bytes of the pattern, in pieces of `piece` and what a random number adds.
    async fn send(
        to: &mut (impl AsyncWrite + Unpin),
        which: Range<usize>,
        salt: usize,
        piece: usize,
    ) {
        let mut at = which.start;
        while at < which.end {
            let next = (at + piece + fastrand::usize(..=piece)).min(which.end);
            let bytes: Vec<u8> = (at..next).map(|at| byte_at(at, salt)).collect();
            to.write_all(&bytes).await.unwrap();
            at = next;
        }
    }

    /// Reads until the end, in pieces of `piece`, and checks every byte.
    async fn take(mut from: impl AsyncRead + Unpin, salt: usize, piece: usize) -> usize {
        let mut buffer = vec![0; piece];
        let mut at = 0;
        loop {
            let n = from.read(&mut buffer).await.unwrap();
            for (offset, byte) in buffer[..n].iter().enumerate() {
                assert_eq!(*byte, byte_at(at + offset, salt), "at {}", at + offset);
            }
            at += n;
            if n == 0 {
                return at;
            }
            tokio::task::yield_now().await;
        }
    }

    fn reset(stream: TcpStream) {
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Both ends of a stream whose backend sends for as long as it can, once that runs in bulk.
    async fn in_bulk(client: &mut TcpStream, backend: &mut TcpStream) {
        let sent = send(backend, 0..8 << 20, 0, 1 << 20);
        let mut got = vec![0; 8 << 20];
        let (_, read) = tokio::join!(sent, client.read_exact(&mut got));
        read.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_shuts_its_write_side_still_gets_the_answer() {
        let told = relayed(|mut client, mut backend| async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            backend.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            let sent = async {
                send(&mut backend, 0..BULK, 7, 1 << 20).await;
                drop(backend);
            };
            assert_eq!(tokio::join!(sent, take(client, 7, 1 << 16)).1, BULK);
        })
        .await;
        assert_eq!(told, (End::Finished, 8, BULK as u64));
    }

    #[tokio::test]
    async fn bulk_goes_both_ways_at_once_and_one_way_may_end_first() {
        let told = relayed(both_ways).await;
        assert_eq!(told, (End::Finished, BULK as u64 / 2, BULK as u64));
    }

    #[tokio::test]
    async fn without_pipes_bulk_is_copied_and_counted() {
        let (buffers, pipes, status) = stock(0);
        let told = relayed_with(buffers, pipes, both_ways).await;
        assert_eq!(told, (End::Finished, BULK as u64 / 2, BULK as u64));
        let refused = status.limits.pipes.load(Ordering::Relaxed);
        assert!((2..BULK as u64 / (1 << 20)).contains(&refused), "{refused}");
    }

    async fn both_ways(client: TcpStream, backend: TcpStream) {
        let (from_client, mut to_client) = client.into_split();
        let (from_backend, mut to_backend) = backend.into_split();
        let up = async {
            send(&mut to_client, 0..BULK / 2, 1, 1 << 18).await;
            drop(to_client);
        };
        let down = async {
            send(&mut to_backend, 0..BULK, 2, 1 << 18).await;
            drop(to_backend);
        };
        let at_backend = take(from_backend, 1, 1 << 18);
        let at_client = take(from_client, 2, 1 << 18);
        let (_, _, sent, received) = tokio::join!(up, down, at_backend, at_client);
        assert_eq!((sent, received), (BULK / 2, BULK));
    }

    /// A pipe is full by slots: many small segments fill it long before 256 KiB.
    #[tokio::test]
    async fn a_reader_slower_than_the_writer_gets_every_byte() {
        for piece in [700, 5_000, 1 << 20] {
            let told = relayed(|client, mut backend| async move {
                backend.set_nodelay(true).unwrap();
                SockRef::from(&client).set_recv_buffer_size(256 * 1024).unwrap();
                let sent = async {
                    send(&mut backend, 0..4 << 20, 3, 1 << 18).await;
                    send(&mut backend, 4 << 20..8 << 20, 3, piece).await;
                    drop(backend);
                };
                assert_eq!(tokio::join!(sent, take(client, 3, 5_000)).1, 8 << 20);
            })
            .await;
            assert_eq!(told, (End::Finished, 0, 8 << 20));
        }
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        let (end, ..) = relayed(|mut client, mut backend| async move {
            client.write_all(b"x").await.unwrap();
            backend.read_u8().await.unwrap();
            reset(backend);
            let error = client.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(end, End::BackendReset);
        let (end, ..) = relayed(|client, mut backend| async move {
            reset(client);
            let error = backend.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(end, End::ClientReset);
    }

    #[tokio::test]
    async fn a_reset_in_bulk_is_passed_on_as_a_reset() {
        let (end, ..) = relayed(|mut client, mut backend| async move {
            in_bulk(&mut client, &mut backend).await;
            reset(backend);
            let error = client.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(end, End::BackendReset);
        let (end, ..) = relayed(|mut client, mut backend| async move {
            in_bulk(&mut client, &mut backend).await;
            reset(client);
            // It is in the midst of sending.
            let error = loop {
                if let Err(error) = backend.write_all(&[0; 1 << 16]).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(end, End::ClientReset);
    }

    /// Splice stops in front of urgent data and says no more than that there is nothing.
    #[tokio::test]
    async fn urgent_data_in_bulk_holds_nothing_up() {
        let told = relayed(|mut client, mut backend| async move {
            in_bulk(&mut client, &mut backend).await;
            backend.write_all(b"before").await.unwrap();
            assert_eq!(SockRef::from(&backend).send_out_of_band(b"!").unwrap(), 1);
            backend.write_all(b"after").await.unwrap();
            let mut got = [0; 11];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"beforeafter");
        })
        .await;
        assert_eq!(told, (End::Finished, 0, (8 << 20) + 11));
    }

    #[tokio::test]
    async fn bulk_begins_with_large_reads_and_ends_with_lulls() {
        let (mut client, mut near) = pair().await;
        let (mut far, mut backend) = pair().await;
        let (buffers, pipes, _) = stock(1);
        let mut direction = Direction::new(true);
        let (block, mut got) = (vec![b'x'; 1 << 19], vec![0; 1 << 19]);
        // `wake_ups` times `bytes`, each taken before the next is sent.
        for (bytes, wake_ups, bulk) in
            [(1 << 19, 1, true), (10, 2, true), (1 << 19, 1, true), (10, 5, false), (10, 9, false)]
        {
            for _ in 0..wake_ups {
                let sent = client.write_all(&block[..bytes]);
                let taken = backend.read_exact(&mut got[..bytes]);
                let ends = async { tokio::try_join!(sent, taken).unwrap() };
                tokio::select! {
                    _ = ends => {}
                    _ = poll_fn(|cx| direction.poll(cx, &mut near, &mut far, &buffers, &pipes)) => {}
                }
            }
            let is_bulk = matches!(direction.pace, Pace::Bulk { .. });
            assert_eq!(is_bulk, bulk, "after {wake_ups} times {bytes}");
        }
        assert_eq!(pipes.counts(), (1, 1));
    }

    #[tokio::test]
    async fn silence_ends_a_stream_even_one_in_bulk() {
        for bulk in [false, true] {
            let (mut client, near) = pair().await;
            let (far, mut backend) = pair().await;
            let mut far = BackendStream::Tcp(far);
            let wheel = Wheel::new();
            let deadline = Deadline::new(&wheel);
            let idle = Duration::from_millis(30);
            let mut near = ClientStream::Tcp(near);
            let (buffers, pipes, _) = stock(1);
            let relay = relay(&mut near, &mut far, &buffers, &pipes, &deadline, idle, |_, _| {});
            let time = async {
                if bulk {
                    in_bulk(&mut client, &mut backend).await;
                }
                for tick in 1..=4 {
                    tokio::task::yield_now().await;
                    wheel.advance(tick);
                }
            };
            assert_eq!(tokio::join!(relay, time).0, End::Idle);
            let lent = usize::from(bulk);
            assert_eq!(pipes.counts(), (lent, lent));
        }
    }
}
