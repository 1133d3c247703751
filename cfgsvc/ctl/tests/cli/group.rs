//! Commands about the group, as far as an etcd knows them.

use crate::Session;
use anyhow::{Context, Result, ensure};
use cfgsvc_tests::harness::Etcd;
use expect_test::expect;
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn calls_that_the_member_does_not_know_are_told_so() -> Result<()> {
    let mut session = Session::start()?;
    let list: Value = serde_json::from_str(&session.data(&["member", "list", "-o", "json"])?)?;
    let member = &list["members"][0];
    session.call(member["id"].as_str().context("an id")?, "ID");
    session.call(
        member["peer_addresses"][0].as_str().context("an address")?,
        "PEER",
    );
    session.check(
        "history k
         member add n2 --peer 127.0.0.1:9
         member remove nobody --yes
         member remove n0
         member promote n0
         leader move nobody
         leader move n0",
        expect![[r#"
            $ cfgctl history k
            | error: MEMBER does not know this call: unknown service cfgsvc.v1.Admin
            |
            | hint: the member is not cfgsvc, or of an older version: see `cfgctl status`
            exit 1
            $ cfgctl member add n2 --peer 127.0.0.1:9
            | error: MEMBER does not know this call: unknown service cfgsvc.v1.Admin
            |
            | hint: the member is not cfgsvc, or of an older version: see `cfgctl status`
            exit 1
            $ cfgctl member remove nobody --yes
            | error: no member has the name or id `nobody`
            |
            | hint: the members are n0
            exit 1
            $ cfgctl member remove n0
            | this removes member `n0` (id ID, PEER) for good
            | error: this needs your consent, and there is no terminal to ask
            |
            | hint: repeat the command with `--yes`
            exit 2
            $ cfgctl member promote n0
            | error: member ID is no learner
            exit 1
            $ cfgctl leader move nobody
            | error: no member has the name or id `nobody`
            |
            | hint: the members are n0
            exit 1
            $ cfgctl leader move n0
            | `n0` leads already
        "#]],
    )
}

#[test]
fn the_status_of_a_group_names_every_member_and_the_leader_moves() -> Result<()> {
    let mut group = Etcd::group(3)?;
    let session = Session::without_group()?;
    let endpoints: Vec<String> = group.iter().map(Etcd::endpoint).collect();
    let json = |args: &[&str]| -> Result<Value> {
        let mut all = vec![
            "-o",
            "json",
            "--endpoints",
            &endpoints[0],
            "--timeout",
            "20s",
        ];
        all.extend(args);
        Ok(serde_json::from_str(&session.data(&all)?)?)
    };
    // A member tells its client address to the group some time after it has begun to serve.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let list = json(&["member", "list"])?;
        let members = list["members"].as_array().context("members")?;
        if members
            .iter()
            .all(|member| member["client_addresses"][0].is_string())
        {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "a member stays without an address: {list}"
        );
    }
    let status = json(&["status"])?;
    let members = status["members"].as_array().context("members")?;
    ensure!(members.len() == 3, "the group names the others: {status}");
    ensure!(
        members.iter().all(|member| member["reachable"] == true),
        "{status}"
    );
    let leaders = members.iter().filter(|member| member["role"] == "leader");
    ensure!(leaders.count() == 1, "{status}");

    let before = json(&["leader", "show"])?["name"]
        .as_str()
        .context("a name")?
        .to_owned();
    let target = ["n0", "n1", "n2"].into_iter().find(|name| *name != before);
    let target = target.context("there are two others")?;
    json(&["leader", "move", target])?;
    ensure!(json(&["leader", "show"])?["name"] == target);
    ensure!(
        json(&["member", "list"])?["members"]
            .as_array()
            .context("members")?
            .len()
            == 3
    );

    group[2].kill()?;
    let status = json(&["status", "--timeout", "5s"])?;
    let down = status["members"].as_array().context("members")?.iter();
    ensure!(
        down.filter(|member| member["reachable"] == false).count() == 1,
        "{status}"
    );
    Ok(())
}
