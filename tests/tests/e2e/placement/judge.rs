//! What the log of a role's holders tells: who ran when, and whether two ran at once; and what the
//! lists of its resources tell.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::resource::Write;

/// One run of the role's program: the time from its first line to its last, on one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) epoch: i64,
    pub(crate) host: String,
    /// Its process: an epoch may be served by one after the other, on one host.
    pub(crate) process: u32,
    /// Nanoseconds.
    pub(crate) first: u64,
    /// Nanoseconds.
    pub(crate) last: u64,
}

/// A time in which a test lets a program run although its time is over, to see it refused.
#[derive(Debug)]
struct Woken {
    process: u32,
    from: u64,
    to: u64,
}

/// The runs that lines tell of.
#[derive(Debug, Default)]
struct Runs {
    spans: BTreeMap<(i64, String, u32), (u64, u64)>,
    woken: Vec<Woken>,
}

impl Runs {
    fn add(&mut self, lines: &str) -> Result<(), String> {
        for line in lines.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let parsed = match fields[..] {
                [epoch, host, process, nanos] => {
                    let numbers = epoch.parse().ok().zip(process.parse().ok());
                    numbers
                        .zip(nanos.parse().ok())
                        .map(|((epoch, process), nanos)| (epoch, host, process, nanos))
                }
                _ => None,
            };
            let Some((epoch, host, process, nanos)) = parsed else {
                return Err(format!("'{line}' is no line of a holder"));
            };
            let known = self
                .woken
                .iter()
                .any(|woken| woken.process == process && (woken.from..=woken.to).contains(&nanos));
            if known {
                continue;
            }
            let run = self.spans.entry((epoch, host.to_owned(), process));
            let (first, last) = run.or_insert((nanos, nanos));
            *first = nanos.min(*first);
            *last = nanos.max(*last);
        }
        Ok(())
    }

    /// In the order of their beginnings.
    fn sorted(&self) -> Vec<Run> {
        let mut runs: Vec<_> = self
            .spans
            .iter()
            .map(|((epoch, host, process), (first, last))| Run {
                epoch: *epoch,
                host: host.clone(),
                process: *process,
                first: *first,
                last: *last,
            })
            .collect();
        runs.sort_by_key(|run| run.first);
        runs
    }
}

/// The log that all holders of a role write to, as far as it was read.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    read: u64,
    runs: Runs,
}

