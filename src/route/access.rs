//! Who may come in, by network. An address is compared as what it is: an IPv4 client of a dual-stack
//! socket (`::ffff:10.0.0.1`) is an IPv4 client.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::model::Access;

/// `deny` wins; an empty `allow` is everybody. A client of a UNIX socket (`None`) has no network:
/// it passes only where `allow` is empty.
pub fn allows(access: &Access, client: Option<IpAddr>) -> bool {
    match client {
        Some(client) => {
            !within(&access.deny, client)
                && (access.allow.is_empty() || within(&access.allow, client))
        }
        None => access.allow.is_empty(),
    }
}

/// Whether one of `networks` holds `client`; for `trusted_proxies` too.
pub fn within(networks: &[IpNet], client: IpAddr) -> bool {
    let client = client.to_canonical();
    networks.iter().any(|network| match (network, client) {
        // A network may be written in the mapped form. `::/0` is not: it means IPv6 alone.
        (IpNet::V6(network), IpAddr::V4(client)) => {
            network.prefix_len() >= 96 && network.contains(&client.to_ipv6_mapped())
        }
        _ => network.contains(&client),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(allow: &[&str], deny: &[&str]) -> Access {
        let parse = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        Access { allow: parse(allow), deny: parse(deny) }
    }

    #[test]
    fn deny_wins_and_an_empty_allow_is_everybody() {
        let ten = ["10.0.0.0/8"].as_slice();
        let one = ["10.0.0.1/32"].as_slice();
        let mapped = ["::ffff:10.0.0.0/104"].as_slice();
        let six = ["2001:db8::/32"].as_slice();
        let all_six = ["::/0"].as_slice();
        for (allow, deny, client, allowed) in [
            ([].as_slice(), [].as_slice(), "192.0.2.1", true),
            (ten, &[], "10.1.2.3", true),
            (ten, &[], "11.0.0.0", false),
            (ten, one, "10.0.0.1", false),
            (ten, one, "10.0.0.2", true),
            (one, ten, "10.0.0.1", false),
            (&[], ten, "10.0.0.1", false),
            (&[], ten, "192.0.2.1", true),
            (&[], ten, "::ffff:10.0.0.1", false),
            (ten, &[], "::ffff:10.0.0.1", true),
            (mapped, &[], "10.0.0.1", true),
            (&[], mapped, "::ffff:10.0.0.1", false),
            (&[], mapped, "192.0.2.1", true),
            (six, &[], "2001:db8::1", true),
            (six, &[], "2001:db9::1", false),
            (six, &[], "10.0.0.1", false),
            (&[], all_six, "10.0.0.1", true),
            (&[], all_six, "::ffff:10.0.0.1", true),
            (&[], all_six, "::1", false),
        ] {
            let client = client.parse::<IpAddr>().unwrap();
            let found = allows(&access(allow, deny), Some(client));
            assert_eq!(found, allowed, "allow {allow:?} deny {deny:?} client {client}");
        }
    }

    #[test]
    fn a_unix_socket_has_no_network() {
        assert!(allows(&access(&[], &["0.0.0.0/0", "::/0"]), None));
        assert!(!allows(&access(&["0.0.0.0/0", "::/0"], &[]), None));
    }
}
