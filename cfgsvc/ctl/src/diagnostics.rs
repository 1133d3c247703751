//! Errors for people: what failed, why, and what to do next; and the exit code.
//!
//! ```text
//! error: key `app/flags` changed: expected revision r41, found r57
//!   because: ...
//!
//! hint: read it with `cfgctl get app/flags`, then retry with `--if-revision 57`
//! ```

use crate::render::shell_word;
use cfgsvc_client::{
    AdminError, CallError, KvError, LeaseError, LockError, OptionsError, Refusal, RestoreError,
    WatchError,
};
use std::error::Error;
use std::fmt::Write as _;

const RESTORE_HINT: &str =
    "wait for the restore to end; if it broke off, run `cfgctl snapshot restore` again";

/// Exit code of a lock that was lost; that of `timeout`.
pub(crate) const LOST: u8 = 124;
/// Exit code of a lock that was not had, so that the command was not run.
pub(crate) const NOT_HAD: u8 = 125;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0
    Done,
    /// 1: refused or not found.
    Refused,
    /// 2: wrong usage.
    Usage,
    /// 3: cannot reach the group.
    Unreachable,
    /// That of a command that was run.
    Of(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Of(code) => code,
        }
    }
}

/// A failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Diagnostic {
    exit: Exit,
    message: Option<String>,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Diagnostic {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: Some(message.into()),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Refused, or not found.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message)
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Ends the program with this code; what there was to say has been said.
    pub(crate) fn quiet(exit: Exit) -> Self {
        Self {
            exit,
            message: None,
            causes: Vec::new(),
            hint: None,
        }
    }

    /// Adds a cause, and its causes.
    pub(crate) fn because(mut self, error: impl Error) -> Self {
        self.causes.push(error.to_string());
        let mut next = error.source();
        while let Some(source) = next {
            self.causes.push(source.to_string());
            next = source.source();
        }
        self
    }

    /// Ends the program otherwise than such a failure does.
    pub(crate) fn exiting(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// What was refused is a lock: the code is none of those that the command may have.
    pub(crate) fn not_had(self) -> Self {
        match self.exit {
            Exit::Refused => self.exiting(Exit::Of(NOT_HAD)),
            Exit::Done | Exit::Usage | Exit::Unreachable | Exit::Of(_) => self,
        }
    }

    /// Says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.message.is_none()
    }

    /// The text for standard error.
    pub(crate) fn render(&self, colored: bool) -> String {
        let paint = |code: &str, text: &str| {
            if colored {
                format!("\x1b[{code}m{text}\x1b[0m")
            } else {
                text.to_owned()
            }
        };
        let message = self.message.as_deref().unwrap_or_default();
        let mut text = format!("{} {message}\n", paint("1;31", "error:"));
        for cause in &self.causes {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  because: {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "\n{} {hint}", paint("1;36", "hint:"));
        }
        text
    }

    /// From an error with its sources as causes.
    fn of(exit: Exit, error: &dyn Error) -> Self {
        let mut diagnostic = Self::new(exit, error.to_string());
        let mut next = error.source();
        while let Some(source) = next {
            diagnostic.causes.push(source.to_string());
            next = source.source();
        }
        diagnostic
    }
}

impl From<CallError> for Diagnostic {
    fn from(error: CallError) -> Self {
        let exit = if error.unreachable() {
            Exit::Unreachable
        } else {
            Exit::Refused
        };
        let hint = match &error {
            CallError::Unreachable { .. } => Some(
                "is a member running there? name others with `--endpoints A,B,C` or \
                 CFGCTL_ENDPOINTS",
            ),
            CallError::TimedOut { sent: true, .. } | CallError::Broken { .. } => Some(
                "see `cfgctl status`; a change may have been made nevertheless: look before you \
                 repeat it",
            ),
            CallError::TimedOut { sent: false, .. } => {
                Some("give it more time with `--timeout 30s`, or other members with `--endpoints`")
            }
            // The words of a member that has begun one.
            CallError::Unavailable { message, .. } if message.contains("restore in progress") => {
                Some(RESTORE_HINT)
            }
            CallError::Unavailable { .. } => {
                Some("a majority of the members must run and reach each other: see `cfgctl status`")
            }
            CallError::Overloaded { .. } => Some("wait a little and repeat it"),
            CallError::Refused {
                refusal: Some(Refusal::SessionNotFound),
                ..
            } => Some("the session has ended: start again"),
            CallError::Unimplemented { .. } => {
                Some("the member is not cfgsvc, or of an older version: see `cfgctl status`")
            }
            CallError::Refused { .. } | CallError::Failed { .. } | CallError::Malformed { .. } => {
                None
            }
        };
        let diagnostic = Self::of(exit, &error);
        match hint {
            Some(hint) => diagnostic.hint(hint),
            None => diagnostic,
        }
    }
}