impl Log {
    /// An empty one.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::write(&path, "").context("make the holders' log")?;
        Ok(Self {
            path,
            read: 0,
            runs: Runs::default(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The runs in the order of their beginnings. A line that has no end yet is left out: it is
    /// being written.
    pub(crate) fn runs(&mut self) -> Result<Vec<Run>> {
        let mut file = File::open(&self.path).context("open the holders' log")?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut new = Vec::new();
        file.read_to_end(&mut new).context("read the log")?;
        let end = new.iter().rposition(|byte| *byte == b'\n');
        let whole = &new[..end.map_or(0, |end| end + 1)];
        let text = std::str::from_utf8(whole).context("the log is text")?;
        self.runs.add(text).map_err(|problem| anyhow!(problem))?;
        self.read += whole.len() as u64;
        Ok(self.runs.sorted())
    }

    /// What this process says from this moment on is known, and no run of it, until it is put to
    /// sleep again.
    pub(crate) fn woken(&mut self, process: u32, from: u64) {
        self.runs.woken.push(Woken {
            process,
            from,
            to: u64::MAX,
        });
    }

    /// It sleeps, since this moment at the latest.
    pub(crate) fn asleep(&mut self, process: u32, to: u64) {
        let mut woken = self.runs.woken.iter_mut().rev();
        if let Some(woken) = woken.find(|woken| woken.process == process) {
            woken.to = to;
        }
    }
}

/// The times between one run and the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gaps(Vec<Duration>);

impl Gaps {
    pub(crate) fn add(&mut self, gap: Duration) {
        self.0.push(gap);
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many of a hundred are at most; 0 is the shortest, 100 the longest.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort();
        let last = sorted.len().checked_sub(1)?;
        sorted.get((last * percent).div_ceil(100)).copied()
    }
}

/// No two at once, and each under a greater epoch than all before, on whatever host.
pub(crate) fn judge(runs: &[Run]) -> Result<Gaps, String> {
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
        if after.epoch <= before.epoch {
            return Err(format!("an epoch came back: {before:?}, then {after:?}"));
        }
        gaps.add(Duration::from_nanos(after.first - before.last));
    }
    Ok(gaps)
}

/// What a resource that looks at epochs applied: of each role the epochs never fall, and each is of
/// one host.
pub(super) fn judge_checked(applied: &[Write]) -> Result<(), String> {
    let mut before: BTreeMap<&str, &Write> = BTreeMap::new();
    let mut hosts: BTreeMap<(&str, i64), &str> = BTreeMap::new();
    for write in applied {
        if let Some(before) = before.insert(&write.role, write)
            && before.epoch > write.epoch
        {
            return Err(format!(
                "an old write was taken: {write:?} after {before:?}"
            ));
        }
        let host = hosts.entry((&write.role, write.epoch));
        let host = *host.or_insert(&write.host);
        if host != write.host {
            return Err(format!("{host} wrote under the epoch of {write:?}"));
        }
    }
    Ok(())
}

/// Writes that a resource applied after one of a later epoch of the same role.
pub(super) fn stale(applied: &[Write]) -> usize {
    let mut latest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut stale = 0;
    for write in applied {
        let latest = latest.entry(&write.role).or_insert(i64::MIN);
        *latest = write.epoch.max(*latest);
        stale += usize::from(write.epoch < *latest);
    }
    stale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(log: &str) -> Result<Gaps, String> {
        let mut runs = Runs::default();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        runs.add(whole)?;
        judge(&runs.sorted())
    }

    fn writes(list: &[(&str, i64, &str)]) -> Vec<Write> {
        let write = |&(role, epoch, host): &(&str, i64, &str)| Write {
            role: role.to_owned(),
            epoch,
            host: host.to_owned(),
            nanos: 0,
        };
        list.iter().map(write).collect()
    }

    #[test]
    fn one_after_the_other_is_right_and_the_time_between_is_told() {
        let log = "3 a 1 100\n3 a 1 200\n7 b 2 250\n7 b 2 400\n9 a 1 1000\n10 a 3 1010\n10 a 3 1";
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
        assert!(wrong("3 a 1 100\n3 a 2 200\n").contains("came back"));
        assert!(wrong("3 a 1\n").contains("no line"));
        assert!(wrong("3 a 1 x\n").contains("no line"));
    }

    #[test]
    fn what_a_woken_program_says_counts_but_for_the_known_time() {
        let mut runs = Runs::default();
        runs.woken.push(Woken {
            process: 1,
            from: 300,
            to: 400,
        });
        let known = "3 a 1 100\n3 a 1 200\n7 b 2 250\n3 a 1 300\n3 a 1 400\n7 b 2 500\n";
        runs.add(known).expect("lines");
        assert_eq!(judge(&runs.sorted()).expect("right").count(), 1);
        runs.add("3 a 1 401\n").expect("a line");
        assert!(judge(&runs.sorted()).is_err(), "it ran on");
    }

    #[test]
    fn a_log_is_read_on_from_where_it_was_left() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Log::create(dir.path().join("log")).expect("a log");
        let mut last = |text: &str| {
            fs::write(dir.path().join("log"), text).expect("write");
            let runs = log.runs().expect("runs");
            runs.last().map(|run| (run.epoch, run.last))
        };
        assert_eq!(last("3 a 1"), None);
        assert_eq!(last("3 a 1 100\n3 a"), Some((3, 100)));
        assert_eq!(last("3 a 1 100\n3 a 1 200\n"), Some((3, 200)));
        assert_eq!(last("3 a 1 100\n3 a 1 200\n"), Some((3, 200)));
    }

    #[test]
    fn an_old_write_and_a_shared_epoch_are_wrong_where_epochs_are_looked_at() {
        let right = writes(&[("r", 3, "a"), ("s", 2, "b"), ("r", 3, "a"), ("r", 7, "b")]);
        assert_eq!(judge_checked(&right), Ok(()));
        assert_eq!(stale(&right), 0);
        let old = writes(&[("r", 3, "a"), ("r", 7, "b"), ("r", 3, "a"), ("r", 4, "a")]);
        let problem = judge_checked(&old).expect_err("an old write");
        assert!(problem.contains("an old write"), "{problem}");
        assert_eq!(stale(&old), 2);
        let shared = writes(&[("r", 3, "a"), ("r", 3, "b")]);
        let problem = judge_checked(&shared).expect_err("a shared epoch");
        assert!(problem.contains("a wrote under"), "{problem}");
    }
}
