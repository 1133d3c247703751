//! The process of the guard: a loop around [`Core`] that waits, reaps, signals and talks.
//!
//! Why so: one thread, because the kernel's signal at a parent's death goes by the thread that
//! started the child. A child subreaper, so that whoever the program leaves behind becomes the
//! guard's child: when `wait` finds no child, no process of the program is left. The timer counts
//! a suspend, so that it fires when the machine wakes up. Signals arrive through pipes; SIGCHLD is
//! caught as well, which also undoes an inherited wish not to hear of children.
//!
//! Invariants
//! - After `ready` nothing waits for anybody but in `poll`: reports that find no room are lost, and
//!   nothing is written to standard output or error, which may be a pipe that nobody empties.
//! - It looks at the clock each [`LOOK`] at least while the program runs.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use cfgsvc_clock::Moment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, set_child_subreaper, wait};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use super::core::{Asker, Core, Effect, Event, Loss, Sent};
use super::processes::{self, ProcError};
use super::protocol::{Command, Ending, Lines, Report};
use crate::signals::{drained, listen};

/// Longest time between two looks at the lease clock. The timer's clock is slewed by NTP and the
/// lease clock is not: even at a tenth of the rate, they differ by 10 ms over this time.
pub const LOOK: Duration = Duration::from_millis(100);

/// What the guard is to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// From the deadline until all is gone; SIGKILL comes before that.
    pub stop: Duration,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Started after the program, and ended with it.
    pub beside: Option<OsString>,
}

