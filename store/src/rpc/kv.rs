//! The KV service.
//!
//! Writes and compactions go through the log. Reads do not: a linearizable one first makes sure of
//! what this member holds ([`Member::linearize`]), then reads one consistent view. A transaction
//! that only reads is a read.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use prost::Message as _;
use proto::etcdserverpb as pb;
use tonic::{Request, Response, Status};

use super::rows::RangeFrame;
use super::unary::Framed;
use super::{Caller, Member, convert, read_error, status};
use crate::command::{
    Command, KeyRange, Op, RangeAnswer, RangeQuery, Response as Answer, Revision, SortOrder,
    SortTarget, Txn,
};
use crate::engine::View;
use crate::fault::Error;
use crate::raft::Unavailable;

/// Rows a read may ask for and still be served on the runtime that serves the client.
const QUICK_ROWS: i64 = 1000;
/// How far such a read may look back: it counts its range by what has changed since, at about
/// 0.1 µs a revision.
const QUICK_REVISIONS: i64 = 10_000;

pub(super) struct Kv(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::kv_server::Kv for Kv {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        // Only requests that name a compression come this way.
        self.range_framed(request).await?.decode().map(Response::new)
    }

    type RangeStreamStream = BoxStream<'static, Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let caller = self.0.caller(&request);
        let query = convert::range(request.into_inner()).map_err(status::invalid)?;
        if !plainly_ordered(&query) && !sorted_by_default(&query) {
            return Err(status::stream_unsupported("custom sort orders"));
        }
        if query.has_filters() {
            return Err(status::stream_unsupported("revision filters"));
        }
        let caller = caller?;
        if !query.serializable {
            self.0.linearize().await.map_err(status::unavailable)?;
        }
        Ok(Response::new(stream::chunks(Arc::clone(&self.0), caller, query)))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        let bytes = request.encoded_len();
        let put = convert::put(request).map_err(status::invalid)?;
        match self.0.propose(caller?, Command::Put(put), bytes).await? {
            (revision, Answer::Put(answer)) => {
                Ok(Response::new(convert::put_answer(answer, self.0.header(revision))))
            }
            (_, other) => unreachable!("a put was answered with {other:?}"),
        }
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        let bytes = request.encoded_len();
        let delete = convert::delete(request).map_err(status::invalid)?;
        match self.0.propose(caller?, Command::Delete(delete), bytes).await? {
            (revision, Answer::Delete(answer)) => {
                Ok(Response::new(convert::delete_answer(answer, self.0.header(revision))))
            }
            (_, other) => unreachable!("a delete was answered with {other:?}"),
        }
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let caller = self.0.caller(&request);
        let request = request.into_inner();
        let bytes = request.encoded_len();
        let txn = convert::txn(request, self.0.requests.max_txn_ops).map_err(status::invalid)?;
        if txn.is_read_only() {
            return self.ask(caller?, txn).await;
        }
        match self.0.propose(caller?, Command::Txn(txn), bytes).await? {
            (revision, Answer::Txn(answer)) => {
                Ok(Response::new(convert::txn_answer(answer, self.0.header(revision))))
            }
            (_, other) => unreachable!("a transaction was answered with {other:?}"),
        }
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = self.0.caller(&request)?;
        let request = request.into_inner();
        let upto = Revision(request.revision);
        let (revision, _) = self.0.propose(caller, Command::Compact(upto), 16).await?;
        if request.physical {
            self.await_removal(upto).await?;
        }
        Ok(Response::new(pb::CompactionResponse { header: Some(self.0.header(revision)) }))
    }
}

