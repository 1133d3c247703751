//! The program that runs the tasks of a job: the one that submitted it, so that all tasks, the plan
//! and the sample are of one version of the code. It lies beside the output while the job runs, or
//! below its prefix in a bucket; each worker copies it once, to a name that is its checksum, and
//! runs no other.

use crate::cluster::process::Failure;
use crate::cluster::staging::Staging;
use crate::{Error, Result};
use fs_err as fs;
use mapreduce_core::record::FailureClass;
use mapreduce_core::spec::{JobCode, JobSpec};
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where workers keep programs.
pub(crate) const PROGRAMS: &str = "programs";
/// What a checksum begins with.
const ALGORITHM: &str = "sha256:";

/// The checksum of a program, as descriptions of jobs have it.
pub(crate) fn checksum(program: &Path) -> Result<String> {
    let mut sum = Sha256::new();
    let mut program = fs::File::open(program)?;
    let mut octets = vec![0; 64 << 10];
    loop {
        match program.read(&mut octets)? {
            0 => break,
            read => sum.update(&octets[..read]),
        }
    }
    let hex = sum.finalize().iter().fold(String::new(), |hex, octet| {
        // Two digits for each octet.
        hex + &format!("{octet:02x}")
    });
    Ok(format!("{ALGORITHM}{hex}"))
}

/// What this program was built for.
pub(crate) fn target() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// The arguments of a job's code.
pub(crate) fn arguments(code: &JobCode) -> Vec<String> {
    match code {
        JobCode::Builtin { arguments, .. } | JobCode::Binary { arguments, .. } => arguments.clone(),
        JobCode::Streaming { .. } => Vec::new(),
    }
}

/// The program that runs the tasks of a job, at a worker.
pub(crate) fn of(directory: &Path, spec: &JobSpec, staging: &Staging) -> Result<PathBuf, Failure> {
    // Another worker may be of the right kind: the task goes there.
    let unfit = |message: String| Failure {
        class: FailureClass::IoRetryable,
        message,
    };
    match &spec.code {
        JobCode::Builtin { .. } => Ok(std::env::current_exe()?),
        JobCode::Binary {
            digest, target: of, ..
        } => {
            if *of != target() {
                let own = target();
                return Err(unfit(format!(
                    "the job's program is for {of}, this worker is {own}"
                )));
            }
            copied(directory, digest, staging).map_err(|error| Failure::of(&error))
        }
        JobCode::Streaming { .. } => Err(unfit(
            "this worker knows no jobs of the kind `streaming`: upgrade it".to_owned(),
        )),
    }
}

/// The worker's own copy. What is there was made and checked in this life.
fn copied(directory: &Path, digest: &str, staging: &Staging) -> Result<PathBuf> {
    let name = digest
        .strip_prefix(ALGORITHM)
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .ok_or_else(|| Error::from(format!("{digest} is no checksum of a program")))?;
    let programs = directory.join(PROGRAMS);
    let path = programs.join(name);
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&programs)?;
    // Several attempts may do this at once: each writes a file of its own.
    let own = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(&programs)?;
    staging.copy_program(own.as_file())?;
    let found = checksum(own.path())?;
    if found != digest {
        return Err(format!("the job's program is {found}, it was submitted as {digest}").into());
    }
    fs::set_permissions(own.path(), std::fs::Permissions::from_mode(0o755))?;
    own.as_file().sync_all()?;
    // A file that is open for writing cannot be run.
    own.into_temp_path().persist(&path)?;
    Ok(path)
}
