//! Jobs as text on standard output: tables for people.
//!
//! Invariant: texts of jobs and workers go through [`words::line`], so that none of them makes a
//! line of its own or moves the cursor.

use crate::cluster::live::{self, Runs};
use crate::cluster::proto;
use crate::cluster::view::{Failure, State, View};
use crate::cluster::words;
use mapreduce_core::names::Phase;
use serde::Serialize;
use std::time::Duration;

/// Attempts that are shown.
const SHOWN_MAX: usize = 20;

/// A table of jobs.
pub(crate) fn list(views: &[View]) -> String {
    let heads = ["KEY", "NAME", "STATE", "MAPS", "REDUCES", "AGE", "OUTPUT"];
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows: Vec<_> = views
        .iter()
        .map(|view| {
            [
                words::line(&view.key),
                or_none(Some(words::line(&view.name)).filter(|name| !name.is_empty())),
                view.state.name().to_owned(),
                format!("{}/{}", view.maps.done, view.maps.tasks),
                format!("{}/{}", view.reduces.done, view.reduces.tasks),
                or_none(view.age().map(words::time)),
                or_none(view.output.as_deref().map(words::line)),
            ]
        })
        .collect();
    words::table(heads, &rows)
}

/// Failures with the workers that they were at, as far as the master in office knows them.
pub(crate) fn placed(mut view: View, live: Option<&proto::InspectResponse>) -> View {
    for failure in &mut view.failures {
        let at = live.and_then(|live| live::failed_at(live, failure.attempt));
        failure.worker = at.map(|(_, worker)| worker);
    }
    view
}

/// What a program is told of a job.
#[derive(Serialize)]
pub(crate) struct Json<'a> {
    #[serde(flatten)]
    view: &'a View,
    /// None: no master answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Vec<RunsJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
}

#[derive(Serialize)]
struct RunsJson {
    task: String,
    attempt: String,
    worker: String,
    runtime_ms: u64,
    octets: u64,
    records: u64,
    backup: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    status: String,
}

impl<'a> Json<'a> {
    pub(crate) fn new(
        view: &'a View,
        live: Option<&proto::InspectResponse>,
        took: Option<Duration>,
    ) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let runs = |runs: Runs| RunsJson {
            task: runs.task.to_string(),
            attempt: runs.attempt.to_string(),
            worker: runs.worker,
            runtime_ms: ms(runs.runtime),
            octets: runs.octets,
            records: runs.records,
            backup: runs.is_backup,
            status: runs.status,
        };
        let live = live.filter(|_| view.state == State::Running);
        Self {
            view,
            running: live.map(|live| live::running(live).into_iter().map(runs).collect()),
            took_ms: took.map(ms),
        }
    }
}

/// What came of a job, or how it stands with it.
pub(crate) fn summary(view: &View, took: Option<Duration>) -> String {
    let mut text = format!("{}  {}  {}", words::line(&view.key), view.id, view.told());
    if !view.name.is_empty() {
        text = format!("{text}  ({})", words::line(&view.name));
    }
    text.push('\n');
    let took = took.map(|took| format!("took {}", words::time(took)));
    let age = view
        .age()
        .map(|age| format!("submitted {} ago", words::time(age)));
    let output = view
        .output
        .as_deref()
        .filter(|_| view.state == State::Done && !view.is_discarded());
    let output = output.map(|output| format!("output {}", words::line(output)));
    let parts: Vec<_> = [took, age, output].into_iter().flatten().collect();
    if !parts.is_empty() {
        text.push_str(&parts.join(", "));
        text.push('\n');
    }
    for phase in [Phase::Map, Phase::Reduce] {
        let of = view.phase(phase);
        if of.tasks == 0 {
            continue;
        }
        words::add(&mut text, format_args!("{phase} {}/{}", of.done, of.tasks));
        if of.failures > 0 {
            words::add(&mut text, format_args!(", {} failed attempts", of.failures));
        }
        text.push('\n');
        for (group, counters) in &of.counters {
            // Those that are 0 in a phase are not about it.
            let mut counted = counters.iter().filter(|(_, count)| **count > 0).peekable();
            if counted.peek().is_some() {
                words::add(&mut text, format_args!("  {}\n", words::line(group)));
            }
            for (name, count) in counted {
                let name = words::line(name);
                words::add(&mut text, format_args!("    {name:22} {count:>16}\n"));
            }
        }
    }
    text
}

/// What runs, and what failed.
pub(crate) fn details(view: &View, live: Result<&proto::InspectResponse, &str>) -> String {
    let mut text = String::new();
    match live {
        _ if view.state != State::Running => {}
        Err(problem) => {
            let problem = words::line(problem);
            words::add(
                &mut text,
                format_args!("what runs is not known: {problem}\n"),
            );
        }
        Ok(live) => {
            let running = live::running(live);
            words::add(
                &mut text,
                format_args!(
                    "running attempts: {}, workers: {}\n",
                    running.len(),
                    live.workers_count
                ),
            );
            if !running.is_empty() {
                text.push_str(&attempts(&running));
            }
        }
    }
    for failure in &view.failures {
        words::add(&mut text, format_args!("failed: {}\n", failure.told()));
    }
    text
}

