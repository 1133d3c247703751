//! How far a job is, shown on standard error: bars that move on a terminal, else a plain line every
//! five seconds, so that a log stays short.

use crate::cluster::progress::Stand;
use crate::cluster::view::View;
use crate::cluster::words;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mapreduce_core::names::Phase;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Between two lines where no person looks on.
const LINES: Duration = Duration::from_secs(5);

/// Where it is shown.
pub(crate) enum Display {
    Terminal(Box<Bars>),
    Lines(Lines),
}

impl Display {
    /// As standard error is.
    pub(crate) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Terminal(Box::default())
        } else {
            Self::Lines(Lines::default())
        }
    }

    /// Shows how far a job is.
    pub(crate) fn show(&mut self, view: &View, maps: &Stand, reduces: &Stand, notes: &[String]) {
        match self {
            Self::Terminal(bars) => bars.show(maps, reduces, notes),
            Self::Lines(lines) => {
                if lines.is_due(Instant::now()) {
                    eprintln!("{}", line(view, maps, reduces, notes));
                }
            }
        }
    }

    /// That the group is not heard, or that it is.
    pub(crate) fn silence(&mut self, problem: Option<String>) {
        match (self, problem) {
            (Self::Terminal(bars), problem) => bars.silence(problem),
            (Self::Lines(lines), Some(problem)) => {
                if lines.is_due(Instant::now()) {
                    eprintln!("{problem}");
                }
            }
            (Self::Lines(_), None) => {}
        }
    }

    /// Nothing follows: what is shown stays.
    pub(crate) fn end(&mut self) {
        if let Self::Terminal(bars) = self {
            bars.end();
        }
    }
}

/// A line for a log.
fn line(view: &View, maps: &Stand, reduces: &Stand, notes: &[String]) -> String {
    let mut parts = vec![
        format!("{} {}", view.key, view.state.name()),
        maps.line(Phase::Map),
    ];
    if reduces.tasks > 0 {
        parts.push(reduces.line(Phase::Reduce));
    }
    parts.extend(notes.iter().cloned());
    words::line(&parts.join("; "))
}

/// When a line was written last.
#[derive(Default)]
pub(crate) struct Lines {
    last: Option<Instant>,
}

impl Lines {
    /// The first at once.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now >= last + LINES);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// Bars of a terminal.
pub(crate) struct Bars {
    all: MultiProgress,
    maps: ProgressBar,
    /// Once it is known that there are any.
    reduces: Option<ProgressBar>,
    notes: ProgressBar,
    silence: Option<String>,
}

impl Default for Bars {
    fn default() -> Self {
        let all = MultiProgress::new();
        let maps = all.add(bar("map"));
        let notes = ProgressBar::new_spinner().with_style(style("{wide_msg}"));
        let notes = all.add(notes);
        Self {
            all,
            maps,
            reduces: None,
            notes,
            silence: None,
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are those of this file; one that is wrong is a bar as it comes.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bar(name: &'static str) -> ProgressBar {
    let style = style("{prefix:6} [{bar:30}] {pos:>6}/{len:<6} {wide_msg}");
    let style = style.progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_prefix(name)
}

impl Bars {
    fn show(&mut self, maps: &Stand, reduces: &Stand, notes: &[String]) {
        set(&self.maps, maps);
        if reduces.tasks > 0 {
            let all = &self.all;
            let before = &self.notes;
            let bar = self
                .reduces
                .get_or_insert_with(|| all.insert_before(before, bar("reduce")));
            set(bar, reduces);
        }
        let lines = self
            .silence
            .iter()
            .chain(notes)
            .map(|note| words::line(note));
        let text = lines.collect::<Vec<_>>().join("\n");
        if self.notes.message() != text {
            self.notes.set_message(text);
        }
    }

    fn silence(&mut self, problem: Option<String>) {
        if let Some(problem) = &problem {
            self.notes.set_message(problem.clone());
        }
        self.silence = problem;
    }

    fn end(&mut self) {
        self.notes.finish_and_clear();
        for bar in std::iter::once(&self.maps).chain(&self.reduces) {
            bar.abandon();
        }
    }
}

fn set(bar: &ProgressBar, stand: &Stand) {
    bar.set_length(stand.tasks.into());
    bar.set_position(stand.done.into());
    bar.set_message(stand.told());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_of_bars_are_well_formed() {
        for template in [
            "{prefix:6} [{bar:30}] {pos:>6}/{len:<6} {wide_msg}",
            "{wide_msg}",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn a_line_is_due_at_once_and_then_every_five_seconds() {
        let mut lines = Lines::default();
        let began = Instant::now();
        let due: Vec<u64> = (0..=11)
            .filter(|second| lines.is_due(began + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 5, 10]);
    }
}
