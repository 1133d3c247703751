//! The client's clock: monotonic, and counting while the machine sleeps.
//!
//! Why not `std::time::Instant`: on Linux it stands still during suspend, so that a laptop or a
//! virtual machine that was put to sleep would believe in leases that the group has long expired.
//!
//! The runtime's timers stand still as well, so a wait for a deadline is cut into short ones, with
//! a look at this clock after each: see [`sleep_until`].
//!
//! Only the shells read the clock; the pure parts take a [`Moment`] as an argument.

use std::{fmt, ops::Add, time::Duration};

/// Longest wait without a look at the clock: how late a deadline may be noticed that passed while
/// the machine slept. Short beside any lease's term (2 s and more), and five wake-ups a second
/// cost nothing that could be measured.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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

/// Waits until `deadline`. When that passes while the machine is suspended, the wait ends within
/// 0.2 s after it goes on, where a timer of the runtime would add the whole sleep.
pub async fn sleep_until(deadline: Moment) {
    sleep_until_by(deadline, Moment::now).await;
}

async fn sleep_until_by(deadline: Moment, mut now: impl FnMut() -> Moment) {
    loop {
        let left = now().until(deadline);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
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

    #[tokio::test]
    async fn a_wait_ends_soon_after_a_suspend_that_was_longer_than_it() {
        let boot = Moment::from_boot(Duration::ZERO);
        let hour = Duration::from_hours(1);
        // The machine sleeps for an hour during the first short wait.
        let mut looks = [boot, boot + hour].into_iter();
        let wait = sleep_until_by(boot + hour, || looks.next().expect("two looks suffice"));
        let patience = Duration::from_mins(1);
        assert!(tokio::time::timeout(patience, wait).await.is_ok());
    }
}
