//! Everything of one run: hosts, network, rules, history, counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cfgsvc::watch::commit::Commit;
use cfgsvc_core::placement::{Name, RoleName};
use cluster::types::LogId;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, ServerState};

use crate::agents::machine::{FIRST_ID, Machine};
use crate::agents::resource::Resources;
use crate::agents::view::{View, placed};
use crate::disk::Crash;
use crate::history::History;
use crate::host::{Host, Out, Process};
use crate::invariants::{Checks, Program};
use crate::links::Links;
use crate::member::Member;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::runtime::{Life, lock, world_time};
use crate::state::{INSTALL_BROKEN, StateDisk, StateObserver};
use crate::trace::Trace;

/// Ids of members of one group are less than this apart.
const GROUP_IDS: u64 = 100;

/// One run's world.
pub struct World {
    /// What was decided before.
    pub plan: Plan,
    /// The network.
    pub links: Mutex<Links>,
    /// What clients were told.
    pub oracle: Mutex<Oracle>,
    /// What all members must agree on.
    pub history: Mutex<History>,
    /// What the group has said of roles.
    pub placement: Mutex<View>,
    /// What programs write to.
    pub resources: Mutex<Resources>,
    config: Arc<Config>,
    hosts: Mutex<BTreeMap<u64, Arc<Host>>>,
    machines: Mutex<BTreeMap<Name, Arc<Machine>>>,
    programs: AtomicU64,
    checks: Mutex<Checks>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    trace: Mutex<Trace>,
    failure: Mutex<Option<String>>,
    healing: AtomicBool,
    calm: AtomicBool,
    settled: AtomicBool,
    /// Groups that were lost.
    lost: AtomicU64,
    /// Hosts and operators are kept away from the group.
    closed: AtomicBool,
    /// A group that is to be lost has not been restored yet.
    replacing: AtomicBool,
    rng: Mutex<Rng>,
}

struct HostObserver {
    world: Arc<World>,
    member: u64,
}

impl StateObserver for HostObserver {
    fn committed(&self, applied: Option<LogId>, hash: u64) {
        let index = applied.map_or(0, |id| id.index());
        let text = format!("member {} applied {index} hash {hash:016x}", self.member);
        self.world.event(&text);
        self.world
            .check(|checks| checks.applied(self.member, applied, hash));
    }
}

impl World {
    /// An empty world.
    pub fn new(plan: Plan, keep_trace: bool) -> Result<Arc<Self>, String> {
        let mut rng = Rng::new(plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut links = Links::new(rng.fork());
        links.loss = plan.loss;
        links.doubled = plan.doubled;
        links.delay_us = plan.delay_us;
        Ok(Arc::new(Self {
            config: Arc::new(plan.config()?),
            lost: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            replacing: AtomicBool::new(plan.restores()),
            plan,
            links: Mutex::new(links),
            oracle: Mutex::default(),
            history: Mutex::default(),
            placement: Mutex::default(),
            resources: Mutex::default(),
            hosts: Mutex::default(),
            machines: Mutex::default(),
            programs: AtomicU64::new(0),
            checks: Mutex::default(),
            counts: Mutex::default(),
            trace: Mutex::new(Trace::new(keep_trace)),
            failure: Mutex::default(),
            healing: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            rng: Mutex::new(rng),
        }))
    }

    /// A source of chance of its own.
    pub fn fork_rng(&self) -> Rng {
        lock(&self.rng).fork()
    }

    // === what happened ===

    /// Counts something that happened.
    pub fn count(&self, what: &'static str) {
        *lock(&self.counts).entry(what).or_default() += 1;
    }

    /// All counts.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.counts).clone()
    }

    /// Adds to the trace.
    pub fn event(&self, text: &str) {
        lock(&self.trace).event(world_time(), text);
    }

    /// Hash and lines of the trace.
    pub fn trace(&self) -> (u64, u64, Vec<String>) {
        let trace = lock(&self.trace);
        (trace.hash(), trace.count(), trace.lines())
    }

