//! A program that reads lines and writes lines, with everything it may do wrong: it may write
//! before it reads, read nothing, write without end, die, hang, or not be there.
//!
//! ```text
//!          chunks, at most CREDITS of them            ┌─────────┐
//!  task ─────────────────────────────────► writer ──► │ program │ ──► reader ──┐
//!    ▲                                        │       └─────────┘              │
//!    └──── events: written, lines, its end ◄──┴────────────────────────────────┘
//! ```
//! The task waits only for events, and all three others wait only for the task or the program: no
//! two of them can wait for each other, whatever the program reads and writes first.

use super::streaming::Programs;
use mapreduce::{Bytes, Emit, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Octets in a chunk, about.
const CHUNK: usize = 64 << 10;
/// Chunks that wait to be written.
const CREDITS: usize = 4;
/// Events that wait for the task.
const EVENTS: usize = 16;
/// Octets of a line, at most.
const LINE_MAX: usize = 64 << 20;
/// Between two looks at whether the task goes on, while the program says nothing.
const LOOK: Duration = Duration::from_millis(100);
/// Octets of standard error that an error shows.
const SHOWN: usize = 4 << 10;

enum Event {
    /// A chunk was written, or nobody will read it.
    Written,
    /// Whole lines.
    Lines(Vec<u8>),
    /// A counter: group, name, and by how much.
    Count(String, String, u64),
    /// How it stands.
    Status(String),
    /// The end of its output, or why it cannot be read.
    End(io::Result<()>),
    /// The end of its standard error: what it said last.
    Said(Vec<u8>),
}

/// A program that runs.
pub(crate) struct Pipe {
    name: String,
    child: Child,
    chunk: Vec<u8>,
    chunks: Option<SyncSender<Vec<u8>>>,
    credits: usize,
    events: Receiver<Event>,
    is_at_end: bool,
    said: Option<Vec<u8>>,
}

/// Whether this is a process that a worker has started for a task, in a group of its own: programs
/// are in that group too, so that all end together whatever ends the task.
fn is_task() -> bool {
    std::env::var_os("MAPREDUCE_TASK").is_some()
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // It has ended, unless its task did first; then nobody wants it, nor what it has started.
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if is_task() {
                // What it has started goes with the group, when the task ends.
                let _ = self.child.kill();
            } else if let Ok(group) = i32::try_from(self.child.id()) {
                let group =
                    Pid::from_raw(group).map(|group| kill_process_group(group, Signal::KILL));
                debug_assert!(group.is_some(), "a child has an id");
            }
            let _ = self.child.wait();
        }
    }
}

impl Pipe {
    /// The program, which is started when there is none yet.
    pub(crate) fn started<'a>(
        pipe: &'a mut Option<Self>,
        command: &str,
        programs: &Programs,
        is_map: bool,
        out: &Emit<'_, Bytes, Bytes>,
    ) -> Result<&'a mut Self> {
        match pipe {
            Some(pipe) => Ok(pipe),
            None => Ok(pipe.insert(Self::start(command, programs, is_map, out)?)),
        }
    }

    fn start(
        command: &str,
        programs: &Programs,
        is_map: bool,
        out: &Emit<'_, Bytes, Bytes>,
    ) -> Result<Self> {
        let context = out.context();
        let (begin, end) = context.split();
        let mut command_line = Command::new("sh");
        if !is_task() {
            command_line.process_group(0);
        }
        let mut child = command_line
            .args(["-c", command])
            .env("mapreduce_task_ismap", is_map.to_string())
            .env("mapreduce_task_partition", context.task().to_string())
            .env("mapreduce_task_attempt_id", context.attempt())
            .env("mapreduce_map_input_file", context.input())
            .env("mapreduce_map_input_start", begin.to_string())
            .env(
                "mapreduce_map_input_length",
                end.map_or(String::new(), |end| (end - begin).to_string()),
            )
            .envs(programs.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command}: {error}"))?;
        let (chunks, to_write) = sync_channel(CREDITS);
        let (events, from_all) = sync_channel(EVENTS);
        let ends = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = ends else {
            return Err(format!("{command}: it has no pipes").into());
        };
        let tells = events.clone();
        thread::Builder::new().spawn(move || write_all(stdin, &to_write, &tells))?;
        let tells = events.clone();
        thread::Builder::new().spawn(move || read_lines(stdout, &tells))?;
        thread::Builder::new().spawn(move || read_words(stderr, &events))?;
        Ok(Self {
            name: command.to_owned(),
            child,
            chunk: Vec::new(),
            chunks: Some(chunks),
            credits: CREDITS,
            events: from_all,
            is_at_end: false,
            said: None,
        })
    }

    /// Gives it octets, and emits what it has written meanwhile.
    pub(crate) fn write(
        &mut self,
        parts: &[&[u8]],
        out: &mut Emit<'_, Bytes, Bytes>,
    ) -> Result<()> {
        for part in parts {
            self.chunk.extend_from_slice(part);
        }
        if self.chunk.len() >= CHUNK {
            self.send(out)?;
        }
        Ok(())
    }

    fn send(&mut self, out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        while self.credits == 0 {
            self.wait(out)?;
        }
        let chunk = std::mem::take(&mut self.chunk);
        if let Some(chunks) = &self.chunks {
            self.credits -= 1;
            // The writer ends after this end of the channel only.
            chunks.send(chunk)?;
        }
        Ok(())
    }

    /// Waits for an event, and does what it asks for.
    fn wait(&mut self, out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        let event = loop {
            match self.events.recv_timeout(LOOK) {
                Ok(event) => break event,
                Err(RecvTimeoutError::Timeout) => out.context().is_wanted()?,
                Err(error @ RecvTimeoutError::Disconnected) => return Err(error.into()),
            }
        };
        match event {
            Event::Written => self.credits += 1,
            Event::Lines(lines) => {
                for line in lines.split_inclusive(|octet| *octet == b'\n') {
                    let line = line.strip_suffix(b"\n").unwrap_or(line);
                    let tab = line.iter().position(|octet| *octet == b'\t');
                    let (key, value) = line.split_at(tab.unwrap_or(line.len()));
                    out.emit(key, value.get(1..).unwrap_or_default())?;
                }
            }
            Event::Count(group, name, by) => out.count(&group, &name, by),
            Event::Status(text) => out.status(&text),
            Event::Said(said) => self.said = Some(said),
            Event::End(end) => {
                self.is_at_end = true;
                end.map_err(|error| format!("{}: its output: {error}", self.name))?;
            }
        }
        Ok(())
    }

    /// Nothing more will be written: waits for its end.
    pub(crate) fn finish(&mut self, out: &mut Emit<'_, Bytes, Bytes>) -> Result<()> {
        if !self.chunk.is_empty() {
            self.send(out)?;
        }
        self.chunks = None;
        while !self.is_at_end || self.said.is_none() {
            self.wait(out)?;
        }
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let said = self.said.take().unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said = match said.trim() {
            "" => "it has said nothing".to_owned(),
            said => format!("it has said: {said}"),
        };
        Err(format!("{}: {status}; {said}", self.name).into())
    }
}

