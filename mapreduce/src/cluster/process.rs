//! The process of a task, as its worker sees it: started with an order, listened to until it says
//! what came of it, and ended when nobody wants it, it hangs, or its worker is fenced. What it
//! prints goes to a log of bounded size.

use crate::cluster::shuffle::LOG_MAX;
use crate::engine::child::{FailureKind, Order, Word};
use crate::engine::progress::STATUS_MAX;
use crate::{Error, Result};
use fs_err as fs;
use mapreduce_core::record::{FailureClass, bounded};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::io::Write as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Octets of a word: counters and sums.
const WORD_MAX: u64 = 16 << 20;
/// A process that says nothing for so long has stopped, or is stopped.
const SILENT_MAX: Duration = Duration::from_mins(1);
/// How long a process that has said its last word may take to end.
const END_MAX: Duration = Duration::from_secs(5);
/// Octets of a log that are the last of what was printed.
const LOG_LAST: usize = 16 << 10;
/// How long what it printed may take to be read after that.
const LOG_WAIT: Duration = Duration::from_millis(200);
/// Octets of what a process printed last, in the message of its failure.
const SAID_MAX: usize = 400;

/// Why an attempt has failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: FailureClass,
    pub(crate) message: String,
}

impl Failure {
    /// Something between this worker and its disk or the group.
    pub(crate) fn of(error: &Error) -> Self {
        let message = crate::cli::with_causes(&**error);
        let class = FailureClass::IoRetryable;
        Self { class, message }
    }

    /// Of the job's own code.
    fn code(message: String) -> Self {
        let class = FailureClass::UserCode;
        Self { class, message }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let is_full = error.kind() == std::io::ErrorKind::StorageFull;
        let failure = Self::of(&error.into());
        let class = FailureClass::DiskFull;
        if is_full {
            Self { class, ..failure }
        } else {
            failure
        }
    }
}

/// How far a task is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) octets: AtomicU64,
    pub(crate) records: AtomicU64,
    /// What the job's code says of it.
    status: Mutex<String>,
}

impl Progress {
    fn says(&self, status: String) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// What the job's code says of it, at most so many octets; often nothing.
    pub(crate) fn status(&self) -> String {
        let said = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        bounded(&said, STATUS_MAX).to_owned()
    }
}

/// The group of processes that a task is. Dropping it ends them all.
struct Processes {
    child: Child,
    group: Option<Pid>,
}

impl Processes {
    fn start(program: &Path, directory: &Path) -> std::io::Result<Self> {
        let child = Command::new(program)
            .arg("task")
            // Programs of `streaming` stay in this group.
            .env("MAPREDUCE_TASK", "1")
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id.and_then(Pid::from_raw);
        Ok(Self { child, group })
    }

    fn pipes(&mut self) -> std::io::Result<(ChildStdin, ChildStdout, ChildStderr)> {
        let child = &mut self.child;
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok((stdin, stdout, stderr)),
            _ => Err(std::io::Error::other("the task's process has no pipes")),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // The first process was waited for just now, if at all: its number is nobody else's yet.
        if let Some(group) = self.group {
            // Nobody is left of a group that has ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// What a process runs under.
pub(crate) struct Terms<'a> {
    /// What is started.
    pub(crate) program: &'a Path,
    /// Where.
    pub(crate) directory: &'a Path,
    /// For what it prints.
    pub(crate) log: &'a Path,
    /// It may stand still for so long.
    pub(crate) still_max: Duration,
}

/// Runs an order in a process of its own. `may` is asked with each word whether it goes on.
pub(crate) async fn run(
    order: &Order,
    terms: &Terms<'_>,
    progress: &Progress,
    may: impl Fn() -> Result<(), Failure>,
) -> Result<Word, Failure> {
    let mut processes = Processes::start(terms.program, terms.directory).map_err(|error| {
        let program = terms.program.display();
        Failure::code(format!(
            "the job's program {program} does not start: {error}"
        ))
    })?;
    let (mut stdin, stdout, stderr) = processes.pipes()?;
    let mut line = serde_json::to_vec(order).map_err(|error| Failure::of(&error.into()))?;
    line.push(b'\n');
    let log = fs::File::create(terms.log)?;
    let mut logging = JoinSet::new();
    logging.spawn(keep_log(stderr, log));
    let order = async move {
        // What does not read ends early, and says so by its end. The pipe is open until then.
        let _ = stdin.write_all(&line).await;
        std::future::pending::<std::convert::Infallible>().await
    };
    let word = tokio::select! {
        word = listen(stdout, terms, progress, may) => word?,
        never = order => match never {},
    };
    // What it printed last is still to be read; what it has started may keep its pipes open, and
    // goes with the group.
    drop(tokio::time::timeout(LOG_WAIT, logging.join_next()).await);
    if let Some(word) = word {
        return Ok(word);
    }
    let status = tokio::time::timeout(END_MAX, processes.child.wait()).await;
    Err(crashed(status.ok().transpose()?, terms.log))
}

/// Its words; the last one, or none when it ended without.
async fn listen(
    stdout: ChildStdout,
    terms: &Terms<'_>,
    progress: &Progress,
    may: impl Fn() -> Result<(), Failure>,
) -> Result<Option<Word>, Failure> {
    let mut words = BufReader::new(stdout);
    let mut moved = Instant::now();
    let mut before = (0, 0, 0);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut words).take(WORD_MAX);
        let reading = limited.read_until(b'\n', &mut line);
        let Ok(read) = tokio::time::timeout(SILENT_MAX, reading).await else {
            return Err(Failure::code("the task's process has stopped".to_owned()));
        };
        if read? == 0 {
            return Ok(None);
        }
        let (now, is_in_code) = match serde_json::from_slice::<Word>(&line) {
            Ok(Word::Progress {
                octets,
                records,
                passed,
                is_in_code,
                status,
            }) => {
                progress.says(status);
                ((octets, records, passed), is_in_code)
            }
            Ok(word) => return Ok(Some(word)),
            Err(_) => {
                let said = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
                let what = "the job's program speaks nonsense";
                return Err(Failure::code(format!("{what}: {}", said.trim_end())));
            }
        };
        progress.octets.store(now.0, Ordering::Relaxed);
        progress.records.store(now.1, Ordering::Relaxed);
        may()?;
        if now != before {
            (before, moved) = (now, Instant::now());
        } else if moved.elapsed() > terms.still_max {
            let seconds = terms.still_max.as_secs();
            let records = now.1;
            let what = format!("no progress for {seconds} s after {records} records");
            let failure = Failure::code(what);
            // A disk, say, that does not answer: no record is to blame.
            let class = FailureClass::IoRetryable;
            return Err(if is_in_code {
                failure
            } else {
                Failure { class, ..failure }
            });
        }
    }
}

