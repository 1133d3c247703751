//! The command line, as people and scripts use it: the built-in jobs, programs as jobs, and
//! everything that can be wrong with an input, an output or a program.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory with inputs, in which commands are run.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        Self { directory }
    }

    fn with(self, name: &str, what: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is inside")).expect("a directory");
        fs::write(path, what).expect("a file");
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mapreduce"));
        command.args(arguments).current_dir(self.directory.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    /// Runs a job to its end; the lines of its output.
    fn done(&self, arguments: &[&str]) -> Vec<String> {
        let out = self.run(&[&["run"], arguments].concat());
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        self.output("out")
    }

    /// Runs a job that is refused or fails; what it says. Nothing is left of it.
    fn refused(&self, arguments: &[&str]) -> String {
        let before = names(self.directory.path());
        let out = self.run(&[&["run"], arguments].concat());
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert_eq!(names(self.directory.path()), before, "{said}");
        said
    }

    fn output(&self, name: &str) -> Vec<String> {
        let mut names = names(&self.path(name));
        names.retain(|name| name.starts_with("part-"));
        let files = names
            .iter()
            .map(|part| fs::read(self.path(name).join(part)).expect("a file"));
        let all = files.collect::<Vec<_>>().concat();
        String::from_utf8_lossy(&all)
            .lines()
            .map(str::to_owned)
            .collect()
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

const BOOK: &str = "the cat and the dog\nand the bird\n";
const COUNTS: [&str; 5] = ["and\t2", "bird\t1", "cat\t1", "dog\t1", "the\t3"];

#[test]
fn words_are_counted_over_files_directories_and_globs_plain_and_packed() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"and the bird\n").expect("memory");
    let zstd = zstd::encode_all(&b"the cat and"[..], 1).expect("memory");
    let place = Place::new()
        .with("book", BOOK)
        .with("many/a.gz", gzip.finish().expect("memory"))
        .with("many/deeper/b", " the dog\n")
        .with("many/c.zst", zstd)
        .with("many/.hidden", "x")
        .with("many/_SUCCESS", "");
    assert_eq!(
        place.done(&["wordcount", "--input", "book", "--output", "out"]),
        COUNTS
    );
    let again = ["--output", "out", "--overwrite"];
    let many = [&["wordcount", "--input", "many"], &again[..]].concat();
    assert_eq!(place.done(&many), COUNTS);
    let named = [
        "wordcount",
        "--input",
        "many/*.*",
        "many/deeper",
        "many/c.zst",
    ];
    assert_eq!(place.done(&[&named, &again[..]].concat()), COUNTS);
    // As pzstd writes it: a frame that is passed over before each of those with content.
    let passed_over = |what: &[u8]| {
        let length = u32::try_from(what.len())
            .expect("it is short")
            .to_le_bytes();
        [b"\x5F\x2A\x4D\x18", &length[..], what].concat()
    };
    let frames = ["the cat and the dog\nand ", "the bird\n"].map(|part| {
        let frame = zstd::encode_all(part.as_bytes(), 1).expect("memory");
        [passed_over(b"any"), frame].concat()
    });
    let place = place.with("frames", [&frames.concat()[..], &passed_over(b"")].concat());
    let frames = [&["wordcount", "--input", "frames"], &again[..]].concat();
    assert_eq!(place.done(&frames), COUNTS);
    fs::remove_file(place.path("frames")).expect("it is there");
    let kept = names(&place.path("out"));
    assert_eq!(kept, ["_MANIFEST", "_SUCCESS", "part-00000"]);
    assert_eq!(names(place.directory.path()), ["book", "many", "out"]);
}

#[test]
fn every_built_in_job_does_what_it_is_listed_for() {
    let log = "1 - - [x] \"GET /a HTTP/1.1\" 200\n1 - - [x] \"GET /b HTTP/1.1\" 200\nnonsense\n\
               1 - - [x] \"GET /a HTTP/1.1\" 200\n";
    let page = "<A class=x HREF='b.html#top'>b</a> <a href=\"c.html\">c</a> <a href=b.html>b</a>";
    let place = Place::new()
        .with("book", BOOK)
        .with("log", log)
        .with("site/a.html", page)
        .with("site/b.html", "<p><a href=c.html>c</a><a>none</a>")
        .with("docs", "http://one.example/x\tcat cat dog\nhttp://two.example\tbird\nhttp://one.example\tDog\n")
        .with("names", "d2\tcat dog\nd1\tdog dog\n");
    let name = |name: &str| place.path(name).display().to_string();
    let run = |job: &str, input: &str, more: &[&str]| {
        let all = [&["--input", input, "--output", "out", "--overwrite"], more].concat();
        place.done(&[&[job], &all[..]].concat())
    };
    assert_eq!(run("wordcount", "book", &[]), COUNTS);
    assert_eq!(
        run("grep", "book", &["--", "^and"]),
        [format!("{}:20\tand the bird", name("book"))]
    );
    assert_eq!(run("urlcount", "log", &[]), ["/a\t2", "/b\t1"]);
    let (a, b) = (name("site/a.html"), name("site/b.html"));
    let links = [format!("b.html\t{a}"), format!("c.html\t{a}\t{b}")];
    assert_eq!(run("linkgraph", "site", &[]), links);
    let terms = ["one.example\tcat 2\tdog 2", "two.example\tbird 1"];
    assert_eq!(run("termvector", "docs", &[]), terms);
    assert_eq!(
        run("invertedindex", "names", &[]),
        ["cat\td2", "dog\td1\td2"]
    );
    assert_eq!(
        run("sort", "book", &["--reduces", "2"]),
        ["and the bird", "the cat and the dog"]
    );
    let listed = place.run(&["jobs"]).stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let listed: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let all = "wordcount grep urlcount linkgraph termvector invertedindex sort streaming";
    assert_eq!(listed, all.split(' ').collect::<Vec<_>>());
}

#[test]
fn any_program_is_a_job_with_counters_and_an_environment() {
    let place = Place::new().with("book", BOOK);
    let mapper = "tr ' ' '\\n' | sed 's/$/\\t1/'; \
                  echo \"reporter:counter:own,tasks of $mapreduce_map_input_file,1\" >&2";
    let reducer = "awk -F'\\t' '{n[$1] += $2} END {for (k in n) print k \"\\t\" n[k] * '$FACTOR'}'";
    let programs = [
        "--mapper",
        mapper,
        "--reducer",
        reducer,
        "--cmdenv",
        "FACTOR=1",
    ];
    let job = [
        "streaming",
        "--input",
        "book",
        "--output",
        "out",
        "--split-size",
        "8",
        "--",
    ];
    let mut found = place.done(&[&job[..], &programs].concat());
    found.sort();
    assert_eq!(found, COUNTS);
    let manifest = fs::read_to_string(place.path("out/_MANIFEST")).expect("a file");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    // 33 octets in splits of 8.
    let counter = format!("tasks of {}", place.path("book").display());
    assert_eq!(manifest["counters"]["own"][&counter], 5);
    // One that writes before it reads, and one that reads nothing.
    let again = [
        "streaming",
        "--input",
        "book",
        "--output",
        "out",
        "--overwrite",
        "--",
    ];
    let first = place.done(&[&again[..], &["--mapper", "echo begin; cat > /dev/null"]].concat());
    assert_eq!(first, ["begin\t"]);
    let unread = place.done(&[&again[..], &["--mapper", "true"]].concat());
    assert!(unread.is_empty());
}

#[test]
fn program_is_told_of_each_of_the_small_files_that_a_task_reads() {
    let place = Place::new().with("one", "a\nb\n").with("two", "c\n");
    let job = ["streaming", "--input", "one", "two", "--output", "out"];
    let mapper = "sed \"s|^|$mapreduce_map_input_file |\"";
    let found = place.done(&[&job[..], &["--", "--mapper", mapper]].concat());
    let (one, two) = (place.path("one"), place.path("two"));
    let (one, two) = (one.display(), two.display());
    let lines = [
        format!("{one} a\t"),
        format!("{one} b\t"),
        format!("{two} c\t"),
    ];
    assert_eq!(found, lines);
}

#[test]
fn program_that_fails_is_said_with_the_file_that_it_was_given() {
    let place = Place::new()
        .with("one", "a\nb\n")
        .with("two", "cc\nd\n")
        .with("zero", "");
    let mapper = "cat; case $mapreduce_map_input_file in */two) exit 3;; esac";
    // The next file of the task has lines, or none.
    for inputs in [["two", "one"], ["two", "zero"], ["one", "two"]] {
        let job = [&["streaming", "--input"], &inputs[..], &["--output", "out"]].concat();
        let said = place.refused(&[&job[..], &["--", "--mapper", mapper]].concat());
        let file = place.path("two").display().to_string();
        let what = format!("error: {file}, octet 3: the job's map function: cat; case");
        assert!(said.contains(&what), "{inputs:?}: {said}");
    }
}

#[test]
fn links_are_found_in_pages_of_any_encoding_and_one_line_is_one_target() {
    let place = Place::new()
        .with("site/a.html", b"<a title=\"caf\xe9\" href=\"latin\">x</a>")
        .with(
            "site/b.html",
            b"<a data-href=\"no\" class='x'\nHREF = \" sp\n\tl\rit #y\">x</a>",
        )
        .with(
            "site/c.html",
            "<a href=\"caf\u{e9}\">x</a><a href=' \n'>x</a><a href='#x'>x</a>",
        )
        .with(
            "site/d\te\nf.html",
            b"<a href=bare>x</a><a\thref=\"\xe9\">x</a>",
        );
    let job = ["run", "linkgraph", "--input", "site", "--output", "out"];
    let out = place.run(&job);
    assert!(out.status.success(), "{out:?}");
    let found = fs::read(place.path("out/part-00000")).expect("a file");
    let page = |name: &str| place.path("site").join(name).display().to_string();
    let (a, b, c) = (page("a.html"), page("b.html"), page("c.html"));
    let d = page("d%09e%0Af.html");
    let mut expected = format!("bare\t{d}\ncaf\u{e9}\t{c}\nlatin\t{a}\nsplit \t{b}\n").into_bytes();
    expected.extend(b"\xe9\t");
    expected.extend(format!("{d}\n").into_bytes());
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(&found));
}

