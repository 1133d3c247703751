//! What a write of one key would change, without making it; the group is asked whether it would.

use crate::Outcome;
use crate::args::Output;
use crate::commands::diff::{at_revision, json_version, side};
use crate::context::Context;
use crate::difference::{self, Side};
use crate::past::Moment;
use crate::placed::foretell;
use crate::render::{json_key, json_value, pretty};
use cfgsvc_client::{Client, KeyValue, Write};
use serde_json::{Map, Value};

/// How a difference names the version that is not written.
const PLANNED: &str = "as it would be";

/// A value and a lease (0 for none) that a key would get.
type Planned<'a> = (&'a [u8], i64);

/// Prints what would become of `now`; `after`: `None` when the key would go.
pub(super) async fn print(
    context: &Context,
    (client, write): (&Client, &Write),
    (key, now): (&[u8], &Moment),
    after: Option<Planned<'_>>,
) -> Outcome {
    let text = match context.output {
        Output::Table => text(key, now.kv.as_ref(), now.revision, after),
        Output::Json => {
            let mut map = json(key, now.kv.as_ref(), after);
            map.insert("at_revision".into(), now.revision.into());
            pretty(&Value::Object(map))
        }
    };
    context.printer.data(text.as_bytes())?;
    foretell(context, client, write).await
}

/// For people.
pub(crate) fn text(
    key: &[u8],
    now: Option<&KeyValue>,
    revision: i64,
    after: Option<Planned<'_>>,
) -> String {
    let after = Side {
        when: PLANNED,
        value: after.map(|(value, _)| value),
        lease: after.map_or(0, |(_, lease)| lease),
    };
    difference::render(key, side(now, &at_revision(revision)), after)
}

/// For programs.
pub(super) fn json(
    key: &[u8],
    now: Option<&KeyValue>,
    after: Option<Planned<'_>>,
) -> Map<String, Value> {
    let mut map = json_key(key);
    map.insert("before".into(), json_version(now));
    let after = after.map_or(Value::Null, |(value, lease)| json_value(value, lease));
    map.insert("after".into(), after);
    map
}
