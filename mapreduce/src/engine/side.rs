//! Side files: what a task writes beside its records, such as those that it refused.
//!
//! They come to be where the task's main output does, and go with it: an attempt that loses, or a
//! job that fails, leaves none. Their names begin with `_`, so that who reads the output as data
//! passes them over, and have the phase and the number of the task.

use crate::Result;
use crate::engine::output::{Summed, Target};
use std::collections::BTreeMap;
use std::io::{BufWriter, IntoInnerError, Sink, Write};

/// Side files of a task: each has buffers, and is a file in the output.
const FILES_MAX: usize = 15;
/// Octets of a name.
const NAME_MAX: usize = 64;

/// Opens side files by their names.
pub(crate) trait Sides {
    fn side_file(&mut self, name: &str) -> Result<&mut dyn Write>;
}

/// Those of a task.
pub(crate) struct SideFiles<'a> {
    target: &'a Target<'a>,
    /// What comes after a name: `m-00007`, or `r-00007`.
    suffix: String,
    files: BTreeMap<String, BufWriter<Summed>>,
}

/// A side file that is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SideFile {
    /// In the output.
    pub(crate) name: String,
    pub(crate) octets: u64,
    /// XXH3 of all octets.
    pub(crate) checksum: u64,
}

impl<'a> SideFiles<'a> {
    /// Of the map or the reduce task of a number.
    pub(crate) fn new(target: &'a Target<'a>, is_map: bool, task: u32) -> Self {
        let phase = if is_map { 'm' } else { 'r' };
        Self {
            target,
            suffix: format!("{phase}-{task:05}"),
            files: BTreeMap::new(),
        }
    }

    /// Ends them, durably.
    pub(crate) fn finish(self) -> Result<Vec<SideFile>> {
        let suffix = self.suffix;
        let finished = self.files.into_iter().map(|(name, file)| {
            let file = file.into_inner().map_err(IntoInnerError::into_error)?;
            let (octets, checksum) = file.finish()?;
            Ok(SideFile {
                name: file_name(&name, &suffix),
                octets,
                checksum,
            })
        });
        finished.collect()
    }
}

impl Sides for SideFiles<'_> {
    fn side_file(&mut self, name: &str) -> Result<&mut dyn Write> {
        if !self.files.contains_key(name) {
            check(name)?;
            if self.files.len() == FILES_MAX {
                let what = format!("side file {name}: a task has at most {FILES_MAX} of them");
                return Err(what.into());
            }
            let part = self.target.to.create(&file_name(name, &self.suffix))?;
            let file = BufWriter::new(Summed::new(part));
            self.files.insert(name.to_owned(), file);
        }
        let file = self.files.get_mut(name);
        Ok(file.ok_or("a side file that was opened is there")?)
    }
}

fn file_name(name: &str, suffix: &str) -> String {
    format!("_{name}-{suffix}")
}

fn check(name: &str) -> Result<()> {
    let is_part = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    let is_begin = |octet: &u8| octet.is_ascii_alphanumeric();
    if name.len() <= NAME_MAX
        && name.as_bytes().first().is_some_and(is_begin)
        && name.bytes().all(is_part)
    {
        return Ok(());
    }
    Err(format!(
        "side file {name:?}: a name has 1 to {NAME_MAX} letters, digits, -, _ and ., and begins \
         with a letter or a digit"
    )
    .into())
}

/// For a combiner, which is run any number of times.
pub(crate) struct NotHere;

impl Sides for NotHere {
    fn side_file(&mut self, name: &str) -> Result<&mut dyn Write> {
        Err(format!("side file {name}: a combiner has none").into())
    }
}

/// For a function whose output nobody wants.
#[derive(Default)]
pub(crate) struct Nowhere(Sink);

impl Sides for Nowhere {
    fn side_file(&mut self, name: &str) -> Result<&mut dyn Write> {
        check(name)?;
        Ok(&mut self.0)
    }
}
