//! The TLS probe: a handshake, and no word against it.
//!
//! The handshake itself was made by whoever calls.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Failure, part};
use crate::forward::backend_stream::BackendStream;

/// In TLS 1.3 a handshake is over for us before the backend has looked at our certificate (RFC 8446 2):
/// so long it may say that it does not take it.
const SECOND_THOUGHTS: Duration = Duration::from_millis(250);

pub(super) async fn exchange(mut stream: BackendStream) -> Result<(), Failure> {
    // Tells the backend that this was all: most close then, and we need not wait.
    let _ = stream.shutdown().await;
    let mut byte = [0];
    match timeout(SECOND_THOUGHTS, stream.read(&mut byte)).await {
        Ok(Err(error)) if Failure::is_tls(&error) => Err(Failure::from_io(&error)),
        // An end, however it comes, or something to read: nothing that concerns the handshake.
        Ok(Ok(_) | Err(_)) | Err(_) => {
            tokio::task::spawn_local(part(stream));
            Ok(())
        }
    }
}
