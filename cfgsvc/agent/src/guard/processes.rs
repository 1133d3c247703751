//! Who descends from whom, from `/proc`, and signals that reach no stranger.
//!
//! Why so: a process id means something only while its process is not reaped. So a signal goes
//! through a descriptor of the process (`pidfd`), and between opening that and using it, `/proc`
//! is asked again whether it is the one that was meant.
//!
//! A look at `/proc` is no snapshot: who forks or ends meanwhile may be missed. Whoever must reach
//! everybody looks again until nobody is left.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process_group, pidfd_open, pidfd_send_signal,
};

/// The variable that marks a guard and all that descends from it, as far as they keep it.
pub const MARK_VARIABLE: &str = "CFGSVC_GUARD";

/// Largest environment that is searched for a mark; the kernel's own bound for one text of it is
/// an eighth of that.
const ENVIRONMENT_BYTES_MAX: usize = 1 << 20;

/// Why `/proc` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// It is not there, or not ours to read.
    #[error("cannot read {path}; the guard needs /proc and a kernel with CONFIG_PROC_CHILDREN")]
    Unreadable {
        /// The file.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It shows another namespace of process ids.
    #[error("/proc calls this process {found}, not {expected}; mount the /proc of this namespace")]
    Foreign {
        /// Our process id.
        expected: i32,
        /// What `/proc/self` says.
        found: String,
    },
}

/// Makes sure that `/proc` tells the truth about this process and can name its children.
pub fn check() -> Result<(), ProcError> {
    let unreadable = |path: &str| {
        let path = path.to_owned();
        move |source| ProcError::Unreadable { path, source }
    };
    let found = fs::read_link("/proc/self").map_err(unreadable("/proc/self"))?;
    let expected = getpid().as_raw_pid();
    if found.as_os_str() != expected.to_string().as_str() {
        let found = found.display().to_string();
        return Err(ProcError::Foreign { expected, found });
    }
    let path = "/proc/thread-self/children";
    fs::read(path).map_err(unreadable(path))?;
    Ok(())
}

/// One process, as `/proc/PID/stat` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    /// Clock ticks since boot. With the id it names a process for ever.
    pub(crate) start: u64,
    /// It has ended, and waits for its parent to take note.
    pub(crate) ended: bool,
}

impl Process {
    /// The process with this id, if there is one.
    pub(crate) fn look(pid: i32) -> Option<Self> {
        // Gone and unreadable are the same here: nothing can be said about it.
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&stat))
    }

    fn parse(pid: i32, stat: &str) -> Option<Self> {
        // The name is in parentheses and may hold any character, parentheses too.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |at: usize| fields.get(at)?.parse::<i32>().ok();
        let (state, threads) = (*fields.first()?, field(17)?);
        Some(Self {
            pid,
            parent: field(1)?,
            group: field(2)?,
            session: field(3)?,
            start: fields.get(19)?.parse().ok()?,
            // A first thread that has ended looks the same while others of its process run on.
            ended: matches!(state, "Z" | "X") && threads <= 1,
        })
    }
}

/// All that descend from `root`, each with its parent, nearest first.
fn descendants(root: i32) -> Vec<(i32, i32)> {
    let mut parents = BTreeMap::new();
    let mut found = Vec::new();
    let mut next = 0;
    let mut parent = root;
    loop {
        for child in children(parent) {
            if child != root && parents.insert(child, parent).is_none() {
                found.push((child, parent));
            }
        }
        let Some((following, _)) = found.get(next) else {
            return found;
        };
        parent = *following;
        next += 1;
    }
}

/// Children of each thread of a process; none when it is gone.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let listed = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(
            listed
                .split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    found
}

/// Sends `signal` to the group that `main` leads and to every other process that descends from
/// this one. `main` is a child that is not reaped, so that its id is still the group's.
///
/// Who may not be signalled (a program that became another user) is passed over: it stays, which
/// the guard notices by not coming to its end.
pub(crate) fn signal_descendants(main: Option<Pid>, signal: Signal) {
    if let Some(main) = main {
        // An error says that nobody of the group is left, or that nobody of it may be signalled.
        let _ = kill_process_group(main, signal);
    }
    let group = main.map(Pid::as_raw_pid);
    let own = getpid().as_raw_pid();
    for (pid, parent) in descendants(own) {
        // Whoever lost its parent since the look is this process's own child by now.
        signal_if(pid, signal, |process| {
            (process.parent == parent || process.parent == own) && Some(process.group) != group
        });
    }
}

/// Sends `signal` to `pid` if it is the process that is `meant`. Whether it was sent.
fn signal_if(pid: i32, signal: Signal, meant: impl Fn(&Process) -> bool) -> bool {
    let Some(id) = Pid::from_raw(pid) else {
        return false;
    };
    let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else {
        return false;
    };
    // From here on, `handle` is one process; what is looked at is the same one or its successor,
    // and the successor of one that has ended gets nothing through `handle`.
    Process::look(pid).is_some_and(|process| meant(&process))
        && pidfd_send_signal(&handle, signal).is_ok()
}

