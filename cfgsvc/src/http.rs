//! Plain HTTP beside the gRPC services: health, version, metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use crate::metrics::Metrics;
use crate::service::{ETCD_VERSION, Service};

/// How long a readiness probe waits for the group.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// What the handlers need.
#[derive(Clone)]
struct Shared {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
}

/// The routes.
pub fn routes(service: Arc<Service>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/version", get(version))
        .with_state(Shared { service, metrics })
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    match shared.metrics.text(&shared.service) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics: {error}\n"),
        )
            .into_response(),
    }
}

/// Alive: the member has not stopped by itself.
async fn livez(State(shared): State<Shared>) -> Response {
    match &shared.service.status().fault {
        None => "ok\n".into_response(),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")).into_response(),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match ready(&shared.service).await {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn health(State(shared): State<Shared>) -> Response {
    let (code, health, reason) = match ready(&shared.service).await {
        Ok(()) => (StatusCode::OK, "true", String::new()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, "false", reason),
    };
    (
        code,
        axum::Json(json!({"health": health, "reason": reason})),
    )
        .into_response()
}

/// Ready: this member is not stopping, knows a leader, and the group confirms a read now.
async fn ready(service: &Service) -> Result<(), String> {
    if *service.stopping.borrow() {
        return Err("the member is stopping".to_owned());
    }
    let status = service.status();
    if let Some(fault) = &status.fault {
        return Err(fault.clone());
    }
    if status.leader.is_none() {
        return Err("no leader is known".to_owned());
    }
    match tokio::time::timeout(PROBE_PATIENCE, service.group.read_barrier()).await {
        Ok(confirmed) => confirmed.map_err(|error| error.to_string()),
        Err(_) => Err(format!(
            "a read was not confirmed within {} ms",
            PROBE_PATIENCE.as_millis()
        )),
    }
}

async fn version() -> Response {
    axum::Json(json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": "3.6.0",
        "storage": "3.6.0",
        "cfgsvc": env!("CARGO_PKG_VERSION"),
    }))
    .into_response()
}
