//! Runs on a local disk, and merging more of them than can be open at once.

use crate::engine::progress::{Counted, Progress};
use fs_err as fs;
use mapreduce_data::RunError;
use mapreduce_data::block::{BLOCK, Compression};
use mapreduce_data::merge::{Cursor, Merge};
use mapreduce_data::run::{Region, RegionReader, RunWriter};
use rustix::process::{Resource, getrlimit};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for a block, what is stored and what it becomes, when blocks have their usual size.
const BLOCK_MEMORY: u64 = 2 * BLOCK as u64;
/// Files of a merge, at most.
const FILES_MAX: u64 = 512;
/// Files that a process has open beside those of its tasks.
const FILES_OF_PROCESS: u64 = 128;
/// Files that a task has open beside those that it merges: what it reads, what it writes, and the
/// pipes of a program.
const FILES_OF_TASK: u64 = 8;

/// What writes a run to a file.
type Writer = RunWriter<BufWriter<fs::File>>;

/// What a merge may take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Octets of memory.
    memory: u64,
    /// Files that are open.
    files: u64,
}

impl Bounds {
    /// Of a task with so many octets of memory, in a process that runs so many tasks at once.
    pub(crate) fn new(memory: usize, tasks: usize) -> Self {
        Self::of(memory, tasks, getrlimit(Resource::Nofile).current)
    }

    fn of(memory: usize, tasks: usize, open_max: Option<u64>) -> Self {
        let open_max = open_max.unwrap_or(u64::MAX);
        let of_tasks = open_max.saturating_sub(FILES_OF_PROCESS) / (tasks as u64).max(1);
        Self {
            memory: memory as u64,
            files: of_tasks.saturating_sub(FILES_OF_TASK).min(FILES_MAX),
        }
    }

    /// The same with half of the memory.
    pub(crate) fn half(self) -> Self {
        let memory = self.memory / 2;
        Self { memory, ..self }
    }

    /// Whether so many runs may be read at once, which take so many octets of memory. Two always
    /// may, or they could never be merged.
    fn allow(self, runs: usize, memory: u64) -> bool {
        runs <= 2 || (runs as u64 <= self.files && memory <= self.memory)
    }
}

/// Octets of memory for reading a run whose longest block takes so many: buffers double as they
/// grow, so that they are by half too large on average.
fn memory(longest: u64) -> u64 {
    longest.max(BLOCK_MEMORY).saturating_mul(3) / 2
}

/// A file of which several places are read at once.
#[derive(Debug)]
pub(crate) struct FileAt {
    file: File,
    at: u64,
    progress: Arc<Progress>,
}

impl Read for FileAt {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = || self.file.read_at(into, self.at);
        let read = self.progress.in_engine(read)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A run on disk.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    pub(crate) regions: Vec<Region>,
}

impl Run {
    /// Octets of memory for reading any of its regions.
    fn memory(&self) -> u64 {
        let longest = self.regions.iter().map(|region| region.longest).max();
        memory(longest.unwrap_or_default())
    }

    fn octets(&self) -> u64 {
        self.regions.iter().map(|region| region.length).sum()
    }
}

/// A reader of a region of a file.
type Reader = RegionReader<FileAt>;
/// The records of some runs in order, counted.
pub(crate) type Merged = Counted<Merge<Reader>>;

/// Merges regions of files; of equal keys, those of the first one come first.
fn merge<'a>(
    regions: impl Iterator<Item = (&'a Path, &'a Region)>,
    progress: &Arc<Progress>,
) -> io::Result<Merged> {
    let full = regions.filter(|(_, region)| region.length > 0);
    let readers = full.map(|(path, region)| {
        let from = FileAt {
            file: fs::File::open(path)?.into_parts().0,
            at: region.at,
            progress: Arc::clone(progress),
        };
        Ok(RegionReader::new(from, region.length))
    });
    let merged = Merge::new(readers.collect::<io::Result<_>>()?);
    Ok(Counted::new(merged, progress))
}

/// How many of the first runs are merged into one: as many as may be read at once, and no more than
/// it takes to have all that are left then read at once.
fn first(runs: &VecDeque<(u64, impl Sized)>, bounds: Bounds, (all, total): (usize, u64)) -> usize {
    let (mut count, mut sum, mut longest) = (0, 0, 0);
    for (memory, _) in runs {
        let is_enough = count > 1 && bounds.allow(all - count + 1, total - sum + longest);
        if is_enough || !bounds.allow(count + 1, sum + memory) {
            break;
        }
        count += 1;
        sum += memory;
        longest = longest.max(*memory);
    }
    count
}

