//! What this machine is called and which addresses it has.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::config::Ranges;
use crate::api::Cidr;
use crate::pki::Names;

/// The machine's name.
pub(super) fn name() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// Addresses by which others can reach this machine, in the interfaces' order. Not among them:
/// loopback, link-local, and the cluster's own bridge, which comes and goes with the node.
pub(super) fn addresses(cluster: Cidr) -> std::io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for interface in getifaddrs().map_err(std::io::Error::from)? {
        let usable = interface.flags.contains(InterfaceFlags::IFF_UP)
            && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let Some(storage) = interface.address.filter(|_| usable) else { continue };
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        addresses.extend(v4.or(v6).filter(|address| is_outside(*address, cluster)));
    }
    Ok(addresses)
}

fn is_outside(address: IpAddr, cluster: Cidr) -> bool {
    match address {
        IpAddr::V4(address) => !cluster.contains(address) && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

/// What this machine's certificates must name, when its API server listens on `api`.
pub(super) fn names(host: &str, node: &str, ranges: Ranges, api: IpAddr) -> std::io::Result<Names> {
    let mut addresses = addresses(ranges.cluster)?;
    addresses.push(ranges.bridge().into());
    addresses.extend(Some(api).filter(|ip| !ip.is_unspecified()));
    let (node, host) = (node.to_owned(), host.to_owned());
    Ok(Names { node, host, addresses, api_service: ranges.api_service() })
}

/// The address the `kubernetes` Service leads to when the API server listens on `api`: pods reach it by
/// any address of the machine but loopback.
pub(super) fn advertised(api: SocketAddr, ranges: Ranges) -> std::io::Result<SocketAddr> {
    if !api.ip().is_unspecified() && !api.ip().is_loopback() {
        return Ok(api);
    }
    let address = primary(&addresses(ranges.cluster)?, ranges.bridge());
    Ok(SocketAddr::new(address.into(), api.port()))
}

/// The address this machine is known by: the one its default route leaves from, else its first. A
/// machine that has none is reached from its pods by its address on the bridge.
pub(super) fn primary(addresses: &[IpAddr], bridge: Ipv4Addr) -> Ipv4Addr {
    let listed = |wanted: &Ipv4Addr| addresses.contains(&IpAddr::V4(*wanted));
    let first = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    by_default_route().filter(listed).or(first).unwrap_or(bridge)
}

/// Connecting a datagram socket sends nothing; it only asks the routes. The address is one of those
/// set aside for documentation, so only the default route leads to it.
fn by_default_route() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}
