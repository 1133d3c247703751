//! One run: a group begins, works under faults, and must heal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cfgsvc_proto::etcd::PutRequest;
use cfgsvc_proto::state::Command;
use cfgsvc_proto::state::command::Op;
use cluster_core::store::StateEngine as _;
use openraft::AsyncRuntime as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::error::Fatal;
use openraft_rt_sim::SimRuntime;
use prost::Message as _;

use crate::agents;
use crate::client::Client;
use crate::disk::Crash;
use crate::host::{Host, Out};
use crate::invariants::committed_is_durable;
use crate::member::Member;
use crate::nemesis::{self, operator};
use crate::network;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::runtime::{WorldRuntime, lock, spawn_world, world_time};
use crate::watcher::Watcher;
use crate::world::World;

/// How often the world is looked at.
const TICK: Duration = Duration::from_millis(10);
/// A group without faults must be whole again by then.
const HEAL: Duration = Duration::from_mins(1);

/// Somebody must serve each role by then, counted from when the group is whole.
const SERVE: Duration = Duration::from_secs(20);

/// What a run was.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What was wrong.
    pub failure: Option<String>,
    /// Hash of all events.
    pub trace_hash: u64,
    /// Count of all events.
    pub events: u64,
    /// All events if they were kept, or the last.
    pub lines: Vec<String>,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// How long it took in the world.
    pub virtual_time: Duration,
}

/// Runs a plan.
pub fn run(plan: Plan, keep_trace: bool) -> Report {
    let seed = plan.seed;
    let mut runtime = WorldRuntime::with_seed(seed);
    let world = match World::new(plan, keep_trace) {
        Ok(world) => world,
        Err(why) => return failed_before(seed, why),
    };
    let virtual_time = runtime.block_on(async {
        play(&world).await;
        world_time()
    });
    let mut counts = world.counts();
    summarize(&world, &mut counts);
    let (trace_hash, events, lines) = world.trace();
    let report = Report {
        seed,
        failure: world.failure(),
        trace_hash,
        events,
        lines,
        counts,
        virtual_time,
    };
    world.clear();
    drop(runtime);
    report
}

fn failed_before(seed: u64, why: String) -> Report {
    Report {
        seed,
        failure: Some(why),
        trace_hash: 0,
        events: 0,
        lines: Vec::new(),
        counts: BTreeMap::new(),
        virtual_time: Duration::ZERO,
    }
}

fn summarize(world: &World, counts: &mut BTreeMap<&'static str, u64>) {
    let oracle = lock(&world.oracle);
    counts.insert("writes acknowledged", oracle.writes);
    counts.insert("linearizable reads", oracle.reads);
    let (terms, expired) = world.checks(|checks| (checks.terms_led(), checks.leases.count()));
    counts.insert("terms with a leader", terms as u64);
    counts.insert("leases expired", expired as u64);
    world.checks(|checks| {
        counts.insert("epochs given", checks.epochs.count());
        counts.insert("writes that resources took", checks.writes.count());
        let kept = checks.acknowledged.count();
        counts.insert("beginnings with all that was acknowledged", kept);
    });
    let revisions = lock(&world.history).last();
    counts.insert("revisions", revisions.unsigned_abs());
    for host in world.hosts() {
        let (built, installed) = host.state.snapshots();
        *counts.entry("snapshots taken").or_default() += built;
        *counts.entry("snapshots installed").or_default() += installed;
    }
}

async fn play(world: &Arc<World>) {
    world.event(&format!("{:?}", world.plan));
    begin(world);
    spawn_world(supervise(world.clone()));
    let until = world_time() + world.plan.span;
    for number in 0..world.plan.clients {
        spawn_world(Client::new(world.clone(), number).run(until));
    }
    let watched = Arc::new(Mutex::new(0_u64));
    for _ in 0..world.plan.watchers {
        let (watcher, watched) = (Watcher::new(world.clone()), watched.clone());
        spawn_world(async move {
            if watcher.run(HEAL).await {
                *lock(&watched) += 1;
            }
        });
    }
    if world.plan.placement.is_some() {
        world.add_machines();
        spawn_world(agents::faults::supervise(world.clone()));
        spawn_world(agents::operator::run(world.clone(), until));
        spawn_world(agents::data::run(world.clone(), world.fork_rng()));
        spawn_world(agents::faults::run(world.clone(), until));
        if world.is_replacing() {
            spawn_world(agents::restore::run(world.clone()));
        }
    }
    nemesis::run(world.clone(), until).await;
    while (world_time() < until || world.is_replacing()) && world.failure().is_none() {
        SimRuntime::sleep(TICK).await;
    }
    world.heal();
    world.event("all faults stop");
    heal(world).await;
    if world.plan.placement.is_some() {
        serve(world).await;
        heal(world).await;
    }
    world.settle();
    let end = world_time() + 2 * HEAL;
    while world.failure().is_none() && *lock(&watched) < world.plan.watchers {
        SimRuntime::sleep(TICK * 10).await;
        if world_time() > end {
            world.fail("a watcher did not end");
        }
    }
}

