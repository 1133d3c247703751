//! Outputs of maps on their way to reduces: served by the worker that has them, fetched to the disk
//! of the one that reduces. Octets go as they lie on disk, compressed and with their checksums,
//! which the merge checks; flow control is that of the stream.

use crate::cluster::proto::fetch_response::Part;
use crate::cluster::proto::{worker_client, worker_server};
use crate::cluster::worker::{Life, Shared};
use crate::cluster::{proto, wire};
use crate::engine::child::Place;
use crate::{Error, Result};
use fs_err as fs;
use mapreduce_core::names::{AttemptId, JobId, TaskId};
use mapreduce_core::worker::Deed;
use mapreduce_data::RunError;
use mapreduce_data::run::{self, Region, TRAILER, index_length, read_index};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Octets in a message.
const CHUNK: usize = 64 << 10;
/// Those who fetch at once.
const FETCHES_MAX: usize = 128;
/// Longest wait for a place among them.
const PLACE_WAIT: Duration = Duration::from_secs(10);
/// Longest wait for the next message of who serves.
const FETCH_WAIT: Duration = Duration::from_secs(30);
/// Messages that wait for the network.
const WAITING: usize = 4;
/// Where logs are, in a worker's directory.
pub(crate) const LOGS: &str = "logs";
/// Octets of a log that are kept, and shown.
pub(crate) const LOG_MAX: u64 = 64 << 10;

/// The regions of a run on disk.
pub(crate) fn regions(path: &Path) -> Result<Vec<Region>> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut trailer = [0; 16];
    let at = length.checked_sub(TRAILER).ok_or("a run is cut")?;
    file.file().read_exact_at(&mut trailer, at)?;
    let size = index_length(trailer, length)?;
    let mut index = vec![0; usize::try_from(size)?];
    file.file().read_exact_at(&mut index, at - size)?;
    Ok(read_index(&index, trailer, length)?)
}

/// Serves what this worker's maps have written.
pub(crate) struct Serving {
    life: Arc<Life>,
    /// For those who fetch: each has a thread while it does.
    places: Arc<Semaphore>,
}

impl Serving {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        let places = Arc::new(Semaphore::new(FETCHES_MAX));
        Self { life, places }
    }

    fn now(&self) -> Result<Arc<Shared>, Status> {
        let life = self.life.now();
        life.ok_or_else(|| Status::unavailable("this worker is no member of the group now"))
    }
}

type Parts = Pin<Box<dyn tokio_stream::Stream<Item = Result<proto::FetchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl worker_server::Worker for Serving {
    type FetchStream = Parts;

    async fn fetch(
        &self,
        request: Request<proto::FetchRequest>,
    ) -> Result<Response<Parts>, Status> {
        let request = request.into_inner();
        let shared = self.now()?;
        if request.incarnation != shared.incarnation.0 {
            return Err(Status::failed_precondition(
                "another life of this worker was asked",
            ));
        }
        // In the order in which they come.
        let place = Arc::clone(&self.places).acquire_owned();
        let place = tokio::time::timeout(PLACE_WAIT, place).await;
        let Ok(Ok(place)) = place else {
            return Err(Status::resource_exhausted("too many fetch at once"));
        };
        let (parts, stream) = mpsc::channel(WAITING);
        // Files are read on a thread that may wait.
        tokio::task::spawn_blocking(move || {
            serve(&shared, &request, &parts);
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn log(
        &self,
        request: Request<proto::LogRequest>,
    ) -> Result<Response<proto::LogResponse>, Status> {
        let request = request.into_inner();
        let attempt = wire::attempt_of(request.attempt);
        let attempt = attempt.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let path = log_path(&self.now()?.settings.directory, JobId(request.job), attempt);
        match tail(&path) {
            Ok(octets) => Ok(Response::new(proto::LogResponse {
                octets: octets.into(),
            })),
            Err(_) => Err(Status::not_found("no such attempt has run here")),
        }
    }
}

/// Where the standard error of an attempt is.
pub(crate) fn log_path(directory: &Path, job: JobId, attempt: AttemptId) -> PathBuf {
    directory.join(LOGS).join(format!("{job}-{attempt}"))
}

/// The last of a log.
pub(crate) fn tail(path: &Path) -> Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LOG_MAX);
    let mut octets = vec![0; usize::try_from(length - from)?];
    file.file().read_exact_at(&mut octets, from)?;
    Ok(octets)
}

type ToSend = mpsc::Sender<Result<proto::FetchResponse, Status>>;

fn serve(shared: &Shared, request: &proto::FetchRequest, parts: &ToSend) {
    let send = |part| {
        let part = Some(part);
        // Whoever asked may be gone.
        parts
            .blocking_send(Ok(proto::FetchResponse { part }))
            .is_ok()
    };
    let job = JobId(request.job);
    for output in &request.outputs {
        let asked = wire::attempt_of(output.attempt);
        let Ok(attempt) = asked else {
            send(Part::Refused("no attempt is named".to_owned()));
            return;
        };
        // Before each region: the copy, or the lease, may have become too old on the way.
        let task = TaskId::map(output.map);
        if let Err(refused) = shared.may(Deed::Serve(attempt), job, task) {
            send(Part::Refused(refused.to_string()));
            return;
        }
        let Some(path) = shared.output(job, output.map, attempt) else {
            send(Part::Lost(format!("{task} {attempt} is not here")));
            return;
        };
        match serve_one(&path, output.map, request.partition, &send) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let said = error.to_string();
                send(if is_lost(&error) {
                    Part::Lost(said)
                } else {
                    Part::Refused(said)
                });
                return;
            }
        }
    }
}

