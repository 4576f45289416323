//! Starting one container: image, environment, identity, volumes, then the shim.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use super::super::images::{Image, Reference};
use super::super::pod::env::{ConfigError, Surroundings, environment};
use super::super::pod::oci::{Ingredients, Qos, build};
use super::super::pod::plan::id;
use super::super::pod::user;
use super::super::shim::{ContainerPhase, StartRequest};
use super::super::{host, volumes};
use super::{Worker, off_thread};
use crate::api::kinds::CONFIG_MAP;
use crate::api::{Key, Status};
use crate::client::Severity;

/// Looking for a missing image is cheap, and somebody may just have imported it.
const IMAGE_AGAIN_MS: i64 = 3_000;
const CONFIG_AGAIN_MS: i64 = 3_000;
const CREATE_AGAIN_MS: i64 = 10_000;

/// Why a container was not started, in Kubernetes' word and ours, and when to try again.
struct Failure {
    reason: &'static str,
    message: String,
    again_ms: i64,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { reason: "CreateContainerConfigError", message: error.0, again_ms: CONFIG_AGAIN_MS }
    }
}

fn create_error(message: impl ToString) -> Failure {
    Failure {
        reason: "CreateContainerError",
        message: message.to_string(),
        again_ms: CREATE_AGAIN_MS,
    }
}

