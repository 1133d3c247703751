//! What the server tells load balancers, monitors and people, over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/fresh` | 200 while zones are answered, else 503; why, and which revision, as JSON |
//! | `/zones` | the zones with their serials, as JSON; whether they are answered is `/fresh` |
//! | `/metrics` | for Prometheus |
//! | `/livez` | 200 |

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use cfgdns_net::{Server, Totals};
use cfgsvc_client::{Following, Freshness, Moment};
use serde_json::json;

use crate::metrics;
use crate::publish::{Keys, Publisher};

/// What is answered from.
#[derive(Debug)]
pub struct Known {
    /// What is followed.
    pub following: Following<Keys>,
    /// What is published to the sockets.
    pub publisher: Arc<Publisher>,
    /// The sockets, until they are ended.
    pub server: Mutex<Option<Server>>,
}

impl Known {
    /// How fresh the copy is, and what keeps it from being so.
    pub fn freshness(&self) -> (Freshness, Option<String>) {
        let freshness = self.following.look(|state| state.freshness(Moment::now()));
        (freshness, self.following.problem())
    }

    /// What has happened at the sockets.
    pub fn totals(&self) -> Totals {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map_or_else(Totals::default, Server::totals)
    }
}

/// All paths.
pub fn routes(known: Arc<Known>) -> Router {
    Router::new()
        .route("/fresh", get(fresh))
        .route("/zones", get(zones))
        .route("/metrics", get(metrics_text))
        .route("/livez", get(async || "ok\n"))
        .with_state(known)
}

async fn fresh(State(known): State<Arc<Known>>) -> Response {
    let (freshness, problem) = known.freshness();
    match freshness {
        Freshness::Fresh { revision, until } => {
            let left_ms = Moment::now().until(until).as_millis();
            let left_ms = u64::try_from(left_ms).unwrap_or(u64::MAX);
            let told = json!({ "fresh": true, "revision": revision, "for_ms": left_ms });
            Json(told).into_response()
        }
        Freshness::Stale { revision, .. } => {
            let why = "the group has not confirmed the copy for too long";
            let told = json!({
                "fresh": false, "why": why, "problem": problem, "revision": revision,
            });
            (StatusCode::SERVICE_UNAVAILABLE, Json(told)).into_response()
        }
        Freshness::Never => {
            let why = "the group has not confirmed the copy since the start";
            let told = json!({ "fresh": false, "why": why, "problem": problem });
            (StatusCode::SERVICE_UNAVAILABLE, Json(told)).into_response()
        }
    }
}

async fn zones(State(known): State<Arc<Known>>) -> Response {
    let state = known.publisher.shared().load();
    let zones = state.zones.trees().map(|tree| {
        let zone = tree.origin().to_string();
        if tree.is_closed() {
            return json!({ "zone": zone, "closed": true });
        }
        let names = tree.name_count();
        let mut told = json!({ "zone": zone, "serial": tree.soa().serial, "names": names });
        if let Some(why) = tree.lacking() {
            told["keys_missing"] = why.into();
        }
        told
    });
    Json(zones.collect::<Vec<_>>()).into_response()
}

async fn metrics_text(State(known): State<Arc<Known>>) -> Response {
    match metrics::text(&known) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            let text = format!("metrics: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}
