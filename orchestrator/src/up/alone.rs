//! One part alone, as a process of its own, against a store that runs elsewhere.
//!
//! The log goes to standard error, and the process ends with the first signal or the first failure. The
//! part reaches the store with the flags given, or with the certificates that `up` or `apiserver` left
//! in the data directory.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::cluster::{ApiserverSetup, KubeletSetup};
use super::config::{self, Ranges, absolute};
use super::data_dir::DataDir;
use super::record::{NodeTrace, Record};
use super::signals::Signals;
use super::{backend, cluster, host};
use crate::cli::{args, logging};
use crate::client::Context;
use crate::client::etcd::Store;
use crate::kubelet::AtEnd;
use crate::pki::{self, Pki};
use crate::proxy::{self, ProxyConfig};
use crate::registry::{self, Registry};
use crate::tasks::Tasks;
use anyhow::Context as _;

/// Where a store of ours listens unless told otherwise.
const STORE_DEFAULT: &str = "https://127.0.0.1:2379";
/// How long a part may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A part about to run: its store, its tasks, and the surroundings most parts want.
struct Part {
    registry: Registry,
    context: Context,
    tasks: Tasks,
}

impl Part {
    /// The context of a component that works only while it leads: another process may run the same
    /// one against the same store. The identity is new with every start, so that a process never
    /// takes the lease of the one before it for its own.
    fn one_of_several(&self) -> anyhow::Result<Context> {
        let host = host::name().context("cannot read the host name")?;
        Ok(self.context.clone().among_others(&format!("{host}_{}", uuid::Uuid::new_v4())))
    }
}

/// Runs the API server alone.
pub fn apiserver(args: &args::Apiserver) -> anyhow::Result<()> {
    let ranges = Ranges::parse(&args.cidrs)?;
    let address = SocketAddr::new(args.api_address, args.api_port);
    run(&args.component, Some(ranges), async |part| {
        let listener = cluster::bind("--api-port", address).await?;
        let pki = open_pki(&args.component, ranges, None, address.ip())?;
        let advertise = host::advertised(address, ranges).context("cannot list addresses")?;
        let compact_every = Duration::from_secs(args.compaction_interval);
        let setup = ApiserverSetup { pki: &pki, advertise, compact_every };
        let config = setup.config(part.registry.clone(), listener)?;
        let stop = part.tasks.token();
        part.tasks.spawn("API server", &part.tasks, crate::apiserver::run(config, stop));
        Ok(())
    })
}

/// Runs the scheduler alone.
pub fn scheduler(args: &args::Component) -> anyhow::Result<()> {
    run(args, None, async |part| {
        let context = part.one_of_several()?;
        part.tasks.spawn("scheduler", &part.tasks, crate::scheduler::run(context));
        Ok(())
    })
}

/// Runs the controllers alone.
pub fn controllers(args: &args::Component) -> anyhow::Result<()> {
    let ca = pki_dir(&args.data)?.join("ca.crt");
    run(args, None, async |part| {
        // Every namespace tells its pods which authority signs for the API.
        let root_ca = std::fs::read_to_string(&ca).with_context(|| {
            format!("cannot read {} (the API server makes it in its data directory)", ca.display())
        })?;
        let config = crate::controllers::Config { root_ca };
        let controllers = crate::controllers::run(part.one_of_several()?, config);
        part.tasks.spawn("controllers", &part.tasks, controllers);
        Ok(())
    })
}

/// Runs the kubelet alone. Its pods outlive it.
pub fn kubelet(args: &args::Kubelet) -> anyhow::Result<()> {
    let ranges = Ranges::parse(&args.cidrs)?;
    crate::cli::root::require("the node agent")?;
    let host_name = host::name().context("cannot read the host name")?;
    let name = config::node_name(args.node_name.as_deref(), &host_name)?;
    // Held until the end: `down` finds the process by it, and what the node left by the record.
    let data = DataDir::open(&absolute(&args.component.data.data_dir)?)?;
    leave_trace(data.path(), ranges)
        .with_context(|| format!("cannot write to data directory {}", data.path().display()))?;
    run(&args.component, Some(ranges), async |part| {
        let any = SocketAddr::from(([0, 0, 0, 0], args.kubelet_port));
        let listener = cluster::bind("--kubelet-port", any).await?;
        let pki = open_pki(&args.component, ranges, Some(&name), any.ip())?;
        let api = SocketAddr::new(any.ip(), args.api_port);
        let api = host::advertised(api, ranges).context("cannot list addresses")?;
        let setup = KubeletSetup { name: &name, ranges, data_dir: data.path(), pki: &pki };
        let config = setup.config(part.context.clone(), listener, api)?;
        let stop = part.tasks.token();
        let kubelet = crate::kubelet::run(config, stop, AtEnd::default());
        part.tasks.spawn("kubelet", &part.tasks, kubelet);
        Ok(())
    })
}

