//! What goes wrong, and when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use crate::defect::Defect;
use crate::disk::{Crash, Stage};
use crate::host::{Host, HostImage, Out};
use crate::links::LinkFault;
use crate::member::Member;
use crate::membership;
use crate::network::{self, From};
use crate::rng::Rng;
use crate::runtime::{lock, spawn_world, world_time};
use crate::world::World;

/// Machines at most, those out of the group included.
const HOSTS_MAX: usize = 9;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process ends.
    Kill,
    /// A machine loses power.
    Power,
    /// The leader loses power and is back at once.
    FastLeaderRestart,
    /// A crash at a stage of the next log write.
    CrashInWrite,
    /// A crash after some polls: at any await.
    CrashAtAwait,
    /// All machines lose power.
    PowerOfAll,
    /// A process stands still for a while.
    Pause,
    /// One member is cut off.
    Isolate,
    /// One direction of a link is cut.
    OneWayCut,
    /// The members are split in two.
    Split,
    /// A link is slow.
    SlowLink,
    /// Many messages are lost.
    LossBurst,
    /// Syncs are slow.
    SlowDisk,
    /// No sync ends.
    StuckDisk,
    /// A write fails.
    FailedWrite,
    /// The disk is full.
    FullDisk,
    /// An install of a snapshot stops half way.
    BrokenInstall,
    /// A snapshot is taken now.
    Snapshot,
    /// Leadership is handed over.
    Transfer,
    /// A member joins.
    Join,
    /// A member is removed.
    Remove,
    /// A disk is emptied.
    Wipe,
    /// An old disk image is put back.
    OldImage,
    /// The leader is cut off while a follower restarts and may have forgotten whom it follows.
    LeaseTrap,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Kill,
        Self::Power,
        Self::FastLeaderRestart,
        Self::CrashInWrite,
        Self::CrashAtAwait,
        Self::PowerOfAll,
        Self::Pause,
        Self::Isolate,
        Self::OneWayCut,
        Self::Split,
        Self::SlowLink,
        Self::LossBurst,
        Self::SlowDisk,
        Self::StuckDisk,
        Self::FailedWrite,
        Self::FullDisk,
        Self::BrokenInstall,
        Self::Snapshot,
        Self::Transfer,
        Self::Join,
        Self::Remove,
        Self::Wipe,
        Self::OldImage,
        Self::LeaseTrap,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "fault: kill",
            Self::Power => "fault: power loss",
            Self::FastLeaderRestart => "fault: fast leader restart",
            Self::CrashInWrite => "fault: crash in a log write",
            Self::CrashAtAwait => "fault: crash at an await",
            Self::PowerOfAll => "fault: power loss of all",
            Self::Pause => "fault: pause",
            Self::Isolate => "fault: isolation",
            Self::OneWayCut => "fault: one-way cut",
            Self::Split => "fault: split",
            Self::SlowLink => "fault: slow link",
            Self::LossBurst => "fault: burst of loss",
            Self::SlowDisk => "fault: slow disk",
            Self::StuckDisk => "fault: stuck disk",
            Self::FailedWrite => "fault: failed write",
            Self::FullDisk => "fault: full disk",
            Self::BrokenInstall => "fault: broken install",
            Self::Snapshot => "fault: snapshot now",
            Self::Transfer => "fault: leader transfer",
            Self::Join => "fault: join",
            Self::Remove => "fault: removal",
            Self::Wipe => "fault: wiped disk",
            Self::OldImage => "fault: old disk image",
            Self::LeaseTrap => "fault: follower restarts while the leader is cut off",
        }
    }
}

/// Injects faults until `until`.
pub async fn run(world: Arc<World>, until: Duration) {
    let mut nemesis = Nemesis {
        rng: world.fork_rng(),
        world: world.clone(),
        images: BTreeMap::new(),
    };
    while world_time() < until && world.failure().is_none() {
        let pause = nemesis.rng.millis(20, world.plan.fault_pause_ms);
        SimRuntime::sleep(pause).await;
        let faults = world.plan.faults.clone();
        if let Some(fault) = nemesis.rng.pick(&faults).copied() {
            nemesis.inject(fault);
        }
        // Later, some of these are put back.
        if nemesis.rng.chance(200) {
            nemesis.take_image();
        }
    }
}

