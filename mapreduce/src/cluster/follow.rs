//! Jobs followed from a terminal or a script: a copy of what the group has, and shown until a job
//! is over how far it is.
//!
//! Invariant: whoever follows only reads. Its end, or that the group cannot be reached, changes
//! nothing for the job.

use crate::cluster::bars::Display;
use crate::cluster::copy::{Copy, JobCopy};
use crate::cluster::keys;
use crate::cluster::live::Asking;
use crate::cluster::progress::{self, Progress};
use crate::cluster::proto;
use crate::cluster::view::{self, State, View};
use crate::cluster::words;
use crate::{Error, Result};
use cfgsvc_client::{Client, Following, Freshness, MirrorState, Moment};
use mapreduce_core::names::JobId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// For how long a confirmation of the copy counts.
const FRESH: Duration = Duration::from_secs(3);
/// Between two looks at what runs.
const LOOK: Duration = Duration::from_millis(500);
/// Running tasks that are asked for: more than are ever shown.
const TASKS: usize = 1_000;
/// Slow tasks that are shown.
const SLOW_MAX: usize = 3;
/// The group may be silent for so long before it is said.
const SILENT: Duration = Duration::from_secs(5);

/// Workers report several times in this time.
const MUTE: Duration = Duration::from_secs(10);
/// Whoever asks once waits so long for the group.
const LOADED_MAX: Duration = Duration::from_secs(15);

/// The group does not answer.
#[derive(Debug, thiserror::Error)]
#[error("the group is not reached for {seconds} s{why}; see --endpoints")]
pub(crate) struct Unreached {
    seconds: u64,
    why: String,
}

/// A copy, and when it changes.
pub(crate) struct Watching {
    following: Following<Copy>,
    changed: Arc<Notify>,
    began: Moment,
}

/// Follows all jobs, workers and the master.
pub(crate) fn watch_all(client: &Client) -> Watching {
    watch(client, keys::PREFIX.to_owned())
}

/// Follows one job.
fn watch_one(client: &Client, key: &str) -> Watching {
    watch(client, format!("{}{key}/", keys::JOBS))
}

fn watch(client: &Client, prefix: String) -> Watching {
    let changed = Arc::new(Notify::new());
    let notify = Arc::clone(&changed);
    let following = client.follow(prefix, FRESH, Copy::default(), move |_, _| {
        notify.notify_one();
    });
    Watching {
        following,
        changed,
        began: Moment::now(),
    }
}

impl Watching {
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Copy) -> T) -> T {
        self.following.look(|state| look(state.kept()))
    }

    /// A job by its key, with its counters.
    pub(crate) fn job(&self, key: &str) -> Option<View> {
        self.look(|copy| copy.jobs.get(key).map(|job| View::whole(key, job)))
    }

    /// Waits for the first copy.
    pub(crate) async fn loaded(&self) -> Result<(), Unreached> {
        let mut said = false;
        while self.following.look(MirrorState::revision) == 0 {
            // Whoever asks once knows for what it waits, and is told when it is in vain.
            if let (Some(problem), false) = (self.silence(), said) {
                eprintln!("{problem}");
                said = true;
            }
            if self.began.until(Moment::now()) >= LOADED_MAX {
                let problem = self.following.problem();
                return Err(Unreached {
                    seconds: LOADED_MAX.as_secs(),
                    why: problem.map_or_else(String::new, |it| words::line(&format!(": {it}"))),
                });
            }
            // An error is that nothing has changed for a while.
            let _ = tokio::time::timeout(LOOK, self.changed.notified()).await;
        }
        Ok(())
    }

    /// Waits until nothing is left to do for a job that is over.
    pub(crate) async fn cleared(&self, key: &str) {
        let is_cleared = |copy: &Copy| {
            let job = copy.jobs.get(key);
            job.is_none_or(|job| View::brief(key, job).is_cleared())
        };
        while !self.look(is_cleared) {
            self.changed.notified().await;
        }
    }

    /// What there is to say when the group has not been heard for long.
    fn silence(&self) -> Option<String> {
        let now = Moment::now();
        let since = match self.following.look(|state| state.freshness(now)) {
            Freshness::Fresh { .. } => return None,
            Freshness::Stale { since, .. } => since,
            Freshness::Never => self.began,
        };
        let silent = since.until(now);
        (silent >= SILENT).then(|| {
            let problem = self.following.problem();
            let problem = problem.map_or_else(String::new, |it| format!(" ({it})"));
            let silent = words::time(silent);
            let text = format!("the group is not reached for {silent}{problem}; goes on trying");
            words::line(&text)
        })
    }

    fn is_confirmed(&self) -> bool {
        let now = Moment::now();
        self.following
            .look(|state| matches!(state.freshness(now), Freshness::Fresh { .. }))
    }
}

/// The job that a person names, by key, number or the begin of a key.
pub(crate) fn named(copy: &Copy, name: &str) -> Result<(String, JobId)> {
    let is_named = |key: &str, job: &JobCopy| {
        key == name || job.id.to_string() == name || job.id.0.to_string() == name
    };
    let found = copy.jobs.iter().find(|(key, job)| is_named(key, job));
    let begun: Vec<_> = copy
        .jobs
        .iter()
        .filter(|(key, _)| name.len() >= 4 && key.starts_with(name))
        .collect();
    match (found, &begun[..]) {
        (Some((key, job)), _) => Ok((key.clone(), job.id)),
        (None, [(key, job)]) => Ok(((*key).clone(), job.id)),
        (None, _) => Err(not_named(copy, name)),
    }
}

