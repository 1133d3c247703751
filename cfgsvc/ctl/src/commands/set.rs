//! `cfgctl set`.

use crate::Outcome;
use crate::args::SetArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, cell, json_key, json_kv, shell_word};
use cfgsvc_client::{KvError, Put};
use serde_json::Value;
use std::io::{IsTerminal, Read};

/// Most bytes of standard input: well above what a group accepts (1.5 MiB), so that the group's
/// own limit is the one that is met, and far below what would hurt.
const STDIN_BYTES_MAX: u64 = 64 << 20;

pub(crate) async fn run(context: &Context, args: SetArgs) -> Outcome {
    let client = context.client()?;
    let value = match args.value.as_deref() {
        None | Some(b"-") => read_stdin(context)?.into(),
        Some(_) => args.value.clone().unwrap_or_default(),
    };
    let mut put = Put::new(args.key.clone(), value).lease(args.lease);
    if args.prev {
        put = put.previous();
    }
    let condition = if args.if_absent {
        Some(0)
    } else {
        args.if_revision
    };
    if let Some(revision) = condition {
        put = put.if_revision(revision);
    }
    let key = cell(&args.key);
    let reply = match client.put(put).await {
        Ok(reply) => reply,
        Err(KvError::Conflict { found, .. }) if args.if_absent => {
            let text = format!("key `{key}` exists already, since its change at revision {found}");
            let word = shell_word(&args.key);
            let hint =
                format!("read it with `cfgctl get {word}`, then use `--if-revision {found}`");
            return Err(Diagnostic::refused(text).hint(hint));
        }
        Err(error) => return Err(error.into()),
    };
    let previous = reply.previous.as_ref();
    let table = || {
        let revision = reply.revision.to_string();
        if !args.prev {
            let mut table = Table::new(["KEY", "REVISION"]);
            table.row([key.clone(), revision]);
            return table;
        }
        let mut table = Table::new(["KEY", "REVISION", "REPLACED", "PREVIOUS"]);
        let at = previous.map_or("-".into(), |kv| kv.mod_revision.to_string());
        let value = previous.map_or("-".into(), |kv| cell(&kv.value));
        table.row([key.clone(), revision, at, value]);
        table
    };
    context.print(table, || {
        let mut map = json_key(&args.key);
        map.insert("revision".into(), reply.revision.into());
        if args.prev {
            let previous = previous.map_or(Value::Null, |kv| json_kv(kv, true));
            map.insert("previous".into(), previous);
        }
        Value::Object(map)
    })?;
    Ok(Exit::Done)
}

fn read_stdin(context: &Context) -> Result<Vec<u8>, Diagnostic> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        context
            .printer
            .note("reading the value from the terminal, end it with Ctrl-D");
    }
    let mut value = Vec::new();
    let mut input = stdin.lock().take(STDIN_BYTES_MAX + 1);
    input.read_to_end(&mut value).map_err(|error| {
        Diagnostic::refused("cannot read the value from standard input").because(error)
    })?;
    if value.len() as u64 > STDIN_BYTES_MAX {
        let text = format!("standard input has more than {STDIN_BYTES_MAX} bytes");
        return Err(Diagnostic::refused(text).hint("a value is at most 1.5 MiB"));
    }
    Ok(value)
}
