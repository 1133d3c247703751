//! What a job may have of its own: how its output is written, and how keys are partitioned.

#![expect(clippy::expect_used, reason = "a test ends where it cannot go on")]

use std::fs;
use std::path::Path;

use mapreduce::{
    AnyJob, Emit, Job, Lines, Options, PartitionBy, RecordFormat, Ref, Result, Text, U64, Values,
    map_fn, reduce_fn,
};

/// Lines of CSV, with a line that says what they are, and one at the end.
struct Csv;

impl RecordFormat<Text, U64> for Csv {
    fn record(&self, word: &str, count: u64, to: &mut Vec<u8>) -> Result<()> {
        to.extend_from_slice(format!("\"{}\",{count}\n", word.replace('"', "\"\"")).as_bytes());
        Ok(())
    }

    fn head(&self, to: &mut Vec<u8>) -> Result<()> {
        to.extend_from_slice(b"word,count\n");
        Ok(())
    }

    fn tail(&self, to: &mut Vec<u8>) -> Result<()> {
        to.extend_from_slice(b"# end\n");
        Ok(())
    }
}

/// By the place in a list that is known when the job is made.
struct Listed(Vec<String>);

impl PartitionBy<Text> for Listed {
    fn partition(&self, key: Ref<'_, Text>, partitions: u32) -> u32 {
        let place = self.0.iter().position(|listed| listed == key);
        let place = place.map_or(0, |place| place + 1);
        u32::try_from(place).map_or(0, |place| place % partitions)
    }
}

fn words(line: &[u8], out: &mut Emit<'_, Text, U64>) -> Result<()> {
    let line = std::str::from_utf8(line)?;
    line.split(' ').try_for_each(|word| out.emit(word, 1))
}

fn sum(word: &str, counts: &mut Values<'_, U64>, out: &mut Emit<'_, Text, U64>) -> Result<()> {
    let mut sum = 0;
    while let Some(count) = counts.next()? {
        sum += count;
    }
    out.emit(word, sum)
}

fn ran(job: impl Into<AnyJob>, directory: &Path, reduces: Option<u32>) -> Vec<String> {
    let input = directory.join("in");
    fs::write(&input, "one \"two\" three two\none three one\n").expect("a file");
    let out = directory.join("out");
    let options = Options {
        reduces,
        ..Options::new(vec![input.display().to_string()], &out)
    };
    let report = mapreduce::run(&job.into(), &[], &options).expect("it runs");
    let files = report.files.iter();
    files
        .map(|file| fs::read_to_string(out.join(&file.name)).expect("a file"))
        .collect()
}

#[test]
fn output_is_in_the_format_of_the_job_and_keys_are_where_it_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let map = || {
        map_fn(Lines, |_, line: &[u8], out: &mut Emit<'_, Text, U64>| {
            words(line, out)
        })
    };
    let job = Job::new("count", Lines, map, || reduce_fn(sum))
        .output_by(Csv)
        .partition_by(Listed(vec!["one".to_owned(), "three".to_owned()]));
    let parts = ran(job, directory.path(), Some(3));
    assert_eq!(
        parts,
        [
            "word,count\n\"\"\"two\"\"\",1\n\"two\",1\n# end\n",
            "word,count\n\"one\",3\n# end\n",
            "word,count\n\"three\",2\n# end\n",
        ]
    );
}

#[test]
fn maps_without_a_reduce_write_in_the_format_of_the_job() {
    let directory = tempfile::tempdir().expect("a directory");
    let map = || {
        map_fn(Lines, |_, line: &[u8], out: &mut Emit<'_, Text, U64>| {
            words(line, out)
        })
    };
    let job = Job::map_only("words", Lines, map).output_by(Csv);
    let parts = ran(job, directory.path(), None);
    let expected = "word,count\n\"one\",1\n\"\"\"two\"\"\",1\n\"three\",1\n\"two\",1\n\"one\",1\n\
                    \"three\",1\n\"one\",1\n# end\n";
    assert_eq!(parts, [expected]);
}