#[test]
fn hosts_are_those_of_addresses_in_any_letters() {
    let words = (0..3000).map(|at| format!("w{at:04}"));
    let words = words.collect::<Vec<_>>().join(" ");
    let docs = "example.com/r?u=http://x/\tone\nHTTP://Example.COM:80/\ttwo\n\
                a+b.c-d://example.com\tone\n";
    // Words of a host are pruned now and then; what is most frequent may come first or last.
    let many = format!("many\t{words}\nmany\tw0000 w2999 w1500\nMANY\tw2999 w0000 w2999\n");
    let place = Place::new().with("docs", format!("{docs}{many}"));
    let found = place.done(&["termvector", "--input", "docs", "--output", "out"]);
    let once = (1..48).map(|at| format!("w{at:04} 1"));
    let once = once.collect::<Vec<_>>().join("\t");
    let expected = format!("many\tw2999 4\tw0000 3\tw1500 2\t{once}");
    assert_eq!(found, ["example.com\tone 2\ttwo 1", &expected]);
}

#[test]
fn file_that_does_not_say_its_length_is_refused() {
    let place = Place::new().with("book", BOOK);
    let job = |input| ["wordcount", "--input", "book", input, "--output", "out"];
    for input in ["/proc/cpuinfo", "/proc/cpuinf?"] {
        let said = place.refused(&job(input));
        let what = "input /proc/cpuinfo: it has content, and its length is not known: copy it";
        assert!(said.contains(what), "{said}");
    }
}

