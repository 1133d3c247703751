//! What is known of a step from one run of a chain to the next: its record, which is in the work
//! directory before the step begins, and the manifest of its output, which is there when it is
//! done.
//!
//! Invariant: a record has a number that no other has, and it is durable before anything is begun
//! under that number.

use super::Spec;
use crate::Result;
use fs_err as fs;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// What a step was when it began.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Record {
    pub(super) spec: Spec,
    /// The number. Of a step that a group runs, it is the key of the job.
    pub(super) id: String,
    /// Of the steps that it read.
    pub(super) inputs: BTreeMap<String, String>,
    /// Of the output that it may replace: that of an earlier run of the step.
    pub(super) replaces: Option<String>,
    /// A group may have a job of this number, of which nobody has seen the end.
    #[serde(default)]
    pub(super) submitted: bool,
}

impl Record {
    /// Reads a record, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        match fs::read(path) {
            Ok(octets) => {
                let record = serde_json::from_slice(&octets);
                let record = record.map_err(|error| {
                    let path = path.display();
                    format!("{path}: {error}: it is no record of a step; remove it")
                });
                Ok(Some(record?))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, when nothing of it goes on.
    pub(super) fn over(&self) -> Self {
        Self {
            submitted: false,
            ..self.clone()
        }
    }

    /// Writes it: it is there whole or not at all, and durable.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        write_synced(path, &serde_json::to_vec_pretty(self)?)
    }
}

/// Where a file is written before it is there.
pub(super) fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a file that is there whole or not at all, and durable.
pub(super) fn write_synced(path: &Path, what: &[u8]) -> Result<()> {
    let beside = beside(path);
    let mut file = fs::File::create(&beside)?;
    file.write_all(what)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let parent = path.parent().filter(|path| !path.as_os_str().is_empty());
    Ok(fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?)
}

/// What a manifest says, as far as it matters here. Those of one machine and those of a group
/// differ: of the former `id` is the number and `job` a name, of the latter `job` is the number.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    id: Option<String>,
    job: Option<String>,
    /// The group's own number of the job, which others have not.
    number: Option<u64>,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Deserialize)]
struct ManifestFile {
    name: String,
}

impl Manifest {
    /// Of another version, or another program: not what a step of a chain has left.
    pub(super) fn read(octets: &[u8]) -> Option<Self> {
        serde_json::from_slice(octets).ok()
    }

    /// The number of the step that has made the output.
    pub(super) fn made_by(&self) -> Option<&str> {
        let key = self.number.and(self.job.as_deref());
        self.id.as_deref().or(key)
    }

    /// Names of its output files.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_both_engines_say_which_step_has_made_the_output() {
        let made_by = |text: &str| {
            let manifest = Manifest::read(text.as_bytes()).expect("a manifest");
            manifest.made_by().map(str::to_owned)
        };
        let here = r#"{"id":"7","job":"sort","output":"o","files":[{"name":"part-00000"}]}"#;
        assert_eq!(made_by(here).as_deref(), Some("7"));
        let there = r#"{"job":"a1","number":12,"epoch":3,"files":[]}"#;
        assert_eq!(made_by(there).as_deref(), Some("a1"));
        let of_no_chain = r#"{"job":"sort","files":[]}"#;
        assert_eq!(made_by(of_no_chain), None, "a job's name is no number");
        assert!(Manifest::read(b"[]").is_none());
    }

    #[test]
    fn records_of_earlier_versions_were_not_submitted() {
        let spec = r#"{"job":"sort","arguments":[],"input":["a"],"reduces":null,
            "split_octets":null,"format":null,"output":null}"#;
        let text = format!(r#"{{"spec":{spec},"id":"7","inputs":{{}},"replaces":null}}"#);
        let record: Record = serde_json::from_str(&text).expect("a record");
        assert!(!record.submitted);
    }
}
