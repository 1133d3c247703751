//! Waits by the lease clock ([`cfgsvc_clock`]).
//!
//! The runtime's timers stand still while the machine sleeps, so a wait for a deadline is cut into
//! short ones, with a look at the clock after each: see [`sleep_until`].
//!
//! Only the shells read the clock; the pure parts take a [`Moment`] as an argument.

use std::time::Duration;

pub use cfgsvc_clock::Moment;

/// Longest wait without a look at the clock: how late a deadline may be noticed that passed while
/// the machine slept. Short beside any lease's term (2 s and more), and five wake-ups a second
/// cost nothing that could be measured.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_soon_after_a_suspend_that_was_longer_than_it() {
        let boot = Moment::since_boot(Duration::ZERO);
        let hour = Duration::from_hours(1);
        // The machine sleeps for an hour during the first short wait.
        let mut looks = [boot, boot + hour].into_iter();
        let wait = sleep_until_by(boot + hour, || looks.next().expect("two looks suffice"));
        let patience = Duration::from_mins(1);
        assert!(tokio::time::timeout(patience, wait).await.is_ok());
    }
}
