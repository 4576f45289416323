//! The store as components see it: etcd's v3 API behind a small typed surface.
//!
//! One [`Store`] is a handle on a shared HTTP/2 channel; cloning it is cheap and every clone may
//! be used at once. Three rules hold for all calls:
//!
//! - **Reads are retried, writes never.** A read that found no server is tried again a few times
//!   with a short pause. A write whose answer is lost returns [`StoreError::Unknown`], because only
//!   the caller knows how to find out what became of it.
//! - **Every size and time is bounded**: messages, the wait for an answer, and the silence after
//!   which a connection counts as dead.
//! - **Nothing here knows what the keys mean.** Paths are built in `registry/key.rs`.
//!
//! The channel may be a network connection with certificates or an in-process pipe to an embedded
//! store: [`Store::from_channel`] takes whatever `tonic` can talk through.

mod error;
mod txn;
mod watch;

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use self::error::Effect;
pub use self::error::StoreError;
pub use self::txn::{Txn, TxnAnswer};
pub use self::watch::{EventKind, WatchBatch, WatchEvent, WatchFrom, WatchStream, by_revision};

type WatchClient = pb::watch_client::WatchClient<Channel>;

/// Largest answer accepted: a page of 10 000 objects of 6 kB. Requests are held far below this by
/// the store itself.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// How long one call may take before its outcome counts as lost.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is probed when silent for so long …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// … and dead when the probe is not answered within this.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between the attempts of a read: about 1.5 s in all, longer than an election.
const READ_PAUSES_MS: [u64; 5] = [20, 80, 200, 400, 800];

/// One key as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value: a slice of the answer it came in, so a long-lived copy keeps that answer alive.
    pub value: Bytes,
    /// Revision at which this life of the key began.
    pub create_revision: i64,
    /// Revision of its last write.
    pub mod_revision: i64,
    /// Writes in this life.
    pub version: i64,
    /// The lease it hangs on; 0 for none.
    pub lease: i64,
}

fn entry(kv: proto::mvccpb::KeyValue) -> Entry {
    Entry {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// A range of keys and how to read it.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// First key.
    pub key: Bytes,
    /// First key not in the range; empty: the one key; a single zero byte: no end.
    pub range_end: Bytes,
    /// At most so many entries; 0: all.
    pub limit: i64,
    /// As of this revision; 0: the newest.
    pub revision: i64,
    /// Leave the values out.
    pub keys_only: bool,
    /// Leave the entries out.
    pub count_only: bool,
}

impl Range {
    /// The one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), ..Self::default() }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let key = prefix.into();
        let range_end = prefix_end(&key);
        Self { key, range_end, ..Self::default() }
    }

    fn request(&self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key.clone(),
            range_end: self.range_end.clone(),
            limit: self.limit,
            revision: self.revision,
            keys_only: self.keys_only,
            count_only: self.count_only,
            ..pb::RangeRequest::default()
        }
    }
}

/// What a range read found.
#[derive(Debug, Clone)]
pub struct RangeAnswer {
    /// Entries in key order.
    pub entries: Vec<Entry>,
    /// The store's revision when it was read.
    pub revision: i64,
    /// Keys in the range, those beyond the limit included.
    pub count: i64,
    /// The limit cut the answer short.
    pub more: bool,
}

/// The first key after every key that begins with `prefix`.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// Certificates for a store that asks for them, as PEM text.
#[derive(Clone)]
pub struct Tls {
    /// The authority that signed the store's certificate.
    pub ca: Vec<u8>,
    /// Our certificate chain and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must never reach a log.
        formatter.debug_struct("Tls").field("identity", &self.identity.is_some()).finish()
    }
}

/// A handle on the store.
#[derive(Debug, Clone)]
pub struct Store {
    channel: Channel,
}

