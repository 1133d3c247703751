//! The end of a chain: what only the chain needed is removed. It is said before that all of it is
//! done, so that a command that is killed on the way does not begin the chain anew when it is run
//! again.
//!
//! Invariant: the mark is durable before anything is removed, and it goes when nothing else is
//! left.

use super::record::{beside, write_synced};
use super::{Chain, Spec};
use crate::Result;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The mark, in the work directory. No step has such a name.
const MARK: &str = ".done";

/// A chain of which all is done.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Finished {
    steps: Vec<FinishedStep>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
struct FinishedStep {
    name: String,
    spec: Spec,
    keep: bool,
}

impl Finished {
    pub(super) fn of(chain: &Chain) -> Self {
        let steps = chain.steps.iter().map(|step| FinishedStep {
            name: step.name.clone(),
            spec: step.spec.clone(),
            keep: step.keep,
        });
        Self {
            steps: steps.collect(),
        }
    }

    /// What an earlier run has marked, and has not removed to its end.
    pub(super) fn read(work: &Path) -> Result<Option<Self>> {
        let path = work.join(MARK);
        match fs::read(&path) {
            Ok(octets) => {
                let read = serde_json::from_slice(&octets);
                let path = path.display();
                Ok(Some(read.map_err(|error| {
                    format!("{path}: {error}: another version has written it; remove it")
                })?))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn mark(&self, work: &Path) -> Result<()> {
        write_synced(&work.join(MARK), &serde_json::to_vec_pretty(self)?)
    }

    /// Removes records and outputs that nobody wants to keep, and then the mark.
    pub(super) fn remove(&self, work: &Path) -> Result<()> {
        for step in self.steps.iter().filter(|step| !step.keep) {
            let record = work.join(format!("{}.json", step.name));
            // One that was being written when its command was killed.
            gone(fs::remove_file(beside(&record)))?;
            gone(fs::remove_file(record))?;
            if step.spec.output.is_none() {
                gone(fs::remove_dir_all(work.join(&step.name)))?;
            }
        }
        Ok(gone(fs::remove_file(work.join(MARK)))?)
    }

    /// Whether something is left that the work directory is there for.
    pub(super) fn keeps(&self) -> bool {
        self.steps.iter().any(|step| step.keep)
    }
}

/// What was removed before is removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
