//! The only place where this program reads a clock.
//!
//! Why so: everything that decides takes the time as an argument, so that it can be tested and
//! simulated. Deadlines use the clock since boot, which counts a suspended machine and which nobody
//! can set; the wall clock is written into the history for people and decides nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A moment, counted from the start of this machine, suspended time included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// `since_boot` after the machine's start.
    pub const fn since_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// This moment, `by` later.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// Time from `earlier` to this moment; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Now, by `CLOCK_BOOTTIME`.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    // The kernel's clock since boot is never negative and its nanoseconds are below 10^9.
    Moment(Duration::new(
        time.tv_sec as u64,
        u32::try_from(time.tv_nsec).unwrap_or(0),
    ))
}

/// Wall-clock time in milliseconds since 1970; 0 when the clock stands before 1970.
pub fn wall_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}
