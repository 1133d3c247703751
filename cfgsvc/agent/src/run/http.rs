//! Answers to load balancers and people, over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/role/ROLE` | 200 while this host serves ROLE, else 503; the verdict as JSON |
//! | `/` | the verdicts on all roles |
//! | `/config/KEY` | the key of the local copy; `cfgsvc-confirmed`: whether the group confirms it |
//! | `/livez` | 200 |

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use cfgsvc_clock::Moment;
use tokio::net::TcpListener;

use super::copy::Copies;
use crate::board::Board;

/// What is answered from.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) board: Arc<Board>,
    pub(crate) copies: Arc<Copies>,
}

/// Answers until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, known: Known) {
    let routes = Router::new()
        .route("/", get(all))
        .route("/livez", get(async || "ok\n"))
        .route("/role/{*role}", get(role))
        .route("/config/{*key}", get(config))
        .with_state(known);
    cfgsvc_daemon::serve_http(listener, routes).await;
}

/// Listens.
pub(crate) async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(at).await
}

async fn all(State(known): State<Known>) -> Response {
    let now = Moment::now();
    let roles = known.board.all();
    let shown: Vec<_> = roles
        .into_iter()
        .map(|(role, status)| status.shown(&role, now))
        .collect();
    Json(shown).into_response()
}

async fn role(State(known): State<Known>, Path(role): Path<String>) -> Response {
    let Some(status) = known.board.role(&role) else {
        let text = format!("this agent does not take part in role '{role}'\n");
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let now = Moment::now();
    let code = if status.serves(now) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(status.shown(&role, now))).into_response()
}

async fn config(State(known): State<Known>, Path(key): Path<String>) -> Response {
    // The route's slash before the key is not the key's.
    match known.copies.get(key.as_bytes()) {
        None => {
            let text = format!("no --copy of this agent has key '{key}', or it has no copy yet\n");
            (StatusCode::NOT_FOUND, text).into_response()
        }
        Some(found) => {
            let headers = [
                (
                    header::CONTENT_TYPE.as_str(),
                    "application/octet-stream".to_owned(),
                ),
                ("cfgsvc-confirmed", found.confirmed.to_string()),
                ("cfgsvc-revision", found.revision.to_string()),
                ("cfgsvc-mod-revision", found.mod_revision.to_string()),
            ];
            (headers, found.value).into_response()
        }
    }
}
