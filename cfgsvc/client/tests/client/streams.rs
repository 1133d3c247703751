//! Streams under members that fall silent, and users that read slowly, against fake members.

use crate::fake::{Fake, Mood, PATIENCE, client};
use anyhow::{Context, Result};
use cfgsvc_client::{AtEnd, LeaseState};
use tokio::time::timeout;

#[tokio::test]
async fn renewals_that_time_out_together_move_to_one_other_member() -> Result<()> {
    let (silent, one, other) = (Fake::default(), Fake::default(), Fake::default());
    let endpoints = [
        silent.start().await?,
        one.start().await?,
        other.start().await?,
    ];
    let client = client(endpoints)?;
    // As many as bring each of them round to the silent one, if each one moved on by itself.
    let mut keepers = Vec::new();
    for id in 1..=6 {
        let grant = client.grant_as(id, 6).await?;
        let keeper = client.keep_alive(&grant, AtEnd::Leave);
        keepers.push((grant.term.deadline(), keeper));
    }
    silent.be(Mood::Silent);
    for (granted, keeper) in &keepers {
        let renewed =
            |state: &LeaseState| matches!(state, LeaseState::Held { until } if until > granted);
        let mut state = keeper.state();
        let wait = timeout(PATIENCE, state.wait_for(renewed));
        wait.await.context("it is renewed")??;
    }
    assert!(silent.renewals() > 0, "they tried there first");
    let renewals = [one.renewals(), other.renewals()];
    assert!(renewals.contains(&0), "{renewals:?}");
    assert!(renewals.iter().sum::<usize>() >= keepers.len());
    Ok(())
}

#[tokio::test]
async fn a_renewal_leaves_a_silent_member_within_the_time_of_one_request() -> Result<()> {
    let (silent, good) = (Fake::default(), Fake::default());
    silent.be(Mood::Silent);
    let client = client([silent.start().await?, good.start().await?])?;
    let renewed = timeout(PATIENCE, client.renew(7)).await??;
    assert_eq!((renewed.lease, renewed.ttl_s), (7, 30));
    // And waits for a leader where it would have failed at once.
    good.fail((0..4).map(|_| tonic::Status::unavailable("etcdserver: no leader")));
    silent.be(Mood::Serving);
    silent.fail((0..4).map(|_| tonic::Status::unavailable("etcdserver: no leader")));
    assert_eq!(client.renew(7).await?.ttl_s, 30);
    Ok(())
}
