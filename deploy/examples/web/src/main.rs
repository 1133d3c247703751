//! A web application of one colo, as an example: it serves where its colo is active, sends clients
//! there when another one is, and serves nothing while it does not know.
//!
//! It follows the group's keys by a mirror (`cfgsvc_client::Mirror`): no request asks the group.
//! `decide` has the rules, `orders` the write.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use cfgsvc_client::{Client, Freshness, Mirror, Moment, Options};
use clap::Parser;
use tokio::sync::{Semaphore, watch};

use crate::decide::{Answer, Site, View, decide};

mod decide;
mod orders;

/// Longest name of an order, bytes.
const ID_BYTES_MAX: usize = 64;
/// Writes at once; each is a process.
const WRITES_MAX: usize = 16;

/// A web application that serves where its colo is active
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
#[command(after_help = "\
Each path answers 200 with the master and its epoch when this colo is active; 307 to the same path
in the colo that is, at the first address of `cfgctl colo add`; 503 with the reason otherwise. The
body of POST /orders is the name of an order, which is written with the epoch.

Example: cfgsvc-example-web --colo akl --endpoints 10.1.0.1:2379,10.2.0.1:2379,10.3.0.1:2379
Example: cfgsvc-example-web --colo akl --listen 10.1.0.21:80 --database-file /etc/orders.cnf
         curl -L --data 4711 http://10.1.0.21/orders")]
struct Args {
    #[command(flatten)]
    site: Site,
    /// Members of the group, its own colo's first
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    #[arg(default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// What the group has not confirmed for so long is not served any more
    #[arg(long, value_name = "TIME", default_value = "3s")]
    #[arg(value_parser = humantime::parse_duration)]
    stale_after: Duration,
    /// Options of the program `mariadb`, with user, password and database below `[client]`; without
    /// it there are no orders
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,
}

#[derive(Clone)]
struct App {
    site: Arc<Site>,
    view: watch::Receiver<View>,
    database_file: Option<PathBuf>,
    writes: Arc<Semaphore>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(problem) = run(Args::parse()).await else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {problem}");
    ExitCode::FAILURE
}

async fn run(args: Args) -> Result<(), String> {
    let client = Client::new(Options::new(args.endpoints))
        .map_err(|error| format!("{error}\nhint: --endpoints takes HOST:PORT,..."))?;
    // Colos, hosts and who holds which role: all that is needed, and in one copy.
    let mirror = client.mirror("/cfgsvc/", args.stale_after);
    let unknown = View {
        keys: BTreeMap::new(),
        freshness: Freshness::Never,
    };
    let (views, view) = watch::channel(unknown);
    tokio::spawn(follow(mirror, views));
    let app = App {
        site: Arc::new(args.site),
        view,
        database_file: args.database_file,
        writes: Arc::new(Semaphore::new(WRITES_MAX)),
    };
    let router = Router::new()
        .route("/orders", post(order).fallback(look))
        .fallback(look)
        .with_state(app);
    let address = args.listen;
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.map_err(|error| {
        format!("cannot listen at {address}: {error}\nhint: name another address with --listen")
    })?;
    let local = listener.local_addr().map_err(|error| error.to_string())?;
    eprintln!("listening at {local}");
    let served = axum::serve(listener, router).await;
    served.map_err(|error| format!("serve at {address}: {error}"))
}

/// Copies what the mirror knows, whenever that changes or is confirmed anew.
async fn follow(mut mirror: Mirror, views: watch::Sender<View>) {
    loop {
        mirror.changed().await;
        let (keys, freshness) = mirror.snapshot();
        views.send_replace(View { keys, freshness });
    }
}

impl App {
    /// What to answer now.
    fn answer(&self) -> Answer {
        decide(&self.site, &self.view.borrow(), Moment::now())
    }
}

/// The response to whatever writes nothing.
fn respond(answer: Answer, uri: &Uri) -> Response {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    match answer {
        Answer::Serve(master) => Json(master).into_response(),
        Answer::Redirect(address) => {
            let location = [(header::LOCATION, format!("http://{address}{path}"))];
            (StatusCode::TEMPORARY_REDIRECT, location).into_response()
        }
        Answer::Fenced(reason) => unavailable(reason),
    }
}

fn unavailable(reason: String) -> Response {
    let later = [(header::RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, later, reason + "\n").into_response()
}

async fn look(State(app): State<App>, uri: Uri) -> Response {
    respond(app.answer(), &uri)
}

async fn order(State(app): State<App>, uri: Uri, id: String) -> Response {
    let answer = app.answer();
    let Answer::Serve(master) = &answer else {
        return respond(answer, &uri);
    };
    let Some(file) = &app.database_file else {
        return (StatusCode::NOT_FOUND, "started without --database-file\n").into_response();
    };
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return (StatusCode::BAD_REQUEST, "an order has 1 to 64 bytes\n").into_response();
    }
    let Ok(_one) = app.writes.try_acquire() else {
        return unavailable("too many writes at once".to_owned());
    };
    match orders::write(file, master, &id).await {
        Ok(()) => Json(master).into_response(),
        Err(reason) => unavailable(format!("not acknowledged: {reason}")),
    }
}
