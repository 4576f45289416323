//! gRPC's own health protocol, as balancers and `grpc_health_probe` ask.

use bytes::Bytes;
use proto::Raw;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// Goal: the service without a name is served, and no other is known, whichever way one asks.
#[tokio::test]
async fn only_the_service_without_a_name_is_known() {
    let world = World::start().await;
    let mut health = HealthClient::new(world.channel.clone());
    let serving = health.check(about("")).await.expect("it is known").into_inner();
    assert_eq!(serving.status(), ServingStatus::Serving);
    let unknown = health.check(about("etcdserverpb.KV")).await.expect_err("it is not");
    assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "unknown service"));
    for (service, status) in
        [("", ServingStatus::Serving), ("etcdserverpb.KV", ServingStatus::ServiceUnknown)]
    {
        let mut told = health.watch(about(service)).await.expect("a stream").into_inner();
        let first = told.message().await.expect("no error").expect("a message");
        assert_eq!(first.status(), status, "{service:?}");
    }
    world.stop().await;
}

/// Goal: the list is a map with one entry: an empty name, serving. By its bytes, since the messages
/// of this call are not generated here.
#[tokio::test]
async fn the_list_holds_that_one_service() {
    let world = World::start().await;
    let mut grpc = tonic::client::Grpc::new(world.channel.clone());
    grpc.ready().await.expect("connected");
    let path = "/grpc.health.v1.Health/List".parse().expect("a path");
    let answer = grpc.unary(tonic::Request::new(Bytes::new()), path, Raw).await;
    let answer = answer.expect("it is served").into_inner();
    // statuses = 1 { value = 2 { status = 1: SERVING = 1 } }, with or without the empty key.
    let (bare, keyed) = (b"\x0a\x04\x12\x02\x08\x01", b"\x0a\x06\x0a\x00\x12\x02\x08\x01");
    assert!(answer == bare.as_slice() || answer == keyed.as_slice(), "{answer:?}");
    world.stop().await;
}