/// Merges runs with their neighbours, so that values stay in order, in as many passes as it takes
/// until all that are left may be read at once. `memory` is what reading one takes.
fn passes<T>(
    runs: Vec<T>,
    bounds: Bounds,
    memory: impl Fn(&T) -> u64,
    mut merge: impl FnMut(Vec<T>) -> Result<T, RunError>,
) -> Result<Vec<T>, RunError> {
    let with_memory = |run: T| (memory(&run), run);
    let mut runs: VecDeque<(u64, T)> = runs.into_iter().map(with_memory).collect();
    let (mut all, mut total) = (runs.len(), runs.iter().map(|(memory, _)| memory).sum());
    while !bounds.allow(all, total) {
        let mut next = VecDeque::new();
        while !runs.is_empty() && !bounds.allow(all, total) {
            let count = first(&runs, bounds, (all, total)).max(1);
            if count == 1 {
                // The last one has no neighbour in this pass.
                next.extend(runs.pop_front());
                continue;
            }
            total -= runs.range(..count).map(|(memory, _)| memory).sum::<u64>();
            all -= count - 1;
            let merged = merge(runs.drain(..count).map(|(_, run)| run).collect())?;
            total += memory(&merged);
            next.push_back((memory(&merged), merged));
        }
        next.append(&mut runs);
        runs = next;
    }
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// Where a task writes its runs.
#[derive(Debug)]
pub(crate) struct Spills {
    directory: PathBuf,
    partitions: u32,
    compression: Compression,
    bounds: Bounds,
    progress: Arc<Progress>,
    runs: Vec<Run>,
    written: u32,
    /// Octets written to disk that were read again.
    pub(crate) octets: u64,
}

impl Spills {
    /// In a directory that exists and is empty; what is left at the end is compressed so.
    pub(crate) fn new(
        directory: PathBuf,
        (partitions, compression): (u32, Compression),
        bounds: Bounds,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            directory,
            partitions,
            compression,
            bounds,
            progress,
            runs: Vec::new(),
            written: 0,
            octets: 0,
        }
    }

    /// With half of the memory: somebody else has the other one.
    pub(crate) fn halved(self) -> Self {
        let bounds = self.bounds.half();
        Self { bounds, ..self }
    }

    fn create(
        &mut self,
        compression: Compression,
        write: impl FnOnce(&mut Writer) -> Result<(), RunError>,
    ) -> Result<Run, RunError> {
        let path = self.directory.join(format!("run-{}", self.written));
        self.written += 1;
        self.progress.in_engine(|| {
            let file = BufWriter::new(fs::File::create_new(&path)?);
            let mut writer = RunWriter::new(file, self.partitions, compression);
            write(&mut writer)?;
            let (file, regions) = writer.finish()?;
            file.into_inner().map_err(io::IntoInnerError::into_error)?;
            Ok(Run { path, regions })
        })
    }

    /// Writes a run that will be merged with others.
    pub(crate) fn spill(
        &mut self,
        write: impl FnOnce(&mut Writer) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        // What stays on this disk is not compressed.
        let run = self.create(Compression::None, write)?;
        self.octets += run.octets();
        self.runs.push(run);
        Ok(())
    }

    /// Writes what is left and merges all to one run: with what `write` writes when there is
    /// nothing else, by `copy` from a merged partition to the writer otherwise.
    pub(crate) fn finish(
        mut self,
        is_empty: bool,
        write: impl FnOnce(&mut Writer) -> Result<(), RunError>,
        mut copy: impl FnMut(u32, Merged, &mut Writer) -> Result<(), RunError>,
    ) -> Result<(Run, u64), RunError> {
        let compression = self.compression;
        if self.runs.is_empty() {
            let run = self.create(compression, write)?;
            return Ok((run, 0));
        }
        if !is_empty {
            self.spill(write)?;
        }
        let runs = std::mem::take(&mut self.runs);
        let left = passes(runs, self.bounds, Run::memory, |runs| {
            let merged = self.merge(&runs, Compression::None, &mut copy)?;
            self.octets += merged.octets();
            Ok(merged)
        })?;
        let merged = self.merge(&left, compression, &mut copy)?;
        Ok((merged, self.octets))
    }

    /// Merges some runs to one, whose place it takes.
    fn merge(
        &mut self,
        runs: &[Run],
        compression: Compression,
        mut copy: impl FnMut(u32, Merged, &mut Writer) -> Result<(), RunError>,
    ) -> Result<Run, RunError> {
        let (partitions, progress) = (self.partitions, Arc::clone(&self.progress));
        let merged = self.create(compression, |writer| {
            for partition in 0..partitions {
                let at = partition as usize;
                let regions = runs
                    .iter()
                    .map(|run| (run.path.as_path(), &run.regions[at]));
                copy(partition, merge(regions, &progress)?, writer)?;
            }
            Ok(())
        })?;
        for run in runs {
            fs::remove_file(&run.path)?;
        }
        Ok(merged)
    }
}