fn attempts(running: &[Runs]) -> String {
    let heads = [
        "TASK", "ATTEMPT", "WORKER", "RUNTIME", "READ", "RECORDS", "BACKUP", "STATUS",
    ];
    let rows: Vec<_> = running
        .iter()
        .take(SHOWN_MAX)
        .map(|runs| {
            [
                runs.task.to_string(),
                runs.attempt.to_string(),
                words::line(&runs.worker),
                words::time(runs.runtime),
                words::octets(runs.octets),
                runs.records.to_string(),
                if runs.is_backup { "yes" } else { "" }.to_owned(),
                words::line(&runs.status),
            ]
        })
        .collect();
    let mut text = words::table(heads, &rows);
    if running.len() > rows.len() {
        words::add(
            &mut text,
            format_args!("and {} more\n", running.len() - rows.len()),
        );
    }
    text
}

/// Why a job has no output, and what can be done: for standard error.
pub(crate) fn refusal(view: &View) -> String {
    let key = words::line(&view.key);
    let mut text = format!("job {key} {}", view.told());
    let is_cause = |failure: &&Failure| view.failed_task.is_none_or(|task| failure.task == task);
    if let Some(last) = view.failures.iter().rev().find(is_cause) {
        let message = words::line(&last.message);
        // What the reason says already is not said again.
        let told = last.told();
        let told = match view.problem.as_deref().map(words::line) {
            Some(problem) if problem.contains(&message) => {
                let at = told.find(&format!(": {}", words::line(&last.class)));
                told[..at.unwrap_or(told.len())].to_owned()
            }
            _ => told,
        };
        words::add(&mut text, format_args!("\n  last: {told}"));
    }
    if let Some(task) = view.failed_task {
        words::add(
            &mut text,
            format_args!(
                "\n\nhint: `mapreduce logs {key} --task {task}` shows what its attempts printed"
            ),
        );
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cluster::view::PhaseOf;
    use mapreduce_core::names::{AttemptId, Epoch, JobId, TaskId};
    use std::collections::BTreeMap;

    /// A job with a name, a message and a worker as bad as they can be.
    pub(crate) fn hostile() -> View {
        let bad = "<script>alert(1)</script>\u{1b}[2J\n&\"'";
        View {
            key: "a1b2c3d4e5f6".to_owned(),
            id: JobId(7),
            name: bad.to_owned(),
            state: State::Failed,
            problem: Some(format!("a task failed too often: map-00003: {bad}")),
            failed_task: Some(TaskId::map(3)),
            output: Some(bad.to_owned()),
            settled: true,
            submitted_ms: None,
            input_octets: 10,
            maps: PhaseOf {
                tasks: 4,
                done: 1,
                failures: 4,
                counters: BTreeMap::from([(bad.to_owned(), BTreeMap::from([(bad.to_owned(), 5)]))]),
            },
            reduces: PhaseOf::default(),
            failures: vec![Failure {
                task: TaskId::map(3),
                attempt: AttemptId {
                    epoch: Epoch(12),
                    counter: 7,
                },
                worker: Some(bad.to_owned()),
                class: "the job's code failed".to_owned(),
                record: Some(17),
                message: bad.to_owned(),
            }],
        }
    }

    #[test]
    fn nothing_of_a_job_moves_the_cursor() {
        let view = hostile();
        let all = [
            list(std::slice::from_ref(&view)),
            summary(&view, Some(Duration::from_secs(61))),
            details(&view, Err("\u{1b}[2J")),
            refusal(&view),
        ];
        for text in all {
            assert!(!text.contains('\u{1b}'), "{text}");
            assert!(
                !text.contains("\n&"),
                "a text makes no line of its own: {text}"
            );
        }
    }

    #[test]
    fn a_list_is_a_table() {
        let view = View {
            name: "wordcount".to_owned(),
            state: State::Running,
            problem: None,
            output: Some("/data/out".to_owned()),
            ..hostile()
        };
        let shown = list(&[view]);
        let expected = "\
KEY           NAME       STATE    MAPS  REDUCES  AGE  OUTPUT
a1b2c3d4e5f6  wordcount  running   1/4      0/0  -    /data/out
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_failed_job_names_task_attempt_worker_and_what_to_do() {
        let mut view = hostile();
        view.failures[0].worker = Some("alpha".to_owned());
        view.failures[0].message = "file books/a, octet 12: no word".to_owned();
        view.problem = Some(
            "a task failed too often: map-00003: the job's code failed: \
             file books/a, octet 12: no word"
                .to_owned(),
        );
        let expected = "\
job a1b2c3d4e5f6 failed: a task failed too often: map-00003: the job's code failed: \
file books/a, octet 12: no word
  last: map-00003 attempt 12.7 on alpha at record 17

hint: `mapreduce logs a1b2c3d4e5f6 --task map-00003` shows what its attempts printed";
        assert_eq!(refusal(&view), expected);
    }

    #[test]
    fn json_has_numbers_and_names_that_programs_can_use() {
        let view = hostile();
        let json = serde_json::to_value(Json::new(&view, None, Some(Duration::from_secs(2))));
        let json = json.expect("it can be written");
        assert_eq!(json["key"], "a1b2c3d4e5f6");
        assert_eq!(json["state"], "failed");
        assert_eq!(json["maps"]["tasks"], 4);
        assert_eq!(json["took_ms"], 2000);
        assert_eq!(json["failures"][0]["task"], "map-00003");
        assert_eq!(json["failures"][0]["attempt"], "12.7");
        assert_eq!(json.get("running"), None, "it does not run");
    }
}
