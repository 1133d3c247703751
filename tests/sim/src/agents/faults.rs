//! What goes wrong at hosts, when, and what is put right again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use super::agent;
use super::machine::Machine;
use crate::links::LinkFault;
use crate::rng::Rng;
use crate::runtime::{lock, spawn_world, world_time};
use crate::world::World;

/// How often machines are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A kind of fault at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostFault {
    /// The machine loses power.
    Power,
    /// The agent is killed.
    AgentKill,
    /// The agent stands still, for longer than a term or shorter.
    AgentPause,
    /// The guard is killed.
    GuardKill,
    /// The host and the whole group do not hear each other; its resource does.
    Cut,
    /// One of them does not hear the other.
    OneWayCut,
    /// A link to one member does not work one way.
    LinkCut,
    /// The way to one member takes long.
    SlowLink,
    /// Syncs of verdicts take long.
    SlowDisk,
    /// The host is cut off, and its agent stands still as well.
    CutAndPause,
    /// The host is cut off, and then its agent is killed.
    CutAndKill,
    /// The leader and the other members do not hear each other; hosts hear all of them, for longer
    /// than a term and an election.
    LeaderCut,
    /// All machines lose power at once.
    PowerAll,
    /// The host's data is not copied, from it or to it.
    StreamCut,
}

impl HostFault {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Power,
        Self::AgentKill,
        Self::AgentPause,
        Self::GuardKill,
        Self::Cut,
        Self::OneWayCut,
        Self::LinkCut,
        Self::SlowLink,
        Self::SlowDisk,
        Self::CutAndPause,
        Self::CutAndKill,
        Self::LeaderCut,
        Self::PowerAll,
        Self::StreamCut,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Power => "host fault: power loss",
            Self::AgentKill => "host fault: agent killed",
            Self::AgentPause => "host fault: agent paused",
            Self::GuardKill => "host fault: guard killed",
            Self::Cut => "host fault: cut from the group",
            Self::OneWayCut => "host fault: one-way cut",
            Self::LinkCut => "host fault: one-way cut of a link",
            Self::SlowLink => "host fault: slow link",
            Self::SlowDisk => "host fault: slow disk",
            Self::CutAndPause => "host fault: cut and agent paused",
            Self::CutAndKill => "host fault: cut and agent killed",
            Self::LeaderCut => "host fault: leader cut from the members",
            Self::PowerAll => "host fault: power loss of all",
            Self::StreamCut => "host fault: data not copied",
        }
    }
}

/// Injects faults until `until`.
pub async fn run(world: Arc<World>, until: Duration) {
    let Some(placement) = &world.plan.placement else {
        return;
    };
    let mut nemesis = HostNemesis {
        rng: world.fork_rng(),
        world: world.clone(),
    };
    while world_time() < until && world.failure().is_none() {
        let pause = nemesis.rng.millis(20, placement.fault_pause_ms);
        SimRuntime::sleep(pause).await;
        if let Some(fault) = nemesis.rng.pick(&placement.faults).copied()
            && !world.healing()
        {
            nemesis.inject(fault);
        }
    }
}

struct HostNemesis {
    world: Arc<World>,
    rng: Rng,
}

impl HostNemesis {
    /// A machine: often one on which a program runs.
    fn target(&mut self) -> Option<Arc<Machine>> {
        let machines = self.world.machines();
        if self.rng.chance(650) {
            let guarded = machines.iter();
            let serving: Vec<_> = guarded
                .filter(|machine| !machine.guards().is_empty())
                .collect();
            if let Some(machine) = self.rng.pick(&serving) {
                return Some(Arc::clone(machine));
            }
        }
        self.rng.pick(&machines).cloned()
    }

