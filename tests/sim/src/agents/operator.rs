//! Who says what roles there are, and moves them about.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfgsvc_core::placement::objects::{Colo, Data, Failover, Kind};
use cfgsvc_core::placement::{RoleName, Spec, keys};
use cfgsvc_proto::etcd::PutRequest;
use cfgsvc_proto::state::Move;
use cfgsvc_proto::state::command::Op;
use cfgsvc_proto::state::role_command::Step;
use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use super::group::{self, Answer};
use super::machine::Machine;
use super::plan::{COLOS, RolePlan, host_name, name, times};
use crate::member::Member;
use crate::nemesis::operator;
use crate::network;
use crate::rng::Rng;
use crate::runtime::{lock, world_time};
use crate::world::World;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often it is looked in the end whether a person has to decide.
const LOOK: Duration = Duration::from_secs(1);
/// Pause before it is made again.
const PAUSE: Duration = Duration::from_millis(50);

struct Operator {
    world: Arc<World>,
    rng: Rng,
}

/// Sets everything up, changes something now and then until `until`, and says in the end that every
/// role is given to whoever can take it.
pub async fn run(world: Arc<World>, until: Duration) {
    let Some(placement) = &world.plan.placement else {
        return;
    };
    let rng = world.fork_rng();
    let world = world.clone();
    let mut operator = Operator { world, rng };
    operator.place(|plan| plan.spec.clone()).await;
    let mut specs: Vec<RolePlan> = placement.roles.clone();
    while world_time() < until && operator.world.failure().is_none() {
        let pause = operator.rng.millis(50, placement.operator_pause_ms);
        SimRuntime::sleep(pause).await;
        if world_time() >= until {
            break;
        }
        let index = operator.rng.index(specs.len());
        operator.act(&mut specs[index], placement.hosts).await;
    }
    while !operator.world.healing() {
        SimRuntime::sleep(PAUSE).await;
    }
    operator
        .place(|plan| Spec {
            paused: false,
            failover: Failover::Auto,
            candidates: Vec::new(),
            ..plan.spec.clone()
        })
        .await;
    operator.world.calm();
    while !operator.world.settled() && operator.world.failure().is_none() {
        SimRuntime::sleep(LOOK).await;
        for role in &placement.roles {
            operator.decide(role).await;
        }
    }
}

impl Operator {
    /// Writes all colos and roles, until that is certain.
    async fn place(&mut self, spec: impl Fn(&RolePlan) -> Spec) {
        let Some(placement) = self.world.plan.placement.clone() else {
            return;
        };
        for colo in COLOS {
            let key = keys::colo(&name(colo));
            self.put_surely(key, &Colo::default()).await;
        }
        for plan in &placement.roles {
            if plan.spec.kind != Kind::Lock {
                self.put_surely(keys::role(&plan.name), &spec(plan)).await;
            }
        }
    }

    async fn put_surely<T: serde::Serialize>(&mut self, key: Bytes, object: &T) {
        while self.world.failure().is_none() {
            if self.put(key.clone(), object).await {
                return;
            }
            SimRuntime::sleep(PAUSE).await;
        }
    }

    async fn put<T: serde::Serialize>(&mut self, key: Bytes, object: &T) -> bool {
        let put = PutRequest {
            key,
            value: serde_json::to_vec(object).unwrap_or_default().into(),
            ..PutRequest::default()
        };
        let op = Op::Put(put.clone());
        let ask = move |member: Member| group::execute(member, op.clone());
        let answer = self.ask(ask).await;
        let (key, value) = (put.key.escape_ascii(), put.value.escape_ascii());
        let what = match &answer {
            Some(Answer::Done(_)) => "done".to_owned(),
            Some(Answer::Refused(why)) => why.detail.clone(),
            Some(Answer::Unknown) | None => "not known".to_owned(),
        };
        let text = format!("operator writes {key} {value}: {what}");
        self.world.event(&text);
        matches!(answer, Some(Answer::Done(_)))
    }

    async fn ask<T, F, Fut>(&mut self, ask: F) -> Option<Answer<T>>
    where
        T: Send + 'static,
        F: Fn(Member) -> Fut + Send + 'static,
        Fut: Future<Output = Answer<T>> + Send + 'static,
    {
        if self.world.is_lost() {
            // A group that somebody uses is not filled.
            return None;
        }
        let ids: Vec<u64> = self.world.hosts().iter().map(|host| host.id).collect();
        let to = self.rng.pick(&ids).copied()?;
        let call = network::call(&self.world, operator(), to, ask);
        SimRuntime::timeout(PATIENCE, call).await.ok()?.ok()
    }

