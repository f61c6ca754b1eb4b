//! Passwords and keys, which stand in files of their own and are read at load and at each reload.
//!
//! One line end is taken off the end of a file, since editors put it there; nothing else is.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path as FilePath;

use super::cx::Cx;
use crate::config::model::Secret;
use crate::config::path::Path;
use crate::config::source::Wrong;

const LARGEST: u64 = 4096;

/// `None` if there is none, or if it cannot be read; then that is reported. Warns of a file that
/// everybody may read.
pub fn read(cx: &mut Cx<'_>, at: &Path, file: Option<&String>) -> Option<Secret> {
    let path = cx.beside_the_file(file?);
    let read = cx.text(at, file, |_| {
        contents(&path).map_err(|error| {
            let text = format!("the file cannot be used: {error}");
            Wrong::new(text, "a file of 1 to 4096 bytes, relative to this one")
        })
    });
    let (bytes, mode) = read?;
    if mode & 0o004 != 0 {
        let text = "everybody on this machine can read the file";
        let help = format!("chmod 640 {}", path.display());
        cx.warn(at, Wrong::plain(text).help(help));
    }
    Some(Secret(bytes.into()))
}

/// The bytes, and the file's permissions.
fn contents(path: &FilePath) -> io::Result<(Vec<u8>, u32)> {
    let metadata = std::fs::metadata(path)?;
    // A pipe or a device would make the load wait without end.
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 4096 bytes"));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    if bytes.contains(&0) {
        return Err(io::Error::other("it has a zero byte"));
    }
    Ok((bytes, metadata.permissions().mode()))
}