    /// Ends the run: something is wrong.
    pub fn fail(&self, why: impl Into<String>) {
        let why = why.into();
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            lock(&self.trace).event(world_time(), &format!("FAILED {why}"));
            *failure = Some(why);
        }
    }

    /// All faults stop.
    pub fn heal(&self) {
        self.healing.store(true, Ordering::Relaxed);
    }

    /// Whether they have.
    pub fn healing(&self) -> bool {
        self.healing.load(Ordering::Relaxed)
    }

    /// The operator has said the last word about roles.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Whether that is so.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// The group is whole again and nobody writes any more.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// What is wrong, if anything.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Applies rules; a broken one ends the run.
    pub fn check(&self, rules: impl FnOnce(&mut Checks) -> Result<(), String>) {
        let result = rules(&mut lock(&self.checks));
        if let Err(why) = result {
            self.fail(why);
        }
    }

    /// Asks the rules for a figure.
    pub fn checks<T>(&self, ask: impl FnOnce(&Checks) -> T) -> T {
        ask(&lock(&self.checks))
    }

    /// Checks an answer that a client got.
    pub fn judge(&self, rule: impl FnOnce(&mut Oracle, &History) -> Result<(), String>) {
        let result = rule(&mut lock(&self.oracle), &lock(&self.history));
        if let Err(why) = result {
            self.fail(why);
        }
    }

    /// A member published a revision.
    pub fn published(&self, member: u64, commit: &Commit) {
        self.event(&format!("member {member} published {}", commit.revision));
        self.check(|checks| checks.published(member, commit.revision));
        let result = lock(&self.history).published(member, commit);
        match result {
            Ok(true) => self.placed(commit),
            Ok(false) => {}
            Err(why) => self.fail(why),
        }
    }

    fn placed(&self, commit: &Commit) {
        match placed(commit) {
            Ok(placed) => {
                for one in &placed {
                    self.event(&one.to_string());
                }
                lock(&self.placement).take(&placed);
                self.check(|checks| checks.placed(commit.revision, &placed));
            }
            Err(why) => self.fail(why),
        }
    }

    // === hosts with agents ===

    /// Adds the machines of the plan, each with a clock of its own rate.
    pub fn add_machines(&self) {
        let Some(placement) = &self.plan.placement else {
            return;
        };
        for number in 1..=placement.hosts {
            let mut rng = self.fork_rng();
            let machine = Machine::new(number, placement.clock_rate(&mut rng), rng);
            lock(&self.machines).insert(machine.name.clone(), machine);
        }
    }

    /// All of them.
    pub fn machines(&self) -> Vec<Arc<Machine>> {
        lock(&self.machines).values().cloned().collect()
    }

    /// One of them.
    pub fn machine(&self, name: &Name) -> Option<Arc<Machine>> {
        lock(&self.machines).get(name).cloned()
    }

    /// A program that has not started.
    pub fn new_program(&self, role: &RoleName, host: &Name, epoch: i64) -> Program {
        Program {
            role: role.clone(),
            host: host.clone(),
            epoch,
            number: self.programs.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }

    /// How long programs live at most before they end by themselves; `None` when they do not.
    pub fn program_life(&self) -> Option<Duration> {
        let placement = self.plan.placement.as_ref()?;
        (!self.healing()).then_some(placement.program_life)
    }

    // === another group ===

    /// Ids of the members that found the group.
    pub fn founders(&self) -> std::ops::RangeInclusive<u64> {
        let first = self.lost.load(Ordering::Relaxed) * GROUP_IDS;
        first + 1..=first + self.plan.founders
    }

    /// All members end for good, and what they have stored is lost.
    pub fn lose_group(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for host in self.hosts() {
            host.set_out(Out::Removed);
            self.crash(host.id, Crash::Power, "the group is lost");
        }
        lock(&self.hosts).clear();
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.count("group lost");
        self.event("the group is lost");
        self.check(|checks| {
            checks.group_lost();
            Ok(())
        });
        *lock(&self.history) = History::default();
        *lock(&self.placement) = View::default();
    }

    /// New members with empty disks, which hosts do not reach yet.
    pub fn found_group(self: &Arc<Self>) {
        for id in self.founders() {
            let host = self.add_host(id);
            self.start(&host);
        }
    }

    /// Hosts reach the group.
    pub fn admit_hosts(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }

    /// Whether messages of this sender are kept away.
    pub fn keeps_away(&self, from: u64) -> bool {
        self.closed.load(Ordering::Relaxed) && from >= FIRST_ID
    }

    /// The group is whole: operators write again.
    pub fn open_group(&self) {
        self.admit_hosts();
        self.replacing.store(false, Ordering::Relaxed);
    }

    /// Whether the group is lost, and not restored yet.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) > 0 && self.is_replacing()
    }

    /// Whether the group is still to be lost and restored.
    pub fn is_replacing(&self) -> bool {
        self.replacing.load(Ordering::Relaxed)
    }

    /// A member has applied the end of a restore, which goes on after `revision`.
    pub fn restored(&self, member: u64, revision: i64) {
        self.event(&format!("member {member} is restored, to {revision}"));
        let first = lock(&self.history).jumps(revision);
        self.check(|checks| {
            checks.loaded(member, revision);
            if first {
                checks.group_restored()
            } else {
                Ok(())
            }
        });
        if first {
            self.count("group restored");
        }
    }

    // === hosts ===

    /// Adds a machine with empty disks.
    pub fn add_host(self: &Arc<Self>, id: u64) -> Arc<Host> {
        let observer = Arc::new(HostObserver {
            world: self.clone(),
            member: id,
        });
        let state = Arc::new(StateDisk::new(id, observer, self.plan.defect));
        let mut rng = self.fork_rng();
        let rate = self.plan.clock_rate(&mut rng);
        let host = Host::new(id, rate, state, rng);
        lock(&self.hosts).insert(id, host.clone());
        host
    }

    /// All machines.
    pub fn hosts(&self) -> Vec<Arc<Host>> {
        lock(&self.hosts).values().cloned().collect()
    }

    /// A machine.
    pub fn host(&self, id: u64) -> Option<Arc<Host>> {
        lock(&self.hosts).get(&id).cloned()
    }

    /// The member that runs on a machine.
    pub fn member(&self, id: u64) -> Option<Member> {
        let member = self.host(id)?.member()?;
        (!member.life().ended()).then_some(member)
    }

    /// All members that run.
    pub fn members(&self) -> Vec<Member> {
        let hosts = self.hosts();
        hosts
            .iter()
            .filter_map(|host| self.member(host.id))
            .collect()
    }

    /// The member that leads the highest term.
    pub fn leader(&self) -> Option<Member> {
        // A leader that was restarted remembers that it led, until another does.
        let leads = |member: &Member| member.metrics().state == ServerState::Leader;
        let leading = self.members().into_iter().filter(Member::leads);
        let leading = leading.filter(leads);
        leading.max_by_key(|member| member.raft().metrics().borrow_watched().current_term)
    }

    /// Starts the process of a machine.
    pub fn start(self: &Arc<Self>, host: &Arc<Host>) {
        let life = Life::new(host.id, host.clock());
        host.set_process(Some(Process {
            life: life.clone(),
            member: None,
        }));
        self.event(&format!("member {} starts", host.id));
        let (world, host) = (self.clone(), host.clone());
        life.clone().spawn(async move {
            let config = world.config.clone();
            match Member::start(world.clone(), host.clone(), life.clone(), config).await {
                Ok(member) => host.set_member(&life, member),
                // A snapshot that was received whole is installed at the start.
                Err(why) if why.contains(INSTALL_BROKEN) => {
                    world.count("member stopped by its storage");
                    world.crash(host.id, Crash::Kill, "in an install at its start");
                }
                Err(why) => world.fail(format!("member {} cannot start: {why}", host.id)),
            }
        });
    }

    /// Ends the process of a machine, or the machine's power.
    pub fn crash(&self, id: u64, crash: Crash, why: &str) {
        let Some(host) = self.host(id) else { return };
        let Some(process) = host.set_process(None) else {
            return;
        };
        process.life.end();
        match host.crash_disks(crash) {
            Ok(lost) => {
                self.count(match crash {
                    Crash::Kill => "process killed",
                    Crash::Power => "power lost",
                });
                if lost > 0 {
                    self.count("log batch lost with the power");
                }
                self.event(&format!(
                    "member {id} crashed: {crash:?} {why}, {lost} batches lost"
                ));
            }
            Err(error) => self.fail(format!("simulated disk: {error}")),
        }
    }

    /// Takes everything apart: the parts hold each other.
    pub fn clear(&self) {
        for host in self.hosts() {
            if let Some(process) = host.set_process(None) {
                process.life.end();
            }
        }
        for machine in self.machines() {
            machine.clear();
        }
        lock(&self.machines).clear();
        lock(&self.hosts).clear();
        lock(&self.links).clear();
    }
}
