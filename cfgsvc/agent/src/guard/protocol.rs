//! The lines between agent and guard, over one socket that is the guard's standard input.
//!
//! Why a socket in both directions: standard output and error are then the program's, as they were
//! the agent's, and no third descriptor has to find its way.
//!
//! | agent to guard | meaning |
//! | --- | --- |
//! | `until NANOS` | the program may run until then, on the lease clock; the first one starts it |
//! | `stop` | begin to stop now |
//!
//! | guard to agent | meaning |
//! | --- | --- |
//! | `ready locked`, `ready unlocked` | it listens; its memory is locked or may be swapped out |
//! | `late` | the deadline was over when it came, so nothing was started |
//! | `started PID` | the process that becomes the program exists, and leads a group |
//! | `up` | the program says so, by SIGUSR1: `cfgagent hold`, once `on-serve` has succeeded |
//! | `beside CODE`, `beside signal N` | what was started beside the program has failed |
//! | `stopping REASON` | the program has been sent SIGTERM |
//! | `exited CODE`, `exited signal N` | the main process has ended |
//! | `gone` | no process of the program is left; the guard ends |
//!
//! Invariants: a line has at most [`LINE_BYTES_MAX`] bytes; what is not of this table is refused.

use std::fmt;
use std::time::Duration;

use cfgsvc_clock::Moment;

/// Longest line, without its end. `until` and the 20 digits of the largest figure take 26 bytes.
pub const LINE_BYTES_MAX: usize = 64;

/// What the agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The program may run until this moment; SIGTERM is sent then.
    Until(Moment),
    /// Begin to stop now.
    Stop,
}

/// What the guard says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It listens.
    Ready {
        /// Its memory cannot be swapped out.
        locked: bool,
    },
    /// The deadline was over when it came, so nothing was started.
    Late,
    /// The main process exists, and leads a process group of its own.
    Started {
        /// The process id.
        pid: u32,
    },
    /// Somebody of the program says, by SIGUSR1, that it is up.
    Up,
    /// What was started beside the main process has failed. That it has succeeded is not said, nor
    /// how it ended when the program was being stopped.
    Beside(Ending),
    /// The program has been sent SIGTERM; nothing is started any more.
    Stopping(Reason),
    /// The main process has ended.
    Exited(Ending),
    /// No process of the program is left.
    Gone,
}

/// Why the program is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The deadline is reached.
    Deadline,
    /// The agent said `stop`.
    Asked,
    /// The guard got SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// The agent is gone.
    AgentLost,
    /// The agent said something that is not of this protocol.
    BadInput,
    /// The main process has ended; what it left is stopped.
    Exited,
    /// No process could be made.
    NotStarted,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Why a line was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Too long.
    #[error("a line has more than {LINE_BYTES_MAX} bytes")]
    Long,
    /// Not of the table.
    #[error("a line is none of those that agent and guard exchange")]
    Unknown,
}

const REASONS: [(Reason, &str); 7] = [
    (Reason::Deadline, "deadline"),
    (Reason::Asked, "asked"),
    (Reason::Signal, "signal"),
    (Reason::AgentLost, "agent-lost"),
    (Reason::BadInput, "bad-input"),
    (Reason::Exited, "exited"),
    (Reason::NotStarted, "not-started"),
];

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = REASONS.iter().find(|(reason, _)| reason == self);
        f.write_str(found.map_or("unknown", |(_, name)| name))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(moment) => write!(f, "until {}", moment.nanos()),
            Self::Stop => f.write_str("stop"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { locked: true } => f.write_str("ready locked"),
            Self::Ready { locked: false } => f.write_str("ready unlocked"),
            Self::Late => f.write_str("late"),
            Self::Started { pid } => write!(f, "started {pid}"),
            Self::Up => f.write_str("up"),
            Self::Beside(ending) => write!(f, "beside {ending}"),
            Self::Stopping(reason) => write!(f, "stopping {reason}"),
            Self::Exited(ending) => write!(f, "exited {ending}"),
            Self::Gone => f.write_str("gone"),
        }
    }
}

impl Command {
    /// Reads a line without its end.
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        match words(line)?.as_slice() {
            ["until", nanos] => Ok(Self::Until(Moment::since_boot(Duration::from_nanos(
                number(nanos)?,
            )))),
            ["stop"] => Ok(Self::Stop),
            _ => Err(LineError::Unknown),
        }
    }
}

impl Report {
    /// Reads a line without its end.
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        match words(line)?.as_slice() {
            ["ready", "locked"] => Ok(Self::Ready { locked: true }),
            ["ready", "unlocked"] => Ok(Self::Ready { locked: false }),
            ["late"] => Ok(Self::Late),
            ["started", pid] => Ok(Self::Started { pid: number(pid)? }),
            ["up"] => Ok(Self::Up),
            ["stopping", name] => REASONS
                .iter()
                .find(|(_, known)| known == name)
                .map(|(reason, _)| Self::Stopping(*reason))
                .ok_or(LineError::Unknown),
            ["exited", how @ ..] => Ok(Self::Exited(ending(how)?)),
            ["beside", how @ ..] => Ok(Self::Beside(ending(how)?)),
            ["gone"] => Ok(Self::Gone),
            _ => Err(LineError::Unknown),
        }
    }
}

