//! The status page: HTML made by the server, without scripts, that loads itself again while a job
//! runs.
//!
//! Invariant: [`Html`] takes text of this file as it is, and escapes all else. So nothing that a
//! job, a worker or the group says is ever markup, whatever it is.

use crate::cluster::live;
use crate::cluster::progress::{self, Stand};
use crate::cluster::proto;
use crate::cluster::view::{State, View};
use crate::cluster::words;
use mapreduce_core::names::{AttemptId, Phase, TaskId};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

/// Jobs on a page, the latest first.
const JOBS_MAX: usize = 200;
/// Tasks on a page.
pub(crate) const TASKS_MAX: usize = 200;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:.5em 0 1.5em}\
th,td{text-align:left;padding:.15em 1.2em .15em 0;border-bottom:1px solid #ddd;vertical-align:top}\
td.n{text-align:right;font-variant-numeric:tabular-nums}h1{font-size:1.5em}h2{font-size:1.15em}\
progress{width:16em}.failed,.damaged{color:#a00}.done{color:#070}.note{color:#666}\
td.m{max-width:45em;overflow-wrap:anywhere}";

/// A page as it is written.
pub(crate) struct Html(String);

impl Html {
    /// Begins a page; one that is not final is loaded again every 2 s.
    fn new(title: &str, is_final: bool) -> Self {
        let mut page = Self(String::with_capacity(16 << 10));
        page.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
        page.raw("<meta name=\"viewport\" content=\"width=device-width\">");
        if !is_final {
            page.raw("<meta http-equiv=\"refresh\" content=\"2\">");
        }
        page.raw("<title>").text(title).raw("</title><style>");
        page.raw(STYLE).raw("</style></head>\n<body>\n");
        page
    }

    /// Text of this file.
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Any text.
    fn text(&mut self, text: impl Display) -> &mut Self {
        for at in text.to_string().chars() {
            match at {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\t' | '\n' => self.0.push(at),
                at if at.is_control() => self.0.push('\u{fffd}'),
                at => self.0.push(at),
            }
        }
        self
    }

    fn cell(&mut self, text: impl Display) -> &mut Self {
        self.raw("<td>").text(text).raw("</td>")
    }

    fn number(&mut self, text: impl Display) -> &mut Self {
        self.raw("<td class=\"n\">").text(text).raw("</td>")
    }

    fn heads(&mut self, heads: &[&'static str]) -> &mut Self {
        self.raw("<table><tr>");
        for head in heads {
            self.raw("<th>").raw(head).raw("</th>");
        }
        self.raw("</tr>\n")
    }

    fn end(mut self) -> String {
        self.raw("</body></html>\n");
        self.0
    }

    fn job_link(&mut self, key: &str) -> &mut Self {
        self.raw("<a href=\"/jobs/").text(segment(key)).raw("\">");
        self.text(key).raw("</a>")
    }

    fn log_link(&mut self, key: &str, attempt: AttemptId) -> &mut Self {
        self.raw("<a href=\"/jobs/").text(segment(key));
        self.raw("/attempts/").text(attempt).raw("/log\">");
        self.text(attempt).raw("</a>")
    }

    fn state(&mut self, state: State) -> &mut Self {
        self.raw("<span class=\"").raw(state.name()).raw("\">");
        self.raw(state.name()).raw("</span>")
    }
}

/// One part of a path.
fn segment(text: &str) -> String {
    let mut path = String::new();
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            path.push(char::from(octet));
        } else {
            words::add(&mut path, format_args!("%{octet:02X}"));
        }
    }
    path
}

/// All jobs and workers.
pub(crate) fn index(views: &[View], live: &proto::InspectResponse) -> String {
    let is_final = !views.iter().any(|view| !view.state.is_over());
    let mut page = Html::new("MapReduce", is_final);
    page.raw("<h1>MapReduce</h1>\n<p>Master of epoch ")
        .text(live.epoch);
    page.raw(", ").text(live.jobs_count).raw(" running jobs, ");
    page.text(live.workers_count)
        .raw(" workers</p>\n<h2>Jobs</h2>\n");
    if views.is_empty() {
        page.raw("<p>There are none: <code>mapreduce submit</code> makes one.</p>\n");
    } else {
        jobs(&mut page, views);
    }
    page.raw("<h2>Workers</h2>\n");
    if live.workers.is_empty() {
        page.raw("<p>There are none: <code>mapreduce worker</code> is one.</p>\n");
    } else {
        workers(&mut page, live);
    }
    page.end()
}

fn jobs(page: &mut Html, views: &[View]) {
    page.heads(&[
        "Key", "Name", "State", "Maps", "Reduces", "Failures", "Age", "Output",
    ]);
    for view in views.iter().rev().take(JOBS_MAX) {
        page.raw("<tr><td>").job_link(&view.key).raw("</td>");
        page.cell(&view.name)
            .raw("<td>")
            .state(view.state)
            .raw("</td>");
        page.number(format_args!("{}/{}", view.maps.done, view.maps.tasks));
        page.number(format_args!("{}/{}", view.reduces.done, view.reduces.tasks));
        page.number(view.maps.failures + view.reduces.failures);
        page.number(view.age().map(words::time).unwrap_or_default());
        page.cell(view.output.as_deref().unwrap_or_default());
        page.raw("</tr>\n");
    }
    page.raw("</table>\n");
    if views.len() > JOBS_MAX {
        let more = views.len() - JOBS_MAX;
        page.raw("<p class=\"note\">and ")
            .text(more)
            .raw(" older ones</p>\n");
    }
}

fn workers(page: &mut Html, live: &proto::InspectResponse) {
    page.heads(&["Name", "Host", "Zone", "Running", "Slots", "Heard", "State"]);
    for worker in &live.workers {
        page.raw("<tr>")
            .cell(&worker.name)
            .cell(&worker.host)
            .cell(&worker.zone);
        page.number(worker.running).number(worker.slots);
        let heard = words::time(Duration::from_millis(worker.heard_ms));
        page.number(format_args!("{heard} ago"));
        match (worker.silent, worker.rests_ms) {
            (true, _) => page.cell("silent"),
            (false, 0) => page.cell("ready"),
            (false, ms) => {
                let rests = words::time(Duration::from_millis(ms));
                page.cell(format_args!("rests after failures for {rests}"))
            }
        };
        page.raw("</tr>\n");
    }
    page.raw("</table>\n");
    let shown = u32::try_from(live.workers.len()).unwrap_or(u32::MAX);
    if live.workers_count > shown {
        let more = live.workers_count - shown;
        page.raw("<p class=\"note\">and ")
            .text(more)
            .raw(" more</p>\n");
    }
}

/// A task, as a page has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) task: TaskId,
    pub(crate) winner: Option<AttemptId>,
    pub(crate) failures: u32,
    pub(crate) running: Vec<live::Runs>,
}

