//! The rtnetlink side: making, wiring and removing links, addresses and routes.
//!
//! A netlink socket belongs to the network namespace of the thread that opened it. What happens on
//! the node runs where the caller runs; what happens in a pod runs on a thread made for it, which
//! enters the namespace and ends.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder, new_connection,
};

use super::{NetworkConfig, NetworkError, kernel};
use crate::api::Cidr;

/// Runs `operation` with a netlink connection of its own.
async fn with_netlink<T, F: Future<Output = Result<T, NetworkError>>>(
    operation: impl FnOnce(Handle) -> F,
) -> Result<T, NetworkError> {
    let (connection, handle, _messages) = new_connection().map_err(kernel("netlink"))?;
    tokio::select! {
        () = connection => Err(kernel("netlink")(io::ErrorKind::ConnectionAborted.into())),
        outcome = operation(handle) => outcome,
    }
}

fn failed(context: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |error| kernel(context)(to_io(error))
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn is(error: &rtnetlink::Error, errno: nix::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.to_io().raw_os_error() == Some(errno as i32))
}

async fn index_of(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is(&error, nix::Error::ENODEV) => Ok(None),
        Err(error) => Err(failed(name)(error)),
    }
}

/// The node's end of a pod's pair: short, and derivable from the uid alone.
pub(super) fn host_link(uid: &str) -> String {
    let hex: String = uid.chars().filter(char::is_ascii_hexdigit).collect();
    // The tail of a random uid is as unique as its head, and differs for made-up uids in tests.
    format!("ve{}", &hex[hex.len().saturating_sub(12)..])
}

/// A hardware address that says the IP address, so that stale neighbour entries are never wrong.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    [&[0x0a, 0x58][..], &address.octets()].concat()
}

/// Makes the bridge, its address, and the refusing route for the cluster's range.
pub(super) async fn ensure_bridge(
    config: &NetworkConfig,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    with_netlink(async |handle| {
        let name = config.bridge.as_str();
        if index_of(&handle, name).await?.is_none() {
            let bridge = LinkBridge::new(name).address(hardware_address(gateway)).up().build();
            match handle.link().add(bridge).execute().await {
                Err(error) if !is(&error, nix::Error::EEXIST) => return Err(failed(name)(error)),
                _ => {}
            }
        }
        let index = index_of(&handle, name)
            .await?
            .ok_or_else(|| kernel(name)(io::ErrorKind::NotFound.into()))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.map_err(failed(name))?;
        handle
            .address()
            .add(index, gateway.into(), config.pod_cidr.prefix_length())
            .replace()
            .execute()
            .await
            .map_err(failed(format!("{name}: address {gateway}")))?;
        let refuse = unreachable_route(config.cluster_cidr);
        handle
            .route()
            .add(refuse)
            .replace()
            .execute()
            .await
            .map_err(failed(format!("unreachable route {}", config.cluster_cidr)))
    })
    .await
}

/// Its metric is the worst there is: any real route to the same range wins.
fn unreachable_route(range: Cidr) -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.network(), range.prefix_length())
        .kind(RouteType::Unreachable)
        .scope(RouteScope::Universe)
        .priority(u32::MAX)
        .build()
}

/// Makes the pair with one end in `netns`, and plugs the other into the bridge.
pub(super) async fn connect(
    config: &NetworkConfig,
    uid: &str,
    netns: &OwnedFd,
) -> Result<(), NetworkError> {
    let name = host_link(uid);
    with_netlink(async |handle| {
        let bridge = index_of(&handle, &config.bridge)
            .await?
            .ok_or_else(|| kernel(config.bridge.clone())(io::ErrorKind::NotFound.into()))?;
        if let Some(stale) = index_of(&handle, &name).await? {
            handle.link().del(stale).execute().await.map_err(failed(name.clone()))?;
        }
        let inside = LinkMessageBuilder::<LinkUnspec>::new()
            .name("eth0".to_owned())
            .append_extra_attribute(LinkAttribute::NetNsFd(netns.as_raw_fd()))
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(&name, "eth0")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .controller(bridge)
            .up()
            .build();
        handle.link().add(pair).execute().await.map_err(failed(name.clone()))?;
        let index = index_of(&handle, &name)
            .await?
            .ok_or_else(|| kernel(name.clone())(io::ErrorKind::NotFound.into()))?;
        let port = LinkBridgePort::new(index).hairpin(true).build();
        handle.link().set_port(port).execute().await.map_err(failed(format!("{name}: hairpin")))
    })
    .await
}

