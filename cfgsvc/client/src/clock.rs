//! The client's clock: monotonic, and counting while the machine sleeps.
//!
//! Why not `std::time::Instant`: on Linux it stands still during suspend, so that a laptop or a
//! virtual machine that was put to sleep would believe in leases that the group has long expired.
//!
//! Only the shells read the clock; the pure parts take a [`Moment`] as an argument.

use std::{fmt, ops::Add, time::Duration};

/// A point on this machine's monotonic clock. Meaningless on another machine or after a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The present.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(clock);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Self(Duration::new(seconds, nanos))
    }

    /// The moment `since_boot` after the clock's start: for tests and simulations.
    pub fn from_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// Time from `earlier` to this moment; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Time from this moment to `later`; zero when it is over.
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:.3}s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_and_differences_never_underflow() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second >= first);
        assert_eq!(first.since(first + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!(
            (first + Duration::from_secs(1)).until(first),
            Duration::ZERO
        );
        assert_eq!(
            first.until(first + Duration::from_secs(3)),
            Duration::from_secs(3)
        );
    }
}
