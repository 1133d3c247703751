//! Jobs whose inputs and outputs are in buckets, by workers that share no directory: against an S3
//! server on loopback, which keeps objects as files that the tests look at.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::{eventually, eventually_some, run};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;

use super::{Environment, PATIENCE, Place, text};
use crate::beside::{Process, cfgctl, start_command};

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

/// An S3 server with the bucket `data`.
pub(super) struct Buckets {
    directory: TempDir,
    address: SocketAddr,
    _server: tokio::runtime::Runtime,
}

impl Buckets {
    pub(super) fn start() -> Result<Self> {
        let directory = TempDir::new()?;
        let root = directory.path().canonicalize()?;
        fs::create_dir(root.join("data"))?;
        let store = s3s_fs::FileSystem::new(&root).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let server = tokio::runtime::Runtime::new()?;
        let listener = server.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        server.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let http = hyper::server::conn::http1::Builder::new();
                let (service, root) = (service.clone(), root.clone());
                let answer =
                    service_fn(move |request| answer(service.clone(), root.clone(), request));
                // A connection that ends in an error is the client's affair.
                tokio::spawn(http.serve_connection(TokioIo::new(socket), answer));
            }
        });
        Ok(Self {
            directory,
            address,
            _server: server,
        })
    }

    fn environment(&self) -> Environment {
        vec![
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// A group whose masters, workers and people know this server.
    pub(super) fn place(&self, members: usize, masters: usize, workers: usize) -> Result<Place> {
        Place::in_environment(members, (masters, workers), &[], &self.environment())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    /// Puts an object.
    fn put(&self, name: &str, what: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("it is in the bucket")?)?;
        Ok(fs::write(path, what)?)
    }

    /// All objects below a name, by what comes after it; and uploads that are not ended.
    pub(super) fn all(&self, below: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let root = self.path(below);
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            // What goes meanwhile is not there.
            for path in entries(&directory) {
                if path.is_dir() {
                    directories.push(path);
                } else if let (Ok(name), Ok(octets)) = (path.strip_prefix(&root), fs::read(&path)) {
                    found.insert(name.display().to_string(), octets);
                }
            }
        }
        for path in entries(self.directory.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(".upload") {
                found.insert(name.into_owned(), Vec::new());
            }
        }
        found
    }

    /// The files of an output by what they are called but for the job's own part, as its manifest
    /// names them; there is nothing else.
    fn output(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut all = self.all(name);
        let manifest = all.remove("_MANIFEST").context("a manifest")?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        ensure!(all.remove("_SUCCESS").is_some(), "no _SUCCESS");
        let mut output = BTreeMap::new();
        for list in ["files", "side_files"] {
            for file in manifest[list].as_array().into_iter().flatten() {
                let name = file["name"].as_str().context("a name")?;
                let octets = all.remove(name).with_context(|| name.to_owned())?;
                ensure!(
                    file["octets"].as_u64() == Some(octets.len() as u64),
                    "{name}"
                );
                let (file, _) = name.rsplit_once('-').context("a name of its own")?;
                output.insert(file.to_owned(), octets);
            }
        }
        ensure!(all.is_empty(), "there is more: {:?}", all.keys());
        Ok(output)
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Submits a job whose output goes to `s3://data/NAME`.
fn submit(place: &Place, program: &str, job: &[&str], to: &str, more: &[&str]) -> Result<String> {
    let to = format!("s3://data/{to}");
    let (name, arguments) = job.split_first().context("a job")?;
    let submitted = [&["submit", name, "--output", &to], more, arguments].concat();
    let ran = run(&mut place.command(program, &submitted)?)?;
    ensure!(ran.code == Some(0), "{job:?}: {ran}\n{}", place.logs());
    Ok(ran.stdout)
}

fn refused(place: &Place, arguments: &[&str]) -> String {
    let ran = place.mapreduce(arguments).expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}\n{}", place.logs());
    ran.stderr
}

#[test]
fn workers_with_no_common_directory_give_what_one_machine_does() {
    let buckets = Buckets::start().expect("a server");
    let place = buckets.place(1, 1, 2).expect("a group");
    buckets.put("in/a", text(1, 3000)).expect("an object");
    buckets.put("in/b", text(2, 500)).expect("an object");
    let script = place
        .input(
            "words.awk",
            "{ for (i = 1; i <= NF; i++) print $i \"\\t1\" }",
        )
        .expect("a file");
    let input = ["--input", "s3://data/in", "--split-size", "30k"];
    let reduces = [&input[..], &["--reduces", "3"]].concat();
    let files = [&reduces[..], &["--file", &script]].concat();
    let awk = ["streaming", "--", "--mapper", "awk -f words.awk"];
    let awk = [&awk[..], &["--reducer", "uniq -c"]].concat();
    // A program, its job, and what it is run with here, and there.
    let cases: [(&str, [&[&str]; 3]); 4] = [
        ("mapreduce", [&["sort"], &reduces, &reduces]),
        ("mapreduce", [&["grep", "--", "w1 .*w2 "], &input, &input]),
        ("test-jobs", [&["marks"], &reduces, &reduces]),
        ("mapreduce", [&awk, &reduces, &files]),
    ];
    for (number, (program, [job, here, there])) in cases.into_iter().enumerate() {
        let expected = place.run_here(program, job, here).expect("it runs");
        let to = format!("out/{number}");
        let check = || -> Result<()> {
            submit(&place, program, job, &to, there)?;
            ensure!(buckets.output(&to)? == expected, "it gives something else");
            Ok(())
        };
        check().unwrap_or_else(|error| panic!("{job:?}: {error:#}\n{}", place.logs()));
    }
    replaced_and_read(&buckets, &place, &reduces);
}

#[test]
fn records_that_are_left_out_are_listed_in_the_bucket() {
    let buckets = Buckets::start().expect("a server");
    let place = buckets.place(1, 1, 1).expect("a group");
    buckets.put("in", "one\nboom\ntwo\n").expect("an object");
    let skips = ["--input", "s3://data/in", "--skip-bad-records", "5"];
    submit(&place, "test-jobs", &["aborts"], "out", &skips).expect("it is done");
    let mut all = buckets.all("out");
    let listed = all.remove("_SKIPPED").expect("a list");
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("JSON");
    let expected = (Some("s3://data/in"), Some("boom"));
    let found = (listed["input"].as_str(), listed["begins"].as_str());
    assert_eq!((found, listed["offset"].as_u64()), (expected, Some(4)));
    let output = all.into_iter().find(|(name, _)| name.starts_with("part-"));
    assert_eq!(output.expect("a file").1, b"one\t1\ntwo\t1\n");
    // A directory may be named by a URL.
    let url = format!("file://{}", place.path("there"));
    let job = [
        "submit",
        "wordcount",
        "--input",
        "s3://data/in",
        "--output",
        &url,
    ];
    let ran = place.mapreduce(&job).expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    let there = super::parts(&place.path("there")).expect("an output");
    assert_eq!(there["part-00000"], b"boom\t1\none\t1\ntwo\t1\n");
}

/// An output that is there is refused, or replaced as a whole; and who reads it reads just that.
fn replaced_and_read(buckets: &Buckets, place: &Place, settings: &[&str]) {
    let before = buckets.all("out/0");
    let job = ["submit", "wordcount", "--output", "s3://data/out/0"];
    let said = refused(place, &[&job[..], settings].concat());
    assert!(said.contains("s3://data/out/0 exists: 5 objects"), "{said}");
    assert_eq!(buckets.all("out/0"), before);
    buckets.put("out/0/deeper/x", "by hand").expect("an object");
    let expected = place.run_here("mapreduce", &["wordcount"], settings);
    let overwrite = [settings, &["--overwrite"]].concat();
    submit(place, "mapreduce", &["wordcount"], "out/0", &overwrite).expect("it is done");
    let output = buckets.output("out/0").expect("an output");
    assert_eq!(output, expected.expect("it runs"));
    // What lost, and was not deleted yet.
    let lost = "out/0/part-00000-0123456789ab.1.1";
    buckets.put(lost, "lost\t1\n").expect("an object");
    let input = ["--input", "s3://data/out/0", "--reduces", "1"];
    let read = place.run_here("mapreduce", &["sort"], &input);
    let read = read.expect("it runs").into_values().collect::<Vec<_>>();
    let mut lines: Vec<_> = output.values().flat_map(|part| lines(part)).collect();
    lines.sort();
    assert_eq!(read, [lines.concat()]);
}

fn lines(octets: &[u8]) -> Vec<Vec<u8>> {
    let lines = octets.split_inclusive(|octet| *octet == b'\n');
    lines.map(<[u8]>::to_vec).collect()
}

#[test]
fn output_is_the_same_when_a_master_and_a_worker_are_killed() {
    let buckets = Buckets::start().expect("a server");
    let mut place = buckets.place(1, 2, 2).expect("a group");
    buckets.put("in", text(3, 9000)).expect("an object");
    let settings = ["--input", "s3://data/in", "--split-size", "20k"];
    let settings = [&settings[..], &["--reduces", "4"]].concat();
    let expected = place.run_here("mapreduce", &["wordcount"], &settings);
    let expected = expected.expect("it runs");
    let mut submitted = begin(&place, "slow", "out", &settings).expect("it starts");
    // A machine that is busy may look when more are done.
    eventually(PATIENCE, "some maps", || maps_done(&place) >= Some(3))
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    let unfinished = place.run_here("mapreduce", &["sort"], &["--input", "s3://data/out"]);
    let unfinished = unfinished.expect_err("there is no output yet").to_string();
    let what = "s3://data/out: the job that writes it is not done";
    assert!(unfinished.contains(what), "{unfinished}");
    place.workers[0].kill();
    for master in 0..2 {
        place.masters[master].kill();
        let directory = place.directory();
        place.masters[master].start(&directory).expect("it starts");
    }
    let directory = place.directory();
    place.workers[0].start(&directory).expect("it starts");
    let ended = ended(&mut submitted);
    let said = fs::read_to_string(place.path("submit.log")).expect("a log");
    assert_eq!(ended, Some(0), "{said}\n{}", place.logs());
    let output = buckets.output("out").expect("an output");
    assert_eq!(output, expected);
}

#[test]
fn object_that_changes_while_a_job_reads_it_ends_the_job() {
    let buckets = Buckets::start().expect("a server");
    let place = buckets.place(1, 1, 1).expect("a group");
    buckets.put("in", text(3, 9000)).expect("an object");
    let settings = [
        "--input",
        "s3://data/in",
        "--split-size",
        "20k",
        "--attempts",
        "1",
    ];
    let mut submitted = begin(&place, "slow", "out", &settings).expect("it starts");
    eventually(PATIENCE, "some maps", || maps_done(&place) >= Some(1))
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    // As long as it was.
    buckets.put("in", text(4, 9000)).expect("an object");
    let ended = ended(&mut submitted);
    let said = fs::read_to_string(place.path("submit.log")).expect("a log");
    assert_eq!(ended, Some(1), "{said}\n{}", place.logs());
    assert!(said.contains("s3://data/in"), "{said}");
    assert!(said.contains("changed"), "{said}");
    let is_clean = || buckets.all("out").is_empty();
    eventually(PATIENCE, "nothing to be left", is_clean)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
}

/// Maps of the only job that are done.
fn maps_done(place: &Place) -> Option<u64> {
    let listed = place.mapreduce(&["list", "-o", "json"]).ok()?;
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).ok()?;
    listed.get(0)?.pointer("/maps/done")?.as_u64()
}

