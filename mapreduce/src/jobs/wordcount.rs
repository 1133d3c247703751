//! How often each word occurs. A word is what stands between white space (of ASCII).

use mapreduce::{AnyJob, Bytes, Emit, Job, Lines, Mapper, Result, Sum, U64};

struct Words;

impl Mapper for Words {
    type InKey = U64;
    type InValue = Bytes;
    type Key = Bytes;
    type Value = U64;

    fn map(&mut self, _at: u64, line: &[u8], out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
        let words = line.split(u8::is_ascii_whitespace);
        for word in words.filter(|word| !word.is_empty()) {
            out.emit(word, 1)?;
        }
        Ok(())
    }
}

/// The job.
pub(crate) fn job() -> AnyJob {
    Job::new("wordcount", Lines, || Words, Sum::<Bytes>::default)
        .combine(Sum::<Bytes>::default)
        .about("how often each word occurs")
        .into()
}
