//! Lines that match a regular expression, with the file and the octet at which each begins. There
//! is no reduce: what is found in a split is a file of the output.

use mapreduce::{AnyJob, Bytes, Emit, Job, Lines, Mapper, Result, Text, U64};
use regex::bytes::Regex;

struct Matching {
    pattern: Regex,
}

impl Mapper for Matching {
    type InKey = U64;
    type InValue = Bytes;
    type Key = Text;
    type Value = Bytes;

    fn map(&mut self, at: u64, line: &[u8], out: &mut Emit<'_, Text, Bytes>) -> Result<()> {
        if self.pattern.is_match(line) {
            let place = format!("{}:{at}", out.context().input());
            out.emit(&place, line)?;
        }
        Ok(())
    }
}

/// The job.
pub(crate) fn job() -> AnyJob {
    let about = "lines that match a regular expression, with where they begin";
    AnyJob::with_arguments("grep", "PATTERN", about, |arguments| {
        let [pattern] = arguments else {
            return Err("one pattern is wanted".into());
        };
        let pattern = Regex::new(pattern)?;
        let mapper = move || Matching {
            pattern: pattern.clone(),
        };
        Ok(Job::map_only("grep", Lines, mapper))
    })
}
