//! The commands with which people look at jobs and end them.
//!
//! Standard output is data, all else goes to standard error.

use super::Format;
use super::cluster::Group;
use crate::Result;
use crate::chain::{Followed, INTERRUPTED};
use crate::cluster::bars::Display;
use crate::cluster::follow::{self, Ended, Watching};
use crate::cluster::keeping::{self, What};
use crate::cluster::live::{self, Asking};
use crate::cluster::logs::{self, Wanted};
use crate::cluster::view::{self, State, View};
use crate::cluster::{proto, show, submit, words};
use cfgsvc_client::Client;
use clap::Args;
use mapreduce_core::names::{AttemptId, JobId, TaskId};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A job that was cancelled.
const CANCELLED: u8 = 4;
/// Tasks that are asked for.
const TASKS: usize = 1_000;
/// A cancelled job's output is removed by the master; whoever cancels waits for so long.
const CLEARED: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(super) struct Named {
    #[command(flatten)]
    group: Group,
    /// The job: its key, the begin of it, or its number, as `mapreduce list` shows them
    job: String,
}

#[derive(Debug, Args)]
pub(super) struct Removed {
    #[command(flatten)]
    named: Named,
    /// Give up an output that cannot be put into its place: what there is of it is deleted
    #[arg(long)]
    discard: bool,
}

#[derive(Debug, Args)]
pub(super) struct Looked {
    #[command(flatten)]
    named: Named,
    /// How it is written
    #[arg(short, value_enum, default_value = "table")]
    o: Format,
}

#[derive(Debug, Args)]
pub(super) struct Everything {
    #[command(flatten)]
    group: Group,
    /// How it is written
    #[arg(short, value_enum, default_value = "table")]
    o: Format,
}

#[derive(Debug, Args)]
pub(super) struct Logs {
    #[command(flatten)]
    named: Named,
    /// Of this task: map-00003 [default: of attempts that failed, else of those that run]
    #[arg(long, value_name = "TASK", value_parser = view::task_named)]
    task: Option<TaskId>,
    /// Of this attempt: 12.7
    #[arg(long, value_name = "E.N", value_parser = view::attempt_named)]
    attempt: Option<AttemptId>,
}

/// Writes to standard output.
fn write(text: &str) -> Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn write_json(what: &impl Serialize) -> Result<()> {
    write(&format!("{}\n", serde_json::to_string_pretty(what)?))
}

/// A copy of everything, and the job that is named.
async fn find(client: &Client, name: &str) -> Result<(Watching, String, JobId)> {
    let watching = follow::watch_all(client);
    watching.loaded().await?;
    let (key, id) = watching.look(|copy| follow::named(copy, name))?;
    Ok((watching, key, id))
}

