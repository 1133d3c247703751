//! Answers to load balancers and people, over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/role/ROLE` | 200 while this host serves ROLE, else 503; the verdict as JSON |
//! | `/` | the verdicts on all roles |
//! | `/config/KEY` | the key of the local copy; `cfgsvc-confirmed`: whether the group confirms it |
//! | `/livez` | 200 |

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::serve::Listener;
use cfgsvc_clock::Moment;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::copy::Copies;
use crate::board::Board;

/// What is answered from.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) board: Arc<Board>,
    pub(crate) copies: Arc<Copies>,
}

/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 256;
/// Longest time that a connection lasts, whether it is used or not: idle ones must not keep out
/// who asks.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// The connections of a listener, few and not for long.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

/// One of them.
struct Connection {
    stream: TcpStream,
    over: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let Ok(place) = place else {
            // Nobody closes it.
            return std::future::pending().await;
        };
        // Tries again, after a pause, when the kernel has no room for a connection.
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let over = Box::pin(tokio::time::sleep(CONNECTION_MAX));
        let connection = Connection {
            stream,
            over,
            _place: place,
        };
        (connection, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.over.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Answers until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, known: Known) {
    let listener = Bounded {
        listener,
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    let routes = Router::new()
        .route("/", get(all))
        .route("/livez", get(async || "ok\n"))
        .route("/role/{*role}", get(role))
        .route("/config/{*key}", get(config))
        .with_state(known);
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "HTTP is not answered any more");
    }
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
