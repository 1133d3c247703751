//! Records on which a job's code crashes: which one is at hand is on disk before the code has it,
//! so that it is known whatever becomes of the process; and those that are known are left out, and
//! listed.

use fs_err as fs;
use serde::Serialize;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Octets of a record that a list shows.
const SHOWN: usize = 256;

/// A record that was left out.
#[derive(Serialize)]
struct Skipped<'a> {
    input: &'a str,
    offset: u64,
    record: u64,
    begins: String,
}

/// What a task does about records on which code may crash.
#[derive(Debug, Default)]
pub(crate) struct Care {
    /// Some care is to be taken.
    pub(crate) is_needed: bool,
    /// Where runs of records begin that are left out, and how long they are.
    skip: Vec<(u64, u64)>,
    mark: Option<fs::File>,
    list: Option<fs::File>,
}

impl Care {
    /// Leaves out these; marks the record at hand in a file, and lists in another what it leaves
    /// out.
    pub(crate) fn new(skip: Vec<(u64, u64)>, mark: &Path, list: &Path) -> std::io::Result<Self> {
        Ok(Self {
            is_needed: true,
            mark: Some(fs::File::create(mark)?),
            list: match skip.as_slice() {
                [] => None,
                _ => Some(fs::File::create(list)?),
            },
            skip,
        })
    }

    /// No record is at hand any more: what comes now is about none of them.
    pub(crate) fn put_down(&self) -> std::io::Result<()> {
        match &self.mark {
            Some(mark) => mark.set_len(0),
            None => Ok(()),
        }
    }

    /// Whether to leave out a record, which is at hand now.
    pub(crate) fn leaves_out(
        &mut self,
        number: u64,
        input: &str,
        offset: u64,
        record: &[u8],
    ) -> std::io::Result<bool> {
        let mut runs = self.skip.iter();
        if !runs.any(|(first, count)| number >= *first && number - first < *count) {
            if let Some(mark) = &self.mark {
                mark.file().write_all_at(&number.to_le_bytes(), 0)?;
            }
            return Ok(false);
        }
        if let Some(list) = &mut self.list {
            let begins = &record[..record.len().min(SHOWN)];
            let mut line = serde_json::to_vec(&Skipped {
                input,
                offset,
                record: number,
                begins: begins.escape_ascii().to_string(),
            })?;
            line.push(b'\n');
            list.write_all(&line)?;
        }
        Ok(true)
    }
}

/// The record that a task was at.
pub(crate) fn marked(mark: &Path) -> Option<u64> {
    let octets = fs::read(mark).ok()?;
    Some(u64::from_le_bytes(octets.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_hand_is_marked_and_what_is_left_out_is_listed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (mark, list) = (directory.path().join("mark"), directory.path().join("list"));
        let mut care = Care::new(vec![(1, 2), (9, 1)], &mark, &list).expect("files");
        let left_out: Vec<u64> = (0..10)
            .filter(|number| care.leaves_out(*number, "in", 7, b"a\xff").expect("disk"))
            .collect();
        assert_eq!(left_out, [1, 2, 9]);
        assert_eq!(marked(&mark), Some(8));
        care.put_down().expect("disk");
        assert_eq!(marked(&mark), None);
        let listed = fs::read_to_string(list).expect("a list");
        assert_eq!(listed.lines().count(), 3);
        assert_eq!(
            listed.lines().next(),
            Some(r#"{"input":"in","offset":7,"record":1,"begins":"a\\xff"}"#)
        );
    }
}
