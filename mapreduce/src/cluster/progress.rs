//! How far a job is, in figures: what is done, how fast it goes, for how long it will take yet, and
//! which tasks are slow.
//!
//! Pure: times come as [`Duration`]s since the one who looks began.

use crate::cluster::live;
use crate::cluster::proto::InspectResponse as Live;
use crate::cluster::view::View;
use crate::cluster::words;
use mapreduce_core::names::Phase;
use std::collections::VecDeque;
use std::time::Duration;

/// Rates are over this time: long enough for tasks of some seconds.
const WINDOW: Duration = Duration::from_secs(15);
/// Samples that are kept, one each quarter of a second at most.
const SAMPLES_MAX: usize = 60;
/// The part of the input that is left when as good as all is read.
const READ_ALL: f64 = 0.01;
/// A task is slow from this part of the median on, percent; the master's own rule for a second
/// attempt.
const SLOW_PERCENT: u32 = 150;
/// And not before it has taken so long.
const SLOW_MIN: Duration = Duration::from_secs(2);

/// How much was done in the last while.
#[derive(Debug, Default)]
pub(crate) struct Rate(VecDeque<(Duration, f64)>);

impl Rate {
    /// So much is done at `now`. What was done before and was lost is no progress when it is done
    /// again.
    pub(crate) fn add(&mut self, now: Duration, done: f64) {
        let done = self.0.back().map_or(done, |(_, before)| done.max(*before));
        let gap = WINDOW / u32::try_from(SAMPLES_MAX).unwrap_or(u32::MAX);
        let is_soon = self.0.len() > 1
            && self
                .0
                .iter()
                .nth_back(1)
                .is_some_and(|(at, _)| now < *at + gap);
        if is_soon {
            self.0.pop_back();
        }
        self.0.push_back((now, done));
        // The first of them is the last that is older, so that the window is full.
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(at, _)| *at + WINDOW <= now) {
            self.0.pop_front();
        }
        while self.0.len() > SAMPLES_MAX {
            self.0.pop_front();
        }
    }

    /// Of a second; none before there are two moments.
    pub(crate) fn per_second(&self) -> Option<f64> {
        let ((began, first), (ended, last)) = (self.0.front()?, self.0.back()?);
        let seconds = ended.saturating_sub(*began).as_secs_f64();
        (seconds > 0.0).then(|| (last - first) / seconds)
    }
}

/// For how long it will take yet, at this rate; none when nobody can say.
pub(crate) fn left(rest: f64, per_second: Option<f64>) -> Option<Duration> {
    let per_second = per_second.filter(|rate| *rate > 0.0)?;
    Duration::try_from_secs_f64(rest.max(0.0) / per_second).ok()
}

/// How far a phase is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Stand {
    pub(crate) tasks: u32,
    pub(crate) done: u32,
    pub(crate) running: u32,
    pub(crate) failures: u64,
    /// Of maps what they have read, of reduces what they have written.
    pub(crate) octets: u64,
    /// Octets of a second.
    pub(crate) rate: Option<f64>,
    pub(crate) left: Option<Duration>,
}

impl Stand {
    /// What stands beside a bar.
    pub(crate) fn told(&self) -> String {
        let mut parts = vec![words::octets(self.octets)];
        if let Some(rate) = self.rate.filter(|_| self.done < self.tasks) {
            parts.push(format!("{:.1} MiB/s", rate / f64::from(1 << 20)));
        }
        if let Some(left) = self.left {
            parts.push(format!("{} left", words::time(left)));
        }
        if self.failures > 0 {
            parts.push(format!("{} failed", self.failures));
        }
        parts.join(", ")
    }

    /// In a line, for a log.
    pub(crate) fn line(&self, phase: Phase) -> String {
        let (done, tasks, running) = (self.done, self.tasks, self.running);
        format!("{phase} {done}/{tasks}, {running} running, {}", self.told())
    }
}

/// What has been seen of a job, one look after the other.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    maps: Both,
    reduces: Both,
}

#[derive(Debug, Default)]
struct Both {
    octets: Rate,
    /// Tasks, with the parts that are done of those that run.
    tasks: Rate,
}

impl Progress {
    /// How far both phases are, by what the group has and, if there is one, an answer of the
    /// master.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        view: &View,
        live: Option<&Live>,
    ) -> (Stand, Stand) {
        let maps = self.maps(now, view, live);
        let reduces = self.reduces(now, view, live);
        (maps, reduces)
    }

    fn maps(&mut self, now: Duration, view: &View, live: Option<&Live>) -> Stand {
        let (mut stand, running) = stand(view, Phase::Map, live);
        let done = view.maps.own("map input bytes");
        stand.octets = done.saturating_add(running);
        // Packed input gives more octets than its files have.
        let rest = view.input_octets.saturating_sub(stand.octets) as f64;
        if stand.done < stand.tasks {
            self.maps.octets.add(now, stand.octets as f64);
            self.maps.tasks.add(now, f64::from(stand.done));
            stand.rate = self.maps.octets.per_second();
            // When all is read but what is worked on, tasks say more than octets.
            stand.left = if rest > view.input_octets as f64 * READ_ALL {
                left(rest, stand.rate)
            } else {
                let rest = f64::from(stand.tasks - stand.done);
                left(rest, self.maps.tasks.per_second())
            };
        }
        stand
    }

    fn reduces(&mut self, now: Duration, view: &View, live: Option<&Live>) -> Stand {
        let (mut stand, _) = stand(view, Phase::Reduce, live);
        stand.octets = view.reduces.own("output bytes");
        // Before the last map is done a reduce waits, and its rate says nothing.
        let can_end = view.maps.done == view.maps.tasks;
        if can_end && stand.done < stand.tasks {
            self.reduces.octets.add(now, stand.octets as f64);
            self.reduces.tasks.add(now, f64::from(stand.done));
            stand.rate = self.reduces.octets.per_second();
            let rest = f64::from(stand.tasks - stand.done);
            stand.left = left(rest, self.reduces.tasks.per_second());
        }
        stand
    }
}

