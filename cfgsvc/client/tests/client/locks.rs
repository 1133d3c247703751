//! Locks and elections against a real group: one holder after the other, by the lease rules of
//! roles, and nothing that stays behind.

use crate::fake::PATIENCE;
use anyhow::{Context, Result, ensure};
use cfgsvc_client::{
    Claim, Client, Leader, LeaseLost, LockError, LockGuard, LockOptions, Moment, MoveTo, Observer,
    Options, Refusal, Wait, sleep_until,
};
use cfgsvc_tests::harness::Cluster;
use std::time::Duration;
use tokio::time::timeout;

fn client(cluster: &Cluster) -> Result<Client> {
    Ok(Client::new(Options::new(cluster.endpoints().split(',')))?)
}

fn named(host: &str) -> LockOptions {
    LockOptions::new().host(host)
}

async fn had(claim: Claim) -> Result<LockGuard> {
    Ok(timeout(PATIENCE, claim).await.context("it is not had")??)
}

/// Who is there for the lock `jobs`, by name.
async fn queue(client: &Client) -> Result<Vec<String>> {
    match client.roles("locks/jobs").await {
        Ok(roles) => Ok(roles
            .into_iter()
            .flat_map(|role| role.attending)
            .map(|there| there.host)
            .collect()),
        Err(error) if error.refusal() == Some(Refusal::RoleNotFound) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until just these are there.
async fn queued(client: &Client, hosts: &[&str]) -> Result<()> {
    let wait = async {
        while queue(client).await? != hosts {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, wait)
        .await
        .with_context(|| format!("not {hosts:?}"))?
}

async fn leads(observer: &mut Observer) -> Result<Option<Leader>> {
    Ok(timeout(PATIENCE, observer.next())
        .await
        .context("no news")??)
}

#[tokio::test]
async fn three_have_it_in_the_order_in_which_they_came_each_in_a_greater_epoch() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = client(&cluster)?;
    let first = had(client.lock("jobs", named("a"))).await?;
    let mut second = client.lock("jobs", named("b"));
    queued(&client, &["a", "b"]).await?;
    // Its name is before the second's.
    let mut third = client.lock("jobs", named("aa"));
    queued(&client, &["a", "aa", "b"]).await?;
    ensure!(first.is_held() && first.role() == "locks/jobs" && first.host() == "a");
    ensure!(client.is_current("locks/jobs", first.epoch()).await?);
    let early = timeout(Duration::from_millis(300), &mut second).await;
    ensure!(early.is_err(), "it has a holder");
    let before = first.epoch();
    first.release().await?;

    let second = had(second).await?;
    ensure!(second.epoch() > before);
    ensure!(!client.is_current("locks/jobs", before).await?);
    let early = timeout(Duration::from_millis(300), &mut third).await;
    ensure!(early.is_err(), "it is the second's");
    let before = second.epoch();
    drop(second);
    let third = had(third).await?;
    ensure!(third.epoch() > before);
    let before = third.epoch();
    third.release().await?;
    queued(&client, &[]).await?;

    // Nothing is left of it, and yet no epoch comes again.
    let again = had(client.lock("jobs", LockOptions::new())).await?;
    ensure!(again.epoch() > before);
    Ok(())
}

#[tokio::test]
async fn a_wait_that_is_given_up_leaves_the_queue() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = client(&cluster)?;
    let held = had(client.lock("jobs", named("a"))).await?;

    let dropped = client.lock("jobs", named("b"));
    queued(&client, &["a", "b"]).await?;
    drop(dropped);
    queued(&client, &["a"]).await?;

    let left = client.lock("jobs", named("c"));
    queued(&client, &["a", "c"]).await?;
    left.leave().await?;
    assert_eq!(queue(&client).await?, ["a"]);
    // Before it can be in.
    client.lock("jobs", named("d")).leave().await?;
    assert_eq!(queue(&client).await?, ["a"]);

    for wait in [Wait::Once, Wait::AtMost(Duration::from_millis(300))] {
        let refused = client.lock("jobs", named("e").wait(wait)).await;
        let Err(LockError::NotHad { holder, source, .. }) = refused else {
            anyhow::bail!("{wait:?}: {refused:?}");
        };
        assert_eq!(holder, "a");
        ensure!(source.is_none(), "{source:?}");
        assert_eq!(queue(&client).await?, ["a"], "{wait:?}");
    }
    ensure!(held.is_held());
    held.release().await?;
    let once = client.lock("jobs", named("e").wait(Wait::Once)).await?;
    once.release().await?;
    Ok(())
}

#[tokio::test]
async fn the_lock_delay_follows_a_holder_that_vanishes_and_not_one_that_releases() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = client(&cluster)?;
    let delay = Duration::from_secs(3);
    let options = |host: &str| {
        let options = named(host).term(Duration::from_secs(2));
        options.stop(Duration::from_millis(500)).lock_delay(delay)
    };
    let first = had(client.lock("jobs", options("a"))).await?;
    let second = client.lock("jobs", options("b"));
    queued(&client, &["a", "b"]).await?;
    let released = Moment::now();
    first.release().await?;
    let second = had(second).await?;
    let took = Moment::now().since(released);
    ensure!(took < delay, "it waited after a release: {took:?}");
    second.release().await?;

    // A holder that vanishes: its runtime, and all that renews, is gone.
    let other = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let endpoints = cluster.endpoints();
    let lost = other.spawn({
        let options = options("a");
        async move {
            let client = Client::new(Options::new(endpoints.split(',')))?;
            anyhow::Ok(client.lock("jobs", options).await?)
        }
    });
    let lost = lost.await??;
    let deadline = lost.deadline().context("it is held")?;
    other.shutdown_background();
    let next = had(client.lock("jobs", options("b"))).await?;
    let had_at = Moment::now();
    // At its deadline it begins to stop; the group counts from a later moment than it does.
    ensure!(
        had_at >= deadline + lost.stop_time() + delay,
        "{:?}",
        had_at.since(deadline)
    );
    ensure!(!lost.is_held() && next.epoch() > lost.epoch());
    Ok(())
}

