//! `cfgctl watch`: one line for each change; as JSON one object a line.

use crate::Outcome;
use crate::args::{Output, WatchArgs};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{cell, json_event};
use cfgsvc_client::{Event, EventKind, Keys, WatchOptions};

pub(crate) async fn run(context: &Context, args: WatchArgs) -> Outcome {
    let keys = if args.prefix {
        Keys::prefix(args.key.clone())
    } else {
        Keys::one(args.key.clone())
    };
    let options = WatchOptions::new(keys).from_revision(args.rev);
    let mut watch = context.client()?.watch(options).await?;
    let key = cell(&args.key);
    context.printer.note(&if args.prefix {
        format!("watching keys that begin with `{key}`, end with Ctrl-C")
    } else {
        format!("watching key `{key}`, end with Ctrl-C")
    });
    let mut left = args.count;
    while let Some(item) = watch.next().await {
        let item = item?;
        for event in &item.events {
            print(context, event, item.revision)?;
            left = left.map(|left| left - 1);
            if left == Some(0) {
                return Ok(Exit::Done);
            }
        }
    }
    Err(Diagnostic::refused("the watch ended without a reason"))
}

fn print(context: &Context, event: &Event, revision: i64) -> Result<(), Diagnostic> {
    let line = match context.output {
        Output::Json => json_event(event, revision).to_string(),
        Output::Table => {
            let key = cell(&event.kv.key);
            match event.kind {
                EventKind::Put => format!("r{revision}  put     {key}  {}", cell(&event.kv.value)),
                EventKind::Delete => format!("r{revision}  delete  {key}"),
            }
        }
    };
    context.printer.line(&line)
}
