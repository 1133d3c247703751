//! Chains of jobs: what they compute, what is run again and what is not, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory in which chains are run.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        Self { directory }
    }

    fn with(self, name: &str, what: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), what).expect("a file");
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
        command.args(["run", "--chain", "chain.toml"]).args(more);
        let out = command.current_dir(self.directory.path()).output();
        out.expect("it starts")
    }

    fn done(&self, more: &[&str]) -> String {
        let out = self.run(more);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        said
    }

    fn failed(&self, more: &[&str]) -> String {
        let out = self.run(more);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        said
    }

    /// The data of an output.
    fn output(&self, name: &str) -> String {
        let mut parts = names(&self.path(name));
        parts.retain(|name| name.starts_with("part-"));
        let read = |part: &String| fs::read_to_string(self.path(name).join(part)).expect("a file");
        parts.iter().map(read).collect()
    }

    /// How often the program of each step was run.
    fn runs(&self) -> BTreeMap<String, usize> {
        let runs = names(self.directory.path()).into_iter().filter_map(|name| {
            let step = name.strip_suffix(".runs")?.to_owned();
            let lines = fs::read_to_string(self.path(&name)).expect("a file");
            Some((step, lines.lines().count()))
        });
        runs.collect()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A step whose program counts that it runs, and does this with its input.
fn step(name: &str, input: &str, program: &str, more: &str) -> String {
    format!(
        "[[step]]\nname = \"{name}\"\njob = \"streaming\"\ninput = [{input}]\n\
         arguments = [\"--mapper\", '''echo run >> {name}.runs; {program}''']\n{more}\n"
    )
}

fn runs_of(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    let owned = expected
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count));
    owned.collect()
}

/// The example's chain, computed by hand.
fn best_and_average(lines: &str) -> (Vec<(u64, String)>, f64) {
    let score = |text: &str| {
        let letters = text.to_ascii_lowercase().replace(' ', "");
        letters.chars().collect::<BTreeSet<_>>().len() as u64
    };
    let best = lines.lines().map(|line| {
        let (_, text) = line.split_once('\t').expect("a line of the text");
        let words: Vec<&str> = text
            .split(|letter: char| !letter.is_ascii_alphabetic())
            .filter(|word| !word.is_empty())
            .collect();
        let spans = (1..=3)
            .flat_map(|length| words.windows(length))
            .map(|span| span.join(" "));
        let mut spans: Vec<(u64, String)> = spans.map(|span| (score(&span), span)).collect();
        let order =
            |(score, text): &(u64, String)| (std::cmp::Reverse(*score), text.len(), text.clone());
        spans.sort_by_key(order);
        spans.swap_remove(0)
    });
    let best: Vec<_> = best.collect();
    let sum: u64 = best.iter().map(|(score, _)| score).sum();
    let average = sum as f64 / best.len() as f64;
    (best, average)
}

#[test]
fn example_of_three_steps_gives_what_a_direct_computation_gives() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/candidates");
    let binary = Path::new(env!("CARGO_BIN_EXE_mapreduce")).with_file_name("examples/candidates");
    assert!(
        binary.exists(),
        "build it first: cargo build -p mapreduce --examples"
    );
    let place = Place::new();
    let copy = |name| fs::copy(example.join(name), place.path(name)).expect("a file");
    copy("candidates.toml");
    copy("lines.tsv");
    let run = |more: &[&str]| {
        let mut command = Command::new(&binary);
        let command = command
            .args(["run", "--chain", "candidates.toml"])
            .args(more);
        let out = command
            .current_dir(place.directory.path())
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
    };
    let lines = fs::read_to_string(example.join("lines.tsv")).expect("the text");
    let (best, average) = best_and_average(&lines);
    run(&[]);
    let expected = format!("average\t{average:.6} of {}\n", best.len());
    assert_eq!(place.output("average"), expected);
    // What is between is removed, unless it is to be kept.
    assert_eq!(
        names(place.directory.path()),
        ["average", "candidates.toml", "lines.tsv"]
    );
    let chain = fs::read_to_string(place.path("candidates.toml")).expect("a file");
    let kept = chain.replace("reduces = 2", "reduces = 2\nkeep = true");
    fs::write(place.path("candidates.toml"), kept).expect("a file");
    run(&["--overwrite", "--split-size", "100", "--work", "between"]);
    assert_eq!(place.output("average"), expected);
    assert_eq!(
        names(&place.path("between")),
        [".lock", "best", "best.json"]
    );
    let chosen = place.output("between/best");
    let mut chosen: Vec<&str> = chosen.lines().collect();
    chosen.sort_unstable();
    let ids = lines.lines().filter_map(|line| line.split('\t').next());
    let expected = ids
        .zip(&best)
        .map(|(id, (score, text))| format!("{id}\t{score}\t{text}"));
    assert_eq!(chosen, expected.collect::<Vec<_>>());
}