#[test]
fn much_goes_through_a_program_in_both_directions_at_once() {
    // Far more than pipes and channels hold.
    let line = "word ".repeat(20) + "\n";
    let place = Place::new().with("book", line.repeat(40_000));
    let job = [
        "streaming",
        "--input",
        "book",
        "--output",
        "out",
        "--",
        "--mapper",
        "sed p",
    ];
    let found = place.done(&job);
    assert_eq!(found.len(), 80_000);
    // And from one that never reads while it writes.
    let flood = "yes flood | head -n 300000; cat > /dev/null";
    let again = [
        "streaming",
        "--input",
        "book",
        "--output",
        "out",
        "--overwrite",
        "--",
    ];
    assert_eq!(
        place
            .done(&[&again[..], &["--mapper", flood]].concat())
            .len(),
        300_000
    );
}

#[test]
fn what_is_wrong_is_refused_by_name_and_leaves_nothing() {
    let place = Place::new().with("book", BOOK).with("done/part-00000", "x");
    let cases: BTreeMap<&[&str], &str> = BTreeMap::from([
        (
            &["wordcount", "--input", "no", "--output", "out"][..],
            "input no: No such file",
        ),
        (
            &["wordcount", "--input", "no*", "--output", "out"],
            "input no*: no file matches",
        ),
        (
            &["wordcount", "--input", "/dev/null", "--output", "out"],
            "/dev/null: neither a file",
        ),
        (
            &["wordcount", "--input", "book", "--output", "done"],
            "output done exists: name another",
        ),
        (
            &["wordcount", "--input", "book", "--output", "book"],
            "output: ",
        ),
        (
            &["wordcount", "--input", "book", "--output", "no/out"],
            "No such file or directory",
        ),
        (
            &[
                "wordcount",
                "--input",
                "book",
                "--output",
                "out",
                "--reduces",
                "0",
            ],
            "--reduces 0",
        ),
        (
            &[
                "grep",
                "--input",
                "book",
                "--output",
                "out",
                "--reduces",
                "1",
                "--",
                "x",
            ],
            "no reduce",
        ),
        (
            &[
                "wordcount",
                "--input",
                "book",
                "--output",
                "out",
                "--reduces",
                "400000",
            ],
            "250000",
        ),
        (
            &["wordcoun", "--input", "book", "--output", "out"],
            "there are wordcount, grep",
        ),
        (
            &["wordcount", "--input", "book", "--output", "out", "--", "x"],
            "no argument: x",
        ),
        (
            &["grep", "--input", "book", "--output", "out", "--", "("],
            "unclosed group",
        ),
        (
            &["grep", "--input", "book", "--output", "out"],
            "one pattern is wanted; arguments: -- PATTERN",
        ),
        (
            &["streaming", "--input", "book", "--output", "out"],
            "--mapper",
        ),
        (
            &[
                "streaming",
                "--input",
                "book",
                "--output",
                "out",
                "--",
                "--mapper",
                "/no/such",
            ],
            "127; it has said: sh",
        ),
        (
            &[
                "streaming",
                "--input",
                "book",
                "--output",
                "out",
                "--",
                "--mapper",
                "/dev/null",
            ],
            "126",
        ),
        (
            &[
                "streaming",
                "--input",
                "book",
                "--output",
                "out",
                "--",
                "--mapper",
                "echo why >&2; exit 3",
            ],
            "exit status: 3; it has said: why",
        ),
        (
            &[
                "streaming",
                "--input",
                "book",
                "--output",
                "out",
                "--",
                "--mapper",
                "kill -SEGV $$",
            ],
            "signal: 11",
        ),
        (
            &[
                "streaming",
                "--input",
                "book",
                "--output",
                "out",
                "--",
                "--mapper",
                "cat",
                "--reducer",
                "exit 1",
            ],
            "reduce function",
        ),
    ]);
    for (arguments, expected) in cases {
        let said = place.refused(arguments);
        assert!(
            said.starts_with("error: ") || said.contains("\nerror: "),
            "{said}"
        );
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(place.output("done"), ["x"]);
}

#[test]
fn output_in_a_directory_that_may_not_be_read_is_refused_and_not_there() {
    let place = Place::new().with("book", BOOK);
    let rights = |name: &str, mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(place.path(name), mode).expect("it is ours");
    };
    fs::create_dir(place.path("drop")).expect("a directory");
    rights("drop", 0o333);
    let job = [
        "run",
        "wordcount",
        "--input",
        "book",
        "--output",
        "drop/out",
    ];
    let mut command = place.command(&job);
    if rustix::process::geteuid().is_root() {
        // Rights bind others only, who need a program that they may run.
        let (from, to) = (env!("CARGO_BIN_EXE_mapreduce"), place.path("program"));
        fs::hard_link(from, &to)
            .or_else(|_| fs::copy(from, &to).map(drop))
            .expect("a program");
        rights(".", 0o755);
        command = Command::new(to);
        command.args(job).current_dir(place.directory.path());
        command.uid(65_534).gid(65_534);
    }
    let out = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("error: output: failed to open"), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    rights("drop", 0o755);
    assert!(names(&place.path("drop")).is_empty(), "{said}");
}

