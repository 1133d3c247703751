//! Streams under members that fall silent, and users that read slowly, against fake members.

use crate::fake::{Fake, Mood, PATIENCE, client};
use anyhow::{Context, Result};
use cfgsvc_client::{AtEnd, LeaseState, Mirror, Moment, Put, WatchError, WatchOptions};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
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

#[tokio::test]
async fn a_watch_is_opened_elsewhere_when_the_first_member_is_silent() -> Result<()> {
    let (silent, good) = (Fake::default(), Fake::default());
    silent.be(Mood::Silent);
    let client = client([silent.start().await?, good.start().await?])?;
    client.watch(WatchOptions::new("k")).await?;
    assert_eq!(good.watches().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_quiet_watch_asks_for_progress_and_keeps_it_to_itself() -> Result<()> {
    let fake = Fake::default();
    fake.at(4);
    let client = client([fake.start().await?])?;
    let mut watch = client.watch(WatchOptions::new("k")).await?;
    assert!(fake.watches()[0].progress_notify);
    fake.at(9);
    watch.request_progress();
    let said = timeout(Duration::from_millis(200), watch.next()).await;
    assert!(said.is_err(), "the user did not ask for progress: {said:?}");
    Ok(())
}

#[tokio::test]
async fn watches_that_are_not_read_hold_up_no_other_request() -> Result<()> {
    let fake = Fake::default();
    fake.be(Mood::Flooding);
    let client = client([fake.start().await?])?;
    let mut unread = Vec::new();
    for _ in 0..6 {
        unread.push(client.watch(WatchOptions::new("k")).await?);
    }
    // Until nothing more fits. On a machine where that never is, there is nothing to see.
    fake.flooded(Duration::from_millis(500)).await?;
    client.put(Put::new("k", "v")).await?;
    assert_eq!(client.grant(30).await?.ttl_s, 30);
    drop(unread);
    Ok(())
}

async fn confirmed(mirror: &mut Mirror, revision: i64) -> Result<()> {
    let wait = async {
        while mirror.confirmed_until().is_none() || mirror.confirmed_revision() != revision {
            mirror.changed().await;
        }
    };
    let patience = timeout(PATIENCE, wait).await;
    patience.with_context(|| format!("it is at r{}", mirror.confirmed_revision()))
}

#[tokio::test]
async fn a_mirror_leaves_a_member_whose_watch_falls_silent_while_the_group_goes_on() -> Result<()> {
    let (first, second) = (Fake::default(), Fake::default());
    let client = client([first.start().await?, second.start().await?])?;
    first.at(2);
    let mut mirror = client.mirror("m/", Duration::from_secs(5));
    confirmed(&mut mirror, 2).await?;
    first.watched(1).await?;
    first.be(Mood::DeafWatches);
    first.at(9);
    second.at(9);
    confirmed(&mut mirror, 9).await?;
    let resumed = second.watches();
    assert_eq!(resumed.len(), 1);
    assert_eq!(resumed[0].start_revision, 3);
    Ok(())
}

#[tokio::test]
async fn a_mirror_whose_watch_is_ended_again_and_again_loads_ever_less_often() -> Result<()> {
    let fake = Fake::default();
    fake.at(2);
    fake.be(Mood::Ending);
    let client = client([fake.start().await?])?;
    let mirror = client.mirror("m/", Duration::from_secs(5));
    remade_ever_less_often(&fake).await?;
    drop(mirror);
    Ok(())
}

#[tokio::test]
async fn a_watch_that_breaks_again_and_again_is_remade_ever_less_often() -> Result<()> {
    let fake = Fake::default();
    fake.be(Mood::Leaderless);
    let client = client([fake.start().await?])?;
    let watch = client.watch(WatchOptions::new("k")).await?;
    remade_ever_less_often(&fake).await?;
    drop(watch);
    Ok(())
}

/// Looks how long it takes until watches were made twelve times.
async fn remade_ever_less_often(fake: &Fake) -> Result<()> {
    let began = Moment::now();
    fake.watched(12).await?;
    // Waits of at least 10, 20, 40, 80, 160, 200, 200... ms; the first may be over already.
    let least = Duration::from_millis(6 * 200);
    let took = Moment::now().since(began);
    assert!(took >= least, "{took:?}, at least {least:?} are decent");
    Ok(())
}

#[tokio::test]
async fn a_watch_ends_and_a_mirror_loads_again_when_another_group_answers() -> Result<()> {
    let fake = Fake::default();
    fake.of_group(0xa);
    fake.at(5);
    let client = client([fake.start().await?])?;
    let mut watch = client.watch(WatchOptions::new("k").progress()).await?;
    let mut mirror = client.mirror("m/", Duration::from_secs(3));
    confirmed(&mut mirror, 5).await?;
    // Restored at an earlier revision; it has come further meanwhile.
    fake.of_group(0xb);
    fake.at(7);
    watch.request_progress();
    let end = timeout(PATIENCE, watch.next())
        .await?
        .context("it is told")?;
    assert!(matches!(end, Err(WatchError::Cancelled { .. })), "{end:?}");
    fake.watched(3).await.context("it loads again")?;
    confirmed(&mut mirror, 7).await
}

/// An endpoint whose connections are never made: its queue of them is full.
fn black_hole() -> Result<(String, Vec<TcpStream>, TcpListener)> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let address = socket.local_addr()?;
    let listener = socket.listen(1)?.into_std()?;
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        held.push(stream);
        anyhow::ensure!(held.len() < 100, "the queue of connections is never full");
    }
    Ok((address.to_string(), held, listener))
}

#[tokio::test]
async fn plain_writes_that_wait_together_for_a_connection_all_move_on() -> Result<()> {
    let good = Fake::default();
    let (hole, _held, _listener) = black_hole()?;
    let client = client([hole, good.start().await?])?;
    let writes = (0..20).map(|n| client.put(Put::new(format!("k{n}"), "v")));
    for written in futures_util::future::join_all(writes).await {
        written?;
    }
    Ok(())
}