/// Keeps the first of what a process prints, and the last: the reason of its end is there.
async fn keep_log(mut from: ChildStderr, mut log: fs::File) {
    let mut octets = vec![0; 8 << 10];
    let (mut kept, mut left_out) = (0, 0);
    let mut last = VecDeque::new();
    // A log that cannot be written is no reason to end a task.
    while let Ok(read @ 1..) = from.read(&mut octets).await {
        let room = LOG_MAX - LOG_LAST as u64 - kept;
        let now = usize::try_from(room).map_or(read, |room| read.min(room));
        kept += now as u64;
        let _ = log.write_all(&octets[..now]);
        // What is more is read, so that it does not wait.
        last.extend(&octets[now..read]);
        let over = last.len().saturating_sub(LOG_LAST);
        left_out += over;
        last.drain(..over);
    }
    if left_out > 0 {
        let _ = write!(log, "\n... {left_out} octets are left out ...\n");
    }
    let _ = log.write_all(last.make_contiguous());
}

/// A process that ended without a word.
fn crashed(status: Option<ExitStatus>, log: &Path) -> Failure {
    let said = super::shuffle::tail(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let from = said.ceil_char_boundary(said.len().saturating_sub(SAID_MAX));
    let ended = match status {
        Some(status) => format!("the task's process ended: {status}"),
        None => "the task's process has closed its output".to_owned(),
    };
    Failure::code(match said[from..].trim() {
        "" => ended,
        said => format!("{ended}: {said}"),
    })
}

/// What a last word that is no success says.
pub(crate) fn failure(word: Word) -> Failure {
    let Word::Failed { kind, message } = word else {
        return Failure::code("the job's program speaks nonsense".to_owned());
    };
    let class = match kind {
        FailureKind::Code => FailureClass::UserCode,
        FailureKind::Input | FailureKind::Disk => FailureClass::IoRetryable,
        FailureKind::DiskFull => FailureClass::DiskFull,
        FailureKind::Ended => FailureClass::Killed,
    };
    Failure { class, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a process that says these words, one after the other, again and again, if it
    /// may stand still for half a second.
    async fn heard(words: &[String]) -> Result<Option<Word>, Failure> {
        let says = "while :; do for word; do echo \"$word\"; sleep 0.1; done; done";
        let mut child = Command::new("sh")
            .args(["-c", says, "sh"])
            .args(words)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let nowhere = Path::new("");
        let terms = Terms {
            program: nowhere,
            directory: nowhere,
            log: nowhere,
            still_max: Duration::from_millis(500),
        };
        listen(stdout, &terms, &Progress::default(), || Ok(())).await
    }

    fn word(passed: u64, is_in_code: bool) -> String {
        let (octets, records) = (7, 7);
        let word = Word::Progress {
            octets,
            records,
            passed,
            is_in_code,
            status: String::new(),
        };
        serde_json::to_string(&word).expect("JSON")
    }

    #[tokio::test]
    async fn task_that_stands_still_is_its_code_only_where_that_is_known() {
        let still = [
            (word(7, true), FailureClass::UserCode),
            (word(7, false), FailureClass::IoRetryable),
            // As programs of earlier versions say it.
            (
                r#"{"progress":{"octets":7,"records":7}}"#.to_owned(),
                FailureClass::IoRetryable,
            ),
        ];
        for (word, class) in still {
            let failure = heard(&[word]).await.expect_err("it stands still");
            assert_eq!(failure.class, class, "{}", failure.message);
            assert_eq!(failure.message, "no progress for 0 s after 7 records");
        }
    }

    #[tokio::test]
    async fn task_whose_records_pass_lives_longer_than_one_that_stands_still() {
        let mut words: Vec<String> = (0..10).map(|passed| word(passed, true)).collect();
        let (kind, message) = (FailureKind::Ended, String::new());
        let last = Word::Failed { kind, message };
        words.push(serde_json::to_string(&last).expect("JSON"));
        assert_eq!(heard(&words).await.expect("it lives"), Some(last));
    }
}