fn write_all(mut stdin: ChildStdin, chunks: &Receiver<Vec<u8>>, tells: &SyncSender<Event>) {
    let mut is_read = true;
    while let Ok(chunk) = chunks.recv() {
        // A program need not read all: its exit code says whether it is content.
        is_read = is_read && stdin.write_all(&chunk).is_ok();
        if tells.send(Event::Written).is_err() {
            return;
        }
    }
}

fn read_lines(mut stdout: ChildStdout, tells: &SyncSender<Event>) {
    let mut lines = Vec::new();
    let end = loop {
        let before = lines.len();
        lines.resize(before + CHUNK, 0);
        let read = match stdout.read(&mut lines[before..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                lines.truncate(before);
                continue;
            }
            Err(error) => break Err(error),
        };
        lines.truncate(before + read);
        if read == 0 {
            break Ok(());
        }
        if let Some(last) = lines[before..].iter().rposition(|octet| *octet == b'\n') {
            let rest = lines.split_off(before + last + 1);
            if tells
                .send(Event::Lines(std::mem::replace(&mut lines, rest)))
                .is_err()
            {
                return;
            }
        } else if lines.len() > LINE_MAX {
            break Err(io::Error::other(format!(
                "a line of more than {LINE_MAX} octets"
            )));
        }
    };
    if !lines.is_empty() && tells.send(Event::Lines(lines)).is_err() {
        return;
    }
    // The task may have ended.
    let _ = tells.send(Event::End(end));
}

/// Standard error: counters, how it stands, and words, which go on to our own; the last are kept.
fn read_words(stderr: ChildStderr, tells: &SyncSender<Event>) {
    let mut said: VecDeque<u8> = VecDeque::new();
    let mut lines = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        // A line that does not end is cut, and not kept as a whole.
        match lines
            .by_ref()
            .take(SHOWN as u64)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if let Some((group, name, by)) = counter(&line) {
            if tells.send(Event::Count(group, name, by)).is_err() {
                return;
            }
            continue;
        }
        if let Some(text) = status(&line) {
            if tells.send(Event::Status(text)).is_err() {
                return;
            }
            continue;
        }
        said.extend(&line);
        let surplus = said.len().saturating_sub(SHOWN);
        said.drain(..surplus);
        // Nobody may look at it.
        let _ = io::stderr().write_all(&line);
    }
    let _ = tells.send(Event::Said(said.into()));
}

/// `reporter:status:text`
fn status(line: &[u8]) -> Option<String> {
    let text = line.strip_prefix(b"reporter:status:")?;
    Some(String::from_utf8_lossy(text).trim().to_owned())
}

/// `reporter:counter:group,name,amount`
fn counter(line: &[u8]) -> Option<(String, String, u64)> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let mut fields = line.strip_prefix("reporter:counter:")?.split(',');
    let (group, name) = (fields.next()?, fields.next()?);
    let by = fields.next()?.trim().parse().ok()?;
    fields
        .next()
        .is_none()
        .then(|| (group.to_owned(), name.to_owned(), by))
}