/// Tasks from one on, and how many there are.
pub(crate) struct Rows {
    pub(crate) page: Vec<Row>,
    pub(crate) from: usize,
    pub(crate) count: usize,
}

/// A job.
pub(crate) fn job(
    view: &View,
    (maps, reduces): &(Stand, Stand),
    live: &proto::InspectResponse,
    tasks: &Rows,
) -> String {
    let mut page = Html::new(&format!("{} - MapReduce", view.key), view.state.is_over());
    page.raw("<p><a href=\"/\">MapReduce</a></p>\n<h1>")
        .text(&view.name)
        .raw(" ");
    page.text(&view.key)
        .raw("</h1>\n<p>")
        .text(view.id)
        .raw(": ")
        .state(view.state);
    if let Some(problem) = &view.problem {
        page.raw(": ").text(problem);
    }
    page.raw("</p>\n<p>input ")
        .text(words::octets(view.input_octets));
    if let Some(output) = &view.output {
        page.raw(", output <code>").text(output).raw("</code>");
    }
    if let Some(age) = view.age() {
        page.raw(", submitted ").text(words::time(age)).raw(" ago");
    }
    page.raw("</p>\n<h2>Phases</h2>\n");
    page.heads(&[
        "Phase",
        "Tasks",
        "",
        "Running",
        "Failed",
        "Half took",
        "Progress",
    ]);
    for (phase, stand) in [(Phase::Map, maps), (Phase::Reduce, reduces)] {
        if stand.tasks > 0 {
            phase_row(&mut page, view, (phase, stand), live);
        }
    }
    page.raw("</table>\n");
    for note in progress::stragglers(view, live, 10) {
        page.raw("<p class=\"note\">").text(note).raw("</p>\n");
    }
    if !view.failures.is_empty() {
        failures(&mut page, view);
    }
    counters(&mut page, view);
    task_rows(&mut page, view, tasks);
    page.end()
}

