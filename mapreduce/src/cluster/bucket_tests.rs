//! An output in a bucket is put there once, whoever does it, however often, and however late. A
//! bucket in memory lets something else happen before each single request of a master, or ends the
//! master there.

use super::*;
use crate::store::{AttemptObjects, PROGRAM, Parts};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use mapreduce_core::names::{Epoch, Incarnation};
use mapreduce_core::record::{Batch, Counters, Output, Record, TaskWon};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

const FIRST: &str = "0123456789ab";
const SECOND: &str = "ba9876543210";

type Interlude = Box<dyn FnOnce() + Send>;

/// What happens before one of the requests.
struct Plan {
    /// How many come before it.
    before: usize,
    /// What others do meanwhile.
    interlude: Option<Interlude>,
    /// From then on all requests fail: the process was killed.
    ends: bool,
    made: usize,
}

/// A bucket, as one process sees it.
#[derive(Clone)]
struct Bucket {
    all: InMemory,
    plan: Arc<Mutex<Plan>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket")
    }
}

impl Bucket {
    fn of(all: &InMemory) -> Self {
        Self::with(all, usize::MAX, None, false)
    }

    fn with(all: &InMemory, before: usize, interlude: Option<Interlude>, ends: bool) -> Self {
        let plan = Plan {
            before,
            interlude,
            ends,
            made: 0,
        };
        Self {
            all: all.clone(),
            plan: Arc::new(Mutex::new(plan)),
        }
    }

    fn request(&self) -> object_store::Result<()> {
        let mut plan = self.plan.lock().expect("nobody panics");
        let made = plan.made;
        plan.made += 1;
        if made == plan.before
            && let Some(interlude) = plan.interlude.take()
        {
            interlude();
        }
        if plan.ends && made >= plan.before {
            return Err(object_store::Error::Generic {
                store: "test",
                source: "the process was killed".into(),
            });
        }
        Ok(())
    }

    /// Whether the moment came for which there was a plan.
    fn has_come(&self) -> bool {
        let plan = self.plan.lock().expect("nobody panics");
        plan.made > plan.before
    }
}

#[tonic::async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(
        &self,
        to: &Path,
        what: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.request()?;
        self.all.put_opts(to, what, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.all.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, of: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.request()?;
        self.all.get_opts(of, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.request() {
            Ok(()) => self.all.delete_stream(paths),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, below: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.request() {
            Ok(()) => self.all.list(below),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, below: Option<&Path>) -> object_store::Result<ListResult> {
        self.all.list_with_delimiter(below).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.all.copy_opts(from, to, options).await
    }
}

#[tonic::async_trait]
impl MultipartStore for Bucket {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<MultipartId> {
        self.request()?;
        self.all.create_multipart(path).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        at: usize,
        part: PutPayload,
    ) -> object_store::Result<PartId> {
        self.request()?;
        self.all.put_part(path, id, at, part).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        self.request()?;
        self.all.complete_multipart(path, id, parts).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> object_store::Result<()> {
        self.request()?;
        self.all.abort_multipart(path, id).await
    }
}

/// What a bucket holds, by name.
fn all(store: &InMemory) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        let mut found = BTreeMap::new();
        let listed: Vec<_> = store.list(None).collect().await;
        for object in listed {
            let path = object.expect("it is listed").location;
            let octets = store.get(&path).await.expect("it is there");
            let octets = octets.bytes().await.expect("it is read");
            let text = String::from_utf8_lossy(&octets).into_owned();
            found.insert(path.to_string(), text);
        }
        found
    })
}

fn job(store: &InMemory, key: &str) -> JobObjects {
    JobObjects::in_store(Bucket::of(store), key)
}

fn attempt(counter: u64) -> AttemptId {
    let epoch = Epoch(3);
    AttemptId { epoch, counter }
}

/// A job of two maps that has ended; the second task had two attempts, and left out a record.
fn ended() -> JobState {
    let won = |task, counter, length| {
        let output = |name: &str, length| Output {
            name: name.to_owned(),
            length,
            checksum: 1,
        };
        Record::Won(Box::new(TaskWon {
            task: TaskId::map(task),
            attempt: attempt(counter),
            incarnation: Incarnation(1),
            outputs: vec![output("", length), output("_side", 4)],
            content: 1,
            inputs: 0,
            counters: Counters::default(),
        }))
    };
    let mut state = JobState::new(2, 0);
    let skipped = Record::Skipped {
        task: TaskId::map(1),
        first: 0,
        count: 1,
    };
    let records = vec![skipped, won(0, 1, 3), won(1, 3, 5), Record::Done];
    let epoch = Epoch(3);
    let applied = state.apply(1, &Batch { epoch, records });
    applied.expect("it fits");
    state
}

