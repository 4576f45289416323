//! gRPC's own health protocol: whoever can ask is being served.
//!
//! There is one service to ask about, the one without a name, as in etcd. `List` came to the
//! protocol later than the crate that the other two calls are taken from, so its messages are
//! written here.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower::Service as _;

use super::router::BoxError;
use super::status;
use super::unary::{self, Framed};

/// Nothing is asked for: all are told.
#[derive(Clone, PartialEq, prost::Message)]
struct ListRequest {}

/// Every service and how it is.
#[derive(Clone, PartialEq, prost::Message)]
struct ListResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    statuses: BTreeMap<String, HealthCheckResponse>,
}

/// Answers a call of the protocol.
pub(super) async fn answer<B>(request: Request<B>, bytes_max: usize) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send,
{
    if request.uri().path().ends_with("/List") {
        let all = |_: tonic::Request<ListRequest>| std::future::ready(Framed::of(&everything()));
        return match unary::serve(request, bytes_max, all).await {
            Ok(answer) => unary::respond(answer.into_bytes()),
            Err(status) => status.into_http(),
        };
    }
    let answered = HealthServer::new(HealthOfAll).call(request).await;
    answered.unwrap_or_else(|never| match never {})
}

fn everything() -> ListResponse {
    ListResponse { statuses: BTreeMap::from([(String::new(), of(""))]) }
}

/// How a service is.
fn of(service: &str) -> HealthCheckResponse {
    let status = match service {
        "" => ServingStatus::Serving,
        _ => ServingStatus::ServiceUnknown,
    };
    HealthCheckResponse { status: status.into() }
}

#[derive(Clone, Debug)]
struct HealthOfAll;

#[tonic::async_trait]
impl Health for HealthOfAll {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "" => Ok(tonic::Response::new(of(""))),
            _ => Err(status::unknown_health_service()),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    /// Says how the service is and then, as that never changes, nothing.
    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let now = of(&request.into_inner().service);
        let now = stream::once(std::future::ready(Ok(now)));
        Ok(tonic::Response::new(now.chain(stream::pending()).boxed()))
    }
}