impl Store {
    /// A handle on a store at one or several `http://` or `https://` addresses. Connects at the
    /// first call, and again whenever the connection is lost.
    pub fn connect(endpoints: &[String], tls: Option<&Tls>) -> Result<Self, StoreError> {
        let endpoints: Vec<Endpoint> =
            endpoints.iter().map(|url| endpoint(url, tls)).collect::<Result<_, _>>()?;
        let channel = match endpoints.as_slice() {
            [] => return Err(StoreError::Config("no store endpoint is given".into())),
            [one] => one.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        Ok(Self::from_channel(channel))
    }

    /// A handle on whatever is at the other end of `channel`.
    pub fn from_channel(channel: Channel) -> Self {
        Self { channel }
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    /// The key as it is now.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Entry>, StoreError> {
        Ok(self.range(&Range::key(key)).await?.entries.pop())
    }

    /// Reads a range in one consistent view.
    pub async fn range(&self, range: &Range) -> Result<RangeAnswer, StoreError> {
        let answer = retry_read(|| {
            let mut kv = self.kv();
            let request = range.request();
            async move { kv.range(request).await }
        })
        .await?;
        Ok(RangeAnswer {
            revision: answer.header.map_or(0, |header| header.revision),
            entries: answer.kvs.into_iter().map(entry).collect(),
            count: answer.count,
            more: answer.more,
        })
    }

    /// Runs a transaction. Repeated on failure only when it cannot write.
    pub async fn txn(&self, txn: Txn) -> Result<TxnAnswer, StoreError> {
        if txn.is_read_only() {
            let answer = retry_read(|| {
                let mut kv = self.kv();
                let request = txn.request();
                async move { kv.txn(request).await }
            })
            .await?;
            return Ok(TxnAnswer::from_wire(answer));
        }
        let mut kv = self.kv();
        let answer = once(kv.txn(txn.request()), Effect::Write).await?;
        Ok(TxnAnswer::from_wire(answer))
    }

    /// Watches a range until the stream is dropped or fails.
    pub async fn watch(&self, from: WatchFrom) -> Result<WatchStream, StoreError> {
        let client = WatchClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        WatchStream::start(client, from).await
    }

    /// Forgets history before `revision`. Asking again for less or the same is no error.
    pub async fn compact(&self, revision: i64) -> Result<(), StoreError> {
        let request = pb::CompactionRequest { revision, physical: false };
        let mut kv = self.kv();
        match once(kv.compact(request), Effect::Write).await {
            Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A new lease of at least `ttl` seconds; answers its id.
    pub async fn lease_grant(&self, ttl: i64) -> Result<i64, StoreError> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let mut lease = self.lease();
        Ok(once(lease.lease_grant(request), Effect::Write).await?.id)
    }

    /// Renews a lease once; answers the seconds it now has. A lease that ended is
    /// [`StoreError::LeaseNotFound`].
    pub async fn lease_keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        let answer = retry_read(|| {
            let mut lease = self.lease();
            async move {
                let once = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
                let mut answers = lease.lease_keep_alive(once).await?.into_inner();
                let first = answers.next().await;
                first
                    .unwrap_or_else(|| Err(tonic::Status::unavailable("no answer")))
                    .map(tonic::Response::new)
            }
        })
        .await?;
        if answer.ttl > 0 { Ok(answer.ttl) } else { Err(StoreError::LeaseNotFound) }
    }

    /// Ends a lease and removes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<(), StoreError> {
        let mut lease = self.lease();
        once(lease.lease_revoke(pb::LeaseRevokeRequest { id }), Effect::Write).await.map(drop)
    }

    /// The store's version and size.
    pub async fn status(&self) -> Result<pb::StatusResponse, StoreError> {
        retry_read(|| {
            let mut maintenance = MaintenanceClient::new(self.channel.clone());
            async move { maintenance.status(pb::StatusRequest {}).await }
        })
        .await
    }
}

fn endpoint(url: &str, tls: Option<&Tls>) -> Result<Endpoint, StoreError> {
    let bad = |error: tonic::transport::Error| {
        let cause =
            std::error::Error::source(&error).map_or_else(String::new, |c| format!(": {c}"));
        StoreError::Config(format!("store endpoint {url:?}: {error}{cause}"))
    };
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(bad)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .tcp_nodelay(true);
    if url.starts_with("https://") {
        let Some(tls) = tls else {
            return Err(StoreError::Config(format!(
                "store endpoint {url:?} needs the certificate of its authority"
            )));
        };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        endpoint = endpoint.tls_config(config).map_err(bad)?;
    }
    Ok(endpoint)
}

/// One attempt, bounded in time.
async fn once<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    effect: Effect,
) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(StoreError::from_status(&status, effect)),
        Err(_) => {
            let status = tonic::Status::deadline_exceeded("no answer in time");
            Err(StoreError::from_status(&status, effect))
        }
    }
}

/// Attempts a read until it is answered, refused, or the pauses are used up.
async fn retry_read<T, F, C>(mut call: F) -> Result<T, StoreError>
where
    F: FnMut() -> C,
    C: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    for pause in READ_PAUSES_MS {
        match once(call(), Effect::Read).await {
            Err(error) if error.is_unavailable() => {
                tracing::debug!(%error, "a read from the store is tried again");
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            done => return done,
        }
    }
    once(call(), Effect::Read).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_its_successor() {
        assert_eq!(prefix_end(b"/registry/"), Bytes::from_static(b"/registry0"));
        assert_eq!(prefix_end(&[b'a', 0xff]), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(&[0xff, 0xff]), Bytes::from_static(&[0]));
        assert_eq!(prefix_end(b""), Bytes::from_static(&[0]));
    }

    #[test]
    fn endpoints_are_checked_before_use() {
        assert!(matches!(Store::connect(&[], None), Err(StoreError::Config(_))));
        let https = ["https://127.0.0.1:2379".to_owned()];
        assert!(matches!(Store::connect(&https, None), Err(StoreError::Config(_))));
    }
}
