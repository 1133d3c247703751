//! Keeps the time of leases with the real book; the twin of `cfgsvc::lease::keeper`, which reads
//! the machine's clock.

use std::time::Duration;

use bytes::Bytes;
use cfgsvc::lease::book::{Attempts, Renewal};
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::{Command, LeaseExpire};
use cluster::ReadError;
use openraft::async_runtime::watch::WatchReceiver as _;
use prost::Message as _;

use crate::defect::Defect;
use crate::member::{Member, moment};
use crate::runtime::{lock, sleep, timeout};

const EXPIRE_LEASES_MAX: usize = 128;
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Counts while this member leads.
pub async fn follow_leadership(member: Member) {
    let mut watch = member.raft().metrics();
    loop {
        let (leads, term) = {
            let now = watch.borrow_and_update();
            (now.current_leader == Some(now.id), now.current_term)
        };
        let counted = lock(&member.book().book).leading();
        if !leads || counted.is_some_and(|counted| counted != term) {
            lock(&member.book().book).follow();
        }
        if leads && lock(&member.book().book).leading().is_none() {
            if take_over(&member, term).await.is_err() {
                sleep(RETRY_PAUSE).await;
                continue;
            }
            lead(&member, term);
            member.book().recount.notify_one();
        }
        let changed = watch.wait_until(|now| {
            (now.current_leader == Some(now.id), now.current_term) != (leads, term)
        });
        if changed.await.is_err() {
            lock(&member.book().book).follow();
            return;
        }
    }
}

fn lead(member: &Member, term: u64) {
    let mut book = lock(&member.book().book);
    let defect = member.world().plan.defect;
    if matches!(
        defect,
        Some(Defect::LeaseFromGrant | Defect::TakeOverAtOnce)
    ) {
        // As if the deadlines of the leader before were carried over but not the renewals.
        let long_ago = moment_ago(Duration::from_secs(3));
        book.lead(long_ago, term);
    } else {
        book.lead(moment(), term);
    }
}

fn moment_ago(ago: Duration) -> cfgsvc::clock::Moment {
    cfgsvc::clock::Moment::since_boot(crate::runtime::local_time().saturating_sub(ago))
}

async fn take_over(member: &Member, term: u64) -> Result<(), ReadError> {
    let first = member.confirm_leadership().await?;
    member.read_barrier().await?;
    let last = member.confirm_leadership().await?;
    if (first, last) == (term, term) {
        Ok(())
    } else {
        Err(ReadError::NoLeader)
    }
}

/// Proposes the end of leases whose time is over.
pub async fn end_due(member: Member) {
    loop {
        let due = lock(&member.book().book).take_due(moment(), EXPIRE_LEASES_MAX);
        if let Some((term, ids)) = due {
            end(&member, term, ids).await;
            continue;
        }
        let next = lock(&member.book().book).next_due();
        let pause = next.map_or(SLEEP_MAX, |next| next.since(moment()).min(SLEEP_MAX));
        // Whichever comes first; the deadlines are looked at again in both cases.
        let _ = timeout(pause, member.book().recount.notified()).await;
    }
}

async fn end(member: &Member, term: u64, ids: Vec<i64>) {
    let expire = LeaseExpire {
        ids: ids.clone(),
        term,
    };
    let command = Command {
        op: Some(Op::LeaseExpire(expire)),
        ..Command::default()
    };
    let command = Bytes::from(command.encode_to_vec());
    let mut attempts = Attempts::default();
    loop {
        let outcome = member.propose(command.clone()).await.map(drop);
        let certain = attempts.settled(outcome.map_err(|error| error.not_executed()));
        let left = if certain {
            lock(&member.book().book).not_ended(moment(), term, &ids)
        } else {
            ids.len()
        };
        if left == 0 {
            return;
        }
        sleep(RETRY_PAUSE).await;
        if certain || lock(&member.book().book).leading() != Some(term) {
            return;
        }
    }
}

/// Renews a lease on this member, which must lead; `None` when that is not known.
pub async fn renew_here(member: Member, id: i64) -> Option<Renewal> {
    let leading = lock(&member.book().book).leading()?;
    let term = if member.world().plan.defect == Some(Defect::RenewalNotConfirmed) {
        leading
    } else {
        member.confirm_leadership().await.ok()?
    };
    let mut book = lock(&member.book().book);
    match book.renewed(moment(), term, id) {
        Renewal::NotLeading | Renewal::Ending => None,
        renewal @ (Renewal::Renewed(_) | Renewal::Closing | Renewal::Gone) => Some(renewal),
    }
}
