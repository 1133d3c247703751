//! What is repeated, and what the caller learns about the outcome, against fake members.

use crate::fake::{Fake, Seen, client};
use anyhow::Result;
use cfgsvc_client::{CallError, KvError, LeaseError, Put};
use tonic::Status;

fn changed() -> Status {
    Status::unavailable("etcdserver: leader changed")
}

#[tokio::test]
async fn a_write_of_a_session_is_repeated_with_the_same_id_until_it_is_answered() -> Result<()> {
    let fake = Fake::default();
    let client = client([fake.start().await?])?;
    // The fake knows no leases: the ids alone are what is looked at.
    let numbered = client.with_request_ids(0x77);
    fake.fail([changed(), changed(), Status::deadline_exceeded("too late")]);
    numbered.put(Put::new("k", "1")).await?;
    numbered.put(Put::new("k", "2")).await?;
    let text = |seen: Vec<Seen>| -> Vec<String> {
        seen.iter()
            .map(|one| one.clone().map(Option::unwrap_or_default).join(" "))
            .collect()
    };
    assert_eq!(
        text(fake.seen()),
        [
            "119 1 0 Zoë",
            "119 1 0 Zoë",
            "119 1 0 Zoë",
            "119 1 0 Zoë",
            "119 2 1 Zoë"
        ]
    );
    // One that is given up is closed: nobody will send it again.
    fake.fail([Status::not_found("etcdserver: session not found")]);
    assert!(matches!(
        numbered.put(Put::new("k", "3")).await,
        Err(KvError::SessionLost)
    ));
    numbered.put(Put::new("k", "4")).await?;
    assert_eq!(text(fake.seen()), ["119 3 2 Zoë", "119 4 3 Zoë"]);
    Ok(())
}

#[tokio::test]
async fn a_write_without_a_session_is_repeated_only_when_it_was_certainly_not_executed()
-> Result<()> {
    let fake = Fake::default();
    let client = client([fake.start().await?])?;
    fake.fail([changed()]);
    let error = client
        .put(Put::new("k", "1"))
        .await
        .expect_err("the outcome is unknown");
    assert!(
        matches!(error, KvError::Call(CallError::Unavailable { .. })),
        "{error}"
    );
    assert!(error.outcome_unknown() && error.retryable());
    assert_eq!(fake.seen().len(), 1);
    fake.fail([Status::resource_exhausted("etcdserver: too many requests")]);
    client.put(Put::new("k", "1")).await?;
    assert_eq!(fake.seen().len(), 2);
    fake.fail([Status::internal("a bug")]);
    let error = client
        .put(Put::new("k", "1"))
        .await
        .expect_err("an internal error");
    assert!(error.outcome_unknown() && !error.retryable());
    Ok(())
}

fn session_gone() -> Status {
    Status::not_found("etcdserver: session not found")
}

#[tokio::test]
async fn a_session_that_is_lost_after_a_lost_answer_leaves_the_outcome_open() -> Result<()> {
    let fake = Fake::default();
    let client = client([fake.start().await?])?;
    let numbered = client.with_request_ids(0x77);
    fake.fail([changed(), session_gone()]);
    let error = numbered
        .put(Put::new("k", "1"))
        .await
        .expect_err("the session is gone");
    assert!(
        error.outcome_unknown(),
        "the first attempt may have been executed: {error}"
    );
    fake.fail([session_gone()]);
    let error = numbered
        .put(Put::new("k", "1"))
        .await
        .expect_err("the session is gone");
    assert!(matches!(error, KvError::SessionLost) && !error.outcome_unknown());
    Ok(())
}

#[tokio::test]
async fn a_plain_write_waits_for_a_leader_since_nothing_was_executed() -> Result<()> {
    let fake = Fake::default();
    let client = client([fake.start().await?])?;
    let no_leader = || Status::unavailable("etcdserver: no leader");
    fake.fail([no_leader(), no_leader()]);
    client.put(Put::new("k", "1")).await?;
    assert_eq!(fake.seen().len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_exists_is_ours_only_when_an_answer_was_lost_and_the_id_was_drawn()
-> Result<()> {
    let fake = Fake::default();
    let exists = || Status::failed_precondition("etcdserver: lease already exists");
    // The first endpoint cannot be reached: nothing was sent before the refusal.
    let client = client(["127.0.0.1:1".to_owned(), fake.start().await?])?;
    fake.fail([exists()]);
    let error = client.grant_as(7, 30).await.expect_err("it is another's");
    assert!(matches!(error, LeaseError::Exists { lease: 7 }), "{error}");
    // An answer was lost: whose it is, nobody can say.
    fake.fail([changed(), exists()]);
    let error = client
        .grant_as(7, 30)
        .await
        .expect_err("it may be another's");
    assert!(error.outcome_unknown(), "{error}");
    fake.fail([changed(), exists()]);
    assert_eq!(client.grant(30).await?.ttl_s, 30);
    // The same for what is gone already.
    let missing = || Status::not_found("etcdserver: requested lease not found");
    fake.fail([missing()]);
    let error = client.revoke(7).await.expect_err("it never was");
    assert!(
        matches!(error, LeaseError::NotFound { lease: 7 }),
        "{error}"
    );
    fake.fail([changed(), missing()]);
    client.revoke(7).await?;
    Ok(())
}
