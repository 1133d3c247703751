//! What masters and workers serve over HTTP.
//!
//! | path | answer of a master |
//! | --- | --- |
//! | `/` | jobs and workers |
//! | `/jobs/KEY` | a job: phases, what runs, failures, counters, tasks |
//! | `/jobs/KEY/attempts/E.N/log` | what an attempt has printed, fetched from its worker |
//! | `/metrics` | for Prometheus |
//! | `/health` | 200, and whether it is in office |
//!
//! Only the master in office knows what runs. One that stands by sends readers of the first three
//! to it (307), or says that there is none (503). A worker serves the last two.
//!
//! Invariant: whoever reads changes nothing; there is no other method than GET.

use crate::Result;
use crate::cluster::copy::Copy;
use crate::cluster::inspect;
use crate::cluster::keys;
use crate::cluster::live;
use crate::cluster::logs::{self, Wanted};
use crate::cluster::master::Shared;
use crate::cluster::page::{self, Row, Rows, TASKS_MAX};
use crate::cluster::progress::{Progress, Stand};
use crate::cluster::view::{self, State, View};
use crate::cluster::{keeping, metrics, proto, show, wire, worker};
use axum::Router;
use axum::extract::{Path, Query, State as Of};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cfgsvc_client::{Client, Following, Freshness, Moment};
use mapreduce_core::names::{JobId, Phase, TaskId};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// For how long a confirmation of the copy counts.
const FRESH: Duration = Duration::from_secs(3);

/// What a master does for people.
pub(crate) struct People {
    /// Where it serves HTTP, if it does.
    pub(crate) listener: Option<TcpListener>,
    /// Jobs that are kept when they have ended.
    pub(crate) keep_jobs: usize,
}

impl People {
    /// Where others reach it: of a listener at all addresses of the machine, by the machine's name.
    pub(super) fn address(&self) -> Result<Option<String>> {
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        let address = listener.local_addr()?;
        if !address.ip().is_unspecified() {
            return Ok(Some(address.to_string()));
        }
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        Ok(Some(format!("{host}:{}", address.port())))
    }
}

/// What a master's pages are made of.
struct Known {
    shared: Arc<Shared>,
    following: Following<Copy>,
    /// Rates of the jobs that somebody looks at, and since when.
    rates: Mutex<BTreeMap<JobId, (Instant, Progress)>>,
}

/// Serves until it is dropped, and removes old jobs while this is the master in office.
pub(super) async fn serve(client: &Client, shared: &Arc<Shared>, people: People) {
    let changed = Arc::new(Notify::new());
    let notify = Arc::clone(&changed);
    let following = client.follow(keys::PREFIX, FRESH, Copy::default(), move |_, _| {
        notify.notify_one();
    });
    let known = Arc::new(Known {
        shared: Arc::clone(shared),
        following,
        rates: Mutex::default(),
    });
    let of_copy = (&known.following, &*changed);
    let keeping = keeping::keep(client, shared, of_copy, people.keep_jobs);
    let serving = async {
        match people.listener {
            Some(listener) => {
                if let Ok(address) = listener.local_addr() {
                    tracing::info!(%address, "serves HTTP");
                }
                cfgsvc_daemon::serve_http(listener, routes(Arc::clone(&known))).await;
            }
            None => std::future::pending().await,
        }
    };
    tokio::join!(keeping, serving);
}

fn routes(known: Arc<Known>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/jobs/{key}", get(job))
        .route("/jobs/{key}/attempts/{attempt}/log", get(log))
        .route("/metrics", get(master_metrics))
        .route("/health", get(health))
        .with_state(known)
}

/// What every answer says to a browser: no scripts, nothing from elsewhere, in nobody's frame.
fn headers(kind: &'static str) -> HeaderMap {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn html(page: String) -> Response {
    (headers("text/html; charset=utf-8"), page).into_response()
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let headers = headers("text/plain; charset=utf-8");
    (status, headers, text.into() + "\n").into_response()
}