/// A job that was submitted: it is shown until it is over, unless nobody wants to look on.
pub(super) async fn submitted(
    client: &Client,
    key: &str,
    format: Format,
    began: Option<Instant>,
) -> Result<ExitCode> {
    let table = matches!(format, Format::Table);
    if table {
        write(&format!("{key}\n"))?;
    }
    let Some(began) = began else {
        if !table {
            write_json(&serde_json::json!({ "key": key }))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    look_on(client, key, format, Some(began)).await
}

pub(super) async fn watch(args: Looked) -> Result<ExitCode> {
    let client = args.named.group.client()?;
    let (watching, key, _) = find(&client, &args.named.job).await?;
    // It is followed alone from here on.
    drop(watching);
    look_on(&client, &key, args.o, None).await
}

/// Follows a job to its end. `began`: when it was submitted here.
async fn look_on(
    client: &Client,
    key: &str,
    format: Format,
    began: Option<Instant>,
) -> Result<ExitCode> {
    let mut display = Display::new();
    let ended = follow::follow(client, key, &mut display).await?;
    let Ended::Over(view, live) = ended else {
        eprintln!("job {key} goes on without you");
        eprintln!("hint: `mapreduce watch {key}` shows it again, `mapreduce cancel {key}` ends it");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    // Where the last attempt failed, the master was told after it was asked.
    let live = match view.state {
        State::Failed => asked(client, &view).await.ok().or(live),
        State::Running | State::Publishing | State::Done | State::Cancelled | State::Damaged => {
            None
        }
    };
    let view = show::placed(*view, live.as_ref());
    let took = began.map(|began| began.elapsed());
    match format {
        Format::Table => write(&show::summary(&view, took))?,
        Format::Json => write_json(&show::Json::new(&view, None, took))?,
    }
    match view.state {
        State::Done if !view.is_discarded() => Ok(ExitCode::SUCCESS),
        State::Cancelled => {
            eprintln!("error: job {key} was cancelled");
            Ok(ExitCode::from(CANCELLED))
        }
        State::Done | State::Failed | State::Damaged | State::Running | State::Publishing => {
            Err(show::refusal(&view).into())
        }
    }
}

/// What came of the steps of a chain.
pub(super) fn steps(steps: &[Followed], format: Format) -> Result<ExitCode> {
    match format {
        Format::Table => {
            for step in steps {
                write(&show::summary(&step.view, Some(step.took)))?;
            }
        }
        Format::Json => {
            let json = steps.iter();
            let json = json.map(|step| show::Json::new(&step.view, None, Some(step.took)));
            write_json(&json.collect::<Vec<_>>())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Steps of a chain, with their jobs, that nobody looks on any more.
pub(super) fn left(steps: &[(String, String)]) -> ExitCode {
    for (step, key) in steps {
        eprintln!("step {step}: job {key} goes on without you");
    }
    if !steps.is_empty() {
        eprintln!("the chain stands still when those are done");
    }
    eprintln!("hint: the same command again goes on with it, `mapreduce cancel JOB` ends a job");
    ExitCode::from(INTERRUPTED)
}

pub(super) async fn list(args: Everything) -> Result<()> {
    let watching = follow::watch_all(&args.group.client()?);
    watching.loaded().await?;
    let views = watching.look(view::all);
    match args.o {
        Format::Table => write(&show::list(&views)),
        Format::Json => write_json(&views),
    }
}

/// What a master says of a job that runs.
async fn asked(client: &Client, view: &View) -> Result<proto::InspectResponse> {
    Asking::new(client).ask(Some(view.id), TASKS).await
}

pub(super) async fn status(args: Looked) -> Result<()> {
    let client = args.named.group.client()?;
    let (watching, key, _) = find(&client, &args.named.job).await?;
    let view = watching.job(&key).ok_or("the job was removed meanwhile")?;
    let answer = asked(&client, &view).await;
    let view = show::placed(view, answer.as_ref().ok());
    match args.o {
        Format::Table => {
            let problem = answer.as_ref().map_err(ToString::to_string);
            let details = match &problem {
                Ok(answer) => show::details(&view, Ok(answer)),
                Err(problem) => show::details(&view, Err(problem)),
            };
            write(&(show::summary(&view, None) + &details))
        }
        Format::Json => write_json(&show::Json::new(&view, answer.as_ref().ok(), None)),
    }
}

pub(super) async fn cancel(args: Named) -> Result<()> {
    let client = args.group.client()?;
    let (watching, key, _) = find(&client, &args.job).await?;
    submit::cancel(&client, &key).await?;
    let cleared = tokio::time::timeout(CLEARED, watching.cleared(&key)).await;
    if cleared.is_err() {
        let problem = watching.job(&key).and_then(|view| view.problem);
        let problem = problem.unwrap_or_else(|| "no master has come to it".to_owned());
        let problem = words::line(&problem);
        eprintln!("warning: what it has written is not removed yet: {problem}");
    }
    write(&format!("{key} is cancelled\n"))
}

pub(super) async fn logs(args: Logs) -> Result<()> {
    let client = args.named.group.client()?;
    let (watching, key, id) = find(&client, &args.named.job).await?;
    let answer = Asking::new(&client).ask(Some(id), TASKS).await;
    let wanted = Wanted {
        task: args.task,
        attempt: args.attempt,
    };
    let answer = answer.ok();
    let meant = watching.look(|copy| logs::meant(copy, (&key, id), answer.as_ref(), wanted));
    let (meant, more) = meant?;
    let workers = watching.look(live::addresses);
    let mut missing = Vec::new();
    for ran in &meant {
        let told = words::line(&ran.told());
        match logs::printed(workers.clone(), id, ran).await {
            Ok(printed) => {
                eprintln!("==> {told} <==");
                write_log(&printed)?;
            }
            Err(error) => missing.push(format!("{told}: {error}")),
        }
    }
    if more > 0 {
        eprintln!("{more} earlier attempts are left out: name one with --task or --attempt");
    }
    if missing.len() == meant.len() {
        return Err(missing.join("\n").into());
    }
    for missing in missing {
        eprintln!("warning: {missing}");
    }
    Ok(())
}

/// As it is for a file or a pipe; for a terminal without what would move the cursor.
fn write_log(printed: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        out.write_all(words::lines(&String::from_utf8_lossy(printed)).as_bytes())?;
    } else {
        out.write_all(printed)?;
    }
    if !printed.is_empty() && !printed.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

pub(super) async fn remove(args: Removed) -> Result<()> {
    let Removed { named, discard } = args;
    let client = named.group.client()?;
    let watching = follow::watch_all(&client);
    watching.loaded().await?;
    let found = watching.look(|copy| follow::named(copy, &named.job));
    let key = match found {
        Ok((key, _)) => key,
        // What is left of one whose removal was interrupted has no header.
        Err(error) => {
            let is_key =
                named.job.len() == 12 && named.job.bytes().all(|at| at.is_ascii_hexdigit());
            if !is_key || keeping::remove_rest(&client, &named.job, None).await? == 0 {
                return Err(error);
            }
            return write(&format!("{} is removed\n", named.job));
        }
    };
    let what = if discard && keeping::give_up(&client, &key).await? {
        discarded(&watching, &key).await;
        What::Ended
    } else {
        What::Settled
    };
    keeping::remove(&client, &key, None, what).await?;
    write(&format!("{key} is removed\n"))
}

/// Waits until what is left of an output that was given up is removed, or says what is not.
async fn discarded(watching: &Watching, key: &str) {
    let cleared = tokio::time::timeout(CLEARED, watching.cleared(key)).await;
    let view = watching.job(key);
    let view = view.as_ref();
    let output = view.and_then(|view| view.output.as_deref());
    let output = words::line(output.unwrap_or("its output"));
    if cleared.is_ok() {
        eprintln!("what it had for {output} is discarded");
        return;
    }
    let problem = view.and_then(|view| view.problem.clone());
    let problem = problem.unwrap_or_else(|| "no master has come to it".to_owned());
    let problem = words::line(&problem);
    eprintln!(
        "warning: what it has written for {output} is left, with {key} in its names: {problem}"
    );
}