#[tokio::test]
async fn a_holder_that_is_cut_off_has_lost_it_at_its_deadline_before_another_has_it() -> Result<()>
{
    let mut cluster = Cluster::start(3)?;
    let client = client(&cluster)?;
    let options = |host: &str| named(host).term(Duration::from_secs(3));
    let held = had(client.lock("jobs", options("a"))).await?;
    // Renewals put the deadline off.
    let first = held.deadline().context("it is held")?;
    sleep_until(first + Duration::from_millis(100)).await;
    ensure!(held.is_held(), "it was renewed");
    let waiting = client.lock("jobs", options("b"));
    queued(&client, &["a", "b"]).await?;
    for index in 0..3 {
        cluster.pause(index)?;
    }
    assert_eq!(held.lost().await, LeaseLost::NotRenewed);
    let lost_at = Moment::now();
    ensure!(!held.is_held() && held.deadline().is_none());
    for index in 0..3 {
        cluster.resume(index)?;
    }
    let next = had(waiting).await?;
    ensure!(Moment::now() > lost_at && next.epoch() > held.epoch());
    ensure!(!client.is_current("locks/jobs", held.epoch()).await?);
    // What is over is left without a complaint.
    held.release().await?;
    ensure!(next.is_held());
    Ok(())
}

#[tokio::test]
async fn a_member_that_falls_silent_keeps_nobody_from_hearing_that_it_is_its_turn() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let mut options = Options::new(cluster.endpoints().split(','));
    // Such a connection would be found out long after the test.
    options.keepalive_interval = Duration::from_hours(1);
    let waits = Client::new(options.clone())?;
    options.endpoints.rotate_left(1);
    let holds = Client::new(options)?;
    let asked = |host: &str| named(host).term(Duration::from_secs(15));
    let held = had(holds.lock("jobs", asked("a"))).await?;
    let waiting = waits.lock("jobs", asked("b"));
    queued(&holds, &["a", "b"]).await?;
    cluster.pause(0)?;
    // A new leader, if need be, and the waiter's renewals at another member.
    had(holds.lock("other", named("c"))).await?;
    held.release().await?;
    had(waiting).await?.release().await?;
    Ok(())
}

#[tokio::test]
async fn who_is_asked_to_hand_over_hears_it_at_once_and_the_next_has_it() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = client(&cluster)?;
    for to in ["", "b"] {
        let held = had(client.lock("jobs", named("a").term(Duration::from_mins(1)))).await?;
        let waiting = client.lock("jobs", named("b"));
        queued(&client, &["a", "b"]).await?;
        let to = MoveTo {
            role: "locks/jobs".to_owned(),
            to: to.to_owned(),
            ..MoveTo::default()
        };
        client.move_role(&to).await?;
        let lost = timeout(PATIENCE, held.lost()).await?;
        assert_eq!(lost, LeaseLost::HandOver);
        held.release().await?;
        had(waiting).await?.release().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_leader_of_an_election_its_epoch_and_its_value_are_seen_as_they_change() -> Result<()> {
    let cluster = Cluster::start(3)?;
    let client = client(&cluster)?;
    let mut observer = client.observe("jobs");
    assert_eq!(leads(&mut observer).await?, None);
    let first = had(client.lock("jobs", named("a").value("10.0.0.1:80"))).await?;
    let leader = |guard: &LockGuard, value: &str| Leader {
        host: guard.host().to_owned(),
        epoch: guard.epoch(),
        value: value.to_owned(),
    };
    let expected = leader(&first, "10.0.0.1:80");
    assert_eq!(leads(&mut observer).await?, Some(expected.clone()));
    let mut late = client.observe("jobs");
    assert_eq!(leads(&mut late).await?, Some(expected));
    let second = client.lock("jobs", named("b").value("10.0.0.2:80"));
    queued(&client, &["a", "b"]).await?;
    first.release().await?;
    let second = had(second).await?;
    let expected = leader(&second, "10.0.0.2:80");
    assert_eq!(leads(&mut observer).await?, Some(expected.clone()));
    assert_eq!(leads(&mut late).await?, Some(expected));
    second.release().await?;
    assert_eq!(leads(&mut observer).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_taken_is_waited_for_and_bad_settings_are_refused() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = client(&cluster)?;
    let held = had(client.lock("jobs", named("a"))).await?;
    let twin = client.lock("jobs", named("a").wait(Wait::Once)).await;
    let Err(LockError::Call { source, .. }) = twin else {
        anyhow::bail!("two of one name: {twin:?}");
    };
    assert_eq!(source.refusal(), Some(Refusal::HostAttends));
    ensure!(held.is_held());
    let twin = client.lock("jobs", named("a"));
    held.release().await?;
    had(twin).await?.release().await?;

    let hasty = LockOptions::new().stop(Duration::from_secs(9));
    let refused = client.lock("jobs", hasty).await;
    let Err(LockError::Call { source, .. }) = refused else {
        anyhow::bail!("more time to stop than to hold: {refused:?}");
    };
    assert_eq!(source.refusal(), Some(Refusal::InvalidObject));
    let nobody = Client::new(Options::new(["127.0.0.1:1"]))?;
    let refused = nobody.lock("jobs", LockOptions::new()).await;
    let unreachable =
        matches!(&refused, Err(LockError::Call { source, .. }) if source.unreachable());
    ensure!(unreachable, "{refused:?}");
    Ok(())
}