#[test]
fn failed_chain_goes_on_from_the_step_that_failed() {
    let chain = [
        step(
            "last",
            "\"step:middle\", \"step:side\"",
            "cat",
            "output = \"out\"",
        ),
        step("first", "\"book\"", "cat", ""),
        step(
            "middle",
            "\"step:first\"",
            "test -e fixed || exit 7; cat",
            "",
        ),
        step("side", "\"book\"", "sed s/^/side-/", ""),
    ];
    let place = Place::new()
        .with("book", "a\nb\n")
        .with("chain.toml", chain.concat());
    let said = place.failed(&["--threads", "2"]);
    assert!(
        said.contains("step middle: ") && said.contains("exit status: 7"),
        "{said}"
    );
    assert!(!place.path("out").exists());
    // What the manifest of a step does not name is not read, whatever its directory has.
    let place = place
        .with("fixed", "")
        .with(".chain.chain/first/part-99999", "stray\n");
    let said = place.done(&[]);
    assert!(said.contains("step first: done before"), "{said}");
    assert!(
        said.contains("step middle: 1 files in .chain.chain/middle"),
        "{said}"
    );
    assert_eq!(place.output("out"), "a\t\nb\t\nside-a\t\nside-b\t\n");
    let expected = runs_of(&[("first", 1), ("last", 2), ("middle", 2), ("side", 1)]);
    assert_eq!(place.runs(), expected);
    assert!(!place.path(".chain.chain").exists());
    let said = place.failed(&[]);
    assert!(
        said.contains("step last: output out exists: name another"),
        "{said}"
    );
    assert_eq!(place.runs(), expected);
}

#[test]
fn chain_that_is_done_says_so_whatever_else_is_in_its_directory() {
    let other = step("renamed", "\"book\"", "cat", "");
    let fails = step("fails", "\"step:renamed\"", "exit 3", "");
    let place = Place::new()
        .with("book", "x\n")
        .with("chain.toml", other + &fails);
    place.failed(&[]);
    // What the first step has left is of no step any more.
    let chain = step("now", "\"book\"", "cat", "output = \"out\"");
    let place = place.with("chain.toml", chain);
    let said = place.done(&[]);
    assert!(said.contains(".chain.chain has other files"), "{said}");
    assert_eq!(place.output("out").trim_end(), "x");
}