    fn inject(&mut self, fault: HostFault) {
        let Some(machine) = self.target() else { return };
        self.world.count(fault.name());
        let text = format!("{} at {}", fault.name(), machine.name);
        self.world.event(&text);
        match fault {
            HostFault::Power => machine.power_off(&self.world),
            HostFault::AgentKill => machine.kill_agent(),
            HostFault::AgentPause => self.pause(&machine),
            HostFault::GuardKill => {
                if let Some(guarded) = machine.guards().first() {
                    guarded.guard_killed();
                }
            }
            HostFault::Cut => self.cut(&machine, true, true),
            HostFault::OneWayCut => {
                let out = self.rng.chance(500);
                self.cut(&machine, out, !out);
            }
            HostFault::LinkCut => {
                let member = self.member();
                let (from, to) = if self.rng.chance(500) {
                    (machine.id, member)
                } else {
                    (member, machine.id)
                };
                let fault = self.link_fault();
                lock(&self.world.links).cut(fault, from, to);
            }
            HostFault::SlowLink => {
                let by = self.rng.millis(20, 600);
                let member = self.member();
                let fault = self.link_fault();
                lock(&self.world.links).slow_down(fault, (machine.id, member), by);
            }
            HostFault::SlowDisk => machine.slow_disk(self.rng.millis(200, 4_000)),
            HostFault::CutAndPause => {
                self.cut(&machine, true, true);
                self.pause(&machine);
            }
            HostFault::CutAndKill => {
                self.cut(&machine, true, true);
                let after = self.rng.millis(0, 1_500);
                let machine = machine.clone();
                self.later(after, move |_| machine.kill_agent());
            }
            HostFault::LeaderCut => self.cut_leader(),
            HostFault::PowerAll => {
                for machine in self.world.machines() {
                    machine.power_off(&self.world);
                }
            }
            HostFault::StreamCut => machine.cut_stream(self.rng.millis(100, 5_000)),
        }
    }

    fn member(&mut self) -> u64 {
        let ids: Vec<u64> = self.world.hosts().iter().map(|host| host.id).collect();
        self.rng.pick(&ids).copied().unwrap_or(1)
    }

    fn later(&self, after: Duration, work: impl FnOnce(&World) + Send + 'static) {
        let world = self.world.clone();
        spawn_world(async move {
            SimRuntime::sleep(after).await;
            work(&world);
        });
    }

    fn pause(&mut self, machine: &Machine) {
        let Some(life) = machine.agent() else { return };
        life.pause();
        let span = self.rng.millis(20, 6_000);
        self.later(span, move |_| life.resume());
    }

    fn cut(&mut self, machine: &Machine, out: bool, into: bool) {
        let fault = self.link_fault();
        if self.rng.chance(500) {
            machine.cut_stream(self.rng.millis(100, 5_000));
        }
        for host in self.world.hosts() {
            let mut links = lock(&self.world.links);
            if out {
                links.cut(fault, machine.id, host.id);
            }
            if into {
                links.cut(fault, host.id, machine.id);
            }
        }
    }

    /// The leader stays leader in its own eyes, and of the hosts that ask it, while the others
    /// choose another, which gives roles on.
    fn cut_leader(&mut self) {
        let Some(leader) = self.world.leader().map(|leader| leader.id()) else {
            return;
        };
        let Some(placement) = &self.world.plan.placement else {
            return;
        };
        let terms = placement.roles.iter().map(|role| role.spec.lease_ms());
        let term = Duration::from_millis(terms.max().unwrap_or(0));
        let more = self.rng.millis(0, 3_000);
        let fault = self.link_fault_of(term + self.world.plan.election * 2 + more);
        for host in self.world.hosts() {
            let mut links = lock(&self.world.links);
            links.cut(fault, leader, host.id);
            links.cut(fault, host.id, leader);
        }
    }

    /// A fault of links that is over after a while.
    fn link_fault(&mut self) -> LinkFault {
        let span = self.rng.millis(100, 5_000);
        self.link_fault_of(span)
    }

    fn link_fault_of(&self, span: Duration) -> LinkFault {
        let fault = lock(&self.world.links).fault();
        self.later(span, move |world| lock(&world.links).heal(fault));
        fault
    }
}

/// Starts again what has ended; while the group heals, at once.
pub async fn supervise(world: Arc<World>) {
    let mut rng = world.fork_rng();
    let mut due: BTreeMap<u64, Duration> = BTreeMap::new();
    while world.failure().is_none() {
        for machine in world.machines() {
            if let Some(text) = machine.panicked() {
                world.fail(format!("a task of host {} panicked: {text}", machine.name));
            }
            let healing = world.healing();
            if healing {
                machine.mend();
            }
            if let Some(life) = machine.agent() {
                if healing && life.paused() {
                    life.resume_for_all();
                }
                due.remove(&machine.id);
                continue;
            }
            let at = due.entry(machine.id).or_insert_with(|| {
                let quick = rng.chance(400);
                world_time() + rng.millis(1, if quick { 100 } else { 6_000 })
            });
            if healing || world_time() >= *at {
                due.remove(&machine.id);
                if !machine.has_power() {
                    machine.power_on();
                    world.count("host restarted");
                }
                agent::start(&world, &machine);
            }
        }
        SimRuntime::sleep(LOOK).await;
    }
}
