//! What people see of jobs on many machines: progress, lists, logs, the status page and metrics,
//! and how they end and remove jobs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use cfgsvc_tests::harness::{
    Ran, binary_path, eventually, eventually_some, http_get, unused_address,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Member, PATIENCE, Place, text};
use crate::beside::Process;

/// Time for one question by HTTP.
const ANSWER: Duration = Duration::from_secs(10);

/// A group with masters whose pages are at known addresses.
struct Shown {
    place: Place,
    pages: Vec<SocketAddr>,
}

impl Shown {
    fn start(masters: usize, workers: usize, of_masters: &[&str]) -> Result<Self> {
        let mut place = Place::start(1, 0, workers)?;
        let mut pages = Vec::new();
        for number in 0..masters {
            let page = unused_address()?;
            let named = page.to_string();
            let more = [&["--listen-http", &named], of_masters].concat();
            let at = (&place.cluster, place.cluster.directory());
            let mut master = Member::new("master", number, at, &more)?;
            master.start(&place.directory())?;
            place.masters.push(master);
            pages.push(page);
        }
        Ok(Self { place, pages })
    }

    /// Submits a job that goes on for minutes, unless it is ended.
    fn slow(&self) -> Result<String> {
        let input = self.place.input("long", text(1, 100_000))?;
        let there = self.place.path("there");
        let arguments = [
            "submit", "--detach", "slow", "--input", &input, "--output", &there,
        ];
        let ran = self.jobs(&arguments)?;
        Ok(ran.success()?.trim().to_owned())
    }

    fn jobs(&self, arguments: &[&str]) -> Result<Ran> {
        cfgsvc_tests::harness::run(&mut self.place.command("test-jobs", arguments)?)
    }

