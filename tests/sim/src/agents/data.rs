//! How the data of a role comes from one host to another: as databases copy it, without the group.
//!
//! Invariant: a host copies only from a host whose writes it may have: the holder that its verdict
//! on disk names, or before it begins an epoch itself, the one that began the last.

use std::sync::Arc;

use cfgsvc_agent::role::core::Written;
use cfgsvc_core::placement::objects::Data;
use cfgsvc_core::placement::{Name, RoleName};
use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use super::held::Held;
use super::machine::Machine;
use super::plan::RolePlan;
use super::sync;
use crate::rng::Rng;
use crate::runtime::lock;
use crate::world::World;

/// Copies for all hosts, as long as the run lasts.
pub async fn run(world: Arc<World>, mut rng: Rng) {
    let Some(placement) = &world.plan.placement else {
        return;
    };
    let with_data = placement.roles.iter();
    let with_data = with_data.filter(|role| role.spec.data != Data::None);
    let roles: Vec<RolePlan> = with_data.cloned().collect();
    while world.failure().is_none() && !roles.is_empty() {
        let pause = rng.millis(20, 200);
        SimRuntime::sleep(pause).await;
        for machine in world.machines() {
            for role in &roles {
                // Not all at once, so that some are ahead of others.
                if machine.streams() && rng.chance(500) {
                    follow(&world, &machine, (role, rng.chance(500)));
                }
            }
        }
    }
}

/// Does what the verdict on disk says about the data. `synced`: all of it is on the disk then.
fn follow(world: &World, machine: &Machine, (plan, synced): (&RolePlan, bool)) {
    let role = &plan.name;
    let Some(Written::Not(standing)) = machine.durable(role).what else {
        return;
    };
    let held = machine.held(role);
    match standing.verdict {
        "standby" | "redirect" => {
            let Ok(holder) = standing.holder.parse::<Name>() else {
                return;
            };
            let Some(source) = source(world, &holder, role) else {
                return;
            };
            let other_writes = !held.is_part_of(&source) && !source.is_part_of(&held);
            if plan.spec.sync && other_writes {
                // It had received more of the former holder than the new one has.
                world.count("host found that it cannot follow");
                rebuild(world, machine, role);
                return;
            }
            if held.position() <= source.position() {
                let mut copy = held.clone();
                copy.receives(&source, synced || !plan.spec.sync);
                machine.set_held(role, copy);
            }
            if !held.has {
                machine.holds_data(role);
                world.count("data copied to a host without");
                machine.begin_anew(role);
            }
            if let Some(holder) = world.machine(&holder) {
                sync::acknowledge(world, &holder, role);
            }
        }
        "rebuild" if held.has => rebuild(world, machine, role),
        _ => {}
    }
}

fn rebuild(world: &World, machine: &Machine, role: &RoleName) {
    world.count("host rebuilt");
    machine.set_held(role, Held::default());
    machine.begin_anew(role);
}

fn source(world: &World, host: &Name, role: &RoleName) -> Option<Held> {
    let machine = world.machine(host)?;
    let held = machine.held(role);
    (machine.streams() && held.has).then_some(held)
}

/// Gets what the last holder has, if it is there: done before an epoch is begun. `false` when the
/// host had nothing: it has to say first what it has now.
///
/// `again`: a synchronous role's database still receives; mostly it must do with what it has.
pub fn catch_up(world: &World, machine: &Machine, (plan, again): (&RolePlan, bool)) -> bool {
    let role = &plan.name;
    let last = lock(&world.placement).last_started(role);
    let Some((last, epoch)) = last.filter(|(last, _)| *last != machine.name) else {
        return true;
    };
    let held = machine.held(role);
    let Some(source) = source(world, &last, role).filter(|_| machine.streams()) else {
        return true;
    };
    if plan.spec.sync && held.has && !(again && held.is_part_of(&source)) {
        return true;
    }
    if held.position() <= source.position() {
        let mut copy = held.clone();
        copy.receives(&source, true);
        machine.set_held(role, copy);
    }
    machine.holds_data(role);
    if !held.has {
        world.count("data copied to a host without");
        machine.knows(role, epoch);
        machine.begin_anew(role);
    }
    held.has
}
