//! What a seed means for hosts and roles. Drawn from a source of its own, so that seeds without
//! hosts run as if there were none.

use std::time::Duration;

use cfgsvc_core::placement::objects::{Data, Failover, Kind};
use cfgsvc_core::placement::{Name, RoleName, Spec};

use super::faults::HostFault;
use crate::defect::Defect;
use crate::invariants::leases_never_early::FASTEST_CLOCK;
use crate::rng::Rng;
use crate::runtime::RIGHT_RATE;

/// Of 1000 seeds, how many have hosts.
const SHARE: u64 = 300;
/// Of 1000 runs with hosts and nothing favoured, in how many the group is restored.
const RESTORES: u64 = 250;
/// Makes the source of these draws another than that of the rest of the plan.
const SALT: u64 = 0x517c_c1b7_2722_0a95;

/// The same for whether a role with data is synchronous.
const SYNC_SALT: u64 = 0x9d2c_5680_11f3_c6a1;

/// A role of a run.
#[derive(Debug, Clone)]
pub struct RolePlan {
    /// Its name.
    pub name: RoleName,
    /// What its operator says of it at first.
    pub spec: Spec,
}

/// Hosts, roles and what happens to them.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Count of hosts.
    pub hosts: u64,
    /// The roles.
    pub roles: Vec<RolePlan>,
    /// How far the rate of a clock is from the right one, in thousandths.
    pub skew: u64,
    /// Which faults come.
    pub faults: Vec<HostFault>,
    /// Longest pause between these faults, in milliseconds.
    pub fault_pause_ms: u64,
    /// Longest pause between what the operator does, in milliseconds.
    pub operator_pause_ms: u64,
    /// How often a program ends by itself: its longest time is drawn up to this.
    pub program_life: Duration,
    /// All clocks of hosts are as slow as they may be.
    pub slowest: bool,
    /// The group is lost for good, and restored from a snapshot.
    pub restores: bool,
}

/// A name that is written down here.
pub fn name(text: &str) -> Name {
    text.parse().expect("a name of letters and digits")
}

/// Name of host `number`.
pub fn host_name(number: u64) -> Name {
    name(&format!("h{number}"))
}

/// The colo of host `number`.
pub fn colo_of(number: u64) -> Name {
    name(COLOS[usize::from(number.is_multiple_of(2))])
}

/// All colos.
pub const COLOS: [&str; 2] = ["east", "west"];

fn role(text: &str) -> RoleName {
    text.parse().expect("names with slashes between them")
}

impl Placement {
    /// The hosts of `seed`, if it has any. A defect that shows only at hosts makes sure of them, as
    /// does a plan that is made for one.
    pub fn new(
        seed: u64,
        skewed: bool,
        (defect, favoured): (Option<Defect>, Option<Defect>),
    ) -> Option<Self> {
        let mut rng = Rng::new(seed ^ SALT);
        let must = favoured.is_some_and(Defect::needs_hosts);
        if defect.is_some() && !must {
            // What the group alone shows is looked for without them.
            return None;
        }
        if !rng.chance(SHARE) && !must {
            return None;
        }
        let skew = if skewed {
            FASTEST_CLOCK - RIGHT_RATE
        } else {
            0
        };
        let hosts = rng.between(3, 5);
        let mut roles = all_roles(&mut rng, skew);
        if rng.chance(600) {
            roles.remove(rng.index(roles.len()));
        }
        let needed = favoured.is_some_and(Defect::needs_sync);
        if needed && roles.iter().all(|plan| plan.spec.data == Data::None) {
            let spec = Spec {
                data: Data::Number,
                ..spec(&mut rng, Kind::Host, skew)
            };
            let name = role("db/orders");
            roles.push(RolePlan { name, spec });
        }
        let sync = needed || Rng::new(seed ^ SYNC_SALT).chance(500);
        for plan in &mut roles {
            plan.spec.sync = sync && plan.spec.data != Data::None;
            if plan.spec.kind == Kind::Host && rng.chance(200) {
                plan.spec.candidates = (1..hosts).map(host_name).collect();
            }
            if plan.spec.kind == Kind::Host && rng.chance(150) {
                plan.spec.failover = Failover::Manual;
            }
        }
        let share = *rng.pick(&[300, 500, 800]).unwrap_or(&500);
        let all = HostFault::ALL.into_iter();
        let mut placement = Self {
            hosts,
            roles,
            skew,
            faults: all.filter(|_| rng.chance(share)).collect(),
            fault_pause_ms: *rng.pick(&[500, 1_500, 4_000]).unwrap_or(&1_500),
            operator_pause_ms: *rng.pick(&[700, 2_500, 8_000]).unwrap_or(&2_500),
            program_life: Duration::from_millis(*rng.pick(&[2_000, 60_000]).unwrap_or(&60_000)),
            slowest: false,
            restores: favoured.is_none() && rng.chance(RESTORES),
        };
        placement.favour(favoured);
        Some(placement)
    }