    /// One thing that an operator does to a role.
    async fn act(&mut self, plan: &mut RolePlan, hosts: u64) {
        let some_host = host_name(self.rng.between(1, hosts));
        match self.rng.between(0, 11) {
            0..=4 => {
                let what = "operator switches a role";
                self.move_role(&plan.name, some_host.as_str(), what).await;
            }
            5 => {
                let what = "operator releases a role";
                self.move_role(&plan.name, "", what).await;
            }
            6 if plan.spec.kind != Kind::Lock => {
                self.say(plan, |spec| spec.paused = true).await;
                self.world.count("operator pauses a role");
                self.move_role(&plan.name, "", "operator releases a role")
                    .await;
            }
            7 | 8 if plan.spec.kind != Kind::Lock => {
                self.say(plan, |spec| spec.paused = false).await;
                self.world.count("operator resumes a role");
            }
            9 => {
                let colo = self.rng.pick(&COLOS).copied().unwrap_or(COLOS[0]);
                let colo_now = Colo {
                    drained: self.rng.chance(500),
                    ..Colo::default()
                };
                self.world.count("operator drains or restores a colo");
                self.put(keys::colo(&name(colo)), &colo_now).await;
            }
            // Who restores a snapshot waits for terms that were made longer after it; this one
            // does not, so that what the file says is the whole wait.
            10 | 11 if plan.spec.kind != Kind::Lock && !self.world.plan.restores() => {
                let (term_ms, stop_ms) = times(&mut self.rng);
                let change = |spec: &mut Spec| (spec.term_ms, spec.stop_ms) = (term_ms, stop_ms);
                self.say(plan, change).await;
                self.world.count("operator changes the times of a role");
            }
            _ => {
                // Nobody is given a role by hand unless somebody looks.
                if lock(&self.world.placement).holder(&plan.name).is_none() {
                    let what = "operator gives a role to somebody";
                    self.move_role(&plan.name, some_host.as_str(), what).await;
                }
            }
        }
    }

    /// What the group leaves to a person: nobody has data, or what the snapshot says of it may be
    /// old, so that whoever begins may lose some.
    async fn decide(&mut self, plan: &RolePlan) {
        let machines = self.world.machines();
        let role = &plan.name;
        let (free, restored) = {
            let view = lock(&self.world.placement);
            (view.holder(role).is_none(), view.is_restored(role))
        };
        // A store at its beginning is empty: to the group it is none.
        let has = |machine: &&Arc<Machine>| {
            let held = machine.held(role);
            held.has && held.position() > 0
        };
        let lost = free && !machines.iter().any(|machine| has(&machine));
        // What was first given after the snapshot is known to hosts only, which obey no epoch less.
        let restored = restored || (free && self.world.plan.restores());
        if restored {
            let best = machines.iter().filter(has);
            let best = best.max_by_key(|machine| machine.position(role));
            let to = best.or_else(|| self.rng.pick(&machines));
            let Some(to) = to.map(|machine| machine.name.clone()) else {
                return;
            };
            let what = "operator gives a restored role anew";
            self.move_to(role, (to.as_str(), true), what).await;
        } else if plan.spec.data != Data::None
            && lost
            && let Some(machine) = self.rng.pick(&machines)
        {
            let what = "operator gives away a role without data";
            self.move_to(role, (machine.name.as_str(), true), what)
                .await;
        }
    }

    async fn say(&mut self, plan: &mut RolePlan, change: impl FnOnce(&mut Spec)) {
        change(&mut plan.spec);
        let spec = plan.spec.clone();
        self.put(keys::role(&plan.name), &spec).await;
    }

    async fn move_role(&mut self, role: &RoleName, to: &str, what: &'static str) {
        let accept_loss = self.rng.chance(200);
        self.move_to(role, (to, accept_loss), what).await;
    }

    async fn move_to(
        &mut self,
        role: &RoleName,
        (to, accept_loss): (&str, bool),
        what: &'static str,
    ) {
        let step = Step::Move(Move {
            to: to.to_owned(),
            epoch: 0,
            accept_loss,
        });
        let name = role.clone();
        let ask = move |member| group::step(member, 0, name.clone(), step.clone());
        let answer = self.ask(ask).await;
        if let Some(Answer::Done(reply)) = answer {
            self.world.count(what);
            self.world
                .event(&format!("{what}: {role} to '{to}', {reply:?}"));
        }
    }
}