/// Records that a node runs here.
fn leave_trace(data_dir: &Path, ranges: Ranges) -> std::io::Result<()> {
    let mut record = Record::read(data_dir)?.unwrap_or_default();
    record.node = Some(NodeTrace::of(ranges));
    record.write(data_dir)
}

/// Runs the Service proxy alone.
pub fn proxy(args: &args::Proxy) -> anyhow::Result<()> {
    let ranges = Ranges::parse(&args.cidrs)?;
    crate::cli::root::require("the Service proxy")?;
    let host_name = host::name().context("cannot read the host name")?;
    let node_name = config::node_name(args.node_name.as_deref(), &host_name)?;
    run(&args.component, Some(ranges), async |part| {
        let config =
            ProxyConfig { node_name, cluster_cidr: ranges.cluster, service_cidr: ranges.service };
        let stop = part.tasks.token();
        let proxy = proxy::run(part.context.clone(), config, stop);
        part.tasks.spawn("proxy", &part.tasks, proxy);
        Ok(())
    })
}

/// Reaches the store, starts the part, and waits for a signal or a failure.
fn run(
    args: &args::Component,
    ranges: Option<Ranges>,
    start: impl AsyncFnOnce(&Part) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    logging::to_stderr(&args.log.log_level)?;
    super::runtime()?.block_on(async {
        let mut signals = Signals::listen()?;
        let store = reach(args).await?;
        registry::claim(&store).await?;
        let tasks = Tasks::new();
        let config = ranges.map(cluster::registry_config).unwrap_or_default();
        let registry = Registry::new(store, config);
        let context = Context::new(registry.clone(), &tasks, &tasks);
        let part = Part { registry, context, tasks };
        start(&part).await?;
        tokio::select! {
            _ = signals.next() => {}
            () = part.tasks.stopping() => {}
        }
        part.tasks.stop();
        Ok(part.tasks.wait(STOP_TIMEOUT).await?)
    })
}

/// The store of the flags; without them the one that `up` runs on this machine.
async fn reach(args: &args::Component) -> anyhow::Result<Store> {
    let mut wanted = args.store.clone();
    if wanted.store_endpoints.is_empty() {
        let dir = pki_dir(&args.data)?;
        let [ca, cert, key] = pki::store_client_files(&dir)
            .context("no --store-endpoints given, and this machine has no store of its own")?;
        wanted = args::Store {
            store_endpoints: vec![STORE_DEFAULT.to_owned()],
            store_cacert: Some(ca),
            store_cert: Some(cert),
            store_key: Some(key),
        };
    }
    config::check_endpoints(&wanted)?;
    Ok(backend::reach(&wanted).await?.0)
}

fn pki_dir(data: &args::Data) -> anyhow::Result<std::path::PathBuf> {
    Ok(absolute(&data.data_dir)?.join("pki"))
}

/// Opens the certificates, making them on a machine that has none.
fn open_pki(
    args: &args::Component,
    ranges: Ranges,
    node: Option<&str>,
    api: IpAddr,
) -> anyhow::Result<Pki> {
    let data_dir = absolute(&args.data.data_dir)?;
    DataDir::prepare(&data_dir)?;
    let host_name = host::name().context("cannot read the host name")?;
    let node_name = config::node_name(node, &host_name)?;
    let names = host::names(&host_name, &node_name, ranges, api)
        .context("cannot list this machine's addresses")?;
    Ok(Pki::open(&data_dir.join("pki"), &names, time::OffsetDateTime::now_utc())?)
}