/// Founds the group: each founder gives its Raft the first membership when it starts.
fn begin(world: &Arc<World>) {
    world.found_group();
}

/// Looks at everybody, and starts again what ended.
async fn supervise(world: Arc<World>) {
    let mut rng = world.fork_rng();
    let mut starts: BTreeMap<u64, Duration> = BTreeMap::new();
    let mut leader = None;
    while world.failure().is_none() {
        SimRuntime::sleep(TICK).await;
        let heal = world.healing();
        for host in world.hosts() {
            if heal {
                host.mend();
            }
            look(&world, &host, &mut rng, heal);
            if host.out().is_some() || host.life().is_some() {
                starts.remove(&host.id);
                continue;
            }
            let at = *starts
                .entry(host.id)
                .or_insert_with(|| world_time() + restart_pause(&mut rng));
            if heal || world_time() >= at {
                starts.remove(&host.id);
                world.count("restart");
                world.start(&host);
            }
        }
        let now = world.leader().map(|member| member.id());
        if now.is_some() && now != leader {
            world.event(&format!("leader is {now:?}"));
            world.count("leader change");
            leader = now;
        }
        if heal {
            lock(&world.links).perfect();
        }
    }
}

fn restart_pause(rng: &mut Rng) -> Duration {
    if rng.chance(250) {
        rng.micros(100, 40_000)
    } else {
        rng.millis(50, 5000)
    }
}

/// One look at a host.
fn look(world: &Arc<World>, host: &Arc<Host>, rng: &mut Rng, heal: bool) {
    let Some(life) = host.life() else { return };
    if let Some(text) = life.panicked() {
        return world.fail(format!("a task of member {} panicked: {text}", host.id));
    }
    if life.ended() {
        world.count("crash at an await");
        let crash = if rng.chance(500) {
            Crash::Power
        } else {
            Crash::Kill
        };
        return world.crash(host.id, crash, "at an await");
    }
    if heal && life.paused() {
        life.resume_for_all();
    }
    let Some(member) = host.member() else { return };
    let state = {
        let metrics = member.raft().metrics();
        let metrics = metrics.borrow_watched();
        world.check(|checks| checks.told(&metrics));
        if metrics.current_leader == Some(metrics.id) {
            world.check(|_| committed_is_durable::check(&metrics, |id| world.host(id)));
        }
        metrics.running_state.clone()
    };
    match state {
        Ok(()) => {}
        Err(Fatal::StorageError(error)) => {
            if host.take_may_stop() {
                world.count("member stopped by its storage");
                world.crash(host.id, Crash::Kill, "its storage failed");
            } else {
                world.fail(format!("storage of member {}: {error}", host.id));
            }
        }
        Err(fatal) => world.fail(format!("raft of member {} ended: {fatal}", host.id)),
    }
}

/// Without faults, the group must become whole and make progress.
async fn heal(world: &Arc<World>) {
    let deadline = world_time() + HEAL;
    let mut missing = "a leader".to_owned();
    while world.failure().is_none() {
        if world_time() > deadline {
            let roles: Vec<String> = world.members().iter().map(describe).collect();
            return world.fail(format!(
                "the group does not heal in {HEAL:?}: it lacks {missing}; {}",
                roles.join("; ")
            ));
        }
        SimRuntime::sleep(TICK * 10).await;
        match whole(world).await {
            Ok(()) => {
                world.event("the group is whole");
                return;
            }
            Err(lacks) => missing = lacks,
        }
    }
}