impl From<KvError> for Diagnostic {
    fn from(error: KvError) -> Self {
        let plain = |error: &KvError| Self::of(Exit::Refused, error);
        match error {
            KvError::Call(error) => error.into(),
            KvError::Conflict {
                ref key, found: 0, ..
            } => plain(&error).hint(format!(
                "it does not exist: create it with `cfgctl set {} ... --if-absent`",
                shell_word(key)
            )),
            KvError::Conflict { ref key, found, .. } => plain(&error).hint(format!(
                "read it with `cfgctl get {}`, then retry with `--if-revision {found}`",
                shell_word(key)
            )),
            KvError::Compacted { .. } => {
                plain(&error).hint("read without `--rev`, or at a later revision")
            }
            KvError::FutureRevision { .. } => {
                plain(&error).hint("`cfgctl status` prints the current revision")
            }
            KvError::LeaseNotFound { .. } => {
                plain(&error).hint("`cfgctl lease list` prints those that live")
            }
            KvError::TooManyOps { .. } => plain(&error).hint("split it into several transactions"),
            KvError::TooLarge { .. } => {
                plain(&error).hint("the limit is 1.5 MiB unless the group was told another one")
            }
            KvError::NoSpace => plain(&error)
                .hint("delete keys or run `cfgctl compact`: space comes back by itself"),
            KvError::EmptyKey
            | KvError::KeyNotFound
            | KvError::KeptAndGiven { .. }
            | KvError::DuplicateKey
            | KvError::SessionLost
            | KvError::AnswerForgotten => plain(&error),
        }
    }
}

impl From<LeaseError> for Diagnostic {
    fn from(error: LeaseError) -> Self {
        let plain = |error: &LeaseError| Self::of(Exit::Refused, error);
        match error {
            LeaseError::Call(error) => error.into(),
            LeaseError::NotFound { .. } => {
                plain(&error).hint("`cfgctl lease list` prints those that live")
            }
            LeaseError::NoSpace => plain(&error).hint("delete keys or run `cfgctl compact`"),
            LeaseError::TtlOutOfRange { .. } | LeaseError::Exists { .. } => plain(&error),
        }
    }
}

impl From<WatchError> for Diagnostic {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Call(error) => error.into(),
            WatchError::Compacted {
                compact_revision, ..
            } => Self::of(Exit::Refused, &error).hint(format!(
                "read the keys now, or watch with `--rev {compact_revision}`"
            )),
            WatchError::Cancelled { .. } | WatchError::OutOfOrder { .. } => {
                Self::of(Exit::Refused, &error)
            }
        }
    }
}

impl From<LockError> for Diagnostic {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Call { name, source } => Self::from(source).while_doing("lock", &name),
            LockError::NotHad { ref name, .. } => {
                let hint =
                    format!("`cfgctl role show locks/{name}` prints who holds it, and who waits");
                Self::of(Exit::Refused, &error).hint(hint)
            }
        }
    }
}

impl From<AdminError> for Diagnostic {
    fn from(error: AdminError) -> Self {
        let plain = |error: &AdminError| Self::of(Exit::Refused, error);
        match error {
            AdminError::Call(error) => error.into(),
            AdminError::MemberNotFound { .. } => {
                plain(&error).hint("`cfgctl member list` prints the members")
            }
            AdminError::QuorumAtRisk => {
                plain(&error).hint("bring the stopped members back first: see `cfgctl status`")
            }
            AdminError::NotCaughtUp { .. } => {
                plain(&error).hint("wait until its lag in `cfgctl status` is small")
            }
            AdminError::NotEmpty => plain(&error)
                .hint("start a new group with empty data directories, then restore into that"),
            AdminError::NotLeader => plain(&error)
                .hint("name the leader's address with `--endpoints`: see `cfgctl status`"),
            AdminError::NotALearner { .. }
            | AdminError::BadTransferTarget { .. }
            | AdminError::EmptyKey => plain(&error),
        }
    }
}

impl<E: Error + 'static> From<RestoreError<E>> for Diagnostic {
    fn from(error: RestoreError<E>) -> Self {
        match error {
            RestoreError::Input(error) => Self::refused("cannot read the snapshot").because(error),
            RestoreError::Group(error) => error.into(),
        }
    }
}

impl From<OptionsError> for Diagnostic {
    fn from(error: OptionsError) -> Self {
        Self::of(Exit::Usage, &error)
    }
}

impl Diagnostic {
    /// Puts what was being done before the message.
    fn while_doing(mut self, what: &str, name: &str) -> Self {
        self.message = self
            .message
            .map(|message| format!("{what} `{name}`: {message}"));
        self
    }
}
