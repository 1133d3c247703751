//! `cfgagent run`: one process for each host, which takes part in roles.

mod ask;
mod beside;
mod copy;
mod hooks;
mod http;
mod probes;
mod program;
mod role;
mod store;
mod sync;
mod watchdog;
mod writer;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfgsvc_client::{OptionsError, StepNumbers};
use cfgsvc_core::placement::RoleName;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::args::{HttpAddress, RunArgs};
use crate::board::Board;
use crate::group::Group;
use crate::guard::processes::{self, ProcError};
use crate::state::{self, StateDir, StateError, VerdictFile};
use beside::Checks;
use hooks::{Files, Hooks};
use probes::{Own, Rows};
use role::Settings;
use watchdog::Watchdog;

/// Wait between two looks at what the last agent left.
const LEFT_PAUSE: Duration = Duration::from_millis(50);

/// Threads for what may block in one role at a time: its verdict file, and a look at `/proc`.
const THREADS_PER_ROLE: usize = 2;
/// Threads for the copy of the configuration and for names that are looked up.
const SPARE_THREADS: usize = 16;
/// Longest wait for them.
const THREADS_MAX: Duration = Duration::from_secs(10);
/// Their name.
const THREAD: &str = "blocking";
/// How long they stay without work.
const FOR_EVER: Duration = Duration::from_hours(100 * 365 * 24);

