//! The only place that prints: data to standard output, everything else to standard error.
//!
//! A reader that closes the pipe (`cfgctl get --prefix '' | head -1`) has what it wanted: writing
//! on is pointless and no error, so a broken pipe ends the program with success.

use crate::args::Color;
use crate::diagnostics::{Diagnostic, Exit};
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

/// Writes for one run of the program.
#[derive(Debug)]
pub(crate) struct Printer {
    colored: bool,
    /// A line of progress stands on the terminal and must be wiped before the next message.
    progress: Cell<bool>,
}

#[expect(
    clippy::unused_self,
    reason = "only who was given the printer may print, though it holds no stream"
)]
impl Printer {
    /// `no_color`: the environment variable of that name is set and not empty.
    pub(crate) fn new(color: Color, no_color: bool) -> Self {
        let colored = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !no_color && io::stderr().is_terminal(),
        };
        Self {
            colored,
            progress: Cell::new(false),
        }
    }

    /// Data, as it is.
    pub(crate) fn data(&self, bytes: &[u8]) -> Result<(), Diagnostic> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    return Diagnostic::quiet(Exit::Done);
                }
                Diagnostic::refused("cannot write to standard output").because(error)
            })
    }

    /// Data, with a newline.
    pub(crate) fn line(&self, text: &str) -> Result<(), Diagnostic> {
        self.data(format!("{text}\n").as_bytes())
    }

    /// Whether data goes to a terminal.
    pub(crate) fn data_to_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Whether a person can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Whether a person sees progress.
    pub(crate) fn shows_progress(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// A message beside the data.
    pub(crate) fn note(&self, text: &str) {
        self.message(&format!("{text}\n"));
    }

    /// Progress, which the next message overwrites; an empty one only wipes.
    pub(crate) fn progress(&self, text: &str) {
        if self.shows_progress() {
            self.message(text);
            self.progress.set(!text.is_empty());
        }
    }

    /// A question; the answer is read by the caller.
    pub(crate) fn question(&self, text: &str) {
        self.message(&format!("{text} "));
    }

    /// A failure, as style rule 37 has it.
    pub(crate) fn failure(&self, diagnostic: &Diagnostic) {
        if !diagnostic.is_quiet() {
            self.message(&diagnostic.render(self.colored));
        }
    }

    fn message(&self, text: &str) {
        let wipe = if self.progress.replace(false) {
            "\r\x1b[K"
        } else {
            ""
        };
        // Without standard error there is no place to say so.
        let _ = io::stderr().write_all(format!("{wipe}{text}").as_bytes());
    }
}
