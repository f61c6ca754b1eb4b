//! One accepted socket, from accept to close: who may come in, then TCP or HTTP.

use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;

use super::client::Client;
use super::entrance::{self, Entered};
use super::opening::Opening;
use super::origin::Origin;
use super::request::{self, After};
use super::tellers::{self, Told};
use super::worker::{Here, Worker};
use super::{judge, opening, reach, upgraded};
use crate::config::model::Timeouts;
use crate::forward::http::Front;
use crate::forward::http::h1::client::{Bounds, ClientConn, Next, Stop};
use crate::forward::http::h1::parse::Limits;
use crate::forward::http::h2::{self, Calm};
use crate::forward::session::Session;
use crate::forward::tcp::End;
use crate::listen::{ClientAddr, ClientStream, Permit};
use crate::outcome::Cause;
use crate::pool::{Picker, Pool};
use crate::route::{Taken, access};
use crate::snapshot::Work;
use crate::timer::Deadline;

/// Serves one accepted connection: begins a task that ends with it. `gone`: its listener is; it gets one
/// answer.
pub fn serve(
    worker: Rc<Worker>,
    here: Here,
    gone: bool,
    stream: ClientStream,
    addr: ClientAddr,
    mut permit: Permit,
) {
    if !entrance::is_barred(&here, addr) {
        if entrance::admit(&here, addr, &mut permit) {
            let entered = Entered { stream, addr, told: None, secure: None };
            begin(worker, here, gone, entered, permit);
        }
        return;
    }
    tokio::task::spawn_local(async move {
        if let Some(entered) = entrance::pass(&worker, &here, stream, addr, &mut permit).await {
            // It may have gone in the meantime.
            let gone = worker.here(&here.listener().config.name).is_none();
            begin(worker, here, gone, entered, permit);
        }
    });
}

/// The connection has passed the entrance.
fn begin(worker: Rc<Worker>, here: Here, gone: bool, entered: Entered, permit: Permit) {
    let Entered { stream, addr, told, secure } = entered;
    let asked = here.view.snapshot.introduces();
    let origin = Origin::of(&stream, addr, told, &here.listener().config, asked);
    let deadline = Deadline::new(&worker.wheel);
    let session = Rc::new(Session::new(deadline, here.listener().state.clone(), worker.id));
    let h2 = secure.as_ref().is_some_and(|secure| secure.h2);
    let client = Client::new(worker, session, here.clone(), (addr, secure, origin), permit);
    if gone {
        client.session.leave();
    }
    match &here.listener().work {
        Work::Tcp(_) => {
            let access = &here.listener().config.access;
            if !access::allows(access, addr.ip()) {
                client.session.cells().failures[Cause::Denied.index()].inc();
                return;
            }
            tokio::task::spawn_local(tcp(client, here, stream));
        }
        Work::Http(_) => {
            let bounds = bounds(&here);
            client.session.rest(bounds.client_idle);
            if let Some(age) = here.listener().config.timeouts.client_age {
                client.session.grow_old(age);
            }
            let buffers = client.worker.buffers.clone();
            let conn = ClientConn::new(stream, client.session.clone(), buffers);
            match h2 {
                true => tokio::task::spawn_local(http2(client, conn, bounds)),
                false => tokio::task::spawn_local(http(client, conn, bounds)),
            };
        }
    }
}

fn bounds(here: &Here) -> Bounds {
    let Timeouts { client_header, client_idle, .. } = here.listener().config.timeouts;
    let limits = &here.view.snapshot.config.limits;
    let head = Limits { bytes: limits.request_head_bytes, fields: limits.headers };
    Bounds { head, client_header, client_idle }
}