/// Whether a run is not there, or not what was written. Else it could not be read now: too many
/// files are open, or the disk is at fault.
fn is_lost(error: &Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_none_or(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof))
}

/// False: nobody wants more.
fn serve_one(path: &Path, map: u32, partition: u32, send: &impl Fn(Part) -> bool) -> Result<bool> {
    let regions = regions(path)?;
    let region = regions
        .get(partition as usize)
        .ok_or("there is no such partition")?;
    let begin = proto::Region {
        map,
        length: region.length,
        records: region.records,
        sum: region.sum,
    };
    if !send(Part::Region(begin)) {
        return Ok(false);
    }
    let file = fs::File::open(path)?;
    let (mut at, end) = (region.at, region.at + region.length);
    while at < end {
        let size = usize::try_from((end - at).min(CHUNK as u64))?;
        let mut octets = vec![0; size];
        file.file().read_exact_at(&mut octets, at)?;
        at += size as u64;
        if !send(Part::Octets(octets.into())) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Why a region did not come.
#[derive(Debug)]
pub(crate) enum NotFetched {
    /// The worker cannot be reached.
    Unreached(String),
    /// The worker is there, and does not serve now: it may do so later.
    Refused(String),
    /// The worker does not have it.
    Lost(String),
    /// This worker's own disk.
    Disk(std::io::Error),
}

/// What memory its longest block takes.
fn checked(place: &Place) -> Result<u64, NotFetched> {
    let file = fs::File::open(&place.path).map_err(NotFetched::Disk)?;
    let checked = run::check(std::io::BufReader::new(file), place.length);
    checked.map_err(|error| match error {
        RunError::Io(error) => NotFetched::Disk(error),
        RunError::Damaged { .. }
        | RunError::TooLong { .. }
        | RunError::Ended
        | RunError::Codec(_) => NotFetched::Lost(error.to_string()),
    })
}

/// Fetches one partition of some outputs of one worker to files of a directory; how many of them
/// came, in order, and why the next one did not.
pub(crate) async fn fetch(
    address: &str,
    request: proto::FetchRequest,
    directory: &Path,
) -> (Vec<(u32, Place)>, Option<NotFetched>) {
    let mut places = Vec::new();
    let done = fetch_into(address, request, directory, &mut places).await;
    (places, done.err())
}

/// Begins a fetch.
async fn ask(
    address: &str,
    request: proto::FetchRequest,
) -> Result<Streaming<proto::FetchResponse>, NotFetched> {
    let unreached = |error: &dyn std::error::Error| NotFetched::Unreached(error.to_string());
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| unreached(&error))?
        .connect_timeout(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(3));
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| unreached(&error))?;
    let mut client = worker_client::WorkerClient::new(channel);
    let asked = tokio::time::timeout(FETCH_WAIT, client.fetch(request)).await;
    match asked.map_err(|late| unreached(&late))? {
        Ok(parts) => Ok(parts.into_inner()),
        Err(status) if status.code() == Code::ResourceExhausted => {
            Err(NotFetched::Refused(status.message().to_owned()))
        }
        Err(status) => Err(unreached(&status)),
    }
}

async fn fetch_into(
    address: &str,
    request: proto::FetchRequest,
    directory: &Path,
    places: &mut Vec<(u32, Place)>,
) -> Result<(), NotFetched> {
    let unreached = |error: &dyn std::error::Error| NotFetched::Unreached(error.to_string());
    let wanted: Vec<u32> = request.outputs.iter().map(|output| output.map).collect();
    let mut parts = ask(address, request).await?;
    let mut open: Option<(u32, Place, fs::File, u64)> = None;
    loop {
        if let Some((map, place, _, left)) = &open
            && *left == 0
        {
            // What was damaged on its way, or at its holder's disk, is not kept.
            let longest = tokio::task::block_in_place(|| checked(place))?;
            let place = place.clone();
            places.push((*map, Place { longest, ..place }));
            open = None;
            if places.len() == wanted.len() {
                return Ok(());
            }
        }
        let message = tokio::time::timeout(FETCH_WAIT, parts.message()).await;
        let message = message.map_err(|late| unreached(&late))?;
        let message = message.map_err(|error| unreached(&error))?;
        let Some(proto::FetchResponse { part: Some(part) }) = message else {
            return Err(NotFetched::Unreached("the stream ended early".to_owned()));
        };
        match (part, &mut open) {
            // In the order in which they were asked for, and no others.
            (Part::Region(region), None) if wanted.get(places.len()) == Some(&region.map) => {
                let path = directory.join(format!("fetched-{}", region.map));
                let file = fs::File::create(&path).map_err(NotFetched::Disk)?;
                let place = Place {
                    path,
                    at: 0,
                    length: region.length,
                    records: region.records,
                    longest: 0,
                };
                open = Some((region.map, place, file, region.length));
            }
            (Part::Octets(octets), Some((_, _, file, left))) if octets.len() as u64 <= *left => {
                *left -= octets.len() as u64;
                file.write_all(&octets).map_err(NotFetched::Disk)?;
            }
            (Part::Refused(why), _) => return Err(NotFetched::Refused(why)),
            (Part::Lost(why), _) => return Err(NotFetched::Lost(why)),
            (Part::Region(_) | Part::Octets(_), _) => {
                return Err(NotFetched::Lost(
                    "it sends what was not asked for".to_owned(),
                ));
            }
        }
    }
}
