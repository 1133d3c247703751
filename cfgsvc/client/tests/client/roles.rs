//! Roles against a real group: what a host's agent asks, through the death of the member that it
//! asks and leads.

use crate::fake::PATIENCE;
use anyhow::{Context, Result, ensure};
use cfgsvc_client::{
    Attend, CallError, Client, Moment, MoveTo, Options, Put, Refusal, RenewState, Start, Verdict,
    VerdictKind, Verdicts, Yield,
};
use cfgsvc_tests::harness::Cluster;
use tokio::time::timeout;

/// A host's agent, by hand.
struct Host {
    client: Client,
    name: &'static str,
    lease: i64,
}

fn attend(name: &str) -> Attend {
    Attend {
        role: "db".to_owned(),
        host: name.to_owned(),
        colo: "akl".to_owned(),
        instance: format!("state of {name}"),
        boot: "boot".to_owned(),
        attempt: Moment::now().nanos(),
        ..Attend::default()
    }
}

impl Host {
    async fn attends(client: &Client, name: &'static str) -> Result<Self> {
        let lease = client.attend(&attend(name)).await?.lease;
        let client = client.clone();
        Ok(Self {
            client,
            name,
            lease,
        })
    }

    async fn verdicts(&self) -> Result<Verdicts> {
        Ok(self.client.verdicts("db", self.name, self.lease).await?)
    }

    async fn start(&self, epoch: i64) -> Result<(), CallError> {
        let start = Start {
            role: "db".to_owned(),
            host: self.name.to_owned(),
            lease: self.lease,
            epoch,
            position: String::new(),
            attempt: Moment::now().nanos(),
            identity: String::new(),
            life: String::new(),
        };
        self.client.start_epoch(&start).await.map(drop)
    }

    async fn stop(&self, leave: bool) -> Result<()> {
        let stop = Yield {
            role: "db".to_owned(),
            host: self.name.to_owned(),
            lease: self.lease,
            position: String::new(),
            leave,
            attempt: Moment::now().nanos(),
        };
        self.client.yield_role(&stop).await?;
        Ok(())
    }
}

/// The next verdict that is `wanted`; one after the other is told, with none left out but those
/// that were overtaken.
async fn told(verdicts: &mut Verdicts, wanted: impl Fn(&Verdict) -> bool) -> Result<Verdict> {
    let next = async {
        loop {
            let verdict = verdicts.next().await?;
            if wanted(&verdict) {
                return Ok(verdict);
            }
        }
    };
    timeout(PATIENCE, next).await.context("no such verdict")?
}

async fn ready(cluster: &Cluster) -> Result<Client> {
    let client = Client::new(Options::new(cluster.endpoints().split(',')))?;
    client.put(Put::new("/cfgsvc/colos/akl", "{}")).await?;
    let spec = r#"{"candidates":["h1","h2"],"term_ms":20000}"#;
    client.put(Put::new("/cfgsvc/roles/db", spec)).await?;
    Ok(client)
}

#[tokio::test]
async fn a_host_keeps_its_role_through_the_death_of_the_member_it_asks() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    let client = ready(&cluster).await?;
    let first = Host::attends(&client, "h1").await?;
    let mut verdicts = first.verdicts().await?;
    let granted = told(&mut verdicts, |verdict| verdict.may_start).await?;
    first.start(granted.epoch).await?;
    // Asked again, it is answered the same.
    first.start(granted.epoch).await?;
    told(&mut verdicts, |verdict| {
        verdict.kind() == VerdictKind::Serve
    })
    .await?;
    assert_eq!(
        client.renew_roles(vec![first.lease, 1]).await?,
        [RenewState::Renewed, RenewState::Gone]
    );

    // The client asks the first of the list.
    cluster.kill(0)?;
    let broken = timeout(PATIENCE, verdicts.next()).await?;
    ensure!(
        broken.is_err(),
        "the stream ends with its member: {broken:?}"
    );
    assert_eq!(
        client.renew_roles(vec![first.lease]).await?,
        [RenewState::Renewed]
    );
    let mut verdicts = first.verdicts().await?;
    let same = told(&mut verdicts, |_| true).await?;
    assert_eq!(
        (same.kind(), same.epoch),
        (VerdictKind::Serve, granted.epoch)
    );
    assert!(client.is_current("db", granted.epoch).await?);

    let second = Host::attends(&client, "h2").await?;
    let to = MoveTo {
        role: "db".to_owned(),
        to: "h2".to_owned(),
        ..MoveTo::default()
    };
    ensure!(client.move_role(&to).await?.closing, "h1 serves");
    told(&mut verdicts, |verdict| verdict.hands_over).await?;
    assert_eq!(
        client.renew_roles(vec![first.lease]).await?,
        [RenewState::Closing]
    );
    first.stop(true).await?;
    let gone = told(&mut verdicts, |verdict| verdict.not_attending).await?;
    assert_eq!(gone.kind(), VerdictKind::Fenced);
    let mut verdicts = second.verdicts().await?;
    let granted = told(&mut verdicts, |verdict| verdict.may_start).await?;
    let refused = second
        .start(granted.epoch - 1)
        .await
        .expect_err("another epoch");
    assert_eq!(refused.refusal(), Some(Refusal::NotHolder));
    second.start(granted.epoch).await?;
    Ok(())
}

#[tokio::test]
async fn refusals_say_what_was_found() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let client = ready(&cluster).await?;
    let first = Host::attends(&client, "h1").await?;
    let mut twin = attend("h1");
    twin.instance = "a copy".to_owned();
    let refused = client.attend(&twin).await.expect_err("h1 attends");
    assert_eq!(refused.refusal(), Some(Refusal::HostAttends));
    let lease = format!("lease {:x}", first.lease);
    ensure!(refused.to_string().contains(&lease), "{refused}");
    let mut stranger = attend("h9");
    stranger.colo = "nowhere".to_owned();
    let refused = client.attend(&stranger).await.expect_err("no such colo");
    assert_eq!(refused.refusal(), Some(Refusal::InvalidObject));
    let words = "colo 'nowhere' does not exist; cfgctl colo add nowhere";
    ensure!(refused.to_string().contains(words), "{refused}");
    Ok(())
}
