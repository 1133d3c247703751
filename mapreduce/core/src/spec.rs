//! A job as it was asked for: JSON in the group, beside the job's header, which has its digest.
//! Readable by people and other tools; a field or version that this one does not know is refused,
//! never dropped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::{
    ARGUMENTS_MAX, ATTEMPTS_MAX, NAME_BYTES_MAX, SKIPPED_MAX, SPEC_BYTES_MAX, TASKS_MAX,
    URI_BYTES_MAX,
};

/// The version that this crate writes, and the latest that it reads.
pub const SPEC_VERSION: u32 = 1;

/// What a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// For people.
    pub name: String,
    /// What maps and reduces.
    pub code: JobCode,
    /// What it reads: the splits themselves are beside it, in chunks.
    pub input: InputSpec,
    /// Reduce tasks; 0 for a job that only maps.
    pub reduces: u32,
    /// Where the output goes: the address of a directory.
    pub output: String,
    /// How it runs.
    #[serde(default)]
    pub options: JobOptions,
}

/// What maps and reduces. Values of job code are opaque here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum JobCode {
    /// A job that workers bring along.
    Builtin {
        /// Which.
        name: String,
        /// Its arguments.
        #[serde(default)]
        arguments: Vec<String>,
    },
    /// A program with our library in it.
    Binary {
        /// What it must hash to: `ALGORITHM:HEX`.
        digest: String,
        /// What it was built for, such as `x86_64-unknown-linux-musl`.
        target: String,
        /// Its arguments.
        #[serde(default)]
        arguments: Vec<String>,
    },
    /// Any executables, by the conventions of Hadoop Streaming.
    Streaming {
        /// Command line of the map.
        map: Vec<String>,
        /// Command line of the combiner, if there is one.
        #[serde(default)]
        combine: Vec<String>,
        /// Command line of the reduce; empty for a job that only maps.
        #[serde(default)]
        reduce: Vec<String>,
        /// Environment beside ours.
        #[serde(default)]
        environment: BTreeMap<String, String>,
    },
}

/// The splits that a job has, which are stored beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// How many: the map tasks.
    pub splits: u32,
    /// In how many values they are.
    pub chunks: u32,
    /// Bytes of input, for people.
    pub bytes: u64,
    /// SHA-256 over the chunks, hexadecimal.
    pub digest: String,
}

/// How the records of an output are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// As lines of text.
    Lines,
    /// As keys and values of any octets.
    Pairs,
}

/// How a job runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobOptions {
    /// Failures of a task with which the job fails.
    pub attempts_max: u32,
    /// Whether slow tasks get a second attempt beside the first.
    pub backup_tasks: bool,
    /// Whether the code does something outside that nobody can undo: no backup tasks then.
    pub external_effects: bool,
    /// Records on which the code may crash, and which are then left out.
    pub skipped_max: u32,
    /// Share of the maps, in percent, that are done before reduces begin to fetch.
    pub slow_start_percent: u32,
    /// How long a map waits for a worker that has its split, ms.
    pub locality_wait_ms: u64,
    /// How its output is written; as its code says when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<OutputFormat>,
}

impl Default for JobOptions {
    /// Four attempts as Hadoop has it; backup tasks, because a commit is fenced here; nothing is
    /// skipped; reduces begin with the first 5 % of the maps, as in Hadoop.
    fn default() -> Self {
        Self {
            attempts_max: 4,
            backup_tasks: true,
            external_effects: false,
            skipped_max: 0,
            slow_start_percent: 5,
            locality_wait_ms: 0,
            format: None,
        }
    }
}

/// Why a job is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Written by a later version.
    #[error("the job has version {found}, this program knows up to {SPEC_VERSION}; upgrade it")]
    LaterVersion {
        /// What it says.
        found: u64,
    },
    /// No JSON, or not of a job.
    #[error("the job cannot be read: {0}")]
    Json(String),
    /// Too long.
    #[error("the job has {bytes} bytes of JSON, at most {SPEC_BYTES_MAX}; put lists into files")]
    TooLong {
        /// Bytes found.
        bytes: usize,
    },
    /// A number or text that is out of bounds.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        found: u64,
        /// What it may be.
        expected: String,
    },
}