impl Kv {
    /// Answers a range in the form in which it is sent.
    pub(super) async fn range_framed(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Framed, Status> {
        let caller = self.0.caller(&request);
        let query = convert::range(request.into_inner()).map_err(status::invalid)?;
        let caller = caller?;
        if !query.serializable {
            self.0.linearize().await.map_err(status::unavailable)?;
        }
        let view = self.0.reader.view();
        if is_quick(&query, view.revision()) {
            return frame(&self.0, &view, &caller, &query);
        }
        drop(view);
        let member = Arc::clone(&self.0);
        self.0.slow_read(move || frame(&member, &member.reader.view(), &caller, &query)).await?
    }

    /// A transaction without changes.
    async fn ask(&self, caller: Caller, txn: Txn) -> Result<Response<pb::TxnResponse>, Status> {
        if !is_serializable(&txn) {
            self.0.linearize().await.map_err(status::unavailable)?;
        }
        let reader = self.0.reader.clone();
        let ask = move || {
            let view = reader.view();
            caller.may(&view, &txn)?;
            Ok::<_, Error>((view.revision(), view.txn(&txn)?))
        };
        let (revision, answer) = self.0.slow_read(ask).await?.map_err(read_error)?;
        Ok(Response::new(convert::txn_answer(answer, self.0.header(revision))))
    }

    /// Waits until compacted history is really gone from the disk.
    async fn await_removal(&self, upto: Revision) -> Result<(), Status> {
        let mut durable = self.0.reader.durable();
        let mut fault = self.0.reader.fault();
        while durable.borrow_and_update().compacted < upto {
            self.0.reader.request_checkpoint();
            tokio::select! {
                changed = durable.changed() => {
                    changed.map_err(|_| status::unavailable(Unavailable::Stopped))?;
                }
                _ = fault.wait_for(Option::is_some) => {
                    return Err(status::unavailable(Unavailable::Stopped));
                }
            }
        }
        Ok(())
    }
}

/// Reads a range into its answer, if the caller may know it.
fn frame(
    member: &Member,
    view: &View,
    caller: &Caller,
    query: &RangeQuery,
) -> Result<Framed, Status> {
    caller.may(view, query).map_err(status::refusal)?;
    let rows = usize::try_from(query.limit).ok().filter(|limit| *limit > 0);
    let mut frame = RangeFrame::new(&member.header(view.revision()), rows);
    let summary = view.range_into(query, &mut frame).map_err(read_error)?;
    frame.finish(summary)
}

/// Answers a range if the caller may know it.
fn range(view: &View, caller: &Caller, query: &RangeQuery) -> Result<RangeAnswer, Error> {
    caller.may(view, query)?;
    view.range(query)
}

/// A transaction may be answered locally if every step may, and there is one: one of nothing but
/// compares must not answer from the past.
fn is_serializable(txn: &Txn) -> bool {
    let mut steps = txn.success.iter().chain(&txn.failure).peekable();
    let has_steps = steps.peek().is_some();
    has_steps && steps.all(|step| matches!(step, Op::Range(query) if query.serializable))
}

/// Whether a read is sure to be short.
fn is_quick(query: &RangeQuery, current: Revision) -> bool {
    match query.range {
        KeyRange::Key(_) => true,
        _ => {
            let recent = query.revision.0 <= 0 || current.0 - query.revision.0 <= QUICK_REVISIONS;
            recent
                && (1..=QUICK_ROWS).contains(&query.limit)
                && plainly_ordered(query)
                && !query.has_filters()
        }
    }
}

/// By key, ascending: the order the rows are in.
fn plainly_ordered(query: &RangeQuery) -> bool {
    query.target == SortTarget::Key && query.order != SortOrder::Descend
}

/// By something else than the key, in no order that was asked for: ascending, says the API.
fn sorted_by_default(query: &RangeQuery) -> bool {
    query.target != SortTarget::Key && query.order == SortOrder::None
}

mod stream {
    //! `RangeStream`: the unary answer in pieces of bounded size.
    //!
    //! The revision is pinned when the first piece is read. Pieces carry rows only; the last one,
    //! and it alone, carries header, count and `more`, so that merging all of them gives the unary
    //! answer.
    //!
    //! What has to be sorted is read whole first, as for a unary answer, and only sent in pieces.

    use std::collections::VecDeque;
    use std::sync::Arc;

    use futures_util::StreamExt;
    use futures_util::stream::{self, BoxStream};
    use proto::etcdserverpb as pb;
    use tonic::Status;

    use super::super::{Caller, Member, convert, read_error};
    use super::{range, sorted_by_default};
    use crate::command::{KeyRange, KeyValue, RangeAnswer, RangeQuery, Revision};

    /// Rows of the first piece; later ones grow or shrink to fill about a request's size.
    const FIRST_ROWS: i64 = 10;

    struct Chunks {
        member: Arc<Member>,
        caller: Caller,
        query: RangeQuery,
        /// Rows the client still wants, if it named a number.
        wanted: Option<i64>,
        rows: i64,
        started: Option<Start>,
        ready: VecDeque<pb::RangeResponse>,
        done: bool,
    }

    /// What the last piece repeats from the first.
    struct Start {
        revision: Revision,
        count: i64,
        sent: i64,
    }

