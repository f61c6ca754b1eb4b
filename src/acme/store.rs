//! The state directory: the account and the certificates of one ACME server, as files.
//!
//! Every file is whole at any time: it is written beside its place, brought to the disk, and renamed.
//! Two load balancers may share the directory; a lock for each name lets one order at a time, and
//! another lets one make the account.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde_json::{Value, json};

use crate::sys::files;

/// More than any chain, and any account, takes.
const LARGEST: u64 = 1024 * 1024;

const ACCOUNT: &str = "account.json";
/// One that could not be understood: its key may be worth something to somebody.
const BAD_ACCOUNT: &str = "account.json.bad";

/// The part of a state directory that belongs to one ACME server.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// Who we are to the server.
pub struct Account {
    /// Its URL.
    pub id: String,
    pub credentials: AccountCredentials,
    /// What the server was told last.
    pub contact: Option<String>,
}

/// Why the account that is kept cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Perhaps it can, later.
    #[error("{ACCOUNT} cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("{ACCOUNT} holds no account: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// No name of a host begins so.
const ACCOUNT_LOCK: &str = ".account.lock";

/// Nobody else orders for this name, or makes an account, while this lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Store {
    /// Where the state of the server with this directory URL is; nothing is made yet.
    pub fn new(state_dir: &Path, directory: &str) -> Store {
        Store { folder: state_dir.join(folder_of(directory)) }
    }

    /// Makes the folder, for us alone, if it is not there.
    pub fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The account, if there is one.
    pub fn account(&self) -> Result<Option<Account>, AccountError> {
        let Some(text) = read(&self.folder.join(ACCOUNT))? else { return Ok(None) };
        let mut value: Value = serde_json::from_slice(&text)?;
        let contact = value["contact"].as_str().map(str::to_owned);
        let credentials = value.get_mut("credentials").map(Value::take).unwrap_or_default();
        let id = credentials["id"].as_str().unwrap_or_default().to_owned();
        let credentials = serde_json::from_value(credentials)?;
        Ok(Some(Account { id, credentials, contact }))
    }

    /// Makes room for another account without losing this one.
    pub fn set_account_aside(&self) -> io::Result<()> {
        fs::rename(self.folder.join(ACCOUNT), self.folder.join(BAD_ACCOUNT))
    }

    pub fn keep_account(&self, account: &Account) -> io::Result<()> {
        let value = json!({
            "credentials": serde_json::to_value(&account.credentials)?,
            "contact": account.contact,
        });
        self.replace(ACCOUNT, &serde_json::to_vec_pretty(&value)?)
    }

    /// The file of a name's certificate: the private key, then the chain, in PEM.
    pub fn certificate_path(&self, domain: &str) -> PathBuf {
        self.folder.join(format!("{domain}.pem"))
    }

    pub fn certificate(&self, domain: &str) -> io::Result<Option<Vec<u8>>> {
        read(&self.certificate_path(domain))
    }

    pub fn keep_certificate(&self, domain: &str, pem: &[u8]) -> io::Result<()> {
        self.replace(&format!("{domain}.pem"), pem)
    }

    /// `None` if another process orders for this name now. Ends with the process, however it ends.
    pub fn lock(&self, domain: &str) -> io::Result<Option<Lock>> {
        self.try_lock(&self.lock_path(domain))
    }

    /// `None` if another process makes an account now.
    pub fn lock_account(&self) -> io::Result<Option<Lock>> {
        self.try_lock(&self.folder.join(ACCOUNT_LOCK))
    }

    pub fn lock_path(&self, domain: &str) -> PathBuf {
        self.folder.join(format!("{domain}.lock"))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(files::try_lock(&file)?.then_some(Lock { _file: file }))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.prepare()?;
        // One that a crash left behind is in nobody's way.
        let unique = format!(".{name}.{}.{:08x}", std::process::id(), fastrand::u32(..));
        let beside = self.folder.join(unique);
        let written = (|| {
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, self.folder.join(name))?;
            File::open(&self.folder)?.sync_all()
        })();
        if written.is_err() {
            // The error that led here says more than one of this would.
            let _ = fs::remove_file(&beside);
        }
        written
    }
}

/// `None` if there is no such file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A folder's name for a directory URL, a different one for each: `acme.example.com_directory`.
fn folder_of(directory: &str) -> String {
    let rest = directory.strip_prefix("https://").unwrap_or(directory);
    let mut name = String::with_capacity(rest.len());
    for byte in rest.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => name.push(byte.into()),
            // A name of dots alone would be another folder.
            b'.' if !name.is_empty() => name.push('.'),
            b'/' => name.push('_'),
            other => name.push_str(&format!("%{other:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder of this test's own, which goes with the handle.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let unique = format!("evenkeel-store-{}-{:x}", std::process::id(), fastrand::u64(..));
            Folder(std::env::temp_dir().join(unique))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_server_has_its_folder() {
        for (directory, folder) in [
            (
                "https://acme-v02.api.letsencrypt.org/directory",
                "acme-v02.api.letsencrypt.org_directory",
            ),
            ("https://127.0.0.1:14000/dir", "127.0.0.1%3a14000_dir"),
            ("https://a/b_c", "a_b%5fc"),
            ("https://..", "%2e."),
        ] {
            assert_eq!(folder_of(directory), folder);
        }
    }

    #[test]
    fn files_are_whole_and_ours_alone() {
        let folder = Folder::new();
        let store = Store::new(&folder.0, "https://acme.example/dir");
        assert!(store.certificate("a.example").unwrap().is_none());
        for text in [b"first".as_slice(), b"second"] {
            store.keep_certificate("a.example", text).unwrap();
            assert_eq!(store.certificate("a.example").unwrap().unwrap(), text);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.folder()), 0o700);
        assert_eq!(mode(&store.certificate_path("a.example")), 0o600);
        let names = fs::read_dir(store.folder()).unwrap().count();
        assert_eq!(names, 1, "something was left behind");
    }

    #[test]
    fn one_orders_at_a_time() {
        let folder = Folder::new();
        let store = Store::new(&folder.0, "https://acme.example/dir");
        store.prepare().unwrap();
        let held = store.lock("a.example").unwrap();
        assert!(held.is_some());
        assert!(store.lock("a.example").unwrap().is_none());
        assert!(store.lock("b.example").unwrap().is_some());
        let account = store.lock_account().unwrap();
        assert!(account.is_some() && store.lock_account().unwrap().is_none());
        assert!(store.lock("account").unwrap().is_some());
        drop(held);
        assert!(store.lock("a.example").unwrap().is_some());
    }

    /// Two that write at once, and one that reads: it never sees a part of either.
    #[test]
    fn two_that_share_the_directory_do_not_tear_each_others_files() {
        let folder = Folder::new();
        let store = Store::new(&folder.0, "https://acme.example/dir");
        store.keep_certificate("a.example", &[b'a'; 50_000]).unwrap();
        std::thread::scope(|threads| {
            for letter in [b'a', b'b'] {
                let store = store.clone();
                threads.spawn(move || {
                    for _ in 0..20 {
                        store.keep_certificate("a.example", &[letter; 50_000]).unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let read = store.certificate("a.example").unwrap().unwrap();
                assert_eq!(read.len(), 50_000);
                assert!(read.iter().all(|byte| *byte == read[0]), "torn");
            }
        });
    }
}