impl Known {
    fn inspect(&self, job: Option<JobId>, from: u32) -> Option<proto::InspectResponse> {
        let request = proto::InspectRequest {
            job: job.map(|job| job.0),
            tasks_from: from,
            tasks_max: u32::try_from(TASKS_MAX).unwrap_or(u32::MAX),
        };
        inspect::inspect(&self.shared, &request)
    }

    fn look<T>(&self, look: impl FnOnce(&Copy) -> T) -> T {
        self.following.look(|state| look(state.kept()))
    }

    fn is_fresh(&self) -> bool {
        let now = Moment::now();
        self.following
            .look(|state| matches!(state.freshness(now), Freshness::Fresh { .. }))
    }

    /// Where the master in office is to be seen, to one who stands by.
    fn elsewhere(&self, wanted: &Uri) -> Response {
        let office = self.look(|copy| copy.master.as_ref()?.0.http.clone());
        // What has this address is not in office, whatever the copy says.
        let office = office.filter(|http| self.shared.http.as_ref() != Some(http));
        let path = wanted.path_and_query().map_or("/", |path| path.as_str());
        let to = office.and_then(|http| HeaderValue::try_from(format!("http://{http}{path}")).ok());
        match to {
            Some(to) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
            None => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "this master stands by, and it is not known where the one in office serves HTTP",
            ),
        }
    }

    /// How far a job is; its rates are over what was looked at before.
    fn stands(&self, view: &View, live: &proto::InspectResponse) -> (Stand, Stand) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if view.state.is_over() {
            rates.remove(&view.id);
            return Progress::default().look(Duration::ZERO, view, Some(live));
        }
        // Those of jobs that ended and that nobody looks at any more.
        rates.retain(|id, _| live.jobs.iter().any(|job| job.job == id.0) || *id == view.id);
        let (began, progress) = rates
            .entry(view.id)
            .or_insert_with(|| (Instant::now(), Progress::default()));
        progress.look(began.elapsed(), view, Some(live))
    }
}

async fn index(Of(known): Of<Arc<Known>>, uri: Uri) -> Response {
    let Some(live) = known.inspect(None, 0) else {
        return known.elsewhere(&uri);
    };
    html(page::index(&known.look(view::all), &live))
}

/// Which page of the tasks.
#[derive(Debug, Default, Deserialize)]
struct PageOf {
    #[serde(default)]
    from: u32,
}

async fn job(
    Of(known): Of<Arc<Known>>,
    Path(key): Path<String>,
    Query(PageOf { from }): Query<PageOf>,
    uri: Uri,
) -> Response {
    let id = known.look(|copy| copy.jobs.get(&key).map(|job| job.id));
    let Some(live) = known.inspect(id, from) else {
        return known.elsewhere(&uri);
    };
    let seen = known.look(|copy| {
        let job = copy.jobs.get(&key)?;
        let is_live = live.jobs.iter().any(|seen| seen.job == job.id.0);
        let tasks = if is_live {
            of_live(&live, from)
        } else {
            of_state(&job.state, from)
        };
        Some((View::whole(&key, job), tasks))
    });
    let Some((view, tasks)) = seen else {
        return plain(StatusCode::NOT_FOUND, "there is no such job");
    };
    let view = show::placed(view, Some(&live));
    let stands = known.stands(&view, &live);
    html(page::job(&view, &stands, &live, &tasks))
}

/// Tasks of a job that runs.
fn of_live(live: &proto::InspectResponse, from: u32) -> Rows {
    let mut rows = Vec::new();
    let mut running: BTreeMap<TaskId, Vec<live::Runs>> = BTreeMap::new();
    for runs in live::running(live) {
        running.entry(runs.task).or_default().push(runs);
    }
    for seen in &live.tasks {
        if let Ok(task) = wire::task_of(seen.task) {
            rows.push(Row {
                task,
                winner: wire::attempt_of(seen.winner).ok(),
                failures: seen.failures,
                running: running.remove(&task).unwrap_or_default(),
            });
        }
    }
    Rows {
        page: rows,
        from: from as usize,
        count: live.tasks_count as usize,
    }
}

