//! `mapreduce`: the built-in jobs. Each is a file of `jobs/`, and an example of the library.

mod jobs;

use std::process::ExitCode;

fn main() -> ExitCode {
    mapreduce::main(jobs::all())
}
