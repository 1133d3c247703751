//! What happened to the requests that counted: latencies, errors, and their summary.
//!
//! Latencies are kept in whole microseconds with three significant figures, up to ten minutes;
//! what is longer counts as that.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart, in microseconds.
const LONGEST_US: u64 = 600_000_000;
/// Significant figures of a latency.
const FIGURES: u8 = 3;

/// Percentiles of latency, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latencies {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

/// What happened to the requests that counted.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    latencies: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
    unstarted: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST_US, FIGURES)
            .expect("the bounds are constants that the library accepts");
        Self {
            latencies,
            errors: 0,
            first_error: None,
            unstarted: 0,
        }
    }

    /// A request was answered after this time.
    pub(crate) fn answered(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(us.max(1));
    }

    /// A request failed.
    pub(crate) fn failed(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }

    /// A request was due and nobody was free to send it until the run was over.
    pub(crate) fn unstarted(&mut self, waited: Duration) {
        self.unstarted += 1;
        self.answered(waited);
    }

    /// Requests that were answered.
    pub(crate) fn requests(&self) -> u64 {
        self.latencies.len() - self.unstarted
    }

    /// Requests that failed.
    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// Requests that were never sent. Their time to the end of the run is in the latencies.
    pub(crate) fn never_started(&self) -> u64 {
        self.unstarted
    }

    /// The first failure of a request that counted.
    pub(crate) fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// Percentiles; zeros when nothing was answered.
    pub(crate) fn latencies(&self) -> Latencies {
        let at = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1_000.0;
        Latencies {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.latencies.max() as f64 / 1_000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut tally = Tally::new();
        for ms in 1..=1_000 {
            tally.answered(Duration::from_millis(ms));
        }
        let found = tally.latencies();
        for (found, expected) in [
            (found.p50, 500.0),
            (found.p90, 900.0),
            (found.p99, 990.0),
            (found.p99_9, 999.0),
            (found.max, 1_000.0),
        ] {
            assert!(
                (found / expected - 1.0).abs() < 0.002,
                "{found} for {expected}"
            );
        }
        assert_eq!(tally.requests(), 1_000);
    }

    #[test]
    fn errors_have_no_latency_and_the_first_is_kept() {
        let mut tally = Tally::new();
        tally.failed("one".to_owned());
        tally.failed("two".to_owned());
        assert_eq!((tally.requests(), tally.errors()), (0, 2));
        assert_eq!(tally.first_error(), Some("one"));
        assert_eq!(tally.latencies(), Latencies::default());
    }

    #[test]
    fn what_never_started_is_in_the_latencies_but_is_no_answer() {
        let mut tally = Tally::new();
        tally.answered(Duration::from_millis(1));
        tally.unstarted(Duration::from_secs(5));
        assert_eq!((tally.requests(), tally.never_started()), (1, 1));
        assert!(tally.latencies().max > 4_900.0);
    }

    #[test]
    fn times_out_of_range_are_counted_at_the_bounds() {
        let mut tally = Tally::new();
        tally.answered(Duration::ZERO);
        tally.answered(Duration::from_hours(1_000));
        assert_eq!(tally.requests(), 2);
        assert!(tally.latencies().max >= 600_000.0);
    }
}
