//! The only place where these programs read a clock.
//!
//! Why so: everything that decides takes the time as an argument, so that it can be tested and
//! simulated. Leases are counted by a clock that nobody sets, whose rate nobody corrects, and which
//! counts a machine that sleeps; the wall clock is written down for people and decides nothing.
//!
//! No clock of Linux is all three: `CLOCK_MONOTONIC` stands still during a suspend, and it and
//! `CLOCK_BOOTTIME` run faster or slower while NTP slews them; `CLOCK_MONOTONIC_RAW` has the rate
//! of the hardware and stands still as well. So it is the last, and the time slept, which is the
//! difference of the first two (DESIGN 3). A virtual machine that is paused from outside may still
//! not see the time pass; nothing inside of it can tell.

use std::fmt;
use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A point on this machine's lease clock. Meaningless on another machine or after a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// The present. Never goes back in one process.
    pub fn now() -> Self {
        static LATEST: AtomicU64 = AtomicU64::new(0);
        let asleep = asleep(&mut nanos);
        let now = nanos(ClockId::MonotonicRaw).saturating_add(asleep);
        let latest = LATEST.fetch_max(now, Ordering::Relaxed);
        Self(Duration::from_nanos(latest.max(now)))
    }

    /// The moment `since_boot` after the clock's start: for what another process of this machine
    /// said, for tests and simulations.
    pub const fn since_boot(since_boot: Duration) -> Self {
        Self(since_boot)
    }

    /// Nanoseconds since the clock's start, for another process of this machine.
    pub fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
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

    /// Time from this moment to `later`; zero when it is over.
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        self.plus(span)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot+{:.3}s", self.0.as_secs_f64())
    }
}

/// Longest time between the looks at two clocks that are taken for one moment. Leases are seconds,
/// and their margins milliseconds.
const TOGETHER: u64 = 50_000;
/// Tries to look at both within that time; a machine that interrupts each has other worries.
const TRIES: usize = 16;

/// Nanoseconds that the machine has slept. The looks at the two clocks are never of one moment: of
/// a few, the closest count. What is off makes the time too short, never too long: a lease that is
/// counted so by the group ends later, and one that is counted by its holder has its margins.
fn asleep(read: &mut impl FnMut(ClockId) -> u64) -> u64 {
    let mut closest = (u64::MAX, 0);
    for _ in 0..TRIES {
        let before = read(ClockId::Monotonic);
        let with_sleep = read(ClockId::Boottime);
        let after = read(ClockId::Monotonic);
        let apart = after.saturating_sub(before);
        if apart < closest.0 {
            closest = (apart, with_sleep.saturating_sub(after));
        }
        if apart <= TOGETHER {
            break;
        }
    }
    closest.1
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // These clocks are never negative, and their nanoseconds are below 10^9.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Wall-clock time in milliseconds since 1970; 0 when the clock stands before 1970.
pub fn wall_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_and_differences_never_underflow() {
        let first = Moment::now();
        let second = Moment::now();
        assert!(second >= first);
        let second = Duration::from_secs(1);
        assert_eq!(first.since(first + second), Duration::ZERO);
        assert_eq!((first + second).until(first), Duration::ZERO);
        assert_eq!(first.until(first + 3 * second), 3 * second);
        assert_eq!(
            Moment::since_boot(Duration::from_nanos(first.nanos())),
            first
        );
    }

    #[test]
    fn it_agrees_with_the_clock_since_boot() {
        // NTP corrects one of them: by 500 ppm at most, unless someone asks for more.
        let (ours, boot) = (Moment::now().nanos(), nanos(ClockId::Boottime));
        assert!(
            ours.abs_diff(boot) < boot / 1_000 + 1_000_000_000,
            "{ours} {boot}"
        );
    }

    #[test]
    fn an_interruption_between_two_looks_is_no_sleep() {
        const MS: u64 = 1_000_000;
        // Slept 5 s. The first two rounds are interrupted, in one place and in the other.
        let looks = [
            [10_000 * MS, 15_300 * MS, 10_300 * MS],
            [10_300 * MS, 15_300 * MS, 10_700 * MS],
            [10_700 * MS, 15_700 * MS, 10_700 * MS + 900],
        ];
        let mut looks = looks.into_iter().flatten();
        let mut read = |_| looks.next().expect("three rounds suffice");
        assert_eq!(asleep(&mut read), 5_000 * MS - 900);
        let mut always = [0, 7_000, 1_000].map(|ms| ms * MS).into_iter().cycle();
        let mut read = |_| always.next().expect("a cycle");
        assert_eq!(asleep(&mut read), 6_000 * MS, "as good as it gets");
    }
}
