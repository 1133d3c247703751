//! What MapReduce has in the group, all under [`PREFIX`]:
//!
//! ```text
//! /mapreduce/master                  who is the master: epoch, and where it is reached; the
//!                                    register against which every write of a master is checked
//! /mapreduce/workers/NAME            a worker, with its lease
//! /mapreduce/jobs/KEY/header         a job: whether it goes on. Its create revision is its number
//! /mapreduce/jobs/KEY/output         where its output goes, and whether it is there
//! /mapreduce/jobs/KEY/info           for people: its name, and when it was submitted
//! /mapreduce/jobs/KEY/spec           what it is
//! /mapreduce/jobs/KEY/splits/NNNNN   what its maps read
//! /mapreduce/jobs/KEY/ranges/NNNNN   where its partitions begin, of a job that sorts
//! /mapreduce/jobs/KEY/log/NNNNNNNN   who has won, batch by batch
//! /mapreduce/jobs/KEY/submitting     its submission is under way; with the lease of who submits
//! ```

use serde::{Deserialize, Serialize};

/// All of it.
pub(crate) const PREFIX: &str = "/mapreduce/";
/// The lock by which one master is chosen; its epoch is the master's.
pub(crate) const LOCK: &str = "mapreduce/master";
/// Who is the master.
pub(crate) const MASTER: &str = "/mapreduce/master";
/// Workers.
pub(crate) const WORKERS: &str = "/mapreduce/workers/";
/// Jobs.
pub(crate) const JOBS: &str = "/mapreduce/jobs/";

/// The master, in the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MasterEntry {
    pub(crate) epoch: u64,
    pub(crate) address: String,
    /// Where it shows people how jobs go, if it does: HOST:PORT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) http: Option<String>,
}

/// A worker, in the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerEntry {
    /// Where regions are fetched.
    pub(crate) address: String,
    pub(crate) slots: u32,
    pub(crate) host: String,
    pub(crate) zone: String,
    /// Paths and URLs below which what is read is on this host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) holds: Vec<String>,
}

impl WorkerEntry {
    /// Whether a file is on its host.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.holds.iter().any(|held| {
            let rest = file.strip_prefix(held.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// What people want to know of a job, and nothing is decided by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Info {
    /// Of its code.
    pub(crate) name: String,
    /// When it was submitted, ms since 1970 by the clock of who did.
    pub(crate) submitted_ms: u64,
    /// Octets of input.
    pub(crate) input_octets: u64,
}

/// A part of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Header,
    Output,
    Info,
    Spec,
    Splits(u32),
    Ranges(u32),
    Log(u64),
    /// Of a submission under way: without it the job does not come to be.
    Submitting,
}

/// The key of a part of a job.
pub(crate) fn key(job: &str, part: Part) -> String {
    match part {
        Part::Header => format!("{JOBS}{job}/header"),
        Part::Output => format!("{JOBS}{job}/output"),
        Part::Info => format!("{JOBS}{job}/info"),
        Part::Spec => format!("{JOBS}{job}/spec"),
        Part::Splits(chunk) => format!("{JOBS}{job}/splits/{chunk:05}"),
        Part::Ranges(chunk) => format!("{JOBS}{job}/ranges/{chunk:05}"),
        Part::Log(sequence) => format!("{JOBS}{job}/log/{sequence:08}"),
        Part::Submitting => format!("{JOBS}{job}/submitting"),
    }
}

/// The job, and the part of it, that a key is of.
pub(crate) fn parse(key: &str) -> Option<(&str, Part)> {
    let (job, part) = key.strip_prefix(JOBS)?.split_once('/')?;
    let part = match part.split_once('/') {
        None if part == "header" => Part::Header,
        None if part == "output" => Part::Output,
        None if part == "info" => Part::Info,
        None if part == "spec" => Part::Spec,
        None if part == "submitting" => Part::Submitting,
        Some(("splits", chunk)) => Part::Splits(chunk.parse().ok()?),
        Some(("ranges", chunk)) => Part::Ranges(chunk.parse().ok()?),
        Some(("log", sequence)) => Part::Log(sequence.parse().ok()?),
        _ => return None,
    };
    Some((job, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_has_what_is_below_what_it_holds() {
        let entry = WorkerEntry {
            address: String::new(),
            slots: 1,
            host: "a".to_owned(),
            zone: "z".to_owned(),
            holds: vec!["/data/a/".to_owned(), "s3://near".to_owned()],
        };
        for (file, expected) in [
            ("/data/a", true),
            ("/data/a/b/c", true),
            ("/data/ab", false),
            ("/data", false),
            ("s3://near/x", true),
            ("s3://nearby/x", false),
        ] {
            assert_eq!(entry.has(file), expected, "{file}");
        }
    }

    #[test]
    fn keys_are_of_what_they_were_made_of() {
        let parts = [
            Part::Header,
            Part::Output,
            Part::Info,
            Part::Spec,
            Part::Splits(7),
            Part::Ranges(0),
            Part::Log(123_456_789),
            Part::Submitting,
        ];
        for part in parts {
            assert_eq!(parse(&key("a1", part)), Some(("a1", part)));
        }
        for other in [
            "/mapreduce/master",
            "/mapreduce/jobs/a",
            "/mapreduce/jobs/a/log/x",
        ] {
            assert_eq!(parse(other), None);
        }
    }
}
