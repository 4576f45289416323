//! How long do writes stand still while the server does something large? Puts in a closed loop, and
//! the disturbance one second into them.

use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use super::drive::{Shape, Tally, drive};
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::work::{Ask, Keys};

/// What disturbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing but the server's own work: checkpoints.
    None,
    /// A compaction of all history, answered when the space is given back.
    Compaction,
    /// A snapshot, read to its end.
    Snapshot,
    /// A defragmentation.
    Defragment,
}

impl Disturbance {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "checkpoints only",
            Self::Compaction => "physical compaction",
            Self::Snapshot => "snapshot",
            Self::Defragment => "defragment",
        }
    }
}

/// How long before the disturbance the puts begin.
const LEAD: Duration = Duration::from_secs(1);

/// The largest part of a snapshot that is accepted.
const SNAPSHOT_PART_MAX: usize = 64 << 20;

/// What was seen of the puts, and how long the disturbance took.
///
/// # Errors
/// When the server refuses either. A disturbance that outlasts the puts is said to, and no error.
pub async fn disturb(
    endpoint: &Endpoint,
    disturbance: Disturbance,
    shape: Shape,
    keys: u64,
    value_size: usize,
) -> Result<(Tally, String), Failure> {
    let channel = endpoint.channel().await?;
    let disturbing = async {
        tokio::time::sleep(LEAD).await;
        let begin = Instant::now();
        let rest = shape.time.saturating_sub(LEAD);
        match tokio::time::timeout(rest, ask(channel, disturbance)).await {
            Err(_) => Ok(format!("takes longer than {} s", rest.as_secs())),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(())) if disturbance == Disturbance::None => Ok(String::new()),
            Ok(Ok(())) => Ok(format!("takes {:.2} s", begin.elapsed().as_secs_f64())),
        }
    };
    let make = |nth| Keys::new(Ask::Put, keys, value_size, nth, shape.connections);
    let (tally, note) = tokio::join!(drive(endpoint, shape, make), disturbing);
    let note = note?;
    Ok((tally?, note))
}

async fn ask(channel: Channel, disturbance: Disturbance) -> Result<(), Failure> {
    let mut kv = pb::kv_client::KvClient::new(channel.clone());
    let mut maintenance = pb::maintenance_client::MaintenanceClient::new(channel)
        .max_decoding_message_size(SNAPSHOT_PART_MAX);
    match disturbance {
        Disturbance::None => {}
        Disturbance::Compaction => {
            let get = pb::RangeRequest { key: "x".into(), ..Default::default() };
            let header = kv.range(get).await?.into_inner().header.unwrap_or_default();
            let request = pb::CompactionRequest { revision: header.revision, physical: true };
            kv.compact(request).await?;
        }
        Disturbance::Snapshot => {
            let mut parts = maintenance.snapshot(pb::SnapshotRequest {}).await?.into_inner();
            while let Some(part) = parts.next().await {
                part?;
            }
        }
        Disturbance::Defragment => {
            maintenance.defragment(pb::DefragmentRequest {}).await?;
        }
    }
    Ok(())
}
