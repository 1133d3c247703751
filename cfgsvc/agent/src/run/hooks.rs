//! Hooks: programs of the operator that are told what the host may do.
//!
//! One hook of a role runs at a time, and none but `on-serve` and those beside the role's program
//! ([`super::beside`]) while that runs. What
//! was not run when something newer is to be told is left out; a hook that the next one overtakes
//! is ended. A hook that fails is tried again, later and later, while nothing newer is to be told.
//!
//! While there is nothing to tell, the store is looked at ([`super::store`]); if it was opened
//! anew, the last news are told again, but for `on-fence`: what is fenced stays so.
//!
//! Invariant: which hooks there are is known from the agent's start on. One that was there then and
//! cannot be run (its directory is not mounted any more, say) has failed.
//!
//! | file | when | what its end means |
//! | --- | --- | --- |
//! | `on-serve` | it serves from now on | without a COMMAND, a failure gives the role up |
//! | `on-standby` | another serves it; follow it | with `position`: success: it is asked again |
//! | `on-redirect` | another serves it | |
//! | `on-rebuild` | it may have writes that the holder lacks | success: it has the holder's data |
//! | `on-fence` | do not serve; may come twice | success: the role is given up, if it is held yet |
//! | `position` | prints where the data ends: `IDENTITY POSITION [LIFE]`; nothing: no data | |
//! | `check` | while it serves, again and again | failures in a row: the role is given up |
//! | `sync` | while it serves, again and again; prints who is in sync | the group counts on them |

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{Mutex, watch};

use super::store::Looks;
use crate::role::core::Event;
use crate::state;

/// First wait before a failed hook is tried again; it doubles.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// Longest such wait.
const AGAIN_MAX: Duration = Duration::from_mins(1);
/// A hook that the role waits for, and that takes longer, is shown as a problem.
const SLOW: Duration = Duration::from_secs(1);
/// From SIGTERM to SIGKILL, for a hook that something newer overtakes.
const HOOK_STOP: Duration = Duration::from_secs(5);

/// What is told to a hook. The environment of the guarded program is made from it as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// `serve`, `standby`, `redirect`, `rebuild` or `fenced`; empty at the start.
    pub(crate) verdict: &'static str,
    pub(crate) epoch: i64,
    pub(crate) holder: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) reason: String,
}

impl Told {
    fn hook(&self) -> Option<&'static str> {
        Some(match self.verdict {
            "serve" => "on-serve",
            "standby" => "on-standby",
            "redirect" => "on-redirect",
            "rebuild" => "on-rebuild",
            "fenced" => "on-fence",
            _ => return None,
        })
    }

    /// The same for whoever is told: why a host is fenced is of no importance to its hook.
    fn is_news_after(&self, last: Option<&Self>) -> bool {
        last.is_none_or(|last| {
            let fenced = self.verdict == "fenced" && last.verdict == "fenced";
            !fenced
                && (self.verdict, self.epoch, &self.holder, &self.addresses)
                    != (last.verdict, last.epoch, &last.holder, &last.addresses)
        })
    }
}

/// The hooks that are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files(BTreeMap<&'static str, PathBuf>);

impl Files {
    const NAMES: [&str; 8] = [
        "on-serve",
        "on-standby",
        "on-redirect",
        "on-rebuild",
        "on-fence",
        "position",
        "check",
        "sync",
    ];

    /// Those that `dir` has an entry for now, be it one that leads nowhere.
    pub(crate) fn find(dir: &Path) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        for entry in fs_err::read_dir(dir)? {
            let file = entry?.file_name();
            let known = Self::NAMES.into_iter().find(|name| file == **name);
            found.extend(known.map(|name| (name, dir.join(name))));
        }
        Ok(Self(found))
    }
}

/// Who is told, where.
#[derive(Clone, Debug)]
pub(crate) struct Hooks {
    pub(crate) files: Files,
    pub(crate) role: String,
    pub(crate) host: String,
    pub(crate) colo: String,
    /// The verdict file.
    pub(crate) file: PathBuf,
    /// What a hook that writes the data holds: the next agent waits for it.
    pub(crate) lock: PathBuf,
}

