//! Jobs whose input and output are in buckets, against an S3 server that each test starts on
//! loopback, with signatures checked. What it stores are files, which tests look at directly.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;

const KEY: &str = "key";
const SECRET: &str = "secret";

/// What the server answers. It keeps objects as files, and fails when it is asked for a directory
/// as an object; S3 knows no directories.
async fn answer(
    service: S3Service,
    root: PathBuf,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<s3s::Body>, s3s::HttpError> {
    let path = root.join(request.uri().path().trim_start_matches('/'));
    if request.method() == hyper::Method::HEAD && path.is_dir() {
        let mut none = hyper::Response::new(s3s::Body::empty());
        *none.status_mut() = hyper::StatusCode::NOT_FOUND;
        return Ok(none);
    }
    service.call(request.map(s3s::Body::from)).await
}

/// An S3 server with the bucket `data`, and a directory in which commands are run.
struct Place {
    directory: TempDir,
    server: Option<tokio::runtime::Runtime>,
    address: SocketAddr,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let root = directory.path().join("s3");
        fs::create_dir_all(root.join("data")).expect("a directory");
        fs::create_dir_all(directory.path().join("tmp")).expect("a directory");
        let store = s3s_fs::FileSystem::new(&root).expect("a store");
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let root = root.canonicalize().expect("a directory");
        let server = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = server.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        server.spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("it listens");
                let http = hyper::server::conn::http1::Builder::new();
                let (service, root) = (service.clone(), root.clone());
                let answer =
                    service_fn(move |request| answer(service.clone(), root.clone(), request));
                // A connection that ends in an error is the client's affair.
                tokio::spawn(http.serve_connection(TokioIo::new(socket), answer));
            }
        });
        Self {
            directory,
            server: Some(server),
            address,
        }
    }

    /// Ends the server and its connections, as if it was killed.
    fn kill_server(&mut self) {
        let server = self.server.take().expect("it runs");
        server.shutdown_timeout(Duration::from_secs(10));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An object, for `s3/data/...`, or a file.
    fn with(self, name: &str, what: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is inside")).expect("a directory");
        fs::write(path, what).expect("a file");
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_mapreduce")), arguments)
    }

    /// Of another binary with jobs.
    fn command_of(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("TMPDIR", self.path("tmp"))
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
            .env("AWS_ALLOW_HTTP", "true");
        command
    }

    /// Runs a job to its end.
    fn done(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let out = self.command(&arguments).output().expect("it starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {said}");
    }

    /// Runs a job that is refused or fails, and leaves everything as it was; what it says.
    fn refused(&self, arguments: &[&str]) -> String {
        let before = self.everything();
        let out = self.command(arguments).output().expect("it starts");
        let said = failed(&out);
        assert_eq!(self.everything(), before, "{arguments:?}: {said}");
        said
    }

    /// All files, of the server too: objects, and what it keeps of unfinished uploads.
    fn everything(&self) -> BTreeSet<PathBuf> {
        let mut all = BTreeSet::new();
        let mut directories = vec![self.directory.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    all.insert(path);
                }
            }
        }
        all
    }

    /// The data of an output, by the order of its names: in a directory, or below a prefix.
    fn output(&self, name: &str) -> Vec<Vec<u8>> {
        let names = names(&self.path(name));
        let parts = names.iter().filter(|name| name.starts_with("part-"));
        let read = |part: &String| fs::read(self.path(name).join(part)).expect("a file");
        parts.map(read).collect()
    }

    /// Starts a job whose program, the mapper or the reducer, waits for a file `go` when it has
    /// said that it runs.
    fn waiting(&self, input: &str, output: &str, shape: &[&str], program: &str) -> Child {
        let waits = "touch runs; until [ -e go ]; do sleep 0.05; done; cat";
        let job = ["run", "streaming", "--input", input, "--output", output];
        let programs = match program {
            "--mapper" => ["--", "--mapper", waits, "--reducer", "cat"],
            _ => ["--", "--mapper", "cat", "--reducer", waits],
        };
        let one = ["--threads", "1"];
        let mut command = self.command(&[&job[..], shape, &one, &programs].concat());
        let child = command.stderr(Stdio::piped()).stdout(Stdio::piped());
        let child = child.spawn().expect("it starts");
        let watch = Instant::now();
        while !self.path("runs").exists() {
            assert!(watch.elapsed().as_secs() < 60, "the program does not run");
            std::thread::yield_now();
        }
        child
    }

    /// Lets the program go on, to the end of its job.
    fn go(&self, child: Child) -> Output {
        fs::write(self.path("go"), "").expect("a file");
        child.wait_with_output().expect("it ends")
    }
}