struct Nemesis {
    world: Arc<World>,
    rng: Rng,
    images: BTreeMap<u64, HostImage>,
}

impl Nemesis {
    fn inject(&mut self, fault: Fault) {
        let Some(host) = self.target() else { return };
        self.world.count(fault.name());
        self.world
            .event(&format!("{} at {}", fault.name(), host.id));
        let rng = &mut self.rng;
        match fault {
            Fault::Kill => self.world.crash(host.id, Crash::Kill, "nemesis"),
            Fault::Power => self.world.crash(host.id, Crash::Power, "nemesis"),
            Fault::FastLeaderRestart => self.fast_restart(),
            Fault::CrashInWrite => {
                let stage = *rng.pick(&Stage::ALL).unwrap_or(&Stage::Written);
                let crash = if rng.chance(700) {
                    Crash::Power
                } else {
                    Crash::Kill
                };
                host.arm(stage, crash);
            }
            Fault::CrashAtAwait => {
                if let Some(life) = host.life() {
                    life.end_after_polls(rng.between(1, 400));
                }
            }
            Fault::PowerOfAll => {
                for host in self.world.hosts() {
                    self.world.crash(host.id, Crash::Power, "all");
                }
            }
            Fault::Pause => self.pause(&host),
            Fault::Isolate => self.isolate(&host),
            Fault::OneWayCut => self.one_way_cut(&host),
            Fault::Split => self.split(),
            Fault::SlowLink => self.slow_link(&host),
            Fault::LossBurst => {
                let span = rng.millis(100, 1500);
                let loss = rng.between(100, 600);
                let fault = self.link_fault(span);
                lock(&self.world.links).lose(fault, loss);
            }
            Fault::SlowDisk => host.slow_disk(rng.millis(200, 4000)),
            Fault::StuckDisk => host.stuck_disk(rng.millis(200, 5000)),
            Fault::FailedWrite => host.fail_next_write(),
            Fault::FullDisk => host.full_disk(rng.millis(50, 2000)),
            Fault::BrokenInstall => host.break_next_install(),
            Fault::Snapshot => {
                self.at(host.id, |member| async move {
                    member
                        .raft()
                        .trigger()
                        .snapshot()
                        .await
                        .map_err(|error| error.to_string())
                });
            }
            Fault::Transfer => self.transfer(&host),
            Fault::Join => self.join(),
            Fault::Remove => self.remove(&host),
            Fault::LeaseTrap => self.lease_trap(),
            Fault::Wipe => self.replace_disk(&host, None),
            Fault::OldImage => {
                if let Some(image) = self.images.remove(&host.id) {
                    self.replace_disk(&host, Some(&image));
                }
            }
        }
    }

    /// A machine of the group: often the leader's.
    fn target(&mut self) -> Option<Arc<Host>> {
        let leader = self.world.leader().map(|leader| leader.id());
        if let Some(leader) = leader
            && self.rng.chance(350)
        {
            return self.world.host(leader);
        }
        let hosts = self.world.hosts();
        let inside: Vec<_> = hosts
            .into_iter()
            .filter(|host| host.out().is_none())
            .collect();
        self.rng.pick(&inside).cloned()
    }

    fn later(&self, after: Duration, work: impl FnOnce(&World) + Send + 'static) {
        let world = self.world.clone();
        spawn_world(async move {
            SimRuntime::sleep(after).await;
            work(&world);
        });
    }