    fn mapreduce(&self, arguments: &[&str]) -> Ran {
        self.place.mapreduce(arguments).expect("it ends")
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.mapreduce(arguments).success().expect("it is told");
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// The number of the master in office.
    fn office(&self) -> usize {
        let found = eventually_some(PATIENCE, "a master in office", || {
            let is_there = |page: &SocketAddr| {
                http_get(*page, "/health", ANSWER).is_ok_and(|(_, text)| text == "in office\n")
            };
            self.pages.iter().position(is_there)
        });
        found.unwrap_or_else(|error| panic!("{error}\n{}", self.place.logs()))
    }

    /// A page, once it has all of this.
    fn page_with(&self, of: usize, path: &str, expected: &[&str]) -> String {
        let mut last = String::new();
        let found = eventually_some(PATIENCE, format!("{expected:?} in {path}"), || {
            let (status, page) = http_get(self.pages[of], path, ANSWER).ok()?;
            let is_all = status == 200 && expected.iter().all(|text| page.contains(text));
            last.clone_from(&page);
            is_all.then_some(page)
        });
        found.unwrap_or_else(|error| panic!("{error}\n{last}\n{}", self.place.logs()))
    }
}

/// The head of an answer.
fn head(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).expect("it is reached");
    stream.set_read_timeout(Some(ANSWER)).expect("a deadline");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is asked");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    answer
        .split("\r\n\r\n")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn running_job_is_seen_on_the_page_in_metrics_status_and_logs_then_cancelled_and_removed() {
    let shown = Shown::start(2, 1, &[]).expect("a group");
    let (office, other) = (shown.office(), 1 - shown.office());
    let job = shown.slow().expect("it is submitted");
    let of_job = format!("/jobs/{job}");
    shown.page_with(office, "/", &[&job, "running", "worker0", "refresh"]);
    let page = shown.page_with(office, &of_job, &["map-00000", "worker0", "/log\">"]);
    assert!(page.contains("http-equiv=\"refresh\""), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let said = head(shown.pages[other], &format!("{of_job}?from=1"));
    assert!(said.starts_with("http/1.1 307"), "{said}");
    let to = format!("location: http://{}{of_job}?from=1", shown.pages[office]);
    assert!(said.contains(&to), "{said}");
    seen_by_monitors_and_in_status(&shown, &job, (office, other));
    ended_and_removed(&shown, &job, office);
}

/// Headers, metrics, `status` and `logs` of a job that runs.
fn seen_by_monitors_and_in_status(shown: &Shown, job: &str, (office, other): (usize, usize)) {
    let policy = head(shown.pages[office], "/");
    assert!(
        policy.contains("content-security-policy: default-src 'none'"),
        "{policy}"
    );
    let in_office = ["mapreduce_master_in_office 1", "mapreduce_slots_busy 1"];
    shown.page_with(office, "/metrics", &in_office);
    let text = "mapreduce_tasks{phase=\"map\",state=\"running\"} 1";
    shown.page_with(
        office,
        "/metrics",
        &[text, "mapreduce_jobs{state=\"running\"} 1"],
    );
    shown.page_with(other, "/metrics", &["mapreduce_master_in_office 0"]);
    let (status, _) = http_get(shown.pages[office], "/jobs/none", ANSWER).expect("an answer");
    assert_eq!(status, 404);
    let status = shown.json(&["status", job, "-o", "json"]);
    assert_eq!(status["state"], "running");
    assert_eq!(status["running"][0]["worker"], "worker0", "{status}");
    let table = shown
        .mapreduce(&["status", &job[..6]])
        .success()
        .expect("the begin is enough");
    assert!(
        table.contains("map-00000") && table.contains("workers: 1"),
        "{table}"
    );
    let logs = || shown.mapreduce(&["logs", job]);
    eventually(PATIENCE, "a log, though nothing is printed", || {
        let ran = logs();
        ran.code == Some(0) && ran.stderr.contains("==> map-00000 attempt ")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", logs()));
    assert!(logs().stderr.contains("on worker0"), "{}", logs());
}

#[test]
fn what_code_says_of_its_task_is_shown_while_it_runs() {
    let shown = Shown::start(1, 1, &[]).expect("a group");
    let input = shown.place.input("words", "one\n").expect("a file");
    let there = shown.place.path("there");
    let go_on = shown.place.path("go-on");
    let program = format!(
        "echo reporter:status:half of it >&2; until [ -e {go_on} ]; do sleep 0.1; done; cat"
    );
    let job = [
        "submit",
        "--detach",
        "streaming",
        "--input",
        &input,
        "--output",
        &there,
        "--",
        "--mapper",
        &program,
    ];
    let key = shown.mapreduce(&job).success().expect("it is submitted");
    let key = key.trim();
    let is_shown = || {
        shown
            .mapreduce(&["status", key])
            .stdout
            .contains("half of it")
    };
    eventually(PATIENCE, "its status", is_shown)
        .unwrap_or_else(|error| panic!("{error}\n{}", shown.place.logs()));
    let status = shown.json(&["status", key, "-o", "json"]);
    assert_eq!(status["running"][0]["status"], "half of it", "{status}");
    shown.page_with(0, &format!("/jobs/{key}"), &["half of it"]);
    fs::write(&go_on, "").expect("a file");
    let ran = shown.mapreduce(&["watch", key]);
    assert_eq!(ran.code, Some(0), "{ran}\n{}", shown.place.logs());
}

/// A job that runs is not removed; it is cancelled, and then nothing is left of it but what it says.
fn ended_and_removed(shown: &Shown, job: &str, office: usize) {
    let refused = shown.mapreduce(&["remove", job]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("is running"), "{refused}");
    let said = shown
        .mapreduce(&["cancel", job])
        .success()
        .expect("it is cancelled");
    assert_eq!(said, format!("{job} is cancelled\n"));
    let ran = shown.mapreduce(&["watch", job]);
    assert_eq!(ran.code, Some(4), "{ran}");
    assert!(ran.stderr.contains("was cancelled"), "{ran}");
    let page = shown.page_with(office, &format!("/jobs/{job}"), &["cancelled"]);
    assert!(
        !page.contains("http-equiv=\"refresh\""),
        "it does not change: {page}"
    );
    shown
        .mapreduce(&["remove", job])
        .success()
        .expect("it is removed");
    let listed = shown.mapreduce(&["list"]).success().expect("a list");
    assert!(!listed.contains(job), "{listed}");
    let keys = ["get", "--prefix", "/mapreduce/jobs/"];
    let left = crate::beside::cfgctl(&shown.place.cluster, &keys).expect("it answers");
    assert!(!left.contains(job), "{left}");
    let logs = shown.place.path("worker0/logs");
    eventually(PATIENCE, "its logs to be removed", || is_empty(&logs)).expect("they go");
}

fn is_empty(directory: impl AsRef<Path>) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

#[test]
fn failed_job_says_where_and_its_logs_are_shown_until_the_worker_is_gone() {
    let mut shown = Shown::start(1, 1, &[]).expect("a group");
    let good = text(1, 50);
    let bad = format!("{good}one boom two\n");
    let at = bad.find("one boom").expect("it is there");
    let input = shown.place.input("bad", &bad).expect("a file");
    let there = shown.place.path("there");
    let job = [
        "submit",
        "refuses",
        "--attempts",
        "2",
        "--input",
        &input,
        "--output",
        &there,
    ];
    let ran = shown.jobs(&job).expect("it ends");
    assert_eq!(ran.code, Some(1), "{ran}");
    let key = ran.stdout.lines().next().expect("its key").to_owned();
    let expected = [
        format!("job {key} failed: a task failed too often: map-00000"),
        format!("{input}, octet {at}"),
        "it says boom".to_owned(),
        "last: map-00000 attempt ".to_owned(),
        "on worker0".to_owned(),
        format!("hint: `mapreduce logs {key} --task map-00000`"),
    ];
    for expected in expected {
        assert!(ran.stderr.contains(&expected), "{expected} in {ran}");
    }
    printed_is_shown(&mut shown, &input, &there);
}

/// What a program prints is there for people until its worker is gone.
fn printed_is_shown(shown: &mut Shown, input: &str, there: &str) {
    let told = "echo told >&2; cat >&2; exit 3";
    let job = [
        "submit",
        "streaming",
        "--attempts",
        "1",
        "--input",
        input,
        "--output",
        there,
    ];
    let job = [&job[..], &["--", "--mapper", told, "--reducer", "cat"]].concat();
    let ran = shown.mapreduce(&job);
    assert_eq!(ran.code, Some(1), "{ran}");
    let key = ran.stdout.lines().next().expect("its key").to_owned();
    let logs = shown.mapreduce(&["logs", &key]);
    assert_eq!(logs.code, Some(0), "{logs}");
    assert!(
        logs.stdout.contains("told\n") && logs.stdout.contains("boom"),
        "{logs}"
    );
    assert!(logs.stderr.contains("map-00000 attempt"), "{logs}");
    let status = shown.json(&["status", &key, "-o", "json"]);
    let attempt = status["failures"][0]["attempt"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert_eq!(status["failures"][0]["worker"], "worker0", "{status}");
    let link = format!("/jobs/{key}/attempts/{attempt}/log");
    let office = shown.office();
    shown.page_with(
        office,
        &format!("/jobs/{key}"),
        &["failed", &link, "worker0"],
    );
    shown.page_with(office, &link, &["told"]);
    let kind = head(shown.pages[office], &link);
    assert!(
        kind.contains("content-type: text/plain") && kind.contains("nosniff"),
        "{kind}"
    );
    let none = shown.mapreduce(&["logs", &key, "--task", "map-00007"]);
    assert_eq!(none.code, Some(1), "{none}");
    assert!(
        none.stderr
            .contains("has no task map-00007: it has 1 map tasks"),
        "{none}"
    );
    for worker in &mut shown.place.workers {
        worker.kill();
    }
    eventually(PATIENCE, "the worker to be gone", || {
        let ran = shown.mapreduce(&["logs", &key, "--attempt", &attempt]);
        ran.code == Some(1) && ran.stderr.contains("the worker that ran it is gone")
    })
    .expect("its lease ends");
}

#[test]
fn done_jobs_are_told_to_programs_and_the_oldest_are_removed() {
    let shown = Shown::start(1, 1, &["--keep-jobs", "2"]).expect("a group");
    let input = shown.place.input("words", text(1, 100)).expect("a file");
    let mut keys = Vec::new();
    for number in 0..4 {
        let there = shown.place.path(&format!("there{number}"));
        let job = [
            "submit",
            "wordcount",
            "--input",
            &input,
            "--output",
            &there,
            "-o",
            "json",
        ];
        let ran = shown.mapreduce(&job);
        assert_eq!(ran.code, Some(0), "{ran}");
        let told: Value = serde_json::from_str(&ran.stdout).expect("JSON and nothing else");
        assert_eq!(told["state"], "done");
        assert_eq!(
            (&told["name"], &told["maps"]["done"]),
            (&"wordcount".into(), &1.into())
        );
        let read = &told["maps"]["counters"]["mapreduce"]["map input records"];
        assert_eq!(*read, 100, "{told}");
        assert!(told["took_ms"].is_u64(), "{told}");
        assert!(
            ran.stderr.contains("running; map "),
            "a line of progress: {ran}"
        );
        keys.push(told["key"].as_str().expect("a key").to_owned());
    }
    let kept = |shown: &Shown| -> Vec<String> {
        let list = shown.json(&["list", "-o", "json"]);
        let list = list.as_array().expect("a list").clone();
        let keys = list
            .iter()
            .map(|job| job["key"].as_str().unwrap_or_default().to_owned());
        keys.collect()
    };
    eventually(PATIENCE, "two jobs to be left", || {
        kept(&shown) == keys[2..]
    })
    .expect("they go");
    assert!(
        fs::exists(shown.place.path("there0")).expect("a look"),
        "outputs stay"
    );
    let wrong = shown.mapreduce(&["status", "nonesuch"]);
    assert_eq!(wrong.code, Some(1), "{wrong}");
    let expected = format!("no job nonesuch: there are {} (wordcount, done)", keys[3]);
    assert!(wrong.stderr.contains(&expected), "{expected} in {wrong}");
}

/// Starts a command; what it says goes to two files of the directory.
fn begin(shown: &Shown, program: &str, arguments: &[&str], name: &str) -> Result<Process> {
    let file = |what: &str| fs::File::create(shown.place.path(&format!("{name}.{what}")));
    let mut command = Command::new(binary_path(program)?);
    command
        .args(arguments)
        .env("CFGCTL_ENDPOINTS", shown.place.cluster.endpoints())
        .current_dir(shown.place.directory())
        .stdin(Stdio::null())
        .stdout(file("out")?)
        .stderr(file("err")?);
    Ok(Process(command.spawn().context("start a program")?))
}

#[test]
fn interrupted_submitter_leaves_its_job_and_says_how_to_come_back() {
    let shown = Shown::start(1, 1, &[]).expect("a group");
    let input = shown.place.input("long", text(1, 100_000)).expect("a file");
    let there = shown.place.path("there");
    let job = ["submit", "slow", "--input", &input, "--output", &there];
    let mut submitter = begin(&shown, "test-jobs", &job, "left").expect("it starts");
    let said = |what: &str| fs::read_to_string(shown.place.path(what)).unwrap_or_default();
    eventually(PATIENCE, "a line of progress", || {
        said("left.err").contains("running; map 0/1")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}\n{}", said("left.err"), shown.place.logs()));
    let id = Pid::from_raw(submitter.0.id().cast_signed()).expect("a number");
    kill_process(id, Signal::INT).expect("it runs");
    let status = submitter.0.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "{}", said("left.err"));
    let key = said("left.out").trim().to_owned();
    for expected in [
        format!("job {key} goes on without you"),
        format!("`mapreduce watch {key}`"),
        format!("`mapreduce cancel {key}`"),
    ] {
        assert!(said("left.err").contains(&expected), "{}", said("left.err"));
    }
    let status = shown.json(&["status", &key, "-o", "json"]);
    assert_eq!(status["state"], "running", "{status}");
    let ran = shown.mapreduce(&["cancel", &key]);
    ran.success().expect("it is cancelled");
}

#[test]
fn submitter_without_a_group_says_so_and_goes_on_until_there_is_one() {
    let mut shown = Shown::start(1, 1, &[]).expect("a group");
    shown.office();
    let input = shown.place.input("words", text(1, 100)).expect("a file");
    let there = shown.place.path("there");
    shown.place.cluster.pause(0).expect("it runs");
    let job = ["submit", "wordcount", "--input", &input, "--output", &there];
    let mut submitter = begin(&shown, "mapreduce", &job, "waits").expect("it starts");
    let path = shown.place.path("waits.err");
    let said = || fs::read_to_string(&path).unwrap_or_default();
    eventually(PATIENCE, "it to say that it waits", || {
        said().contains("the group is not reached") && said().contains("goes on trying")
    })
    .expect("it says so");
    assert!(
        submitter.0.try_wait().expect("a look").is_none(),
        "it goes on"
    );
    shown.place.cluster.resume(0).expect("it is paused");
    let status = eventually_some(PATIENCE, "its end", || submitter.0.try_wait().transpose());
    let status = status.unwrap_or_else(|error| panic!("{error}\n{}", shown.place.logs()));
    let status = status.expect("a look");
    assert_eq!(status.code(), Some(0), "{}\n{}", said(), shown.place.logs());
}