fn ending(words: &[&str]) -> Result<Ending, LineError> {
    match words {
        [code] => Ok(Ending::Code(number(code)?)),
        ["signal", signal] => Ok(Ending::Signal(number(signal)?)),
        _ => Err(LineError::Unknown),
    }
}

/// Words with one space between them.
fn words(line: &[u8]) -> Result<Vec<&str>, LineError> {
    let text = str::from_utf8(line).map_err(|_| LineError::Unknown)?;
    Ok(text.split(' ').collect())
}

/// Digits only: no sign, no space.
fn number<T: std::str::FromStr>(word: &str) -> Result<T, LineError> {
    if !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LineError::Unknown);
    }
    word.parse().map_err(|_| LineError::Unknown)
}

/// Bytes that have arrived, as lines. Holds one unfinished line at most.
#[derive(Debug, Default)]
pub struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// Takes `bytes` and hands each line that they complete to `take`, which may refuse it. After
    /// an error nothing more can be made of what follows.
    pub fn feed<T>(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<T, LineError>,
    ) -> Result<Vec<T>, (Vec<T>, LineError)> {
        let mut taken = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.unfinished);
                match take(&line) {
                    Ok(value) => taken.push(value),
                    Err(error) => return Err((taken, error)),
                }
            } else if self.unfinished.len() == LINE_BYTES_MAX {
                return Err((taken, LineError::Long));
            } else {
                self.unfinished.push(*byte);
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_report_reads_as_it_was_written() {
        let mut reports = vec![
            Report::Ready { locked: true },
            Report::Ready { locked: false },
            Report::Late,
            Report::Started { pid: u32::MAX },
            Report::Up,
            Report::Exited(Ending::Code(255)),
            Report::Exited(Ending::Signal(9)),
            Report::Beside(Ending::Code(1)),
            Report::Beside(Ending::Signal(9)),
            Report::Gone,
        ];
        reports.extend(REASONS.map(|(reason, _)| Report::Stopping(reason)));
        for report in reports {
            let line = report.to_string();
            assert!(line.len() <= LINE_BYTES_MAX, "{line}");
            assert_eq!(Report::parse(line.as_bytes()), Ok(report), "{line}");
        }
    }

    #[test]
    fn commands_are_the_two_lines_and_nothing_else() {
        let last = Moment::since_boot(Duration::from_nanos(u64::MAX));
        assert_eq!(
            Command::parse(b"until 18446744073709551615"),
            Ok(Command::Until(last))
        );
        for command in [Command::Stop, Command::Until(last)] {
            assert_eq!(Command::parse(command.to_string().as_bytes()), Ok(command));
        }
        for line in [
            "",
            " ",
            "until",
            "until ",
            "until 18446744073709551616",
            "until -1",
            "until +1",
            "until 1.5",
            "until 1e9",
            "until  1",
            "until 1 ",
            "until 1 2",
            "until \u{661}",
            "until 1\r",
            "stop now",
            "STOP",
            "stop\0",
            "run",
        ] {
            assert_eq!(
                Command::parse(line.as_bytes()),
                Err(LineError::Unknown),
                "{line:?}"
            );
        }
        assert_eq!(Command::parse(b"stop\xff"), Err(LineError::Unknown));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_grows() {
        let mut lines = Lines::default();
        let long = [b'x'; LINE_BYTES_MAX + 1];
        let refused = lines.feed(&long, |_| Ok(()));
        assert_eq!(refused, Err((vec![], LineError::Long)));
        let mut lines = Lines::default();
        let fitting = [&long[1..], b"\n"].concat();
        assert_eq!(lines.feed(&fitting, |line| Ok(line.len())), Ok(vec![64]));
    }

    #[test]
    fn what_came_before_a_bad_line_counts() {
        let mut lines = Lines::default();
        let stop = vec![Command::Stop];
        assert_eq!(
            lines.feed(b"stop\nnonsense\nstop\n", Command::parse),
            Err((stop, LineError::Unknown))
        );
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_lines(
            text in "[a-c\n]{0,60}",
            at in prop::collection::vec(0..60_usize, 0..4),
        ) {
            let whole = Lines::default().feed(text.as_bytes(), |line| Ok(line.to_vec()));
            let mut cuts: Vec<_> = at.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut lines = Lines::default();
            let mut pieces = Vec::new();
            for pair in cuts.windows(2) {
                let fed = lines.feed(&text.as_bytes()[pair[0]..pair[1]], |line| Ok(line.to_vec()));
                pieces.extend(fed.expect("short lines"));
            }
            prop_assert_eq!(whole, Ok(pieces));
        }

        #[test]
        fn no_bytes_break_the_parsers(line in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(command) = Command::parse(&line) {
                prop_assert_eq!(Command::parse(command.to_string().as_bytes()), Ok(command));
            }
            if let Ok(report) = Report::parse(&line) {
                prop_assert_eq!(Report::parse(report.to_string().as_bytes()), Ok(report));
            }
        }
    }
}
