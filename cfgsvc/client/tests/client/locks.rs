//! Locks: one holder, and nothing that stays behind.

use crate::client;
use crate::fake::PATIENCE;
use anyhow::{Context, Result};
use cfgsvc_client::{Client, Get, LockError, Op, Options, Put, Txn, show_key};
use cfgsvc_tests::harness::Etcd;
use futures_util::FutureExt;
use std::time::Duration;
use tokio::time::timeout;

/// Waits until the lock `jobs` has so many contenders.
async fn contenders(client: &Client, count: i64) -> Result<()> {
    let wait = async {
        while client.get(Get::prefix("jobs/").count_only()).await?.count != count {}
        anyhow::Ok(())
    };
    timeout(PATIENCE, wait).await.context("the keys stay")?
}

#[tokio::test]
async fn a_lock_has_one_holder_and_each_next_one_a_greater_epoch() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let first = client.session(10).await?;
    let second = client.session(10).await?;
    let held = client.lock("jobs", &first).await?;
    assert_eq!(show_key(held.key()), format!("jobs/{:x}", first.lease()));
    let mut waiting = Box::pin(client.lock("jobs", &second));
    let early = timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "the lock has a holder");
    let epoch = held.epoch();
    let fenced = Txn::new()
        .when(held.condition())
        .then(Op::Put(Put::new("done", "by first")));
    assert!(client.txn(fenced.clone()).await?.succeeded);
    held.release().await?;
    let next = waiting.as_mut().await?;
    drop(waiting);
    assert!(next.epoch() > epoch);
    assert!(!client.txn(fenced).await?.succeeded);
    // The session's end releases it as well.
    second.close().await?;
    client.lock("jobs", &first).await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_no_key_and_one_whose_lease_ends_fails() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let holder = client.session(60).await?;
    let held = client.lock("jobs", &holder).await?;
    // The end of its lease is noticed at the next renewal, after a third of the term.
    let other = client.session(6).await?;
    let wait = client.lock("jobs", &other);
    assert!(timeout(Duration::from_millis(300), wait).await.is_err());
    contenders(&client, 1).await?;
    let wait = client.lock("jobs", &other);
    let revoke = async {
        while client.get(Get::prefix("jobs/").count_only()).await?.count != 2 {}
        client.revoke(other.lease()).await?;
        anyhow::Ok(())
    };
    let both = async { tokio::join!(wait, revoke) };
    let (waited, revoked) = timeout(PATIENCE, both).await?;
    revoked?;
    assert!(
        matches!(waited, Err(LockError::SessionLost { .. })),
        "{waited:?}"
    );
    assert!(matches!(
        client.lock("", &holder).await,
        Err(LockError::BadName { .. })
    ));
    held.release().await?;
    Ok(())
}

#[tokio::test]
async fn tasks_of_one_session_exclude_each_other_and_a_dropped_guard_takes_no_later_one_along()
-> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let session = client.session(60).await?;
    let mut epoch = 0;
    for _ in 0..10 {
        // Each is dropped while the next one enters.
        let guard = client.lock("jobs", &session).await?;
        assert!(guard.epoch() > epoch, "the key of the hold before");
        epoch = guard.epoch();
    }
    let held = client.lock("jobs", &session).await?;
    let second = timeout(Duration::from_millis(300), client.lock("jobs", &session)).await;
    assert!(second.is_err(), "another task holds it");
    let still = Txn::new()
        .when(held.condition())
        .then(Op::Put(Put::new("done", "")));
    assert!(
        client.txn(still).await?.succeeded,
        "giving up the wait released it"
    );
    held.release().await?;
    contenders(&client, 0).await
}

#[tokio::test]
async fn a_release_that_is_broken_off_or_fails_goes_on_while_the_session_lives() -> Result<()> {
    let mut etcd = Etcd::start()?;
    let mut options = Options::new([etcd.endpoint()]);
    options.request_timeout = Duration::from_millis(300);
    let impatient = Client::new(options)?;
    let client = client([&etcd])?;
    let session = client.session(60).await?;
    let held = client.lock("jobs", &session).await?;
    assert!(
        held.release().now_or_never().is_none(),
        "it waits for an answer"
    );
    contenders(&client, 0).await?;

    let held = impatient.lock("jobs", &session).await?;
    etcd.kill()?;
    assert!(held.release().await.is_err(), "the member is dead");
    etcd.restart()?;
    contenders(&client, 0).await?;
    assert!(session.is_live());
    Ok(())
}

#[tokio::test]
async fn a_wait_outlives_a_compaction_that_its_watch_has_missed() -> Result<()> {
    let mut etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let (first, second) = (client.session(60).await?, client.session(60).await?);
    let held = client.lock("jobs", &first).await?;
    let mut wait = Box::pin(client.lock("jobs", &second));
    // Until it waits behind the holder.
    tokio::select! {
        early = &mut wait => anyhow::bail!("the lock has a holder: {early:?}"),
        entered = contenders(&client, 2) => entered?,
    }
    let early = timeout(Duration::from_millis(500), &mut wait).await;
    assert!(early.is_err(), "the lock has a holder");
    for value in ["1", "2", "3"] {
        client.put(Put::new("k", value)).await?;
    }
    let last = client.put(Put::new("k", "4")).await?.revision;
    client.compact(last).await?;
    etcd.restart()?;
    let release = async {
        // Only once the wait has come back to the member, which drops its old watch.
        client.get_key("k").await?;
        held.release().await?;
        anyhow::Ok(())
    };
    let (next, released) = timeout(PATIENCE, async { tokio::join!(wait, release) }).await?;
    released?;
    next?.release().await?;
    Ok(())
}
