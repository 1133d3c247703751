//! What the jobs of the simulation compute: hashes of their inputs, so that a result that lacks a
//! map, has one twice, or mixes two runs is another number.

use super::plan::JobPlan;
use crate::names::{AttemptId, TaskId, mix};
use crate::record::BUILTIN_COUNT;

/// Position of the record on which the code crashes.
pub(super) const BAD_POSITION: u64 = 3;

/// What an attempt put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Result {
    pub(super) content: u64,
    pub(super) builtin: [u64; BUILTIN_COUNT],
    /// The counter of the job's code.
    pub(super) words: u64,
}

/// On what a map's content depends beside its input: two values for jobs that are not
/// deterministic.
pub(super) fn salt(job: &JobPlan, attempt: AttemptId) -> u64 {
    u64::from(job.random) * (mix(attempt.epoch.0, attempt.counter) % 2)
}

/// Records that a map reads.
fn records(map: u32) -> u64 {
    10 + u64::from(map)
}

pub(super) fn map(index: u64, job: &JobPlan, map: u32, salt: u64) -> Result {
    let skipped = u64::from(job.bad_record == Some(map));
    let content = mix(mix(index, u64::from(map)), salt * 2 + skipped);
    let mut builtin = [0; BUILTIN_COUNT];
    builtin[0] = records(map) - skipped;
    builtin[6] = skipped;
    let words = u64::from(map) + 1;
    Result {
        content,
        builtin,
        words,
    }
}

/// The part of a map's content that is for this reduce.
pub(super) fn part(content: u64, reduce: u32) -> u64 {
    mix(content, u64::from(reduce))
}

/// Of the parts in the order of the maps.
pub(super) fn reduce(parts: impl IntoIterator<Item = u64>) -> Result {
    let mut builtin = [0; BUILTIN_COUNT];
    let content = parts.into_iter().fold(1, |sum, part| {
        builtin[0] += 1;
        mix(sum, part)
    });
    Result {
        content,
        builtin,
        words: 0,
    }
}

/// The sequential definition: what the output of a task of the last phase is, given the salt of
/// each map.
pub(super) fn expected(index: u64, job: &JobPlan, salts: &[u64], task: TaskId) -> Result {
    if job.reduces == 0 {
        let salt = salts.get(task.index as usize).copied().unwrap_or(0);
        return map(index, job, task.index, salt);
    }
    let maps = (0..job.maps).zip(salts);
    reduce(maps.map(|(m, salt)| part(map(index, job, m, *salt).content, task.index)))
}
