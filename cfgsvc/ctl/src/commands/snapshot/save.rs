//! `cfgctl snapshot save`: the file appears under its name only when it is whole, checked and
//! synced to disk.

use super::{Summary, bad_file, print};
use crate::Outcome;
use crate::args::SnapshotSaveArgs;
use crate::context::Context;
use crate::diagnostics::{Diagnostic, Exit};
use crate::render::size;
use crate::signals::Signals;
use cfgsvc_client::SnapshotStream;
use cfgsvc_core::snapshot_file::Reader;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that is removed again unless it is kept.
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // It stays behind with a name that says what it is.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) async fn run(context: &Context, args: SnapshotSaveArgs) -> Outcome {
    let path = &args.file;
    let failed = |error: io::Error| {
        Diagnostic::refused(format!("cannot write {}", path.display())).because(error)
    };
    if !args.force && path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    let mut signals = Signals::listen()?;
    let mut temporary = create(path).map_err(failed)?;
    let client = context.client()?;
    let receive = async {
        let mut stream = client.snapshot().await?;
        receive(context, &mut stream, &mut temporary.file, path).await
    };
    // Returning removes the temporary file.
    let summary = tokio::select! {
        summary = receive => summary?,
        end = signals.end() => return Err(end),
    };
    temporary.file.sync_all().map_err(failed)?;
    if args.force {
        fs::rename(&temporary.path, path).map_err(failed)?;
    } else {
        // Unlike a rename, a link never replaces what has appeared there meanwhile.
        fs::hard_link(&temporary.path, path).map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return exists(path);
            }
            failed(error)
        })?;
        fs::remove_file(&temporary.path).map_err(failed)?;
    }
    temporary.kept = true;
    sync_dir(path).map_err(failed)?;
    print(context, path, &summary)?;
    Ok(Exit::Done)
}

fn exists(path: &Path) -> Diagnostic {
    Diagnostic::refused(format!("{} exists", path.display()))
        .hint("choose another name, or replace it with `--force`")
}

fn create(path: &Path) -> io::Result<Temporary> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let path = path.with_file_name(name);
    // It holds everything that the group holds: nobody else may read it.
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    Ok(Temporary {
        path,
        file,
        kept: false,
    })
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

async fn receive(
    context: &Context,
    stream: &mut SnapshotStream,
    file: &mut File,
    path: &Path,
) -> Result<Summary, Diagnostic> {
    let mut reader = Reader::new();
    let (mut records, mut bytes, mut promised_ms) = (0, 0, 0);
    while let Some(part) = stream.next().await? {
        let decoded = reader
            .feed(&part.bytes)
            .map_err(|error| bad_file(path, error))?;
        records += decoded.len() as u64;
        promised_ms = promised_ms.max(super::promised_ms(&decoded));
        bytes += part.bytes.len() as u64;
        file.write_all(&part.bytes).map_err(|error| {
            Diagnostic::refused(format!("cannot write {}", path.display())).because(error)
        })?;
        let total = bytes + part.remaining_bytes;
        context
            .printer
            .progress(&format!("{} of {}", size(bytes), size(total)));
    }
    context.printer.progress("");
    let header = reader.finish().map_err(|error| bad_file(path, error))?;
    Ok(Summary {
        header,
        records,
        bytes,
        promised_ms,
    })
}