#[test]
fn changed_step_and_all_after_it_run_again_and_no_other() {
    let chain = |sed: &str, job: &str| {
        let keep = "keep = true";
        [
            step("a", "\"book\"", "cat", keep),
            step("b", "\"step:a\"", sed, keep),
            step("c", "\"step:b\"", job, "keep = true\noutput = \"out\""),
            step("d", "\"step:a\"", "cat", keep),
        ]
        .concat()
    };
    let place = Place::new()
        .with("book", "x\n")
        .with("chain.toml", chain("sed s/x/y/", "cat"));
    place.done(&[]);
    assert_eq!(place.output("out").trim_end(), "y");
    place.done(&[]);
    let once = runs_of(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    assert_eq!(place.runs(), once);
    let place = place.with("chain.toml", chain("sed s/x/z/", "cat"));
    place.done(&[]);
    assert_eq!(place.output("out").trim_end(), "z");
    let twice = runs_of(&[("a", 1), ("b", 2), ("c", 2), ("d", 1)]);
    assert_eq!(place.runs(), twice);
    // One that fails leaves its older output, which it may replace when it is mended.
    let place = place.with("chain.toml", chain("sed s/x/z/", "exit 3"));
    let said = place.failed(&[]);
    assert!(said.contains("step c: "), "{said}");
    assert_eq!(place.output("out").trim_end(), "z");
    let place = place.with("chain.toml", chain("sed s/x/z/", "sed s/z/Z/"));
    place.done(&[]);
    assert_eq!(place.output("out").trim_end(), "Z");
    // An output that is gone is made again, and what has read it with it.
    fs::remove_dir_all(place.path(".chain.chain/b")).expect("it is there");
    place.done(&[]);
    assert_eq!(
        place.runs(),
        runs_of(&[("a", 1), ("b", 3), ("c", 5), ("d", 1)])
    );
    place.done(&["--restart"]);
    assert_eq!(
        place.runs(),
        runs_of(&[("a", 2), ("b", 4), ("c", 6), ("d", 2)])
    );
}

#[test]
fn steps_at_once_whose_outputs_have_one_name_share_a_scratch_directory() {
    let meets = |own: &str, other: &str| {
        // If the other one has failed it never comes.
        let tries = "n=$((n + 1)); [ $n -lt 600 ] || exit 9";
        format!("touch {own}.met; until [ -e {other}.met ]; do sleep 0.05; {tries}; done; cat")
    };
    let chain = [
        step("a", "\"book\"", &meets("a", "b"), "output = \"a/result\""),
        step("b", "\"book\"", &meets("b", "a"), "output = \"b/result\""),
    ];
    let place = Place::new()
        .with("book", "x\n")
        .with("chain.toml", chain.concat());
    for name in ["a", "b", "scratch"] {
        fs::create_dir(place.path(name)).expect("a directory");
    }
    place.done(&["--threads", "2", "--scratch", "scratch"]);
    assert_eq!(place.output("a/result"), place.output("b/result"));
    assert!(names(&place.path("scratch")).is_empty());
}

#[test]
fn steps_that_do_not_wait_for_each_other_share_the_threads() {
    let meets = |own: &str, other: &str| {
        format!("touch {own}.met; until [ -e {other}.met ]; do sleep 0.05; done; cat")
    };
    let chain = [
        step("a", "\"book\"", &meets("a", "b"), "output = \"a\""),
        step("b", "\"book\"", &meets("b", "a"), "output = \"b\""),
    ];
    let place = Place::new()
        .with("book", "x\n")
        .with("chain.toml", chain.concat());
    place.done(&["--threads", "2"]);
    assert_eq!(place.output("a"), place.output("b"));
    // Never more of them than threads.
    let alone = "mkdir alone || exit 9; sleep 0.2; rmdir alone; cat";
    let chain = ["c", "d", "e"].map(|name| {
        let output = format!("output = \"{name}\"");
        step(name, "\"book\"", alone, &output)
    });
    let place = place.with("chain.toml", chain.concat());
    place.done(&["--threads", "1"]);
    let ran = ["a", "b", "c", "d", "e"].map(|name| (name, 1));
    assert_eq!(place.runs(), runs_of(&ran));
}

#[test]
fn wrong_chains_are_refused_with_file_and_line_before_anything_runs() {
    let good = step("good", "\"book\"", "cat", "");
    assert_eq!(good.lines().count(), 6);
    let two = |second: &str| format!("{good}{second}");
    let cases = [
        (String::new(), "chain.toml:1: there is no [[step]]"),
        (two("[[step]\n"), "chain.toml:7: "),
        (two("[[stop]]\n"), "chain.toml:7: unknown field `stop`"),
        (
            two(&step("x", "\"step:no\"", "cat", "")),
            "chain.toml:10: no step is named no",
        ),
        (
            two(&step("good", "\"book\"", "cat", "")),
            "chain.toml:8: a second step is named good",
        ),
        (
            two(&step("../x", "\"book\"", "cat", "")),
            "chain.toml:8: a step's name has 1 to 64",
        ),
        (
            two(&step("x", "", "cat", "")),
            "chain.toml:8: the step has no input",
        ),
        (
            two(&step("x", "\"step:x\"", "cat", "")),
            "chain.toml:8: step x waits for its own output",
        ),
        (
            two(&step("x", "\"book\"", "cat", "reduces = 0")),
            "chain.toml:12: the job has a reduce, which needs",
        ),
        (
            two(
                "[[step]]\nname = \"x\"\njob = \"grep\"\ninput = [\"book\"]\n\
                 arguments = [\"x\"]\nreduces = 2\n",
            ),
            "chain.toml:12: the job has no reduce",
        ),
        (
            two(&step("x", "\"book\"", "cat", "colour = 2")),
            "chain.toml:12: unknown field `colour`",
        ),
        (
            two("[[step]]\nname = \"x\"\njob = \"no\"\ninput = [\"book\"]\n"),
            "chain.toml:9: no job is named no; there are wordcount, grep",
        ),
        (
            two(
                "[[step]]\nname = \"x\"\njob = \"grep\"\ninput = [\"book\"]\narguments = [\"(\"]\n",
            ),
            "chain.toml:9: job grep: ",
        ),
        (
            [
                step("after", "\"step:c\"", "cat", ""),
                step("a", "\"step:c\", \"step:before\"", "cat", ""),
                step("b", "\"step:a\", \"step:before\"", "cat", ""),
                step("c", "\"step:b\", \"step:before\"", "cat", ""),
                step("before", "\"book\"", "cat", ""),
            ]
            .concat(),
            "chain.toml:20: step c waits for its own output: a cycle",
        ),
        (
            two(&step("x", "\"book\"", "cat", "output = \"there\"")),
            "step x: output there exists",
        ),
    ];
    let place = Place::new().with("book", "x\n");
    fs::create_dir(place.path("there")).expect("a directory");
    let place = place.with("there/file", "x");
    for (chain, expected) in cases {
        fs::write(place.path("chain.toml"), &chain).expect("a file");
        let said = place.failed(&[]);
        assert!(said.contains(expected), "{chain}: {said}");
        assert!(place.runs().is_empty(), "{chain}");
    }
    let place = place.with("chain.toml", good);
    let lock = fs::File::create(place.path(".chain.chain/.lock")).expect("a file");
    lock.try_lock().expect("nobody has it");
    let said = place.failed(&[]);
    assert!(
        said.contains(".chain.chain: another run of the chain is at work there"),
        "{said}"
    );
}

#[test]
fn interrupted_chain_ends_what_runs_and_goes_on_when_it_is_run_again() {
    let chain = |program| {
        let second = step("second", "\"step:first\"", program, "output = \"out\"");
        [step("first", "\"book\"", "cat", ""), second].concat()
    };
    let hangs = "echo $$ > pid; touch hangs; exec sleep 1000";
    let place = Place::new()
        .with("book", "x\n")
        .with("chain.toml", chain(hangs));
    let mut command = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
    command.args(["run", "--chain", "chain.toml"]);
    let command = command.current_dir(place.directory.path());
    let child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let watch = std::time::Instant::now();
    while !place.path("hangs").exists() {
        assert!(watch.elapsed().as_secs() < 60, "the program does not run");
        std::thread::yield_now();
    }
    let id = Pid::from_raw(i32::try_from(child.id()).expect("an id")).expect("an id");
    kill_process(id, Signal::INT).expect("it runs");
    let out = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("error: step second: ended with"), "{said}");
    let pid = fs::read_to_string(place.path("pid")).expect("a file");
    let left = Path::new("/proc").join(pid.trim());
    assert!(!left.exists(), "the program was left");
    let place = place.with("chain.toml", chain("cat"));
    place.done(&[]);
    assert_eq!(place.output("out"), "x\t\n");
    assert_eq!(place.runs(), runs_of(&[("first", 1), ("second", 2)]));
}

