//! Large bodies stream: in a bounded memory, at the pace of the slower side, and an answer may come
//! before its request has ended.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Ask, Backend, Conn, PATIENCE, Proxy, RawBackend, setup};

const SIZE: u64 = 64 << 20;
const PIECE: usize = 64 << 10;
/// What the kernel may hold of a stream, in the sockets on its way.
const IN_KERNEL: u64 = 40 << 20;
/// What the process may grow by.
const GROWTH: u64 = 8 << 20;

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 16) as u8
}

/// Writes `SIZE` bytes; `written` is how far it came.
fn fill(mut to: &TcpStream, written: &AtomicU64) {
    let mut at = 0;
    while at < SIZE {
        let piece: Vec<u8> = (at..at + PIECE as u64).map(byte).collect();
        to.write_all(&piece).expect("it is taken");
        at = written.fetch_add(PIECE as u64, Ordering::Relaxed) + PIECE as u64;
    }
}

/// Reads `SIZE` bytes and checks each.
fn check(mut from: impl Read) {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < SIZE {
        from.read_exact(&mut piece).expect("all bytes come");
        let right = piece.iter().zip(at..).all(|(&found, at)| found == byte(at));
        assert!(right, "other bytes after {at}");
        at += PIECE as u64;
    }
}

/// Waits until a writer's progress has stopped for a good while, short of the end.
#[track_caller]
fn assert_stalls(written: &AtomicU64) {
    let began = Instant::now();
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_millis(300) {
        let now = written.load(Ordering::Relaxed);
        assert!(now < IN_KERNEL, "{now} bytes were taken though nobody reads them");
        assert!(began.elapsed() < PATIENCE, "not one byte was taken");
        if now != last {
            (last, since) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn start() -> (RawBackend, Proxy, Conn) {
    let backend = RawBackend::open();
    let config = setup().set("workers: 1").http("web", "web").pool("web", [&backend], "");
    let proxy = Proxy::start(config);
    // What is only loaded and allocated once is not to count.
    let mut conn = Conn::open(proxy.address("web")).unwrap();
    conn.send(Ask::post("/").body("x").header("Connection", "close").bytes()).unwrap();
    let mut peer = backend.accept();
    let head = peer.head();
    peer.body(&head);
    peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    conn.answer("POST").unwrap();
    let conn = Conn::open(proxy.address("web")).unwrap();
    (backend, proxy, conn)
}

#[test]
fn a_large_answer_is_read_no_faster_than_its_client_takes_it() {
    let (backend, proxy, mut conn) = start();
    let before = proxy.memory_bytes("VmRSS");
    conn.send(Ask::get("/").bytes()).unwrap();
    let mut peer = backend.accept();
    peer.head();
    let written = Arc::new(AtomicU64::new(0));
    let writer = thread::spawn({
        let written = written.clone();
        move || {
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            fill(peer.stream(), &written);
            peer
        }
    });
    assert_eq!(conn.head().unwrap().status, 200);
    assert_stalls(&written);
    let first = conn.bytes(PIECE).unwrap();
    assert!(first.iter().zip(0..).all(|(&found, at)| found == byte(at)));
    let mut rest = conn.bytes((SIZE as usize) - PIECE).unwrap().into_iter().zip(PIECE as u64..);
    assert!(rest.all(|(found, at)| found == byte(at)));
    writer.join().unwrap();
    let grown = proxy.memory_bytes("VmHWM").saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more for an answer of {SIZE}");
}

#[test]
fn a_large_request_is_read_no_faster_than_its_backend_takes_it() {
    let (backend, proxy, mut conn) = start();
    let before = proxy.memory_bytes("VmRSS");
    let written = Arc::new(AtomicU64::new(0));
    let writer = thread::spawn({
        let written = written.clone();
        move || {
            let ask = Ask::post("/").header("Content-Length", &SIZE.to_string());
            conn.send(ask.bytes()).unwrap();
            fill(conn.stream(), &written);
            conn
        }
    });
    let mut peer = backend.accept();
    peer.head();
    assert_stalls(&written);
    check(&mut Bytes(&mut peer));
    let mut conn = writer.join().unwrap();
    peer.answer("got it");
    assert_eq!(conn.answer("POST").unwrap().text(), "got it");
    let grown = proxy.memory_bytes("VmHWM").saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more for a request of {SIZE}");
}

struct Bytes<'a>(&'a mut crate::harness::RawPeer);

impl Read for &mut Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        buffer.copy_from_slice(&self.0.bytes(buffer.len()));
        Ok(buffer.len())
    }
}

#[test]
fn an_answer_may_begin_before_its_request_has_ended() {
    let (backend, _proxy, mut conn) = start();
    let ask = Ask::post("/").header("Content-Length", "15");
    conn.send(ask.bytes()).unwrap();
    conn.send("first").unwrap();
    let mut peer = backend.accept();
    peer.head();
    assert_eq!(peer.bytes(5), b"first");
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\nFIRST");
    assert_eq!(conn.head().unwrap().status, 200);
    assert_eq!(conn.bytes(5).unwrap(), b"FIRST");
    // Both go on, in turns.
    conn.send("again").unwrap();
    assert_eq!(peer.bytes(5), b"again");
    peer.send("AGAIN");
    assert_eq!(conn.bytes(5).unwrap(), b"AGAIN");
    conn.send("third").unwrap();
    assert_eq!(peer.bytes(5), b"third");
    peer.send("THIRD");
    assert_eq!(conn.bytes(5).unwrap(), b"THIRD");
}

#[test]
fn a_whole_answer_before_the_request_has_ended_reaches_its_client() {
    for act in ["early", "early_close"] {
        let backend = Backend::doing("a", act);
        let proxy = Proxy::start(setup().http("web", "web").pool("web", [&backend], ""));
        for _ in 0..10 {
            let mut conn = Conn::open(proxy.address("web")).unwrap();
            let ask = Ask::post("/").header("Content-Length", "300000");
            conn.send(ask.bytes()).unwrap();
            conn.send([b'x'; 1000]).unwrap();
            // The client sends the rest when it has its answer.
            let answer = conn.answer("POST").unwrap();
            assert_eq!((answer.status, answer.json()["backend"].as_str()), (200, Some("a")));
            // It may be cut: nobody wants it any more.
            let _ = conn.send(vec![b'x'; 299_000]);
        }
        proxy.wait_at_rest();
    }
}

#[test]
fn a_client_that_sends_on_regardless_reads_the_early_answer_too() {
    let backend = Backend::doing("a", "early");
    let proxy = Proxy::start(setup().http("web", "web").pool("web", [&backend], ""));
    for _ in 0..10 {
        let mut conn = Conn::open(proxy.address("web")).unwrap();
        let answer = conn.ask(&Ask::post("/").body(vec![b'x'; 2_000_000])).unwrap();
        assert_eq!(answer.status, 200);
    }
    proxy.wait_at_rest();
}
