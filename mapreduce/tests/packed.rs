//! Files that begin as packed ones do and are not packed: their first octets are data.

use std::fs;
use std::path::Path;

use mapreduce::{
    AnyJob, Bytes, Emit, Fixed, InputFormat as _, Job, Options, OutputFormat, Pairs, U64,
    WholeFiles, map_fn,
};
use tempfile::TempDir;

fn run(job: AnyJob, directory: &Path, input: &str, output: &str) -> Vec<u8> {
    let input = directory.join(input).display().to_string();
    let output = directory.join(output);
    let options = Options::new(vec![input], &output);
    mapreduce::run(&job, &[], &options).expect("it runs");
    fs::read(output.join("part-00000")).expect("a file")
}

/// Octets that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let octets = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    });
    octets.take(length).collect()
}

#[test]
fn pairs_whose_first_length_is_as_gzip_begins_are_read() {
    let whole = |_: &str, file: &[u8], out: &mut Emit<'_, Bytes, Bytes>| out.emit(b"k", file);
    let length = |key: &[u8], value: &[u8], out: &mut Emit<'_, Bytes, U64>| {
        out.emit(key, value.len() as u64)
    };
    assert!(!Pairs::<Bytes, Bytes>::default().unpacks());
    // The stored length of the first block: of its record, one octet of key, and four of lengths.
    for stored in [0x8B1F_u32, 0x08_8B1F] {
        let directory = TempDir::new().expect("a directory");
        let directory = directory.path();
        let value = noise(stored as usize - 5);
        fs::write(directory.join("in"), &value).expect("a file");
        let job = Job::map_only("pairs", WholeFiles, move || map_fn(WholeFiles, whole));
        let pairs = run(
            job.output(OutputFormat::Pairs).into(),
            directory,
            "in",
            "pairs",
        );
        assert_eq!(pairs[..4], stored.to_le_bytes());
        let format = Pairs::<Bytes, Bytes>::default;
        let job = Job::map_only("lengths", format(), move || map_fn(format(), length));
        let lengths = run(job.into(), directory, "pairs", "lengths");
        assert_eq!(lengths, format!("k\t{}\n", value.len()).into_bytes());
    }
}

#[test]
fn records_that_begin_as_gzip_does_are_read() {
    let directory = TempDir::new().expect("a directory");
    let records = b"\x1F\x8B\x07\0abcd";
    fs::write(directory.path().join("in"), records).expect("a file");
    let give = |at: u64, _: &[u8], out: &mut Emit<'_, U64, U64>| out.emit(at, 1);
    let job = Job::map_only("records", Fixed(4), move || map_fn(Fixed(4), give));
    let found = run(job.into(), directory.path(), "in", "out");
    assert_eq!(found, b"0\t1\n4\t1\n");
}
