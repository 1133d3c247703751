//! The commands about many machines.

use super::{Asked, chain, made, memory, octets, people};
use crate::cluster::{http, master, submit, worker};
use crate::{AnyJob, Error, Result};
use cfgsvc_client::{Client, Options};
use clap::Args;
use mapreduce_core::spec::JobOptions;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Octets of memory for the records of a task at a worker.
const MEMORY: u64 = 32 << 20;

/// How long what runs beside a command may take to end with it.
const END_MAX: Duration = Duration::from_secs(2);
/// The exit code of wrong usage, as the parser of arguments has it.
const WRONG_USAGE: u8 = 2;

/// Where a master serves HTTP, unless it is told.
const USUAL_HTTP: &str = "127.0.0.1:7072";

/// Where the group is.
#[derive(Debug, Args)]
pub(super) struct Group {
    /// Members of the group, separated by commas
    #[arg(long, env = "CFGCTL_ENDPOINTS", hide_env = true, value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:2379", value_name = "A,B,C")]
    endpoints: Vec<String>,
}

impl Group {
    pub(super) fn client(&self) -> Result<Client> {
        Ok(Client::new(Options::new(self.endpoints.clone()))?)
    }
}

#[derive(Debug, Args)]
pub(super) struct Master {
    #[command(flatten)]
    group: Group,
    /// Where workers report
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    listen: SocketAddr,
    /// Where workers reach it [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// What it is called among those that stand by; by default a name of its own
    #[arg(long)]
    name: Option<String>,
    /// Where people and monitors see how jobs go, over HTTP
    /// [default: 127.0.0.1:7072, or nowhere if another has it]
    #[arg(long, value_name = "HOST:PORT")]
    listen_http: Option<SocketAddr>,
    /// Do not serve HTTP
    #[arg(long, conflicts_with = "listen_http")]
    no_http: bool,
    /// Jobs that are kept when they have ended; older ones are removed
    #[arg(long, value_name = "JOBS", default_value = "100")]
    keep_jobs: NonZero<usize>,
}

#[derive(Debug, Args)]
pub(super) struct Worker {
    #[command(flatten)]
    group: Group,
    /// Where other workers fetch from it; port 0 is any that is free
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What it is called; one of a name at a time [default: the machine's name and its port]
    #[arg(long)]
    name: Option<String>,
    /// Tasks that run at once [default: one for each processor]
    #[arg(long)]
    slots: Option<NonZero<u32>>,
    /// Memory of a task for records, 1MiB to 2GiB [default: 32MiB]
    #[arg(long, value_parser = memory)]
    memory: Option<u64>,
    /// A directory of its own for runs and logs
    #[arg(long, value_name = "DIR", default_value = "mapreduce.data")]
    data_dir: PathBuf,
    /// Memory that the process of a task may have [default: a share of this machine's]
    #[arg(long, value_parser = octets)]
    task_memory: Option<u64>,
    /// Where masters and other workers reach it [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// A task that makes no progress for so long is ended, s
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    task_timeout: NonZero<u32>,
    /// What this machine is called, among the workers [default: its host name]
    #[arg(long)]
    host: Option<String>,
    /// A directory or URL whose files are on this machine: tasks that read them go here first; may
    /// be given several times
    #[arg(long, value_name = "PATH")]
    holds: Vec<String>,
    /// Where monitors see how it is, over HTTP: `/metrics` and `/health` [default: nowhere]
    #[arg(long, value_name = "HOST:PORT")]
    listen_http: Option<SocketAddr>,
    /// What it is near to: tasks go to workers near their input
    #[arg(long, default_value = "default")]
    zone: String,
}

#[derive(Debug, Args)]
pub(super) struct Submit {
    #[command(flatten)]
    group: Group,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    chain: chain::Args,
    /// A file, such as a script, that tasks find in the directory in which they run; may be given
    /// several times
    #[arg(long, value_name = "PATH")]
    file: Vec<PathBuf>,
    /// Failures of a task with which the job fails
    #[arg(long, default_value = "4", value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// How long a map task waits for a worker that holds its input, and then as long again for one
    /// in the same zone, ms
    #[arg(long, value_name = "MS", default_value = "1000")]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    locality_wait: u64,
    /// Give slow tasks no second attempt beside the first
    #[arg(long)]
    no_backup_tasks: bool,
    /// Leave out up to so many records on which the job's code crashes twice
    #[arg(long, value_name = "RECORDS", default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
    skip_bad_records: u32,
    #[command(flatten)]
    run: Asked,
}

fn runtime() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.enable_all().build()?)
}

/// Runs it to its end on a runtime of its own.
pub(super) fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime()?;
    let done = runtime.block_on(work);
    // What still is at files may be where nothing answers.
    runtime.shutdown_timeout(END_MAX);
    done
}

fn start_log() -> Result<()> {
    cfgsvc_daemon::start_log("info").map_err(Error::from)
}

async fn bind(option: &str, address: SocketAddr) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| format!("{option} {address}: {error}").into())
}

/// The usual place for HTTP, unless another process has it: a second master on a machine is none
/// the worse for it.
async fn bind_usual() -> Option<TcpListener> {
    match TcpListener::bind(USUAL_HTTP).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(at = USUAL_HTTP, %error, "no status page: see --listen-http");
            None
        }
    }
}

