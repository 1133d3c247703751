//! `cfgctl snapshot restore`: the file is checked as a whole before its first byte is sent.

use super::{PIECE_BYTES, verify};
use crate::Outcome;
use crate::args::SnapshotRestoreArgs;
use crate::confirm::{Consent, consent};
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, count};
use bytes::Bytes;
use cfgsvc_client::Client;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

pub(super) async fn run(context: &Context, args: SnapshotRestoreArgs) -> Outcome {
    let summary = verify(&args.file)?;
    let client = context.client()?;
    let what = format!(
        "this fills the group at {} from {} (revision {}, {})",
        context.endpoints.join(", "),
        args.file.display(),
        summary.header.revision,
        count(summary.header.keys, "key"),
    );
    let consent = consent(&context.printer, &what, args.yes)?;
    let records = send(&client, args.file, consent).await?;
    let revision = summary.header.revision;
    let table = || {
        let mut table = Table::new(["RESTORED", "RECORDS"]);
        table.row([format!("revision {revision}"), records.to_string()]);
        table
    };
    context.print(
        table,
        || json!({ "revision": revision, "records": records }),
    )?;
    Ok(Exit::Done)
}

async fn send(client: &Client, path: PathBuf, _consent: Consent) -> Result<u64, Diagnostic> {
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
    Ok(client.restore(Box::pin(pieces)).await?)
}

async fn open(path: &Path) -> Result<tokio::fs::File, Diagnostic> {
    tokio::fs::File::open(path).await.map_err(|error| {
        Diagnostic::refused(format!("cannot read {}", path.display())).because(error)
    })
}