    pub(super) fn chunks(
        member: Arc<Member>,
        caller: Caller,
        query: RangeQuery,
    ) -> BoxStream<'static, Result<pb::RangeStreamResponse, Status>> {
        let wanted = (query.limit > 0).then_some(query.limit);
        let chunks = Chunks {
            member,
            caller,
            query,
            wanted,
            rows: FIRST_ROWS,
            started: None,
            ready: VecDeque::new(),
            done: false,
        };
        stream::unfold(chunks, |mut chunks| async move {
            let next = chunks.next().await?;
            if next.is_err() {
                chunks.done = true;
            }
            Some((next, chunks))
        })
        .boxed()
    }

    impl Chunks {
        async fn next(&mut self) -> Option<Result<pb::RangeStreamResponse, Status>> {
            while self.ready.is_empty() {
                if self.done {
                    return None;
                }
                if let Err(status) = self.read().await {
                    return Some(Err(status));
                }
            }
            let range_response = self.ready.pop_front();
            Some(Ok(pb::RangeStreamResponse { range_response }))
        }

        /// Reads one piece; the one that finds the end also makes the final message.
        async fn read(&mut self) -> Result<(), Status> {
            if sorted_by_default(&self.query) {
                let answer = self.ask(self.query.clone()).await?;
                self.cut(answer);
                return Ok(());
            }
            let mut query = self.query.clone();
            query.limit = self.wanted.map_or(self.rows, |wanted| wanted.min(self.rows));
            let answer = self.ask(query).await?;
            let start = self.started.get_or_insert(Start {
                revision: answer.revision,
                count: answer.count,
                sent: 0,
            });
            if self.query.revision.0 <= 0 {
                self.query.revision = start.revision;
            }
            start.sent += i64::try_from(answer.kvs.len()).expect("rows fit in memory");
            let (sent, count, revision) = (start.sent, start.count, start.revision);
            if let Some(wanted) = &mut self.wanted {
                *wanted -= i64::try_from(answer.kvs.len()).expect("rows fit in memory");
            }
            self.done = !answer.more || self.wanted == Some(0) || self.query.count_only;
            self.move_on(&answer.kvs);
            let kvs = answer.kvs.into_iter().map(convert::key_value).collect();
            let mut piece = pb::RangeResponse { kvs, ..Default::default() };
            if self.done {
                piece.header = Some(self.member.header(revision));
                piece.count = count;
                piece.more = !self.query.count_only && count > sent;
            }
            self.ready.push_back(piece);
            Ok(())
        }

        async fn ask(&self, query: RangeQuery) -> Result<RangeAnswer, Status> {
            let (reader, caller) = (self.member.reader.clone(), self.caller.clone());
            let read = move || range(&reader.view(), &caller, &query);
            self.member.slow_read(read).await?.map_err(read_error)
        }

        /// Makes pieces of a whole answer.
        fn cut(&mut self, answer: RangeAnswer) {
            let mut piece = pb::RangeResponse::default();
            let mut bytes = 0;
            for kv in answer.kvs {
                bytes += size(&kv);
                piece.kvs.push(convert::key_value(kv));
                if bytes > self.member.requests.max_bytes {
                    self.ready.push_back(std::mem::take(&mut piece));
                    bytes = 0;
                }
            }
            piece.header = Some(self.member.header(answer.revision));
            (piece.count, piece.more) = (answer.count, answer.more);
            self.ready.push_back(piece);
            self.done = true;
        }

        /// Starts the next piece after the last row, and sizes it by this one.
        fn move_on(&mut self, kvs: &[KeyValue]) {
            let Some(last) = kvs.last() else { return };
            let after: bytes::Bytes = [&last.key[..], &[0]].concat().into();
            self.query.range = match std::mem::replace(&mut self.query.range, KeyRange::all()) {
                KeyRange::Key(key) => KeyRange::Key(key),
                KeyRange::Span(_, end) => KeyRange::Span(after, end),
                KeyRange::From(_) => KeyRange::From(after),
            };
            let bytes: usize = kvs.iter().map(size).sum();
            let target = self.member.requests.max_bytes;
            if bytes < target / 2 {
                self.rows = self.rows.saturating_mul(2);
            } else if bytes > target {
                self.rows = (self.rows / 2).max(1);
            }
        }
    }

    /// What a row takes in an answer, about.
    fn size(kv: &KeyValue) -> usize {
        kv.key.len() + kv.value.len() + 32
    }
}
