//! Where a machine writes down its verdicts: a file for each role, replaced by a rename.
//!
//! Invariant: what was synced is there after a loss of power, or something that was written later.

use std::collections::{BTreeMap, VecDeque};

use cfgsvc_agent::role::core::Written;
use cfgsvc_core::placement::RoleName;

use crate::rng::Rng;

/// A verdict file.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// What it says; `None` before anything was said.
    pub what: Option<Written>,
    /// Last epoch that the host knows.
    pub known: i64,
}

#[derive(Debug, Default)]
struct File {
    synced: Record,
    /// Written behind it, oldest first, with numbers that ascend.
    newer: VecDeque<(u64, Record)>,
}

impl File {
    fn last(&self) -> &Record {
        self.newer.back().map_or(&self.synced, |(_, record)| record)
    }
}

/// All verdict files of a machine.
#[derive(Debug, Default)]
pub struct VerdictDisk {
    files: BTreeMap<RoleName, File>,
}

impl VerdictDisk {
    /// Replaces a file; a program that reads it finds this from now on.
    pub fn write(&mut self, role: &RoleName, number: u64, what: Written) {
        let file = self.files.entry(role.clone()).or_default();
        let known = match &what {
            Written::Serve { epoch, .. } => *epoch,
            Written::Not(standing) if matches!(standing.verdict, "standby" | "redirect") => {
                file.last().known.max(standing.epoch)
            }
            Written::Not(_) => file.last().known,
        };
        let what = Some(what);
        file.newer.push_back((number, Record { what, known }));
    }

    /// The file is on disk up to what was written with `number`.
    pub fn synced(&mut self, role: &RoleName, number: u64) {
        let file = self.files.entry(role.clone()).or_default();
        while let Some((_, record)) = file.newer.pop_front_if(|(at, _)| *at <= number) {
            file.synced = record;
        }
    }

    /// Whoever put data there has put its epoch there as well.
    pub fn knows(&mut self, role: &RoleName, epoch: i64) {
        let file = self.files.entry(role.clone()).or_default();
        let newer = file.newer.iter_mut().map(|(_, record)| record);
        for record in newer.chain([&mut file.synced]) {
            record.known = record.known.max(epoch);
        }
    }

    /// What a reader finds.
    pub fn read(&self, role: &RoleName) -> Record {
        let file = self.files.get(role);
        file.map_or_else(Record::default, |file| file.last().clone())
    }

    /// What is certain to be on disk.
    pub fn durable(&self, role: &RoleName) -> Record {
        let file = self.files.get(role);
        file.map_or_else(Record::default, |file| file.synced.clone())
    }

    /// Leaves what a loss of power leaves.
    pub fn power_lost(&mut self, rng: &mut Rng) {
        for file in self.files.values_mut() {
            let kept = rng.index(file.newer.len() + 1);
            if let Some((_, record)) = file.newer.drain(..).take(kept).next_back() {
                file.synced = record;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(epoch: i64) -> Written {
        let until = cfgsvc_clock::Moment::since_boot(std::time::Duration::ZERO);
        Written::Serve { epoch, until }
    }

    #[test]
    fn power_loss_leaves_what_was_synced_or_newer() {
        let role: RoleName = "web".parse().expect("a role");
        let mut left = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut disk = VerdictDisk::default();
            for number in 1..=4 {
                disk.write(&role, number, serve(number.cast_signed()));
            }
            assert_eq!(disk.read(&role).known, 4);
            disk.synced(&role, 2);
            assert_eq!(disk.durable(&role).known, 2);
            disk.power_lost(&mut Rng::new(seed));
            left.insert(disk.read(&role).known);
        }
        assert_eq!(left, [2, 3, 4].into());
    }
}
