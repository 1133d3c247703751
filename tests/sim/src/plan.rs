//! What a seed means: the group, its settings, and which faults come how often.
//!
//! Each seed gets only some kinds of faults: a run in which everything happens all the time finds
//! less than many runs that each have something else undisturbed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cluster::start::{Beginning, Options, raft_config};
use openraft::Config;

use crate::agents::plan::Placement;
use crate::defect::Defect;
use crate::invariants::leases_never_early::FASTEST_CLOCK;
use crate::nemesis::Fault;
use crate::rng::Rng;
use crate::runtime::RIGHT_RATE;

/// Of 1000 seeds without a defect, how many have the plan that one needs to show.
const FAVOURED: u64 = 200;
/// Makes the source of that draw another than that of the rest of the plan.
const SALT: u64 = 0x2545_f491_4f6c_dd1d;
/// Election timeout where messages take long.
const SLOW_ELECTION: Duration = Duration::from_millis(400);

/// Everything that is decided before a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// A defect to show.
    pub defect: Option<Defect>,
    /// The defect for which the plan has what it needs to show: that of the run, or in some runs
    /// without one any: what finds a defect must find nothing where there is none.
    pub favoured: Option<Defect>,
    /// Founding members.
    pub founders: u64,
    /// Clients that write and read.
    pub clients: u64,
    /// Clients that watch.
    pub watchers: u64,
    /// Whether clients use sessions: without, nothing is asked twice.
    pub sessions: bool,
    /// Appends travel as single calls, which may overtake each other and be doubled.
    pub unary_appends: bool,
    /// Clocks run at different rates.
    pub skewed_clocks: bool,
    /// Bytes of the log's tail in memory.
    pub tail_bytes: usize,
    /// Bytes of one read of a replication task.
    pub read_bytes: usize,
    /// Shortest election timeout.
    pub election: Duration,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Entries between snapshots.
    pub snapshot_entries: u64,
    /// Entries kept after a snapshot.
    pub keep_entries: u64,
    /// Entries purged at a time, at least.
    pub purge_batch: u64,
    /// Messages lost, of 1000.
    pub loss: u64,
    /// Calls doubled, of 1000.
    pub doubled: u64,
    /// Delay of messages in microseconds.
    pub delay_us: (u64, u64),
    /// Which faults come.
    pub faults: Vec<Fault>,
    /// Longest pause between faults, in milliseconds.
    pub fault_pause_ms: u64,
    /// How long faults come.
    pub span: Duration,
    /// Hosts and roles, if this run has them.
    pub placement: Option<Placement>,
}

/// For which defect the plan of a seed without one is made, if for any.
fn favoured(seed: u64) -> Option<Defect> {
    let mut rng = Rng::new(seed ^ SALT);
    let any = rng.chance(FAVOURED);
    rng.pick(&Defect::FAVOURED).copied().filter(|_| any)
}

impl Plan {
    /// The plan of `seed`.
    pub fn new(seed: u64, defect: Option<Defect>) -> Self {
        let mut rng = Rng::new(seed);
        let share = *rng.pick(&[300, 500, 800]).unwrap_or(&500);
        let faults = Fault::ALL
            .into_iter()
            .filter(|_| rng.chance(share))
            .collect();
        let sessions = rng.chance(850);
        let slow_net = rng.chance(200);
        let mut plan = Self {
            seed,
            defect,
            favoured: defect.or_else(|| favoured(seed)),
            founders: if rng.chance(700) { 3 } else { 5 },
            clients: rng.between(2, 5),
            watchers: rng.between(1, 3),
            sessions,
            unary_appends: rng.chance(300),
            skewed_clocks: rng.chance(400),
            tail_bytes: *rng.pick(&[300, 2_000, 1 << 20]).unwrap_or(&2_000),
            read_bytes: *rng.pick(&[200, 1_000, 1 << 20]).unwrap_or(&1_000),
            election: rng.millis(150, 600),
            heartbeat: Duration::ZERO,
            snapshot_entries: rng.between(15, 250),
            keep_entries: rng.between(0, 40),
            purge_batch: rng.between(1, 20),
            loss: if rng.chance(400) {
                rng.between(1, 30)
            } else {
                0
            },
            doubled: if sessions && rng.chance(400) {
                rng.between(1, 60)
            } else {
                0
            },
            delay_us: if slow_net {
                (2_000, 15_000)
            } else {
                (50, 2_000)
            },
            faults,
            fault_pause_ms: *rng.pick(&[300, 1_000, 2_500]).unwrap_or(&1_000),
            span: rng.millis(6_000, 15_000),
            placement: None,
        };
        if slow_net {
            // An election timeout must be many round trips.
            plan.election = plan.election.max(SLOW_ELECTION);
        }
        plan.heartbeat = plan.election / u32::try_from(rng.between(3, 6)).unwrap_or(4);
        plan.favour();
        plan.placement = Placement::new(seed, plan.skewed_clocks, (defect, plan.favoured));
        if plan.restores() {
            // Their keys go back as well, and nobody tells them: here are hosts and roles only.
            (plan.clients, plan.watchers) = (0, 0);
            let alone = [Fault::Join, Fault::Remove, Fault::Wipe, Fault::OldImage];
            plan.faults.retain(|fault| !alone.contains(fault));
        }
        plan
    }

