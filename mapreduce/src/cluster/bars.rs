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
    /// On a terminal too, one of several jobs.
    Step(Box<StepBar>),
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
            Self::Step(bar) => bar.show(view, maps, reduces, notes),
            Self::Lines(lines) => {
                if lines.is_due(Instant::now()) {
                    let line = line(view, maps, reduces, notes);
                    eprintln!("{}{line}", lines.begin);
                }
            }
        }
    }

    /// That the group is not heard, or that it is.
    pub(crate) fn silence(&mut self, problem: Option<String>) {
        match (self, problem) {
            (Self::Terminal(bars), problem) => bars.silence(problem),
            (Self::Step(bar), problem) => bar.silence = problem,
            (Self::Lines(lines), Some(problem)) => {
                if lines.is_due(Instant::now()) {
                    eprintln!("{}{problem}", lines.begin);
                }
            }
            (Self::Lines(_), None) => {}
        }
    }

    /// Nothing follows: what is shown stays.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Terminal(bars) => bars.end(),
            Self::Step(bar) => bar.bar.abandon(),
            Self::Lines(_) => {}
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
    /// What each of them begins with.
    begin: String,
}

/// Several jobs at once: a bar for each, or lines that begin with the name of the step that it is.
pub(crate) struct Steps {
    bars: Option<MultiProgress>,
}

impl Steps {
    /// As standard error is.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bars = is_terminal.then(MultiProgress::new);
        Self { bars }
    }

    /// Where a step is shown.
    pub(crate) fn of(&self, step: &str) -> Display {
        match &self.bars {
            Some(bars) => {
                let bar = ProgressBar::new(0).with_style(style(STEP_BAR));
                let bar = bars.add(bar.with_prefix(step.to_owned()));
                let silence = None;
                Display::Step(Box::new(StepBar { bar, silence }))
            }
            None => Display::Lines(Lines {
                last: None,
                begin: format!("step {step}: "),
            }),
        }
    }

    /// Says a line, above the bars if there are any.
    pub(crate) fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

/// The bar of one of several jobs: its tasks of both phases.
pub(crate) struct StepBar {
    bar: ProgressBar,
    silence: Option<String>,
}

impl StepBar {
    fn show(&mut self, view: &View, maps: &Stand, reduces: &Stand, notes: &[String]) {
        let stands = [maps, reduces];
        self.bar
            .set_length(stands.iter().map(|of| u64::from(of.tasks)).sum());
        self.bar
            .set_position(stands.iter().map(|of| u64::from(of.done)).sum());
        let is_mapping = maps.done < maps.tasks || reduces.tasks == 0;
        let (phase, stand) = if is_mapping {
            (Phase::Map, maps)
        } else {
            (Phase::Reduce, reduces)
        };
        let told = format!(
            "{} {} {phase} {}",
            view.key,
            view.state.name(),
            stand.told()
        );
        let parts = std::iter::once(&told).chain(notes).chain(&self.silence);
        let parts: Vec<&str> = parts.map(String::as_str).collect();
        self.bar.set_message(words::line(&parts.join("; ")));
    }
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

/// How bars of phases look.
const PHASE_BAR: &str = "{prefix:6} [{bar:30}] {pos:>6}/{len:<6} {wide_msg}";
/// And those of steps.
const STEP_BAR: &str = "{prefix:16} [{bar:20}] {pos:>6}/{len:<6} {wide_msg}";

fn bar(name: &'static str) -> ProgressBar {
    let style = style(PHASE_BAR);
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
        for template in [PHASE_BAR, STEP_BAR, "{wide_msg}"] {
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