fn failed(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    said
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Text of lines of many lengths, so that splits end within them.
fn text() -> String {
    let words = (0..60_000_u64).map(|at| format!("w{} ", at.wrapping_mul(at) % 4_099));
    let mut text = String::new();
    for (at, word) in words.enumerate() {
        text.push_str(&word);
        if at % 37 == 0 || at % 101 == 0 {
            text.push('\n');
        }
    }
    text
}

fn gzip(what: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(what.as_bytes()).expect("memory");
    gzip.finish().expect("memory")
}

/// The same input as files and as objects.
fn place_with_text() -> Place {
    let mut place = Place::new();
    for root in ["in", "s3/data/in"] {
        place = place
            .with(&format!("{root}/a.txt"), text())
            .with(&format!("{root}/a/deeper.txt"), "w1 deeper\n")
            .with(&format!("{root}/b.gz"), gzip(&text()))
            .with(&format!("{root}/empty"), "")
            .with(&format!("{root}/.hidden"), "hidden")
            .with(&format!("{root}/_logs/x"), "logs");
    }
    place
}

#[test]
fn buckets_give_the_same_octets_as_files_in_whatever_splits() {
    let place = place_with_text();
    let shape = "--reduces 3 --split-size 10000 --memory 1MiB";
    place.done(&format!("run wordcount --input in --output out {shape}"));
    place.done(&format!(
        "run wordcount --input s3://data/in --output s3://data/out {shape}"
    ));
    let expected = place.output("out");
    assert_eq!(expected.len(), 3);
    assert!(expected.iter().all(|part| part.len() > 1000));
    assert_eq!(place.output("s3/data/out"), expected);
    let objects = names(&place.path("s3/data/out"));
    assert_eq!(&objects[..2], ["_MANIFEST", "_SUCCESS"]);
    let manifest = fs::read(place.path("s3/data/out/_MANIFEST")).expect("an object");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let files = manifest["files"].as_array().expect("a list").iter();
    let files: Vec<_> = files.filter_map(|file| file["name"].as_str()).collect();
    assert_eq!(files, &objects[2..]);
    // From files to objects and back, by other names of the same.
    let others = "s3://data/in/*.* s3://data/in/a/ s3://data/in/empty";
    place.done(&format!(
        "run wordcount --input {others} --output back {shape}"
    ));
    assert_eq!(place.output("back"), expected);
    let url = format!("file://{}", place.path("in").display());
    place.done(&format!(
        "run wordcount --input {url} --output s3://data/to {shape}"
    ));
    assert_eq!(place.output("s3/data/to"), expected);
    assert!(
        names(&place.path("tmp")).is_empty(),
        "a scratch directory is left"
    );
}

#[test]
fn output_in_a_bucket_is_what_its_manifest_names() {
    let place = Place::new().with("book", "b\na\nc\n");
    place.done("run sort --input book --output s3://data/one");
    // What an attempt left that lost, and an object that was put there by hand.
    let place = place
        .with("s3/data/one/part-00000-other", "lost\n")
        .with("s3/data/one/deeper/x", "by hand\n");
    for (input, output) in [("one", "two"), ("", "three"), ("o*", "four")] {
        place.done(&format!(
            "run sort --input s3://data/{input} --output {output}"
        ));
        assert_eq!(place.output(output), [b"a\nb\nc\n"], "{input}");
    }
    let kept = names(&place.path("s3/data/one"));
    let part = kept
        .iter()
        .find(|name| name.starts_with("part-") && *name != "part-00000-other");
    let part = place.path("s3/data/one").join(part.expect("a part"));
    fs::write(&part, "a\n").expect("an object");
    let job = [
        "run",
        "sort",
        "--input",
        "s3://data/one",
        "--output",
        "five",
    ];
    let said = place.refused(&job);
    assert!(
        said.contains("with the 6 octets that _MANIFEST says; make the output again"),
        "{said}"
    );
}

#[test]
fn outputs_that_exist_are_refused_or_replaced_as_a_whole() {
    let place = Place::new()
        .with("book", "b a\n")
        .with("s3/data/any/thing", "x")
        .with("s3/data/other/keep", "x");
    let to = |output| ["run", "wordcount", "--input", "book", "--output", output];
    let said = place.refused(&to("s3://data/any"));
    let what = "output s3://data/any exists: 1 objects, such as any/thing: name another prefix";
    assert!(said.contains(what), "{said}");
    for bucket in ["s3://data", "s3://data/"] {
        let said = place.refused(&[&to(bucket)[..], &["--overwrite"]].concat());
        assert!(said.contains("name a path in the bucket"), "{said}");
    }
    place.done("run wordcount --input book --output s3://data/any --overwrite --reduces 4");
    let first = names(&place.path("s3/data/any"));
    assert_eq!(first.len(), 6, "{first:?}");
    place.done("run wordcount --input book --output s3://data/any --overwrite --reduces 2");
    let second = names(&place.path("s3/data/any"));
    assert_eq!(second.len(), 4, "{second:?}");
    assert_eq!(
        place.output("s3/data/any").concat().len(),
        b"a\t1\nb\t1\n".len()
    );
    assert_eq!(names(&place.path("s3/data/other")), ["keep"]);
    // An output with no records in it has its files all the same.
    let place = place.with("nothing", "");
    place.done("run wordcount --input nothing --output s3://data/empty --reduces 2");
    assert_eq!(place.output("s3/data/empty"), [b"", b""]);
}

#[test]
fn what_is_wrong_with_a_url_is_said_with_what_to_do() {
    let place = Place::new().with("s3/data/book", "a\n");
    let (input, output) = ("s3://data/book", "out");
    for (input, output, expected) in [
        (
            "s3://data/no",
            output,
            "input s3://data/no: there is no such object, and none below it; see",
        ),
        (
            "s3://data/n*",
            output,
            "input s3://data/n*: no file matches",
        ),
        (
            "s3://nowhere/book",
            output,
            "there is no such bucket; create it, or correct",
        ),
        (
            input,
            "s3://nowhere/out",
            "output s3://nowhere/out: there is no such bucket; create",
        ),
        (
            "hdfs://data/book",
            output,
            "input hdfs://data/book: hdfs:// is not known: s3, gs, az",
        ),
        ("s3:///book", output, "no bucket is named: s3://BUCKET/PATH"),
        ("s3://data/a//b", output, "name it without empty parts"),
        (input, "ftp://x/y", "output ftp://x/y: ftp:// is not known"),
    ] {
        let said = place.refused(&["run", "wordcount", "--input", input, "--output", output]);
        assert!(said.contains(expected), "{input} {output}: {said}");
    }
    let run = ["run", "wordcount", "--input", input, "--output", output];
    let mut denied = place.command(&run);
    let said = failed(
        &denied
            .env("AWS_SECRET_ACCESS_KEY", "wrong")
            .output()
            .expect("it starts"),
    );
    assert!(
        said.contains("input s3://data/book: ") && said.contains("give credentials"),
        "{said}"
    );
    let mut plain = place.command(&run);
    let said = failed(
        &plain
            .env_remove("AWS_ALLOW_HTTP")
            .output()
            .expect("it starts"),
    );
    assert!(said.contains("AWS_ALLOW_HTTP=true for http"), "{said}");
    assert!(!place.path("out").exists());
}

#[test]
fn job_that_fails_leaves_no_object_and_no_unfinished_upload() {
    let place = Place::new().with("book", "a\nb\n");
    // The first task is done; the second one has sent more than a part of an upload, and fails.
    let floods = "[ $mapreduce_task_partition = 0 ] && exec cat; \
                  yes flood | head -c 20000000; exit 3";
    let job = ["run", "streaming", "--input", "book", "--output"];
    let shape = ["s3://data/out", "--reduces", "2", "--threads", "1"];
    let programs = ["--", "--mapper", "cat", "--reducer", floods];
    let said = place.refused(&[&job[..], &shape, &programs].concat());
    assert!(said.contains("exit status: 3"), "{said}");
    assert!(!said.contains("could not be ended"), "{said}");
}

#[test]
fn job_that_is_interrupted_ends_its_uploads_and_leaves_nothing() {
    let place = Place::new().with("book", "a\n");
    let before = place.everything();
    let job = place.waiting("book", "s3://data/out", &[], "--reducer");
    let uploads = |all: BTreeSet<PathBuf>| {
        let names = all.into_iter().filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            name.starts_with(".upload").then_some(name)
        });
        names.count()
    };
    assert_eq!(uploads(place.everything()), 1, "it has begun its upload");
    let id = Pid::from_raw(i32::try_from(job.id()).expect("an id")).expect("an id");
    kill_process(id, Signal::INT).expect("it runs");
    let said = failed(&job.wait_with_output().expect("it ends"));
    assert!(said.contains("ended"), "{said}");
    fs::remove_file(place.path("runs")).expect("the program made it");
    assert_eq!(place.everything(), before, "{said}");
}

