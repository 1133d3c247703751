//! A group that is made from a snapshot, while a holder serves that the snapshot does not know of.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use cfgsvc_tests::harness::{Cluster, ClusterOptions, eventually, eventually_some};

use super::host::{Host, HostOptions, Machine};
use super::judge::{Gaps, Log, Run, judge, judge_checked, stale};
use super::resource::Resources;
use super::{PATIENCE, cfgctl};

/// A holder that the snapshot does not know of is cut off, and serves on while its lease lasts. The
/// group that is made from the snapshot meanwhile gives the role to nobody before that.
fn restored(old: &mut Cluster, new: &mut Cluster, dir: &Path) -> Result<Gaps> {
    let before = old.endpoints();
    for colo in ["akl", "wlg"] {
        cfgctl(&before, &["colo", "add", colo])?;
    }
    // Long beside the time that killing, starting and restoring take.
    let role = ["role", "create", "r", "--term", "6s", "--stop", "500ms"];
    cfgctl(&before, &role)?;
    let resources = Resources::start(1)?;
    let mut log = Log::create(dir.join("holders"))?;
    let members = vec![old.client_address(0)?, new.client_address(0)?];
    let program = cfgsvc_tests::harness::binary_path("trial-holder")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let command = [
        text(&program),
        text(log.path()),
        resources.address().to_string(),
    ];
    let host = |colo: &str| {
        let options = HostOptions {
            name: colo.to_owned(),
            colo: colo.to_owned(),
            role: "r".to_owned(),
            members: members.clone(),
            dir: dir.to_owned(),
            command: command.to_vec(),
        };
        Host::start(options, Machine::default())
    };
    let mut serves = |host: &str, after: i64| -> Result<Run> {
        eventually_some(PATIENCE, format!("{host} to serve"), || {
            let newest = log.runs().ok()?.pop()?;
            (newest.host == host && newest.epoch > after && newest.last > newest.first)
                .then_some(newest)
        })
    };
    let first = host("akl")?;
    let known = serves("akl", 0)?;
    let snapshot = text(&dir.join("snapshot"));
    cfgctl(&before, &["snapshot", "save", &snapshot])?;
    let second = host("wlg")?;
    let moved = eventually(PATIENCE, "the switch", || {
        cfgctl(&before, &["role", "switch", "r", "wlg"]).is_ok()
    });
    moved?;
    let unknown = serves("wlg", known.epoch)?;
    second.cut(true, true)?;
    old.kill(0)?;
    new.spawn(0)?;
    new.wait_ready(0)?;
    cfgctl(
        &new.endpoints(),
        &["snapshot", "restore", &snapshot, "--yes"],
    )?;
    let after = serves("akl", unknown.epoch)?;
    ensure!(after.epoch > unknown.epoch, "{after:?} after {unknown:?}");
    second.heal();
    drop((first, second));
    let [checked, unchecked] = resources.end()?;
    judge_checked(&checked.applied).map_err(|problem| anyhow!(problem))?;
    ensure!(stale(&unchecked.applied) > 0, "no old write came");
    judge(&log.runs()?).map_err(|problem| anyhow!(problem))
}

#[test]
fn a_restored_group_waits_for_holders_that_it_does_not_know_and_never_repeats_an_epoch() {
    let mut old = Cluster::start(1).expect("a group");
    let options = ClusterOptions {
        members: 1,
        ..ClusterOptions::default()
    };
    let mut new = Cluster::unstarted(options).expect("another one");
    let dir = tempfile::tempdir().expect("a directory");
    let gaps = restored(&mut old, &mut new, dir.path()).expect("one at a time");
    assert_eq!(gaps.count(), 2, "{gaps:?}");
}
