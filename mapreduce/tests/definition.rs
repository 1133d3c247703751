//! Whatever the input is, however it is split, partitioned, combined and spilled: the output is what
//! the definition of MapReduce says, which is a few lines here.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::Path;

use mapreduce::{
    AnyJob, Bytes, Codec as _, Emit, Fixed, Identity, Job, Lines, Mapper, Options, Reducer, Ref,
    Report, Result, Sum, U32, U64, Values,
};
use proptest::prelude::*;
use tempfile::TempDir;

/// Words of a line, each with where the line begins.
struct Words;

impl Mapper for Words {
    type InKey = U64;
    type InValue = Bytes;
    type Key = Bytes;
    type Value = U64;

    fn map(&mut self, at: u64, line: &[u8], out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
        for word in line.split(|octet| *octet == b' ') {
            out.emit(word, at)?;
        }
        Ok(())
    }
}

/// All values of a word in the order in which they come, as a hash: nothing may be lost, doubled or
/// put out of order.
struct Digest;

impl Reducer for Digest {
    type Key = Bytes;
    type Value = U64;
    type OutKey = Bytes;
    type OutValue = U64;

    fn reduce(
        &mut self,
        key: &[u8],
        values: &mut Values<'_, U64>,
        out: &mut Emit<'_, Bytes, U64>,
    ) -> Result<()> {
        let mut digest = 0_u64;
        while let Some(value) = values.next()? {
            digest = next_digest(digest, value);
        }
        out.emit(key, digest)
    }
}

/// Sums, which are emitted at the end, the last key first.
#[derive(Default)]
struct Late(BTreeMap<Vec<u8>, u64>);

impl Reducer for Late {
    type Key = Bytes;
    type Value = U64;
    type OutKey = Bytes;
    type OutValue = U64;

    fn reduce(
        &mut self,
        key: &[u8],
        values: &mut Values<'_, U64>,
        _out: &mut Emit<'_, Bytes, U64>,
    ) -> Result<()> {
        let sum = self.0.entry(key.to_vec()).or_default();
        while let Some(value) = values.next()? {
            *sum += value;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Emit<'_, Bytes, U64>) -> Result<()> {
        let mut sums = self.0.iter().rev();
        sums.try_for_each(|(key, sum)| out.emit(key, *sum))
    }
}

fn next_digest(digest: u64, value: u64) -> u64 {
    (digest ^ value)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(23)
}

/// Lines and where they begin, as the definition has them.
fn lines(file: &[u8]) -> Vec<(u64, &[u8])> {
    let mut lines = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let end = file[at..].iter().position(|octet| *octet == b'\n');
        let end = end.map_or(file.len(), |end| at + end);
        lines.push((at as u64, &file[at..end]));
        at = end + 1;
    }
    lines
}

#[derive(Debug, Clone)]
struct Shape {
    files: Vec<Vec<u8>>,
    split: u64,
    reduces: u32,
    threads: usize,
    memory: usize,
}

fn shape() -> impl Strategy<Value = Shape> {
    let word = prop_oneof![
        4 => "[ab]{0,2}",
        2 => "[a-f]{1,12}",
        // Any octets that are neither a line's end nor a space.
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|octets| {
            let safe = octets.into_iter().map(|octet| if octet == b'\n' || octet == b' ' { 0 } else { octet });
            String::from_utf8_lossy(&safe.collect::<Vec<_>>()).into_owned()
        }),
    ];
    let line = prop::collection::vec(word, 0..9).prop_map(|words| words.join(" "));
    let file = (prop::collection::vec(line, 0..60), any::<bool>()).prop_map(|(lines, is_ended)| {
        let mut file = lines.join("\n").into_bytes();
        if is_ended {
            file.push(b'\n');
        }
        file
    });
    let files = prop::collection::vec(file, 1..4);
    // A memory of a few records spills all the time.
    (
        files,
        1_u64..400,
        1_u32..6,
        1_usize..4,
        prop_oneof![Just(200_usize), Just(4_000), Just(1 << 20)],
    )
        .prop_map(|(files, split, reduces, threads, memory)| Shape {
            files,
            split,
            reduces,
            threads,
            memory,
        })
}

fn run(job: &AnyJob, shape: &Shape, directory: &Path) -> Result<Report> {
    let input = directory.join("in");
    fs::create_dir(&input)?;
    for (number, file) in shape.files.iter().enumerate() {
        fs::write(input.join(format!("{number}")), file)?;
    }
    let inputs = vec![input.display().to_string()];
    let options = Options {
        reduces: (shape.reduces > 0).then_some(shape.reduces),
        split_octets: Some(shape.split),
        threads: NonZero::new(shape.threads).expect("at least one"),
        memory: shape.memory,
        ..Options::new(inputs, directory.join("out"))
    };
    mapreduce::run(job, &[], &options)
}