/// The last news that a hook was told without failure. Whoever runs a hook or the program of the
/// role holds the lock.
pub(crate) type Last = Arc<Mutex<Option<Told>>>;

impl Hooks {
    /// The hook's file, if there was one at the start.
    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        self.files.0.get(name).map(PathBuf::as_path)
    }

    /// What hooks and programs find in their environment.
    pub(crate) fn environment(&self, told: &Told) -> Vec<(OsString, OsString)> {
        let text = |name: &str, value: String| (OsString::from(name), OsString::from(value));
        vec![
            text("CFGSVC_ROLE", self.role.clone()),
            text("CFGSVC_HOST", self.host.clone()),
            text("CFGSVC_COLO", self.colo.clone()),
            text("CFGSVC_VERDICT", told.verdict.to_owned()),
            text("CFGSVC_EPOCH", told.epoch.to_string()),
            text("EPOCH", told.epoch.to_string()),
            text("CFGSVC_HOLDER", told.holder.clone()),
            text("CFGSVC_ADDRESSES", told.addresses.join(",")),
            text("CFGSVC_REASON", told.reason.clone()),
            ("CFGSVC_VERDICT_FILE".into(), self.file.clone().into()),
        ]
    }

    fn spawn(
        path: &Path,
        environment: Vec<(OsString, OsString)>,
        output: Stdio,
    ) -> io::Result<Running> {
        let spawned = Command::new(path)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        spawned.map(Running)
    }

    /// Starts the hook `name`, which is there, to hear its answer.
    pub(crate) fn ask(
        &self,
        (name, told): (&str, &Told),
        output: Stdio,
        (more, held): (&[(OsString, OsString)], Option<&OwnedFd>),
    ) -> io::Result<Running> {
        let path = self.path(name).ok_or(io::ErrorKind::NotFound)?;
        let mut environment = self.environment(told);
        environment.extend_from_slice(more);
        let spawn = || Self::spawn(path, environment, output);
        match held {
            Some(lock) => state::inherited(lock, spawn)?,
            None => spawn(),
        }
    }

    /// Starts the hook `name`, if there is one.
    pub(crate) fn start(&self, name: &str, told: &Told) -> Option<io::Result<Running>> {
        let path = self.path(name)?;
        tracing::info!(role = %self.role, epoch = told.epoch, hook = name, "runs a hook");
        let mut held = None;
        if name == "on-rebuild" {
            // An agent that is killed leaves it behind; no program may start over it.
            match state::hold_inherited(&self.lock) {
                Ok(lock) => held = Some(lock),
                Err(error) => return Some(Err(error)),
            }
        }
        let spawned = Self::spawn(path, self.environment(told), Stdio::inherit());
        drop(held);
        Some(spawned)
    }

    /// Runs the hook `name` again and again until it succeeds, and notes why it does not, or that
    /// it takes long. Missing is success.
    pub(crate) async fn until_done(
        &self,
        name: &str,
        told: &Told,
        problem: impl Fn(Option<String>),
    ) {
        loop {
            let how = match self.start(name, told) {
                None => break,
                Some(Ok(mut running)) => {
                    let in_time = tokio::time::timeout(SLOW, running.wait()).await;
                    if in_time.is_err() {
                        let limit = SLOW.as_secs();
                        let slow = format!("hook {name} has been running for more than {limit} s");
                        problem(Some(slow));
                    }
                    match running.wait().await {
                        Ok(status) if status.success() => break,
                        ended => self.failed(name, ended),
                    }
                }
                Some(Err(error)) => self.failed(name, Err(error)),
            };
            problem(Some(format!("hook {name}: {how}; it is tried again")));
            tokio::time::sleep(AGAIN_MIN).await;
        }
        problem(None);
    }

    /// Logs it; how it failed.
    pub(crate) fn failed(&self, name: &str, ended: io::Result<ExitStatus>) -> String {
        let how = match ended {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(role = %self.role, hook = name, how, "a hook failed");
        how
    }
}

