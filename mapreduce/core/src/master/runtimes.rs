//! How long the tasks of a phase took: a histogram with an eighth of a power of two as its step,
//! so that the median costs the same for ten tasks and for 200,000.

use std::time::Duration;

const STEPS: usize = 8;
const BUCKETS: usize = 42 * STEPS;

/// Runtimes of the attempts that won.
#[derive(Clone, Debug)]
pub(super) struct Runtimes {
    counts: Vec<u32>,
    total: u32,
}

impl Runtimes {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }

    pub(super) fn add(&mut self, runtime: Duration) {
        let ms = u64::try_from(runtime.as_millis()).unwrap_or(u64::MAX);
        let bucket = bucket(ms).min(BUCKETS - 1);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    /// The upper end of the bucket in which the median is; none before the first.
    pub(super) fn median(&self) -> Option<Duration> {
        let half = self.total.div_ceil(2);
        let mut sum = 0_u32;
        let found = self.counts.iter().position(|count| {
            sum = sum.saturating_add(*count);
            sum >= half && half > 0
        });
        found.map(|bucket| Duration::from_millis(end_ms(bucket)))
    }
}

fn bucket(ms: u64) -> usize {
    let steps = STEPS as u64;
    if ms < steps {
        return usize::try_from(ms).unwrap_or(0);
    }
    let scale = ms.ilog2() - STEPS.ilog2();
    let step = (ms >> scale) - steps;
    (scale as usize + 1) * STEPS + usize::try_from(step).unwrap_or(0)
}

fn end_ms(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let scale = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) as u64) << scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_off_by_an_eighth_at_most() {
        for middle in [0, 1, 7, 8, 9, 100, 1_234, 60_000, 86_400_000] {
            let mut runtimes = Runtimes::new();
            assert_eq!(runtimes.median(), None);
            for ms in [middle / 2, middle, middle * 3] {
                runtimes.add(Duration::from_millis(ms));
            }
            let median = runtimes.median().expect("there are some").as_millis();
            let middle = u128::from(middle);
            assert!(
                median >= middle && median <= middle + middle / 8 + 1,
                "{median} of {middle}"
            );
        }
        let mut runtimes = Runtimes::new();
        runtimes.add(Duration::MAX);
        assert!(runtimes.median().is_some());
    }
}
