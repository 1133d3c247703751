//! Runs on a local disk, and merging more of them than can be open at once.

use fs_err as fs;
use mapreduce_data::RunError;
use mapreduce_data::block::{BLOCK, Compression};
use mapreduce_data::merge::{Cursor, Merge};
use mapreduce_data::run::{Region, RegionReader, RunWriter};
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Memory for each run of a merge: what is stored, what it becomes, and what reading takes.
const MEMORY_PER_RUN: usize = 3 * BLOCK;

/// How many runs are merged at once within a budget.
pub(crate) fn fan_in(budget: usize) -> usize {
    (budget / MEMORY_PER_RUN).clamp(2, 512)
}

/// A file of which several places are read at once.
#[derive(Debug, Clone)]
pub(crate) struct FileAt {
    file: Arc<File>,
    at: u64,
}

impl FileAt {
    pub(crate) fn new(file: Arc<File>, at: u64) -> Self {
        Self { file, at }
    }
}

impl Read for FileAt {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(into, self.at)?;
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

/// A reader of a region of a file.
pub(crate) type Reader = RegionReader<FileAt>;

/// Opens a region.
pub(crate) fn open(path: &Path, region: &Region) -> io::Result<Reader> {
    let file = Arc::new(fs::File::open(path)?.into_parts().0);
    Ok(RegionReader::new(
        FileAt::new(file, region.at),
        region.length,
    ))
}

/// Merges one partition of runs; of equal keys, those of the first run come first.
pub(crate) fn merge(runs: &[Run], partition: usize) -> io::Result<Merge<Reader>> {
    let full = runs.iter().filter(|run| run.regions[partition].length > 0);
    let readers = full.map(|run| open(&run.path, &run.regions[partition]));
    Ok(Merge::new(readers.collect::<io::Result<_>>()?))
}

/// Where a task writes its runs.
#[derive(Debug)]
pub(crate) struct Spills {
    directory: PathBuf,
    partitions: u32,
    compression: Compression,
    runs: Vec<Run>,
    written: u32,
    /// Octets written to disk that were read again.
    pub(crate) octets: u64,
}

impl Spills {
    pub(crate) fn new(directory: PathBuf, partitions: u32, compression: Compression) -> Self {
        Self {
            directory,
            partitions,
            compression,
            runs: Vec::new(),
            written: 0,
            octets: 0,
        }
    }

    fn create(
        &mut self,
        compression: Compression,
        write: impl FnOnce(&mut RunWriter<BufWriter<fs::File>>) -> Result<(), RunError>,
    ) -> Result<Run, RunError> {
        let path = self.directory.join(format!("run-{}", self.written));
        self.written += 1;
        let file = BufWriter::new(fs::File::create_new(&path)?);
        let mut writer = RunWriter::new(file, self.partitions, compression);
        write(&mut writer)?;
        let (file, regions) = writer.finish()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Run { path, regions })
    }

    /// Writes a run that will be merged with others.
    pub(crate) fn spill(
        &mut self,
        write: impl FnOnce(&mut RunWriter<BufWriter<fs::File>>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        // What stays on this disk is not compressed.
        let run = self.create(Compression::None, write)?;
        self.octets += run.regions.iter().map(|region| region.length).sum::<u64>();
        self.runs.push(run);
        Ok(())
    }

    /// Writes what is left and merges all to one run: with what `write` writes when there is
    /// nothing else, by `copy` from a merged partition to the writer otherwise.
    pub(crate) fn finish(
        mut self,
        is_empty: bool,
        fan_in: usize,
        write: impl FnOnce(&mut RunWriter<BufWriter<fs::File>>) -> Result<(), RunError>,
        mut copy: impl FnMut(
            u32,
            Merge<Reader>,
            &mut RunWriter<BufWriter<fs::File>>,
        ) -> Result<(), RunError>,
    ) -> Result<(Run, u64), RunError> {
        if self.runs.is_empty() {
            let compression = self.compression;
            let run = self.create(compression, write)?;
            return Ok((run, 0));
        }
        if !is_empty {
            self.spill(write)?;
        }
        loop {
            let is_last = self.runs.len() <= fan_in;
            let count = self.runs.len().min(fan_in);
            let compression = if is_last {
                self.compression
            } else {
                Compression::None
            };
            // The first ones, whose place the merged one takes: the order of values stays.
            let first: Vec<Run> = self.runs.drain(..count).collect();
            let partitions = self.partitions;
            let merged = self.create(compression, |writer| {
                for partition in 0..partitions {
                    let merged = merge(&first, partition as usize)?;
                    copy(partition, merged, writer)?;
                }
                Ok(())
            })?;
            for run in first {
                fs::remove_file(run.path)?;
            }
            if is_last {
                return Ok((merged, self.octets));
            }
            self.octets += merged
                .regions
                .iter()
                .map(|region| region.length)
                .sum::<u64>();
            self.runs.insert(0, merged);
        }
    }
}

/// Copies all records of a partition.
pub(crate) fn copy(
    partition: u32,
    mut from: impl Cursor,
    to: &mut RunWriter<BufWriter<fs::File>>,
) -> Result<(), RunError> {
    while from.advance()? {
        to.push(partition, from.key(), from.value())?;
    }
    Ok(())
}

/// One partition of any number of runs, merged with as many passes over the disk as it takes; the
/// octets that were written for it.
pub(crate) fn merge_all(
    mut sources: Vec<(PathBuf, Region)>,
    directory: &Path,
    fan_in: usize,
) -> Result<(Merge<Reader>, u64), RunError> {
    sources.retain(|(_, region)| region.length > 0);
    let mut written = 0;
    let mut pass = 0;
    while sources.len() > fan_in {
        let mut next = Vec::new();
        for (at, group) in sources.chunks(fan_in).enumerate() {
            let path = directory.join(format!("pass-{pass}-{at}"));
            let readers = group.iter().map(|(path, region)| open(path, region));
            let merged = Merge::new(readers.collect::<io::Result<_>>()?);
            let file = BufWriter::new(fs::File::create_new(&path)?);
            let mut writer = RunWriter::new(file, 1, Compression::None);
            copy(0, merged, &mut writer)?;
            let (file, regions) = writer.finish()?;
            file.into_inner().map_err(io::IntoInnerError::into_error)?;
            written += regions[0].length;
            next.push((path, regions[0]));
        }
        if pass > 0 {
            for (path, _) in &sources {
                fs::remove_file(path)?;
            }
        }
        pass += 1;
        sources = next;
    }
    let readers = sources.iter().map(|(path, region)| open(path, region));
    Ok((Merge::new(readers.collect::<io::Result<_>>()?), written))
}
