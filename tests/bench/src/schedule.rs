//! When requests are due and which of them count.
//!
//! Invariants
//! - in an open loop request `i` is due at `i / rate` after the start, whatever became of those
//!   before it; its latency counts from then, so a server that stalls is charged for everybody who
//!   would have come meanwhile.
//! - the measured window is half-open: `warmup <= t < warmup + measured`.

use std::time::Duration;

/// The phases of a run, as times since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Phases {
    /// Load runs, nothing counts.
    pub warmup: Duration,
    /// What counts.
    pub measured: Duration,
}

impl Phases {
    /// When the load ends.
    pub(crate) fn end(&self) -> Duration {
        self.warmup + self.measured
    }

    /// Whether what happens at this time counts.
    pub(crate) fn counts(&self, at: Duration) -> bool {
        self.warmup <= at && at < self.end()
    }
}

/// Requests due at a constant rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    /// Requests a second, above zero.
    rate: f64,
    /// Requests before the end.
    total: u64,
}

impl Schedule {
    /// Requests at `rate` a second from the start to the end of the phases.
    pub(crate) fn new(rate: f64, phases: &Phases) -> Self {
        assert!(rate > 0.0 && rate.is_finite(), "rate {rate} is checked");
        let mut schedule = Self { rate, total: 0 };
        schedule.total = schedule.due_by(phases.end());
        schedule
    }

    /// Requests in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// When request `index` is due, since the start.
    pub(crate) fn due(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / self.rate)
    }

    /// How many requests are due before this time.
    fn due_by(&self, at: Duration) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float saturates as an integer"
        )]
        let estimate = (at.as_secs_f64() * self.rate).round() as u64;
        // Rounding of the estimate is put right by what `due` says, which is what counts.
        let mut count = estimate.saturating_sub(1);
        while self.due(count) < at {
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: Phases = Phases {
        warmup: Duration::from_secs(1),
        measured: Duration::from_secs(2),
    };

    #[test]
    fn requests_are_due_at_their_index_over_the_rate() {
        let schedule = Schedule::new(100.0, &PHASES);
        assert_eq!(schedule.total(), 300);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(150), Duration::from_millis(1_500));
        assert!(schedule.due(299) < PHASES.end());
        assert!(schedule.due(300) >= PHASES.end());
    }

    #[test]
    fn totals_agree_with_due_times_for_odd_rates() {
        for rate in [0.3, 1.0, 3.0, 7.7, 333.3, 1e5 / 3.0, 123_456.7] {
            let schedule = Schedule::new(rate, &PHASES);
            let total = schedule.total();
            assert!(schedule.due(total) >= PHASES.end(), "rate {rate}");
            assert!(
                total == 0 || schedule.due(total - 1) < PHASES.end(),
                "rate {rate}"
            );
        }
    }

    #[test]
    fn the_measured_window_is_half_open() {
        assert!(!PHASES.counts(Duration::from_millis(999)));
        assert!(PHASES.counts(Duration::from_secs(1)));
        assert!(PHASES.counts(Duration::from_millis(2_999)));
        assert!(!PHASES.counts(Duration::from_secs(3)));
    }
}