/// Every role must be served again by somebody.
async fn serve(world: &Arc<World>) {
    let Some(placement) = &world.plan.placement else {
        return;
    };
    let deadline = world_time() + SERVE;
    while world.failure().is_none() {
        let lacking = world.checks(|checks| {
            let mut roles = placement.roles.iter().map(|role| &role.name);
            roles
                .find(|role| checks.overlap.running(role).is_none())
                .cloned()
        });
        let role = match lacking {
            Some(role) => role.to_string(),
            None if world.is_calm() => {
                world.event("every role is served");
                return;
            }
            None => "what the operator says".to_owned(),
        };
        if world_time() > deadline {
            world.fail(format!(
                "nobody serves {role} {SERVE:?} after the group is whole"
            ));
        }
        SimRuntime::sleep(TICK * 10).await;
    }
}

fn describe(member: &Member) -> String {
    let metrics = member.metrics();
    format!(
        "{}: {:?} of term {}, leader {:?}, last {:?}, applied {:?}, voters {:?}",
        metrics.id,
        metrics.state,
        metrics.current_term,
        metrics.current_leader,
        metrics.last_log_index,
        metrics.last_applied.map(|id| id.index()),
        metrics.membership_config.voter_ids().collect::<Vec<_>>(),
    )
}

/// Whether everybody has the same state after one more write; what is missing, if not.
async fn whole(world: &Arc<World>) -> Result<(), String> {
    let leader = world.leader().ok_or("a leader")?;
    let metrics = leader.metrics();
    let ids: BTreeSet<u64> = metrics
        .membership_config
        .nodes()
        .map(|(id, _)| *id)
        .collect();
    for id in &ids {
        let gone = world.host(*id).is_none_or(|host| host.out().is_some());
        if gone {
            if nemesis::remove(world, leader.id(), *id).await {
                world.count("lost member removed");
            }
            return Err(format!("the removal of member {id}"));
        }
    }
    if metrics
        .membership_config
        .membership()
        .get_joint_config()
        .len()
        > 1
    {
        return Err("the end of a joint membership".to_owned());
    }
    // It counts as soon as it is written, and is not yet agreed on: whoever it leaves out may be
    // needed for that.
    if metrics.last_applied < *metrics.membership_config.log_id() {
        return Err("the commit of a membership".to_owned());
    }
    for host in world.hosts() {
        if host.out().is_none() && !ids.contains(&host.id) {
            host.set_out(Out::Removed);
            world.crash(host.id, Crash::Kill, "the group does not know it");
        }
    }
    let (index, hash) = probe(world, leader.id()).await?;
    for id in ids {
        let member = world.member(id).ok_or_else(|| format!("member {id}"))?;
        let engine = member.store().0.sim_engine();
        let (applied, found) = engine.applied().map_err(|error| error.to_string())?;
        if applied.map_or(0, |id| id.index()) != index {
            return Err(format!("member {id} at index {index}"));
        }
        if found != hash {
            world.fail(format!("member {id} has another state than the leader"));
        }
        let mut sound = Ok(());
        let read = engine.read(&mut |view| {
            sound = cfgsvc_core::check::check(view);
            Ok(())
        });
        read.map_err(|error| error.to_string())?;
        if let Err(why) = sound {
            world.fail(format!("the state of member {id} is not sound: {why}"));
        }
    }
    Ok(())
}

/// Writes, waits a little, and returns the leader's index and hash.
async fn probe(world: &Arc<World>, leader: u64) -> Result<(u64, u64), String> {
    let put = PutRequest {
        key: Bytes::from_static(b"probe"),
        value: Bytes::from(format!("probe-{}", world_time().as_nanos())),
        ..PutRequest::default()
    };
    let command = Command {
        op: Some(Op::Put(put)),
        ..Command::default()
    };
    let command = Bytes::from(command.encode_to_vec());
    let propose = move |member: Member| {
        let command = command.clone();
        async move {
            member
                .propose(command)
                .await
                .map_err(|error| error.to_string())
        }
    };
    let call = network::call(world, operator(), leader, propose);
    let answer = SimRuntime::timeout(Duration::from_secs(5), call).await;
    answer
        .map_err(|_| "an answer to a write".to_owned())?
        .map_err(|error| format!("a write: {error:?}"))??;
    SimRuntime::sleep(Duration::from_secs(1)).await;
    let leader = world.member(leader).ok_or("the leader")?;
    let engine = leader.store().0.sim_engine();
    let (applied, hash) = engine.applied().map_err(|error| error.to_string())?;
    Ok((applied.map_or(0, |id| id.index()), hash))
}