/// Tells the hooks what is new, until the sender of the news is gone.
pub(crate) async fn tell(mut looks: Looks, mut news: watch::Receiver<Told>) {
    let (hooks, store) = (looks.hooks.clone(), Arc::clone(&looks.store));
    let (last, events) = (Arc::clone(&looks.last), looks.events.clone());
    let mut again = AGAIN_MIN;
    loop {
        let mut last = last.lock().await;
        let fenced = |told: &Told| told.verdict == "fenced";
        if store.tells_again() && !last.as_ref().is_some_and(fenced) {
            *last = None;
        }
        let told = news.borrow_and_update().clone();
        let hook = told.hook().filter(|_| told.is_news_after(last.as_ref()));
        // The program's task tells of serving, with the program.
        let Some(hook) = hook.filter(|hook| *hook != "on-serve") else {
            drop(last);
            let comes = tokio::select! {
                changed = news.changed() => changed.is_ok(),
                () = store.retold() => true,
                never = looks.go_on(&told) => match never {},
            };
            if !comes {
                return;
            }
            again = AGAIN_MIN;
            continue;
        };
        match run(&hooks, hook, &told, &mut news).await {
            Ran::Missing => {
                *last = Some(told);
                continue;
            }
            Ran::Overtaken => continue,
            Ran::Left => return,
            Ran::Done => {
                again = AGAIN_MIN;
                *last = Some(told.clone());
                store.hook_ended();
                // A standby that has been told whom to follow may have data from there by now.
                let has_data = hook == "on-standby" && hooks.path("position").is_some();
                if hook == "on-rebuild" || has_data {
                    let epoch = told.epoch;
                    // Nobody to tell: the role is left.
                    let _ = events.send(Event::Rebuilt { epoch }).await;
                }
                continue;
            }
            Ran::Failed => {}
        }
        drop(last);
        tokio::select! {
            () = tokio::time::sleep(again) => again = (again * 2).min(AGAIN_MAX),
            overtaken = overtaken(&mut news, &told) => if !overtaken { return },
        }
    }
}

/// What became of a hook.
enum Ran {
    Missing,
    Done,
    Failed,
    /// There is something newer to tell; it was ended.
    Overtaken,
    /// There will be nothing to tell any more; it was ended.
    Left,
}

async fn run(hooks: &Hooks, hook: &str, told: &Told, news: &mut watch::Receiver<Told>) -> Ran {
    let mut running = match hooks.start(hook, told) {
        None => return Ran::Missing,
        Some(Ok(running)) => running,
        Some(Err(error)) => {
            hooks.failed(hook, Err(error));
            return Ran::Failed;
        }
    };
    tokio::select! {
        ended = running.wait() => match ended {
            Ok(status) if status.success() => Ran::Done,
            ended => {
                hooks.failed(hook, ended);
                Ran::Failed
            }
        },
        overtaken = overtaken(news, told) => {
            running.end().await;
            if overtaken { Ran::Overtaken } else { Ran::Left }
        }
    }
}

/// Waits for news that a hook must hear instead of `told`; false when there will be none.
async fn overtaken(news: &mut watch::Receiver<Told>, told: &Told) -> bool {
    news.wait_for(|newer| newer.is_news_after(Some(told)))
        .await
        .is_ok()
}

/// A hook that runs, and its process group. Dropped before its end is known, by a task that is
/// ended or a time that is over, it takes its group along: what it has started would run on
/// without anybody who knows.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    /// What it prints, once.
    pub(crate) fn output(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Waits for its end; asked again, it says the same.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Ends it and its group.
    async fn end(&mut self) {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(HOOK_STOP, self.wait()).await;
        if ended.is_err() {
            self.signal(Signal::KILL);
            // Killed: it ends, or the kernel holds it and nothing can be done.
            let _ = tokio::time::timeout(HOOK_STOP, self.wait()).await;
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.0.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // Not reaped, so the group is its own. An error: nobody of it is left.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
pub(crate) mod tests;
