//! Consent to what cannot be undone. Only this module can make the token that destructive code
//! asks for, so none of it runs without the question.

use crate::diagnostics::Diagnostic;
use crate::printer::Printer;
use std::io;

/// Proof that the user agreed.
#[derive(Debug)]
pub(crate) struct Consent(());

/// Says what will be done, and asks unless `yes` was given. Off a terminal `--yes` is needed.
pub(crate) fn consent(printer: &Printer, what: &str, yes: bool) -> Result<Consent, Diagnostic> {
    printer.note(what);
    if yes {
        return Ok(Consent(()));
    }
    if !printer.can_ask() {
        return Err(
            Diagnostic::usage("this needs your consent, and there is no terminal to ask")
                .hint("repeat the command with `--yes`"),
        );
    }
    printer.question("type yes to go on:");
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Diagnostic::refused("cannot read the answer").because(error))?;
    match answer.trim() {
        "yes" => Ok(Consent(())),
        _ => Err(Diagnostic::refused("not confirmed, nothing was done")),
    }
}
