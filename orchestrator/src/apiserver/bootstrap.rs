//! Objects that every cluster has: four namespaces, and the `kubernetes` service with the slice
//! that leads to this server.
//!
//! They are made when missing and mended when changed: at start, and again whenever one of them is
//! touched or removed, as the watches tell. Every server does this and none needs to lead, because
//! each step is a create that may find the object there, or a change that may change nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::{FieldSelector, Key, Kind, Object, Selector, Status, kinds};
use crate::registry::{Actor, Event, ListOptions, Part, Registry, WatchOptions, WriteOptions};

/// The namespaces that components count on.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// Name of the service, of its slice, and of the name space they are in.
const SERVICE: &str = "kubernetes";
const NAMESPACE: &str = "default";
/// Pause after the store refused.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the objects as they should be until `stop`.
pub(crate) async fn keep(registry: &Registry, advertise: SocketAddr, stop: &CancellationToken) {
    let actor = Actor::system("system:apiserver");
    while !stop.is_cancelled() {
        // The watch begins at a revision from before the look, so that nothing falls in between.
        let round = async {
            let revision = now(registry).await?;
            ensure(registry, &actor, advertise).await?;
            changed(registry, revision).await
        };
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = round => outcome,
        };
        if let Err(status) = outcome {
            tracing::warn!("cannot keep the cluster's own objects: {status}");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

/// The newest revision.
async fn now(registry: &Registry) -> Result<i64, Status> {
    let one = ListOptions { limit: 1, ..ListOptions::default() };
    Ok(registry.list(&kinds::NAMESPACE, None, &one).await?.resource_version)
}

/// Makes what is missing and mends what is wrong.
async fn ensure(registry: &Registry, actor: &Actor, advertise: SocketAddr) -> Result<(), Status> {
    for name in NAMESPACES {
        exists(registry, actor, &kinds::NAMESPACE, &Key::cluster(name), |_| {}).await?;
    }
    let key = Key::namespaced(NAMESPACE, SERVICE);
    let address = registry.config().service_cidr.nth(1);
    let service = service(address.map(IpAddr::from), advertise.port());
    let wish = |object: &mut Object| object.set("/spec", service.clone());
    exists(registry, actor, &kinds::SERVICE, &key, wish).await?;
    mended(registry, actor, &kinds::ENDPOINT_SLICE, &key, &slice(advertise)).await
}

/// Creates the object unless it is there.
async fn exists(
    registry: &Registry,
    actor: &Actor,
    kind: &'static Kind,
    key: &Key,
    wish: impl Fn(&mut Object),
) -> Result<(), Status> {
    match registry.get(kind, key).await {
        Ok(_) => return Ok(()),
        Err(status) if status.is_not_found() => {}
        Err(status) => return Err(status),
    }
    let mut object = Object::new(kind, key);
    if *kind == kinds::SERVICE {
        object.set_label("component", "apiserver");
        object.set_label("provider", "kubernetes");
    }
    wish(&mut object);
    match registry.create(actor, kind, object, &WriteOptions::strict()).await {
        Err(status) if !status.is_already_exists() => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Creates the object, or gives its fields the wished values.
async fn mended(
    registry: &Registry,
    actor: &Actor,
    kind: &'static Kind,
    key: &Key,
    wish: &[(&str, Value)],
) -> Result<(), Status> {
    let apply = |object: &mut Object| {
        object.set_label("kubernetes.io/service-name", SERVICE);
        for (pointer, value) in wish {
            object.set(pointer, value.clone());
        }
    };
    exists(registry, actor, kind, key, apply).await?;
    let change = |object: &mut Object| {
        apply(object);
        Ok(())
    };
    registry.modify(actor, kind, key, Part::Main, change).await.map(|_| ())
}

fn service(address: Option<IpAddr>, port: u16) -> Value {
    let mut spec = json!({
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
    });
    if let Some(address) = address {
        spec["clusterIP"] = json!(address.to_string());
    }
    spec
}

fn slice(advertise: SocketAddr) -> [(&'static str, Value); 3] {
    let family = if advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let ready = json!({"ready": true});
    [
        ("/addressType", json!(family)),
        ("/endpoints", json!([{"addresses": [advertise.ip().to_string()], "conditions": ready}])),
        ("/ports", json!([{"name": "https", "protocol": "TCP", "port": advertise.port()}])),
    ]
}

/// Waits until one of the objects changes after the revision, or a watch ends.
async fn changed(registry: &Registry, revision: i64) -> Result<(), Status> {
    let watch = |kind, namespace, name: Option<&str>| {
        let fields = name.map(FieldSelector::name).unwrap_or_default();
        let selector = Selector { fields, ..Selector::default() };
        let options = WatchOptions { selector, since: Some(revision), bookmarks: false };
        registry.watch(kind, namespace, options)
    };
    let mut namespaces = watch(&kinds::NAMESPACE, None, None).await?;
    let mut services = watch(&kinds::SERVICE, Some(NAMESPACE), Some(SERVICE)).await?;
    let mut slices = watch(&kinds::ENDPOINT_SLICE, Some(NAMESPACE), Some(SERVICE)).await?;
    loop {
        let event = tokio::select! {
            event = namespaces.recv() => event,
            event = services.recv() => event,
            event = slices.recv() => event,
        };
        match event.transpose()? {
            Some(Event::Added(object) | Event::Modified(object) | Event::Deleted(object)) => {
                let foreign =
                    object.kind() == kinds::NAMESPACE.kind && !NAMESPACES.contains(&object.name());
                if !foreign {
                    return Ok(());
                }
            }
            Some(Event::Bookmark(_)) => {}
            None => return Ok(()),
        }
    }
}
