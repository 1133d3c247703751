//! Members that are killed, restarted and paused under the client.

use crate::client;
use crate::etcd::Etcd;
use anyhow::{Context, Result};
use cfgsvc_client::{CallError, Client, Get, KvError, Options, Put, WatchError, WatchOptions};
use std::time::{Duration, Instant};

#[tokio::test]
async fn without_any_member_the_error_names_the_endpoints_and_nothing_was_executed() -> Result<()> {
    let mut options = Options::new(["127.0.0.1:1", "127.0.0.1:2"]);
    options.request_timeout = Duration::from_millis(300);
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
    let mut wanted = Vec::new();
    for number in 0..20 {
        if number == 10 {
            group[0].kill()?;
        }
        // A write whose outcome is unknown is looked up, as an application has to.
        let key = format!("k{number}");
        let revision = match writer.put(Put::new(key.clone(), "v")).await {
            Ok(done) => done.revision,
            Err(error) if error.outcome_unknown() => match writer.get_key(key.clone()).await? {
                Some(kv) => kv.mod_revision,
                None => writer.put(Put::new(key, "v")).await?.revision,
            },
            Err(error) => return Err(error.into()),
        };
        wanted.push(revision);
    }
    assert_eq!(client.get(Get::prefix("k").count_only()).await?.count, 20);
    let mut seen = Vec::new();
    while seen.len() < wanted.len() {
        let item = watch.next().await.context("goes on")??;
        assert_eq!(item.events.len(), 1);
        seen.push(item.revision);
    }
    assert_eq!(seen, wanted);
    Ok(())
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
    options.request_timeout = Duration::from_secs(3);
    let client = Client::new(options)?;
    client.put(Put::new("k", "1")).await?;
    group[0].pause()?;
    let start = Instant::now();
    let found = client.get_key("k").await;
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(found?.context("was written")?.value, "1");

    let lone = client.at(&group[0].endpoint())?;
    let error = lone
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
