//! The limit: what the gRPC stack and one group fsync allow, with no store behind them.
//!
//! A tonic server on one current-thread runtime per core, fed by one acceptor. A put hands key and
//! value to one log thread, which writes all that queued meanwhile and syncs once, into a zeroed
//! file of 64 MiB that it goes round in. A range answers the same rows each time. No Raft, no
//! apply, no index, nothing to lose: a store that answers three quarters of this is close to what
//! any store on this stack could.

use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_server::{Kv, KvServer};
use proto::mvccpb::KeyValue;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::work::value;

/// The log's size; writing starts again at its beginning.
const LOG_BYTES: usize = 64 << 20;

/// Puts that may wait for the log thread.
const WAITING_MAX: usize = 16_384;

/// Rows of an answer at most.
const ROWS_MAX: i64 = 10_000;

struct Entry {
    put: pb::PutRequest,
    done: oneshot::Sender<i64>,
}

/// Serves until killed; says so when it does.
///
/// # Errors
/// When it cannot listen or write.
#[expect(clippy::print_stdout, reason = "whoever starts it waits for this line")]
pub fn serve(listen: SocketAddr, dir: &Path, value_size: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let file = File::options().create(true).truncate(true).write(true).open(dir.join("log"))?;
    file.write_all_at(&vec![0; LOG_BYTES], 0)?;
    file.sync_all()?;
    let (queue, waiting) = sync_channel(WAITING_MAX);
    std::thread::spawn(move || write(&file, &waiting));
    let limit = Limit { queue, rows: Arc::default(), value_size };
    let listener = TcpListener::bind(listen)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers: Vec<_> = (0..cores).map(|_| worker(limit.clone())).collect();
    println!("ready to serve client requests");
    for (nth, socket) in listener.incoming().enumerate() {
        let socket = socket?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let handed = workers[nth % cores].blocking_send(socket);
        handed.map_err(|_| std::io::Error::other("a worker has ended"))?;
    }
    Ok(())
}

/// A thread with a runtime of its own that serves the connections it is handed.
fn worker(limit: Limit) -> tokio::sync::mpsc::Sender<std::net::TcpStream> {
    let (hand, handed) = tokio::sync::mpsc::channel(128);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let sockets =
            tokio_stream::StreamExt::map(ReceiverStream::new(handed), TcpStream::from_std);
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .add_service(KvServer::new(limit))
            .serve_with_incoming(sockets);
        runtime.expect("a runtime starts").block_on(server).expect("the sockets can be served");
    });
    hand
}

/// The log thread: one write and one sync for all that waits.
fn write(file: &File, waiting: &Receiver<Entry>) {
    let (mut at, mut revision) = (0, 0);
    let (mut bytes, mut answers) = (Vec::new(), Vec::new());
    while let Ok(first) = waiting.recv() {
        for entry in std::iter::once(first).chain(std::iter::from_fn(|| waiting.try_recv().ok())) {
            bytes.extend_from_slice(&entry.put.key);
            bytes.extend_from_slice(&entry.put.value);
            answers.push(entry.done);
        }
        if at + bytes.len() > LOG_BYTES {
            at = 0;
        }
        file.write_all_at(&bytes, at as u64).expect("the log can be written");
        file.sync_data().expect("the log can be synced");
        at += bytes.len();
        bytes.clear();
        for answer in answers.drain(..) {
            revision += 1;
            // Whoever has gone needs no answer.
            let _ = answer.send(revision);
        }
    }
}

#[derive(Clone)]
struct Limit {
    queue: SyncSender<Entry>,
    /// The rows of an answer, by their number.
    rows: Arc<Mutex<HashMap<i64, Vec<KeyValue>>>>,
    value_size: usize,
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: 1, member_id: 1, revision, raft_term: 1 })
}

fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the limit answers puts and ranges only"))
}

#[tonic::async_trait]
impl Kv for Limit {
    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let (done, written) = oneshot::channel();
        let entry = Entry { put: request.into_inner(), done };
        self.queue.send(entry).map_err(|_| Status::unavailable("the log thread has ended"))?;
        let revision =
            written.await.map_err(|_| Status::unavailable("the log thread has ended"))?;
        Ok(Response::new(pb::PutResponse { header: header(revision), prev_kv: None }))
    }

    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        let rows = if request.range_end.is_empty() { 1 } else { request.limit.clamp(1, ROWS_MAX) };
        let row = |n: i64| KeyValue {
            key: format!("load/{n:012}").into(),
            value: value(self.value_size),
            create_revision: n,
            mod_revision: n,
            version: 1,
            lease: 0,
        };
        let kvs = self
            .rows
            .lock()
            .expect("nobody panics with it")
            .entry(rows)
            .or_insert_with(|| (0..rows).map(row).collect())
            .clone();
        Ok(Response::new(pb::RangeResponse { header: header(1), kvs, more: false, count: rows }))
    }

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        not_here()
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        not_here()
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        not_here()
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        not_here()
    }
}