/// Starts to submit a job of the tests.
fn begin(place: &Place, job: &str, to: &str, settings: &[&str]) -> Result<Process> {
    let to = format!("s3://data/{to}");
    let arguments = [&["submit", job, "--output", &to], settings].concat();
    let mut command = place.command("test-jobs", &arguments)?;
    start_command(&mut command, &place.directory(), "submit.log")
}

fn ended(process: &mut Process) -> Option<i32> {
    let ended = eventually_some(3 * PATIENCE, "the job", || {
        process.0.try_wait().ok().flatten()
    });
    ended.expect("it ends").code()
}

#[test]
fn job_that_fails_or_is_cancelled_leaves_nothing_in_the_bucket() {
    let buckets = Buckets::start().expect("a server");
    let mut place = buckets.place(1, 1, 2).expect("a group");
    buckets.put("in", text(4, 3000)).expect("an object");
    buckets.put("out/before", "x").expect("an object");
    let settings = [
        "--input",
        "s3://data/in",
        "--split-size",
        "20k",
        "--overwrite",
    ];
    // The first reduce is done; the second has sent more than a part of an upload, and fails.
    let floods = "[ $mapreduce_task_partition = 0 ] && exec cat; \
                  yes flood | head -c 20000000; exit 3";
    let job = [
        "submit",
        "streaming",
        "--output",
        "s3://data/out",
        "--reduces",
        "2",
    ];
    let programs = ["--", "--mapper", "cat", "--reducer", floods];
    let said = refused(&place, &[&job[..], &settings, &programs].concat());
    assert!(said.contains("exit status: 3"), "{said}");
    only_before(&buckets, &place);
    // A worker is killed while it uploads, and is not there any more.
    let floods = format!(
        "yes flood | head -c 20000000; touch {}; exec sleep 600",
        place.path("up")
    );
    let programs = ["--", "--mapper", "cat", "--reducer", &floods];
    let detached = ["--detach", "--reduces", "1"];
    let job = ["submit", "streaming", "--output", "s3://data/out"];
    let ran = place.mapreduce(&[&job[..], &detached, &settings, &programs].concat());
    let key = ran.and_then(cfgsvc_tests::harness::Ran::success);
    let key = key.expect("it is submitted").trim().to_owned();
    let has_upload = || {
        buckets
            .all("out")
            .keys()
            .any(|name| name.contains("/uploads/"))
    };
    eventually(PATIENCE, "an upload", has_upload)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    for worker in &mut place.workers {
        worker.kill();
    }
    let ran = place.mapreduce(&["cancel", &key]).expect("it ends");
    ran.success().expect("it is cancelled");
    only_before(&buckets, &place);
}