/// Why the guard does not guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// There is nothing to run.
    #[error("no command is given")]
    NoCommand,
    /// It was not started by an agent.
    #[error("standard input is no socket to an agent; `cfgagent run` starts the guard")]
    NoSocket(#[source] io::Error),
    /// It could not find who descends from it.
    #[error(transparent)]
    Proc(#[from] ProcError),
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

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> GuardError {
    move |error| GuardError::System {
        what,
        source: error.into(),
    }
}

/// Guards one run of a program, from the first deadline to its end. The agent is at the other end
/// of the socket that is standard input. Must be called from the only thread of the process.
pub fn run(options: Options) -> Result<(), GuardError> {
    let mut guard = Guard::new(options)?;
    guard.say(Report::Ready {
        locked: lock_memory(),
    });
    while !guard.done {
        guard.wait()?;
        guard.turn();
    }
    Ok(())
}

/// Keeps what is in memory now from being swapped out; whether the kernel agreed. What is mapped
/// later is left out: beyond the limit of an ordinary user, allocating it would fail.
fn lock_memory() -> bool {
    mlockall(MlockAllFlags::CURRENT).is_ok()
}

struct Guard {
    core: Core,
    command: Vec<OsString>,
    /// To be started after it.
    beside: Option<OsString>,
    agent: UnixStream,
    /// Nothing more is read from the agent.
    agent_lost: bool,
    lines: Lines,
    /// A byte for each SIGTERM, SIGINT and SIGHUP.
    asked: UnixStream,
    /// A byte for each SIGUSR1.
    up: UnixStream,
    /// A byte for each SIGCHLD.
    ended: UnixStream,
    timer: OwnedFd,
    started: bool,
    /// The main process, until it is reaped.
    main: Option<Pid>,
    /// What was started beside it, until it is reaped.
    beside_it: Option<Pid>,
    done: bool,
}

impl Guard {
    fn new(options: Options) -> Result<Self, GuardError> {
        if options.command.is_empty() {
            return Err(GuardError::NoCommand);
        }
        let agent = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(UnixStream::from)
            .map_err(GuardError::NoSocket)?;
        agent.local_addr().map_err(GuardError::NoSocket)?;
        agent
            .set_nonblocking(true)
            .map_err(system("make the agent's socket non-blocking"))?;
        processes::check()?;
        set_child_subreaper(Some(getpid())).map_err(system("become a child subreaper"))?;
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(system("make a timer"))?;
        Ok(Self {
            core: Core::new(options.stop),
            command: options.command,
            beside: options.beside,
            agent,
            agent_lost: false,
            lines: Lines::default(),
            asked: listen(&[SIGTERM, SIGINT, SIGHUP]).map_err(system("catch signals"))?,
            up: listen(&[SIGUSR1]).map_err(system("catch signals"))?,
            ended: listen(&[SIGCHLD]).map_err(system("catch signals"))?,
            timer,
            started: false,
            main: None,
            beside_it: None,
            done: false,
        })
    }

    /// Waits for something to happen, or for [`LOOK`] while there is a deadline.
    fn wait(&mut self) -> Result<(), GuardError> {
        // Zero would switch the timer off.
        let span = self.core.next_wake().map(|wake| {
            let span = Moment::now().until(wake);
            span.clamp(Duration::from_nanos(1), LOOK)
        });
        let once = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(span.unwrap_or_default()),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .map_err(system("set a timer"))?;
        let mut sources = vec![
            PollFd::new(&self.asked, PollFlags::IN),
            PollFd::new(&self.up, PollFlags::IN),
            PollFd::new(&self.ended, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
        ];
        if !self.agent_lost {
            sources.push(PollFd::new(&self.agent, PollFlags::IN));
        }
        match poll(&mut sources, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(system("wait")(error)),
        }
    }

    /// Looks at everything, whatever it was that ended the wait.
    fn turn(&mut self) {
        if drained(&self.asked) {
            self.event(Event::Stop(Asker::Signal));
        }
        // Before the agent is heard: who was up before a program was started is none of it.
        if drained(&self.up) {
            self.event(Event::Up);
        }
        for event in self.heard() {
            self.event(event);
        }
        drained(&self.ended);
        self.reap();
        self.event(Event::Tick);
    }

    fn event(&mut self, event: Event) {
        for effect in self.core.on(event, Moment::now()) {
            match effect {
                Effect::Start => self.start(),
                Effect::Signal(Sent::Term) => {
                    processes::signal_descendants(self.main, Signal::TERM);
                }
                Effect::Signal(Sent::Kill) => {
                    processes::signal_descendants(self.main, Signal::KILL);
                }
                Effect::Say(report) => self.say(report),
                Effect::Done => self.done = true,
            }
        }
    }

    /// What the agent says, as far as it has arrived: one piece, so that nobody who writes without
    /// end keeps the guard from the clock.
    fn heard(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.agent_lost {
            return events;
        }
        let mut piece = [0; 1024];
        let read = match self.agent.read(&mut piece) {
            Ok(read) => read,
            Err(error) if is_later(&error) => return events,
            Err(_) => 0,
        };
        let fed = self
            .lines
            .feed(piece.get(..read).unwrap_or_default(), Command::parse);
        let (commands, refused) = match fed {
            Ok(commands) => (commands, false),
            Err((commands, _)) => (commands, true),
        };
        let mut commands = commands.into_iter().peekable();
        while let Some(command) = commands.next() {
            match (command, commands.peek()) {
                // Overtaken while the guard was not running: the last word counts.
                (Command::Until(_), Some(Command::Until(_))) => {}
                (Command::Until(moment), _) => events.push(Event::Until(moment)),
                (Command::Stop, _) => events.push(Event::Stop(Asker::Agent)),
            }
        }
        self.agent_lost = refused || read == 0;
        if refused {
            events.push(Event::Lost(Loss::BadInput));
        } else if read == 0 {
            events.push(Event::Lost(Loss::Closed));
        }
        events
    }

    /// Takes note of every child that has ended, the program's orphans among them.
    fn reap(&mut self) {
        while self.started {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.main => {
                    self.main = None;
                    self.event(Event::Exited(ending(status)));
                }
                Ok(Some((pid, status))) if Some(pid) == self.beside_it => {
                    self.beside_it = None;
                    self.event(Event::BesideEnded(ending(status)));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Err(error) if processes::childless(error) => {
                    return self.event(Event::NothingLeft);
                }
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn start(&mut self) {
        match shielded(&self.command) {
            Ok(child) => {
                self.started = true;
                self.main = Some(Pid::from_child(&child));
                self.say(Report::Started { pid: child.id() });
                self.start_beside();
                // What starting has added.
                lock_memory();
            }
            Err(_) => self.event(Event::NotStarted),
        }
    }

    fn start_beside(&mut self) {
        let Some(beside) = self.beside.take() else {
            return;
        };
        match shielded(&[beside]) {
            Ok(child) => self.beside_it = Some(Pid::from_child(&child)),
            // As shells say that something cannot be run.
            Err(_) => self.event(Event::BesideEnded(Ending::Code(126))),
        }
    }

    /// An agent that does not read misses what finds no room; one that is gone is noticed by
    /// reading. Neither may hold the guard up.
    fn say(&mut self, report: Report) {
        let _ = self.agent.write(format!("{report}\n").as_bytes());
    }
}

/// Starts a process that becomes `command`, in a group of its own, and dies with this one.
fn shielded(command: &[OsString]) -> io::Result<Child> {
    // The same file that runs here, though another may have its name by now.
    Process::new("/proc/self/exe")
        .arg0("cfgagent")
        .args(["shield", "--guard"])
        .arg(getpid().as_raw_pid().to_string())
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn ending(status: WaitStatus) -> Ending {
    match status.terminating_signal() {
        Some(signal) => Ending::Signal(signal),
        // Only ended children are waited for, so it is one or the other.
        None => Ending::Code(status.exit_status().unwrap_or(0)),
    }
}

fn timespec(span: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(span.subsec_nanos()),
    }
}