#[test]
fn of_two_jobs_for_one_output_the_second_to_be_done_has_none() {
    let place = Place::new().with("book", "slow\n").with("other", "fast\n");
    let slow = place.waiting("book", "s3://data/out", &[], "--reducer");
    place.done("run wordcount --input other --output s3://data/out");
    let before = names(&place.path("s3/data/out"));
    let said = failed(&place.go(slow));
    assert!(
        said.contains("another job has put its output there"),
        "{said}"
    );
    assert_eq!(place.output("s3/data/out"), [b"fast\t1\n"]);
    assert_eq!(names(&place.path("s3/data/out")), before);
    let kept = names(&place.path("s3"));
    assert!(
        !kept.iter().any(|name| name.starts_with(".upload")),
        "{kept:?}"
    );
}

#[test]
fn object_that_changes_while_a_job_reads_it_ends_the_job() {
    let place = Place::new().with("s3/data/book", "a\nb\n");
    let job = place.waiting("s3://data/book", "out", &["--split-size", "2"], "--mapper");
    // The second split is read when the first one's program has ended.
    let place = place.with("s3/data/book", "c\nd\n");
    let said = failed(&place.go(job));
    let what = "s3://data/book: it has changed since the job began; leave inputs as they are";
    assert!(said.contains(what), "{said}");
    assert!(!place.path("out").exists());
}

