//! `cfgctl set`.

use crate::Outcome;
use crate::args::SetArgs;
use crate::commands::dry_run;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::past;
use crate::render::{Table, cell, json_key, json_kv, shell_word};
use cfgsvc_client::{Client, KvError, Put, Write};
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
    let condition = if args.if_absent {
        Some(0)
    } else {
        args.if_revision
    };
    let mut put = Put::new(args.key.clone(), value).lease(args.lease);
    if args.prev {
        put = put.previous();
    }
    if args.dry_run {
        return rehearse(context, &client, &args, &put, condition).await;
    }
    if let Some(revision) = condition {
        put = put.if_revision(revision);
    }
    let key = cell(&args.key);
    let reply = client
        .put(put)
        .await
        .map_err(|error| refused(&args, error))?;
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

fn refused(args: &SetArgs, error: KvError) -> Diagnostic {
    if let KvError::Conflict { found, .. } = error
        && args.if_absent
    {
        let key = cell(&args.key);
        let text = format!("key `{key}` exists already, since its change at revision {found}");
        let word = shell_word(&args.key);
        let hint = format!("read it with `cfgctl get {word}`, then use `--if-revision {found}`");
        return Diagnostic::refused(text).hint(hint);
    }
    error.into()
}

/// Prints what the put would change.
async fn rehearse(
    context: &Context,
    client: &Client,
    args: &SetArgs,
    put: &Put,
    condition: Option<i64>,
) -> Outcome {
    let now = past::at(client, &args.key, 0).await?;
    let found = now.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    if let Some(expected) = condition.filter(|expected| *expected != found) {
        let key = args.key.clone();
        let conflict = KvError::Conflict {
            key,
            expected,
            found,
        };
        return Err(refused(args, conflict));
    }
    let after = Some((&put.value()[..], put.lease_id()));
    let write = Write::Put(put.clone());
    dry_run::print(context, (client, &write), (&args.key, &now), after).await
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