/// Tasks of one that has ended, by its log.
fn of_state(state: &mapreduce_core::job::JobState, from: u32) -> Rows {
    let maps = (0..state.count(Phase::Map)).map(TaskId::map);
    let reduces = (0..state.count(Phase::Reduce)).map(TaskId::reduce);
    let count = state.count(Phase::Map) as usize + state.count(Phase::Reduce) as usize;
    let from = from as usize;
    let page = maps.chain(reduces).skip(from).take(TASKS_MAX);
    let rows = page.map(|task| Row {
        task,
        winner: state.winner(task).map(|winner| winner.attempt),
        failures: state.failures(task),
        running: Vec::new(),
    });
    let page = rows.collect();
    Rows { page, from, count }
}

async fn log(
    Of(known): Of<Arc<Known>>,
    Path((key, attempt)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let Ok(attempt) = view::attempt_named(&attempt) else {
        return plain(StatusCode::NOT_FOUND, "there is no such attempt");
    };
    let id = known.look(|copy| copy.jobs.get(&key).map(|job| job.id));
    let Some(live) = known.inspect(id, 0) else {
        return known.elsewhere(&uri);
    };
    let Some(id) = id else {
        return plain(StatusCode::NOT_FOUND, "there is no such job");
    };
    let wanted = Wanted {
        task: None,
        attempt: Some(attempt),
    };
    let (meant, workers) = known.look(|copy| {
        let meant = logs::meant(copy, (&key, id), Some(&live), wanted);
        (meant, live::addresses(copy))
    });
    let meant = meant.map(|(meant, _)| meant.into_iter().next());
    let Ok(Some(ran)) = meant else {
        return plain(StatusCode::NOT_FOUND, "there is no such attempt");
    };
    match logs::printed(workers, id, &ran).await {
        // Of an alphabet that nobody knows: a browser shows it as it can.
        Ok(printed) => (headers("text/plain; charset=utf-8"), printed).into_response(),
        Err(error) => plain(StatusCode::NOT_FOUND, format!("{}: {error}", ran.told())),
    }
}

fn metrics_of(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => (headers(metrics::KIND), text).into_response(),
        Err(error) => plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics: {error}"),
        ),
    }
}

async fn master_metrics(Of(known): Of<Arc<Known>>) -> Response {
    let states: Vec<State> = known.look(|copy| {
        let views = view::all(copy);
        views.into_iter().map(|view| view.state).collect()
    });
    metrics_of(metrics::text(metrics::OfMaster {
        is_fresh: known.is_fresh(),
        jobs: states,
        office: known.inspect(None, 0),
    }))
}

async fn health(Of(known): Of<Arc<Known>>) -> Response {
    let is_in_office = inspect::is_in_office(&known.shared);
    let text = if is_in_office {
        "in office"
    } else {
        "stands by"
    };
    plain(StatusCode::OK, text)
}

/// Serves a worker's figures, if there is a place for that, until it is dropped.
pub(super) async fn serve_worker(listener: Option<TcpListener>, life: Arc<worker::Life>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "serves HTTP");
    }
    let routes = Router::new()
        .route("/metrics", get(worker_metrics))
        .route("/health", get(worker_health))
        .with_state(life);
    cfgsvc_daemon::serve_http(listener, routes).await;
}

async fn worker_metrics(Of(life): Of<Arc<worker::Life>>) -> Response {
    // Between two lives it runs nothing.
    let present = life.now().map(|shared| shared.present());
    metrics_of(metrics::text(present.unwrap_or_default()))
}

async fn worker_health(Of(life): Of<Arc<worker::Life>>) -> Response {
    match life.now().filter(|shared| shared.present().lease_s > 0.0) {
        Some(_) => plain(StatusCode::OK, "a member"),
        None => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "no member of the group now",
        ),
    }
}