/// There is what was there before, and nothing else.
fn only_before(buckets: &Buckets, place: &Place) {
    let before = BTreeMap::from([("before".to_owned(), b"x".to_vec())]);
    eventually(PATIENCE, "nothing to be left", || {
        buckets.all("out") == before
    })
    .unwrap_or_else(|error| {
        let left = buckets.all("out").into_keys().collect::<Vec<_>>();
        panic!("{error}: {left:?}\n{}", place.logs())
    });
}

#[test]
fn output_whose_place_is_taken_is_given_up_by_a_person() {
    let buckets = Buckets::start().expect("a server");
    let place = buckets.place(1, 1, 1).expect("a group");
    buckets.put("in", "a b a\n").expect("an object");
    let go = place.path("go");
    let waits = format!("until [ -e {go} ]; do sleep 0.05; done; cat");
    let input = ["--input", "s3://data/in", "--output", "s3://data/out"];
    let job = ["submit", "streaming", "--detach"];
    let programs = ["--", "--mapper", "cat", "--reducer", &waits];
    let ran = place.mapreduce(&[&job[..], &input, &programs].concat());
    let key = ran.and_then(cfgsvc_tests::harness::Ran::success);
    let key = key.expect("it is submitted").trim().to_owned();
    // Another program does not know that there will be an output.
    buckets
        .put("out/_MANIFEST", "{\"files\":[]}")
        .expect("an object");
    fs::write(&go, "").expect("a file");
    let mut said = String::new();
    let is_said = || {
        said = refused(&place, &["remove", &key]);
        said.contains("another job has its output there")
    };
    eventually(PATIENCE, "the problem to be told", is_said)
        .unwrap_or_else(|error| panic!("{error}\n{}", place.logs()));
    let hint = format!("hint: `mapreduce remove --discard {key}`");
    assert!(said.contains(&hint), "{said}");
    let ran = place
        .mapreduce(&["remove", "--discard", &key])
        .expect("it ends");
    assert_eq!(ran.code, Some(0), "{ran}\n{}", place.logs());
    assert!(ran.stderr.contains("is discarded"), "{ran}");
    let left: Vec<String> = buckets.all("out").into_keys().collect();
    assert_eq!(left, ["_MANIFEST"]);
    let listed = place.mapreduce(&["list"]).expect("it ends").stdout;
    assert!(!listed.contains(&key), "{listed}");
    // One whose output is in its place has nothing to give up: it is removed, and that stays.
    let other = submit(
        &place,
        "mapreduce",
        &["wordcount"],
        "other",
        &["--input", "s3://data/in"],
    );
    let key = other
        .expect("it is done")
        .lines()
        .next()
        .expect("a key")
        .to_owned();
    let ran = place
        .mapreduce(&["remove", "--discard", &key])
        .expect("it ends");
    ran.success().expect("it is removed");
    let keys = ["get", "--prefix", "/mapreduce/jobs/"];
    eventually(PATIENCE, "its keys to go", || {
        cfgctl(&place.cluster, &keys).is_ok_and(|keys| !keys.contains(&key))
    })
    .expect("they go");
    assert_eq!(buckets.output("other").expect("an output").len(), 1);
}
