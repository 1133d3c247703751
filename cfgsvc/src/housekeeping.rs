//! What the leader does by itself: compaction by age and count, removal of what is compacted, and
//! new signatures of zones before the old ones end (`signatures`).
//! Every member compares its data with the quota.
//!
//! Invariants
//! - with an age, nothing younger than it is compacted; with a count, the newest so many revisions
//!   stay; with both, both hold. With neither, nothing is compacted.
//! - age is measured by this member's own clock since it leads, never by the times in the history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cfgsvc_core::read::machine_record;
use cfgsvc_proto::etcd::CompactionRequest;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::reply::Result as Outcome;
use cfgsvc_proto::state::{Command, Scrub};
use cluster::Role;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::Status;

use crate::clock::{self, Moment};
use crate::service::{Service, unexpected};
use crate::signatures;

/// History events that one removal step looks at: some milliseconds of apply.
pub const SCRUB_EVENTS: u32 = 1_000;
/// Time between looks.
const LOOK: Duration = Duration::from_secs(1);
/// Samples of the revision that are kept for an age: its resolution is a hundredth.
const SAMPLES: u32 = 100;
/// Least count of revisions worth a compaction by count alone, so that not every look makes one.
const WORTH: i64 = 100;

/// When to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Age from which history goes.
    pub after: Option<Duration>,
    /// Revisions that stay.
    pub keep: Option<u64>,
}

/// Decides what to compact.
#[derive(Debug)]
pub struct Compactor {
    retention: Retention,
    /// Moments and the revisions of the store at them, oldest first.
    samples: VecDeque<(Moment, i64)>,
}

impl Compactor {
    /// Has seen nothing yet.
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            samples: VecDeque::new(),
        }
    }

    /// Forgets what it saw: another member led meanwhile.
    pub fn forget(&mut self) {
        self.samples.clear();
    }

    /// The revision to compact to, for a store at `revision` compacted to `compacted`.
    pub fn decide(&mut self, now: Moment, revision: i64, compacted: i64) -> Option<i64> {
        let by_count = match self.retention.keep {
            None => revision,
            Some(keep) => revision.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX)),
        };
        let target = match self.retention.after {
            None => {
                self.retention.keep?;
                by_count
                    .checked_sub(WORTH)
                    .filter(|least| *least > compacted)
                    .map(|_| by_count)?
            }
            Some(after) => self.old(now, after, revision)?.min(by_count),
        };
        (target > compacted && target > 0).then_some(target)
    }

    /// The newest revision that the store was at `after` ago or longer.
    fn old(&mut self, now: Moment, after: Duration, revision: i64) -> Option<i64> {
        let due = self
            .samples
            .back()
            .is_none_or(|(last, _)| now.since(*last) >= after / SAMPLES);
        if due {
            self.samples.push_back((now, revision));
        }
        let is_old = |sample: &(Moment, i64)| now.since(sample.0) >= after;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        self.samples
            .front()
            .filter(|sample| is_old(sample))
            .map(|(_, revision)| *revision)
    }
}

/// Keeps house for as long as the member runs. They do not wait for each other: compaction waits
/// for the group.
pub async fn run(service: Arc<Service>, retention: Retention) {
    tokio::join!(
        watch_quota(&service),
        compact(&service, retention),
        signatures::keep(&service)
    );
}

async fn watch_quota(service: &Service) {
    let mut looks = looks();
    loop {
        looks.tick().await;
        if let Err(error) = service.check_quota() {
            tracing::warn!(%error, "size of the data is not known");
        }
    }
}

async fn compact(service: &Service, retention: Retention) {
    let mut compactor = Compactor::new(retention);
    let mut looks = looks();
    loop {
        looks.tick().await;
        if !leads(service) {
            compactor.forget();
            continue;
        }
        if let Err(status) = look(service, &mut compactor).await {
            tracing::debug!(error = status.message(), "compaction is put off");
        }
    }
}

fn looks() -> Interval {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

pub(crate) fn leads(service: &Service) -> bool {
    let status = service.status();
    status.role == Role::Leader && status.leader.is_some()
}

async fn look(service: &Service, compactor: &mut Compactor) -> Result<(), Status> {
    let machine = service.read(machine_record)?;
    if machine.restore_id != 0 {
        return Ok(());
    }
    let (revision, compacted) = (machine.revision, machine.compacted_revision);
    if let Some(target) = compactor.decide(Moment::now(), revision, compacted) {
        tracing::info!(revision, target, "compacting");
        let request = CompactionRequest {
            revision: target,
            physical: false,
        };
        service.propose(&command(Op::Compact(request))).await?;
    }
    // Another leader goes on where this one stopped.
    while leads(service) && service.scrub_pending()? {
        let done = service
            .propose(&command(Op::Scrub(Scrub {
                limit: SCRUB_EVENTS,
            })))
            .await?;
        let Outcome::Scrub(scrubbed) = done.outcome else {
            return Err(unexpected(&done));
        };
        if !scrubbed.more {
            break;
        }
    }
    Ok(())
}

pub(crate) fn command(op: Op) -> Command {
    Command {
        at_ms: clock::wall_ms(),
        author: "cfgsvcd".to_owned(),
        reason: "retention".to_owned(),
        op: Some(op),
        ..Command::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(s))
    }

    fn compactor(after_s: Option<u64>, keep: Option<u64>) -> Compactor {
        Compactor::new(Retention {
            after: after_s.map(Duration::from_secs),
            keep,
        })
    }

    #[test]
    fn nothing_is_compacted_unless_asked_for() {
        assert_eq!(
            compactor(None, None).decide(at(1_000_000), 1_000_000, 0),
            None
        );
    }

    #[test]
    fn by_count_the_newest_stay() {
        let mut compactor = compactor(None, Some(1000));
        assert_eq!(compactor.decide(at(0), 900, 0), None);
        assert_eq!(compactor.decide(at(0), 1050, 0), None, "not worth it");
        assert_eq!(compactor.decide(at(0), 1200, 0), Some(200));
        assert_eq!(compactor.decide(at(0), 1250, 200), None);
    }

    #[test]
    fn by_age_only_what_was_seen_long_ago_goes() {
        let mut compactor = compactor(Some(100), None);
        let decided: Vec<_> = (0..10)
            .map(|step| compactor.decide(at(step * 25), 10 + step as i64, 0))
            .collect();
        let expected = [None, None, None, None]
            .into_iter()
            .chain((10..16).map(Some));
        assert_eq!(decided, expected.collect::<Vec<_>>());
        compactor.forget();
        assert_eq!(compactor.decide(at(300), 100, 0), None);
        assert!(compactor.samples.len() <= 2);
    }

    #[test]
    fn with_both_both_hold() {
        let mut compactor = compactor(Some(10), Some(100));
        assert_eq!(compactor.decide(at(0), 150, 0), None);
        assert_eq!(compactor.decide(at(20), 180, 0), Some(80));
        assert_eq!(compactor.decide(at(40), 1000, 80), Some(180));
        assert_eq!(compactor.decide(at(60), 1000, 900), None);
    }
}