#[test]
fn chain_goes_through_a_bucket_and_goes_on_from_there() {
    let chain = "[[step]]\nname = \"count\"\njob = \"wordcount\"\ninput = [\"book\"]\n\
                 reduces = 2\noutput = \"s3://data/counts\"\nkeep = true\n\
                 [[step]]\nname = \"order\"\njob = \"sort\"\ninput = [\"step:count\"]\n\
                 output = \"out\"\nkeep = true\n";
    let place = Place::new()
        .with("book", "b a\nc b\n")
        .with("chain.toml", chain);
    place.done("run --chain chain.toml");
    assert_eq!(place.output("out"), [b"a\t1\nb\t2\nc\t1\n"]);
    let counts = names(&place.path("s3/data/counts"));
    let place = place.with("s3/data/counts/part-00009-stray", "stray\t1\n");
    fs::remove_dir_all(place.path("out")).expect("it is there");
    place.done("run --chain chain.toml");
    assert_eq!(place.output("out"), [b"a\t1\nb\t2\nc\t1\n"]);
    let mut after = names(&place.path("s3/data/counts"));
    after.retain(|name| name != "part-00009-stray");
    assert_eq!(after, counts, "the first step was run again");
}

#[test]
fn side_files_are_objects_that_nobody_reads_as_data() {
    let example = Path::new(env!("CARGO_BIN_EXE_mapreduce")).with_file_name("examples/candidates");
    let what = "build it first: cargo build -p mapreduce --examples";
    assert!(example.exists(), "{what}");
    let place = Place::new().with("book", "one\ta b\ntwo\t--\nthree\tc\n");
    let job = ["run", "find", "--input", "book", "--output"];
    let mut command = place.command_of(&example, &job);
    let out = command.arg("s3://data/found").output().expect("it starts");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let found = names(&place.path("s3/data/found"));
    assert_eq!(found.len(), 4, "{found:?}");
    let side = &found[2];
    assert!(side.starts_with("_none-m-00000-"), "{found:?}");
    let side = fs::read(place.path("s3/data/found").join(side)).expect("an object");
    assert_eq!(side, b"two\n");
    place.done("run sort --input s3://data/found --output data");
    let data = [b"one\ta\none\ta b\none\tb\nthree\tc\n"];
    assert_eq!(place.output("data"), data);
    place.done("run sort --input s3://data/found/_none-* --output aside");
    assert_eq!(place.output("aside"), [b"two\n"]);
}

#[test]
fn server_that_goes_away_ends_the_job_in_bounded_time_with_its_url() {
    let mut place = Place::new()
        .with("book", "a\n")
        .with("s3/data/book", "a\n".repeat(1000));
    // It has begun its upload, and has not sent anything of it.
    let child = place.waiting("s3://data/book", "s3://data/out", &[], "--reducer");
    place.kill_server();
    let watch = Instant::now();
    let said = failed(&place.go(child));
    assert!(
        watch.elapsed() < Duration::from_secs(90),
        "{:?}",
        watch.elapsed()
    );
    assert!(said.contains("s3://data/out/part-00000-"), "{said}");
    assert!(said.contains("see that the server is there"), "{said}");
    assert!(said.contains("could not be ended, and take room"), "{said}");
    let job = [
        "run",
        "wordcount",
        "--input",
        "s3://data/book",
        "--output",
        "out",
    ];
    let watch = Instant::now();
    let said = place.refused(&job);
    assert!(
        watch.elapsed() < Duration::from_mins(1),
        "{:?}",
        watch.elapsed()
    );
    assert!(said.contains("input s3://data/book: "), "{said}");
    assert!(said.contains("refused"), "{said}");
}
