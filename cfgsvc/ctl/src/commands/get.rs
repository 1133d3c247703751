//! `cfgctl get`. What a prefix has is printed page by page: a million keys are never held at once.

use crate::Outcome;
use crate::args::{GetArgs, Output};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{JsonList, Table, cell, json_kv, lease_cell, shell_word};
use cfgsvc_client::{Get, KeyValue, Keys, KvError};
use serde_json::Value;

/// Bytes of keys and values after which they are printed.
const PRINT_BYTES: usize = 256 << 10;

pub(crate) async fn run(context: &Context, args: GetArgs) -> Outcome {
    if args.print_value_only && context.output == Output::Json {
        let text = "a bare value has no JSON form";
        return Err(Diagnostic::usage(text).hint("leave out one of `-v` and `-o json`"));
    }
    let keys = if args.prefix {
        Keys::prefix(args.key.clone())
    } else {
        Keys::one(args.key.clone())
    };
    let mut get = Get::new(keys).revision(args.rev).limit(args.limit);
    if args.serializable {
        get = get.serializable();
    }
    if args.keys_only {
        get = get.keys_only();
    }
    let mut pages = context.client()?.get_pages(get).await?;
    let (count, revision) = (pages.count(), pages.revision());
    if count == 0 && !args.prefix {
        return Err(missing(&args));
    }
    let mut listing = Listing::new(context, &args);
    let mut text = listing.begin(count);
    let mut shown = 0;
    while let Some(kvs) = pages
        .next()
        .await
        .map_err(|error| broken_off(&args, error))?
    {
        shown += kvs.len() as i64;
        let mut pending = 0;
        for kv in &kvs {
            listing.key(kv, &mut text);
            pending += kv.key.len() + kv.value.len();
            if pending >= PRINT_BYTES {
                listing.flush(&mut text);
                context.printer.data(&text)?;
                text.clear();
                pending = 0;
            }
        }
        listing.flush(&mut text);
        context.printer.data(&text)?;
        text.clear();
    }
    listing.end(count > shown, revision, &mut text);
    context.printer.data(&text)?;
    if count > shown {
        context
            .printer
            .note(&format!("{shown} of {count} keys are shown"));
    }
    Ok(Exit::Done)
}

fn missing(args: &GetArgs) -> Diagnostic {
    let (key, word) = (cell(&args.key), shell_word(&args.key));
    match args.rev {
        0 => Diagnostic::refused(format!("key `{key}` does not exist")).hint(format!(
            "`cfgctl get --prefix --keys-only {word}` lists the keys that begin so"
        )),
        rev => Diagnostic::refused(format!("key `{key}` does not exist at revision {rev}"))
            .hint(format!("`cfgctl history {word}` prints its versions")),
    }
}

/// A page after the first is missing.
fn broken_off(args: &GetArgs, error: KvError) -> Diagnostic {
    let compacted = matches!(error, KvError::Compacted { .. });
    let diagnostic = Diagnostic::from(error);
    if compacted && args.rev == 0 {
        return diagnostic.hint("it was compacted while it was read: repeat the command");
    }
    diagnostic
}

/// The form in which the keys are printed.
enum Listing {
    Values { newline: bool },
    Keys(Table),
    Versions(Table),
    Json { list: JsonList, values: bool },
}

impl Listing {
    fn new(context: &Context, args: &GetArgs) -> Self {
        if args.print_value_only {
            let newline = args.prefix || context.printer.data_to_terminal();
            return Self::Values { newline };
        }
        match context.output {
            Output::Json => Self::Json {
                list: JsonList::default(),
                values: !args.keys_only,
            },
            Output::Table if args.keys_only => {
                Self::Keys(Table::new(["KEY", "REVISION", "VERSION"]))
            }
            Output::Table => {
                Self::Versions(Table::new(["KEY", "REVISION", "VERSION", "LEASE", "VALUE"]))
            }
        }
    }

    fn begin(&self, count: i64) -> Vec<u8> {
        match self {
            Self::Json { .. } => JsonList::begin(&[("count", count.into())], "kvs").into_bytes(),
            Self::Values { .. } | Self::Keys(_) | Self::Versions(_) => Vec::new(),
        }
    }

    fn key(&mut self, kv: &KeyValue, text: &mut Vec<u8>) {
        match self {
            Self::Values { newline } => {
                text.extend_from_slice(&kv.value);
                if *newline {
                    text.push(b'\n');
                }
            }
            Self::Keys(table) => table.row([
                cell(&kv.key),
                kv.mod_revision.to_string(),
                kv.version.to_string(),
            ]),
            Self::Versions(table) => table.row([
                cell(&kv.key),
                kv.mod_revision.to_string(),
                kv.version.to_string(),
                lease_cell(kv.lease),
                cell(&kv.value),
            ]),
            Self::Json { list, values } => {
                text.extend_from_slice(list.item(&json_kv(kv, *values)).as_bytes());
            }
        }
    }

    /// What is known so far and was not printed yet.
    fn flush(&mut self, text: &mut Vec<u8>) {
        match self {
            Self::Keys(table) | Self::Versions(table) => {
                text.extend_from_slice(table.take().as_bytes());
            }
            Self::Values { .. } | Self::Json { .. } => {}
        }
    }

    fn end(&mut self, more: bool, revision: i64, text: &mut Vec<u8>) {
        match self {
            Self::Json { list, .. } => {
                let after = [("more", Value::from(more)), ("revision", revision.into())];
                text.extend_from_slice(list.end(&after).as_bytes());
            }
            // The headings of a table without rows.
            Self::Keys(_) | Self::Versions(_) => self.flush(text),
            Self::Values { .. } => {}
        }
    }
}
