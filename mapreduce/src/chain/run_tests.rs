//! What a chain does with what an earlier run has left, whoever runs its steps: with an engine that
//! does what a test says.

use super::*;
use crate::{Bytes, Emit, Job, Lines, U64, map_fn};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// What becomes of a step, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    /// It is done, and its output is nowhere.
    Unseen,
    Failed,
    Unknown,
    Left,
}

/// An engine that writes down what it is asked.
#[derive(Default)]
struct Scripted {
    fates: BTreeMap<&'static str, Fate>,
    /// Steps of which something goes on.
    go_on: BTreeSet<&'static str>,
    /// Steps whose output comes to be when they are looked for.
    just_done: BTreeSet<&'static str>,
    asked: Mutex<Vec<String>>,
    work: PathBuf,
    drawn: Mutex<u32>,
}

impl Scripted {
    fn note(&self, what: String) {
        crate::engine::local::lock(&self.asked).push(what);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *crate::engine::local::lock(&self.asked))
    }

    fn publish(&self, step: &str, id: &str) {
        let output = self.work.join(step);
        fs::create_dir_all(&output).expect("a directory");
        let manifest = format!(r#"{{"job":"{id}","number":1,"files":[{{"name":"part-00000"}}]}}"#);
        fs::write(output.join("_MANIFEST"), manifest).expect("a file");
    }

    fn record(&self, step: &str) -> Record {
        let record = Record::read(&self.work.join(format!("{step}.json")));
        record.expect("it can be read").expect("it is there")
    }

    fn end(&self, step: &str, id: &str) -> Result<String, Unfinished> {
        match self.fates.get(step).copied().unwrap_or(Fate::Done) {
            Fate::Done => self.publish(step, id),
            Fate::Unseen => {}
            Fate::Failed => return Err(Unfinished::Failed("it fails".into())),
            Fate::Unknown => return Err(Unfinished::Unknown("who knows".into())),
            Fate::Left => return Err(Unfinished::Left),
        }
        Ok(step.to_owned())
    }
}

impl Engine for Scripted {
    type Report = String;
    type Joined = String;
    const SUBMITS: bool = true;

    fn check(&self, _output: &Path) -> Result<()> {
        Ok(())
    }

    fn shares(&self) -> usize {
        1
    }

    fn share(&self, _free: usize, _ready: usize) -> usize {
        1
    }

    fn is_interrupted(&self) -> bool {
        false
    }

    fn draw(&self) -> String {
        let mut drawn = crate::engine::local::lock(&self.drawn);
        *drawn += 1;
        format!("k{drawn}")
    }

    fn done_before(&self, step: &Step) {
        self.note(format!("{} is done", step.name));
    }

    fn earlier(&self, earlier: &Earlier<'_>) -> Result<Option<String>, Unfinished> {
        let (name, id) = (earlier.name, &earlier.record.id);
        let is_wanted = earlier.is_wanted;
        self.note(format!("{name} was {id}, wanted: {is_wanted}"));
        if self.just_done.contains(name) {
            self.publish(name, id);
        }
        assert!(earlier.record.submitted);
        let goes_on = is_wanted && self.go_on.contains(name);
        Ok(goes_on.then(|| id.clone()))
    }

    fn rejoin(&self, step: &Step, joined: String) -> Result<String, Unfinished> {
        self.note(format!("{} goes on as {joined}", step.name));
        self.end(&step.name, &joined)
    }

    fn run(&self, begun: Begun<'_>) -> Result<String, Unfinished> {
        let (name, id) = (&begun.step.name, begun.id);
        let record = self.record(name);
        assert_eq!(record.id, id, "a record comes before what it is about");
        assert!(record.submitted);
        self.note(format!("{name} begins as {id}"));
        self.end(name, id)
    }
}

/// A chain of two steps, of which the second reads the first.
struct Bench {
    directory: tempfile::TempDir,
    engine: Scripted,
    reduces: &'static str,
    restart: bool,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::TempDir::new().expect("a directory");
        let engine = Scripted {
            work: directory.path().join("work"),
            ..Scripted::default()
        };
        Self {
            directory,
            engine,
            reduces: "",
            restart: false,
        }
    }

    fn chain(&self) -> Chain {
        let copy = |at, line: &[u8], out: &mut Emit<'_, U64, Bytes>| out.emit(at, line);
        let job = Job::new(
            "copy",
            Lines,
            move || map_fn(Lines, copy),
            crate::Identity::<U64, Bytes>::default,
        );
        let text = format!(
            "[[step]]\nname = \"a\"\njob = \"copy\"\ninput = [\"book\"]\nkeep = true\n{}\n\
             [[step]]\nname = \"b\"\njob = \"copy\"\ninput = [\"step:a\"]\nkeep = true\n",
            self.reduces
        );
        let file = self.directory.path().join("chain.toml");
        fs::write(&file, text).expect("a file");
        Chain::read(&file, &[job.into()], None).expect("a chain")
    }

    fn run(&self) -> Result<Came<String>> {
        let settings = Settings {
            work: self.engine.work.clone(),
            overwrite: false,
            restart: self.restart,
            seen_within: Duration::ZERO,
        };
        run(&self.chain(), &settings, &self.engine)
    }

    /// What was asked of the engine in a run that comes to its end.
    fn asked(&self) -> Vec<String> {
        self.run().expect("it comes to its end");
        self.engine.asked()
    }

    /// A first run, in which this becomes of the first step.
    fn begun(fate: Fate) -> (Self, Came<String>) {
        let mut bench = Self::new();
        bench.engine.fates.insert("a", fate);
        let came = bench.run().expect("it comes to its end");
        assert_eq!(bench.engine.asked(), ["a begins as k1"], "{fate:?}");
        bench.engine.fates.clear();
        (bench, came)
    }
}

