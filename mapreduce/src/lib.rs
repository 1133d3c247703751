//! MapReduce: jobs as a few small functions, run on one machine or on many.
//!
//! A job is a [`Mapper`] and a [`Reducer`] with the types of their keys and values, put together by
//! [`Job`], and a `main` of one line. The binary runs it ([`main`]):
//!
//! ```no_run
//! use mapreduce::{Bytes, Emit, Job, Lines, Mapper, Ref, Reducer, Result, Sum, U64, Values};
//!
//! struct Words;
//!
//! impl Mapper for Words {
//!     type InKey = U64;
//!     type InValue = Bytes;
//!     type Key = Bytes;
//!     type Value = U64;
//!
//!     fn map(&mut self, _at: u64, line: &[u8], out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
//!         let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
//!         words.into_iter().try_for_each(|word| out.emit(word, 1))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     let job = Job::new("wordcount", Lines, || Words, Sum::<Bytes>::default);
//!     mapreduce::main(vec![job.combine(Sum::<Bytes>::default).into()])
//! }
//! ```
//!
//! Invariants
//! - functions that are deterministic give the same output, byte for byte, however many tasks,
//!   threads, workers and attempts there were;
//! - an output is there whole or not at all;
//! - memory is bounded for each task, however much data it has.

mod api;
mod chain;
mod cli;
mod cluster;
pub mod engine;
mod job;
mod store;
mod sums;

pub use api::{
    Emit, Identity, Mapper, PartitionBy, Reducer, Ref, Values, error, map_fn, reduce_fn,
};
pub use cli::main;
pub use engine::input::{Fixed, InputFormat, KeyValues, Lines, Pairs, RecordReader, WholeFiles};
pub use engine::local::{Options, OutputFile, Report};
pub use engine::output::{OutputFormat, RecordFormat};
pub use job::{AnyJob, Job};
pub use mapreduce_data::codec::{
    Bytes, Codec, CodecError, F64, Halves, I32, I64, Pair, Text, U32, U64, Unit,
};
pub use mapreduce_data::fold::Combine;
pub use sums::{Lists, Sum};

use std::sync::Arc;

/// Whatever went wrong in a function of a job.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// What functions of a job give back.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Runs a job on this machine, in this process, and gives what came of it.
pub fn run(job: &AnyJob, arguments: &[String], options: &Options) -> Result<Report> {
    let code = job.make(arguments)?;
    engine::local::run(
        &job.name,
        &*code,
        options,
        &Arc::default(),
        &engine::local::Nobody,
    )
}
