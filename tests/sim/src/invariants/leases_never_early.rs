//! A lease ends no earlier than its time after its holder sent the renewal that was confirmed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::runtime::{RIGHT_RATE, world_time};

/// Fastest clock that a member has, in thousandths: a leader counts by its own clock.
pub const FASTEST_CLOCK: u64 = 1050;

/// What holders were told.
#[derive(Debug, Default)]
pub struct LeasesNeverEarly {
    /// Time of the world before which a lease may not end.
    held_until: BTreeMap<i64, Duration>,
    expired: BTreeMap<i64, Duration>,
}

impl LeasesNeverEarly {
    /// The holder learned that lease `id` lives for `ttl` from `sent` on.
    pub fn confirmed(&mut self, id: i64, sent: Duration, ttl: Duration) -> Result<(), String> {
        let rate = u32::try_from(FASTEST_CLOCK).unwrap_or(u32::MAX);
        let right = u32::try_from(RIGHT_RATE).unwrap_or(1);
        let until = sent + ttl * right / rate;
        let held = self.held_until.entry(id).or_default();
        *held = until.max(*held);
        match self.expired.get(&id) {
            Some(ended) if *ended < until => Err(early(id, *ended, until)),
            Some(_) | None => Ok(()),
        }
    }

    /// The holder gave the lease up.
    pub fn revoked(&mut self, id: i64) {
        self.held_until.remove(&id);
    }

    /// A member applied the end of leases.
    pub fn expired(&mut self, ids: &[i64]) -> Result<(), String> {
        for id in ids {
            let ended = *self.expired.entry(*id).or_insert_with(world_time);
            if let Some(until) = self.held_until.get(id)
                && ended < *until
            {
                return Err(early(*id, ended, *until));
            }
        }
        Ok(())
    }

    /// Count of leases that ended by time.
    pub fn count(&self) -> usize {
        self.expired.len()
    }
}

fn early(id: i64, ended: Duration, until: Duration) -> String {
    format!("lease {id:x} ended at {ended:?}, its holder counts on it until {until:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_end_is_seen() {
        // Outside a run the world's time stands at zero.
        let mut rule = LeasesNeverEarly::default();
        rule.expired(&[2]).expect("nobody counts on it");
        rule.confirmed(1, Duration::ZERO, Duration::from_secs(2))
            .expect("it lives");
        rule.expired(&[1]).expect_err("early");
        rule.confirmed(2, Duration::ZERO, Duration::from_secs(2))
            .expect_err("it had ended");
    }
}
