//! The route to the Service range, by route netlink.
//!
//! It leaves by the loopback device. A connect from the node itself needs some route before its packets
//! exist at all; a node may have no default route, and one that has must not send to its gateway what no
//! Service takes. Translated packets are routed anew, the rest is rejected before it meets the device.
//!
//! The route carries a protocol number of ours, by which it is known to be no one else's.

use std::io;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::api::Cidr;

/// Above the numbers that routing daemons have taken.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);
const LOOPBACK_INDEX: u32 = 1;

/// Puts the route in place, whatever an earlier run left.
pub(super) async fn install(service: Cidr) -> io::Result<()> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(service.network(), service.prefix_length())
        .output_interface(LOOPBACK_INDEX)
        .scope(RouteScope::Link)
        .protocol(PROTOCOL)
        .build();
    with_handle(async |handle| {
        handle.route().add(route).replace().execute().await.map_err(io::Error::other)
    })
    .await
}

/// Takes every route away that bears our protocol number.
pub(super) async fn remove() -> io::Result<()> {
    with_handle(async |handle| {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let listing = handle.route().get(all).execute();
        let routes: Vec<RouteMessage> = listing.try_collect().await.map_err(io::Error::other)?;
        for route in routes.into_iter().filter(|route| route.header.protocol == PROTOCOL) {
            handle.route().del(route).execute().await.map_err(io::Error::other)?;
        }
        Ok(())
    })
    .await
}

/// Runs the work beside the connection that carries it; both end together.
async fn with_handle(work: impl AsyncFnOnce(Handle) -> io::Result<()>) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::select! {
        result = work(handle) => result,
        () = connection => Err(io::Error::other("the route socket closed")),
    }
}
