//! Network namespaces: the program `ip`, and numbers that tell those of one test from another's.

use std::fs::File;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

/// A number below `count` that no other test on this machine has for this, until the file is
/// dropped.
pub(crate) fn claim(what: &str, count: u8) -> Result<(u8, File)> {
    for number in 0..count {
        let path = std::env::temp_dir().join(format!("cfgsvc-test-{what}-{number}"));
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok((number, lock));
        }
    }
    bail!("all {count} of {what} are in use");
}

/// Runs `ip`.
pub(crate) fn ip(arguments: &[&str]) -> Result<()> {
    let what = || format!("ip {} (needs root)", arguments.join(" "));
    let ran = Command::new("ip").args(arguments).output();
    let ran = ran.with_context(what)?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{}: {}", what(), said.trim());
    Ok(())
}
