//! What the log of a role's holders tells: who ran when, and whether two ran at once.

use std::collections::BTreeMap;
use std::time::Duration;

/// Several times what passes between two lines, and less than any holder needs to be replaced.
const JUST_NOW: Duration = Duration::from_millis(40);

/// One run of the role's program: the time from its first line to its last, on one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) epoch: i64,
    pub(super) host: String,
    /// Its process: an epoch may be served by one after the other, on one host.
    pub(super) process: u32,
    /// Nanoseconds.
    pub(super) first: u64,
    /// Nanoseconds.
    pub(super) last: u64,
}

impl Run {
    /// It has said so just now.
    pub(super) fn goes_on(&self) -> bool {
        let now = cfgsvc_clock::Moment::now().nanos();
        Duration::from_nanos(now.saturating_sub(self.last)) < JUST_NOW
    }
}

/// The runs in the order of their beginnings. A line that has no end yet is left out: it is being
/// written.
pub(super) fn runs(log: &str) -> Result<Vec<Run>, String> {
    let mut runs: BTreeMap<(i64, &str, u32), (u64, u64)> = BTreeMap::new();
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let parsed = match fields[..] {
            [epoch, host, process, nanos] => {
                let numbers = epoch.parse().ok().zip(process.parse().ok());
                numbers.zip(nanos.parse().ok()).zip(Some(host))
            }
            _ => None,
        };
        let Some((((epoch, process), nanos), host)) = parsed else {
            return Err(format!("'{line}' is no line of a holder"));
        };
        let run = runs.entry((epoch, host, process));
        let (first, last) = run.or_insert((nanos, nanos));
        *first = nanos.min(*first);
        *last = nanos.max(*last);
    }
    let mut runs: Vec<_> = runs
        .into_iter()
        .map(|((epoch, host, process), (first, last))| Run {
            epoch,
            host: host.to_owned(),
            process,
            first,
            last,
        })
        .collect();
    runs.sort_by_key(|run| run.first);
    Ok(runs)
}

/// The times between one run and the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Gaps(Vec<Duration>);

impl Gaps {
    pub(super) fn add(&mut self, gap: Duration) {
        self.0.push(gap);
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many of a hundred are at most; 0 is the shortest, 100 the longest.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((last * percent).div_ceil(100)).copied()
    }
}

/// No two at once, and each under a greater epoch than all before, but for one that the same host
/// began again.
pub(super) fn judge(runs: &[Run]) -> Result<Gaps, String> {
    let mut gaps = Gaps::default();
    for pair in runs.windows(2) {
        let [before, after] = pair else {
            return Err("windows of two have two".to_owned());
        };
        if after.first <= before.last {
            let over = Duration::from_nanos(before.last - after.first);
            return Err(format!(
                "two served at once, for {over:?}: {before:?} and {after:?}"
            ));
        }
        let again = after.epoch == before.epoch && after.host == before.host;
        if after.epoch <= before.epoch && !again {
            return Err(format!("an epoch came back: {before:?}, then {after:?}"));
        }
        gaps.add(Duration::from_nanos(after.first - before.last));
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(log: &str) -> Result<Gaps, String> {
        judge(&runs(log)?)
    }

    #[test]
    fn one_after_the_other_is_right_and_the_time_between_is_told() {
        let log = "3 a 1 100\n3 a 1 200\n7 b 2 250\n7 b 2 400\n9 a 1 1000\n9 a 3 1010\n9 a 3 1";
        let gaps = judged(log).expect("right");
        let gaps = [0, 50, 99, 100].map(|percent| gaps.percentile(percent));
        let nanos = |nanos| Some(Duration::from_nanos(nanos));
        assert_eq!(gaps, [nanos(10), nanos(50), nanos(600), nanos(600)]);
        assert_eq!(Gaps::default().percentile(50), None);
    }

    #[test]
    fn two_at_once_an_old_epoch_and_a_shared_one_are_wrong() {
        let wrong = |log| judged(log).expect_err(log);
        assert!(wrong("3 a 1 100\n3 a 1 200\n7 b 2 200\n").contains("at once"));
        assert!(wrong("3 a 1 100\n7 b 2 150\n3 a 1 160\n").contains("at once"));
        assert!(wrong("3 a 1 100\n3 a 2 150\n3 a 1 160\n").contains("at once"));
        assert!(wrong("7 a 1 100\n3 b 2 200\n").contains("came back"));
        assert!(wrong("3 a 1 100\n3 b 2 200\n").contains("came back"));
        assert!(wrong("3 a 1\n").contains("no line"));
        assert!(wrong("3 a 1 x\n").contains("no line"));
    }
}