/// Longest wait for the watchdog to be disarmed.
const WATCHDOG_MAX: Duration = Duration::from_secs(1);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// More than one role, and a program.
    #[error(
        "a COMMAND serves one role, and {roles} are given; run an agent for each, or serve by hooks"
    )]
    TooManyRoles {
        /// How many.
        roles: usize,
    },
    /// A role twice.
    #[error("role '{role}' is given twice")]
    RoleTwice {
        /// Which.
        role: RoleName,
    },
    /// The hook directory is not there, or cannot be read.
    #[error("cannot use the hook directory {}", .dir.display())]
    HookDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The endpoints cannot be used.
    #[error(transparent)]
    Endpoints(#[from] OptionsError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A guard could not guard here.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// HTTP cannot be answered there.
    #[error("cannot listen for HTTP on {at}; give another --http HOST:PORT, or off")]
    Http {
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Probes cannot be answered there.
    #[error("cannot answer probes on {at}; give another --probe HOST:PORT, or off")]
    Probe {
        /// Where.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The watchdog cannot be used.
    #[error("cannot use the watchdog {device}")]
    Watchdog {
        /// The setting.
        device: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses something.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// Runs the agent until SIGTERM or SIGINT, then gives its roles up; a second signal ends it at
/// once, and the guards stop what runs.
pub fn run(args: RunArgs) -> Result<(), RunError> {
    check(&args)?;
    let hooks = hooks(&args)?;
    // Programs and hooks are told files below it, and may change their directory.
    let state_dir = std::path::absolute(&args.state_dir).map_err(system("find the directory"))?;
    let state = StateDir::open(&state_dir, || {
        // Before anything else runs here, and with nobody to tell when the last one is gone.
        let until = cfgsvc_clock::Moment::now() + LEFT_PAUSE;
        while cfgsvc_clock::Moment::now() < until {
            std::thread::park_timeout(LEFT_PAUSE);
        }
    })?;
    let threads = SPARE_THREADS + THREADS_PER_ROLE * args.roles.len();
    let runtime = runtime(threads).map_err(system("start"))?;
    let ended = runtime.block_on(Box::pin(agent(args, hooks, state)));
    // What still waits (a file, a process that does not end) is not waited for.
    runtime.shutdown_background();
    ended
}

/// A runtime that never needs another thread. For what blocks, tokio starts one when none is idle,
/// and ends the process when there is none and none can be had: so all are started here, and stay.
fn runtime(threads: usize) -> io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(THREAD)
        .max_blocking_threads(threads)
        .thread_keep_alive(FOR_EVER)
        .build()?;
    let (started, all) = sync_channel(threads);
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..threads {
        let (started, gate) = (started.clone(), Arc::clone(&gate));
        runtime.spawn_blocking(move || {
            // Nobody listens any more only if it has failed.
            let _ = started.send(());
            // Until all are there: else one could do the work of two.
            drop(gate.lock());
        });
    }
    for _ in 0..threads {
        all.recv_timeout(THREADS_MAX)
            .map_err(|_| io::Error::other(format!("{threads} threads cannot be had")))?;
    }
    drop(closed);
    Ok(runtime)
}

fn check(args: &RunArgs) -> Result<(), RunError> {
    processes::check()?;
    let roles = args.roles.len();
    if roles > 1 && !args.command.is_empty() {
        return Err(RunError::TooManyRoles { roles });
    }
    for (at, role) in args.roles.iter().enumerate() {
        if args.roles.iter().skip(at + 1).any(|other| other == role) {
            let role = role.clone();
            return Err(RunError::RoleTwice { role });
        }
    }
    Ok(())
}

fn hooks(args: &RunArgs) -> Result<Files, RunError> {
    let Some(dir) = &args.hook_dir else {
        return Ok(Files::default());
    };
    let dir = dir.clone();
    Files::find(&dir).map_err(|source| RunError::HookDir { dir, source })
}

async fn agent(args: RunArgs, hooks: Files, state: StateDir) -> Result<(), RunError> {
    let mut signals = Signals::listen().map_err(system("watch for signals"))?;
    let author = format!("cfgagent {}", args.host.as_str());
    let group = Arc::new(Group::new(&args.endpoints, &author)?);
    let board = Arc::new(Board::default());
    let copies = copy::Copies::new(&group.client(), &args.copies, state.copy());
    let copies = Arc::new(copies);
    // Dropped, and ended with that, at the end.
    let mut helpers = JoinSet::new();
    if let HttpAddress::At(at) = args.http {
        let failed = |source| RunError::Http { at, source };
        let listener = http::listen(at).await.map_err(failed)?;
        let known = http::Known {
            board: Arc::clone(&board),
            copies: Arc::clone(&copies),
        };
        helpers.spawn(http::serve(listener, known));
    }
    if !args.copies.is_empty() {
        helpers.spawn(async move { copies.keep().await });
    }
    let device = watchdog::device(&args.watchdog).map_err(|source| RunError::Watchdog {
        device: args.watchdog.clone(),
        source,
    })?;
    let (serves_no_more, over) = watch::channel(false);
    let watched = device.map(|device| {
        let mark = state.watchdog_mark();
        let dog = Watchdog { device, mark };
        if let Err(error) = dog.disarm_left() {
            tracing::error!(%error, "cannot disarm the watchdog that was left armed");
        }
        tokio::spawn(dog.feed(Arc::clone(&board), over))
    });
    let boot = state::boot_id().map_err(system("read /proc/sys/kernel/random/boot_id"))?;
    let rows = probes(&args, &group, &mut helpers).await?;
    let (end, ending) = watch::channel(false);
    let mut roles = JoinSet::new();
    for role in &args.roles {
        let settings = settings(&args, &hooks, &state, (role, &boot, &rows))?;
        let (group, board) = (Arc::clone(&group), Arc::clone(&board));
        roles.spawn(role::run(settings, group, board, ending.clone()));
    }
    signals.next().await;
    tracing::info!("ends: gives the roles up");
    end.send_replace(true);
    tokio::select! {
        () = async { while roles.join_next().await.is_some() {} } => {}
        () = signals.next() => tracing::warn!("ends at once: the guards stop what runs"),
    }
    serves_no_more.send_replace(true);
    if let Some(watched) = watched {
        // It only writes to its device; one that does not take it is left armed.
        let _ = tokio::time::timeout(WATCHDOG_MAX, watched).await;
    }
    Ok(())
}

/// Begins to probe others, and to answer them.
async fn probes(
    args: &RunArgs,
    group: &Arc<Group>,
    helpers: &mut JoinSet<()>,
) -> Result<Arc<Rows>, RunError> {
    let at = match args.probe {
        HttpAddress::Off => None,
        HttpAddress::At(at) => Some(at),
    };
    let bound = at.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
    let failed = |source| RunError::Probe { at: bound, source };
    let socket = probes::bind(bound).await.map_err(failed)?;
    let probe = match at {
        Some(_) => socket.local_addr().map_err(failed)?.to_string(),
        None => String::new(),
    };
    let own = Own {
        host: args.host.as_str().to_owned(),
        colo: args.colo.as_str().to_owned(),
        probe,
    };
    let rows = Arc::new(Rows::new(own));
    helpers.spawn(probes::run(Arc::clone(&rows), socket, Arc::clone(group)));
    Ok(rows)
}

fn settings(
    args: &RunArgs,
    files: &Files,
    state: &StateDir,
    (role, boot, rows): (&RoleName, &str, &Arc<Rows>),
) -> Result<Settings, RunError> {
    let page = state.verdict(role)?.unwrap_or_else(|| VerdictFile {
        role: role.as_str().to_owned(),
        ..VerdictFile::default()
    });
    let text = |name: &str| name.to_owned();
    Ok(Settings {
        role: text(role.as_str()),
        host: text(args.host.as_str()),
        colo: text(args.colo.as_str()),
        addresses: args.addresses.clone(),
        instance: text(state.instance()),
        boot: text(boot),
        command: args.command.clone(),
        program_lock: state.program_lock(),
        checks: Checks {
            interval: args.check_interval,
            timeout: args.check_timeout,
            failures: args.check_failures,
        },
        attempts: StepNumbers::default(),
        rows: Arc::clone(rows),
        hooks: Hooks {
            files: files.clone(),
            role: text(role.as_str()),
            host: text(args.host.as_str()),
            colo: text(args.colo.as_str()),
            file: state.verdict_path(role),
            lock: state.program_lock(),
        },
        page,
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_thread_is_started_after_the_start() {
        let runtime = runtime(3).expect("threads can be had");
        let threads = || -> io::Result<usize> {
            let mut found = 0;
            for task in fs_err::read_dir("/proc/self/task")? {
                // Those of other tests come and go.
                let name = fs_err::read_to_string(task?.path().join("comm"));
                found += usize::from(name.is_ok_and(|name| name.trim_end() == THREAD));
            }
            Ok(found)
        };
        let all = runtime.block_on(async {
            let tasks = (0..9).map(|_| tokio::task::spawn_blocking(threads));
            let tasks: Vec<_> = tasks.collect();
            let mut found = Vec::new();
            for task in tasks {
                found.push(task.await.expect("it ends").expect("readable"));
            }
            found
        });
        assert_eq!(all, [3; 9]);
    }
}
