//! A job binary: how many lines have how many octets.
//!
//! ```text
//! cargo run -p mapreduce --example lengths -- run lengths --input README.md --output /tmp/lengths
//! ```

use mapreduce::{Emit, Job, Lines, Result, Sum, U64, map_fn};

fn lengths(_at: u64, line: &[u8], out: &mut Emit<'_, U64, U64>) -> Result<()> {
    out.emit(line.len() as u64, 1)
}

fn main() -> std::process::ExitCode {
    let job = Job::new(
        "lengths",
        Lines,
        || map_fn(Lines, lengths),
        Sum::<U64>::default,
    );
    mapreduce::main(vec![job.combine(Sum::<U64>::default).into()])
}
