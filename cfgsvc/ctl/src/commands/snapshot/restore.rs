//! `cfgctl snapshot restore`: the file is checked as a whole before its first byte is sent.

use super::{PIECE_BYTES, verify};
use crate::Outcome;
use crate::args::SnapshotRestoreArgs;
use crate::confirm::{Consent, consent};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, count};
use bytes::Bytes;
use cfgsvc_client::{Client, Restored};
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

/// Revisions left out behind a snapshot: a day of ten thousand writes a second, and there is room
/// for billions of such steps.
const ADVANCE_DEFAULT: i64 = 1_000_000_000;

pub(super) async fn run(context: &Context, args: SnapshotRestoreArgs) -> Outcome {
    let summary = verify(&args.file)?;
    let client = context.client()?;
    let revision = summary.header.revision;
    let advance = args
        .advance
        .unwrap_or(if summary.header.recovered_from.is_empty() {
            ADVANCE_DEFAULT
        } else {
            0
        });
    let what = format!(
        "this fills the group at {} from {} (revision {revision}, {}) and goes on {}",
        context.endpoints.join(", "),
        args.file.display(),
        count(summary.header.keys, "key"),
        match advance {
            0 => "right behind that revision".to_owned(),
            advance => format!("{advance} revisions later"),
        }
    );
    let consent = consent(&context.printer, &what, args.yes)?;
    if summary.promised_ms > 0 {
        context.printer.note(&format!(
            "takes {} ms at least: whoever was given a role after the snapshot may serve so long; \
             the former group must not run any more",
            summary.promised_ms
        ));
    }
    let restored = send(&client, args.file, advance, consent).await?;
    let (next, records) = (restored.revision, restored.records);
    let table = || {
        let mut table = Table::new(["RESTORED", "RECORDS", "GOES ON AT"]);
        table.row([
            format!("revision {revision}"),
            records.to_string(),
            format!("revision {next}"),
        ]);
        table
    };
    context.print(
        table,
        || json!({ "revision": revision, "records": records, "goes_on_at": next }),
    )?;
    Ok(Exit::Done)
}

async fn send(
    client: &Client,
    path: PathBuf,
    advance: i64,
    _consent: Consent,
) -> Result<Restored, Diagnostic> {
    let file = open(&path).await?;
    // The file may have changed since it was checked: the group checks the hash again.
    let pieces = futures_util::stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok::<_, io::Error>(Bytes::from(piece)), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(client.restore(Box::pin(pieces), advance).await?)
}

async fn open(path: &Path) -> Result<tokio::fs::File, Diagnostic> {
    tokio::fs::File::open(path).await.map_err(|error| {
        Diagnostic::refused(format!("cannot read {}", path.display())).because(error)
    })
}