/// Inside the pod: loopback, the address, the default route.
pub(super) async fn configure(
    netns: OwnedFd,
    address: Ipv4Addr,
    range: Cidr,
    gateway: Ipv4Addr,
) -> Result<(), NetworkError> {
    in_namespace(netns, move || async move {
        with_netlink(async |handle| {
            // Loopback is the first link of every namespace.
            let lo = LinkUnspec::new_with_index(1).up().build();
            handle.link().set(lo).execute().await.map_err(failed("lo"))?;
            let index = index_of(&handle, "eth0")
                .await?
                .ok_or_else(|| kernel("eth0")(io::ErrorKind::NotFound.into()))?;
            let link =
                LinkUnspec::new_with_index(index).address(hardware_address(address)).up().build();
            handle.link().set(link).execute().await.map_err(failed("eth0"))?;
            handle
                .address()
                .add(index, address.into(), range.prefix_length())
                .replace()
                .execute()
                .await
                .map_err(failed(format!("eth0: address {address}")))?;
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
            handle
                .route()
                .add(route)
                .replace()
                .execute()
                .await
                .map_err(failed(format!("default route by {gateway}")))
        })
        .await
    })
    .await
}

/// Runs a future on a thread of its own that has entered `netns`.
async fn in_namespace<F: Future<Output = Result<(), NetworkError>>>(
    netns: OwnedFd,
    operation: impl FnOnce() -> F + Send + 'static,
) -> Result<(), NetworkError> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("pod-netns".to_owned())
        .spawn(move || {
            let run = || {
                setns(&netns, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| kernel("entering the pod's network")(errno.into()))?;
                tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build()
                    .map_err(kernel("a runtime for netlink"))?
                    .block_on(operation())
            };
            // Nobody waits any more if the caller was cancelled.
            let _ = done.send(run());
        })
        .map_err(kernel("a thread for the pod's network"))?;
    outcome.await.unwrap_or_else(|_| {
        Err(kernel("the pod's network")(io::Error::other("its thread ended early")))
    })
}

/// Removes the node's end of a pod's pair, and the pod's with it.
pub(super) async fn disconnect(uid: &str) -> Result<(), NetworkError> {
    let name = host_link(uid);
    with_netlink(async |handle| {
        let Some(index) = index_of(&handle, &name).await? else { return Ok(()) };
        match handle.link().del(index).execute().await {
            Err(error) if !is(&error, nix::Error::ENODEV) => Err(failed(name.clone())(error)),
            _ => Ok(()),
        }
    })
    .await
}

/// Removes every link on the bridge, the bridge, and the refusing route.
pub(super) async fn remove_all(bridge: &str, range: Option<Cidr>) -> Result<(), NetworkError> {
    with_netlink(async |handle| {
        if let Some(index) = index_of(&handle, bridge).await? {
            let links: Vec<_> =
                handle.link().get().execute().try_collect().await.map_err(failed("links"))?;
            let ports = links
                .iter()
                .filter(|link| link.attributes.contains(&LinkAttribute::Controller(index)));
            for doomed in ports.map(|link| link.header.index).chain([index]) {
                match handle.link().del(doomed).execute().await {
                    Err(error) if !is(&error, nix::Error::ENODEV) => {
                        return Err(failed(bridge)(error));
                    }
                    _ => {}
                }
            }
        }
        if let Some(range) = range {
            match handle.route().del(unreachable_route(range)).execute().await {
                Err(error) if !is(&error, nix::Error::ESRCH) => {
                    return Err(failed(format!("unreachable route {range}"))(error));
                }
                _ => {}
            }
        }
        Ok(())
    })
    .await
}

/// Ranges that the node's main table routes, with the link or kind of route.
pub(super) async fn routed_ranges() -> Result<Vec<(Cidr, String)>, NetworkError> {
    use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader};
    with_netlink(async |handle| {
        let links: Vec<_> =
            handle.link().get().execute().try_collect().await.map_err(failed("links"))?;
        let name_of = |index: u32| {
            let link = links.iter().find(|link| link.header.index == index)?;
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            })
        };
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<_> =
            handle.route().get(all).execute().try_collect().await.map_err(failed("routes"))?;
        let mut ranges = Vec::new();
        for route in routes {
            let table = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Table(table) => Some(*table),
                _ => None,
            });
            if table.unwrap_or_else(|| route.header.table.into())
                != u32::from(RouteHeader::RT_TABLE_MAIN)
            {
                continue;
            }
            let target = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
                _ => None,
            });
            let link = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => name_of(*index),
                _ => None,
            });
            let Some(target) = target else { continue };
            let text = format!("{target}/{}", route.header.destination_prefix_length);
            if let Ok(range) = text.parse::<Cidr>() {
                ranges.push((range, link.unwrap_or_else(|| "unreachable".to_owned())));
            }
        }
        Ok(ranges)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel_and_differ() {
        let one = host_link("6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f6");
        let two = host_link("6f1c2a34-5b6c-4d7e-8f90-a1b2c3d4e5f7");
        assert!(one.len() <= 15 && one != two, "{one} {two}");
    }
}
