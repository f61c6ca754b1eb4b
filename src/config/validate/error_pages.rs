//! Bodies for the errors that the proxy makes itself, read from files at load.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path as FilePath;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::cx::Cx;
use crate::config::model::{ErrorPage, ErrorPages};
use crate::config::path::Path;
use crate::config::raw;
use crate::config::source::Wrong;
use crate::outcome::Cause;

/// Every snapshot holds them in memory.
const LARGEST: u64 = 1024 * 1024;

pub fn read(cx: &mut Cx<'_>, at: &Path, raw: Option<raw::Pairs<String>>) -> ErrorPages {
    let mut pages = Vec::new();
    for (key, file) in raw.into_iter().flat_map(|pairs| pairs.0) {
        let at = at.key(&key);
        let Some(status) = cx.key(&at, &key, own_status) else { continue };
        let path = cx.beside_the_file(&file);
        let body = cx.text(&at, Some(&file), |_| {
            page(&path).map_err(|error| {
                let text = format!("the page cannot be read: {error}");
                Wrong::new(text, "a file of at most 1 MiB, relative to this one")
            })
        });
        if let Some(body) = body {
            pages.push(ErrorPage { status, body, content_type: content_type(&path) });
        }
    }
    ErrorPages(pages)
}

/// One of the statuses with which the proxy itself answers.
fn own_status(text: &str) -> Result<StatusCode, Wrong> {
    let mut own: Vec<u16> = Cause::ALL.iter().map(|cause| cause.status().as_u16()).collect();
    own.sort_unstable();
    own.dedup();
    let found = own.iter().find(|status| status.to_string() == text);
    found.and_then(|status| StatusCode::from_u16(*status).ok()).ok_or_else(|| {
        let allowed = own.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        Wrong::new("not a status that the proxy itself answers with", allowed)
    })
}

fn page(path: &FilePath) -> io::Result<Bytes> {
    // A pipe or a device would make the load wait without end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut body = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut body)?;
    if body.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Bytes::from(body))
}

fn content_type(path: &FilePath) -> HeaderValue {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    HeaderValue::from_static(match extension.as_deref() {
        Some("html" | "htm") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    })
}