/// The version alone, whatever else is there.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl JobSpec {
    /// Read and checked.
    pub fn from_json(json: &[u8]) -> Result<Self, SpecError> {
        if json.len() > SPEC_BYTES_MAX {
            return Err(SpecError::TooLong { bytes: json.len() });
        }
        let refuse = |error: serde_json::Error| SpecError::Json(error.to_string());
        let version = serde_json::from_slice::<Versioned>(json)
            .map_err(refuse)?
            .version;
        if version > u64::from(SPEC_VERSION) {
            return Err(SpecError::LaterVersion { found: version });
        }
        let spec: Self = serde_json::from_slice(json).map_err(refuse)?;
        spec.check()?;
        Ok(spec)
    }

    /// Checked and written.
    pub fn to_json(&self) -> Result<Vec<u8>, SpecError> {
        self.check()?;
        let json = serde_json::to_vec(self).map_err(|error| SpecError::Json(error.to_string()))?;
        if json.len() > SPEC_BYTES_MAX {
            return Err(SpecError::TooLong { bytes: json.len() });
        }
        Ok(json)
    }

    /// Every bound.
    pub fn check(&self) -> Result<(), SpecError> {
        let options = &self.options;
        within(
            "version",
            u64::from(self.version),
            1,
            u64::from(SPEC_VERSION),
        )?;
        within(
            "bytes of name",
            self.name.len() as u64,
            1,
            NAME_BYTES_MAX as u64,
        )?;
        within(
            "bytes of output",
            self.output.len() as u64,
            1,
            URI_BYTES_MAX as u64,
        )?;
        let tasks = u64::from(self.reduces) + u64::from(self.input.splits);
        within("map and reduce tasks", tasks, 0, u64::from(TASKS_MAX))?;
        let attempts_max = u64::from(options.attempts_max);
        within("attempts_max", attempts_max, 1, u64::from(ATTEMPTS_MAX))?;
        let skipped_max = u64::from(options.skipped_max);
        within("skipped_max", skipped_max, 0, u64::from(SKIPPED_MAX))?;
        within(
            "slow_start_percent",
            u64::from(options.slow_start_percent),
            0,
            100,
        )?;
        within("locality_wait_ms", options.locality_wait_ms, 0, 3_600_000)?;
        self.code.check(self.reduces)
    }
}

impl JobCode {
    fn check(&self, reduces: u32) -> Result<(), SpecError> {
        let arguments_max = ARGUMENTS_MAX as u64;
        match self {
            Self::Builtin { name, arguments } => {
                within("bytes of a built-in job's name", name.len() as u64, 1, 64)?;
                within("arguments", arguments.len() as u64, 0, arguments_max)
            }
            Self::Binary {
                digest,
                target,
                arguments,
            } => {
                within("bytes of a digest", digest.len() as u64, 1, 200)?;
                within("bytes of a target", target.len() as u64, 1, 100)?;
                within("arguments", arguments.len() as u64, 0, arguments_max)
            }
            Self::Streaming {
                map,
                combine,
                reduce,
                environment,
            } => {
                within("words of the map", map.len() as u64, 1, arguments_max)?;
                within(
                    "words of the combiner",
                    combine.len() as u64,
                    0,
                    arguments_max,
                )?;
                let least = u64::from(reduces > 0);
                within(
                    "words of the reduce",
                    reduce.len() as u64,
                    least,
                    arguments_max,
                )?;
                within("environment", environment.len() as u64, 0, arguments_max)
            }
        }
    }
}

fn within(field: &'static str, found: u64, low: u64, high: u64) -> Result<(), SpecError> {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(SpecError::Field {
        field,
        found,
        expected: format!("{low} to {high}"),
    })
}

/// SHA-256 over values that follow each other, each with its length.
pub fn digest<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for value in values {
        hash.update((value.len() as u64).to_le_bytes());
        hash.update(value);
    }
    hash.finalize().into()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
