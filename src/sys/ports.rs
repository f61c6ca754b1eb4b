//! The ports that the kernel gives to sockets that did not ask for one.

use std::fs;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

/// `net.ipv4.ip_local_port_range`, which is IPv6's as well. Read once a process: who widens it while
/// we run, restarts us. Every port where it cannot be read.
pub fn ephemeral() -> &'static RangeInclusive<u16> {
    static RANGE: LazyLock<RangeInclusive<u16>> = LazyLock::new(|| {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
        text.as_deref().and_then(parse).unwrap_or(0..=u16::MAX)
    });
    &RANGE
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = text.split_ascii_whitespace().map(|end| end.parse().ok());
    Some(ends.next()??..=ends.next()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_is_read_as_it_is_documented() {
        assert_eq!(parse("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse("32768"), None);
        assert_eq!(parse(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_of_the_kernel_s_choice_is_in_it() {
        let chosen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ephemeral().contains(&chosen.port()), "{chosen} {:?}", ephemeral());
    }
}
