//! Leases and sessions.

use crate::client;
use crate::fake::PATIENCE;
use anyhow::{Context, Result};
use cfgsvc_client::{AtEnd, LeaseError, LeaseLost, LeaseState, Moment, Put};
use cfgsvc_tests::harness::Etcd;
use std::time::Duration;

#[tokio::test]
async fn a_lease_is_granted_looked_at_renewed_and_revoked() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let grant = client.grant_as(0x77, 30).await?;
    assert_eq!((grant.lease, grant.ttl_s), (0x77, 30));
    let error = client.grant_as(0x77, 30).await.expect_err("it lives");
    assert!(matches!(error, LeaseError::Exists { lease: 0x77 }));
    client.put(Put::new("k", "v").lease(0x77)).await?;
    let info = client.lease_info(0x77, true).await?;
    assert_eq!((info.granted_s, info.keys.len()), (30, 1));
    assert_eq!(client.leases().await?, [0x77]);
    assert_eq!(client.renew(0x77).await?.ttl_s, 30);
    client.revoke(0x77).await?;
    assert_eq!(client.get_key("k").await?, None);
    for error in [
        client.revoke(0x77).await.expect_err("it is gone"),
        client
            .lease_info(0x77, false)
            .await
            .expect_err("it is gone"),
        client.renew(0x77).await.expect_err("it is gone"),
    ] {
        assert!(
            matches!(error, LeaseError::NotFound { lease: 0x77 }),
            "{error}"
        );
    }
    let error = client.grant(0).await.expect_err("no term");
    assert_eq!(
        error.to_string(),
        "lease ttl 0 s is outside 1..=9000000000 s"
    );
    let error = client
        .grant(10_000_000_000)
        .await
        .expect_err("too long a term");
    assert!(matches!(
        error,
        LeaseError::TtlOutOfRange {
            ttl_s: 10_000_000_000
        }
    ));
    Ok(())
}

#[tokio::test]
async fn a_session_outlives_its_term_and_goes_when_closed() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let session = client.session(5).await?;
    let first = match session.state().borrow().clone() {
        LeaseState::Held { until } => until,
        LeaseState::Lost(lost) => anyhow::bail!("lost at once: {lost}"),
    };
    client
        .in_session(&session)
        .put(Put::new("k", "v").lease(session.lease()))
        .await?;
    let mut state = session.state();
    let renewed = |state: &LeaseState| match state {
        LeaseState::Held { until } => *until > first + Duration::from_secs(5),
        LeaseState::Lost(_) => true,
    };
    tokio::time::timeout(PATIENCE, state.wait_for(renewed)).await??;
    assert!(session.is_live() && Moment::now() > first);
    assert!(client.get_key("k").await?.is_some());
    session.close().await?;
    assert_eq!(client.get_key("k").await?, None);
    assert_eq!(*state.borrow(), LeaseState::Lost(LeaseLost::Closed));
    Ok(())
}

#[tokio::test]
async fn a_dropped_session_gives_its_lease_back() -> Result<()> {
    let etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let session = client.session(60).await?;
    let mut watch = client.watch(cfgsvc_client::WatchOptions::new("k")).await?;
    client
        .put(Put::new("k", "v").lease(session.lease()))
        .await?;
    watch.next().await.context("the put")??;
    drop(session);
    let item = watch.next().await.context("the delete")??;
    assert_eq!(item.events[0].kind, cfgsvc_client::EventKind::Delete);
    Ok(())
}

#[tokio::test]
async fn a_revoked_lease_is_reported_as_gone_and_an_unreachable_group_as_not_renewed() -> Result<()>
{
    let mut etcd = Etcd::start()?;
    let client = client([&etcd])?;
    let session = client.session(9).await?;
    client.revoke(session.lease()).await?;
    assert_eq!(session.lost().await, LeaseLost::Gone);

    let grant = client.grant(2).await?;
    let deadline = grant.term.deadline();
    let keeper = client.keep_alive(&grant, AtEnd::Leave);
    etcd.kill()?;
    assert_eq!(keeper.lost().await, LeaseLost::NotRenewed);
    assert!(Moment::now() >= deadline);
    Ok(())
}
