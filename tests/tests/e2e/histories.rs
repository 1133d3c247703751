//! Clients of two makes and watches while members die, stop, are cut off, have slow disks and wrong
//! clocks. Whatever they were told is explained by one order of all operations (`cfgsvc-history`),
//! and every watch showed exactly the log.
//!
//! Nothing here depends on speed: safety is checked, and that every client is answered again after
//! all was mended. `HISTORY_SEED` repeats the choice of faults and operations (not the moments, as
//! these are real processes), `HISTORY_SECONDS` is the time of faults.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use cfgsvc_history::{
    Change, History, Outcome, Request, check, check_watch, first_difference, to_lines,
};
use cfgsvc_tests::harness::{Cluster, ClusterOptions, eventually_some};
use tokio::runtime::{Handle, Runtime};

use callers::{Caller, Etcdctl, Ours};
use load::{KEYS, Load, Record};
use watchers::{Plan, Watcher, log_of};

use crate::nemesis::{Fault, Nemesis, prepare_clocks};
use crate::seeds::setting;

mod callers;
mod load;
mod watchers;

/// For anything that must happen once all is mended.
const PATIENCE: Duration = Duration::from_mins(1);
/// Time of faults when nobody says otherwise.
const SECONDS: u64 = 8;

/// Runs clients, watches and these faults against three members, and checks what they saw.
#[track_caller]
fn explained(name: &str, faults: &[Fault]) {
    let seed = setting("HISTORY_SEED", u64::from(std::process::id()));
    let seconds = setting("HISTORY_SECONDS", SECONDS);
    let options = ClusterOptions {
        members: 3,
        proxied: true,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::unstarted(options).expect("three members");
    let file = cluster.directory().join("history.jsonl");
    let ran = run(&mut cluster, faults, seed, seconds, &file);
    match ran {
        Ok(report) => eprintln!("{name}: seed {seed}, {seconds} s: {report}"),
        // The cluster is dropped by the panic, which keeps its directory.
        Err(error) => panic!(
            "{error:#}\nseed {seed}; repeat with: HISTORY_SEED={seed} HISTORY_SECONDS={seconds} \
             tests/run histories::{name}\nhistory (if the load had ended): {}\ncheck it again \
             with: cargo run -p cfgsvc-history --bin history-check -- {0}",
            file.display()
        ),
    }
}

fn run(
    cluster: &mut Cluster,
    faults: &[Fault],
    seed: u64,
    seconds: u64,
    file: &Path,
) -> Result<String> {
    if faults.contains(&Fault::Clock) {
        prepare_clocks(cluster)?;
    }
    for member in 0..cluster.count() {
        cluster.spawn(member)?;
    }
    cluster.wait_all_ready()?;
    let runtime = Runtime::new().context("a runtime for our clients")?;
    let handle = runtime.handle();
    let members: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
    let record = Arc::new(Record::new());
    let mut patient = Ours::new(handle, &members, false)?;
    let start = until_answered(&record, &mut patient, |_| Request::Read {
        key: None,
        serializable: false,
    })?;
    let mut watchers = start_watchers(handle, &members, start + 1, cluster.directory())?;
    let load = Load::start(&record, callers(handle, &members)?, seed);
    let counts = Nemesis::new(cluster, faults, seed).run(Duration::from_secs(seconds))?;
    load.wait_for_progress(3, PATIENCE)?;
    load.end()?;
    let mut last = BTreeMap::new();
    for key in KEYS {
        let put = |id| Request::Write {
            when: None,
            changes: BTreeMap::from([(key.to_owned(), Some(format!("v{id}")))]),
        };
        last.insert(key, until_answered(&record, &mut patient, put)?);
    }
    let newest = last.values().copied().max().unwrap_or(start);
    let mut history = History {
        start,
        operations: record.operations(),
        ..History::default()
    };
    fs::write(file, to_lines(&history)?).context("keep the history")?;
    let mut logs = Vec::new();
    for member in &members {
        let client = callers::client(handle, std::slice::from_ref(member))?;
        let log = async {
            let log = log_of(&client, start + 1, newest);
            tokio::time::timeout(PATIENCE, log).await
        };
        let log = runtime.block_on(log);
        logs.push(log.with_context(|| format!("{member} does not show its log to r{newest}"))??);
    }
    for watcher in &mut watchers {
        let awaited = watcher.key().and_then(|key| last.get(key)).copied();
        watcher.wait_for(awaited.unwrap_or(newest), PATIENCE)?;
    }
    let watches: Result<Vec<_>> = watchers.into_iter().map(Watcher::end).collect();
    history.watches = watches?;
    for changes in history
        .watches
        .iter_mut()
        .flat_map(|watch| &mut watch.responses)
    {
        // A write that nobody heard of may still come, after the newest that is checked.
        changes.retain(|change| change.revision <= newest);
    }
    history.log = logs.first().cloned();
    fs::write(file, to_lines(&history)?).context("keep the history")?;
    verify(&history, &logs, newest)?;
    Ok(report(&history, newest, &counts))
}

/// Asks until there is an answer; its revision.
fn until_answered(
    record: &Record,
    caller: &mut dyn Caller,
    plan: impl Fn(usize) -> Request,
) -> Result<i64> {
    let answer = eventually_some(PATIENCE, "an answer", || {
        match record.ask("patient", caller, &plan) {
            Ok((_, Outcome::Done(reply))) => Some(Ok(reply.revision)),
            Ok((_, Outcome::Failed | Outcome::Unknown)) => None,
            Err(error) => Some(Err(error)),
        }
    });
    answer?
}

/// Of both makes: some that know one member, some that know all.
fn callers(runtime: &Handle, members: &[String]) -> Result<Vec<(String, Box<dyn Caller>)>> {
    let mut callers: Vec<(String, Box<dyn Caller>)> = Vec::new();
    for (number, member) in (1..).zip(members) {
        let one = std::slice::from_ref(member);
        let exactly_once = number == 1;
        let ours = Ours::new(runtime, one, exactly_once)?;
        callers.push((format!("ours of n{number}"), Box::new(ours)));
        let endpoints = member.clone();
        callers.push((
            format!("etcdctl of n{number}"),
            Box::new(Etcdctl { endpoints }),
        ));
    }
    let ours = Ours::new(runtime, members, true)?;
    callers.push(("ours in a session".to_owned(), Box::new(ours)));
    let endpoints = members.join(",");
    callers.push(("etcdctl of all".to_owned(), Box::new(Etcdctl { endpoints })));
    Ok(callers)
}

fn start_watchers(
    runtime: &Handle,
    members: &[String],
    from: i64,
    directory: &Path,
) -> Result<Vec<Box<dyn Watcher>>> {
    let ours = |name, endpoints: &[String], key, remade| {
        let endpoints = endpoints.to_vec();
        let plan = Plan {
            name,
            endpoints,
            key,
            from,
            remade,
        };
        watchers::Ours::start(runtime, plan)
    };
    let etcdctl =
        |name, endpoints: &str| watchers::Etcdctl::start(name, endpoints, from, directory);
    Ok(vec![
        Box::new(ours("ours", members, None, false)?),
        Box::new(ours("ours-of-n2", &members[1..2], None, false)?),
        Box::new(ours("ours-remade", members, None, true)?),
        Box::new(ours("ours-of-a-key", members, Some(KEYS[0]), false)?),
        Box::new(etcdctl("etcdctl-of-n3", &members[2])),
        Box::new(etcdctl("etcdctl", &members.join(","))),
    ])
}

/// The order of all operations, the same log from every member, and watches that show it.
fn verify(history: &History, logs: &[Vec<Change>], newest: i64) -> Result<()> {
    for (number, log) in logs.iter().enumerate() {
        if let Some(difference) = first_difference(&logs[0], log) {
            return Err(anyhow!(
                "the logs of members 0 and {number} differ: {difference}"
            ));
        }
    }
    let explained = check(history)?;
    ensure!(
        explained.store.revision == newest,
        "the log ends at r{}, not with the last write at r{newest}",
        explained.store.revision
    );
    for watch in &history.watches {
        let key = watch.key.as_ref();
        let of_it = |change: &&Change| key.is_none_or(|key| change.key == *key);
        let last = logs[0].iter().rev().find(of_it);
        let through = last.map_or(newest, |change| change.revision);
        check_watch(watch, &logs[0], through).map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

fn report(history: &History, newest: i64, counts: &BTreeMap<Fault, usize>) -> String {
    let count = |outcome: fn(&Outcome) -> bool| {
        let found = history
            .operations
            .iter()
            .filter(|one| outcome(&one.outcome));
        found.count()
    };
    format!(
        "{} operations, {} unknown, {} failed, to r{newest}, faults {counts:?}",
        history.operations.len(),
        count(|outcome| matches!(outcome, Outcome::Unknown)),
        count(|outcome| matches!(outcome, Outcome::Failed)),
    )
}

#[test]
fn members_killed_one_by_one_and_all_at_once() {
    let faults = [Fault::Kill, Fault::Kill, Fault::KillAll];
    explained("members_killed_one_by_one_and_all_at_once", &faults);
}

#[test]
fn members_stopped_for_a_while_and_leaders_moved() {
    let faults = [Fault::Pause, Fault::MoveLeader];
    explained("members_stopped_for_a_while_and_leaders_moved", &faults);
}

#[test]
fn partitions_of_one_and_two_ways() {
    let faults = [Fault::Partition, Fault::OneWay];
    explained("partitions_of_one_and_two_ways", &faults);
}

#[test]
fn slow_disks_and_clocks_that_jump() {
    let faults = [Fault::SlowDisk, Fault::Clock];
    explained("slow_disks_and_clocks_that_jump", &faults);
}

#[test]
fn long_everything_at_once() {
    let faults = [
        Fault::Kill,
        Fault::KillAll,
        Fault::Pause,
        Fault::Partition,
        Fault::OneWay,
        Fault::SlowDisk,
        Fault::Clock,
        Fault::MoveLeader,
    ];
    explained("long_everything_at_once", &faults);
}