/// HTTP, request by request. An idle connection shall pay for nothing but itself: what only some ever
/// come to stands in boxes of their own, and nothing is left over from a request. (No `async fn`: that
/// would hold its arguments twice.)
fn http(
    client: Rc<Client>,
    mut conn: ClientConn,
    bounds: Bounds,
) -> impl Future<Output = ()> + 'static {
    let mut first = client.secure.as_ref().is_none_or(|secure| !secure.h1_only);
    async move {
        loop {
            let next = conn.next(&bounds, &client.worker.heads, first).await;
            first = false;
            let told = match story(&client, &mut conn, next) {
                Ok(story) => Ok(client.session.unless_cut(story).await),
                Err(none) => Err(none),
            };
            match told {
                Ok(Some(After::Keep)) => {}
                Ok(Some(After::Close { unread: false })) if conn.is_clean() => return,
                Ok(Some(After::Close { unread })) => return Box::pin(conn.close(unread)).await,
                Ok(Some(After::Reset)) => return conn.reset(),
                Ok(Some(After::Upgraded(upgrade))) => {
                    return Box::pin(upgraded::connection(&client, conn, *upgrade)).await;
                }
                Ok(None) => {
                    conn.reset();
                    return count_cut(&client.session);
                }
                Err(NoStory::Http2) => return Box::pin(http2(client, conn, bounds)).await,
                Err(NoStory::Refused(cause)) => {
                    return Box::pin(request::refuse(&client, conn, cause)).await;
                }
                Err(NoStory::Ended) => return conn.part(),
            }
        }
    }
}

/// What a connection has brought in place of a request.
enum NoStory {
    Http2,
    Refused(Cause),
    Ended,
}

/// Begins the story of a request, if it is one.
fn story<'a>(
    client: &Rc<Client>,
    conn: &'a mut ClientConn,
    next: Result<Next, Stop>,
) -> Result<Pin<Box<impl Future<Output = After> + use<'a>>>, NoStory> {
    match next {
        Ok(Next::Request(head)) => {
            let front = Front::http1(conn, &head);
            let step = client.session.deadline.clone();
            Ok(Box::pin(request::serve(client.clone(), front, head, step)))
        }
        Ok(Next::Http2) => Err(NoStory::Http2),
        Ok(Next::End) | Err(Stop::Gone) => Err(NoStory::Ended),
        Err(Stop::Refused(cause)) => Err(NoStory::Refused(cause)),
        Err(Stop::Cut) => {
            count_cut(&client.session);
            Err(NoStory::Ended)
        }
    }
}

fn count_cut(session: &Session) {
    session.cells().failures[Cause::Shutdown.index()].inc();
}

async fn http2(client: Rc<Client>, conn: ClientConn, bounds: Bounds) {
    let (worker, session) = (client.worker.clone(), client.session.clone());
    let (stream, ahead) = conn.into_parts();
    let ahead = ahead.map_or(Bytes::new(), |ahead| Bytes::copy_from_slice(ahead.data()));
    let calm = Rc::<Calm>::default();
    let tell = |asked| {
        session.begin(); // it is not at rest until its story begins
        let (client, calm) = (client.clone(), calm.clone());
        tellers::tell(&worker, Told { client, calm, asked });
    };
    match h2::serve(stream, ahead, &session, &bounds, &worker.heads, &calm, tell).await {
        h2::End::Done | h2::End::Broken => {}
        h2::End::Cut => count_cut(&session),
    }
}

/// A TCP stream: route, pick, connect, relay. A backend that cannot be reached costs the client nothing:
/// every serving one is tried once, within three times `connect`, before more of it is read than it
/// takes to route it.
async fn tcp(client: Rc<Client>, here: Here, mut stream: ClientStream) {
    let Work::Tcp(streams) = &here.listener().work else { return };
    let opening = match streams.all_alike() {
        Some(taken) => Ok(Opening::silent(taken)),
        // In a box: most streams are not looked into, and need not carry what that takes.
        None => Box::pin(opening::read(&client, &here, streams, &mut stream)).await,
    };
    let opening = opening.and_then(|opening| match opening.taken {
        Taken::To(pool) => Ok((here.view.picker(pool).clone(), opening)),
        Taken::Rejected => Err(Cause::Denied),
        Taken::Nowhere => Err(Cause::NoRoute),
    });
    match opening {
        Ok((picker, opening)) => stream_to(client, &here, picker, stream, opening).await,
        Err(Cause::ClientGone) => {}
        // Whatever strangers say that leads nowhere is no news.
        Err(cause) => client.session.cells().failures[cause.index()].inc(),
    }
}

