//! The TCP probe: a connection is enough, or something is sent and a text expected.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::search::{Found, Search};
use super::{Failure, part};
use crate::forward::backend_stream::BackendStream;

/// Passes if `expect`, where given, occurs in the first 64 KiB of the answer to `send`.
pub(super) async fn exchange(
    mut stream: BackendStream,
    send: Option<&[u8]>,
    expect: Option<&[u8]>,
) -> Result<(), Failure> {
    if let Some(send) = send {
        stream.write_all(send).await.map_err(|error| Failure::from_io(&error))?;
        stream.flush().await.map_err(|error| Failure::from_io(&error))?;
    }
    if let Some(expect) = expect {
        await_text(&mut stream, expect).await?;
    }
    // Tells the backend that this was all. If it has gone already, it has told us as much.
    let _ = stream.shutdown().await;
    tokio::task::spawn_local(part(stream));
    Ok(())
}

async fn await_text(stream: &mut BackendStream, wanted: &[u8]) -> Result<(), Failure> {
    let mut search = Search::new(wanted);
    let mut space = vec![0; 4096];
    loop {
        let read = stream.read(&mut space).await.map_err(|error| Failure::from_io(&error))?;
        match search.feed(&space[..read]) {
            Found::Yes => return Ok(()),
            Found::Never => return Err(Failure::Answer),
            Found::NotYet if read == 0 && search.is_empty() => return Err(Failure::Closed),
            Found::NotYet if read == 0 => return Err(Failure::Answer),
            Found::NotYet => {}
        }
    }
}
