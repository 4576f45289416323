//! The Lock service: [`queue`], one holder at a time.
//!
//! The answer to Lock is the key that stands for holding it. It is held until that key is deleted,
//! by Unlock or by the end of its lease; a holder fences its writes with a comparison on the key.

use std::sync::Arc;

use bytes::Bytes;
use proto::v3lockpb as pb;
use tonic::{Request, Response, Status};

use super::Member;
use super::queue::{self, Asker, Waiting};
use super::status::{self, QueueRefusal};

pub(super) struct Lock(pub(super) Arc<Member>);

#[tonic::async_trait]
impl pb::lock_server::Lock for Lock {
    async fn lock(
        &self,
        request: Request<pb::LockRequest>,
    ) -> Result<Response<pb::LockResponse>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let lease = asker.lease(request.lease).await?;
        let prefix = queue::prefix(&request.name);
        let place = asker.join(&prefix, lease, Bytes::new()).await?;
        if place.first {
            return Ok(Response::new(pb::LockResponse { header: place.header, key: place.key }));
        }
        let waiting = Waiting::new(&self.0, &place);
        asker.await_turn(&prefix, place.rev).await?;
        // The key may be gone with its lease; then the turn is nobody's.
        let own =
            proto::etcdserverpb::RangeRequest { key: place.key.clone(), ..Default::default() };
        let own = asker.range(own).await?;
        if own.kvs.is_empty() {
            return Err(status::queue(QueueRefusal::Expired));
        }
        waiting.keep();
        Ok(Response::new(pb::LockResponse { header: own.header, key: place.key }))
    }

    async fn unlock(
        &self,
        request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        let (asker, request) = Asker::of(&self.0, request);
        let header = asker.delete(request.key).await?.header;
        Ok(Response::new(pb::UnlockResponse { header }))
    }
}
