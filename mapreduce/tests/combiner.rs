//! Combiners that are programs: what they get, that they change nothing but the cost, and what is
//! said when they fail.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory in which jobs are run.
struct Place {
    directory: TempDir,
}

const MAPPER: &str = "tr -s ' ' '\\n' | sed 's/$/\\t1/'";
/// Sums the values of each key, which lie together.
const SUM: &str = "LC_ALL=C awk -F'\\t' 'NR > 1 && $1 != key {print key \"\\t\" n; n = 0} \
                   {key = $1; n += $2} END {if (NR) print key \"\\t\" n}'";

impl Place {
    /// With a book of 200,000 words, 505 different ones, more than the memory that jobs have.
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let words = (0..200_000_u64).map(|at| format!("w{}", at.wrapping_mul(at) % 1_009));
        let words: Vec<String> = words.collect();
        let lines = words.chunks(20).map(|words| words.join(" ") + "\n");
        fs::write(directory.path().join("book"), lines.collect::<String>()).expect("a file");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, output: &str, reduces: &str, programs: &[&str]) -> Output {
        let job = ["run", "streaming", "--input", "book", "--output", output];
        let shape = ["--memory", "1MiB", "--reduces", reduces, "--"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
        command.args(job).args(shape).args(programs);
        let out = command.current_dir(self.directory.path()).output();
        out.expect("it starts")
    }

    /// Runs a job to its end: its files one after the other, and what it counted.
    fn done(&self, output: &str, reduces: &str, programs: &[&str]) -> (String, serde_json::Value) {
        let out = self.run(output, reduces, programs);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}");
        let output = self.path(output);
        let manifest = fs::read(output.join("_MANIFEST")).expect("a file");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let files = manifest["files"].as_array().expect("a list").iter();
        let files = files.map(|file| file["name"].as_str().expect("a name"));
        let text = files.map(|name| fs::read_to_string(output.join(name)).expect("a file"));
        (text.collect(), manifest["counters"].clone())
    }
}

#[test]
fn combiner_that_is_a_program_changes_nothing_but_the_cost() {
    let place = Place::new();
    let programs = ["--mapper", MAPPER, "--reducer", SUM];
    let (expected, plain) = place.done("plain", "3", &programs);
    assert_eq!(expected.lines().count(), 505);
    // In any order, and with counters and an environment as other programs.
    let any_order = "LC_ALL=C awk -F'\\t' '{n[$1] += $2} END {for (k in n) print k \"\\t\" n[k]}'; \
                     echo \"reporter:counter:own,runs $mapreduce_task_ismap \
                     $mapreduce_map_input_file,1\" >&2";
    for (output, combiner) in [("sum", SUM), ("any", any_order)] {
        let with = [&programs[..], &["--combiner", combiner]].concat();
        let (found, counters) = place.done(output, "3", &with);
        assert!(found == expected, "{output} differs");
        let (counters, plain) = (&counters["mapreduce"], &plain["mapreduce"]);
        assert_eq!(plain["shuffle records"], 200_000);
        assert_eq!(counters["map output records"], 200_000);
        assert_eq!(counters["combine input records"], 200_000);
        // Each of the words once for each time that memory was full.
        let written = counters["combine output records"].as_u64();
        assert!(written.is_some_and(|written| (1_010..20_000).contains(&written)));
        assert_eq!(
            counters["shuffle records"],
            counters["combine output records"]
        );
    }
    let (_, counters) = place.done(
        "again",
        "3",
        &[&programs[..], &["--combiner", any_order]].concat(),
    );
    let name = format!("runs true {}", place.path("book").display());
    let runs = counters["own"][&name].as_u64();
    assert!(runs.is_some_and(|runs| runs > 1), "{counters}");
}

#[test]
fn combiner_gets_lines_in_the_order_of_keys() {
    let place = Place::new();
    let checks = "LC_ALL=C awk -F'\\t' '$1 < key || NF != 2 {exit 4} {key = $1; print}'";
    let programs = ["--mapper", MAPPER, "--combiner", checks, "--reducer", SUM];
    let (found, _) = place.done("out", "1", &programs);
    assert_eq!(found.lines().count(), 505);
    let reversed = "LC_ALL=C awk -F'\\t' 'NR > 1 && $1 > key {exit 4} {key = $1}'";
    let programs = ["--mapper", MAPPER, "--combiner", reversed];
    let out = place.run("no", "1", &programs);
    assert_eq!(out.status.code(), Some(1), "the check sees an order");
}

#[test]
fn combiner_that_fails_ends_the_job_with_its_words_and_leaves_nothing() {
    let place = Place::new();
    let programs = ["--mapper", MAPPER, "--combiner", "echo why >&2; exit 3"];
    // While the map task runs, as memory is full; and at its end.
    for book in [None, Some("few words\n")] {
        if let Some(book) = book {
            fs::write(place.path("book"), book).expect("a file");
        }
        let out = place.run("out", "2", &programs);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        let what = "/book, octet 0: the job's combine function: ";
        assert!(said.contains(what), "{said}");
        assert!(said.contains("exit status: 3; it has said: why"), "{said}");
        let left = fs::read_dir(place.directory.path()).expect("a directory");
        let left = left.map(|entry| entry.expect("an entry").file_name());
        let left: Vec<_> = left.collect();
        assert_eq!(left, ["book"]);
    }
}
