//! Waiting for a condition, with an end. The only place in the tests that sleeps.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks: short beside anything a test waits for, long beside a look.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns when `condition` holds, or an error that names `what` when it does not `within` this
/// time. The condition is looked at once more at the end, so a slow machine gets its chance.
pub fn eventually(
    within: Duration,
    what: impl Display,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    eventually_some(within, what, || condition().then_some(()))
}

/// Returns what `look` finds, or an error that names `what` when it finds nothing `within` this
/// time.
pub fn eventually_some<T>(
    within: Duration,
    what: impl Display,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let late = started.elapsed() >= within;
        if let Some(found) = look() {
            return Ok(found);
        }
        if late {
            bail!("waited {within:?} in vain for: {what}");
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one sleep, between two looks at a condition"
)]
fn pause() {
    thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_what_was_found_as_soon_as_it_is_there() {
        let mut looks = 0;
        let found = eventually_some(Duration::from_secs(30), "three looks", || {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!(found.ok(), Some("found"));
    }

    #[test]
    fn names_what_never_came() {
        let error = eventually(Duration::from_millis(20), "a blue moon", || false)
            .expect_err("it never holds");
        assert_eq!(error.to_string(), "waited 20ms in vain for: a blue moon");
    }

    #[test]
    fn looks_at_least_once() {
        assert!(eventually(Duration::ZERO, "now", || true).is_ok());
    }
}