/// What a guard and its program may have left behind, as its agent knows it.
#[derive(Clone, Debug)]
pub(crate) struct Remains {
    /// The guard, while it is not reaped.
    pub(crate) guard: Option<i32>,
    /// The main process, which leads a group.
    pub(crate) program: Option<i32>,
    /// The value of [`MARK_VARIABLE`].
    pub(crate) mark: String,
    /// The session that the program was started in.
    pub(crate) session: i32,
}

impl Remains {
    /// Sends SIGKILL to all that can be found, and returns who they were: empty when nobody is
    /// left. Blocks for as long as it takes to read `/proc`.
    pub(crate) fn kill(&self) -> io::Result<Vec<i32>> {
        let mut processes = Vec::new();
        let mut marked = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Some(process) = Process::look(pid) else {
                continue;
            };
            if self.marks(pid) {
                marked.push(pid);
            }
            processes.push(process);
        }
        let own = getpid().as_raw_pid();
        let mut left = self.ours(&processes, &marked);
        left.retain(|process| !process.ended && process.pid != own);
        // The guard comes last: while it is there, whoever loses a parent becomes its child, and
        // can still be found.
        let last = left.len() == 1;
        for process in &left {
            if last || Some(process.pid) != self.guard {
                signal_if(process.pid, Signal::KILL, |found| {
                    found.start == process.start
                });
            }
        }
        Ok(left.iter().map(|process| process.pid).collect())
    }

    /// Who belongs to the guard: itself, who bears its mark, the program's group, and all that
    /// descend from them.
    fn ours<'a>(&self, processes: &'a [Process], marked: &[i32]) -> Vec<&'a Process> {
        let mut ours: BTreeMap<i32, &Process> = BTreeMap::new();
        loop {
            let before = ours.len();
            for process in processes {
                // The id of a program whose processes are all gone may be another's by now, but
                // hardly one that leads a group in the agent's own session.
                let of_group =
                    Some(process.group) == self.program && process.session == self.session;
                if of_group
                    || Some(process.pid) == self.guard
                    || marked.contains(&process.pid)
                    || ours.contains_key(&process.parent)
                {
                    ours.insert(process.pid, process);
                }
            }
            if ours.len() == before {
                return ours.into_values().collect();
            }
        }
    }

    fn marks(&self, pid: i32) -> bool {
        // Of another user, or gone: not to be known, and not to be killed either.
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
            return false;
        };
        let wanted = format!("{MARK_VARIABLE}={}", self.mark);
        environment
            .get(..environment.len().min(ENVIRONMENT_BYTES_MAX))
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    }
}

/// Whether an error of waiting says that no child is left.
pub(crate) fn childless(error: Errno) -> bool {
    error == Errno::CHILD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, group: i32, session: i32) -> Process {
        Process {
            pid,
            parent,
            group,
            session,
            start: 7,
            ended: false,
        }
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_nothing() {
        let rest = "1 40 41 0 -1 4 1 2 3 4 5 6 7 8 20 0 3 0 9876 1 2";
        let found = Process::parse(42, &format!("42 (a) R 1 (b) Z {rest}"));
        let expected = Process {
            start: 9_876,
            ..process(42, 1, 40, 41)
        };
        assert_eq!(found, Some(expected), "other threads of it still run");
        let alone = rest.replace(" 20 0 3 0 ", " 20 0 1 0 ");
        let found = Process::parse(42, &format!("42 (x) Z {alone}"));
        assert!(found.is_some_and(|process| process.ended));
        for broken in ["", "42 (x", "42 (x) S 1 2", "42 (x) S a b c"] {
            assert_eq!(Process::parse(42, broken), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_finds_itself_and_may_use_proc() {
        check().expect("a machine that runs tests has /proc");
        let own = getpid().as_raw_pid();
        let found = Process::look(own).expect("it is running");
        assert!(
            !found.ended && found.pid == own && found.parent > 0,
            "{found:?}"
        );
    }

    #[test]
    fn ours_are_the_guard_the_marked_the_group_and_their_descendants() {
        let remains = Remains {
            guard: Some(10),
            program: Some(11),
            mark: "m".to_owned(),
            session: 5,
        };
        let processes = [
            // Listed before its parent: the order is of no importance.
            process(3, 13, 3, 3),
            process(5, 1, 5, 5),
            process(10, 5, 10, 5),
            process(11, 10, 11, 5),
            // Left by the program: in its group; marked; the child of a marked one.
            process(12, 1, 11, 5),
            process(13, 1, 13, 13),
            // The same number of a group, in another session; a brother; nobody's.
            process(20, 1, 11, 6),
            process(21, 5, 21, 5),
            process(22, 1, 22, 22),
        ];
        let ours: Vec<_> = remains
            .ours(&processes, &[13])
            .iter()
            .map(|found| found.pid)
            .collect();
        assert_eq!(ours, [3, 10, 11, 12, 13]);
    }
}
