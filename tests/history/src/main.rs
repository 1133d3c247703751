//! `history-check FILE...`: checks recorded histories again; 1 when one is refused.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use cfgsvc_history::{check, check_watch, from_lines};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    ensure!(!files.is_empty(), "no file\n\nhint: history-check FILE...");
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let history = from_lines(&text).with_context(|| file.clone())?;
        let explained = check(&history).with_context(|| file.clone())?;
        let log = history.log.as_deref().unwrap_or_default();
        for watch in &history.watches {
            let last = explained.store.revision;
            let checked = check_watch(watch, log, last);
            checked
                .map_err(anyhow::Error::msg)
                .with_context(|| file.clone())?;
        }
        eprintln!(
            "{file}: {} operations to r{}, {} watches: explained in {} steps",
            history.operations.len(),
            explained.store.revision,
            history.watches.len(),
            explained.steps
        );
    }
    Ok(())
}
