//! Clients of databases in a few lines, and writers that keep a ledger of what was acknowledged.
//!
//! They speak just enough: a login without a password, a command at a time, and what it gives.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{PATIENCE, eventually};

const SILENCE: Duration = Duration::from_secs(5);

/// A session of PostgreSQL's simple protocol.
#[derive(Debug)]
pub struct Postgresql {
    reader: BufReader<TcpStream>,
}

impl Postgresql {
    pub fn connect(to: SocketAddr, user: &str) -> io::Result<Postgresql> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let mut session = Postgresql { reader: BufReader::new(stream) };
        let hello = format!("\0\x03\0\0user\0{user}\0database\0postgres\0\0");
        session.send(&[], hello.as_bytes())?;
        session.until_ready()?;
        Ok(session)
    }

    /// The first column of each row.
    pub fn ask(&mut self, query: &str) -> io::Result<Vec<String>> {
        self.send(b"Q", format!("{query}\0").as_bytes())?;
        self.until_ready()
    }

    fn send(&mut self, kind: &[u8], body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        self.reader.get_mut().write_all(&[kind, &length, body].concat())
    }

    fn until_ready(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let mut head = [0; 5];
            self.reader.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
            self.reader.read_exact(&mut body)?;
            match kind {
                b'D' => rows.push(String::from_utf8_lossy(&body[6..]).into_owned()),
                b'E' => {
                    let said = String::from_utf8_lossy(&body).replace('\0', " ");
                    // A fatal one is the last message.
                    if said.contains("FATAL") {
                        return Err(io::Error::other(said));
                    }
                    failed = Some(said);
                }
                b'R' => assert_eq!(body[..4], [0; 4], "no password is expected"),
                b'Z' => return failed.map_or(Ok(rows), |said| Err(io::Error::other(said))),
                _ => {}
            }
        }
    }
}

/// A connection to Redis.
#[derive(Debug)]
pub struct Redis {
    reader: BufReader<TcpStream>,
}

impl Redis {
    pub fn connect(to: SocketAddr) -> io::Result<Redis> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Redis { reader: BufReader::new(stream) })
    }

    /// The answer of each command, all sent at once; an array's items with spaces between.
    pub fn ask(&mut self, commands: &[&str]) -> io::Result<Vec<String>> {
        let all = commands.iter().map(|command| format!("{command}\r\n")).collect::<String>();
        self.reader.get_mut().write_all(all.as_bytes())?;
        commands.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, text) = line.trim_end().split_at(1);
        let number = || text.parse::<usize>().map_err(io::Error::other);
        match kind {
            "-" => Err(io::Error::other(text.to_owned())),
            "$" if text == "-1" => Ok(String::new()),
            "$" => {
                let mut bytes = vec![0; number()? + 2];
                self.reader.read_exact(&mut bytes)?;
                Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
            }
            "*" => {
                let items: io::Result<Vec<String>> =
                    (0..number()?).map(|_| self.answer()).collect();
                Ok(items?.join(" "))
            }
            _ => Ok(text.to_owned()),
        }
    }
}

/// What writers write through.
pub trait Session: Sized {
    fn open(to: SocketAddr) -> io::Result<Self>;

    /// Writes an id, and says which server acknowledged that, by its IP address; `None` if it was
    /// written but is not safe yet.
    fn write(&mut self, id: &str) -> io::Result<Option<String>>;
}

impl Session for Postgresql {
    fn open(to: SocketAddr) -> io::Result<Postgresql> {
        Postgresql::connect(to, "app")
    }

    fn write(&mut self, id: &str) -> io::Result<Option<String>> {
        let query =
            format!("INSERT INTO ledger VALUES ('{id}') RETURNING host(inet_server_addr())");
        Ok(self.ask(&query)?.pop())
    }
}

impl Session for Redis {
    fn open(to: SocketAddr) -> io::Result<Redis> {
        Redis::connect(to)
    }

    /// Safe is what a replica has, too, or what a server without replicas has in these tests: the new
    /// master, which does not die.
    fn write(&mut self, id: &str) -> io::Result<Option<String>> {
        let push = format!("RPUSH ledger {id}");
        let answers = self.ask(&[&push, "WAIT 1 300", "CONFIG GET bind", "GET alone"])?;
        let bind = answers[2].rsplit(' ').next().unwrap_or_default().to_owned();
        Ok((answers[1] == "1" || answers[3] == bind).then_some(bind))
    }
}

#[derive(Clone, Debug)]
pub struct Ack {
    pub id: String,
    /// The IP address of who acknowledged it.
    pub server: String,
    pub acked: Instant,
}

/// Writers that go on until they are stopped, each over a connection that it makes anew when it breaks.
pub struct Writers {
    ledger: Arc<Mutex<Vec<Ack>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    pub fn start<S: Session>(to: SocketAddr, count: usize) -> Writers {
        let ledger: Arc<Mutex<Vec<Ack>>> = Arc::default();
        let stop: Arc<AtomicBool> = Arc::default();
        let threads = (0..count).map(|writer| {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            std::thread::spawn(move || write::<S>(to, writer, &ledger, &stop))
        });
        let threads = threads.collect();
        Writers { ledger, stop, threads }
    }

    pub fn acks(&self) -> Vec<Ack> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this server has acknowledged so many writes.
    #[track_caller]
    pub fn wait_acks(&self, server: &str, count: usize) {
        eventually(&format!("{server} acknowledges writes"), PATIENCE, || {
            self.acks().iter().filter(|ack| ack.server == server).count() >= count
        });
    }

    pub fn stop(self) -> Vec<Ack> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no writer panics");
        }
        let acks = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        acks.clone()
    }
}

fn write<S: Session>(to: SocketAddr, writer: usize, ledger: &Mutex<Vec<Ack>>, stop: &AtomicBool) {
    let mut session: Option<S> = None;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        if session.is_none() {
            session = S::open(to).ok();
        }
        // Never the same id twice: what broke off may have been written.
        number += 1;
        let id = format!("{writer}-{number}");
        match session.as_mut().map(|session| session.write(&id)) {
            Some(Ok(Some(server))) => {
                let ack = Ack { id, server, acked: Instant::now() };
                ledger.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
            }
            Some(Ok(None)) => {}
            Some(Err(_)) | None => session = None,
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Every acknowledged write is there once, and none is there twice.
#[track_caller]
pub fn assert_all_there(acks: &[Ack], there: &[String]) {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for id in there {
        *count.entry(id).or_default() += 1;
    }
    let lost: Vec<&Ack> = acks.iter().filter(|ack| !count.contains_key(&*ack.id)).collect();
    assert!(lost.is_empty(), "{} acknowledged writes are lost: {lost:#?}", lost.len());
    let twice: Vec<_> = count.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "written twice: {twice:?}");
}

/// Nobody could write to the new server before the last write to the old one was over. The time from
/// `since` to the first write that the new one acknowledged.
#[track_caller]
pub fn assert_one_after_the_other(acks: &[Ack], old: &str, new: &str, since: Instant) -> Duration {
    let by = |server: &str| acks.iter().filter(|ack| ack.server == server).collect::<Vec<_>>();
    let (old, new) = (by(old), by(new));
    let last = old.iter().max_by_key(|ack| ack.acked).expect("writes to the old one");
    let first = new.iter().min_by_key(|ack| ack.acked).expect("writes to the new one");
    assert!(first.acked > last.acked, "{last:?} after {first:?}");
    first.acked - since
}
