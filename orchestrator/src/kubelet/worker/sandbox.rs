//! A pod's sandbox: made, adopted, lost, released, dismantled.

use std::time::Duration;

use super::super::pod::plan::SANDBOX;
use super::super::shim::{Sandbox, State};
use super::super::{cgroup, volumes};
use super::{Worker, mark_lost, off_thread};
use crate::client::Severity;

/// How long processes may take to die of SIGKILL.
const DEATH: Duration = Duration::from_secs(10);
/// Pause before a sandbox that failed is tried again.
const AGAIN_MS: i64 = 5_000;

impl Worker {
    /// Takes over what a former kubelet left: a living shim, or what a dead one recorded.
    pub(super) async fn adopt(&mut self) {
        if !self.dir.exists() {
            return;
        }
        match self.shim.watch().await {
            Ok(mut watch) => {
                if let Some(state) = watch.next().await {
                    tracing::info!(pod = %self.key, "adopted");
                    self.state = state;
                    self.watch = Some(watch);
                    self.sandbox = true;
                    self.address = self.known_address();
                }
            }
            Err(_) => {
                self.state = self.shim.recorded_state().unwrap_or_default();
                self.lost().await;
            }
        }
        self.learn();
    }

    fn known_address(&self) -> Option<std::net::Ipv4Addr> {
        if self.host_network() {
            return None;
        }
        self.shared.network.address(&self.uid).ok()
    }

    fn host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    }

    /// The host name inside the pod.
    pub(super) fn hostname(&self) -> String {
        if self.host_network() {
            return self.shared.config.node_name.clone();
        }
        let own = self.pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
        let mut name = own.filter(|name| !name.is_empty()).unwrap_or_else(|| self.key.name.clone());
        // The kernel's limit; the cut must not leave a dash or a dot at the end.
        name.truncate(63);
        name.trim_end_matches(['-', '.']).to_owned()
    }

    /// The shim is dead: what it held is killed and forgotten, what it recorded stays.
    pub(super) async fn lost(&mut self) {
        self.watch = None;
        self.sandbox = false;
        mark_lost(&mut self.state);
        let group = self.cgroup.clone();
        let outcome = off_thread(move || {
            cgroup::kill_all(&group, DEATH).and_then(|()| cgroup::remove(&group))
        })
        .await;
        if let Err(error) = outcome {
            tracing::warn!(pod = %self.key, %error, "orphans of a dead shim are left");
        }
    }

    /// Starts the shim and connects the network.
    pub(super) async fn make_sandbox(&mut self) {
        match self.try_sandbox().await {
            Ok(()) => {
                self.memory.waits.remove(SANDBOX);
                self.sandbox = true;
            }
            Err(message) => {
                let text = format!("Failed to create pod sandbox: {message}");
                self.event(Severity::Warning, "FailedCreatePodSandBox", text.clone());
                self.fail(SANDBOX, "CreatePodSandboxError", text, AGAIN_MS);
                // Half a sandbox is none.
                self.end_shim().await;
            }
        }
    }

    async fn try_sandbox(&mut self) -> Result<(), String> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let host_network = self.host_network();
        let address = if host_network {
            None
        } else {
            Some(self.shared.network.address(&self.uid).map_err(|error| error.to_string())?)
        };
        self.write_files(address).await?;
        let sandbox = Sandbox {
            hostname: self.hostname(),
            host_network,
            tmpfs: volumes::tmpfs(&spec, &self.dir),
        };
        let program = &self.shared.config.program;
        self.shim.spawn(program, &sandbox).await.map_err(|error| error.to_string())?;
        let mut watch = self.shim.watch().await.map_err(|error| error.to_string())?;
        self.state = watch.next().await.ok_or("the shim ended at once")?;
        self.watch = Some(watch);
        if let Some(address) = address {
            let path = format!("/proc/{}/ns/net", self.state.pid);
            let netns = std::fs::File::open(&path).map_err(|error| format!("{path}: {error}"))?;
            self.shared
                .network
                .attach(&self.uid, netns.into())
                .await
                .map_err(|error| error.to_string())?;
            self.address = Some(address);
        }
        Ok(())
    }

    /// The pod's own record and the files its containers get.
    async fn write_files(&self, address: Option<std::net::Ipv4Addr>) -> Result<(), String> {
        let (dir, pod) = (self.dir.clone(), self.pod.clone());
        let (hostname, dns) = (self.hostname(), self.shared.config.dns.clone());
        let record = self.object.as_value().to_string();
        let address = address
            .map_or_else(|| self.shared.config.node_ip.to_string(), |address| address.to_string());
        off_thread(move || {
            std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
            std::fs::write(dir.join("pod.json"), record).map_err(|error| error.to_string())?;
            volumes::write_etc(&pod, &dir, &hostname, &address, &dns)
                .map_err(|error| error.to_string())
        })
        .await
    }

    /// Lets go of the shim and the network of a pod that is over; its traces stay for readers.
    pub(super) async fn release_sandbox(&mut self) {
        self.end_shim().await;
        self.address = None;
        if !self.host_network()
            && let Err(error) = self.shared.network.detach(&self.uid).await
        {
            tracing::warn!(pod = %self.key, %error, "the pod's network is left");
        }
    }

    /// Lets go of the shim of a pod that stops with its node: it keeps its address for the next start.
    pub(super) async fn rest(&mut self) {
        self.end_shim().await;
        if !self.host_network()
            && let Err(error) = self.shared.network.disconnect(&self.uid).await
        {
            tracing::warn!(pod = %self.key, %error, "the pod's network is left");
        }
    }

    /// Ends the shim, by force if it will not.
    async fn end_shim(&mut self) {
        self.watch = None;
        self.sandbox = false;
        let pid = self.state.pid;
        if self.shim.shutdown().await.is_err() && pid > 1 {
            kill_shim(pid, &self.dir);
        }
        self.lost_quietly().await;
    }

    /// Removes the pod's cgroup once its shim has let go.
    async fn lost_quietly(&mut self) {
        mark_lost(&mut self.state);
        let group = self.cgroup.clone();
        let outcome = off_thread(move || {
            cgroup::kill_all(&group, DEATH).and_then(|()| cgroup::remove(&group))
        })
        .await;
        if let Err(error) = outcome {
            tracing::warn!(pod = %self.key, %error, "the pod's cgroup is left");
        }
    }

    /// Removes everything of the pod.
    pub(super) async fn dismantle(&mut self) -> Result<(), String> {
        self.probes.follow(&self.pod, &State::default(), None);
        self.release_sandbox().await;
        let dir = self.dir.clone();
        let logs = self.shared.log_dir(&self.key, &self.uid);
        off_thread(move || {
            for path in [dir, logs] {
                match std::fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(format!("{}: {error}", path.display()));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }
}

/// Kills a shim by number, if that number still is this pod's shim.
pub(in crate::kubelet) fn kill_shim(pid: i32, pod_dir: &std::path::Path) {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let ours =
        command.split(|byte| *byte == 0).any(|word| word == pod_dir.as_os_str().as_encoded_bytes());
    if ours {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}
