//! Members that fall silent: they close nothing and say nothing, as when power or a link is gone. A
//! name server stays fresh while the group is healthy, whether the silent one led or was the one
//! that the name server asks; and what it answers is never older than it promises.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cfgsvc_tests::harness::{Cluster, eventually, run_binary};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::server::{NameServer, PATIENCE, ask};
use super::{WWW, ZONE, place};
use crate::failures::leader;
use crate::seeds::lasts;
use crate::writers::Writers;

/// The default of `--stale-after`.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// Between two questions to a server: the group needs the processors too.
const PAUSE: Duration = Duration::from_millis(1);
const ADDRESSES: [(&str, &str); 2] = [("a", "192.0.2.1"), ("b", "192.0.2.2")];

/// A reply, with when it was asked for and had.
struct Reply {
    asked: Instant,
    had: Instant,
    /// The address, or what there was instead.
    said: Result<String, String>,
}

/// From when until when an address may have been the true one.
struct Truth {
    address: &'static str,
    from: Instant,
    until: Option<Instant>,
}

fn questions(server: SocketAddr, ended: &AtomicBool) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let told = ask(server, WWW, RecordType::A);
        let had = Instant::now();
        let said = match told {
            Ok(told) if told.rcode == ResponseCode::NoError && told.answer.len() == 1 => {
                Ok(told.answer[0].clone())
            }
            other => Err(format!("{other:?}")),
        };
        replies.push(Reply { asked, had, said });
        thread::park_timeout(PAUSE);
    }
    replies
}

/// Each reply has an address that was true at most [`STALE_AFTER`] before it was asked for.
fn judge(name: &str, replies: &[Reply], truths: &[Truth], silent: Instant) -> Result<()> {
    let right = |reply: &Reply, truth: &Truth| {
        reply.said.as_deref() == Ok(truth.address)
            && truth.from <= reply.had
            && truth
                .until
                .is_none_or(|until| reply.asked < until + STALE_AFTER)
    };
    let wrong: Vec<_> = replies
        .iter()
        .filter(|reply| !truths.iter().any(|truth| right(reply, truth)))
        .map(|reply| (reply.asked.saturating_duration_since(silent), &reply.said))
        .collect();
    ensure!(
        wrong.is_empty(),
        "{name}: {} of {} replies, the first {:?} after the silence began, the last {:?}",
        wrong.len(),
        replies.len(),
        wrong.first(),
        wrong.last()
    );
    ensure!(
        replies.len() > 500,
        "{name}: only {} replies",
        replies.len()
    );
    Ok(())
}

/// Who falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Leader,
    Follower,
}

/// Moves the role by what the others say, as a person does who knows which member is silent.
fn activate(cluster: &Cluster, colo: &str, silent: usize) -> Result<()> {
    let others = (0..cluster.count()).filter(|member| *member != silent);
    let others: Result<Vec<_>> = others
        .map(|member| Ok(cluster.client_address(member)?.to_string()))
        .collect();
    let endpoints = others?.join(",");
    let words = ["colo", "activate", colo, "--role", "web"];
    run_binary(
        "cfgctl",
        &[&["--endpoints", &endpoints][..], &words].concat(),
    )?
    .success()?;
    Ok(())
}

/// One for each member, which it asks before the others, so that one asks the silent one; all
/// answer with this address.
fn name_servers(cluster: &Cluster, round: &str, address: &str) -> Result<Vec<NameServer>> {
    let servers = (0..cluster.count()).map(|first| {
        let name = format!("ns{first}-{round}");
        NameServer::start_first_at(first, &name, cluster, &["--rate-limit", "0"])
    });
    let servers: Vec<NameServer> = servers.collect::<Result<_>>()?;
    for server in &servers {
        server.answers(WWW, RecordType::A, &[address])?;
    }
    Ok(servers)
}

/// One member is silent for longer than name servers may go on by themselves, with writes before
/// and after; the role moves meanwhile.
fn round(
    cluster: &mut Cluster,
    writers: &Writers,
    (turn, who): (usize, Who),
    [before, after]: [(&'static str, &'static str); 2],
) -> Result<()> {
    let leads = leader(cluster);
    let victim = match who {
        Who::Leader => leads,
        Who::Follower => (leads + 1) % cluster.count(),
    };
    let servers = name_servers(cluster, &format!("{turn}-{who:?}"), before.1)?;
    let ended = AtomicBool::new(false);
    let mut truths = vec![Truth {
        address: before.1,
        from: Instant::now(),
        until: None,
    }];
    let silent = Instant::now();
    let replies = thread::scope(|scope| -> Result<Vec<Vec<Reply>>> {
        let ended = &ended;
        let asking: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(|| questions(server.dns, ended)))
            .collect();
        let mut went_on = || -> Result<()> {
            cluster.pause(victim)?;
            let count = writers.count();
            eventually(PATIENCE, "writes", || writers.count() > count + 50)?;
            let from = Instant::now();
            eventually(PATIENCE, "the role to move", || {
                activate(cluster, after.0, victim).is_ok()
            })?;
            truths[0].until = Some(Instant::now());
            truths.push(Truth {
                address: after.1,
                from,
                until: None,
            });
            for server in &servers {
                server.answers(WWW, RecordType::A, &[after.1])?;
            }
            // Until then a server could go on by what it had at first.
            let least = STALE_AFTER + Duration::from_secs(1);
            lasts(least.saturating_sub(silent.elapsed()));
            cluster.resume(victim)?;
            cluster.wait_ready(victim)
        };
        let went_on = went_on();
        ended.store(true, Ordering::Relaxed);
        let replies = asking
            .into_iter()
            .map(|one| one.join().expect("it does not panic"));
        let replies = replies.collect();
        went_on.map(|()| replies)
    })?;
    for (server, replies) in servers.iter().zip(&replies) {
        judge(server.name(), replies, &truths, silent).with_context(|| {
            let log = server.log().unwrap_or_default();
            format!("{who:?} n{} was silent\n{log}", victim + 1)
        })?;
    }
    Ok(())
}

#[test]
fn members_that_fall_silent_cost_no_client_an_answer() -> Result<()> {
    let mut cluster = Cluster::start(3)?;
    place(&cluster, ZONE)?;
    let writers = Writers::start(&cluster, 2)?;
    let [a, b] = ADDRESSES;
    for turn in 0..3 {
        // Both in each turn, so that the role is back where it was.
        round(&mut cluster, &writers, (turn, Who::Leader), [a, b])?;
        round(&mut cluster, &writers, (turn, Who::Follower), [b, a])?;
    }
    writers.check(&cluster)?;
    Ok(())
}