    /// Makes likely what a defect needs to show.
    fn favour(&mut self, defect: Option<Defect>) {
        let needed: &[HostFault] = match defect {
            // A lease that nobody renews, to its very end.
            Some(Defect::ClockRateIgnored) => &[HostFault::Cut, HostFault::CutAndPause],
            // An answer that is heard late, and the last one.
            Some(Defect::DeadlineFromAnswer) => &[
                HostFault::AgentPause,
                HostFault::SlowLink,
                HostFault::Cut,
                HostFault::CutAndPause,
            ],
            // A host that lags and is given the role; one that has lost what it had received.
            Some(Defect::SyncNotAwaited) => &[HostFault::Cut, HostFault::StreamCut],
            Some(Defect::StoreLifeIgnored) => &[HostFault::PowerAll],
            // A leader that nobody follows any more and that hosts still hear: other faults end it.
            Some(Defect::RenewalNotConfirmed) => &[HostFault::AgentPause, HostFault::LeaderCut],
            Some(_) | None => return,
        };
        self.faults = needed.to_vec();
        self.operator_pause_ms = 8_000;
        self.program_life = Duration::from_mins(1);
        self.slowest = defect == Some(Defect::ClockRateIgnored);
        if defect == Some(Defect::RenewalNotConfirmed) {
            // Over while the old leader is still cut off.
            for plan in &mut self.roles {
                (plan.spec.term_ms, plan.spec.stop_ms) = (900, 200);
            }
        }
    }

    /// The rate of a host's clock: often as wrong as it may be.
    pub fn clock_rate(&self, rng: &mut Rng) -> u64 {
        let (slowest, fastest) = (RIGHT_RATE - self.skew, RIGHT_RATE + self.skew);
        match rng.between(0, 3) {
            _ if self.slowest => slowest,
            0 | 1 => slowest,
            2 => fastest,
            _ => rng.between(slowest, fastest),
        }
    }
}

/// Term and time to stop of a role.
pub fn times(rng: &mut Rng) -> (u64, u64) {
    let term_ms = rng.between(900, 3_000);
    (term_ms, rng.between(100, (term_ms / 2).min(600)))
}

/// One of each kind.
fn all_roles(rng: &mut Rng, skew: u64) -> Vec<RolePlan> {
    vec![
        RolePlan {
            name: role("web"),
            spec: spec(rng, Kind::Host, skew),
        },
        RolePlan {
            name: role("db/orders"),
            spec: Spec {
                data: Data::Number,
                ..spec(rng, Kind::Host, skew)
            },
        },
        RolePlan {
            name: role("locks/one"),
            spec: spec(rng, Kind::Lock, skew),
        },
    ]
}

fn spec(rng: &mut Rng, kind: Kind, skew: u64) -> Spec {
    let (term_ms, stop_ms) = times(rng);
    Spec {
        term_ms,
        // Exactly what the clocks do: a margin that is left out has nothing to hide behind.
        rate_ppm: skew * 1_000,
        stop_ms,
        lock_delay_ms: *rng.pick(&[0, 0, 0, 200]).unwrap_or(&0),
        ..Spec::of(kind)
    }
}
