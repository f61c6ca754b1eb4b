//! Loopback addresses that nobody else uses.
//!
//! Each call gives another address of 127.0.0.0/8, so that a backend that was killed finds its port
//! free when it comes back: no other test, and no outgoing connection, is on that address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// An address of this process's own, by its number within the process.
pub fn own_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    // 127.64.0.0 to 127.127.255.255; two test processes at a time rarely share one, and the ports
    // are still the kernel's choice.
    let number = (pid.wrapping_mul(0x9e37).wrapping_add(n)) & 0x003f_ffff;
    let [_, a, b, c] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 | a, b, c))
}

/// An address and port to be listened on by somebody who cannot be asked for the port it got.
pub fn free_address() -> SocketAddr {
    let probe = TcpListener::bind((own_ip(), 0)).expect("a loopback address can be bound");
    probe.local_addr().expect("a bound socket has an address")
}

/// An address where connections are refused.
pub fn refusing_address() -> SocketAddr {
    free_address()
}
