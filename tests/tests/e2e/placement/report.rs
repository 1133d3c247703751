//! What the trials tell in the end.

use std::collections::BTreeMap;
use std::fmt;

use super::faults::Kind;
use super::judge::Gaps;

/// Trials of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) trials: usize,
    /// Times between holders, of trials in which the role went to another epoch.
    pub(super) gaps: Gaps,
}

impl Tally {
    pub(super) fn join(&mut self, other: &Self) {
        self.trials += other.trials;
        self.gaps.join(&other.gaps);
    }
}

pub(super) type Tallies = BTreeMap<Kind, Tally>;

/// All of it.
pub(super) struct Report {
    pub(super) tallies: Tallies,
    /// Writes that the resource which looks at epochs took, and refused.
    pub(super) taken: usize,
    pub(super) refused: usize,
    /// Writes of an old epoch that the other took.
    pub(super) stale: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["trials", "handed over", "least ms", "p50", "p99", "most ms"];
        write!(f, "{:<20}", "")?;
        for head in heads {
            write!(f, "{head:>12}")?;
        }
        let mut all = Tally::default();
        for (kind, tally) in &self.tallies {
            all.join(tally);
            let name = match kind {
                Kind::Host(fault) => format!("host {fault:?}"),
                Kind::Group(fault) => format!("group {fault:?}"),
                Kind::Both(fault) => format!("cut, {fault:?}"),
            };
            line(f, &name, tally)?;
        }
        line(f, "all", &all)?;
        let Self {
            taken,
            refused,
            stale,
            ..
        } = self;
        writeln!(f)?;
        write!(
            f,
            "no two at once. The resource that looks at epochs took {taken} writes and refused \
             {refused}; one that does not took {stale} of an old epoch"
        )
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, tally: &Tally) -> fmt::Result {
    let (trials, gaps) = (tally.trials, &tally.gaps);
    write!(f, "\n{name:<20}{trials:>12}{:>12}", gaps.count())?;
    for percent in [0, 50, 99, 100] {
        match gaps.percentile(percent) {
            Some(gap) => write!(f, "{:>12}", gap.as_millis())?,
            None => write!(f, "{:>12}", "-")?,
        }
    }
    Ok(())
}
