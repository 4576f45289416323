//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
//! Removed or edited, they come back; a namespace that ends gets nothing new.

use serde_json::json;

use crate::api::kinds::{CONFIG_MAP, SERVICE_ACCOUNT};
use crate::api::{Key, Kind, Object};
use crate::client::view::{Meta, Namespace};
use crate::client::{Api, Cache, Context, Controller, Error, Next, Work};
use crate::registry::Part;

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";

/// See the module's text.
pub(super) struct Defaults {
    namespaces: Cache<Namespace>,
    root_ca: String,
}

impl Defaults {
    pub(super) fn new(context: &Context, root_ca: String) -> (Self, Work<Key>) {
        let work = Work::default();
        let namespaces: Cache<Namespace> = context.caches.get();
        namespaces.subscribe(super::work_of(&work));
        let watched: [(&'static Kind, &str); 2] =
            [(&SERVICE_ACCOUNT, ACCOUNT), (&CONFIG_MAP, ROOT_CA)];
        for (kind, name) in watched {
            let queue = work.clone();
            context.caches.any(kind).subscribe_meta(Box::new(move |old, _new| {
                // Its making needs no look: only we make it.
                if let Some(meta) = old.filter(|meta: &&Meta| meta.name == name) {
                    queue.add(Key::cluster(&meta.namespace));
                }
            }));
        }
        (Self { namespaces, root_ca }, work)
    }
}

impl Controller for Defaults {
    type Key = Key;
    const NAME: &'static str = "namespace-defaults-controller";

    fn keys(&self) -> Vec<Key> {
        self.namespaces.keys()
    }

    async fn reconcile(&self, key: &Key, api: &Api) -> Result<Next, Error> {
        let ending = |one: &Namespace| one.meta.is_deleting();
        if self.namespaces.get(key).is_none_or(|namespace| ending(&namespace)) {
            return Ok(Next::Await);
        }
        let account = Key::namespaced(&key.name, ACCOUNT);
        if api.get(&SERVICE_ACCOUNT, &account).await?.is_none() {
            let object = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": ACCOUNT, "namespace": key.name},
            });
            create(api, &SERVICE_ACCOUNT, object).await?;
        }
        self.publish_root_ca(&Key::namespaced(&key.name, ROOT_CA), api).await?;
        Ok(Next::Await)
    }
}

impl Defaults {
    async fn publish_root_ca(&self, key: &Key, api: &Api) -> Result<(), Error> {
        let data = json!({"ca.crt": self.root_ca});
        match api.get(&CONFIG_MAP, key).await? {
            None => {
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {
                        "name": key.name, "namespace": key.namespace,
                        "annotations": {"kubernetes.io/description": DESCRIPTION},
                    },
                    "data": data,
                });
                create(api, &CONFIG_MAP, object).await
            }
            Some(map) if map.get("/data") == Some(&data) => Ok(()),
            Some(_) => {
                let restore = |map: &mut Object| {
                    map.set("/data", data.clone());
                    Ok(())
                };
                api.modify(&CONFIG_MAP, key, Part::Main, restore).await.map(drop)
            }
        }
    }
}

const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when \
using internal endpoints such as the internal service IP or kubernetes.default.svc.";

/// Creates what nobody else should have made meanwhile; if somebody has, that is as good.
async fn create(api: &Api, kind: &'static Kind, object: serde_json::Value) -> Result<(), Error> {
    match api.create(kind, object).await {
        Err(Error::Refused(status)) if status.is_already_exists() => Ok(()),
        done => done.map(drop),
    }
}