#[test]
fn damaged_inputs_name_the_file_and_the_octet() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&BOOK.repeat(1000).into_bytes())
        .expect("memory");
    let mut gzip = gzip.finish().expect("memory");
    gzip.truncate(gzip.len() / 2);
    let long = "x".repeat((64 << 20) + 1);
    let place = Place::new()
        .with("cut.gz", gzip)
        .with("no.zst", b"\x28\xB5\x2F\xFDnonsense")
        .with("long", format!("short\n{long}\nshort\n"))
        .with("pages/big.html", &long);
    let run = |job, input| place.refused(&[job, "--input", input, "--output", "out"]);
    let cut = run("wordcount", "cut.gz");
    assert!(cut.contains("cut.gz, octet "), "{cut}");
    let no = run("wordcount", "no.zst");
    assert!(no.contains("no.zst, octet 0"), "{no}");
    let long = run("wordcount", "long");
    assert!(
        long.contains("long, octet 6: a line of 67108864 octets or more"),
        "{long}"
    );
    let big = run("linkgraph", "pages");
    assert!(
        big.contains("pages/big.html, octet 0: a file of more than"),
        "{big}"
    );
}

#[test]
fn empty_input_gives_empty_files_and_any_octets_are_data() {
    let place = Place::new()
        .with("empty", "")
        .with("binary", b"\x00\xFF\x00 \n\xFE\r\n");
    let empty = [
        "wordcount",
        "--input",
        "empty",
        "--output",
        "out",
        "--reduces",
        "3",
    ];
    assert!(place.done(&empty).is_empty());
    let files = [
        "_MANIFEST",
        "_SUCCESS",
        "part-00000",
        "part-00001",
        "part-00002",
    ];
    assert_eq!(names(&place.path("out")), files);
    let none = ["grep", "--input", "empty", "--output", "none", "--", "x"];
    place.done(&none);
    assert_eq!(names(&place.path("none")), ["_MANIFEST", "_SUCCESS"]);
    let binary = [
        "wordcount",
        "--input",
        "binary",
        "--output",
        "out",
        "--overwrite",
    ];
    place.done(&binary);
    let found = fs::read(place.path("out/part-00000")).expect("a file");
    assert_eq!(found, b"\x00\xFF\x00\t1\n\xFE\t1\n");
}

