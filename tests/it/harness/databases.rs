//! Real database servers as child processes: PostgreSQL, Redis, MariaDB, each in a temporary folder and
//! on an address of its own.
//!
//! PostgreSQL does not run as root: where the tests do, it runs as the user that its package made.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::{Child, Folder, PATIENCE, Signal, address, program, skip};

const POSTGRES: &str = "/usr/lib/postgresql";
/// Names that PostgreSQL's package and ours agree on.
const SUPERUSER: &str = "postgres";

#[derive(Debug)]
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    pub folder: Folder,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

impl Server {
    /// What a client of it is told to be its address.
    pub fn ip(&self) -> String {
        self.address.ip().to_string()
    }

    /// Its log has no line that says this.
    #[track_caller]
    pub fn assert_log_without(&self, words: &[&str]) {
        let lines = self.child.lines();
        let found: Vec<_> =
            lines.iter().filter(|line| words.iter().any(|word| line.contains(word))).collect();
        assert!(found.is_empty(), "{found:#?}");
    }
}

/// PostgreSQL's programs, wherever they are: Debian's are in no PATH.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    user: Option<(u32, u32)>,
}

impl Postgres {
    /// `None`, and the test is skipped, if it is not installed.
    #[track_caller]
    pub fn find() -> Option<Postgres> {
        let versions = std::fs::read_dir(POSTGRES).into_iter().flatten().flatten();
        let folders = versions.map(|version| version.path().join("bin"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = folders.chain(std::env::split_paths(&path));
        let Some(programs) = folders.find(|folder| folder.join("initdb").is_file()) else {
            skip("the server of PostgreSQL is not installed");
            return None;
        };
        // SAFETY: plain system calls without arguments.
        let root = unsafe { libc::geteuid() } == 0;
        let user = root.then(user_of_the_package).flatten();
        if root && (user.is_none() || !program("setpriv")) {
            skip("PostgreSQL does not run as root, and there is no user `postgres`");
            return None;
        }
        Some(Postgres { programs, user })
    }

    fn command(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = match self.user {
            None => Command::new(program),
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={user}")).arg(format!("--regid={group}"));
                command.arg("--clear-groups").arg(program);
                command
            }
        };
        // Not the folder of the tests: its user may not be allowed in there.
        command.env("LC_ALL", "C").env_remove("PGPASSWORD").current_dir("/");
        command
    }

    fn folder(&self) -> Folder {
        let folder = Folder::new();
        if let Some((user, group)) = self.user {
            chown(folder.path(), Some(user), Some(group)).expect("we are root");
        }
        folder
    }

    /// A primary, with these lines as the whole of its pg_hba.conf for connections over TCP, beside
    /// those of the tests' own users.
    #[track_caller]
    pub fn primary(&self, hba: &str) -> Server {
        let folder = self.folder();
        let data = folder.path().join("data");
        let mut initdb = self.command("initdb");
        initdb.args(["--no-sync", "--no-instructions", "--auth=trust", "-U", SUPERUSER, "-D"]);
        succeed(initdb.arg(&data));
        let own = format!("host all {SUPERUSER},app 127.0.0.0/8 trust\n");
        let replication = format!("host replication {SUPERUSER} 127.0.0.0/8 trust\n");
        std::fs::write(data.join("pg_hba.conf"), format!("{own}{replication}{hba}\n"))
            .expect("the data folder can be written to");
        self.run(folder, address::free_address(), "")
    }

    /// A streaming replica of a primary, connected to it.
    #[track_caller]
    pub fn replica(&self, of: &Server) -> Server {
        let folder = self.folder();
        let (host, port) = (of.ip(), of.address.port().to_string());
        let mut backup = self.command("pg_basebackup");
        backup.args(["--no-sync", "-R", "-X", "stream", "-c", "fast", "-U", SUPERUSER]);
        backup.args(["-h", &host, "-p", &port, "-D"]);
        succeed(backup.arg(folder.path().join("data")));
        self.run(folder, address::free_address(), "")
    }

    /// Starts a server on the data in a folder.
    #[track_caller]
    pub fn run(&self, folder: Folder, address: SocketAddr, options: &str) -> Server {
        let mut command = self.command("postgres");
        command.arg("-D").arg(folder.path().join("data"));
        let folder_name = folder.path().display();
        for option in [
            format!("listen_addresses={}", address.ip()),
            format!("port={}", address.port()),
            format!("unix_socket_directories={folder_name}"),
            "fsync=off".into(),
            "shared_buffers=8MB".into(),
            "max_connections=40".into(),
            "dynamic_shared_memory_type=mmap".into(),
            // How long a promoted replica still waits for its primary that has gone: 5 s otherwise.
            "wal_retrieve_retry_interval=100ms".into(),
        ] {
            command.args(["-c", &option]);
        }
        command.args(options.split_whitespace());
        let mut child = Child::start("postgres", &mut command);
        child.wait_line(0, PATIENCE, |line| {
            let ready = line.contains("ready to accept") && line.contains("connections");
            ready.then_some(())
        });
        Server { child, address, folder }
    }

    /// SIGKILL, to its main process; the others notice and end. Its folder, for another start.
    pub fn kill(server: Server) -> (Folder, SocketAddr) {
        let Server { mut child, address, folder } = server;
        child.kill();
        forget_shared_memory(folder.path());
        (folder, address)
    }
}

/// Stops a server of PostgreSQL's so that it leaves nothing behind.
pub fn stop(mut server: Server) {
    server.child.signal(Signal::Interrupt);
    server.child.wait_exit(PATIENCE);
}

/// A server that was killed leaves a small segment of shared memory, named in its lock file.
fn forget_shared_memory(folder: &Path) {
    let lock = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
    let id = lock.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    if let Some(id) = id {
        // SAFETY: a system call without memory of ours; the segment goes with its last user.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

fn user_of_the_package() -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(SUPERUSER))?;
    let mut numbers = line.split(':').skip(2).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// A Redis server with further options, or `None` (and the test is skipped) if it is not installed.
#[track_caller]
pub fn redis(options: &str) -> Option<Server> {
    program("redis-server").then(|| redis_at(address::free_address(), options))
}

#[track_caller]
pub fn redis_at(address: SocketAddr, options: &str) -> Server {
    let folder = Folder::new();
    let mut command = Command::new("redis-server");
    command.arg("--bind").arg(address.ip().to_string());
    command.arg("--port").arg(address.port().to_string()).arg("--dir").arg(folder.path());
    command.args(["--save", "", "--protected-mode", "no", "--repl-diskless-sync-delay", "0"]);
    command.args(["--loglevel", "notice"]).args(options.split_whitespace());
    let mut child = Child::start("redis", &mut command);
    child.wait_line(0, PATIENCE, |line| line.contains("Ready to accept").then_some(()));
    Server { child, address, folder }
}

/// A MariaDB server that begins with these statements, or `None` if it is not installed.
#[track_caller]
pub fn mariadb(statements: &str) -> Option<Server> {
    if !program("mariadbd") || !program("mariadb-install-db") || !program("mariadb") {
        return None;
    }
    let folder = Folder::new();
    let data = folder.path().join("data");
    let user = user_name();
    let user = format!("--user={user}");
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
    succeed(install.arg(&user).arg(format!("--datadir={}", data.display())));
    let address = address::free_address();
    let init = folder.file("init.sql", statements);
    let mut command = Command::new("mariadbd");
    command.args(["--no-defaults", "--skip-log-bin", "--innodb-buffer-pool-size=8M"]).arg(user);
    command.arg(format!("--datadir={}", data.display()));
    command.arg(format!("--socket={}", socket(&folder).display()));
    command.arg(format!("--pid-file={}", folder.path().join("pid").display()));
    command.arg(format!("--init-file={}", init.display()));
    command.arg(format!("--bind-address={}", address.ip()));
    command.arg(format!("--port={}", address.port()));
    let mut child = Child::start("mariadb", &mut command);
    child.wait_line(0, PATIENCE, |line| line.contains("ready for connections").then_some(()));
    Some(Server { child, address, folder })
}

fn socket(folder: &Folder) -> PathBuf {
    folder.path().join("socket")
}

/// Who we are, for a server that wants to be told.
fn user_name() -> String {
    let named = Command::new("id").arg("-un").output().expect("id is everywhere");
    String::from_utf8_lossy(&named.stdout).trim().to_owned()
}

/// Lets MariaDB's own client say something as root.
#[track_caller]
pub fn tell_mariadb(server: &Server, statement: &str) -> String {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "-e"]);
    client.arg(statement).arg(format!("--socket={}", socket(&server.folder).display()));
    String::from_utf8_lossy(&succeed(&mut client).stdout).trim().to_owned()
}

#[track_caller]
fn succeed(command: &mut Command) -> Output {
    let began = Instant::now();
    let output = command.output().unwrap_or_else(|why| panic!("cannot start {command:?}: {why}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    assert!(began.elapsed() < Duration::from_secs(60), "{command:?} took {:?}", began.elapsed());
    output
}