    /// Has the member at `id` do something for its operator.
    fn at<F, Fut>(&self, id: u64, work: F)
    where
        F: Fn(Member) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let world = self.world.clone();
        spawn_world(async move {
            let call = network::call(&world, operator(), id, work);
            let done = SimRuntime::timeout(Duration::from_secs(10), call).await;
            world.event(&format!("operator at {id}: {done:?}"));
        });
    }

    fn fast_restart(&mut self) {
        let Some(leader) = self.world.leader() else {
            return;
        };
        let id = leader.id();
        self.world.crash(id, Crash::Power, "fast restart");
        let after = self.rng.micros(100, 40_000);
        let world = self.world.clone();
        spawn_world(async move {
            SimRuntime::sleep(after).await;
            if let Some(host) = world.host(id)
                && host.life().is_none()
                && host.out().is_none()
            {
                world.start(&host);
            }
        });
    }

    /// The leader loses one follower; when that one may stand for election, the others restart and
    /// are cut off from the leader as well, and it stands.
    fn lease_trap(&mut self) {
        let Some(leader) = self.world.leader() else {
            return;
        };
        let leader = leader.id();
        let hosts = self.world.hosts().into_iter();
        let inside = hosts.filter(|host| host.out().is_none() && host.id != leader);
        let others: Vec<Arc<Host>> = inside.collect();
        let Some((first, rest)) = others.split_first() else {
            return;
        };
        let first = first.id;
        let fault = lock(&self.world.links).fault();
        let cut = move |world: &World, other: u64| {
            let mut links = lock(&world.links);
            links.cut(fault, leader, other);
            links.cut(fault, other, leader);
        };
        cut(&self.world, first);
        let (rest, world) = (rest.to_vec(), self.world.clone());
        let until_trap = self.world.plan.election * 2 + self.rng.millis(0, 300);
        let (stands, heal) = (self.rng.millis(5, 60), self.rng.millis(300, 2500));
        spawn_world(async move {
            SimRuntime::sleep(until_trap).await;
            for host in &rest {
                cut(&world, host.id);
                world.crash(host.id, Crash::Kill, "restarts while the leader is cut off");
                if host.out().is_none() && host.life().is_none() {
                    world.start(host);
                }
            }
            SimRuntime::sleep(stands).await;
            if let Some(member) = world.member(first) {
                let stood = member.raft().trigger().elect(true).await;
                world.event(&format!("member {first} stands for election: {stood:?}"));
            }
            SimRuntime::sleep(heal).await;
            lock(&world.links).heal(fault);
        });
    }

    fn pause(&mut self, host: &Arc<Host>) {
        let Some(life) = host.life() else { return };
        life.pause();
        let span = self.rng.millis(50, 6000);
        self.later(span, move |_| life.resume());
    }

    fn ids(&self) -> Vec<u64> {
        self.world.hosts().iter().map(|host| host.id).collect()
    }

    /// A fault of links that is over after `span`.
    fn link_fault(&self, span: Duration) -> LinkFault {
        let fault = lock(&self.world.links).fault();
        self.later(span, move |world| lock(&world.links).heal(fault));
        fault
    }

    fn isolate(&mut self, host: &Host) {
        let ways = [(true, true), (true, false), (false, true)];
        let (inward, outward) = self.rng.pick(&ways).copied().unwrap_or((true, true));
        let span = self.rng.millis(100, 5000);
        let fault = self.link_fault(span);
        for other in self.ids().into_iter().filter(|other| *other != host.id) {
            let mut links = lock(&self.world.links);
            if inward {
                links.cut(fault, other, host.id);
            }
            if outward {
                links.cut(fault, host.id, other);
            }
        }
    }

    fn one_way_cut(&mut self, host: &Host) {
        let span = self.rng.millis(100, 5000);
        if let Some(other) = self.rng.pick(&self.ids()) {
            let fault = self.link_fault(span);
            lock(&self.world.links).cut(fault, host.id, *other);
        }
    }

    fn split(&mut self) {
        let ids = self.ids();
        let sides: Vec<bool> = ids.iter().map(|_| self.rng.chance(500)).collect();
        let span = self.rng.millis(100, 5000);
        let fault = self.link_fault(span);
        for (a, side) in ids.iter().zip(&sides) {
            for (b, other) in ids.iter().zip(&sides) {
                if side != other {
                    lock(&self.world.links).cut(fault, *a, *b);
                }
            }
        }
    }

    fn slow_link(&mut self, host: &Host) {
        let by = self.rng.millis(20, 400);
        let span = self.rng.millis(100, 5000);
        if let Some(other) = self.rng.pick(&self.ids()) {
            let fault = self.link_fault(span);
            lock(&self.world.links).slow_down(fault, (host.id, *other), by);
        }
    }

    fn transfer(&mut self, host: &Host) {
        let to = host.id;
        if let Some(leader) = self.world.leader() {
            self.at(leader.id(), move |member| membership::transfer(member, to));
        }
    }

    fn join(&mut self) {
        if self.world.hosts().len() >= HOSTS_MAX {
            return;
        }
        let Some(leader) = self.world.leader() else {
            return;
        };
        let keep_learner = self.rng.chance(300);
        let world = self.world.clone();
        spawn_world(async move { join(&world, leader.id(), keep_learner).await });
    }

    fn remove(&mut self, host: &Arc<Host>) {
        let Some(leader) = self.world.leader() else {
            return;
        };
        // Enough stay to go on playing.
        let inside = self
            .world
            .hosts()
            .into_iter()
            .filter(|host| host.out().is_none());
        if inside.count() <= 3 {
            return;
        }
        let (id, world) = (host.id, self.world.clone());
        spawn_world(async move {
            if remove(&world, leader.id(), id).await {
                retire(&world, id);
            }
        });
    }

    fn take_image(&mut self) {
        if let Some(host) = self.target() {
            match host.image() {
                Ok(image) => {
                    self.images.insert(host.id, image);
                }
                Err(error) => self.world.fail(format!("simulated disk: {error}")),
            }
        }
    }

    /// A machine loses its disks' contents, or gets old ones. The directory's identity tells, so it
    /// is out of the group, unless a defect lets it in.
    fn replace_disk(&mut self, host: &Arc<Host>, image: Option<&HostImage>) {
        let accepted = match image {
            None => self.world.plan.defect == Some(Defect::WipedDiskAccepted),
            Some(_) => self.world.plan.defect == Some(Defect::OldImageAccepted),
        };
        if !accepted && !may_lose_a_voter(&self.world) {
            return;
        }
        self.world
            .crash(host.id, Crash::Power, "its disk is replaced");
        let replaced = match image {
            None => host.wipe(accepted),
            Some(image) => host.restore(image),
        };
        if let Err(error) = replaced {
            self.world.fail(format!("simulated disk: {error}"));
        }
        if !accepted {
            host.set_out(Out::Refused);
            self.world.count("data directory refused");
        }
    }
}

