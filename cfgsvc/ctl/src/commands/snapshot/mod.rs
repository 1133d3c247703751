//! `cfgctl snapshot`.

mod restore;
mod save;

use crate::Outcome;
use crate::args::SnapshotCommand;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::{Table, size, time};
use cfgsvc_core::placement;
use cfgsvc_core::snapshot_file::{Reader, SnapshotError};
use cfgsvc_proto::state::{Record, SnapshotHeader};
use serde_json::json;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that are read or sent at once.
const PIECE_BYTES: usize = 256 << 10;

/// What a whole and undamaged file says about itself.
struct Summary {
    header: SnapshotHeader,
    records: u64,
    bytes: u64,
    /// How long a holder that the file does not know of may serve, ms.
    promised_ms: u64,
}

pub(crate) async fn run(context: &Context, command: SnapshotCommand) -> Outcome {
    match command {
        SnapshotCommand::Save(args) => save::run(context, args).await,
        SnapshotCommand::Restore(args) => restore::run(context, args).await,
        SnapshotCommand::Inspect { file } => {
            let summary = verify(&file)?;
            print(context, &file, &summary)?;
            Ok(Exit::Done)
        }
    }
}

fn bad_file(file: &Path, error: SnapshotError) -> Diagnostic {
    Diagnostic::refused(format!("{} is no usable snapshot", file.display()))
        .because(error)
        .hint("save it again with `cfgctl snapshot save`, or use another copy")
}

/// The longest time for which one of these records promises a role, ms.
fn promised_ms(records: &[Record]) -> u64 {
    let promised = records.iter().map(placement::promised_ms);
    promised.max().unwrap_or(0)
}

/// Reads a whole file and checks its hash.
fn verify(file: &Path) -> Result<Summary, Diagnostic> {
    let failed = |error: io::Error| {
        Diagnostic::refused(format!("cannot read {}", file.display())).because(error)
    };
    let mut input = File::open(file).map_err(failed)?;
    let mut reader = Reader::new();
    let mut piece = vec![0; PIECE_BYTES];
    let (mut records, mut bytes, mut promised_ms) = (0, 0, 0);
    loop {
        let count = match input.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        bytes += count as u64;
        let decoded = reader
            .feed(&piece[..count])
            .map_err(|error| bad_file(file, error))?;
        records += decoded.len() as u64;
        promised_ms = promised_ms.max(self::promised_ms(&decoded));
    }
    let header = reader.finish().map_err(|error| bad_file(file, error))?;
    Ok(Summary {
        header,
        records,
        bytes,
        promised_ms,
    })
}

fn print(context: &Context, file: &Path, summary: &Summary) -> Result<(), Diagnostic> {
    let Summary {
        header,
        records,
        bytes,
        ..
    } = summary;
    let table = || {
        let headings = [
            "FILE",
            "REVISION",
            "COMPACTED",
            "KEYS",
            "RECORDS",
            "SIZE",
            "CREATED",
            "SOURCE",
            "CLUSTER",
            "VERSION",
        ];
        let mut table = Table::new(headings);
        table.row([
            file.display().to_string(),
            header.revision.to_string(),
            header.compacted_revision.to_string(),
            header.keys.to_string(),
            records.to_string(),
            size(*bytes),
            time(header.created_ms),
            match header.recovered_from.as_str() {
                "" => "group".to_owned(),
                member => format!("{member}, offline"),
            },
            format!("{:x}", header.cluster_id),
            header.version.clone(),
        ]);
        table
    };
    context.print(table, || {
        json!({
            "file": file.display().to_string(),
            "revision": header.revision,
            "compacted_revision": header.compacted_revision,
            "keys": header.keys,
            "records": records,
            "bytes": bytes,
            "created": time(header.created_ms),
            "recovered_from": Some(&header.recovered_from).filter(|from| !from.is_empty()),
            "lost_after": header.lost_after,
            "lost_until": header.lost_until,
            "cluster_id": format!("{:x}", header.cluster_id),
            "version": header.version,
        })
    })
}