#[test]
fn what_an_older_run_has_left_is_not_taken_for_done() {
    let fails = "test ! -e broken || exit 3; cat";
    let keep = "keep = true";
    let chain = [
        step("a", "\"book\"", "cat", keep),
        step("b", "\"step:a\"", "cat", keep),
        step("c", "\"step:a\"", fails, keep),
        step("d", "\"step:b\"", "cat", "keep = true\noutput = \"out\""),
    ];
    let one = ["--threads", "1"];
    let place = Place::new()
        .with("book", "x\n")
        .with("chain.toml", chain.concat());
    place.done(&one);
    assert_eq!(place.output("out").trim_end(), "x");
    // All is to be run again, and ends when the third of four has begun.
    fs::remove_dir_all(place.path(".chain.chain/a")).expect("it is there");
    let place = place.with("book", "y\n").with("broken", "");
    let said = place.failed(&one);
    assert!(said.contains("error: step c: "), "{said}");
    let expected = runs_of(&[("a", 2), ("b", 2), ("c", 2), ("d", 1)]);
    assert_eq!(place.runs(), expected);
    assert_eq!(place.output("out").trim_end(), "x");
    assert_eq!(place.output(".chain.chain/c").trim_end(), "x");
    // The outputs of both others are still there, and older than what they read.
    fs::remove_file(place.path("broken")).expect("it is there");
    let said = place.done(&one);
    assert!(said.contains("step b: done before"), "{said}");
    let expected = runs_of(&[("a", 2), ("b", 2), ("c", 3), ("d", 2)]);
    assert_eq!(place.runs(), expected);
    assert_eq!(place.output("out").trim_end(), "y");
    assert_eq!(place.output(".chain.chain/c").trim_end(), "y");
}
