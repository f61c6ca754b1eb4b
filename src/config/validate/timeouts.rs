//! Time-outs of the file and of listeners (all of them) and of pools and routes (some).

use super::cx::Cx;
use super::words::{or_off, positive_duration};
use crate::config::model::{TimeoutOverrides, Timeouts};
use crate::config::path::Path;
use crate::config::raw;

/// `under` with what stands at `at` laid over it.
pub fn base(cx: &mut Cx<'_>, at: &Path, raw: &raw::Timeouts, under: Timeouts) -> Timeouts {
    let mut settled = under.overlaid(&overrides(cx, at, raw));
    let mut own = |key: &str, text: &raw::Text, value: &mut std::time::Duration| {
        if let Some(read) = cx.text(&at.key(key), text.as_ref(), positive_duration) {
            *value = read;
        }
    };
    own("client_header", &raw.client_header, &mut settled.client_header);
    own("client_idle", &raw.client_idle, &mut settled.client_idle);
    own("proxy_header", &raw.proxy_header, &mut settled.proxy_header);
    let age = cx.text(&at.key("client_age"), raw.client_age.as_ref(), |text| {
        or_off(text, positive_duration)
    });
    settled.client_age = age.unwrap_or(settled.client_age);
    settled
}

pub fn overrides(cx: &mut Cx<'_>, at: &Path, raw: &raw::Timeouts) -> TimeoutOverrides {
    let mut one =
        |key: &str, text: &raw::Text| cx.text(&at.key(key), text.as_ref(), positive_duration);
    let client_body = one("client_body", &raw.client_body);
    let connect = one("connect", &raw.connect);
    let response = one("response", &raw.response);
    let stream_idle = one("stream_idle", &raw.stream_idle);
    let tcp_idle = one("tcp_idle", &raw.tcp_idle);
    let tls_handshake = one("tls_handshake", &raw.tls_handshake);
    let request =
        cx.text(&at.key("request"), raw.request.as_ref(), |text| or_off(text, positive_duration));
    TimeoutOverrides {
        client_body,
        connect,
        response,
        stream_idle,
        tcp_idle,
        request,
        tls_handshake,
    }
}
