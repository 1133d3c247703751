//! Members that are killed, restarted and paused under the client.

use crate::client;
use crate::fake::PATIENCE;
use anyhow::{Context, Result};
use cfgsvc_client::{
    CallError, Client, Get, KvError, Options, Put, Watch, WatchError, WatchOptions,
};
use cfgsvc_tests::harness::Etcd;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn without_any_member_the_error_names_the_endpoints_and_nothing_was_executed() -> Result<()> {
    let mut options = Options::new(["127.0.0.1:1", "127.0.0.1:2"]);
    options.request_timeout = Duration::from_secs(1);
    let client = Client::new(options)?;
    let error = client
        .put(Put::new("k", "v"))
        .await
        .expect_err("nobody listens");
    assert_eq!(
        error.to_string(),
        "cannot reach the group: no connection to 127.0.0.1:1, 127.0.0.1:2"
    );
    assert!(error.retryable() && !error.outcome_unknown());
    let error = client
        .watch(WatchOptions::new("k"))
        .await
        .expect_err("nobody listens");
    assert!(
        matches!(error, WatchError::Call(CallError::Unreachable { .. })),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn requests_move_to_another_member_and_the_watch_goes_on_without_gap() -> Result<()> {
    let mut group = Etcd::group(3)?;
    let writer = client(&group[1..])?;
    let client = client(&group)?;
    let mut watch = client.watch(WatchOptions::prefix("k")).await?;
    let mut acknowledged = Vec::new();
    for number in 0..20 {
        if number == 10 {
            group[0].kill()?;
        }
        // One whose outcome is unknown may be there or not: what the group has is the measure.
        match writer.put(Put::new(format!("k{number}"), "v")).await {
            Ok(done) => acknowledged.push(done.revision),
            Err(error) if error.retryable() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let last = timeout(PATIENCE, async {
        loop {
            match writer.put(Put::new("k-last", "v")).await {
                Ok(done) => return anyhow::Ok(done.revision),
                Err(error) if error.retryable() => {}
                Err(error) => return Err(error.into()),
            }
        }
    });
    let last = last.await??;
    let mut history = writer
        .watch(WatchOptions::prefix("k").from_revision(2))
        .await?;
    let history = timeout(PATIENCE, revisions(&mut history, last)).await??;
    let seen = timeout(PATIENCE, revisions(&mut watch, last)).await??;
    assert_eq!(seen, history);
    assert!(
        acknowledged
            .iter()
            .all(|revision| history.contains(revision))
    );
    assert!(client.get(Get::prefix("k").count_only()).await?.count >= 1);
    Ok(())
}

/// The revisions that `watch` delivers, until `last`.
async fn revisions(watch: &mut Watch, last: i64) -> Result<Vec<i64>> {
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let item = watch.next().await.context("goes on")??;
        assert_eq!(item.events.len(), 1);
        seen.push(item.revision);
    }
    Ok(seen)
}

#[tokio::test]
async fn a_watch_resumes_when_the_only_member_restarts() -> Result<()> {
    let mut etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let mut watch = client.watch(WatchOptions::new("k")).await?;
    client.put(Put::new("k", "1")).await?;
    assert_eq!(watch.next().await.context("goes on")??.revision, 2);
    etcd.restart()?;
    // A read finds a connection that works; a plain write could end with an unknown outcome.
    client.get_key("k").await?;
    client.put(Put::new("k", "2")).await?;
    assert_eq!(watch.next().await.context("goes on")??.revision, 3);
    Ok(())
}

#[tokio::test]
async fn a_read_leaves_a_silent_member_and_a_plain_write_says_that_its_outcome_is_unknown()
-> Result<()> {
    let group = Etcd::group(3)?;
    let mut options = Options::new(group.iter().map(Etcd::endpoint));
    // The silent one gets a third of it; the others may need an election.
    options.request_timeout = Duration::from_secs(9);
    let client = Client::new(options)?;
    client.put(Put::new("k", "1")).await?;
    group[0].pause()?;
    let found = client.get_key("k").await;
    assert_eq!(found?.context("was written")?.value, "1");

    let mut options = Options::new([group[0].endpoint()]);
    options.request_timeout = Duration::from_secs(1);
    let error = Client::new(options)?
        .put(Put::new("k", "2"))
        .await
        .expect_err("the member is paused");
    assert!(error.outcome_unknown() && error.retryable(), "{error}");
    assert!(
        matches!(error, KvError::Call(CallError::TimedOut { sent: true, .. })),
        "{error}"
    );
    group[0].resume()
}