fn phase_row(
    page: &mut Html,
    view: &View,
    (phase, stand): (Phase, &Stand),
    live: &proto::InspectResponse,
) {
    page.raw("<tr>").cell(phase);
    page.number(format_args!("{}/{}", stand.done, stand.tasks));
    page.raw("<td><progress max=\"").text(stand.tasks);
    page.raw("\" value=\"")
        .text(stand.done)
        .raw("\"></progress></td>");
    page.number(stand.running).number(stand.failures);
    let median = live::phase(live, view.id, phase).and_then(|phase| phase.median_ms);
    let median = median.map(|ms| words::time(Duration::from_millis(ms)));
    page.number(median.unwrap_or_default());
    page.cell(stand.told()).raw("</tr>\n");
}

fn failures(page: &mut Html, view: &View) {
    page.raw("<h2>Latest failures</h2>\n");
    page.heads(&["Task", "Log of attempt", "Worker", "Record", "How"]);
    for failure in view.failures.iter().rev() {
        page.raw("<tr>").cell(failure.task).raw("<td>");
        page.log_link(&view.key, failure.attempt).raw("</td>");
        page.cell(failure.worker.as_deref().unwrap_or_default());
        page.number(failure.record.map(|at| at.to_string()).unwrap_or_default());
        page.raw("<td class=\"m\">").text(&failure.class).raw(": ");
        page.text(&failure.message).raw("</td></tr>\n");
    }
    page.raw("</table>\n");
}

fn counters(page: &mut Html, view: &View) {
    page.raw("<h2>Counters</h2>\n")
        .heads(&["Counter", "Maps", "Reduces"]);
    let phases = [&view.maps, &view.reduces];
    let named = phases.iter().flat_map(|phase| &phase.counters);
    let named = named.flat_map(|(group, names)| names.keys().map(move |name| (group, name)));
    let named: BTreeSet<_> = named.collect();
    for (group, name) in named {
        page.raw("<tr>").cell(format_args!("{group}: {name}"));
        for phase in phases {
            page.number(phase.counter(group, name));
        }
        page.raw("</tr>\n");
    }
    page.raw("</table>\n");
}