/// All lines of the output, file by file.
fn output(directory: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut names: Vec<_> = fs::read_dir(directory.join("out"))
        .expect("an output")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("part-"))
        })
        .collect();
    names.sort();
    let read = |path| {
        let file = fs::read(path).expect("a file");
        lines(&file)
            .into_iter()
            .map(|(_, line)| line.to_vec())
            .collect()
    };
    names.into_iter().map(read).collect()
}

fn line(key: &[u8], value: u64) -> Vec<u8> {
    let mut line = key.to_vec();
    line.extend_from_slice(format!("\t{value}").as_bytes());
    line
}

/// The definition: map all records, group by key, reduce each group in the order of keys.
fn words_of(files: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u64>> {
    let mut groups: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    for (at, text) in files.iter().flat_map(|file| lines(file)) {
        for word in text.split(|octet| *octet == b' ') {
            groups.entry(word.to_vec()).or_default().push(at);
        }
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn job_is_its_definition_however_it_is_split_partitioned_and_spilled(shape in shape()) {
        let directory = TempDir::new().expect("a directory");
        let job = Job::new("digest", Lines, || Words, || Digest).into();
        let report = run(&job, &shape, directory.path()).expect("it runs");
        let found = output(directory.path());
        prop_assert_eq!(found.len(), shape.reduces as usize);
        prop_assert!(found.iter().all(|file| file.is_sorted_by_key(|line| key_of(line))));
        let mut found: Vec<_> = found.concat();
        found.sort();
        let expected = words_of(&shape.files).into_iter().map(|(word, values)| {
            line(&word, values.into_iter().fold(0, next_digest))
        });
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        prop_assert_eq!(found, expected);
        let words: usize = words_of(&shape.files).values().map(Vec::len).sum();
        // Of nothing there are no tasks, which would count.
        let counted = report.counters["mapreduce"].get("map output records");
        prop_assert_eq!(counted.copied().unwrap_or_default(), words as u64);
    }

    #[test]
    fn combiner_changes_nothing_but_the_cost(shape in shape()) {
        let plain = TempDir::new().expect("a directory");
        let combined = TempDir::new().expect("a directory");
        let job = || Job::new("sum", Lines, || Words, Sum::<Bytes>::default);
        run(&job().into(), &shape, plain.path()).expect("it runs");
        let with = job().combine(Sum::<Bytes>::default).into();
        run(&with, &shape, combined.path()).expect("it runs");
        let sums = words_of(&shape.files).into_iter();
        let sums = sums.map(|(word, values)| line(&word, values.iter().sum()));
        let mut sums: Vec<_> = sums.collect();
        sums.sort();
        let mut found = output(combined.path());
        prop_assert_eq!(&output(plain.path()), &found);
        // One that is a reducer, and emits in another order than that of keys.
        let by_reducer = TempDir::new().expect("a directory");
        let with = job().combine_by(Late::default).into();
        run(&with, &shape, by_reducer.path()).expect("it runs");
        prop_assert_eq!(&output(by_reducer.path()), &found);
        let mut found: Vec<_> = found.drain(..).flatten().collect();
        found.sort();
        prop_assert_eq!(found, sums);
    }

    #[test]
    fn sorted_job_is_in_order_over_all_files(shape in shape()) {
        let directory = TempDir::new().expect("a directory");
        let job = Job::new("sort", Lines, || Words, Identity::default).sorted().into();
        run(&job, &shape, directory.path()).expect("it runs");
        let found = output(directory.path()).concat();
        let expected = words_of(&shape.files).into_iter().flat_map(|(word, values)| {
            values.into_iter().map(move |value| line(&word, value))
        });
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn records_of_fixed_length_are_read_once_each(
        records in prop::collection::vec(any::<u32>(), 0..300), split in 1_u64..100,
    ) {
        let directory = TempDir::new().expect("a directory");
        let file = records.iter().flat_map(|record| record.to_be_bytes()).collect();
        let shape = Shape { files: vec![file], split, reduces: 2, threads: 2, memory: 500 };
        let job = Job::new("numbers", Fixed(4), || Numbers, Sum::<U32>::default).into();
        run(&job, &shape, directory.path()).expect("it runs");
        let mut expected: BTreeMap<u32, u64> = BTreeMap::new();
        for record in records {
            *expected.entry(record).or_default() += 1;
        }
        let mut found: Vec<_> = output(directory.path()).concat();
        found.sort();
        let expected = expected.into_iter().map(|(number, count)| {
            line(number.to_string().as_bytes(), count)
        });
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        prop_assert_eq!(found, expected);
    }
}

/// What is before the TAB, which no word has.
fn key_of(line: &[u8]) -> Vec<u8> {
    let tab = line
        .iter()
        .rposition(|octet| *octet == b'\t')
        .unwrap_or(line.len());
    line[..tab].to_vec()
}

struct Numbers;

impl Mapper for Numbers {
    type InKey = U64;
    type InValue = Bytes;
    type Key = U32;
    type Value = U64;

    fn map(&mut self, _at: u64, record: &[u8], out: &mut Emit<'_, U32, U64>) -> Result<()> {
        let number: Ref<'_, U32> = U32::decode(record)?;
        out.emit(number, 1)
    }
}