/// Where others reach what listens here.
fn advertised(listener: &TcpListener, named: Option<String>) -> Result<String> {
    let address = listener.local_addr()?;
    match named {
        Some(named) => Ok(named),
        None if address.ip().is_unspecified() => Err(format!(
            "--listen {address} is every address of this machine: name the one that others reach \
             with --advertise HOST:{}",
            address.port()
        )
        .into()),
        None => Ok(address.to_string()),
    }
}

pub(super) async fn master(args: Master) -> Result<()> {
    start_log()?;
    let listener = bind("--listen", args.listen).await?;
    let address = advertised(&listener, args.advertise)?;
    let http = match (args.no_http, args.listen_http) {
        (true, _) => None,
        (false, Some(named)) => Some(bind("--listen-http", named).await?),
        (false, None) => bind_usual().await,
    };
    let people = http::People {
        listener: http,
        keep_jobs: args.keep_jobs.get(),
    };
    Box::pin(master::run(
        args.group.client()?,
        listener,
        address,
        args.name,
        people,
    ))
    .await
}

pub(super) async fn worker(args: Worker) -> Result<()> {
    start_log()?;
    let listener = bind("--listen", args.listen).await?;
    let http = match args.listen_http {
        Some(address) => Some(bind("--listen-http", address).await?),
        None => None,
    };
    let port = listener.local_addr()?.port();
    let own_name = || {
        let system = rustix::system::uname();
        system.nodename().to_string_lossy().into_owned()
    };
    let host = args.host.unwrap_or_else(own_name);
    let one = NonZero::<usize>::MIN;
    let processors = std::thread::available_parallelism().unwrap_or(one);
    let slots = match args.slots {
        Some(slots) => slots.get(),
        None => u32::try_from(processors.get())?,
    };
    let memory = rustix::system::sysinfo();
    let memory = memory.totalram.saturating_mul(memory.mem_unit.into());
    let settings = worker::Settings {
        name: args.name.unwrap_or_else(|| format!("{host}-{port}")),
        host,
        zone: args.zone,
        holds: args.holds,
        address: advertised(&listener, args.advertise)?,
        slots,
        memory_max: args.task_memory.unwrap_or(memory / u64::from(slots)),
        memory: usize::try_from(args.memory.unwrap_or(MEMORY))?,
        directory: std::path::absolute(args.data_dir)?,
        still_max: Duration::from_secs(args.task_timeout.get().into()),
    };
    worker::run(args.group.client()?, listener, settings, http).await
}

impl Submit {
    fn how(&self) -> JobOptions {
        JobOptions {
            attempts_max: self.attempts,
            backup_tasks: !self.no_backup_tasks,
            skipped_max: self.skip_bad_records,
            locality_wait_ms: self.locality_wait,
            ..JobOptions::default()
        }
    }
}

pub(super) fn submit(jobs: &[AnyJob], args: Submit) -> Result<ExitCode> {
    match (&args.chain.file, args.detach) {
        (None, _) => wait(submit_job(jobs, args)),
        (Some(_), false) => submit_chain(jobs, args),
        (Some(_), true) => {
            eprintln!("error: --detach: a chain submits a step when those before it are done");
            eprintln!("\nhint: leave it with Ctrl-C; the same command again goes on with it");
            Ok(ExitCode::from(WRONG_USAGE))
        }
    }
}

/// Has the steps of a chain run, each when those before it are done.
fn submit_chain(jobs: &[AnyJob], mut args: Submit) -> Result<ExitCode> {
    let runtime = runtime()?;
    let client = {
        let _inside = runtime.enter();
        args.group.client()?
    };
    let what = chain::Submitted {
        how: args.how(),
        args: std::mem::take(&mut args.chain),
        overwrite: args.run.overwrite,
        split_octets: args.run.split_size,
        files: &args.file,
    };
    let came = chain::submitted(jobs, (&runtime, &client), what);
    runtime.shutdown_timeout(END_MAX);
    match came? {
        chain::End::Done(steps) => people::steps(&steps, args.run.o),
        chain::End::Left(steps) => Ok(people::left(&steps)),
    }
}

async fn submit_job(jobs: &[AnyJob], args: Submit) -> Result<ExitCode> {
    let client = args.group.client()?;
    let format = args.run.o;
    let name = args.run.job.as_deref().ok_or("the job is not named")?;
    let (job, code) = made(jobs, name, &args.run.arguments)?;
    let arguments = args.run.arguments.clone();
    let how = args.how();
    let options = args.run.options();
    if !args.detach {
        submit::reached(&client).await;
    }
    let what = submit::Submission {
        name: &job.name,
        arguments,
        code: &*code,
        options: &options,
        files: &args.file,
        how,
    };
    let began = Instant::now();
    let key = submit::new_key();
    // Until that is waited for a signal ends the process: there is nothing yet.
    let interrupted = async {
        master::asked_to_end()?.await;
        Ok(())
    };
    submit::submit(&client, &key, &what, interrupted).await?;
    people::submitted(&client, &key, format, (!args.detach).then_some(began)).await
}