/// Takes a stream to a backend of the pool.
async fn stream_to(
    client: Rc<Client>,
    here: &Here,
    picker: Rc<Picker>,
    mut stream: ClientStream,
    opening: Opening,
) {
    let worker = &client.worker;
    let pool = picker.pool();
    let cells = pool.state.cells.of(worker.id);
    let timeouts = here.listener().config.timeouts.overlaid(&pool.config.timeouts);
    let began = Instant::now();
    cells.streams.inc();
    client.session.begin();
    let Opening { hello, early, .. } = opening;
    let reached = {
        let said = client.introduction(&pool.config, hello.as_ref());
        drop(hello);
        let said = said.as_deref();
        Box::pin(reach::reach(&client, &picker, &stream, said, &timeouts)).await
    };
    let ended = match reached {
        Ok((lease, _entered, mut backend)) => {
            let (idle, ends) = (timeouts.tcp_idle, (&mut stream, &mut backend));
            let begun = opening::pass_on(&client, here, &lease, ends, early, idle);
            let begun = Box::pin(begun).await;
            let end = match begun {
                Ok(()) => upgraded::relay(&client, &lease, &mut stream, &mut backend, idle).await,
                Err(_) => None,
            };
            let ended = begun.and(match end {
                Some(End::BackendReset | End::BackendBroke) => Err(Cause::Truncated),
                Some(End::Cut) => Err(Cause::Released),
                Some(End::Finished | End::ClientReset | End::ClientBroke | End::Idle) | None => {
                    Ok(())
                }
            });
            // Many never say close_notify: that is told, and not held against them.
            if ended == Err(Cause::Truncated) && end != Some(End::BackendBroke) {
                judge::failed(worker, &lease, Cause::Truncated);
            }
            ended
        }
        Err(cause) => Err(cause),
    };
    cells.duration.observe(began.elapsed());
    match ended {
        // It left while it waited: an ordinary disconnect is no news.
        Ok(()) | Err(Cause::ClientGone) => {}
        Err(cause) => tell_of(&client, pool, cause, began),
    }
}

/// Counts a stream that failed, and says so.
fn tell_of(client: &Client, pool: &Pool, cause: Cause, began: Instant) {
    client.session.cells().failures[cause.index()].inc();
    let worker = &client.worker;
    let mut limiter = worker.limiter.borrow_mut();
    if let Some(held_back) = limiter.admit(cause.index(), worker.shared.epoch.elapsed()) {
        tracing::warn!(
            listener = %client.name,
            client = %client.addr,
            pool = %pool.config.name,
            cause = cause.label(),
            millis = began.elapsed().as_millis() as u64,
            held_back,
            "stream failed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::http::head::RequestHead;

    fn size<A, B, C, F>(_of: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    fn size_of_story<'a, F>(
        _of: impl FnOnce(Rc<Client>, Front<'a>, RequestHead, Deadline) -> F,
    ) -> usize {
        size_of::<F>()
    }

    /// What an idle connection costs, and a request in progress. Whoever makes these grow should know
    /// that tens of thousands are held at once.
    #[test]
    fn connections_and_requests_stay_small() {
        let (idle, story) = (size(http), size_of_story(request::serve));
        assert!(idle <= 352, "an idle HTTP connection's task: {idle} bytes");
        // What goes to a backend says of which protocol it is, in several places: a word each.
        assert!(story <= 1848, "a request's story: {story} bytes");
        assert!(size_of::<ClientConn>() <= 192, "{}", size_of::<ClientConn>());
    }
}
