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
