//! What a role's programs write to: one resource that checks epochs, and one that does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cfgsvc_core::placement::RoleName;
use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use crate::defect::Defect;
use crate::invariants::Program;
use crate::runtime::{lock, spawn_world};
use crate::world::World;

/// Where it is on the links.
const ID: u64 = 2 << 40;

/// Highest epoch that each role's resource has seen.
#[derive(Debug, Default)]
pub struct Resources {
    checked: BTreeMap<RoleName, i64>,
    unchecked: BTreeMap<RoleName, i64>,
}

/// A program on the machine with this id writes: the write is under way for a while, `late` for
/// what it waits in some buffer, and arrives also when its program is gone.
pub fn write(world: &Arc<World>, from: u64, by: &Program, late: Duration) {
    let passage = lock(&world.links).passage(from, ID, false);
    let Some(delay) = passage.first().copied() else {
        return;
    };
    let (world, by) = (world.clone(), by.clone());
    spawn_world(async move {
        SimRuntime::sleep(delay + late).await;
        arrived(&world, &by);
    });
}

fn arrived(world: &World, by: &Program) {
    let mut resources = lock(&world.resources);
    let unchecked = resources.unchecked.entry(by.role.clone()).or_default();
    if by.epoch < *unchecked {
        world.count("write of an older epoch, unchecked");
    }
    *unchecked = by.epoch.max(*unchecked);
    let highest = resources.checked.entry(by.role.clone()).or_default();
    if by.epoch < *highest && world.plan.defect != Some(Defect::ResourceUnchecked) {
        world.count("write of an older epoch refused");
        return;
    }
    *highest = by.epoch.max(*highest);
    drop(resources);
    world.check(|checks| checks.writes.taken(by));
}
