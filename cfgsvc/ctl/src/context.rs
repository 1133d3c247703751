//! What every command is given: the client, the printer, the form of the data.

use crate::args::{Global, Output};
use crate::diagnostics::Diagnostic;
use crate::printer::Printer;
use crate::render::{Table, pretty};
use cfgsvc_client::{AUTHOR_BYTES_MAX, Client, Options};
use serde_json::Value;

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) printer: Printer,
    pub(crate) output: Output,
    pub(crate) endpoints: Vec<String>,
    options: Options,
}

impl Context {
    /// `user`: who runs the program, for the history when no author is given.
    pub(crate) fn new(global: Global, printer: Printer, user: Option<String>) -> Self {
        let mut options = Options::new(global.endpoints.iter().map(|one| one.trim()));
        options.request_timeout = global.timeout;
        options.connect_timeout = options.connect_timeout.min(global.timeout);
        // An odd user name must not stand in the way; an odd `--author` is refused.
        let user = user
            .filter(|user| user.len() <= AUTHOR_BYTES_MAX && !user.chars().any(char::is_control));
        options.author = global.author.or(user);
        options.reason = global.reason;
        Self {
            printer,
            output: global.output,
            endpoints: options.endpoints.clone(),
            options,
        }
    }

    /// A client with the settings of the command line.
    pub(crate) fn client(&self) -> Result<Client, Diagnostic> {
        Ok(Client::new(self.options.clone())?)
    }

    /// The same, for changes whose reason is `reason` unless the command line gives one.
    pub(crate) fn client_because(&self, reason: String) -> Result<Client, Diagnostic> {
        let mut options = self.options.clone();
        options.reason.get_or_insert(reason);
        Ok(Client::new(options)?)
    }

    /// Prints data in the form that was asked for.
    pub(crate) fn print(
        &self,
        table: impl FnOnce() -> Table,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Diagnostic> {
        self.print_text(|| table().render(), json)
    }

    /// The same for what is more than one table.
    pub(crate) fn print_text(
        &self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> Result<(), Diagnostic> {
        let text = match self.output {
            Output::Table => text(),
            Output::Json => pretty(&json()),
        };
        self.printer.data(text.as_bytes())
    }
}