/// How far a phase is, and what was read for tasks that are not done.
fn stand(view: &View, phase: Phase, live: Option<&Live>) -> (Stand, u64) {
    let of = view.phase(phase);
    let seen = live.and_then(|live| live::phase(live, view.id, phase));
    let stand = Stand {
        tasks: of.tasks,
        done: of.done,
        running: seen.map_or(0, |seen| seen.running),
        failures: of.failures,
        ..Stand::default()
    };
    (stand, seen.map_or(0, |seen| seen.octets_running))
}

/// Whether a task takes long, by what half of its phase has taken at most.
pub(crate) fn is_slow(runtime: Duration, median: Duration) -> bool {
    runtime > SLOW_MIN && runtime.saturating_mul(100) > median.saturating_mul(SLOW_PERCENT)
}

/// Tasks that take long, the longest first, in a line each.
pub(crate) fn stragglers(view: &View, live: &Live, max: usize) -> Vec<String> {
    let slow = live::running(live).into_iter().filter_map(|runs| {
        let median = live::phase(live, view.id, runs.task.phase)?.median_ms?;
        let median = Duration::from_millis(median);
        is_slow(runs.runtime, median).then(|| {
            let (runtime, median) = (words::time(runs.runtime), words::time(median));
            let (task, worker) = (runs.task, words::line(&runs.worker));
            format!("slow: {task} on {worker} runs for {runtime}, half took {median} at most")
        })
    });
    slow.take(max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_rate_is_over_the_last_while_only() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), None);
        rate.add(secs(0), 0.0);
        assert_eq!(rate.per_second(), None, "one moment has no rate");
        for second in 1..=20 {
            rate.add(secs(second), 1000.0);
        }
        assert_eq!(rate.per_second(), Some(0.0), "the start is forgotten");
        for second in 21..=60 {
            rate.add(secs(second), 1000.0 + 10.0 * (second - 20) as f64);
        }
        assert_eq!(rate.per_second(), Some(10.0));
        for second in 61..=80 {
            rate.add(secs(second), 1000.0);
        }
        assert_eq!(rate.per_second(), Some(0.0), "what was lost is done again");
    }

    #[test]
    fn a_rate_keeps_few_samples_and_the_latest_of_them() {
        let mut rate = Rate::default();
        for ms in 0..100_000_u32 {
            rate.add(Duration::from_millis(ms.into()), f64::from(ms));
        }
        assert!(rate.0.len() <= SAMPLES_MAX, "{}", rate.0.len());
        assert_eq!(rate.0.back().map(|(_, done)| *done), Some(99_999.0));
        let per_second = rate.per_second().expect("there are many");
        assert!((per_second - 1000.0).abs() < 1e-6, "{per_second}");
        let (began, _) = rate.0.front().expect("there are many");
        assert!(*began < secs(86), "the window is not full: {began:?}");
    }

    #[test]
    fn time_left_is_said_only_when_something_moves() {
        assert_eq!(left(100.0, Some(10.0)), Some(secs(10)));
        assert_eq!(left(100.0, Some(0.0)), None);
        assert_eq!(left(100.0, None), None);
        assert_eq!(left(-1.0, Some(1.0)), Some(Duration::ZERO));
        assert_eq!(left(f64::MAX, Some(1e-300)), None, "more than can be said");
    }

    #[test]
    fn slow_is_by_the_median_and_not_at_once() {
        assert!(is_slow(secs(31), secs(20)));
        assert!(!is_slow(secs(30), secs(20)));
        assert!(!is_slow(secs(2), Duration::from_millis(1)));
        assert!(is_slow(Duration::MAX, secs(1)));
    }

    #[test]
    fn a_phase_is_told_with_what_is_known() {
        let mut stand = Stand {
            tasks: 4,
            done: 1,
            running: 2,
            octets: 3 << 20,
            ..Stand::default()
        };
        assert_eq!(stand.line(Phase::Map), "map 1/4, 2 running, 3.0 MiB");
        stand.rate = Some(f64::from(1 << 19));
        stand.left = Some(secs(6));
        stand.failures = 1;
        assert_eq!(stand.told(), "3.0 MiB, 0.5 MiB/s, 6.0 s left, 1 failed");
    }
}
