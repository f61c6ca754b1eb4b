//! Relays a TCP stream both ways: half-close kept, RST passed on as RST, no buffer held while idle.
//!
//! A direction borrows a buffer of its worker for the length of one read and write; only what the
//! other side would not take yet stays with it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffers::Buffers;
use crate::listen::ClientStream;
use crate::timer::Deadline;

/// How a relayed stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed in order.
    Finished,
    ClientReset,
    BackendReset,
    /// Neither side sent anything for the idle time.
    Idle,
}

/// Which way bytes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToBackend,
    ToClient,
}

/// Relays until both directions have ended or one failed. `deadline` is this function's while it
/// runs; `count` hears of every chunk that was written.
pub async fn relay(
    client: &mut ClientStream,
    backend: &mut TcpStream,
    buffers: &Buffers,
    deadline: &Deadline,
    idle: Duration,
    mut count: impl FnMut(Way, u64),
) -> End {
    let mut up = Direction::default();
    let mut down = Direction::default();
    deadline.set(idle);
    let end = poll_fn(|cx| {
        let before = up.written + down.written;
        let up_done = up.poll(cx, client, backend, buffers, |n| count(Way::ToBackend, n));
        let down_done = down.poll(cx, backend, client, buffers, |n| count(Way::ToClient, n));
        if up.written + down.written > before {
            deadline.set(idle);
        }
        match (up_done, down_done) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            (Poll::Ready(Err(broken)), _) => Poll::Ready(match broken {
                Broken::From => End::ClientReset,
                Broken::To => End::BackendReset,
            }),
            (_, Poll::Ready(Err(broken))) => Poll::Ready(match broken {
                Broken::From => End::BackendReset,
                Broken::To => End::ClientReset,
            }),
            _ => deadline.poll(cx).map(|()| End::Idle),
        }
    })
    .await;
    if matches!(end, End::ClientReset | End::BackendReset) {
        reset_on_close(client, backend);
    }
    end
}

/// A side that was reset means the other one's stream is not whole either: RST, not FIN, says so.
fn reset_on_close(client: &ClientStream, backend: &TcpStream) {
    // A socket that is already broken needs no reset.
    let _ = SockRef::from(backend).set_linger(Some(Duration::ZERO));
    client.reset_on_close();
}

/// Which end of a direction failed.
#[derive(Clone, Copy)]
enum Broken {
    From,
    To,
}

/// One way of a stream.
#[derive(Default)]
struct Direction {
    /// What was read and not yet written: the buffer, from where, up to where.
    pending: Option<(Box<[u8]>, usize, usize)>,
    ended: bool,
    shut: bool,
    written: u64,
}

impl Direction {
    fn poll<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        buffers: &Buffers,
        mut count: impl FnMut(u64),
    ) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            while let Some((buffer, start, end)) = &mut self.pending {
                let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[*start..*end]));
                let n = wrote.map_err(|_| Broken::To)?;
                *start += n;
                self.written += n as u64;
                count(n as u64);
                if start == end {
                    let buffer = self.pending.take().map(|(buffer, ..)| buffer);
                    buffer.into_iter().for_each(|buffer| buffers.give_back(buffer));
                }
            }
            if self.ended {
                if !self.shut {
                    // ENOTCONN: the other side is gone already, and its own direction says so.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let mut buffer = buffers.borrow();
            match read(cx, from, &mut buffer) {
                Poll::Ready(Ok(0)) => {
                    buffers.give_back(buffer);
                    self.ended = true;
                }
                Poll::Ready(Ok(n)) => self.pending = Some((buffer, 0, n)),
                Poll::Ready(Err(_)) => {
                    buffers.give_back(buffer);
                    return Poll::Ready(Err(Broken::From));
                }
                Poll::Pending => {
                    buffers.give_back(buffer);
                    return Poll::Pending;
                }
            }
        }
    }
}

fn read(
    cx: &mut Context<'_>,
    from: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(buffer);
    ready!(Pin::new(from).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::timer::Wheel;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// Runs `story` as the two outer ends of a relayed stream; gives the relay's end and counts.
    async fn relayed<F: Future<Output = ()>>(
        story: impl FnOnce(TcpStream, TcpStream) -> F,
    ) -> (End, u64, u64) {
        let (client, near) = pair().await;
        let (mut far, backend) = pair().await;
        let deadline = Deadline::new(&Wheel::new());
        let (mut up, mut down) = (0, 0);
        let (buffers, hour) = (Buffers::default(), Duration::from_secs(3600));
        let mut near = ClientStream::Tcp(near);
        let end = async {
            let end = relay(&mut near, &mut far, &buffers, &deadline, hour, |way, n| match way {
                Way::ToBackend => up += n,
                Way::ToClient => down += n,
            })
            .await;
            drop((near, far));
            end
        };
        let (end, ()) = tokio::join!(end, story(client, backend));
        assert!(buffers.at_rest() <= 2, "buffers were not shared");
        (end, up, down)
    }

    #[tokio::test]
    async fn a_client_that_shuts_its_write_side_still_gets_the_answer() {
        let told = relayed(|mut client, mut backend| async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            backend.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            backend.write_all(&vec![b'a'; 1 << 20]).await.unwrap();
            drop(backend);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.len(), 1 << 20);
        })
        .await;
        assert_eq!(told, (End::Finished, 8, 1 << 20));
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        let (end, ..) = relayed(|mut client, mut backend| async move {
            client.write_all(b"x").await.unwrap();
            backend.read_u8().await.unwrap();
            SockRef::from(&backend).set_linger(Some(Duration::ZERO)).unwrap();
            drop(backend);
            let error = client.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(end, End::BackendReset);
        let (end, ..) = relayed(|client, mut backend| async move {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            let error = backend.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        })
        .await;
        assert_eq!(end, End::ClientReset);
    }

    #[tokio::test]
    async fn silence_ends_a_stream() {
        let (_client, near) = pair().await;
        let (mut far, _backend) = pair().await;
        let wheel = Wheel::new();
        let deadline = Deadline::new(&wheel);
        let idle = Duration::from_millis(30);
        let mut near = ClientStream::Tcp(near);
        let buffers = Buffers::default();
        let relay = relay(&mut near, &mut far, &buffers, &deadline, idle, |_, _| {});
        let time = async {
            for tick in 1..=4 {
                tokio::task::yield_now().await;
                wheel.advance(tick);
            }
        };
        assert_eq!(tokio::join!(relay, time).0, End::Idle);
    }
}