/// Copies all records of a partition.
pub(crate) fn copy(partition: u32, mut from: impl Cursor, to: &mut Writer) -> Result<(), RunError> {
    while from.advance()? {
        to.push(partition, from.key(), from.value())?;
    }
    Ok(())
}

/// A region that is merged with others.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    region: Region,
    /// It was written on the way, and goes when it is read.
    is_own: bool,
}

fn merge_parts(parts: &[Part], progress: &Arc<Progress>) -> io::Result<Merged> {
    let regions = parts.iter().map(|part| (part.path.as_path(), &part.region));
    merge(regions, progress)
}

/// One partition of any number of runs, merged with as many passes over the disk as it takes; the
/// octets that were written for it.
pub(crate) fn merge_all(
    sources: Vec<(PathBuf, Region)>,
    directory: &Path,
    bounds: Bounds,
    progress: &Arc<Progress>,
) -> Result<(Merged, u64), RunError> {
    let full = sources.into_iter().filter(|(_, region)| region.length > 0);
    let parts = full.map(|(path, region)| Part {
        path,
        region,
        is_own: false,
    });
    let (mut octets, mut written) = (0, 0);
    let of_part = |part: &Part| memory(part.region.longest);
    let left = passes(parts.collect(), bounds, of_part, |parts| {
        let path = directory.join(format!("pass-{written}"));
        written += 1;
        let file = BufWriter::new(fs::File::create_new(&path)?);
        let mut writer = RunWriter::new(file, 1, Compression::None);
        copy(0, merge_parts(&parts, progress)?, &mut writer)?;
        let (file, regions) = writer.finish()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        for part in parts.iter().filter(|part| part.is_own) {
            fs::remove_file(&part.path)?;
        }
        octets += regions[0].length;
        Ok(Part {
            path,
            region: regions[0],
            is_own: true,
        })
    })?;
    Ok((merge_parts(&left, progress)?, octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What takes no more than usual.
    fn usual(runs: u64) -> u64 {
        runs * memory(0)
    }

    #[test]
    fn merge_has_the_memory_and_the_files_that_it_may_have() {
        let bounds = Bounds::of(32 << 20, 2, Some(1024));
        assert_eq!(bounds.files, 440);
        assert!(bounds.allow(85, usual(85)));
        assert!(!bounds.allow(86, usual(86)));
        assert!(!bounds.allow(3, 33 << 20));
        assert!(bounds.half().allow(42, usual(42)));
        assert!(!bounds.half().allow(43, usual(43)));
        // Whatever else there is, two can be merged.
        assert!(Bounds::of(0, 1, Some(0)).allow(2, 200 << 20));
        assert_eq!(Bounds::of(1 << 30, 64, Some(1024)).files, 6);
        assert_eq!(Bounds::of(1 << 30, 1, None).files, FILES_MAX);
        assert_eq!(Bounds::of(1 << 30, 0, Some(200)).files, 64);
    }

    /// A run that stands for these, one after the other.
    type Stands = (std::ops::Range<usize>, u64);

    /// Merges runs that take so much memory; what is left, and how often one was written again.
    fn passed(runs: impl Iterator<Item = u64>, bounds: Bounds) -> (Vec<Stands>, usize) {
        let runs = runs.enumerate().map(|(at, memory)| (at..at + 1, memory));
        let mut written = 0;
        let merged = passes(
            runs.collect(),
            bounds,
            |run| run.1,
            |runs: Vec<Stands>| {
                let total = runs.iter().map(|run| run.1).sum();
                assert!(runs.len() > 1 && bounds.allow(runs.len(), total));
                let next = runs.iter().skip(1);
                assert!(runs.iter().zip(next).all(|(a, b)| a.0.end == b.0.start));
                let all = runs[0].0.start..runs[runs.len() - 1].0.end;
                written += all.len();
                let longest = runs.iter().map(|run| run.1).max();
                Ok((all, longest.unwrap_or_default()))
            },
        );
        let merged = merged.expect("nothing fails");
        let total = merged.iter().map(|run| run.1).sum();
        assert!(bounds.allow(merged.len(), total));
        (merged, written)
    }

    #[test]
    fn runs_are_merged_with_neighbours_and_seldom_again() {
        let bounds = Bounds {
            memory: usual(10),
            files: 512,
        };
        for (runs, most) in [
            (10, 0),
            (11, 2),
            (12, 3),
            (19, 10),
            (100, 100),
            (1_000, 2_000),
        ] {
            let (merged, written) = passed((0..runs).map(|_| usual(1)), bounds);
            assert!(written <= most, "{runs} runs: {written} written");
            let of: Vec<usize> = merged.into_iter().flat_map(|run| run.0).collect();
            assert!(of.iter().copied().eq(0..runs as usize), "{of:?}");
        }
        let few_files = Bounds {
            memory: u64::MAX / 2,
            files: 10,
        };
        let (_, written) = passed((0..1_000).map(|_| usual(1)), few_files);
        assert!(written <= 2_000, "{written} written");
        // Of what is long, two at once; what is not is merged with as many as ever.
        let (_, written) = passed((0..64).map(|_| usual(9)), bounds);
        assert!(written <= 64 * 5, "{written} written");
        let mixed = (0..100).map(|at| if at == 50 { usual(50) } else { usual(1) });
        let (_, written) = passed(mixed, bounds);
        assert!(written <= 400, "{written} written");
    }

    fn progress() -> Arc<Progress> {
        Arc::default()
    }

    /// So many spills of one record each with the same key, numbered, and of so many octets.
    fn spills(
        directory: &Path,
        bounds: Bounds,
        progress: &Arc<Progress>,
        (count, octets): (u32, usize),
    ) -> Spills {
        let (directory, partitions) = (directory.to_owned(), (1, Compression::None));
        let mut spills = Spills::new(directory, partitions, bounds, Arc::clone(progress));
        for number in 0..count {
            let mut value = number.to_be_bytes().to_vec();
            value.resize(octets.max(4), 0);
            let spilled = spills.spill(|run| run.push(0, b"key", &value));
            spilled.expect("a disk");
        }
        spills
    }

    fn numbers(mut merged: impl Cursor) -> Vec<u32> {
        let mut numbers = Vec::new();
        while merged.advance().expect("a disk") {
            let number = merged.value().first_chunk().expect("four octets");
            numbers.push(u32::from_be_bytes(*number));
        }
        numbers
    }

    #[test]
    fn values_stay_in_order_however_often_they_are_merged() {
        let directory = tempfile::tempdir().expect("a directory");
        let (bounds, progress) = (
            Bounds {
                memory: 0,
                files: 0,
            },
            progress(),
        );
        let spills = spills(directory.path(), bounds, &progress, (300, 4));
        let once = spills.octets;
        let (run, octets) = spills.finish(true, |_| Ok(()), copy).expect("a disk");
        assert_eq!(
            fs::read_dir(directory.path()).expect("it is there").count(),
            1
        );
        let regions = [(run.path.as_path(), &run.regions[0])];
        let merged = merge(regions.into_iter(), &progress).expect("a disk");
        assert!(numbers(merged).into_iter().eq(0..300));
        // 300 runs are nine passes of two at a time.
        assert!(octets < once * 10, "{octets} of {once} written");
        let passed = progress.passed.load(std::sync::atomic::Ordering::Relaxed);
        assert!(passed > 300 * 8, "{passed} records have passed");
    }

    #[test]
    fn reduce_merges_no_more_long_blocks_at_once_than_its_memory_takes() {
        let directory = tempfile::tempdir().expect("a directory");
        let progress = progress();
        // Six at a time, were it not for a block that is longer than most.
        for (octets, is_merged) in [(100, false), (600_000, true)] {
            let bounds = Bounds {
                memory: usual(6),
                files: 512,
            };
            let runs = directory.path().join(octets.to_string());
            let passes = runs.join("passes");
            fs::create_dir_all(&passes).expect("a directory");
            let spills = spills(&runs, bounds, &progress, (6, octets));
            let all = spills.runs.iter();
            let all = all.map(|run| (run.path.clone(), run.regions[0])).collect();
            let merged = merge_all(all, &passes, bounds, &progress);
            let (merged, written) = merged.expect("a disk");
            assert_eq!(written > 0, is_merged, "{octets}: {written} written");
            assert!(numbers(merged).into_iter().eq(0..6));
            assert!(
                spills.runs.iter().all(|run| run.path.exists()),
                "others have them"
            );
        }
    }

    #[test]
    fn merge_that_nobody_wants_ends() {
        let directory = tempfile::tempdir().expect("a directory");
        let (bounds, progress) = (
            Bounds {
                memory: 0,
                files: 0,
            },
            progress(),
        );
        let spills = spills(directory.path(), bounds, &progress, (300, 4));
        progress
            .ended
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let error = spills
            .finish(true, |_| Ok(()), copy)
            .expect_err("it has ended");
        assert!(matches!(error, RunError::Ended), "{error}");
        let passed = progress.passed.load(std::sync::atomic::Ordering::Relaxed);
        assert!(passed < 100, "{passed} records have passed");
    }
}