/// A job is submitted, and its attempts are done.
fn prepared(store: &InMemory, key: &str, overwrite: bool) -> Destination {
    let job = job(store, key);
    let (replaces, older) = job.vacancy(overwrite).expect("it may be there");
    job.note_older(&older).expect("it is noted");
    job.put(&job.own(PROGRAM), "program".into())
        .expect("it is put");
    for (task, counter, what) in [(0, 1, "one"), (1, 2, "lost"), (1, 3, "three")] {
        let (task, attempt) = (TaskId::map(task), attempt(counter));
        let own = AttemptObjects::new(
            JobObjects::in_store(Bucket::of(store), key),
            attempt.to_string(),
            part(task.index),
        );
        write(&own, "", what.as_bytes());
        write(&own, "_side", b"side");
        let left_out = skipped(&job, task, attempt);
        let what = format!("{key} left out {what}\n");
        job.put_if_open(&left_out, what.into()).expect("it is put");
    }
    Destination {
        overwrite,
        replaces,
        ..Destination::default()
    }
}

fn write(own: &AttemptObjects, name: &str, what: &[u8]) {
    let mut part = own.create(name).expect("it is begun");
    part.write_all(what).expect("it is taken");
    part.finish().expect("it is complete");
}

fn id(key: &str) -> JobId {
    JobId(if key == FIRST { 7 } else { 8 })
}

fn publish_with(bucket: Bucket, key: &str, destination: &Destination) -> Result<Published> {
    let job = JobObjects::in_store(bucket, key);
    publish(&job, destination, (key, id(key)), &ended())
}

/// Publishes it as a master does: whoever was disturbed tries again.
fn publish_whole(store: &InMemory, key: &str, destination: &Destination) -> Published {
    let done = publish_with(Bucket::of(store), key, destination);
    done.unwrap_or_else(|error| panic!("{error}: {:?}", all(store)))
}