/// Waits until a program of a job says that it runs, by a file that it makes.
fn until_it_runs(place: &Place) {
    let watch = std::time::Instant::now();
    while !place.path("runs").exists() {
        assert!(watch.elapsed().as_secs() < 60, "the program does not run");
        std::thread::yield_now();
    }
}

#[test]
fn job_that_is_interrupted_ends_its_programs_and_leaves_nothing() {
    let place = Place::new().with("book", BOOK);
    let hangs = "echo $$ > pid; touch runs; exec sleep 1000";
    let job = [
        "run",
        "streaming",
        "--input",
        "book",
        "--output",
        "out",
        "--",
        "--mapper",
        hangs,
    ];
    let child = place
        .command(&job)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    until_it_runs(&place);
    let id = Pid::from_raw(i32::try_from(child.id()).expect("an id")).expect("an id");
    kill_process(id, Signal::INT).expect("it runs");
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(
        said,
        "error: interrupted: the job has ended, and leaves nothing\n"
    );
    assert_eq!(names(place.directory.path()), ["book", "pid", "runs"]);
    let pid = fs::read_to_string(place.path("pid")).expect("a file");
    assert!(
        !Path::new("/proc").join(pid.trim()).exists(),
        "the program was left"
    );
}

#[test]
fn job_that_is_killed_has_no_output_and_the_next_one_has_all() {
    let place = Place::new().with("book", BOOK);
    let hangs = "echo $$ > pid; touch runs; exec sleep 1000";
    let job = [
        "run",
        "streaming",
        "--input",
        "book",
        "--output",
        "out",
        "--",
        "--mapper",
        hangs,
    ];
    let mut child = place.command(&job).spawn().expect("it starts");
    until_it_runs(&place);
    child.kill().expect("it runs");
    child.wait().expect("it ended");
    let left = fs::read_to_string(place.path("pid")).expect("a file");
    let left = left
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .expect("an id");
    kill_process(left, Signal::KILL).expect("it is ours");
    assert!(!place.path("out").exists());
    assert_eq!(
        place.done(&["wordcount", "--input", "book", "--output", "out"]),
        COUNTS
    );
}

#[test]
fn whoever_asks_a_group_that_is_not_there_is_told_so() {
    let place = Place::new();
    // Nobody listens at this port.
    let out = place.run(&["list", "--endpoints", "127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{said}");
    assert!(
        said.contains("error: the group is not reached for"),
        "{said}"
    );
    assert!(out.stdout.is_empty());
}
