//! `cfgctl elect`: stands in an election, or follows who leads.

use super::lock;
use crate::Outcome;
use crate::args::{ElectArgs, Output};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::signals::Signals;
use cfgsvc_client::{Leader, LockGuard};
use serde_json::json;
use std::time::Duration;

/// Pause before the group is asked again that could not answer.
const AGAIN: Duration = Duration::from_millis(500);

pub(crate) async fn run(context: &Context, args: ElectArgs) -> Outcome {
    let Some(value) = args.value else {
        return observe(context, &args.name).await;
    };
    let mut signals = Signals::listen()?;
    let options = lock::options(&args.claim).value(value.clone());
    let held = lock::acquire(context, &args.name, options, &mut signals).await?;
    if !args.command.is_empty() {
        let held = (args.name.as_str(), held);
        return lock::while_held(context, held, &args.command, &mut signals).await;
    }
    lead(context, (&args.name, held), value, &mut signals).await
}

/// Leads until a signal comes or the leadership is lost.
async fn lead(
    context: &Context,
    (name, held): (&str, LockGuard),
    value: String,
    signals: &mut Signals,
) -> Outcome {
    let leader = Leader {
        host: held.host().to_owned(),
        epoch: held.epoch(),
        value,
    };
    let printed = print(context, Some(&leader));
    let lost = tokio::select! {
        lost = held.lost(), if printed.is_ok() => Some(lost),
        _ = signals.next(), if printed.is_ok() => None,
        else => None,
    };
    lock::release(context, name, held).await;
    printed?;
    match lost {
        Some(why) => Err(lock::lost(name, "", why)),
        None => Ok(Exit::Done),
    }
}

async fn observe(context: &Context, name: &str) -> Outcome {
    let mut observer = context.client()?.observe(name);
    let mut answered = false;
    loop {
        match observer.next().await {
            Ok(leader) => {
                answered = true;
                print(context, leader.as_ref())?;
            }
            // What was printed may be so no more; what is comes when the group can say it.
            Err(error) if answered && error.retryable() => {
                context
                    .printer
                    .note(&format!("warning: not known who leads: {error}"));
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn print(context: &Context, leader: Option<&Leader>) -> Result<(), Diagnostic> {
    let line = match (context.output, leader) {
        (Output::Json, Some(leader)) => {
            let Leader { host, epoch, value } = leader;
            json!({ "epoch": epoch, "host": host, "value": value }).to_string()
        }
        (Output::Json, None) => json!({ "epoch": null, "host": null, "value": null }).to_string(),
        (Output::Table, Some(leader)) => {
            let value = crate::render::cell(leader.value.as_bytes());
            format!("epoch {}  {}  {value}", leader.epoch, leader.host)
        }
        (Output::Table, None) => "nobody".to_owned(),
    };
    context.printer.line(&line)
}