/// The bucket holds the output of one job, and nothing else.
fn is_whole(store: &InMemory, key: &str) {
    let mut found = all(store);
    let manifest = found.remove("out/_MANIFEST").expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(manifest["job"], key);
    let expected = [
        ("_SKIPPED".to_owned(), left_out(key)),
        ("_SUCCESS".to_owned(), String::new()),
        (format!("_side-{key}.3.1"), "side".to_owned()),
        (format!("_side-{key}.3.3"), "side".to_owned()),
        (format!("part-00000-{key}.3.1"), "one".to_owned()),
        (format!("part-00001-{key}.3.3"), "three".to_owned()),
    ];
    let named = |list: &str| -> Vec<String> {
        let list = manifest[list].as_array().expect("a list").iter();
        list.map(|file| file["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let names = |range: std::ops::Range<usize>| -> Vec<String> {
        expected[range]
            .iter()
            .map(|(name, _)| name.clone())
            .collect()
    };
    assert_eq!(
        (named("files"), named("side_files")),
        (names(4..6), names(2..4))
    );
    let expected = expected.map(|(name, what)| (format!("out/{name}"), what));
    assert_eq!(found, BTreeMap::from(expected));
}

fn left_out(key: &str) -> String {
    format!("{key} left out one\n{key} left out three\n")
}

/// A bucket with a job that is done; before it another output was there, or something else.
fn place(is_there: bool) -> (InMemory, Destination) {
    let store = InMemory::new();
    if is_there {
        let before = job(&store, SECOND);
        before.put("part-00000", "by hand".into()).expect("a put");
        before.put("deeper/x", "by hand".into()).expect("a put");
        before.put("_SKIPPED", "old".into()).expect("a put");
    }
    let destination = prepared(&store, FIRST, is_there);
    (store, destination)
}

#[test]
fn output_is_published_once_however_often() {
    for is_there in [false, true] {
        let (store, destination) = place(is_there);
        let done = publish_whole(&store, FIRST, &destination);
        assert_eq!(done, Published::Now);
        is_whole(&store, FIRST);
        for _ in 0..2 {
            let done = publish_whole(&store, FIRST, &destination);
            assert_eq!(done, Published::Before);
            is_whole(&store, FIRST);
        }
        // One that takes the place of an output of a job.
        let destination = prepared(&store, SECOND, true);
        assert!(job(&store, FIRST).vacancy(false).is_err());
        assert_eq!(publish_whole(&store, SECOND, &destination), Published::Now);
        is_whole(&store, SECOND);
    }
}

/// Lets something happen before each request of a master, once; what came of it is checked.
fn at_every_request(
    is_there: bool,
    ends: bool,
    interlude: impl Fn(&InMemory, &Destination) + Send + Sync + 'static,
    check: impl Fn(&InMemory, Result<Published>, &Destination),
) {
    let interlude = Arc::new(interlude);
    for before in 0.. {
        let (store, destination) = place(is_there);
        let (others, of) = (store.clone(), destination.clone());
        let happens = Arc::clone(&interlude);
        let happens: Interlude = Box::new(move || happens(&others, &of));
        let bucket = Bucket::with(&store, before, Some(happens), ends);
        let done = publish_with(bucket.clone(), FIRST, &destination);
        if !bucket.has_come() {
            assert!(before > 10, "it makes more requests than {before}");
            return;
        }
        check(&store, done, &destination);
    }
}

#[test]
fn master_that_is_held_up_anywhere_disturbs_no_other() {
    for is_there in [false, true] {
        at_every_request(
            is_there,
            false,
            |store, destination| {
                publish_whole(store, FIRST, destination);
            },
            |store, done, destination| {
                // It may have been disturbed: then it tries again.
                if done.is_err() {
                    publish_whole(store, FIRST, destination);
                }
                is_whole(store, FIRST);
            },
        );
    }
}

#[test]
fn master_that_is_killed_anywhere_leaves_its_work_to_the_next() {
    for is_there in [false, true] {
        at_every_request(
            is_there,
            true,
            |_, _| {},
            |store, done, destination| {
                done.expect_err("it was killed");
                publish_whole(store, FIRST, destination);
                is_whole(store, FIRST);
            },
        );
    }
}

#[test]
fn output_that_is_given_up_while_a_master_publishes_it_is_there_or_is_not() {
    for is_there in [false, true] {
        at_every_request(
            is_there,
            false,
            |store, _| {
                // Whether it was published already is not the same at all moments.
                discard(&job(store, FIRST), FIRST).expect("it is discarded");
            },
            |store, done, _| {
                let is_published = discard(&job(store, FIRST), FIRST).expect("it is discarded");
                assert_eq!(is_published, done.is_ok(), "{done:?}");
                if is_published {
                    is_whole(store, FIRST);
                    return;
                }
                let left = all(store);
                assert!(!left.keys().any(|name| name.contains(FIRST)), "{left:?}");
                assert_eq!(left.get("out/_MANIFEST"), None);
                let by_hand = ["out/part-00000", "out/deeper/x"];
                assert!(!is_there || by_hand.iter().all(|name| left.contains_key(*name)));
            },
        );
    }
}

#[test]
fn master_that_comes_late_undoes_nothing_of_a_later_job() {
    for is_there in [false, true] {
        at_every_request(
            is_there,
            false,
            |store, destination| {
                publish_whole(store, FIRST, destination);
                let later = prepared(store, SECOND, true);
                publish_whole(store, SECOND, &later);
            },
            |store, _, destination| {
                is_whole(store, SECOND);
                let late = publish_with(Bucket::of(store), FIRST, destination);
                let late = late.expect_err("another output is there").to_string();
                let expected = format!("another job, {SECOND}, has its output there");
                assert!(late.contains(&expected), "{late}");
                is_whole(store, SECOND);
            },
        );
    }
}

#[test]
fn of_two_jobs_for_one_output_the_first_to_be_done_has_it() {
    let store = InMemory::new();
    let first = prepared(&store, FIRST, false);
    let second = prepared(&store, SECOND, true);
    publish_whole(&store, FIRST, &first);
    let before = all(&store);
    let error = publish_with(Bucket::of(&store), SECOND, &second);
    let error = error.expect_err("it is taken").to_string();
    assert!(error.contains(&format!("another job, {FIRST},")), "{error}");
    assert_eq!(all(&store), before, "nothing is lost yet");
    discard(&job(&store, SECOND), SECOND).expect("it is given up");
    is_whole(&store, FIRST);
    // What is published is not discarded.
    discard(&job(&store, FIRST), FIRST).expect("there is nothing to do");
    is_whole(&store, FIRST);
}

#[test]
fn what_was_there_before_is_deleted_unless_it_is_something_else_now() {
    let (store, destination) = place(true);
    let later = job(&store, SECOND);
    later.put("part-00000", "anew".into()).expect("a put");
    later.put("new", "by hand".into()).expect("a put");
    publish_whole(&store, FIRST, &destination);
    for (name, what) in [("part-00000", "anew"), ("new", "by hand")] {
        assert_eq!(all(&store)[&format!("out/{name}")], what);
        later.delete(&[name.to_owned()]).expect("it is deleted");
    }
    is_whole(&store, FIRST);
}

#[test]
fn object_that_is_not_as_its_task_wrote_it_is_not_published() {
    let (store, destination) = place(false);
    let name = format!("part-00001-{FIRST}.3.3");
    job(&store, FIRST).put(&name, "cut".into()).expect("a put");
    let refused = || publish_with(Bucket::of(&store), FIRST, &destination);
    let error = refused().expect_err("it is cut").to_string();
    assert!(error.contains("has 3 octets, its task wrote 5"), "{error}");
    job(&store, FIRST).delete(&[name]).expect("it is deleted");
    let error = refused().expect_err("it is gone").to_string();
    assert!(error.contains(".3.3 is gone"), "{error}");
    assert!(!all(&store).contains_key("out/_MANIFEST"));
}

/// What an attempt does: a file that is put at once, and one that is uploaded in parts.
fn attempted(bucket: Bucket) -> Result<()> {
    let job = JobObjects::in_store(bucket, FIRST);
    let own = AttemptObjects::new(job, "3.9".to_owned(), "part-00009".to_owned());
    let work = || -> Result<()> {
        let mut side = own.create("_side")?;
        side.write_all(b"side")?;
        side.finish()?;
        let mut main = own.create("")?;
        main.write_all(&vec![b'x'; 17 << 20])?;
        main.finish()?;
        Ok(())
    };
    work().inspect_err(|_| drop(own.discard()))
}

#[test]
fn attempt_leaves_nothing_whenever_its_job_ends_and_wherever_it_is_killed() {
    for ends in [false, true] {
        for before in 0.. {
            let store = InMemory::new();
            job(&store, FIRST)
                .put(&job(&store, FIRST).own(PROGRAM), "program".into())
                .expect("a put");
            let others = store.clone();
            let over: Interlude = Box::new(move || {
                discard(&job(&others, FIRST), FIRST).expect("it is discarded");
            });
            let interlude = (!ends).then_some(over);
            let bucket = Bucket::with(&store, before, interlude, ends);
            let done = attempted(bucket.clone());
            if !bucket.has_come() {
                done.expect("nothing has kept it from its end");
                assert!(before >= 7, "it makes more requests than {before}");
                break;
            }
            if ends {
                // The first of them says which upload was under way.
                discard(&job(&store, FIRST), FIRST).expect("it is discarded");
            }
            assert_eq!(
                all(&store),
                BTreeMap::new(),
                "before request {before}: {done:?}"
            );
        }
    }
}

#[test]
fn attempt_that_ends_while_its_job_is_cleared_leaves_nothing() {
    for before in 0.. {
        let store = InMemory::new();
        let first = job(&store, FIRST);
        first.put(&first.own(PROGRAM), "x".into()).expect("a put");
        let others = store.clone();
        // Whether it comes to its end is not the same at all moments.
        let attempt: Interlude = Box::new(move || drop(attempted(Bucket::of(&others))));
        let bucket = Bucket::with(&store, before, Some(attempt), false);
        let cleared = JobObjects::in_store(bucket.clone(), FIRST);
        discard(&cleared, FIRST).expect("it is discarded");
        if !bucket.has_come() {
            assert!(before >= 4, "it makes more requests than {before}");
            return;
        }
        assert_eq!(
            all(&store).into_keys().collect::<Vec<_>>(),
            [""; 0],
            "{before}"
        );
    }
}

#[test]
fn worker_ends_the_upload_of_an_attempt_that_it_has_killed_and_of_no_other() {
    let store = InMemory::new();
    let first = job(&store, FIRST);
    let own = |attempt: &str| AttemptObjects::new(job(&store, FIRST), attempt.to_owned(), part(9));
    for attempt in ["3.1", "3.11"] {
        let mut part = own(attempt).create("").expect("it is begun");
        part.write_all(&vec![b'x'; 9 << 20]).expect("it is taken");
        // It is killed.
        std::mem::forget(part);
    }
    let marks = all(&store);
    let numbers: Vec<&String> = marks.values().collect();
    assert_eq!(numbers.len(), 2, "{marks:?}");
    first.drop_attempt(&part(9), "3.1").expect("it is ended");
    let left = all(&store).into_values().collect::<Vec<_>>();
    assert_eq!(left, [numbers[1].clone()]);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let goes_on = |number: &String| {
        let path = Path::from("any");
        let more = store.put_part(&path, number, 1, PutPayload::new());
        runtime.block_on(more).is_ok()
    };
    assert!(!goes_on(numbers[0]) && goes_on(numbers[1]));
}
