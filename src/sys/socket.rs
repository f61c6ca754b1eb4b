//! Socket options that both ends of the proxy share.

use std::time::Duration;

use socket2::TcpKeepalive;

/// Finds dead peers well before `tcp_idle` does: after two minutes of silence, within 45 s.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(120))
        .with_interval(Duration::from_secs(15))
        .with_retries(3)
}
