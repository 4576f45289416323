//! Telling the world: the pod's status, and events about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::super::pod::status::{Known, refused, status};
use super::{Worker, now_ms};
use crate::api::kinds::POD;
use crate::api::{Object, Status};
use crate::client::Severity;
use crate::client::view::ObjectRef;
use crate::registry::Part;

impl Worker {
    /// Writes the status if it differs from the last one written.
    pub(super) async fn tell(&mut self) {
        if !self.told.borrow().gone {
            let new = self.picture();
            self.write(new).await;
        }
    }

    /// The status as it should read now.
    fn picture(&self) -> Value {
        let host_ip = self.shared.config.node_ip.to_string();
        let address = self.host_or_pod_address().map(|address| address.to_string());
        let spec = self.pod.spec.clone().unwrap_or_default();
        let name =
            format!("{}_{}", self.key.name, self.key.namespace.as_deref().unwrap_or_default());
        let messages: BTreeMap<String, String> = self
            .messages
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(id, text)| (id.clone(), text.clone()))
            .collect();
        let known = Known {
            uid: &self.uid,
            name: &name,
            spec: &spec,
            wish: &self.wish,
            state: &self.state,
            memory: &self.memory,
            sandbox: self.sandbox,
            ready: &|id| self.probes.ready(id),
            started: &|id| self.probes.started(id),
            messages: &messages,
            pod_ip: address.as_deref(),
            host_ip: &host_ip,
            now_ms: now_ms(),
        };
        status(&known, &self.written)
    }

    /// Says why this pod does not run here.
    pub(super) async fn refuse(&mut self, fields: &[String]) {
        let message = format!("this node does not honour yet: {}", fields.join(", "));
        let new = refused(&self.written, "UnsupportedFields", &message);
        if new != self.written {
            self.event(Severity::Warning, "UnsupportedFields", message);
        }
        self.shared.running.publish(&self.object, &self.state);
        self.write(new).await;
    }

    async fn write(&mut self, new: Value) {
        self.retry = false;
        if new == self.written {
            return;
        }
        let fields = new.as_object().cloned().unwrap_or_default();
        let uid = self.uid.clone();
        let change = |object: &mut Object| {
            if object.uid() != uid {
                return Err(Status::not_found(&POD, object.name()));
            }
            // What was said before and is not true any more.
            for stale in ["reason", "message"] {
                if !fields.contains_key(stale) {
                    object.remove(&format!("/status/{stale}"));
                }
            }
            for (name, value) in &fields {
                if name == "conditions" {
                    for condition in value.as_array().into_iter().flatten() {
                        object.set_condition(condition.clone());
                    }
                } else {
                    object.set(&format!("/status/{name}"), value.clone());
                }
            }
            Ok(())
        };
        let shared = Arc::clone(&self.shared);
        match shared.registry().modify(&shared.actor, &POD, &self.key, Part::Status, change).await {
            Ok(object) => {
                self.written = new;
                // Newer than what the index told, or as new.
                if object.resource_version() > self.object.resource_version() {
                    self.object = Arc::new(object);
                }
            }
            // It was removed under our hands; the index will say so.
            Err(error) if error.is_not_found() => self.written = new,
            Err(error) => {
                tracing::warn!(pod = %self.key, %error, "the pod's status cannot be written");
                self.retry = true;
            }
        }
    }

    pub(super) fn event(&self, severity: Severity, reason: &str, message: String) {
        let about = ObjectRef {
            kind: &POD,
            key: self.key.clone(),
            uid: self.uid.clone(),
            revision: self.object.resource_version().unwrap_or(0),
        };
        self.shared.config.context.events.report("kubelet", &about, severity, reason, message);
    }
}