    /// Makes likely what a defect needs to show.
    fn favour(&mut self) {
        let defect = self.favoured;
        let needed: &[Fault] = match defect {
            Some(Defect::OldImageAccepted) => &[Fault::OldImage],
            Some(Defect::WipedDiskAccepted) => &[Fault::Wipe],
            Some(Defect::LeaseRead) => &[Fault::LeaseTrap],
            Some(Defect::LateAnswer) => &[Fault::Isolate],
            Some(Defect::LeaderRestore) => &[Fault::FastLeaderRestart],
            Some(_) | None => &[],
        };
        if defect == Some(Defect::LateAnswer) {
            // Single calls are answered before the next one is sent.
            self.unary_appends = false;
            self.faults.clear();
        }
        if defect == Some(Defect::LeaseRead) {
            // A read must come while the new leader has written and the old one still counts on
            // its lease: other faults end the one or the other.
            self.faults.clear();
        }
        match defect {
            // What clients see of it is another rule's.
            Some(Defect::TakeOverAtOnce) => (self.sessions, self.doubled) = (false, 0),
            Some(Defect::ClockRateIgnored) => {
                self.skewed_clocks = true;
                self.faults.clear();
            }
            Some(Defect::DeadlineFromAnswer) => self.faults.clear(),
            Some(Defect::RenewalNotConfirmed) => {
                self.faults = vec![Fault::Isolate];
                self.fault_pause_ms = 6_000;
            }
            Some(_) | None => {}
        }
        for fault in needed {
            if !self.faults.contains(fault) {
                self.faults.push(*fault);
            }
        }
    }

    /// Whether the group is lost in this run, and restored from a snapshot.
    pub fn restores(&self) -> bool {
        let placement = self.placement.as_ref();
        placement.is_some_and(|placement| placement.restores)
    }

    /// The fastest rate of a member's clock.
    pub fn fastest_clock(&self) -> u64 {
        if self.skewed_clocks {
            FASTEST_CLOCK
        } else {
            RIGHT_RATE
        }
    }

    /// The rate of a member's clock.
    pub fn clock_rate(&self, rng: &mut Rng) -> u64 {
        if self.favoured == Some(Defect::ClockRateIgnored) {
            FASTEST_CLOCK
        } else if self.skewed_clocks {
            rng.between(2 * RIGHT_RATE - FASTEST_CLOCK, FASTEST_CLOCK)
        } else {
            RIGHT_RATE
        }
    }

    /// openraft's settings: those of production with the times of this plan. Two things differ:
    /// logs are purged in small steps, because these logs are short, and a defect may be switched
    /// on.
    pub fn config(&self) -> Result<Config, String> {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let options = Options {
            name: String::new(),
            colo: String::new(),
            data_directory: PathBuf::new(),
            listen_peer: nowhere,
            advertise_peer: String::new(),
            client_addresses: Vec::new(),
            beginning: Beginning::Found(BTreeMap::new()),
            heartbeat: self.heartbeat,
            election: self.election,
            snapshot_entries: self.snapshot_entries,
            snapshot_bytes: u64::MAX,
            keep_entries: self.keep_entries,
            command_bytes_max: 1 << 20,
            request_timeout: crate::member::REQUEST_TIMEOUT,
            min_free_bytes: 0,
            danger_adopt_copied_data: false,
        };
        let mut config = raft_config(&options).map_err(|error| error.to_string())?;
        config.purge_batch_size = self.purge_batch;
        if self.defect == Some(Defect::LeaderRestore) {
            config.enable_leader_restore = Some(true);
        }
        Ok(config)
    }
}