fn task_rows(page: &mut Html, view: &View, tasks: &Rows) {
    page.raw("<h2>Tasks</h2>\n");
    page.heads(&["Task", "State", "Failures", "Logs of attempts"]);
    for row in &tasks.page {
        page.raw("<tr>").cell(row.task);
        page.cell(match (row.winner, row.running.is_empty()) {
            (Some(_), _) => "done",
            (None, false) => "running",
            (None, true) if view.state.is_over() => "not done",
            (None, true) => "waiting",
        });
        page.number(row.failures).raw("<td>");
        for runs in &row.running {
            page.log_link(&view.key, runs.attempt)
                .raw(" on ")
                .text(&runs.worker);
            page.raw(" for ").text(words::time(runs.runtime)).raw(", ");
            page.text(words::octets(runs.octets)).raw(", ");
            page.text(runs.records).raw(" records");
            if runs.is_backup {
                page.raw(", backup");
            }
            if !runs.status.is_empty() {
                page.raw(": ").text(words::line(&runs.status));
            }
            page.raw("<br>");
        }
        if let Some(winner) = row.winner {
            page.log_link(&view.key, winner);
        }
        page.raw("</td></tr>\n");
    }
    page.raw("</table>\n");
    let next = tasks.from.saturating_add(tasks.page.len());
    if next < tasks.count && !tasks.page.is_empty() {
        page.raw("<p><a href=\"/jobs/")
            .text(segment(&view.key))
            .raw("?from=");
        page.text(next).raw("\">").text(tasks.count - next);
        page.raw(" more tasks</a></p>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::show::tests::hostile;

    /// Whether all that looks like a tag is one of ours.
    fn is_sound(page: &str) -> bool {
        !page.contains("<script") && !page.contains('\u{1b}') && !page.contains("&\"")
    }

    fn no_tasks() -> Rows {
        Rows {
            page: Vec::new(),
            from: 0,
            count: 0,
        }
    }

    #[test]
    fn whatever_a_job_says_is_text() {
        let view = View {
            key: "\"><img src=x onerror=y>/../".to_owned(),
            ..hostile()
        };
        let bad = view.name.clone();
        let live = proto::InspectResponse {
            workers: vec![proto::WorkerSeen {
                name: bad.clone(),
                host: bad.clone(),
                zone: bad,
                ..proto::WorkerSeen::default()
            }],
            workers_count: 1,
            ..proto::InspectResponse::default()
        };
        let stands = (Stand::default(), Stand::default());
        let pages = [
            index(std::slice::from_ref(&view), &live),
            job(&view, &stands, &live, &no_tasks()),
        ];
        for page in pages {
            assert!(is_sound(&page), "{page}");
            assert!(!page.contains("<img"), "{page}");
            assert!(
                page.contains("&lt;script&gt;"),
                "it is shown as it is: {page}"
            );
            assert!(page.contains("%22%3E%3Cimg%20src%3Dx%20onerror%3Dy%3E%2F..%2F"));
        }
    }

    #[test]
    fn a_page_loads_itself_again_while_a_job_runs_and_not_after() {
        let ended = hostile();
        let runs = View {
            state: State::Running,
            problem: None,
            ..hostile()
        };
        let live = proto::InspectResponse::default();
        let refresh = "<meta http-equiv=\"refresh\" content=\"2\">";
        let stands = (Stand::default(), Stand::default());
        for (view, is_again) in [(&ended, false), (&runs, true)] {
            let pages = [
                index(std::slice::from_ref(view), &live),
                job(view, &stands, &live, &no_tasks()),
            ];
            for page in pages {
                assert_eq!(page.contains(refresh), is_again, "{page}");
            }
        }
        assert!(!index(&[], &live).contains(refresh));
    }

    #[test]
    fn tasks_come_with_links_to_their_logs_and_to_the_next_page() {
        let view = hostile();
        let winner = view.failures[0].attempt;
        let rows = Rows {
            page: vec![Row {
                task: TaskId::map(0),
                winner: Some(winner),
                failures: 0,
                running: Vec::new(),
            }],
            from: 3,
            count: 10,
        };
        let stands = (Stand::default(), Stand::default());
        let page = job(&view, &stands, &proto::InspectResponse::default(), &rows);
        assert!(page.contains("<a href=\"/jobs/a1b2c3d4e5f6/attempts/12.7/log\">12.7</a>"));
        assert!(page.contains("<a href=\"/jobs/a1b2c3d4e5f6?from=4\">6 more tasks</a>"));
    }
}
