//! Lines in the order of their octets. Partitions are ranges by a sample, so that the output files,
//! one after the other, are in order too.

use mapreduce::{AnyJob, Bytes, Emit, Identity, Job, Lines, Mapper, Result, U64, Unit};

struct Line;

impl Mapper for Line {
    type InKey = U64;
    type InValue = Bytes;
    type Key = Bytes;
    type Value = Unit;

    fn map(&mut self, _at: u64, line: &[u8], out: &mut Emit<'_, Bytes, Unit>) -> Result<()> {
        out.emit(line, ())
    }
}

/// The job.
pub(crate) fn job() -> AnyJob {
    Job::new("sort", Lines, || Line, Identity::default)
        .sorted()
        .about("lines in order, over all output files")
        .into()
}