#[test]
fn step_that_goes_on_is_rejoined_and_never_begun_anew() {
    let (mut bench, came) = Bench::begun(Fate::Left);
    assert_eq!(came.left, [("a".to_owned(), "k1".to_owned())]);
    assert!(came.failed.is_empty() && !came.is_done);
    bench.engine.go_on.insert("a");
    let expected = [
        "a was k1, wanted: true",
        "a goes on as k1",
        "b begins as k2",
    ];
    assert_eq!(bench.asked(), expected);
    assert_eq!(bench.asked(), ["a is done", "b is done"]);
}

#[test]
fn step_that_failed_begins_under_another_number_and_may_be_run_elsewhere() {
    let (bench, came) = Bench::begun(Fate::Failed);
    assert_eq!(came.failed, ["step a: it fails"]);
    assert!(came.left.is_empty());
    assert!(!bench.engine.record("a").submitted, "nothing goes on");
    assert_eq!(bench.asked(), ["a begins as k2", "b begins as k3"]);
}

#[test]
fn what_goes_on_of_a_step_that_the_chain_has_no_more_is_ended() {
    let (mut bench, _) = Bench::begun(Fate::Left);
    bench.engine.go_on.insert("a");
    let (old, new) = ("a.json", "former.json");
    let work = &bench.engine.work;
    fs::rename(work.join(old), work.join(new)).expect("it is there");
    let expected = [
        "former was k1, wanted: false",
        "a begins as k2",
        "b begins as k3",
    ];
    assert_eq!(bench.asked(), expected);
    assert!(!bench.engine.record("former").submitted);
    assert_eq!(bench.asked(), ["a is done", "b is done"]);
}

#[test]
fn step_of_which_nothing_is_known_may_go_on() {
    let (bench, came) = Bench::begun(Fate::Unknown);
    assert_eq!(came.failed, ["step a: who knows"]);
    assert_eq!(came.left, [("a".to_owned(), "k1".to_owned())]);
    assert!(bench.engine.record("a").submitted);
}

#[test]
fn step_that_is_another_now_is_not_wanted_nor_is_any_after_a_restart() {
    let (mut bench, _) = Bench::begun(Fate::Left);
    bench.engine.go_on.insert("a");
    bench.reduces = "reduces = 2";
    let expected = [
        "a was k1, wanted: false",
        "a begins as k2",
        "b begins as k3",
    ];
    assert_eq!(bench.asked(), expected);
    bench.engine.fates.insert("b", Fate::Left);
    bench.restart = true;
    assert_eq!(bench.asked(), ["a begins as k4", "b begins as k5"]);
    let expected = [
        "b was k5, wanted: false",
        "a begins as k6",
        "b begins as k7",
    ];
    assert_eq!(bench.asked(), expected);
}

#[test]
fn step_whose_output_came_while_it_was_looked_for_is_done() {
    let (mut bench, _) = Bench::begun(Fate::Left);
    bench.engine.just_done.insert("a");
    let expected = ["a was k1, wanted: true", "a is done", "b begins as k2"];
    assert_eq!(bench.asked(), expected);
}

#[test]
fn output_that_is_not_seen_here_is_no_input_of_another_step() {
    let (bench, came) = Bench::begun(Fate::Unseen);
    let work = bench.engine.work.join("a");
    let expected = format!(
        "step a: it is done as k1, and its output is not in {}",
        work.display()
    );
    assert!(came.failed[0].starts_with(&expected), "{:?}", came.failed);
    // What another has put there is not what the step has left.
    let mut bench = Bench::new();
    bench.engine.fates.insert("b", Fate::Failed);
    bench.run().expect("it comes to its end");
    bench.engine.publish("a", "k9");
    bench.engine.asked();
    bench.engine.fates.clear();
    assert_eq!(bench.asked(), ["a begins as k3", "b begins as k4"]);
}

#[test]
fn chain_that_is_done_and_half_removed_is_not_begun_anew() {
    let mut bench = Bench::new();
    bench.run().expect("it comes to its end");
    bench.engine.asked();
    let half = |bench: &Bench| {
        let work = &bench.engine.work;
        Finished::of(&bench.chain()).mark(work).expect("a mark");
        fs::remove_file(work.join("a.json")).expect("it is there");
    };
    half(&bench);
    assert_eq!(bench.asked(), ["a is done", "b is done"]);
    // It was done once: the next time it is run like any other.
    assert_eq!(bench.asked(), ["a begins as k3", "b begins as k4"]);
    half(&bench);
    bench.reduces = "reduces = 2";
    assert_eq!(bench.asked(), ["a begins as k5", "b begins as k6"]);
    half(&bench);
    bench.restart = true;
    assert_eq!(bench.asked(), ["a begins as k7", "b begins as k8"]);
}