fn not_named(copy: &Copy, name: &str) -> Error {
    const SHOWN_MAX: usize = 10;
    let name = words::line(name);
    let jobs = view::all(copy);
    let shown: Vec<_> = jobs
        .iter()
        .rev()
        .take(SHOWN_MAX)
        .map(|view| format!("{} ({}, {})", view.key, view.name, view.state.name()))
        .collect();
    let more = jobs.len() - shown.len();
    let there = match (shown.is_empty(), more) {
        (true, _) => "there are none".to_owned(),
        (false, 0) => format!("there are {}", shown.join(", ")),
        (false, more) => format!("the latest are {}, and {more} more", shown.join(", ")),
    };
    format!("no job {name}: {there}; see `mapreduce list`").into()
}

/// How following ended.
pub(crate) enum Ended {
    /// The job is over. With the last answer of the master that had something of it.
    Over(Box<View>, Option<proto::InspectResponse>),
    /// The person does not want to look on any more.
    Left,
}

/// Shows how far a job is until it is over, or until SIGINT or SIGTERM.
pub(crate) async fn follow(client: &Client, key: &str, display: &mut Display) -> Result<Ended> {
    let left = crate::cluster::master::asked_to_end()?;
    follow_until(client, key, display, left).await
}

/// Shows how far a job is until it is over, or until `left`.
pub(crate) async fn follow_until(
    client: &Client,
    key: &str,
    display: &mut Display,
    left: impl Future<Output = ()>,
) -> Result<Ended> {
    let (answers, latest) = watch::channel(None);
    let (knows, id) = watch::channel(None);
    tokio::select! {
        over = look_on(client, key, display, (&knows, latest)) => over,
        () = ask_on(client, id, answers) => Err("the master is not asked any more".into()),
        () = left => {
            display.end();
            Ok(Ended::Left)
        }
    }
}

/// Asks the master again and again what runs of a job.
async fn ask_on(
    client: &Client,
    mut job: watch::Receiver<Option<JobId>>,
    answers: watch::Sender<Option<proto::InspectResponse>>,
) {
    // Its sender lives as long as what waits for this.
    let Ok(id) = job.wait_for(Option::is_some).await.map(|id| *id) else {
        return;
    };
    let mut asking = Asking::new(client);
    loop {
        // Between two masters there is nobody: what was known before is not so any more.
        let answer = asking.ask(id, TASKS).await.ok();
        answers.send_replace(answer);
        tokio::time::sleep(LOOK).await;
    }
}

type Live = watch::Receiver<Option<proto::InspectResponse>>;

async fn look_on(
    client: &Client,
    key: &str,
    display: &mut Display,
    (knows, mut live): (&watch::Sender<Option<JobId>>, Live),
) -> Result<Ended> {
    let watching = watch_one(client, key);
    let began = Instant::now();
    let mut progress = Progress::default();
    let mut last_known = None;
    let mut was_there = false;
    loop {
        // Whichever comes first; an error is that nothing has for a while.
        let changed = tokio::time::timeout(LOOK, watching.changed.notified());
        tokio::select! {
            _ = changed => {}
            _ = live.changed() => {}
        }
        display.silence(watching.silence());
        let Some(view) = watching.job(key) else {
            if was_there || watching.is_confirmed() {
                display.end();
                return Err(format!("job {key} is not there any more: it was removed").into());
            }
            continue;
        };
        was_there = true;
        knows.send_replace(Some(view.id));
        let answer = live.borrow_and_update().clone();
        let (maps, reduces) = progress.look(began.elapsed(), &view, answer.as_ref());
        let notes = notes(&view, answer.as_ref());
        last_known = answer.or(last_known);
        display.show(&view, &maps, &reduces, &notes);
        if view.state.is_over() {
            display.end();
            return Ok(Ended::Over(Box::new(view), last_known));
        }
    }
}

/// Whether a worker is a member of the group, and its master has not heard of it for long.
fn is_mute(worker: &proto::WorkerSeen) -> bool {
    worker.silent && u128::from(worker.heard_ms) >= MUTE.as_millis()
}

/// What a person should know beside the figures.
fn notes(view: &View, answer: Option<&proto::InspectResponse>) -> Vec<String> {
    let mut notes = Vec::new();
    if let (State::Publishing, Some(problem)) = (view.state, &view.problem) {
        notes.push(format!(
            "its output is not in its place yet: {}",
            words::line(problem)
        ));
    }
    match answer.filter(|_| view.state == State::Running) {
        Some(answer) if answer.workers_count == 0 => {
            notes.push("no worker is there: start `mapreduce worker`".to_owned());
        }
        Some(answer) if answer.workers.iter().all(is_mute) => {
            let count = answer.workers_count;
            notes.push(format!(
                "none of {count} workers reports to the master: can they reach it (--advertise)?"
            ));
        }
        Some(answer) => notes.extend(progress::stragglers(view, answer, SLOW_MAX)),
        None => {}
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn person_is_told_when_no_worker_reports() {
        let view = View {
            state: State::Running,
            problem: None,
            ..crate::cluster::show::tests::hostile()
        };
        let told = |workers: &[(bool, u64)]| {
            let workers = workers.iter().map(|(silent, heard_ms)| proto::WorkerSeen {
                silent: *silent,
                heard_ms: *heard_ms,
                ..proto::WorkerSeen::default()
            });
            let workers: Vec<_> = workers.collect();
            let answer = proto::InspectResponse {
                workers_count: u32::try_from(workers.len()).expect("a few"),
                workers,
                ..proto::InspectResponse::default()
            };
            notes(&view, Some(&answer)).concat()
        };
        assert!(told(&[]).contains("no worker is there"));
        assert!(told(&[(true, 30_000), (true, 10_000)]).contains("none of 2 workers reports"));
        // They may have come just now.
        assert_eq!(told(&[(true, 30_000), (true, 500)]), "");
        assert_eq!(told(&[(true, 30_000), (false, 100)]), "");
    }
}
