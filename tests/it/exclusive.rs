//! An exclusive pool never has a connection to two of its backends: whenever one of them is connected to,
//! the kernel has closed every connection to the other, whatever its clients were doing.

use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use socket2::SockRef;

use crate::harness::{Ask, Conn, PATIENCE, Proxy, eventually, free_address, setup};

/// Two databases of which each sees at once whether the other is connected to as well.
struct Pair {
    primary: [AtomicBool; 2],
    /// Of clients; those of probes do not count.
    open: [Mutex<Vec<TcpStream>>; 2],
    used: [AtomicU64; 2],
    both: AtomicU64,
}

impl Pair {
    fn start() -> (Arc<Pair>, [SocketAddr; 2]) {
        let pair = Arc::new(Pair {
            primary: [true.into(), false.into()],
            open: Default::default(),
            used: Default::default(),
            both: 0.into(),
        });
        let addresses = [0, 1].map(|me| {
            let listener = TcpListener::bind(free_address()).expect("an address");
            let at = listener.local_addr().expect("a bound socket has an address");
            let pair = pair.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // Looked at the moment it is accepted, before anything is read.
                    let others = pair.connected(1 - me);
                    let pair = pair.clone();
                    thread::spawn(move || pair.serve(me, others, stream));
                }
            });
            at
        });
        (pair, addresses)
    }

    /// The clients' connections to this one that are there at this moment.
    fn connected(&self, to: usize) -> Vec<TcpStream> {
        let mut open = self.open[to].lock().expect("no panic with it");
        open.retain(|stream| !is_closed(stream));
        open.iter().filter_map(|stream| stream.try_clone().ok()).collect()
    }

    /// `others`: connections to the other that were there when this one was accepted.
    fn serve(&self, me: usize, others: Vec<TcpStream>, mut stream: TcpStream) {
        // What was closed may be seen a moment late on a busy machine.
        let both = !others.is_empty() && {
            sleep(Duration::from_millis(30));
            others.iter().any(is_there)
        };
        drop(others);
        let mut requests = 0;
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            let probe = buffer[..bytes].starts_with(b"GET /healthz");
            requests += u32::from(!probe);
            if !probe && requests == 1 {
                self.used[me].fetch_add(1, SeqCst);
                let clone = stream.try_clone().expect("a descriptor");
                self.open[me].lock().expect("no panic with it").push(clone);
            }
            // One that waited to be accepted may have been closed long ago; a second request comes only
            // to one that was still there.
            if !probe && requests == 2 && both {
                self.both.fetch_add(1, SeqCst);
            }
            let status = if probe && !self.primary[me].load(SeqCst) { 503 } else { 200 };
            let answer = format!("HTTP/1.1 {status} Status\r\nContent-Length: 2\r\n\r\nok");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn peek(stream: &TcpStream) -> io::Result<usize> {
    // MSG_PEEK and MSG_DONTWAIT: another thread blocks on it.
    SockRef::from(stream).recv_with_flags(&mut [MaybeUninit::uninit()], 0x42)
}

/// Surely. Behind what was not read yet nothing can be seen.
fn is_closed(stream: &TcpStream) -> bool {
    match peek(stream) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Surely neither closed nor reset.
fn is_there(stream: &TcpStream) -> bool {
    peek(stream).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn whoever_is_connected_to_is_the_only_one() {
    let (pair, addresses) = Pair::start();
    let keys = format!(
        "backends: [\"{}\", \"{}\"], failover: {{exclusive: true}}, outlier: off, health_check: \
         {{http: {{path: /healthz}}, interval: 60ms, interval_unsettled: 30ms, timeout: 500ms, \
         fall: 1, rise: 1}}",
        addresses[0], addresses[1]
    );
    let config = setup().set("workers: 4").http("web", "db").tcp("raw", "db");
    let proxy = Proxy::start(config.pool_of("db", &keys));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let at = proxy.address(if number % 2 == 0 { "raw" } else { "web" });
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(SeqCst) {
                    let Ok(mut conn) = Conn::open(at) else { continue };
                    // Kept until it is cut, refused or has done its share.
                    for _ in 0..40 {
                        match conn.ask(&Ask::get("/write")) {
                            Ok(answer) if answer.status == 200 => {}
                            Ok(_) | Err(_) => break,
                        }
                    }
                    sleep(Duration::from_millis(1));
                }
            })
        })
        .collect();
    for switch in 0..12 {
        let (from, to) = (switch % 2, 1 - switch % 2);
        let before = pair.used[from].load(SeqCst);
        eventually("it is used", PATIENCE, || pair.used[from].load(SeqCst) > before + 20);
        // The next claims it first, at once, or some time later.
        if switch % 3 == 0 {
            pair.primary[to].store(true, SeqCst);
            sleep(Duration::from_millis(150));
        }
        pair.primary[from].store(false, SeqCst);
        sleep(Duration::from_millis(if switch % 3 == 1 { 150 } else { 0 }));
        pair.primary[to].store(true, SeqCst);
        let moves = [("cause", "failover")];
        proxy.wait_metric("evenkeel_failovers_total", &moves, f64::from(switch as u32 + 1));
    }
    let last = pair.used[0].load(SeqCst);
    eventually("the last is used", PATIENCE, || pair.used[0].load(SeqCst) > last + 20);
    stop.store(true, SeqCst);
    for client in clients {
        client.join().expect("no panic");
    }
    let used = pair.used.each_ref().map(|used| used.load(SeqCst));
    println!("connections: {used:?}");
    assert_eq!(pair.both.load(SeqCst), 0, "both were connected to at once; {used:?} connections");
    proxy.wait_at_rest();
}