impl Worker {
    /// Starts a container's next attempt, or remembers why not.
    pub(super) async fn start(&mut self, name: &str, attempt: u32) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let container = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .find(|container| container.name == name);
        let Some(container) = container else { return };
        match self.try_start(&spec, container, attempt).await {
            Ok(()) => {
                self.memory.waits.remove(name);
                self.event(Severity::Normal, "Started", format!("Started container {name}"));
            }
            Err(failure) => {
                let known = self.memory.waits.get(name);
                let news = known.is_none_or(|wait| wait.message != failure.message);
                if news {
                    self.report(name, container, &failure);
                }
                self.fail(name, failure.reason, failure.message, failure.again_ms);
            }
        }
    }

    fn report(&self, name: &str, container: &Container, failure: &Failure) {
        let image = container.image.as_deref().unwrap_or("");
        let text = match failure.reason {
            "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" => {
                format!("Failed to pull image \"{image}\": {}", failure.message)
            }
            _ => format!("Error: {} (container {name})", failure.message),
        };
        self.event(Severity::Warning, "Failed", text);
    }

    async fn try_start(
        &mut self,
        spec: &PodSpec,
        container: &Container,
        attempt: u32,
    ) -> Result<(), Failure> {
        let (reference, image) = self.image(container).await?;
        let around = self.surroundings(spec).await?;
        let request = self.request(spec, container, attempt, &reference, image, &around).await?;
        let id = request.id.clone();
        let outcome = self.shim.start(request).await;
        // The shim's word, not the watch's, which may lag.
        match self.shim.state().await {
            Ok(state) => self.state = state,
            Err(error) => self.shim_failed(&error).await,
        }
        let Err(error) = outcome else { return Ok(()) };
        let message = error.to_string();
        match self.state.containers.get(&id).map(|one| &one.phase) {
            // It counts as an attempt that ended at once; the restart policy decides what is next.
            Some(ContainerPhase::Failed { .. }) => {
                let text =
                    format!("Error: failed to start container \"{}\": {message}", container.name);
                self.event(Severity::Warning, "Failed", text);
                Ok(())
            }
            _ => Err(create_error(message)),
        }
    }

    async fn image(&self, container: &Container) -> Result<(Reference, Image), Failure> {
        let text = container.image.as_deref().unwrap_or("");
        let reference = Reference::parse(text).map_err(|error| Failure {
            reason: "InvalidImageName",
            message: error.to_string(),
            again_ms: CREATE_AGAIN_MS,
        })?;
        let (store, wanted) = (self.shared.images.clone(), reference.clone());
        let found = off_thread(move || store.find(&wanted)).await;
        let pull = container.image_pull_policy.as_deref();
        match found {
            Ok(Some(image)) => {
                let text = format!("Container image \"{text}\" already present on machine");
                self.event(Severity::Normal, "Pulled", text);
                Ok((reference, image))
            }
            Ok(None) if pull == Some("Never") => Err(Failure {
                reason: "ErrImageNeverPull",
                message: format!(
                    "Container image \"{text}\" is not present with pull policy of Never; import it \
                     with: orchestrator image import FILE"
                ),
                again_ms: IMAGE_AGAIN_MS,
            }),
            Ok(None) => Err(Failure {
                reason: "ErrImagePull",
                message: format!(
                    "image {reference} is not on this node and pulling from registries is not built \
                     yet; import it with: orchestrator image import FILE"
                ),
                again_ms: IMAGE_AGAIN_MS,
            }),
            Err(error) => Err(create_error(error)),
        }
    }

    /// Fetches what the container's configuration refers to.
    async fn surroundings(&self, spec: &PodSpec) -> Result<Surroundings, Failure> {
        let mut config_maps = BTreeMap::new();
        let namespace = self.key.namespace.as_deref().unwrap_or("default");
        for name in volumes::config_maps(spec) {
            let key = Key::namespaced(namespace, name.as_str());
            match self.shared.registry().get(&CONFIG_MAP, &key).await {
                Ok(object) => {
                    config_maps.insert(name, data(object.get("/data")));
                }
                // Whoever needs it says so, unless it is optional.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(unavailable(&name, &error)),
            }
        }
        let config = &self.shared.config;
        Ok(Surroundings {
            pod_ip: self.host_or_pod_address().map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: config.node_ip.to_string(),
            node_name: config.node_name.clone(),
            config_maps,
            services: config.api_variables(),
            node_cpu_milli: host::processors().saturating_mul(1000),
            node_memory: host::memory(),
        })
    }

    async fn request(
        &self,
        spec: &PodSpec,
        container: &Container,
        attempt: u32,
        reference: &Reference,
        image: Image,
        around: &Surroundings,
    ) -> Result<StartRequest, Failure> {
        let id = id(&container.name, attempt);
        let store = self.shared.images.clone();
        let (pod, dir, around, message) =
            (self.pod.clone(), self.dir.clone(), around.clone(), id.clone());
        let prepared = off_thread(move || {
            let config = store.config(&image).map_err(create_error)?;
            let files = ["etc/passwd", "etc/group"].map(|path| store.read_file(&image, path));
            let to_failure = |error| match error {
                volumes::VolumeError::Config(error) => Failure::from(error),
                error @ volumes::VolumeError::Disk { .. } => create_error(error),
            };
            volumes::prepare(&pod, &dir, &around).map_err(to_failure)?;
            volumes::make_message_file(&dir, &message).map_err(to_failure)?;
            Ok::<_, Failure>((store, image, config, files, around))
        });
        let (store, image, config, [passwd, group], around) = prepared.await?;
        let environment = environment(&self.pod, container, &around)?;
        let identity =
            user::resolve(spec, container, &config.user, passwd.as_deref(), group.as_deref())?;
        let binds = volumes::binds(spec, container, &self.dir, &id)?;
        let cgroup = format!("{}/{id}", self.cgroup);
        let (oci, seccomp) = build(&Ingredients {
            spec,
            container,
            image: &config,
            environment: &environment,
            user: &identity,
            binds: &binds,
            shm: self.dir.join("shm"),
            hostname: &self.hostname(),
            cgroup: &cgroup,
            qos: Qos::of(spec),
            host: &self.shared.host,
        })?;
        Ok(StartRequest {
            name: container.name.clone(),
            attempt,
            image: container.image.clone().unwrap_or_default(),
            image_id: format!("{}@{}", reference.name(), image.manifest),
            spec: oci,
            layers_dir: store.layers_dir(),
            layers: store.layer_names(&image),
            use_file: store.use_file(&image),
            log: self.log_file(&container.name, attempt),
            cgroup,
            seccomp,
            id,
        })
    }
}

fn unavailable(name: &str, error: &Status) -> Failure {
    Failure {
        reason: "CreateContainerConfigError",
        message: format!("configmap \"{name}\": {error}"),
        again_ms: CONFIG_AGAIN_MS,
    }
}

fn data(value: Option<&Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(fields)) = value else { return BTreeMap::new() };
    fields.iter().filter_map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned()))).collect()
}
