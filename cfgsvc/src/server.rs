//! The client port: gRPC and HTTP on one socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use cfgsvc_proto::API_DESCRIPTORS;
use cfgsvc_proto::etcd::cluster_server::ClusterServer;
use cfgsvc_proto::etcd::kv_server::KvServer;
use cfgsvc_proto::etcd::lease_server::LeaseServer;
use cfgsvc_proto::etcd::maintenance_server::MaintenanceServer;
use cfgsvc_proto::etcd::watch_server::WatchServer;
use cfgsvc_proto::v1::admin_server::AdminServer;
use cfgsvc_proto::v1::roles_server::RolesServer;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::connections::{Bounds, accepted};
use crate::grpc::Api;
use crate::http;
use crate::metrics::Metrics;
use crate::service::Service;
use crate::streams;

/// Largest message that is received: etcd's limit for requests, 1.5 MiB, and its allowance for what
/// surrounds them.
const RECEIVE_BYTES_MAX: usize = 2 << 20;
/// Streams of one connection: etcd's clients put all watches and calls on one.
const STREAMS_MAX: u32 = 100_000;
/// Flow control windows: a snapshot or a burst of events need not wait for a round trip at each
/// 64 KiB, and a client that does not read holds no more than this.
const WINDOW_BYTES: u32 = 1 << 20;
/// Silence after which a client is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(30);
/// Wait for its answer: a client that is stopped or gone for longer connects again.
const PING_PATIENCE: Duration = Duration::from_secs(30);

/// Why reflection cannot fail.
const OWN_DESCRIPTORS: &str = "the descriptors are made when this program is built";

/// Everything that is served at the client port.
pub fn router(service: &Arc<Service>) -> Router {
    let api = Api::new(Arc::clone(service));
    let metrics = Arc::new(Metrics::new());
    let mut routes = Routes::builder();
    routes
        .add_service(KvServer::new(api.clone()).max_decoding_message_size(RECEIVE_BYTES_MAX))
        .add_service(WatchServer::new(api.clone()).max_decoding_message_size(RECEIVE_BYTES_MAX))
        .add_service(LeaseServer::new(api.clone()).max_decoding_message_size(RECEIVE_BYTES_MAX))
        .add_service(ClusterServer::new(api.clone()).max_decoding_message_size(RECEIVE_BYTES_MAX))
        .add_service(
            MaintenanceServer::new(api.clone()).max_decoding_message_size(RECEIVE_BYTES_MAX),
        )
        .add_service(AdminServer::new(api.clone()).max_decoding_message_size(RECEIVE_BYTES_MAX))
        .add_service(RolesServer::new(api).max_decoding_message_size(RECEIVE_BYTES_MAX))
        .add_service(reflection().build_v1().expect(OWN_DESCRIPTORS))
        .add_service(reflection().build_v1alpha().expect(OWN_DESCRIPTORS));
    routes
        .routes()
        .into_axum_router()
        .layer(middleware::from_fn_with_state(
            Arc::clone(&metrics),
            count_and_translate,
        ))
        .merge(http::routes(Arc::clone(service), metrics))
}

/// Tells clients which calls there are, with their comments (gRPC's server reflection).
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(API_DESCRIPTORS)
}

/// Serves until `service.stopping`, then until the open calls are answered or cut.
pub async fn serve(
    service: &Arc<Service>,
    listener: TcpListener,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_PATIENCE))
        .add_routes(Routes::from(router(service)))
        .serve_with_incoming_shutdown(
            accepted(listener, Bounds::of_process(), service.stopping.clone()),
            streams::stopped(service.stopping.clone()),
        )
        .await
}

/// Counts the call, and says in etcd's words that a message was too large for the decoder.
async fn count_and_translate(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    metrics.count(request.uri().path());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let found = headers
        .get("grpc-message")
        .filter(|_| {
            headers
                .get("grpc-status")
                .is_some_and(|status| status == "11")
        })
        .and_then(|message| found_bytes(message.to_str().ok()?));
    if let Some(bytes) = found {
        let text =
            format!("grpc: received message larger than max ({bytes} vs. {RECEIVE_BYTES_MAX})");
        // The text is of digits, letters and spaces: it needs no percent encoding and is a header.
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert("grpc-status", HeaderValue::from_static("8"));
            headers.insert("grpc-message", text);
        }
    }
    response
}

/// The size in the decoder's refusal: "... length too large: found N bytes, the limit is ...".
fn found_bytes(message: &str) -> Option<u64> {
    let message = message.replace("%20", " ");
    let (_, rest) = message.split_once("message length too large: found ")?;
    rest.split_once(' ')?.0.parse().ok()
}