/// Whether the voters that are left decide when another is lost for good. While a change of the
/// membership is under way nobody may be lost: two majorities are needed until it ends.
fn may_lose_a_voter(world: &World) -> bool {
    let Some(leader) = world.leader() else {
        return false;
    };
    if !world.members().iter().all(is_settled) {
        return false;
    }
    let voters: Vec<u64> = leader.metrics().membership_config.voter_ids().collect();
    let lost = voters.iter().filter(|id| {
        let host = world.host(**id);
        host.is_none_or(|host| host.out().is_some())
    });
    (lost.count() + 1) * 2 < voters.len()
}

/// Whether this member is at no change of the membership, and knows of none that may still come.
fn is_settled(member: &Member) -> bool {
    if member.try_membership_turn().is_none() {
        return false;
    }
    let metrics = member.metrics();
    let stored = &metrics.membership_config;
    stored.membership().get_joint_config().len() == 1
        && stored.log_id().as_ref() <= metrics.cluster_committed.as_ref()
}

/// Who asks on behalf of people.
pub fn operator() -> From {
    From {
        id: 0,
        incarnation: String::new(),
    }
}

/// Adds a member to the group and starts it.
pub async fn join(world: &Arc<World>, leader: u64, keep_learner: bool) {
    let add = move |member: Member| membership::add(member, keep_learner);
    let call = network::call(world, operator(), leader, add);
    let Ok(Ok(Ok(id))) = SimRuntime::timeout(Duration::from_secs(10), call).await else {
        world.event("join: no answer");
        return;
    };
    if world.host(id).is_none() {
        let host = world.add_host(id);
        world.start(&host);
        world.count("member joined");
        world.event(&format!("member {id} joined"));
    }
}

/// Removes a member; whether that is certain.
pub async fn remove(world: &Arc<World>, leader: u64, id: u64) -> bool {
    let remove = move |member: Member| membership::remove(member, id);
    let call = network::call(world, operator(), leader, remove);
    let done = SimRuntime::timeout(Duration::from_secs(10), call).await;
    world.event(&format!("removal of {id}: {done:?}"));
    done == Ok(Ok(Ok(())))
}

/// Stops a member that was removed.
pub fn retire(world: &Arc<World>, id: u64) {
    if let Some(host) = world.host(id) {
        host.set_out(Out::Removed);
        world.count("member removed");
        world.crash(id, Crash::Kill, "it was removed");
    }
}
